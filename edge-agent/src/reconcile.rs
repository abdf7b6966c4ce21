//! The loop that makes the host what its ledger says: observe, plan, execute, report. End of the flow down.
//!
//! It reads the ledger and the engine and nothing else: whether a hub is there makes no difference. A pass is idempotent
//! and retries nothing; the next pass is the retry. Containers outlive it.
use crate::{
    db::ledger::{AcceptedDesired, Ledger, Site},
    privacy::RawDraft,
    runtime::{
        BrokerEndpoint, BrokersHeard, HostSeen, IngestDoor, LogSource, QueuesHeard, Runtime,
        names::{Names, Pool},
    },
    workload::{self, Rendered, Secrets, Surroundings, Unmet},
};
use bring::Shelf;
use choose::Chosen;
use clean_up::{CleanUp, volumes::Looks};
use deadlines::Deadlines;
pub use fault::ReconcileError;
pub use fold::capacity;
use futures_util::{StreamExt, stream::BoxStream};
use jobs::Jobs;
use knock::Doors;
use lives::Lives;
use memory::Remembered;
use modules::ModulesSeen;
use observe::{AppSeen, FlowSets};
use probes::Probes;
use redforge_shared::{
    clock::SharedClock,
    daemon::Pulse,
    desired::DesiredState,
    error::Chain,
    ids::{Digest, HostId, Name},
    report::{Health, HostStatus, Phase, Sync},
};
use scaling::{Counts, Loads};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};
use time::OffsetDateTime;
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;
use trial::Trials;

mod assess;
pub mod bring;
mod choose;
pub mod clean_up;
pub mod crashes;
pub mod deadlines;
mod developer;
mod drift;
mod execute;
mod fault;
mod fetches;
mod fold;
mod jobs;
mod knock;
mod last_words;
mod lives;
mod memory;
mod modules;
mod observe;
pub mod plan;
pub mod preflight;
mod probes;
mod reduce;
mod report;
mod safe;
mod scaling;
mod sessions;
pub mod sources;
mod survey;
#[cfg(test)]
mod tests;
mod trial;

/// Longest wait between two passes: what no hint told is found out then.
const TICK: Duration = Duration::from_secs(10);
/// Wait while something is under way; grows towards [`TICK`] while nothing changes.
const SOON: Duration = Duration::from_millis(500);
/// Longest wait while bytes come in: what is told of them is no older.
const WATCHING: Duration = Duration::from_secs(2);
/// Wait after something moved: what follows from it is planned at once.
const AT_ONCE: Duration = Duration::from_millis(50);
/// After a hint from the engine, so that a burst of them costs one pass.
const GATHER: Duration = Duration::from_millis(200);

/// What a reconciler works with.
pub struct Deps {
    pub ledger: Ledger,
    pub runtime: Arc<dyn Runtime>,
    /// `blobs/sha256` of the state folder is below this `blobs`.
    pub blobs: PathBuf,
    pub clock: SharedClock,
    pub host: HostId,
    /// From where the internal network's subnet is taken.
    pub pool: Pool,
    /// The internal network's subnet, when it is set by hand.
    pub subnet: Option<String>,
    /// How long each step of a change may take, before the last good one comes back.
    pub deadlines: Deadlines,
    /// What stays free whatever is wanted.
    pub limits: preflight::Limits,
    /// Where the agent takes records on the internal bridge.
    pub gateway_port: u16,
    /// What `collect` hears of the host's brokers. None: nothing is collected, and no instance waits for a session.
    pub brokers_heard: Option<watch::Receiver<BrokersHeard>>,
    /// What instances say that waits for them. None: nobody listens.
    pub queues_heard: Option<watch::Receiver<QueuesHeard>>,
    /// What the host has for its instances; none = not known, and taken as enough.
    pub capacity: Option<plan::room::Capacity>,
    /// When what nothing needs is removed.
    pub clean_up: CleanUp,
    /// The agent's own disk is full: its reserve is given back. None: nobody looks.
    pub disk_full: Option<watch::Receiver<bool>>,
    /// Where images come from that neither the host nor the hub has.
    pub registries: Arc<sources::Registries>,
}

