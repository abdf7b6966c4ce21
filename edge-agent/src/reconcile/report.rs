//! What a pass tells: the host's status, and what `collect` may read from. Last step of the flow down.
//!
//! Words are chosen in [`assess`]; here they are gathered, and what they teach is remembered: which specs were refused, how
//! often containers ended.
use super::{
    ReconcileError, Reconciler, View,
    assess::{self, Glance},
    crashes,
    execute::Faults,
    fold::{Around, fold},
    last_words::Failure,
    memory::{Failed, Remembered},
    plan::{self, Blueprint},
    reduce::{self, last_given},
    survey,
};
use crate::{
    db::ledger::{AcceptedDesired, Site},
    runtime::{
        BrokerEndpoint, ContainerSeen, ContainerState, IngestDoor, LogSource, RuntimeError, names::first_address,
    },
    workload::{self, mosquitto},
};
use redforge_shared::{
    desired::{InstanceSpec, Workload},
    ids::Digest,
    report::{Health, HostStatus, InstanceStatus, Reason, Sync},
    scale::Replicas,
};
use std::{collections::BTreeSet, net::SocketAddr, sync::PoisonError};
use time::Duration;

/// Shortest time between two reports that differ only in how far a fetch is.
const PROGRESS_PAUSE: Duration = Duration::seconds(1);

impl Reconciler {
    /// Containers that do what their spec asks for, and have for a while.
    pub(super) fn ready(&self, view: &View, memory: &Remembered) -> BTreeSet<String> {
        let before = self.status.borrow();
        let mut ready = BTreeSet::new();
        for (spec, wanted) in view.chosen.state.instances.iter().zip(&view.desired.instances) {
            let Blueprint::Ready(shape) = &wanted.blueprint else { continue };
            for c in view.seen.containers.iter().filter(|c| c.instance == spec.name && c.hash == shape.hash) {
                let glance = Glance {
                    container: Some(c),
                    app: view.apps.get(&c.id),
                    ..self.glance(view, memory, (spec, wanted), &before)
                };
                if assess::is_ready(&glance) {
                    ready.insert(c.id.clone());
                }
            }
        }
        ready
    }

    /// Does this container what its own spec asks for now?
    pub(super) fn does(&self, view: &View, memory: &Remembered, c: &ContainerSeen) -> bool {
        let before = self.status.borrow();
        let mut all = view.chosen.state.instances.iter().zip(&view.desired.instances);
        let Some((spec, wanted)) = all.find(|(spec, _)| spec.name == c.instance) else { return false };
        let is_right = matches!(&wanted.blueprint, Blueprint::Ready(shape) if shape.hash == c.hash);
        let glance = self.glance(view, memory, (spec, wanted), &before);
        is_right && assess::does(&Glance { container: Some(c), app: view.apps.get(&c.id), ..glance })
    }

    /// What can be said of one of the instance's containers, be it the one that serves or not.
    pub(super) fn verdict(
        &self,
        view: &View,
        memory: &Remembered,
        wanted: &plan::Wanted,
        container: &ContainerSeen,
        faults: &Faults,
    ) -> Option<InstanceStatus> {
        let before = self.status.borrow();
        let spec = view.chosen.state.instance(wanted.name.as_str())?;
        Some(assess::assess(&Glance {
            container: Some(container),
            app: view.apps.get(&container.id),
            fault: faults.get(&Some(wanted.name.clone())),
            ..self.glance(view, memory, (spec, wanted), &before)
        }))
    }

