//! How long each step of a change may take. Plain numbers; who waits is elsewhere.
use super::plan::Step;
use redforge_shared::report::preflight::ChangeStep;
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