/// The loop's state; all of it can be found out again.
pub struct Reconciler {
    deps: Deps,
    names: Names,
    memory: Option<Remembered>,
    secrets: Secrets,
    flow_sets: FlowSets,
    modules: ModulesSeen,
    ended_with: safe::EndedWith,
    jobs: Jobs,
    trials: Trials,
    /// When something ends by itself that a pass has to see.
    wake: Option<Instant>,
    said: survey::Said,
    doors: Doors,
    probes: Probes,
    shelf: Shelf,
    lives: Lives,
    /// What was named when the blobs were last looked through.
    swept: Option<BTreeSet<Digest>>,
    looks: Looks,
    /// What clean-up could free at once.
    reclaimable_bytes: u64,
    /// Room is short: what can be fetched again goes before its time.
    short: bool,
    loads: Loads,
    status: watch::Sender<HostStatus>,
    /// When a fetch's progress was last told.
    told: Mutex<Option<OffsetDateTime>>,
    brokers: watch::Sender<Vec<BrokerEndpoint>>,
    logs: watch::Sender<Vec<LogSource>>,
    door: watch::Sender<Option<IngestDoor>>,
    edited: watch::Sender<Vec<RawDraft>>,
    /// Why the last pass failed.
    trouble: Option<String>,
}

/// How soon to look again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// The status is another than before, or something was done that changes it.
    Changed,
    /// Something was done or is being waited for.
    UnderWay,
    /// Bytes come in, and how many is told.
    Fetching,
    /// All is as it shall be, or as it will stay until somebody acts.
    Settled,
}

/// One pass's view of the host.
struct View {
    accepted: Arc<AcceptedDesired>,
    chosen: Chosen,
    site: Site,
    seen: HostSeen,
    rendered: BTreeMap<Name, Rendered>,
    unmet: BTreeMap<Name, Unmet>,
    /// By container.
    apps: BTreeMap<String, AppSeen>,
    desired: plan::Desired,
    /// Where each broker keeps its sessions and each Node-RED its flows.
    homes: BTreeMap<Name, String>,
    counts: Counts,
    /// Flow sets that had been given when the host was looked at.
    given: BTreeMap<Name, plan::GivenAt>,
}

impl Reconciler {
    /// A reconciler that has not looked yet.
    pub fn new(deps: Deps) -> Self {
        let nothing = HostStatus {
            generation: 0,
            spec_sha256: None,
            health: Health::Unknown,
            sync: Sync::OutOfDate,
            reason: None,
            names: vec![],
            instances: vec![],
            clean_up: Default::default(),
        };
        let jobs = Jobs::default();
        Self {
            names: Names::new(deps.host),
            shelf: Shelf {
                ledger: deps.ledger.clone(),
                folder: deps.blobs.join("sha256"),
                registries: deps.registries.clone(),
            },
            lives: Lives::default(),
            swept: None,
            looks: Looks::default(),
            reclaimable_bytes: 0,
            short: false,
            deps,
            memory: None,
            secrets: Secrets::new(),
            flow_sets: FlowSets::new(),
            modules: ModulesSeen::new(jobs.done()),
            ended_with: safe::EndedWith::new(),
            probes: Probes::new(jobs.done()),
            jobs,
            trials: Trials::default(),
            wake: None,
            said: survey::Said::default(),
            doors: Doors::default(),
            loads: Loads::default(),
            status: watch::Sender::new(nothing),
            told: Mutex::default(),
            brokers: watch::Sender::new(vec![]),
            logs: watch::Sender::new(vec![]),
            door: watch::Sender::new(None),
            edited: watch::Sender::new(vec![]),
            trouble: None,
        }
    }

    /// The host as the last pass found it.
    pub fn status(&self) -> watch::Receiver<HostStatus> {
        self.status.subscribe()
    }

    /// Brokers that records are collected from.
    pub fn brokers(&self) -> watch::Receiver<Vec<BrokerEndpoint>> {
        self.brokers.subscribe()
    }

    /// Containers whose output may be collected.
    pub fn logs(&self) -> watch::Receiver<Vec<LogSource>> {
        self.logs.subscribe()
    }

    /// Where instances hand in records, once their network is there.
    pub fn door(&self) -> watch::Receiver<Option<IngestDoor>> {
        self.door.subscribe()
    }

    /// Flows that were edited where edits are adopted.
    pub fn edited(&self) -> watch::Receiver<Vec<RawDraft>> {
        self.edited.subscribe()
    }

