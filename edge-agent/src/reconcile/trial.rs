//! How long a new version may take, and when it is trusted: one that does not come up within its deadline, or breaks
//! within that time after it came up, makes way for what worked before.
//!
//! What worked before is remembered until then. Only a change that needs a new container or other flows is on trial, and
//! only where something has worked before: with nothing to go back to, the new one is left to try, and it is said that it
//! is late. What is being fetched (flows, models) or waited for does not count as time to come up.
use super::{
    ReconcileError, Reconciler, View, assess,
    choose::{plain, same_kind},
    execute::Faults,
    last_words::Failure,
    memory::{Failed, LastGood, Remembered},
    plan::{Blueprint, Shape, Wanted},
    reduce::last_given,
};
use crate::runtime::{ContainerSeen, ContainerState};
use attempt::{Attempt, Shown, Verdict};
use redforge_shared::{
    ids::Name,
    report::{InstanceStatus, Phase, Reason, preflight::ChangeStep},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use time::OffsetDateTime;
use tokio::time::Instant;

mod attempt;

/// How long a runtime may speak of the flows that it had before.
const HEARD: Duration = Duration::from_secs(3);

/// Versions on trial. Not kept over a restart of the agent: the trial begins again.
pub type Trials = BTreeMap<Name, Attempt>;

impl Reconciler {
    /// Ends trials: those that worked for their time are what worked last, those whose time is up have failed. Says whether
    /// the next look finds another choice.
    pub(super) async fn end_trials(
        &mut self,
        view: &View,
        ready: &BTreeSet<String>,
        faults: &Faults,
        memory: &mut Remembered,
    ) -> Result<bool, ReconcileError> {
        let mut ended = false;
        for wanted in &view.desired.instances {
            let Blueprint::Ready(shape) = &wanted.blueprint else {
                self.trials.remove(&wanted.name);
                continue;
            };
            // One more that helped while others were replaced is none of it once it is ended.
            let spare = |c: &ContainerSeen| shape.replicated && c.replica >= shape.replicas && is_down(c);
            let its = |c: &&ContainerSeen| c.instance == wanted.name && c.hash == shape.hash && !spare(c);
            let own: Vec<_> = view.seen.containers.iter().filter(its).collect();
            let settled = own.len() >= shape.replicas as usize && own.iter().all(|c| ready.contains(&c.id));
            let said: Vec<_> = own.iter().filter_map(|c| self.verdict(view, memory, wanted, c, faults)).collect();
            let ways = Ways::of(wanted, shape, view, memory);
            let others = own.iter().any(|c| rests_from_others(view, wanted, c));
            if ways == Ways::Untried || said.is_empty() || others || said.iter().any(waits) {
                self.trials.remove(&wanted.name);
                if ways == Ways::Untried && settled {
                    self.remember_good(view, wanted, memory).await?;
                }
                continue;
            }
            let works = |s: &InstanceStatus| works(wanted, s);
            let all = said.len() >= shape.replicas as usize && said.iter().all(&works);
            let first = ways == Ways::NothingBefore;
            let (step, limit) = self.time_of(wanted, memory);
            let now = Instant::now();
            let attempt = self.trials.entry(wanted.name.clone()).or_insert_with(|| Attempt::new(wanted.spec, now));
            if attempt.spec != wanted.spec {
                *attempt = Attempt::new(wanted.spec, now);
            }
            let broken = said.iter().find(|s| !works(s));
            let shown = Shown { working: said.iter().filter(|s| works(s)).count(), broken: broken.is_some(), all };
            let verdict = attempt.look(shown, limit, now);
            if first {
                // Something that worked for a moment is more than nothing.
                let late = verdict == Verdict::Failed && !std::mem::replace(&mut attempt.overdue, true);
                ended |= late;
                if settled {
                    attempt.overdue = false;
                    self.remember_good(view, wanted, memory).await?;
                } else if let Some(said) = broken.filter(|_| late) {
                    self.keep_broken(view, said, Reason::DeadlineExceeded).await;
                }
                continue;
            }
            match (verdict, broken) {
                (Verdict::Trusted, _) if settled => {
                    tracing::info!(instance.name = %wanted.name, s = limit.as_secs(), "has worked for its time: what to go back to");
                    self.trials.remove(&wanted.name);
                    self.remember_good(view, wanted, memory).await?;
                    // The status tells of the trial.
                    ended = true;
                }
                (verdict, Some(broken)) if verdict == Verdict::Failed || is_hopeless(broken, attempt.age(now)) => {
                    self.trials.remove(&wanted.name);
                    let late = (verdict == Verdict::Failed && broken.next_start_at.is_none()).then_some(step);
                    self.go_back(view, (wanted, broken), (late, limit), memory).await?;
                    ended = true;
                }
                _ => {}
            }
        }
        Ok(ended)
    }

    /// Remembers what runs as what to go back to, if it is as it was asked for.
    async fn remember_good(&self, view: &View, wanted: &Wanted, memory: &mut Remembered) -> Result<(), ReconcileError> {
        let status = self.status.borrow().instances.iter().find(|i| i.name == wanted.name).cloned();
        let Some(spec) =
            view.chosen.state.instance(wanted.name.as_str()).filter(|_| status.is_some_and(|s| works(wanted, &s)))
        else {
            return Ok(());
        };
        let (Blueprint::Ready(shape), Some(image)) = (&wanted.blueprint, view.chosen.image(spec, memory)) else {
            return Ok(());
        };
        let (spec, image, container_hash) = (spec.clone(), image.clone(), shape.hash.clone());
        let good = LastGood { spec, identity: wanted.spec, image, container_hash };
        memory.set_good(&self.deps.ledger, good).await
    }

    /// The version has failed: what worked comes back with the next look.
    async fn go_back(
        &self,
        view: &View,
        (wanted, said): (&Wanted, &InstanceStatus),
        (late, limit): (Option<ChangeStep>, Duration),
        memory: &mut Remembered,
    ) -> Result<(), ReconcileError> {
        let reason = said.reason.unwrap_or(Reason::ProbeFailed);
        tracing::warn!(
            instance.name = %wanted.name, image = wanted.image, %reason, limit_s = limit.as_secs(), late = late.is_some(),
            "does not work in time, going back to what worked"
        );
        let names = if said.names.is_empty() { vec![wanted.image.clone()] } else { said.names.clone() };
        let unrestarted = view.chosen.unrestarted.get(&wanted.name).copied();
        let failed = Failed { spec: wanted.spec, reason, names, detail: said.detail.clone(), late, unrestarted };
        self.keep_broken(view, said, reason).await;
        memory.set_failed(&self.deps.ledger, &wanted.name, Some(failed)).await?;
        // How the new flows ended their runtime is not held against the old ones in the same container.
        let kept = memory.last_good.get(&wanted.name).map(|good| good.container_hash.clone());
        for c in view.seen.containers.iter().filter(|c| c.instance == wanted.name && Some(&c.hash) == kept.as_ref()) {
            let forgiven = memory.crashes.get(&c.id).and_then(|k| k.forgiven());
            memory.set_crashes(&self.deps.ledger, &c.id, forgiven).await?;
        }
        Ok(())
    }

    /// When this version is trusted if it goes on working; none: it is not on trial.
    pub(super) fn trial_ends_at(&self, view: &View, memory: &Remembered, wanted: &Wanted) -> Option<OffsetDateTime> {
        let Blueprint::Ready(shape) = &wanted.blueprint else { return None };
        if Ways::of(wanted, shape, view, memory) != Ways::Back {
            return None;
        }
        let its = self.trials.get(&wanted.name).filter(|t| t.spec == wanted.spec);
        let left = its.and_then(|t| t.trusted_in(Instant::now()));
        Some(self.deps.clock.now() + left.unwrap_or_else(|| self.time_of(wanted, memory).1))
    }

    /// Keeps what the container printed of which this was said.
    async fn keep_broken(&self, view: &View, said: &InstanceStatus, reason: Reason) {
        let its = |c: &&ContainerSeen| said.container_id.as_ref() == Some(&c.id);
        let failure = Failure { reason, exit_code: said.exit_code, detail: said.detail.clone() };
        self.keep_last_words(view, &said.name, view.seen.containers.iter().find(its), failure).await;
    }

    /// The next moment at which something ends by itself: a trial, the rest between two crashes, or the time after which one
    /// that runs is trusted.
    pub(super) fn next_look(&self, view: &View, memory: &Remembered) -> Option<Instant> {
        let (now, wall) = (Instant::now(), self.deps.clock.now());
        let trials = self.trials.values().filter(|t| !t.overdue).filter_map(Attempt::ends_at);
        let rests = memory.crashes.values().filter_map(|c| Some(now + (c.rests_until? - wall).try_into().ok()?));
        let given = |c| last_given(&view.given, c, &view.homes).and_then(|given| given.since);
        let settles = view.seen.containers.iter().filter_map(|c| assess::settles_in(c, given(c), wall));
        trials.chain(rests).chain(settles.map(|left| now + left)).min()
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

/// What may come of a version that does not work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ways {
    /// It is no other version than the one that worked, or nobody may touch it.
    Untried,
    /// Nothing has worked before it.
    NothingBefore,
    /// What worked before it comes back.
    Back,
}

impl Ways {
    fn of(wanted: &Wanted, shape: &Shape, view: &View, memory: &Remembered) -> Self {
        let waits = wanted.hold || wanted.suspend || view.chosen.back.contains_key(&wanted.name);
        let (false, Some(spec)) = (waits, view.chosen.state.instance(wanted.name.as_str())) else {
            return Self::Untried;
        };
        let Some(good) = memory.last_good.get(&wanted.name).filter(|good| same_kind(&good.spec, spec)) else {
            return Self::NothingBefore;
        };
        // The same container with other models or rights is not tried: what it lacks is fetched for as long as it takes.
        let changes = good.container_hash != shape.hash || good.spec.flow_set() != wanted.flow_set;
        // Neither is another secret: there is nothing else to go back to.
        let other = plain(&good.spec) != plain(spec) && good.identity != wanted.spec;
        if changes && other { Self::Back } else { Self::Untried }
    }
}

fn is_down(c: &ContainerSeen) -> bool {
    matches!(c.state, ContainerState::Exited | ContainerState::Dead | ContainerState::Removing)
}

fn works(wanted: &Wanted, s: &InstanceStatus) -> bool {
    assess::is_as_wanted(wanted, (s.phase, s.health, s.sync), s.reason)
}

/// It is down with other flows than those on trial: how they ended says nothing of these, which it is given first.
fn rests_from_others(view: &View, wanted: &Wanted, c: &ContainerSeen) -> bool {
    let given = last_given(&view.given, c, &view.homes);
    let shall = wanted.flow_set.or(wanted.clears);
    c.state != ContainerState::Running && given.is_some_and(|given| shall.is_some_and(|digest| given.digest != digest))
}

/// Something that it needs is on its way.
fn waits(s: &InstanceStatus) -> bool {
    s.phase == Phase::Pulling || matches!(s.reason, Some(Reason::BlobMissing | Reason::WaitingForSession))
}

/// One that ends again and again need not be waited for; neither need one that lacks what nobody will bring, once what it
/// says is about the flows that it has now.
fn is_hopeless(s: &InstanceStatus, age: Duration) -> bool {
    let lacks = s.reason == Some(Reason::MissingTypes) && !s.names.is_empty() && age > HEARD;
    s.next_start_at.is_some() || lacks
}
