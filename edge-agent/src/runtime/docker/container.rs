//! Makes containers and volumes, each with our labels, and reads the labels back where the engine would not refuse.
use super::{Docker, failed, gone_is_fine, host_labels, is_ours};
use crate::runtime::{ContainerSpec, Done, MountSpec, Place, RuntimeError, VolumePurpose, labels, names::Names};
use bollard::{
    errors::Error,
    models::{
        ContainerCreateBody, EndpointSettings, HealthConfig, HostConfig, HostConfigLogConfig, Mount, MountType,
        MountVolumeOptions, NetworkConnectRequest, NetworkDisconnectRequest, NetworkingConfig, PortBinding, PortMap,
        RestartPolicy, RestartPolicyNameEnum, VolumeCreateRequest,
    },
    query_parameters as query,
};
use redforge_shared::{desired::Port, ids::Name};
use std::collections::HashMap;

/// The name under which instances find the agent.
const GATEWAY_NAME: &str = "redforge-gateway";

impl Docker {
    pub(super) async fn make_container(&self, names: &Names, place: Place<'_>, spec: &ContainerSpec) -> Done<()> {
        let client = self.client().await?;
        let name = names.container(place.instance, place.replica);
        let options = query::CreateContainerOptions { name: Some(name.clone()), ..Default::default() };
        let mut body = body(names, place, spec);
        // The agent itself, by a name: where the bridge is lives as long as the network that the container is on.
        if let Some(gateway) = self.gateway(names).await?
            && let Some(host) = &mut body.host_config
        {
            host.extra_hosts = Some(vec![format!("{GATEWAY_NAME}:{gateway}")]);
        }
        match client.create_container(Some(options), body).await {
            Ok(_) => Ok(()),
            // Taken: by the container of an earlier, interrupted pass, or by somebody else.
            Err(Error::DockerResponseServerError { status_code: 409, .. }) => {
                let there = client.inspect_container(&name, None::<query::InspectContainerOptions>).await;
                let there = there.map_err(|e| failed("inspect", &name, e))?;
                let found = there.config.and_then(|c| c.labels);
                let same = found.as_ref().and_then(|l| l.get(labels::CONTAINER_HASH)) == Some(&place.hash.hex());
                if is_ours(names, found.as_ref()) && same { Ok(()) } else { Err(RuntimeError::Foreign { name }) }
            }
            // Of everything that a create names, only the image may be unknown without us having looked.
            Err(e @ Error::DockerResponseServerError { status_code: 404, .. }) if e.to_string().contains("image") => {
                Err(RuntimeError::ImageMissing { reference: spec.image_id.clone(), source: Box::new(e) })
            }
            Err(e) => Err(failed("create", &name, e)),
        }
    }

    pub(super) async fn join_outside(&self, names: &Names, container: &str) -> Done<()> {
        let request = NetworkConnectRequest { container: container.into(), ..Default::default() };
        match self.client().await?.connect_network(&names.outside(), request).await {
            Ok(()) => Ok(()),
            // The second is podman's.
            Err(Error::DockerResponseServerError { message, .. })
                if message.contains("already exists in network")
                    || message.contains("is already connected to network") =>
            {
                Ok(())
            }
            Err(e) => Err(failed("connect", container, e)),
        }
    }

    /// The engine gives no second name on a network: the container leaves it for a moment. What was connected breaks.
    pub(super) async fn join_under_name(&self, names: &Names, instance: &Name, container: &str) -> Done<()> {
        let client = self.client().await?;
        let leave = NetworkDisconnectRequest { container: container.into(), force: Some(false) };
        match client.disconnect_network(names.network(), leave).await {
            Ok(()) => {}
            // An earlier pass ended in between.
            Err(Error::DockerResponseServerError { message, .. }) if message.contains("is not connected") => {}
            Err(e) => return Err(failed("rename", container, e)),
        }
        let endpoint = EndpointSettings { aliases: Some(vec![instance.to_string()]), ..Default::default() };
        let join = NetworkConnectRequest { container: container.into(), endpoint_config: Some(endpoint) };
        client.connect_network(names.network(), join).await.map_err(|e| failed("rename", container, e))
    }

    pub(super) async fn make_volume(
        &self,
        names: &Names,
        name: &str,
        instance: &Name,
        purpose: VolumePurpose,
    ) -> Done<()> {
        let mut labels = host_labels(names);
        labels.insert(labels::INSTANCE.into(), instance.to_string());
        labels.insert(labels::VOLUME.into(), purpose.as_str().into());
        let mut birth = [0; 8];
        aws_lc_rs::rand::fill(&mut birth).expect("the system has random bytes");
        labels.insert(labels::BIRTH.into(), hex::encode(birth));
        let request = VolumeCreateRequest { name: Some(name.into()), labels: Some(labels), ..Default::default() };
        let made = self.client().await?.create_volume(request).await.map_err(|e| failed("create", name, e))?;
        // Creating a name that is taken gives back whatever bears it.
        if is_ours(names, Some(&made.labels)) { Ok(()) } else { Err(RuntimeError::Foreign { name: name.into() }) }
    }

