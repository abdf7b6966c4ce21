//! Asks the workloads what they run: over their own APIs, at the address that their container has now.
use crate::{
    runtime::{ContainerSeen, ContainerState, HostSeen, Runtime},
    workload::{
        CONFIG_PATH, Files, Secrets, mosquitto, node_red, node_red::NodeRedSeen, ollama, ollama::OllamaSeen, probe,
        tika, valkey, valkey::CacheSeen,
    },
};
use futures_util::future::join_all;
use redforge_shared::{
    desired::{DesiredState, InstanceSpec, Workload},
    flows::FlowSet,
    ids::Digest,
};
use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

/// A workload that hangs tells nothing, and holds up the pass for no longer.
const PATIENCE: Duration = Duration::from_secs(6);

/// What one workload says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AppSeen {
    NodeRed(NodeRedSeen),
    /// None = no answer.
    Ollama(Option<OllamaSeen>),
    Mosquitto {
        accepts: bool,
        live: Option<Digest>,
    },
    Cache(CacheSeen),
    Tika {
        answers: bool,
    },
    /// Nobody is asked but its probe.
    Container,
}

/// Flow sets that lie on the host.
pub type FlowSets = BTreeMap<Digest, Arc<FlowSet>>;

/// Where running containers are reached now, by id.
pub fn addresses(seen: &HostSeen) -> BTreeMap<String, IpAddr> {
    seen.containers.iter().filter_map(|c| Some((c.id.clone(), c.address?))).collect()
}

/// Asks every running workload, all at once; by container.
pub async fn apps(
    runtime: &dyn Runtime,
    desired: &DesiredState,
    seen: &HostSeen,
    secrets: &Secrets,
    flow_sets: &FlowSets,
) -> BTreeMap<String, AppSeen> {
    let running = seen.containers.iter().filter(|c| c.state == ContainerState::Running);
    let asked = running.filter_map(|c| {
        let spec = desired.instance(c.instance.as_str())?;
        let asking = app(runtime, spec, c, secrets, flow_sets);
        Some(async { Some((c.id.clone(), tokio::time::timeout(PATIENCE, asking).await.ok()??)) })
    });
    join_all(asked).await.into_iter().flatten().collect()
}

async fn app(
    runtime: &dyn Runtime,
    spec: &InstanceSpec,
    c: &ContainerSeen,
    secrets: &Secrets,
    flow_sets: &FlowSets,
) -> Option<AppSeen> {
    let seen = match (&spec.workload, c.address) {
        (Workload::Mosquitto(_), address) => {
            let live = live_files(runtime, c, mosquitto::LIVE_PATH).await;
            AppSeen::Mosquitto { accepts: accepts(address, mosquitto::PORT).await, live }
        }
        (Workload::Valkey(w) | Workload::Redis(w), address) => {
            let files = live_files(runtime, c, valkey::LIVE_PATH).await;
            let (password, wanted) = (valkey::password(secrets, &spec.name), valkey::settings(spec, w));
            AppSeen::Cache(valkey::observe(address, &password, &wanted, files).await)
        }
        (Workload::Tika(_), address) => AppSeen::Tika { answers: tika::answers(address).await },
        (Workload::Container(_), _) => AppSeen::Container,
        (Workload::NodeRed(w), Some(address)) => {
            let set = w.flow_set.and_then(|d| flow_sets.get(&d)).map(|s| &**s);
            AppSeen::NodeRed(runs(runtime, spec, (c, address), secrets, set).await)
        }
        (Workload::Ollama(_), Some(address)) => AppSeen::Ollama(ollama::observe(address).await.ok()),
        (Workload::NodeRed(_) | Workload::Ollama(_), None) => return None,
    };
    Some(seen)
}

/// Hash of the live files. Unreadable is as good as wrong: they are written again.
async fn live_files(runtime: &dyn Runtime, c: &ContainerSeen, path: &str) -> Option<Digest> {
    let files = runtime.read_files(&c.id, path).await.ok()?;
    Some(Files::content_hash(files.iter().map(|(n, b)| (n.as_str(), b.as_slice()))))
}

/// What the runtime says that it runs, and what lies in its volumes.
async fn runs(
    runtime: &dyn Runtime,
    spec: &InstanceSpec,
    (c, address): (&ContainerSeen, IpAddr),
    secrets: &Secrets,
    set: Option<&FlowSet>,
) -> NodeRedSeen {
    let config = runtime.read_files(&c.id, CONFIG_PATH).await.ok();
    let files = config.as_ref().map(|files| files.iter().map(|(n, b)| (n.as_str(), b.as_slice())));
    // A file beside them is nobody's: only what is rendered is compared.
    let config = files.map(|files| Files::content_hash(files.filter(|(n, _)| node_red::CONFIG_FILES.contains(n))));
    let mut stored = None;
    if set.is_some_and(|s| !s.flows.broker_credentials().is_empty()) {
        // None yet, or not readable: then the admin API's word has to do.
        let files = runtime.read_files(&c.id, &format!("{}/{}", node_red::DATA_PATH, node_red::CREDENTIALS_FILE)).await;
        let bytes = files.ok().and_then(|mut files| files.remove(node_red::CREDENTIALS_FILE));
        stored = bytes.map(|b| node_red::credentials(secrets, &spec.name, &b));
    }
    let token = node_red::token(secrets, &spec.name);
    let seen = node_red::observe(address, &token, set, stored.as_ref()).await;
    NodeRedSeen { config, ..seen }
}

async fn accepts(address: Option<IpAddr>, port: u16) -> bool {
    match address {
        Some(address) => probe::accepts(address, port).await,
        None => false,
    }
}
