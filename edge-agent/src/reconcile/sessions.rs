//! Which brokers hold the agent's session, and who waits for one. Decided between looking and planning.
//!
//! A broker acknowledges what nobody subscribed to and forgets it. So an instance that is to use a broker is started for the
//! first time only when the agent's session is there, and that a session once lay in the broker's present volume is enough:
//! the broker keeps it over its restarts. Making the session is `collect`'s.
use super::{ReconcileError, Reconciler, View, memory::Remembered};
use crate::{
    runtime::{BrokersHeard, HostSeen},
    workload::{self, Rendered, mosquitto, node_red},
};
use redforge_shared::{
    desired::{DesiredState, Workload},
    ids::Name,
};
use std::collections::BTreeMap;
use tokio::sync::watch;

/// Where each broker keeps its sessions and each Node-RED its flows: its data volume, which another of the same name is not;
/// one without a volume loses them with its container. What has neither yet is left out.
pub fn homes(state: &DesiredState, rendered: &BTreeMap<Name, Rendered>, seen: &HostSeen) -> BTreeMap<Name, String> {
    let places = state.instances.iter().filter_map(|i| match i.workload {
        Workload::Mosquitto(_) => Some((&i.name, mosquitto::DATA_PATH)),
        Workload::NodeRed(_) => Some((&i.name, node_red::DATA_PATH)),
        Workload::Ollama(_) | Workload::Valkey(_) | Workload::Redis(_) | Workload::Tika(_) | Workload::Container(_) => {
            None
        }
    });
    let home = |name: &Name, path: &str| {
        let mut mounts = rendered.get(name)?.container.mounts.iter();
        match mounts.find(|m| m.path.trim_end_matches('/') == path) {
            Some(m) => seen.volumes.get(&m.volume).map(|v| format!("{} {}", m.volume, v.birth)),
            None => seen.containers.iter().find(|c| c.instance == *name && c.named).map(|c| c.id.clone()),
        }
    };
    places.filter_map(|(name, path)| Some((name.clone(), home(name, path)?))).collect()
}

impl Reconciler {
    /// Instances whose broker does not hold the agent's session yet.
    pub(super) fn waits(
        &self,
        state: &DesiredState,
        homes: &BTreeMap<Name, String>,
        memory: &Remembered,
    ) -> BTreeMap<Name, Name> {
        let Some(heard) = &self.deps.brokers_heard else { return BTreeMap::new() };
        let heard = heard.borrow();
        let held = |broker: &Name| {
            let home = homes.get(broker);
            home.is_some_and(|home| heard.contains_key(home) || memory.has_session(broker, home))
        };
        let waiting = |spec| workload::broker_of(spec, state).filter(|b| !held(b)).cloned();
        state.instances.iter().filter_map(|spec| Some((spec.name.clone(), waiting(spec)?))).collect()
    }

    /// What was heard of is true over restarts of the agent too.
    pub(super) async fn remember_sessions(&self, view: &View, memory: &mut Remembered) -> Result<(), ReconcileError> {
        for (broker, home) in &view.homes {
            if self.dropped(Some(home)).is_some() {
                memory.set_session(&self.deps.ledger, broker, home).await?;
            }
        }
        Ok(())
    }

    /// Messages that the broker with this home has thrown away; none while its session is not there.
    pub(super) fn dropped(&self, home: Option<&String>) -> Option<u64> {
        self.deps.brokers_heard.as_ref()?.borrow().get(home?).copied()
    }
}

/// Resolves when another broker was heard of, or more of one.
pub async fn news(heard: &mut Option<watch::Receiver<BrokersHeard>>) {
    if let Some(heard) = heard
        && heard.changed().await.is_ok()
    {
        return;
    }
    std::future::pending::<()>().await;
}