    pub(super) async fn drop_volume(&self, names: &Names, name: &str) -> Done<()> {
        let client = self.client().await?;
        let there = match client.inspect_volume(name).await {
            Ok(volume) => volume,
            Err(e) => return gone_is_fine(Err(failed("inspect", name, e))),
        };
        if !is_ours(names, Some(&there.labels)) {
            return Err(RuntimeError::Foreign { name: name.into() });
        }
        let removed = client.remove_volume(name, None::<query::RemoveVolumeOptions>).await;
        gone_is_fine(removed.map_err(|e| failed("remove", name, e)))
    }
}

fn body(names: &Names, place: Place<'_>, spec: &ContainerSpec) -> ContainerCreateBody {
    let mut labels = host_labels(names);
    let instance = place.instance;
    labels.insert(labels::INSTANCE.into(), instance.to_string());
    labels.insert(labels::REPLICA.into(), place.replica.to_string());
    labels.insert(labels::CONTAINER_HASH.into(), place.hash.hex());
    let aliases = place.named.then(|| vec![instance.to_string()]);
    let endpoint = EndpointSettings { aliases, ..Default::default() };
    ContainerCreateBody {
        // Engines from 25 on resolve hostnames too: one that is not to be found under the name must not bear it.
        hostname: Some(if place.named { instance.to_string() } else { format!("replica-{}", place.replica) }),
        image: Some(spec.image_id.clone()),
        cmd: (!spec.command.is_empty()).then(|| spec.command.clone()),
        env: Some(env(spec)),
        user: spec.user.clone(),
        exposed_ports: Some(spec.ports.iter().map(port_key).collect()),
        // Our own probes ask the workload; the image's would run a process in the container every few seconds.
        healthcheck: Some(HealthConfig { test: Some(vec!["NONE".into()]), ..Default::default() }),
        stop_timeout: Some(i64::from(spec.stop_timeout_s)),
        labels: Some(labels),
        host_config: Some(host_config(names, spec)),
        // One endpoint only: engines before API 1.44 refuse a second one at create.
        networking_config: Some(NetworkingConfig {
            endpoints_config: Some(HashMap::from([(names.network().to_owned(), endpoint)])),
        }),
        ..Default::default()
    }
}

fn env(spec: &ContainerSpec) -> Vec<String> {
    let plain = spec.env.iter().map(|(k, v)| format!("{k}={v}"));
    // Of two with one name the later one would win: what the agent gives stays.
    let secrets = spec.secret_env.iter().filter(|(k, _)| !spec.env.contains_key(*k));
    plain.chain(secrets.map(|(k, s)| format!("{k}={}", s.value))).collect()
}

/// Where programs put what they forget: in memory, counted as the container's, and nothing in it can be run.
const SCRATCH: &str = "rw,noexec,nosuid,nodev,size=128m,mode=1777";

fn host_config(names: &Names, spec: &ContainerSpec) -> HostConfig {
    let memory = spec.memory_bytes.map(|b| b as i64);
    HostConfig {
        memory,
        // Equal to memory: no swap on top, so that the limit is the limit.
        memory_swap: memory,
        nano_cpus: spec.cpu_millicores.map(|m| i64::from(m) * 1_000_000),
        pids_limit: spec.pids.map(i64::from),
        cap_drop: Some(vec!["ALL".into()]),
        cap_add: Some(spec.capabilities.clone()),
        readonly_rootfs: Some(spec.read_only_root),
        tmpfs: spec.read_only_root.then(|| HashMap::from([("/tmp".into(), SCRATCH.into())])),
        security_opt: Some(vec!["no-new-privileges:true".into()]),
        // Containers outlive the agent, and the engine brings them back after a reboot before the agent is up.
        restart_policy: Some(RestartPolicy { name: Some(RestartPolicyNameEnum::UNLESS_STOPPED), ..Default::default() }),
        log_config: Some(HostConfigLogConfig {
            typ: Some("json-file".into()),
            config: Some(HashMap::from([("max-size".into(), "10m".into()), ("max-file".into(), "3".into())])),
        }),
        network_mode: Some(names.network().into()),
        port_bindings: Some(port_bindings(&spec.ports)),
        mounts: Some(spec.mounts.iter().map(mount).collect()),
        ..Default::default()
    }
}

pub(super) fn mount(m: &MountSpec) -> Mount {
    Mount {
        target: Some(m.path.clone()),
        source: Some(m.volume.clone()),
        typ: Some(MountType::VOLUME),
        read_only: Some(m.read_only),
        volume_options: Some(MountVolumeOptions { no_copy: Some(m.read_only), ..Default::default() }),
        ..Default::default()
    }
}

fn port_key(p: &Port) -> String {
    format!("{}/{}", p.container, p.protocol.as_str())
}

fn port_bindings(ports: &[Port]) -> PortMap {
    let mut map = PortMap::new();
    for p in ports {
        let binding = PortBinding { host_ip: Some(p.address.to_string()), host_port: Some(p.host.to_string()) };
        map.entry(port_key(p)).or_default().get_or_insert_default().push(binding);
    }
    map
}

#[cfg(test)]
mod tests;
