//! How many containers each instance has in this pass: as its spec says or its load asks for, as far as the host has room.
//!
//! What is decided is pure ([`scale`]); here the load is gathered: the CPU time that ready containers used since the last
//! look, or what the instance last said that waits for it. No hub is asked. The number outlives the agent, so that a
//! restart changes nothing by itself; what was measured before it does not.
use super::{
    ReconcileError, Reconciler, View,
    memory::Remembered,
    plan::{
        room::{Ask, allot},
        scale::{self, FRESH, History},
    },
    reduce::claim,
};
use crate::runtime::QueuesHeard;
use redforge_shared::{
    desired::{DesiredState, InstanceSpec},
    ids::Name,
    scale::{Autoscale, ScaleBy, Scaled},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use tokio::{sync::watch, time::Instant};

/// Shortest time over which CPU use is measured.
const MEASURE: Duration = Duration::from_secs(2);

/// Numbers of containers.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    given: BTreeMap<Name, u32>,
    /// Instances that asked for a fixed number, and for more than there is room for.
    pub short: BTreeMap<Name, u32>,
    pub scaled: BTreeMap<Name, Scaled>,
}

impl Counts {
    /// How many containers of it there shall be.
    pub fn of(&self, spec: &InstanceSpec) -> u32 {
        self.given.get(&spec.name).copied().unwrap_or(spec.replicas)
    }
}

/// What was measured so far, by instance.
#[derive(Debug)]
pub struct Loads {
    began: Instant,
    histories: BTreeMap<Name, (Autoscale, History)>,
    /// CPU time used, by container, with when that was.
    used: BTreeMap<String, (Instant, u64)>,
    /// When an instance's CPU use was last asked for.
    measured_at: BTreeMap<Name, Instant>,
}

impl Default for Loads {
    fn default() -> Self {
        let (histories, used, measured_at) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { began: Instant::now(), histories, used, measured_at }
    }
}

impl Loads {
    fn note(&mut self, name: &Name, policy: &Autoscale, load: u64) {
        let now = self.began.elapsed();
        let entry = self.histories.entry(name.clone()).or_insert_with(|| (policy.clone(), History::default()));
        if entry.0.by != policy.by {
            // Another measure: what was noted is of another kind.
            *entry = (policy.clone(), History::default());
        }
        entry.1.note(policy, now, load);
    }

    fn history(&self, name: &Name) -> History {
        self.histories.get(name).map(|(_, h)| h.clone()).unwrap_or_default()
    }
}

impl Reconciler {
    /// Decides for every instance.
    pub(super) fn counts(&self, state: &DesiredState, memory: &Remembered) -> Counts {
        let running = || state.instances.iter().filter(|i| !i.suspend);
        let now = self.loads.began.elapsed();
        let decide = |i: &InstanceSpec, policy: &Autoscale, room: u32| {
            let current = memory.scaled.get(&i.name).copied().unwrap_or(policy.min);
            scale::decide(policy, &self.loads.history(&i.name), room, current, now)
        };
        let ask = |i: &InstanceSpec| {
            let (least, wish) = match &i.autoscale {
                None => (i.replicas, i.replicas),
                Some(policy) => (policy.min, decide(i, policy, u32::MAX).replicas),
            };
            (i.name.clone(), Ask { claim: claim(i), least, wish })
        };
        let asks: BTreeMap<_, _> = running().map(ask).collect();
        let mut given = allot(self.deps.capacity, &asks);
        let (mut short, mut scaled) = (BTreeMap::new(), BTreeMap::new());
        for i in running() {
            let room = given[&i.name];
            match &i.autoscale {
                None if room < i.replicas => drop(short.insert(i.name.clone(), i.replicas)),
                None => {}
                Some(policy) => {
                    let d = decide(i, policy, room);
                    given.insert(i.name.clone(), d.replicas);
                    let (metric, target) = (policy.by.metric(), policy.by.target());
                    let decision =
                        Scaled { replicas: d.replicas, metric, measured: d.measured, target, limit: d.limit };
                    scaled.insert(i.name.clone(), decision);
                }
            }
        }
        Counts { given, short, scaled }
    }

    /// Keeps what was decided, and says it once when it changes.
    pub(super) async fn remember_counts(&self, view: &View, memory: &mut Remembered) -> Result<(), ReconcileError> {
        for (name, scaled) in &view.counts.scaled {
            let before = memory.scaled.get(name).copied();
            if before != Some(scaled.replicas) {
                tracing::info!(instance.name = %name, before, decision = %scaled, "scaling");
            }
            memory.set_scaled(&self.deps.ledger, name, scaled.replicas).await?;
        }
        Ok(())
    }

    /// What instances said about their queues is noted before it is decided by.
    pub(super) fn note_queues(&mut self, state: &DesiredState) {
        let Some(heard) = &self.deps.queues_heard else { return };
        let heard = heard.borrow();
        for (name, policy) in policies(state).filter(|(_, p)| matches!(p.by, ScaleBy::Queue(_))) {
            if let Some(queue) = heard.get(name).filter(|h| h.at.elapsed() <= FRESH) {
                self.loads.note(name, policy, queue.waiting);
            }
        }
        self.loads.histories.retain(|n, _| policies(state).any(|(name, _)| name == n));
    }

    /// Measures what the others use; true: by that there shall be another number of containers.
    pub(super) async fn measure(&mut self, view: &View, ready: &BTreeSet<String>, memory: &Remembered) -> bool {
        self.loads.used.retain(|id, _| view.seen.containers.iter().any(|c| c.id == *id));
        for spec in &view.chosen.state.instances {
            if let Some(policy @ Autoscale { by: ScaleBy::CpuPercent(_), .. }) = &spec.autoscale {
                self.measure_cpu(view, spec, policy, ready).await;
            }
        }
        self.counts(&view.chosen.state, memory).given != view.counts.given
    }

    /// Percent of one container's limit, of all ready containers together. One that comes up is busy with that.
    async fn measure_cpu(&mut self, view: &View, spec: &InstanceSpec, policy: &Autoscale, ready: &BTreeSet<String>) {
        let due = self.loads.measured_at.get(&spec.name).is_none_or(|at| at.elapsed() >= MEASURE);
        let Some(limit) = spec.resources.cpu_millicores.filter(|l| *l > 0 && due) else { return };
        self.loads.measured_at.insert(spec.name.clone(), Instant::now());
        let (mut percent, mut any) = (0, false);
        for c in view.seen.containers.iter().filter(|c| c.instance == spec.name && ready.contains(&c.id)) {
            // One that cannot be asked is asked again in the next pass.
            let Ok(used) = self.deps.runtime.cpu_time_ns(&c.id).await else { continue };
            let now = Instant::now();
            if let Some((at, before)) = self.loads.used.insert(c.id.clone(), (now, used)) {
                let could = (now - at).as_nanos() * u128::from(limit) / 1000;
                let did = u128::from(used.saturating_sub(before)) * 100;
                percent += u64::try_from(did / could.max(1)).unwrap_or(0);
                any = true;
            }
        }
        if any {
            self.loads.note(&spec.name, policy, percent);
        }
    }
}

fn policies(state: &DesiredState) -> impl Iterator<Item = (&Name, &Autoscale)> {
    state.instances.iter().filter_map(|i| Some((&i.name, i.autoscale.as_ref()?)))
}

/// Resolves when an instance said something else about its queue.
pub async fn news(heard: &mut Option<watch::Receiver<QueuesHeard>>) {
    if let Some(heard) = heard
        && heard.changed().await.is_ok()
    {
        return;
    }
    std::future::pending::<()>().await;
}
