//! How long each step of a change may take, and how long a pass after it is outdated.
use super::plan::Step;
use crate::db::ledger::Ledger;
use redforge_shared::{ids::Digest, report::preflight::ChangeStep};
use std::time::Duration;

/// The time of each step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// Fetching an image. A fetch that ran out of time is tried again later: what had come is kept by the engine.
    pub pull: Duration,
    /// One act of making and starting a container.
    pub start: Duration,
    /// From there until it does what its spec asks for.
    pub healthy: Duration,
    /// From giving a runtime its flows until they run.
    pub hot_deploy: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        let s = Duration::from_secs;
        Self { pull: s(3600), start: s(60), healthy: s(120), hot_deploy: s(60) }
    }
}

impl Deadlines {
    /// What a step is called when it runs out of time, and the time it has.
    pub fn of(&self, step: &Step) -> (ChangeStep, Duration) {
        match step {
            Step::DeployFlows { .. } | Step::StartFlows { .. } => (ChangeStep::HotDeploy, self.hot_deploy),
            // A model is pulled beside the passes; here it is only begun.
            _ => (ChangeStep::Start, self.start),
        }
    }
}

/// How long a pass goes on after a newer desired state was accepted.
const GRACE: Duration = Duration::from_secs(3);

/// A newer desired state than this one was accepted a while ago.
pub(super) async fn a_newer_one(ledger: Ledger, begun: Option<(u64, Digest)>) {
    let mut changed = ledger.subscribe();
    while ledger.accepted() == begun {
        if changed.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
    tokio::time::sleep(GRACE).await;
}
