//! Which Node-RED runtimes start without their flows: those whose flows end them again and again, where none have worked
//! before. They can be reached and repaired; what repairs them, runs.
//!
//! Where something has worked before, that comes back instead (`trial`). A start in safe mode is one start: whoever ends it
//! otherwise than the agent finds the flows again, and the crash loop brings it here again.
use super::{Reconciler, View, crashes::TAKE_OVER, memory::Remembered, observe::AppSeen, plan, reduce::home_of};
use redforge_shared::{desired::Workload, ids::Digest};
use std::collections::BTreeMap;

/// The flow set that a container last ended with; found again at its next end.
pub type EndedWith = BTreeMap<String, Digest>;

impl Reconciler {
    /// Says of each runtime whether its next start is one in safe mode, and whether it is to leave that mode: its flows are
    /// others than those that ended it, and it has them already.
    pub(super) fn safe_mode(&mut self, view: &View, memory: &Remembered, actual: &mut plan::Actual) {
        self.ended_with.retain(|id, _| view.seen.containers.iter().any(|c| c.id == *id));
        for (spec, wanted) in view.chosen.state.instances.iter().zip(&view.desired.instances) {
            let plan::Blueprint::Ready(shape) = &wanted.blueprint else { continue };
            if !matches!(spec.workload, Workload::NodeRed(_)) || shape.replicated {
                continue;
            }
            let asked = view.chosen.asked.get(&spec.name).copied().unwrap_or(wanted.spec);
            // Flows that have worked are tried again, ever later: what ends them may go away.
            let worked = memory.last_good.get(&spec.name).is_some_and(|good| good.spec.flow_set() == wanted.flow_set);
            let is_last = !worked && !memory.can_go_back(&spec.name, asked);
            for c in view.seen.containers.iter().filter(|c| c.instance == spec.name && c.hash == shape.hash) {
                let given = view.given.get(&spec.name).and_then(|at| at.get(&home_of(c, &view.homes)));
                let crashes = memory.crashes.get(&c.id).filter(|k| k.ends >= TAKE_OVER);
                if let (Some(given), true) = (given, crashes.is_some_and(|k| k.rests_until.is_some())) {
                    self.ended_with.insert(c.id.clone(), given.digest);
                }
                if crashes.is_some() && is_last {
                    actual.safe.insert(c.id.clone());
                }
                let safe = matches!(view.apps.get(&c.id), Some(AppSeen::NodeRed(seen)) if seen.is_safe());
                let repaired = self.ended_with.get(&c.id).is_some_and(|with| Some(*with) != wanted.flow_set);
                if let (true, Some(flows)) = (safe && repaired, actual.flows.get_mut(&c.id)) {
                    flows.stopped = true;
                }
            }
        }
    }
}