    /// Passes until `stop`; `pulse` beats at each. A pass that is cut off is as good as one that a crash cut off.
    pub async fn run(mut self, pulse: Pulse, stop: CancellationToken) {
        let mut ledger = self.deps.ledger.subscribe();
        let done = self.jobs.done();
        let mut heard = self.deps.brokers_heard.clone();
        let mut queues = self.deps.queues_heard.clone();
        let mut full = self.deps.disk_full.clone();
        let mut events: Option<BoxStream<'static, ()>> = None;
        let mut wait = SOON;
        loop {
            pulse.beat();
            let (self_ledger, begun) = (self.deps.ledger.clone(), self.deps.ledger.accepted());
            let pace = tokio::select! {
                () = stop.cancelled() => return,
                pace = self.pass() => pace,
                () = deadlines::a_newer_one(self_ledger, begun) => {
                    tracing::warn!("a pass hangs and a newer desired state is there, beginning anew");
                    Pace::Changed
                }
            };
            wait = match pace {
                Pace::Changed => AT_ONCE,
                Pace::UnderWay => (wait * 3 / 2).clamp(SOON, TICK),
                Pace::Fetching => (wait * 3 / 2).clamp(SOON, WATCHING),
                Pace::Settled => TICK,
            };
            let events_now = events.get_or_insert_with(|| self.deps.runtime.events(self.deps.host));
            let mut gather = Duration::ZERO;
            tokio::select! {
                () = stop.cancelled() => return,
                news = ledger.changed() => if news.is_err() { return },
                () = done.notified() => {}
                () = sessions::news(&mut heard) => {}
                () = scaling::news(&mut queues) => gather = SOON,
                () = clean_up::news(&mut full) => {}
                opened = self.doors.one_opens() => {
                    self.doors.note(opened);
                    wait = SOON;
                }
                // An engine that is away ends its events at once: then only the wait, which grows, asks again.
                event = events_now.next(), if self.trouble.is_none() => match event {
                    Some(()) => gather = GATHER,
                    // The engine went away; it is asked again after the next pass.
                    None => { events = None; gather = SOON; }
                },
                () = tokio::time::sleep(self.sooner(wait)) => {}
            }
            if !gather.is_zero() {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(gather) => {}
                }
            }
        }
    }

    /// Looks, plans, acts and reports once.
    pub async fn pass(&mut self) -> Pace {
        // Nothing was ever accepted: nothing is touched.
        let Some(accepted) = self.deps.ledger.desired() else { return Pace::Settled };
        match self.try_pass(accepted.clone()).await {
            Ok(pace) => {
                if self.trouble.take().is_some() {
                    tracing::info!(generation = accepted.generation, "passes succeed again");
                }
                pace
            }
            Err(e) => {
                let trouble = Chain(&e).to_string();
                // Every pass meets it again; it is said when it is news.
                if self.trouble.as_ref() != Some(&trouble) {
                    tracing::warn!(error = trouble, generation = accepted.generation, "pass failed, it is tried again");
                }
                self.trouble = Some(trouble);
                // The site's rows need no engine: who holds what is told, and ends, without one too.
                let site = self.deps.ledger.site(self.deps.clock.now()).await.ok();
                self.report_blind(&accepted, &e, site.as_ref());
                Pace::UnderWay
            }
        }
    }

    async fn try_pass(&mut self, accepted: Arc<AcceptedDesired>) -> Result<Pace, ReconcileError> {
        let mut memory = match self.memory.take() {
            Some(memory) => memory,
            None => Remembered::load(&self.deps.ledger).await.map_err(ReconcileError::Ledger)?,
        };
        let result = self.pass_with(accepted, &mut memory).await;
        self.memory = Some(memory);
        result
    }

    async fn pass_with(
        &mut self,
        accepted: Arc<AcceptedDesired>,
        memory: &mut Remembered,
    ) -> Result<Pace, ReconcileError> {
        let ledger = self.deps.ledger.clone();
        for brought in self.jobs.take_ended() {
            fetches::remember(&ledger, memory, brought).await?;
        }
        memory.forget_others(&ledger, &accepted.state).await?;
        self.forget_logs(&accepted).await?;
        self.note_queues(&accepted.state);
        let mut view = self.look(accepted, memory).await?;
        let wanted = fetches::wanted(&view.chosen.state);
        self.jobs.keep_wanted(&wanted);
        memory.forget_begun(&ledger, |job| !wanted.contains(job)).await?;
        self.remember_sessions(&view, memory).await?;
        self.remember_crashes(&view, memory).await?;
        self.keep_asking(&view);
        self.remember_counts(&view, memory).await?;
        self.keep_edits(&view, memory).await?;
        self.watch_lives(&view, memory);
        let ready = self.ready(&view, memory);
        let mut actual = plan::Actual {
            busy: self.jobs.busy(),
            resting: memory.resting(),
            unproven: self.lives.unproven.clone(),
            ..reduce::actual(&view.chosen.state, &view.seen, &view.apps, &self.flow_sets, &view.homes, &ready)
        };
        self.safe_mode(&view, memory, &mut actual);
        self.preflight(&mut view, &actual, memory).await?;
        let steps = plan::plan(&view.desired, &memory.for_plan(), &actual);

        let addresses = observe::addresses(&view.seen);
        let subnets = self.subnets(&steps).await?;
        let mut deeds = execute::Deeds {
            names: &self.names,
            runtime: &self.deps.runtime,
            ledger: &ledger,
            desired: &view.chosen.state,
            rendered: &view.rendered,
            secrets: &self.secrets,
            flow_sets: &self.flow_sets,
            blobs: &self.deps.blobs,
            addresses: &addresses,
            subnets: &subnets,
            deadlines: &self.deps.deadlines,
            memory,
            jobs: &mut self.jobs,
            shelf: &self.shelf,
            now: self.deps.clock.now(),
        };
        let faults = deeds.take_all(&steps).await;
        self.remember_failures(&view, &faults, memory).await?;
        let changed = self.report(&view, &actual, &faults, memory);
        self.remember_ages(&view, memory).await?;
        self.note_given(&view, memory).await?;
        self.publish_edited(&view).await;
        let ended = self.end_trials(&view, &ready, &faults, memory).await?;
        self.clean_up(&view, memory).await?;
        self.wake = self.next_look(&view, memory);
        self.publish_sources(&view);
        self.remember_doors(&view);
        let scales = self.measure(&view, &ready, memory).await;
        let status = self.status.borrow();
        let coming_up = status.instances.iter().any(|i| i.sync == Sync::Updating || i.phase == Phase::Pulling);
        let fetching = status.instances.iter().any(|i| i.progress.is_some());
        let moved = scales || ended || faults.is_empty() && steps.iter().any(plan::Step::moves);
        Ok(match (changed || moved, steps.is_empty() && !coming_up) {
            (true, _) => Pace::Changed,
            (false, _) if fetching => Pace::Fetching,
            (false, false) => Pace::UnderWay,
            (false, true) => Pace::Settled,
        })
    }

    async fn look(&mut self, accepted: Arc<AcceptedDesired>, memory: &Remembered) -> Result<View, ReconcileError> {
        let now = self.deps.clock.now();
        let site = self.deps.ledger.site(now).await.map_err(ReconcileError::Ledger)?;
        if site.unsettled {
            let ended = self.deps.ledger.settle_holds(now).await.map_err(ReconcileError::Ledger)?;
            tracing::info!(ended = ended.join(", "), "holds have ended");
        }
        let given = memory::given(&self.deps.ledger).await?;
        let chosen = choose::choose(&accepted.state, &site, &given, memory, now);
        self.draw_secrets(&chosen.state).await?;
        self.read_flow_sets(&chosen.state).await;
        let seen = self.deps.runtime.observe(&self.names).await.map_err(ReconcileError::Runtime)?;
        let (mut rendered, mut unmet) = (BTreeMap::new(), BTreeMap::new());
        let state = &chosen.state;
        for spec in &state.instances {
            // Told before anything is fetched.
            if let Some(missing) = workload::secrets_missing(spec, &given) {
                unmet.insert(spec.name.clone(), missing);
                continue;
            }
            let Some(image) = chosen.image(spec, memory) else { continue };
            let site_nonce = site.nonces.get(&spec.name).map(String::as_str).unwrap_or_default();
            let around = Surroundings {
                names: &self.names,
                desired: state,
                secrets: &self.secrets,
                given: &given,
                flow_set: spec.flow_set().and_then(|d| self.flow_sets.get(&d)).map(|s| &**s),
                site_nonce,
                gateway_port: self.deps.gateway_port,
            };
            match workload::render(spec, image, around) {
                Ok(r) => drop(rendered.insert(spec.name.clone(), r)),
                Err(u) => drop(unmet.insert(spec.name.clone(), u)),
            }
        }
        let homes = sessions::homes(state, &rendered, &seen);
        let waits = self.waits(state, &homes, memory);
        let counts = self.counts(state, memory);
        let around = (&counts, self.deps.capacity);
        let desired = reduce::desired(&self.names, &chosen, &site, (&rendered, &unmet), &waits, around);
        let mut apps = observe::apps(&*self.deps.runtime, state, &seen, &self.secrets, &self.flow_sets).await;
        self.modules.note(&self.deps.runtime, (state, &self.flow_sets), &seen, &mut apps);
        let given = memory.for_plan().deployed;
        Ok(View { accepted, chosen, site, seen, rendered, unmet, apps, desired, homes, counts, given })
    }

    /// Secrets are drawn once and then the same for ever: rendering twice gives the same bytes.
    async fn draw_secrets(&mut self, state: &DesiredState) -> Result<(), ReconcileError> {
        for (name, bytes) in workload::secrets_needed(state) {
            if self.secrets.contains_key(&name) {
                continue;
            }
            let draw = move || {
                let mut secret = vec![0; bytes];
                aws_lc_rs::rand::fill(&mut secret).expect("the system has random bytes");
                secret
            };
            let secret = self.deps.ledger.local_secret(&name, draw).await.map_err(ReconcileError::Ledger)?;
            self.secrets.insert(name, secret);
        }
        Ok(())
    }
}
