//! Reduces what is desired and what was seen to the plain data that planning reads, and statuses to the host's one.
use super::{
    choose::Chosen,
    observe::{AppSeen, FlowSets},
    plan::{
        self, Blueprint, FlowsSeen, Found, Life, Purpose, Shape, VolumeFound, Wanted,
        room::{Capacity, Claim},
    },
    scaling::Counts,
};
use crate::{
    db::ledger::{AcceptedDesired, Site},
    runtime::{ContainerSeen, ContainerState, HostSeen, VolumePurpose, names::Names},
    workload::{
        self, Rendered, Unmet,
        ollama::{self, ModelState},
        valkey::CacheSeen,
    },
};
use redforge_shared::{
    desired::{DesiredState, Drift, InstanceSpec, Workload},
    flows,
    ids::{Digest, Name},
    report::{Health, HostStatus, InstanceStatus, Sync},
};
use std::collections::{BTreeMap, BTreeSet};

/// What planning may know of the wish.
pub fn desired(
    names: &Names,
    chosen: &Chosen,
    site: &Site,
    (rendered, unmet): (&BTreeMap<Name, Rendered>, &BTreeMap<Name, Unmet>),
    waits: &BTreeMap<Name, Name>,
    (counts, capacity): (&Counts, Option<Capacity>),
) -> plan::Desired {
    let state = &chosen.state;
    let wanted = |spec: &InstanceSpec| Wanted {
        name: spec.name.clone(),
        spec: chosen.identity(spec, site),
        rank: workload::rank(&spec.workload),
        hold: site.hold(&spec.name).is_some(),
        suspend: spec.suspend,
        image: spec.image.clone(),
        blueprint: match (rendered.get(&spec.name), unmet.contains_key(&spec.name)) {
            (Some(r), _) => Blueprint::Ready(Box::new(shape(names, spec, r, counts.of(spec)))),
            (None, true) => Blueprint::Unmet,
            (None, false) => Blueprint::NoImage,
        },
        flow_set: spec.flow_set(),
        clears: matches!((&spec.workload, spec.flow_set()), (Workload::NodeRed(_), None)).then(|| flows::nothing().0),
        drift: drift(spec),
        waits: waits.get(&spec.name).cloned(),
        // `survey` looks later.
        refused: false,
    };
    plan::Desired {
        network: names.network().into(),
        outside: names.outside(),
        held: plan::Held { host: site.host.is_some(), instances: site.holds.keys().cloned().collect() },
        instances: state.instances.iter().map(wanted).collect(),
        capacity,
    }
}

/// What happens to what somebody changed at the host.
pub fn drift(spec: &InstanceSpec) -> Drift {
    match &spec.workload {
        Workload::NodeRed(w) => w.drift,
        _ => Drift::Enforce,
    }
}

/// Where a runtime keeps its flows: the volume that its container mounts, else the container itself.
pub fn home_of(c: &ContainerSeen, homes: &BTreeMap<Name, String>) -> String {
    let mounted = |home: &&String| home.split(' ').next().is_some_and(|volume| c.volumes.contains(volume));
    homes.get(&c.instance).filter(mounted).unwrap_or(&c.id).clone()
}

/// Was this flow set given to the runtime in this container: is another content there an edit?
pub fn was_given(
    given: &BTreeMap<Name, plan::GivenAt>,
    c: &ContainerSeen,
    digest: Digest,
    homes: &BTreeMap<Name, String>,
) -> bool {
    last_given(given, c, homes).is_some_and(|g| g.is(digest))
}

/// What the runtime in this container was given last.
pub fn last_given<'a>(
    given: &'a BTreeMap<Name, plan::GivenAt>,
    c: &ContainerSeen,
    homes: &BTreeMap<Name, String>,
) -> Option<&'a plan::Given> {
    given.get(&c.instance)?.get(&home_of(c, homes))
}

fn shape(names: &Names, spec: &InstanceSpec, r: &Rendered, replicas: u32) -> Shape {
    let numbers = || 0..=replicas.max(1);
    Shape {
        slots: numbers().map(|n| names.container(&spec.name, n)).collect(),
        replicas,
        replicated: spec.is_replicated(),
        claim: claim(spec),
        own: numbers().map(|n| r.own.iter().map(|v| Names::replica_volume(v, n)).collect()).collect(),
        hash: r.container.hash().hex(),
        outside: r.container.outside,
        // Files that are rewritten while they are used belong to one container too.
        exclusive: !r.data.is_empty() || r.live.is_some() || !r.container.ports.is_empty(),
        data: r.data.clone(),
        config: r.config.as_ref().map(|f| f.volume.clone()),
        config_hash: r.config_hash(),
        modules: r.modules.clone(),
        live: r.live.as_ref().map(|f| f.volume.clone()),
        live_hash: r.live_hash(),
        tells: matches!(spec.workload, Workload::Valkey(_) | Workload::Redis(_)),
    }
}

/// What one container of it may use.
pub fn claim(spec: &InstanceSpec) -> Claim {
    let cpu_millicores = spec.resources.cpu_millicores.unwrap_or(0);
    Claim { cpu_millicores, memory_bytes: spec.resources.memory_bytes.unwrap_or(0) }
}

