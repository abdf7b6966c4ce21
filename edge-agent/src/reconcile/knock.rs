//! Notices that a workload that is coming up has opened its port, so that the next pass need not wait for its tick.
//!
//! A hint only: what a pass finds there is what counts, and each start of a container is knocked at until it opens once.
use super::{Reconciler, View, observe::AppSeen};
use crate::{
    runtime::ContainerState,
    workload::{mosquitto, node_red, ollama, probe, tika, valkey},
};
use redforge_shared::desired::Workload;
use std::{collections::BTreeSet, net::IpAddr, time::Duration};

/// Pause between two knocks.
const AGAIN: Duration = Duration::from_millis(100);

/// A container's start, and where it will answer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Closed {
    start: (String, String),
    address: IpAddr,
    port: u16,
}

/// The doors that were closed at the last pass, and the starts that have opened theirs since.
#[derive(Debug, Default)]
pub struct Doors {
    closed: Vec<Closed>,
    opened: BTreeSet<(String, String)>,
}

impl Doors {
    /// Resolves with the first that opens; never, when there is none to wait for.
    pub async fn one_opens(&self) -> Closed {
        loop {
            for door in &self.closed {
                if probe::accepts(door.address, door.port).await {
                    return door.clone();
                }
            }
            if self.closed.is_empty() {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// It is not waited for again.
    pub fn note(&mut self, opened: Closed) {
        self.closed.retain(|c| *c != opened);
        self.opened.insert(opened.start);
    }
}

impl Reconciler {
    /// Which containers run and do not answer yet.
    pub(super) fn remember_doors(&mut self, view: &View) {
        let running = view.seen.containers.iter().filter(|c| c.state == ContainerState::Running);
        let mut starts = BTreeSet::new();
        let mut closed = Vec::new();
        for c in running {
            let start = (c.id.clone(), c.started_at.clone());
            starts.insert(start.clone());
            let kind = view.chosen.state.instance(c.instance.as_str()).map(|spec| &spec.workload);
            let port = match (kind, view.apps.get(&c.id)) {
                (Some(Workload::NodeRed(_)), Some(AppSeen::NodeRed(seen))) if !seen.answers => node_red::PORT,
                (Some(Workload::Mosquitto(_)), Some(AppSeen::Mosquitto { accepts: false, .. })) => mosquitto::PORT,
                (Some(Workload::Valkey(_) | Workload::Redis(_)), Some(AppSeen::Cache(seen))) if !seen.answers => {
                    valkey::PORT
                }
                (Some(Workload::Tika(_)), Some(AppSeen::Tika { answers: false })) => tika::PORT,
                (Some(Workload::Ollama(_)), Some(AppSeen::Ollama(None))) => ollama::PORT,
                _ => continue,
            };
            if let Some(address) = c.address.filter(|_| !self.doors.opened.contains(&start)) {
                closed.push(Closed { start, address, port });
            }
        }
        self.doors.opened.retain(|s| starts.contains(s));
        self.doors.closed = closed;
    }
}
