//! How long a new container may take: one that does not come up within its deadline makes way for what worked before.
//!
//! Only a change that needs a new container or other flows is on trial, and only where something has worked before: with
//! nothing to go back to, the new one is left to try. What is being fetched (flows, models) or waited for does not
//! count as time to come up.
use super::{
    ReconcileError, Reconciler, View, assess,
    execute::Faults,
    memory::{Failed, Remembered},
    plan::{Blueprint, Wanted},
};
use crate::runtime::ContainerSeen;
use redforge_shared::{
    ids::{Digest, Name},
    report::{InstanceStatus, Phase, Reason, preflight::ChangeStep},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use tokio::time::Instant;

/// How long a runtime may speak of the flows that it had before.
const SETTLED: Duration = Duration::from_secs(3);

/// Specs on trial, and since when. Not kept over a restart of the agent: the trial begins again.
pub type Trials = BTreeMap<Name, (Digest, Instant, Duration)>;

impl Reconciler {
    /// Ends trials: those that came up are over, those whose time is up have failed.
    pub(super) async fn end_trials(
        &mut self,
        view: &View,
        ready: &BTreeSet<String>,
        faults: &Faults,
        memory: &mut Remembered,
    ) -> Result<(), ReconcileError> {
        for wanted in &view.desired.instances {
            let new = on_trial(wanted, view, ready, memory).map(|c| self.verdict(view, memory, wanted, c, faults));
            let waits = |s: &InstanceStatus| {
                let reason = matches!(s.reason, Some(Reason::BlobMissing | Reason::WaitingForSession));
                s.phase == Phase::Pulling || reason
            };
            let Some(said) = new.flatten().filter(|s| !waits(s)) else {
                self.trials.remove(&wanted.name);
                continue;
            };
            let (late, limit) = self.time_of(wanted, memory);
            let trial = self.trials.entry(wanted.name.clone()).or_insert_with(|| (wanted.spec, Instant::now(), limit));
            if trial.0 != wanted.spec {
                *trial = (wanted.spec, Instant::now(), limit);
            }
            // One that ends again and again need not be waited for.
            let loops = said.next_start_at.is_some();
            // Neither need one that lacks what nobody will bring; what it says at first may be about the flows before.
            let lacks =
                said.reason == Some(Reason::MissingTypes) && !said.names.is_empty() && trial.1.elapsed() > SETTLED;
            trial.2 = limit;
            if trial.1.elapsed() < limit && !loops && !lacks {
                continue;
            }
            self.trials.remove(&wanted.name);
            let reason = said.reason.unwrap_or(Reason::ProbeFailed);
            tracing::warn!(
                instance.name = %wanted.name, image = wanted.image, %reason, step = %late, limit_s = limit.as_secs(), loops,
                "does not work in time, going back to what worked"
            );
            let names = if said.names.is_empty() { vec![wanted.image.clone()] } else { said.names.clone() };
            let failed = Failed { spec: wanted.spec, reason, names, late: (!loops && !lacks).then_some(late) };
            memory.set_failed(&self.deps.ledger, &wanted.name, Some(failed)).await?;
        }
        Ok(())
    }

    /// The next moment at which something ends by itself: a trial, the rest between two crashes, or the time after which one
    /// that runs is trusted.
    pub(super) fn next_look(&self, view: &View, memory: &Remembered) -> Option<Instant> {
        let (now, wall) = (Instant::now(), self.deps.clock.now());
        let trials = self.trials.values().map(|(_, since, limit)| *since + *limit);
        let rests = memory.crashes.values().filter_map(|c| Some(now + (c.rests_until? - wall).try_into().ok()?));
        let settles = view.seen.containers.iter().filter_map(|c| assess::settles_in(c, wall)).map(|left| now + left);
        trials.chain(rests).chain(settles).min()
    }

    /// No longer than until the next look that is known to be needed.
    pub(super) fn sooner(&self, wait: Duration) -> Duration {
        let until = self.wake.map(|at| at.saturating_duration_since(Instant::now()));
        until.map_or(wait, |until| wait.min(until.max(super::AT_ONCE)))
    }

    /// Only flows change: that has a time of its own.
    fn time_of(&self, wanted: &Wanted, memory: &Remembered) -> (ChangeStep, Duration) {
        let Blueprint::Ready(shape) = &wanted.blueprint else {
            return (ChangeStep::Healthy, self.deps.deadlines.healthy);
        };
        if memory.last_good.get(&wanted.name).is_some_and(|g| g.container_hash == shape.hash) {
            (ChangeStep::HotDeploy, self.deps.deadlines.hot_deploy)
        } else {
            (ChangeStep::Healthy, self.deps.deadlines.healthy)
        }
    }
}

/// The container that has yet to show that it works.
fn on_trial<'a>(
    wanted: &Wanted,
    view: &'a View,
    ready: &BTreeSet<String>,
    memory: &Remembered,
) -> Option<&'a ContainerSeen> {
    let Blueprint::Ready(shape) = &wanted.blueprint else { return None };
    let good = memory.last_good.get(&wanted.name)?;
    let waits = wanted.hold || wanted.suspend || view.chosen.back.contains_key(&wanted.name);
    // The same container with other models or rights is not tried: what it lacks is fetched for as long as it takes.
    let changes = good.container_hash != shape.hash || good.spec.flow_set() != wanted.flow_set;
    // Neither is another secret: there is nothing else to go back to.
    let same_spec = view.chosen.state.instance(wanted.name.as_str()) == Some(&good.spec);
    if waits || same_spec || good.identity == wanted.spec || !changes {
        return None;
    }
    let mut new = view.seen.containers.iter().filter(|c| c.instance == wanted.name && c.hash == shape.hash);
    new.next().filter(|c| !ready.contains(&c.id))
}