/// What planning may know of the host; `ready` are the containers that do what their spec asks for.
pub fn actual(
    state: &DesiredState,
    seen: &HostSeen,
    apps: &BTreeMap<String, AppSeen>,
    flow_sets: &FlowSets,
    homes: &BTreeMap<Name, String>,
    ready: &BTreeSet<String>,
) -> plan::Actual {
    let ours = seen.containers.iter().filter(|c| c.state != ContainerState::Removing);
    let mut actual = plan::Actual {
        networks: seen.networks.keys().cloned().collect(),
        containers: ours.map(|c| found(c, homes, ready)).collect(),
        volumes: seen.volumes.iter().map(|(n, v)| (n.clone(), volume(&v.instance, v.purpose))).collect(),
        helpers: seen.helpers.clone(),
        foreign: seen.foreign.clone(),
        homes: homes.clone(),
        flow_sets: flow_sets.iter().map(|(d, f)| (*d, f.hash)).collect(),
        ..plan::Actual::default()
    };
    for (id, app) in apps {
        match app {
            AppSeen::NodeRed(s) => {
                actual.config.extend(s.config.map(|hash| (id.clone(), hash)));
                actual.modules.extend(s.modules.map(|hash| (id.clone(), hash)));
                let Some(c) = seen.containers.iter().find(|c| c.id == *id).filter(|_| s.answers) else { continue };
                let stopped = s.runtime.as_ref().is_some_and(|r| r.state == "stop" && r.error.is_none());
                let flows = FlowsSeen {
                    hash: s.hash,
                    rev: s.rev.clone().unwrap_or_default(),
                    stopped,
                    credentials_wrong: s.credentials_wrong,
                    credentials_held: s.credentials_held,
                    home: home_of(c, homes),
                };
                actual.flows.insert(id.clone(), flows);
            }
            AppSeen::Mosquitto { live: Some(live), .. } | AppSeen::Cache(CacheSeen { live: Some(live), .. }) => {
                actual.live.insert(id.clone(), *live);
            }
            AppSeen::Ollama(Some(server)) => {
                let instance = seen.containers.iter().find(|c| c.id == *id).map(|c| c.instance.as_str());
                if let Some(Workload::Ollama(o)) = instance.and_then(|i| state.instance(i)).map(|s| &s.workload) {
                    let lacking = o.models.iter().filter(|m| ollama::state(m, &server.held) != ModelState::Right);
                    actual.models_lacking.insert(id.clone(), lacking.map(|m| m.name.clone()).collect());
                    let idle = ollama::not_loaded(&o.models, server);
                    actual.models_unloaded.insert(id.clone(), idle.map(|m| m.name.clone()).collect());
                }
            }
            AppSeen::Mosquitto { .. }
            | AppSeen::Ollama(None)
            | AppSeen::Cache(_)
            | AppSeen::Tika { .. }
            | AppSeen::Container => {}
        }
    }
    actual
}

fn found(c: &ContainerSeen, homes: &BTreeMap<Name, String>, ready: &BTreeSet<String>) -> Found {
    Found {
        home: if homes.contains_key(&c.instance) { home_of(c, homes) } else { String::new() },
        id: c.id.clone(),
        name: c.name.clone(),
        instance: c.instance.clone(),
        replica: c.replica,
        claim: Claim { cpu_millicores: c.cpu_limit_millicores, memory_bytes: c.memory_limit_bytes },
        hash: c.hash.clone(),
        life: match c.state {
            ContainerState::Created | ContainerState::Exited => Life::Down,
            ContainerState::Running => Life::Running,
            ContainerState::Paused => Life::Paused,
            ContainerState::Restarting => Life::Between,
            ContainerState::Dead | ContainerState::Removing => Life::Dead,
        },
        // The engine writes a time before all times.
        started_at: if c.state == ContainerState::Created { String::new() } else { c.started_at.clone() },
        outside: c.outside,
        named: c.named,
        ready: ready.contains(&c.id),
        volumes: c.volumes.clone(),
    }
}

fn volume(instance: &Name, purpose: VolumePurpose) -> VolumeFound {
    let purpose = match purpose {
        VolumePurpose::Config => Purpose::Config,
        VolumePurpose::Live => Purpose::Live,
        VolumePurpose::Data => Purpose::Data,
    };
    VolumeFound { instance: instance.clone(), purpose }
}

/// How bad a status is: the worst is the last.
pub fn rank(health: Health, sync: Sync) -> (usize, usize) {
    let healths = [Health::Healthy, Health::Unknown, Health::Degraded, Health::Error];
    let syncs = [Sync::UpToDate, Sync::Paused, Sync::Updating, Sync::OutOfDate, Sync::Drifted, Sync::RolledBack];
    let health = healths.iter().position(|x| *x == health).unwrap_or(healths.len());
    (health, syncs.iter().position(|x| *x == sync).unwrap_or(syncs.len()))
}

/// The host is as well, and as far, as the worst of its instances. `leaving`: containers that nobody wants any more are
/// still there, on their way out or held.
pub fn host_status(accepted: &AcceptedDesired, instances: Vec<InstanceStatus>, leaving: Option<Sync>) -> HostStatus {
    let worst = instances.iter().max_by_key(|i| rank(i.health, i.sync));
    let explains = worst.filter(|w| w.health != Health::Healthy || w.sync != Sync::UpToDate);
    HostStatus {
        generation: accepted.generation,
        spec_sha256: Some(accepted.sha256),
        health: worst.map_or(Health::Healthy, |w| w.health),
        sync: instances
            .iter()
            .map(|i| i.sync)
            .chain(leaving)
            .max_by_key(|s| rank(Health::Healthy, *s))
            .unwrap_or(Sync::UpToDate),
        reason: explains.and_then(|w| w.reason),
        names: explains.map(|w| w.names.clone()).unwrap_or_default(),
        instances,
        clean_up: Default::default(),
    }
}
