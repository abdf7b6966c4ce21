//! Asks the workloads what they run: over their own APIs, at the address that their container has now.
use crate::{
    runtime::{ContainerSeen, ContainerState, HostSeen, Runtime},
    workload::{
        Files, Secrets, mosquitto, node_red, node_red::NodeRedSeen, ollama, probe, tika, valkey, valkey::CacheSeen,
    },
};
use futures_util::future::join_all;
use redforge_shared::{
    desired::{DesiredState, InstanceSpec, Workload},
    flows::Flows,
    ids::Digest,
};
use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

/// A workload that hangs tells nothing, and holds up the pass for no longer.
const PATIENCE: Duration = Duration::from_secs(6);

/// What one workload says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AppSeen {
    NodeRed(NodeRedSeen),
    /// Held models by name; none = no answer.
    Ollama(Option<BTreeMap<String, String>>),
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
pub type FlowSets = BTreeMap<Digest, Arc<Flows>>;

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
            let flows = w.flow_set.and_then(|d| flow_sets.get(&d));
            let token = node_red::token(secrets, &spec.name);
            AppSeen::NodeRed(node_red::observe(address, &token, flows.map(|f| &**f)).await)
        }
        (Workload::Ollama(_), Some(address)) => AppSeen::Ollama(ollama::models(address).await.ok()),
        (Workload::NodeRed(_) | Workload::Ollama(_), None) => return None,
    };
    Some(seen)
}

/// Hash of the live files. Unreadable is as good as wrong: they are written again.
async fn live_files(runtime: &dyn Runtime, c: &ContainerSeen, path: &str) -> Option<Digest> {
    let files = runtime.read_files(&c.id, path).await.ok()?;
    Some(Files::content_hash(files.iter().map(|(n, b)| (n.as_str(), b.as_slice()))))
}

async fn accepts(address: Option<IpAddr>, port: u16) -> bool {
    match address {
        Some(address) => probe::accepts(address, port).await,
        None => false,
    }
}
