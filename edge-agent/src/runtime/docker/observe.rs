//! Reads everything of one host from the engine, and the names that others took.
use super::{Docker, failed, is_ours};
use crate::runtime::{
    ContainerSeen, ContainerState, Done, HostSeen, RuntimeError, VolumePurpose, VolumeSeen, labels, names::Names,
};
use bollard::{
    models::{ContainerInspectResponse, ContainerStateStatusEnum as Status, PortBinding, PortMap},
    query_parameters as query,
};
use redforge_shared::desired::{Port, Protocol};
use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv4Addr},
};

impl Docker {
    pub(super) async fn observe_host(&self, names: &Names) -> Done<HostSeen> {
        let mut seen = HostSeen::default();
        self.observe_networks(names, &mut seen).await?;
        self.observe_volumes(names, &mut seen).await?;
        self.observe_containers(names, &mut seen).await?;
        Ok(seen)
    }

    async fn observe_networks(&self, names: &Names, seen: &mut HostSeen) -> Done<()> {
        let options = query::ListNetworksOptions { filters: Some(name_filter(names)) };
        let all = self.client().await?.list_networks(Some(options)).await;
        for network in all.map_err(|e| failed("list", "networks", e))? {
            let name = network.name.unwrap_or_default();
            if !names.owns(&name) {
                continue;
            }
            if !is_ours(names, network.labels.as_ref()) {
                seen.foreign.insert(name);
                continue;
            }
            let subnet = network.ipam.and_then(|i| i.config).and_then(|c| c.into_iter().next()).and_then(|c| c.subnet);
            seen.networks.insert(name, subnet.unwrap_or_default());
        }
        Ok(())
    }

    async fn observe_volumes(&self, names: &Names, seen: &mut HostSeen) -> Done<()> {
        let options = query::ListVolumesOptions { filters: Some(name_filter(names)) };
        let all = self.client().await?.list_volumes(Some(options)).await;
        for volume in all.map_err(|e| failed("list", "volumes", e))?.volumes.unwrap_or_default() {
            if !names.owns(&volume.name) {
                continue;
            }
            let instance = volume.labels.get(labels::INSTANCE).and_then(|i| i.parse().ok());
            let purpose = volume.labels.get(labels::VOLUME).and_then(|p| VolumePurpose::from_word(p));
            match (is_ours(names, Some(&volume.labels)), instance, purpose) {
                (true, Some(instance), Some(purpose)) => {
                    let birth = volume.labels.get(labels::BIRTH).cloned().unwrap_or_default();
                    seen.volumes.insert(volume.name, VolumeSeen { birth, instance, purpose });
                }
                _ => {
                    seen.foreign.insert(volume.name);
                }
            }
        }
        Ok(())
    }

    async fn observe_containers(&self, names: &Names, seen: &mut HostSeen) -> Done<()> {
        let client = self.client().await?;
        // All of them: a container that somebody renamed is still ours, one that bears our name may be another's.
        let options = query::ListContainersOptions { all: true, ..Default::default() };
        for summary in client.list_containers(Some(options)).await.map_err(|e| failed("list", "containers", e))? {
            let id = summary.id.unwrap_or_default();
            if !is_ours(names, summary.labels.as_ref()) {
                let plain = summary.names.unwrap_or_default().into_iter().map(|n| n.trim_start_matches('/').to_owned());
                seen.foreign.extend(plain.filter(|n| names.owns(n)));
                continue;
            }
            if summary.labels.is_some_and(|l| l.contains_key(labels::HELPER)) {
                seen.helpers.push(id);
                continue;
            }
            match client.inspect_container(&id, None::<query::InspectContainerOptions>).await {
                Ok(inspected) => {
                    let ended = self.ends.of(&id);
                    seen.containers.extend(container(names, inspected).map(|c| ContainerSeen { ended, ..c }));
                }
                Err(e) => match failed("inspect", &id, e) {
                    // It went away between the two requests.
                    RuntimeError::NotFound { .. } => {}
                    other => return Err(other),
                },
            }
        }
        seen.containers.sort_by(|a, b| a.name.cmp(&b.name));
        seen.helpers.sort();
        Ok(())
    }
}

fn name_filter(names: &Names) -> HashMap<String, Vec<String>> {
    HashMap::from([("name".to_owned(), vec![names.network().to_owned()])])
}

/// None for a container that has our label and lacks the others: nothing of ours ever looks so.
fn container(names: &Names, c: ContainerInspectResponse) -> Option<ContainerSeen> {
    let labels: BTreeMap<_, _> = c.config.and_then(|c| c.labels)?.into_iter().collect();
    let state = c.state?;
    let host = c.host_config.unwrap_or_default();
    let networks = c.network_settings.and_then(|n| n.networks).unwrap_or_default();
    let inside = networks.get(names.network());
    let address = inside.and_then(|n| n.ip_address.as_deref()).and_then(|a| a.parse().ok());
    let instance = labels.get(labels::INSTANCE)?;
    Some(ContainerSeen {
        id: c.id?,
        name: c.name?.trim_start_matches('/').to_owned(),
        named: inside.and_then(|n| n.aliases.as_ref()).is_some_and(|a| a.contains(instance)),
        instance: instance.parse().ok()?,
        replica: labels.get(labels::REPLICA)?.parse().ok()?,
        hash: labels.get(labels::CONTAINER_HASH)?.clone(),
        state: match state.status? {
            Status::CREATED | Status::EMPTY => ContainerState::Created,
            Status::RUNNING | Status::STOPPING => ContainerState::Running,
            Status::PAUSED => ContainerState::Paused,
            Status::RESTARTING => ContainerState::Restarting,
            Status::REMOVING => ContainerState::Removing,
            Status::EXITED => ContainerState::Exited,
            Status::DEAD => ContainerState::Dead,
        },
        started_at: state.started_at.unwrap_or_default(),
        exit_code: state.exit_code.unwrap_or(0) as i32,
        oom_killed: state.oom_killed.unwrap_or(false),
        ended: None,
        restarts: u32::try_from(c.restart_count.unwrap_or(0)).unwrap_or(0),
        address,
        outside: networks.contains_key(&names.outside()),
        memory_limit_bytes: u64::try_from(host.memory.unwrap_or(0)).unwrap_or(0),
        cpu_limit_millicores: u32::try_from(host.nano_cpus.unwrap_or(0) / 1_000_000).unwrap_or(0),
        pids_limit: host.pids_limit.and_then(|p| u32::try_from(p).ok()).unwrap_or(0),
        volumes: c.mounts.unwrap_or_default().into_iter().filter_map(|m| m.name).collect(),
        ports: ports(host.port_bindings.unwrap_or_default()),
    })
}

fn ports(bindings: PortMap) -> Vec<Port> {
    let of = |(key, bound): (String, Option<Vec<PortBinding>>)| {
        let (container, protocol) = key.split_once('/').unwrap_or((&key, "tcp"));
        let protocol = if protocol == "udp" { Protocol::Udp } else { Protocol::Tcp };
        let container = container.parse().unwrap_or(0);
        let port = move |b: PortBinding| {
            let address = b.host_ip.and_then(|a| a.parse().ok()).unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
            Some(Port { container, host: b.host_port?.parse().ok()?, address, protocol })
        };
        bound.unwrap_or_default().into_iter().filter_map(port).collect::<Vec<_>>()
    };
    bindings.into_iter().flat_map(of).collect()
}
