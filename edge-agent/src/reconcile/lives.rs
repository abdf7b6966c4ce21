//! Since when instances are as they are, also where another process of the agent saw them become so; and which containers
//! have never done what they are there for.
//!
//! A status carries its age, and a restart of the agent makes nothing young: what a status was last, since when, and of which
//! start of a container, is a row of the ledger. While a new process has not yet seen enough of an instance to say how it is,
//! the row waits; it counts only if the same container still runs on.
use super::{ReconcileError, Reconciler, View, memory::Remembered, report::principal};
use redforge_shared::{
    ids::Name,
    report::{Health, InstanceStatus, Phase, Sync},
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use time::OffsetDateTime;

/// Found out again by the next process.
#[derive(Debug, Default)]
pub struct Lives {
    /// The generation whose instances alone have a log of what failed.
    pub logs_of: Option<u64>,
    /// Instances of which this process has said how they are.
    told: BTreeSet<Name>,
    /// Containers of the last look; none: there was none yet.
    known: Option<BTreeSet<String>>,
    /// Containers that this process has watched from their beginning, and that have never done what their spec asks for.
    pub unproven: BTreeSet<String>,
}

/// What was last said of an instance, and since when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Since {
    phase: Phase,
    health: Health,
    sync: Sync,
    /// Container and its start; empty: there was none.
    run: String,
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
}

impl Since {
    fn of(status: &InstanceStatus, run: String) -> Self {
        Self { phase: status.phase, health: status.health, sync: status.sync, run, at: status.changed_at }
    }

    fn is_same(&self, other: &Self) -> bool {
        (self.phase, self.health, self.sync, &self.run) == (other.phase, other.health, other.sync, &other.run)
    }
}

/// Pure: since when it is as `now` says, where this process is the first time that sure of it.
fn age(known: Option<&Since>, now: &Since) -> OffsetDateTime {
    // A clock that was set back makes nothing older than now.
    known.filter(|k| k.is_same(now) && k.at <= now.at).map_or(now.at, |k| k.at)
}

impl Reconciler {
    /// Looks which containers are new, and which of them have come to do what they shall.
    pub(super) fn watch_lives(&mut self, view: &View, memory: &Remembered) {
        let there: BTreeSet<String> = view.seen.containers.iter().map(|c| c.id.clone()).collect();
        // What was there before this process may have served for years.
        let new = self.lives.known.as_ref().map_or_else(BTreeSet::new, |known| &there - known);
        let mut unproven = &std::mem::take(&mut self.lives.unproven) | &new;
        let works = |id: &String| {
            let c = view.seen.containers.iter().find(|c| c.id == *id);
            c.is_none_or(|c| self.does(view, memory, c))
        };
        unproven.retain(|id| !works(id));
        (self.lives.unproven, self.lives.known) = (unproven, Some(there));
    }

    /// Gives a status the age that an earlier process knew.
    pub(super) fn grow_old(&self, view: &View, memory: &Remembered, status: &mut InstanceStatus) {
        if !self.lives.told.contains(&status.name) {
            status.changed_at = age(memory.since.get(&status.name), &Since::of(status, run(view, &status.name)));
        }
    }

    /// Remembers what was said.
    pub(super) async fn remember_ages(&mut self, view: &View, memory: &mut Remembered) -> Result<(), ReconcileError> {
        let status = self.status.borrow().clone();
        self.lives.told.retain(|n| status.instances.iter().any(|i| i.name == *n));
        for i in &status.instances {
            // A new process looks for a while before it knows.
            if i.health == Health::Unknown && !self.lives.told.contains(&i.name) {
                continue;
            }
            self.lives.told.insert(i.name.clone());
            memory.set_since(&self.deps.ledger, &i.name, Since::of(i, run(view, &i.name))).await?;
        }
        Ok(())
    }
}

/// The container that the status is about, and its start.
fn run(view: &View, instance: &Name) -> String {
    let wanted = view.desired.instances.iter().find(|w| w.name == *instance);
    let container = wanted.and_then(|wanted| principal(view, wanted));
    container.map_or(String::new(), |c| format!("{} {}", c.id, c.started_at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    #[test]
    fn the_age_is_that_of_the_same_words_of_the_same_run() {
        let (then, now) = (datetime!(2026-11-23 10:00 UTC), datetime!(2026-11-24 10:00 UTC));
        let since =
            |run: &str, health, at| Since { phase: Phase::Running, health, sync: Sync::UpToDate, run: run.into(), at };
        let known = since("c T1", Health::Healthy, then);
        for (of, at) in [
            (since("c T1", Health::Healthy, now), then),
            // The machine was started again.
            (since("c T2", Health::Healthy, now), now),
            (since("d T1", Health::Healthy, now), now),
            (since("c T1", Health::Degraded, now), now),
            // The clock goes wrong by a year: what is told is no time to come.
            (since("c T1", Health::Healthy, datetime!(2025-11-23 10:00 UTC)), datetime!(2025-11-23 10:00 UTC)),
        ] {
            assert_eq!(age(Some(&known), &of), at, "{of:?}");
            assert_eq!(age(None, &of), of.at);
        }
    }
}