    fn glance<'a>(
        &'a self,
        view: &'a View,
        memory: &'a Remembered,
        (spec, wanted): (&'a InstanceSpec, &'a plan::Wanted),
        before: &'a HostStatus,
    ) -> Glance<'a> {
        let container = principal(view, wanted);
        Glance {
            spec,
            wanted,
            hold: view.site.hold(&spec.name),
            unmet: view.unmet.get(&spec.name),
            container,
            app: container.and_then(|c| view.apps.get(&c.id)),
            blocked: &[],
            back: view.chosen.back.get(&spec.name),
            trial_ends_at: self.trial_ends_at(view, memory, wanted),
            overdue: self.trials.get(&spec.name).is_some_and(|t| t.overdue && t.spec == wanted.spec),
            preflight: self.said.get(&spec.name).filter(|(spec, _)| *spec == wanted.spec).map(|(_, p)| p),
            now: self.deps.clock.now(),
            fault: None,
            memory,
            jobs: &self.jobs,
            probes: &self.probes,
            flow_sets: &self.flow_sets,
            homes: &view.homes,
            given: &view.given,
            before: before.instances.iter().find(|b| b.name == spec.name),
            dropped: self.dropped(view.homes.get(&spec.name)),
            scaled: view.counts.scaled.get(&spec.name).copied(),
            unproven: &self.lives.unproven,
        }
    }

    /// A spec that the engine or the workload refused is not tried again until it changes.
    pub(super) async fn remember_failures(
        &self,
        view: &View,
        faults: &Faults,
        memory: &mut Remembered,
    ) -> Result<(), ReconcileError> {
        for (name, asked) in &view.chosen.asked {
            let outdated = memory.failed.get(name).is_some_and(|f| f.spec != *asked);
            if outdated {
                memory.set_failed(&self.deps.ledger, name, None).await?;
            }
            // What fails on the way back says nothing about the spec that was asked for.
            if view.chosen.back.contains_key(name) {
                continue;
            }
            // A step that hangs once may do so always: where something worked before, that comes back.
            let hangs = |f: &ReconcileError| assess::late_step(f).is_some() && memory.can_go_back(name, *asked);
            let fault = faults.get(&Some(name.clone())).filter(|f| f.is_final() || hangs(f));
            if let Some((fault, (reason, names))) = fault.and_then(|f| Some((f, assess::fault_reason(f)?))) {
                let unrestarted = view.chosen.unrestarted.get(name).copied();
                let (late, detail) = (assess::late_step(fault), fault.engines_words());
                let failed = Failed { spec: *asked, reason, names, detail, late, unrestarted };
                self.keep_refused(view, name, &failed).await;
                memory.set_failed(&self.deps.ledger, name, Some(failed)).await?;
            }
        }
        Ok(())
    }

    /// Counts how often the containers that shall run have ended by themselves.
    pub(super) async fn remember_crashes(
        &mut self,
        view: &View,
        memory: &mut Remembered,
    ) -> Result<(), ReconcileError> {
        let now = self.deps.clock.now();
        let down = |id: &str| view.seen.containers.iter().any(|c| c.id == id && c.state == ContainerState::Exited);
        self.jobs.forget_stops(down);
        for wanted in &view.desired.instances {
            let Blueprint::Ready(shape) = &wanted.blueprint else { continue };
            for c in view.seen.containers.iter().filter(|c| c.instance == wanted.name && c.hash == shape.hash) {
                let before = memory.crashes.get(&c.id).map_or(0, |k| k.ends);
                let mut crashes = crashes::watch(memory.crashes.get(&c.id), c, now);
                // What came back stays to be read in its container; what failed is nowhere else.
                let is_news = |k: &&crashes::Crashes| k.ends > before && !view.chosen.back.contains_key(&wanted.name);
                if let Some(k) = crashes.as_ref().filter(is_news) {
                    let failure = Failure { reason: k.reason(), exit_code: k.exit_code, detail: None };
                    self.keep_last_words(view, &wanted.name, Some(c), failure).await;
                }
                // Flows that it was given in this run, which goes on, are none of those that ended it before.
                let given = last_given(&view.given, c, &view.homes).and_then(|given| given.since);
                let newer = given.zip(assess::started(c)).is_some_and(|(given, started)| given > started);
                if newer && c.state == ContainerState::Running {
                    crashes = crashes.and_then(|k| k.forgiven());
                }
                memory.set_crashes(&self.deps.ledger, &c.id, crashes).await?;
            }
        }
        let there = |id: &String| view.seen.containers.iter().any(|c| c.id == *id);
        let gone: Vec<String> = memory.crashes.keys().filter(|id| !there(id)).cloned().collect();
        for id in gone {
            memory.set_crashes(&self.deps.ledger, &id, None).await?;
        }
        Ok(())
    }

    /// Publishes the host's status; says whether it is another than before.
    pub(super) fn report(&self, view: &View, actual: &plan::Actual, faults: &Faults, memory: &Remembered) -> bool {
        let before = self.status.borrow().clone();
        let mut instances = Vec::new();
        for (spec, wanted) in view.chosen.state.instances.iter().zip(&view.desired.instances) {
            let blocked = plan::blocked_by(wanted, actual);
            let glance = Glance {
                blocked: &blocked,
                fault: faults.get(&Some(spec.name.clone())).or_else(|| faults.get(&None)),
                ..self.glance(view, memory, (spec, wanted), &before)
            };
            let mut status = self.of_all(view, (spec, wanted), &glance);
            if let (Some(Reason::PortTaken), [port]) = (status.reason, &*status.names) {
                let holder = survey::holder_of(port, &spec.name, &view.seen.containers).map(ToString::to_string);
                status.names.extend(holder);
            }
            self.grow_old(view, memory, &mut status);
            instances.push(status);
        }
        let wanted = |c: &ContainerSeen| view.chosen.state.instance(c.instance.as_str()).is_some();
        let leaving =
            |held| view.seen.containers.iter().any(|c| !wanted(c) && view.desired.held.covers(&c.instance) == held);
        let leaving = leaving(false).then_some(Sync::Updating).or(leaving(true).then_some(Sync::Paused));
        let status = reduce::host_status(&view.accepted, instances, leaving);
        // What is left over is found out at the end of the pass.
        let status = HostStatus { clean_up: before.clean_up, ..status };
        self.publish(status)
    }

    /// Replaces the status; says whether it is another than before. How far a fetch is changes at every look: that alone
    /// is told once a second at most, and calls for no pass.
    fn publish(&self, mut status: HostStatus) -> bool {
        let before = self.status.borrow().clone();
        let now = self.deps.clock.now();
        let mut told_at = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        // A clock that was set back must not keep it quiet.
        let due = told_at.is_none_or(|at| !(at..at + PROGRESS_PAUSE).contains(&now));
        if !due {
            for i in &mut status.instances {
                let told = before.instances.iter().find(|b| b.name == i.name).and_then(|b| b.progress.as_ref());
                if let (Some(told), Some(now)) = (told, &mut i.progress)
                    && told.what == now.what
                {
                    now.clone_from(told);
                }
            }
        }
        if before == status {
            return false;
        }
        if status.instances.iter().any(|i| i.progress.is_some()) && due {
            *told_at = Some(now);
        }
        let plain = |s: &HostStatus| {
            let mut s = s.clone();
            s.instances.iter_mut().for_each(|i| i.progress = None);
            s
        };
        let news = plain(&before) != plain(&status);
        self.status.send_replace(status);
        news
    }

    /// The instance's one status, whatever the number of its containers.
    fn of_all<'a>(
        &self,
        view: &'a View,
        (spec, wanted): (&InstanceSpec, &plan::Wanted),
        glance: &Glance<'a>,
    ) -> InstanceStatus {
        let own = || view.seen.containers.iter().filter(|c| c.instance == spec.name);
        let of = |c: &'a ContainerSeen| Glance { container: Some(c), app: view.apps.get(&c.id), ..*glance };
        let (hash, wish) = match &wanted.blueprint {
            Blueprint::Ready(shape) => (Some(&shape.hash), shape.replicas),
            Blueprint::NoImage | Blueprint::Unmet => (None, view.counts.of(spec)),
        };
        let is_right = |c: &&'a ContainerSeen| Some(&c.hash) == hash;
        // An outdated one that ever did serves until its successor does.
        let serves = |c: &&'a ContainerSeen| {
            if is_right(c) { assess::does(&of(c)) } else { c.named && assess::serves(glance, c) }
        };
        let desired = if spec.suspend { 0 } else { view.counts.short.get(&spec.name).copied().unwrap_or(wish) };
        // While they are replaced one more may serve: nobody asked for that one.
        let ready = (own().filter(serves).count() as u32).min(desired);
        let counts = Replicas { ready, desired, total: own().count() as u32 };
        let one = InstanceStatus { replicas: counts, ..assess::assess(glance) };
        if !spec.is_replicated() {
            return one;
        }
        let each: Vec<_> = own().filter(|c| !is_right(c) || c.replica < wish).map(|c| assess::assess(&of(c))).collect();
        let is_short = view.counts.short.contains_key(&spec.name);
        fold(one, &each, Around { counts, is_short, now: glance.now, before: glance.before })
    }

    /// The engine or the ledger gave no answer: nothing is known of the instances but what they should be.
    pub(super) fn report_blind(&self, accepted: &AcceptedDesired, error: &ReconcileError, site: Option<&Site>) {
        let unreachable = matches!(error, ReconcileError::Runtime(RuntimeError::Unreachable(_)));
        let before = self.status.borrow().clone();
        let now = self.deps.clock.now();
        let blind = |spec: &InstanceSpec| {
            let known = before.instances.iter().find(|b| b.name == spec.name).cloned();
            let mut status = known.unwrap_or_else(|| InstanceStatus::unseen(spec, now));
            if status.health != Health::Unknown {
                status.changed_at = now;
            }
            status.health = Health::Unknown;
            if let Some(site) = site {
                status.hold = site.hold(&spec.name).cloned();
            }
            match (&status.hold, status.reason) {
                (Some(_), reason) => {
                    (status.sync, status.reason) = (Sync::Paused, reason.or(Some(Reason::Held)));
                }
                (None, Some(Reason::Held)) => (status.sync, status.reason) = (Sync::OutOfDate, None),
                _ => {}
            }
            status
        };
        let status = HostStatus {
            generation: accepted.generation,
            spec_sha256: Some(accepted.sha256),
            health: Health::Error,
            sync: Sync::OutOfDate,
            reason: unreachable.then_some(Reason::RuntimeUnreachable),
            names: vec![],
            instances: accepted.state.instances.iter().map(blind).collect(),
            clean_up: before.clean_up.clone(),
        };
        self.status.send_if_modified(|s| std::mem::replace(s, status.clone()) != status);
    }

    pub(super) fn publish_sources(&self, view: &View) {
        let (mut brokers, mut logs) = (Vec::new(), Vec::new());
        for (spec, wanted) in view.chosen.state.instances.iter().zip(&view.desired.instances) {
            for c in view.seen.containers.iter().filter(|c| c.instance == spec.name) {
                let (instance, container_id) = (spec.name.clone(), c.id.clone());
                logs.push(LogSource { instance, container_id, collect: spec.collect_logs });
            }
            let Some(c) = principal(view, wanted) else { continue };
            if let (Workload::Mosquitto(_), ContainerState::Running, Some(address), Some(home)) =
                (&spec.workload, c.state, c.address, view.homes.get(&spec.name))
            {
                brokers.push(BrokerEndpoint {
                    instance: spec.name.clone(),
                    addr: SocketAddr::new(address, mosquitto::PORT),
                    home: home.clone(),
                    user: mosquitto::AGENT_USER.into(),
                    password: mosquitto::password(&self.secrets, &spec.name, mosquitto::AGENT_USER),
                });
            }
        }
        let door = self.ingest_door(view);
        self.door.send_if_modified(|d| std::mem::replace(d, door.clone()) != door);
        self.brokers.send_if_modified(|b| std::mem::replace(b, brokers.clone()) != brokers);
        self.logs.send_if_modified(|l| std::mem::replace(l, logs.clone()) != logs);
    }
}

impl Reconciler {
    /// The internal bridge's first address, and the tokens of those who may use it.
    fn ingest_door(&self, view: &View) -> Option<IngestDoor> {
        let subnet = view.seen.networks.get(self.names.network())?;
        let addr = first_address(subnet)?.into();
        let own = view.chosen.state.instances.iter().filter(|i| workload::hands_in(&i.workload));
        let token = |i: &InstanceSpec| Digest::of(workload::ingest_token(&self.secrets, &i.name).as_bytes());
        Some(IngestDoor { addr, tokens: own.map(|i| (token(i), i.name.clone())).collect() })
    }
}

/// The one of an instance's containers that a status speaks of: the one that serves under the instance's name, the right
/// one before an outdated one.
pub(super) fn principal<'a>(view: &'a View, wanted: &plan::Wanted) -> Option<&'a ContainerSeen> {
    let right = |c: &ContainerSeen| matches!(&wanted.blueprint, Blueprint::Ready(shape) if shape.hash == c.hash);
    let own = view.seen.containers.iter().filter(|c| c.instance == wanted.name);
    own.max_by_key(|c| (c.named && c.state == ContainerState::Running, right(c)))
}
