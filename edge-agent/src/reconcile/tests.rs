//! Whole passes over an engine in memory and a real ledger.
use super::*;
use crate::{
    db::ledger::Scope,
    runtime::{ContainerState, fake::FakeRuntime},
};
use proptest::prelude::*;
use redforge_shared::{
    clock::ManualClock,
    desired::{Container, InstanceSpec, Mosquitto, NodeRed, SCHEMA, Volume, Workload},
    policy::Policy,
    report::{Hold, InstanceStatus, Reason},
};

mod changes;
mod clean_up;
mod data;
mod in_turn;
mod last_words;
mod lives;
mod replicas;
mod scaling;
mod sources;
mod trust;

const IMAGES: [(&str, &[&str]); 4] =
    [("box", &[]), ("box2", &[]), ("broker", &["/mosquitto/data"]), ("flows", &["/data"])];

fn name(s: &str) -> Name {
    s.parse().expect("a name")
}

fn host(n: u8) -> HostId {
    HostId(uuid::Uuid::from_bytes([n; 16]))
}

fn spec(instance: &str, image: &str, workload: Workload) -> InstanceSpec {
    InstanceSpec::bare(name(instance), image, workload)
}

fn plain(instance: &str) -> InstanceSpec {
    spec(instance, "box", Workload::Container(Container::default()))
}

/// An agent on a shared engine.
struct Agent {
    reconciler: Reconciler,
    ledger: Ledger,
    id: HostId,
    generation: u64,
    _dir: tempfile::TempDir,
}

impl Agent {
    async fn on(engine: &Arc<FakeRuntime>, id: HostId) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let ledger = Ledger::open(&dir.path().join("ledger.db")).await.expect("a ledger");
        let reconciler = Reconciler::new(deps(engine, &ledger, id));
        Self { reconciler, ledger, id, generation: 0, _dir: dir }
    }

    /// Another process on the same ledger and engine.
    fn restart(&mut self, engine: &Arc<FakeRuntime>) {
        self.reconciler = Reconciler::new(deps(engine, &self.ledger, self.id));
    }

    async fn want(&mut self, mut instances: Vec<InstanceSpec>) {
        instances.sort_by(|a, b| a.name.cmp(&b.name));
        instances.dedup_by(|a, b| a.name == b.name);
        let state = DesiredState {
            schema: SCHEMA,
            host: self.id,
            host_name: name("h"),
            site: name("s"),
            policy: Policy::Open,
            instances,
        };
        let document = state.canonical().expect("a document");
        self.generation += 1;
        self.ledger.accept(self.generation, document.bytes.into(), document.sha256).await.expect("valid");
    }

    async fn passes(&mut self, n: usize) {
        for _ in 0..n {
            self.reconciler.pass().await;
            // What runs beside the passes gets its turn; the fake's jobs need no more than one.
            for _ in 0..4 {
                tokio::task::yield_now().await;
            }
        }
    }

    fn status(&self, instance: &str) -> InstanceStatus {
        let status = self.reconciler.status.borrow();
        status.instances.iter().find(|i| i.name.as_str() == instance).cloned().expect("it is reported")
    }
}

fn deps(engine: &Arc<FakeRuntime>, ledger: &Ledger, host: HostId) -> Deps {
    Deps {
        ledger: ledger.clone(),
        runtime: engine.clone(),
        blobs: PathBuf::new(),
        clock: Arc::new(ManualClock::new(time::OffsetDateTime::UNIX_EPOCH)),
        host,
        pool: "10.231.64.0/18".parse().expect("a pool"),
        subnet: None,
        // What is not there at the first look has failed.
        deadlines: Deadlines { healthy: Duration::ZERO, hot_deploy: Duration::ZERO, ..Deadlines::default() },
        limits: preflight::Limits::default(),
        gateway_port: 7462,
        brokers_heard: None,
        capacity: None,
        clean_up: CleanUp { enabled: true, min_age: Duration::from_secs(60), keep_data: None },
        disk_full: None,
        registries: Arc::default(),
        queues_heard: None,
    }
}

fn engine() -> Arc<FakeRuntime> {
    Arc::new(FakeRuntime::with_images(IMAGES))
}

#[tokio::test]
async fn nothing_accepted_means_nothing_touched() {
    let engine = engine();
    let mut agent = Agent::on(&engine, host(1)).await;
    agent.passes(3).await;
    assert_eq!(engine.take_journal(), Vec::<String>::new());
}

#[tokio::test]
async fn a_pass_over_the_reached_state_changes_nothing() {
    let engine = engine();
    let mut agent = Agent::on(&engine, host(1)).await;
    let broker = spec("broker", "broker", Workload::Mosquitto(Mosquitto::default()));
    agent.want(vec![plain("a"), broker, spec("flows", "flows", Workload::NodeRed(NodeRed::default()))]).await;
    agent.passes(5).await;
    assert_eq!(engine.containers().len(), 3);
    engine.take_journal();
    agent.passes(3).await;
    assert_eq!(engine.take_journal(), Vec::<String>::new());
    let status = agent.status("a");
    assert_eq!((status.phase, status.health, status.sync), (Phase::Running, Health::Healthy, Sync::UpToDate));
}

#[tokio::test]
async fn every_volume_of_an_image_gets_a_name_and_no_capability_is_kept_that_is_not_needed() {
    let engine = engine();
    let mut agent = Agent::on(&engine, host(1)).await;
    let broker = spec("broker", "broker", Workload::Mosquitto(Mosquitto::default()));
    agent.want(vec![broker, spec("flows", "flows", Workload::NodeRed(NodeRed::default()))]).await;
    agent.passes(3).await;
    for (name, (_, _, spec)) in engine.containers() {
        assert_eq!(spec.capabilities, Vec::<String>::new(), "{name}");
        let data = spec.mounts.iter().filter(|m| !m.read_only).map(|m| m.path.as_str()).collect::<Vec<_>>();
        assert_eq!(data, [if name.contains("broker") { "/mosquitto/data" } else { "/data" }], "{name}");
    }
}

#[tokio::test]
async fn what_is_held_is_left_alone_and_told_and_goes_on_by_itself() {
    let (engine, begun) = (engine(), time::OffsetDateTime::UNIX_EPOCH);
    let mut agent = Agent::on(&engine, host(1)).await;
    let clock = ManualClock::new(begun);
    agent.reconciler.deps.clock = Arc::new(clock.clone());
    agent.want(vec![versioned("box", true), plain("b")]).await;
    agent.passes(4).await;
    let until = begun + time::Duration::minutes(10);
    let hold = Hold { by: "anna".into(), reason: "belt is open".into(), since: begun, until, whole_host: false };
    for instance in ["a", "b"] {
        agent.ledger.hold(&Scope::Instance(name(instance)), &hold).await.expect("commits");
    }
    // Another version of one, the end of the other, another agent process: nothing is touched.
    agent.want(vec![versioned("box2", true)]).await;
    let before = engine.containers();
    agent.passes(4).await;
    agent.restart(&engine);
    clock.advance(Duration::from_secs(599));
    agent.reconciler.deps.clock = Arc::new(clock.clone());
    agent.passes(4).await;
    assert_eq!(engine.containers(), before);
    let status = agent.status("a");
    assert_eq!((status.sync, status.reason, status.hold), (Sync::Paused, Some(Reason::Held), Some(hold)));
    assert_eq!(status.health, Health::Healthy, "a hold says nothing about health");
    assert_eq!(agent.reconciler.status.borrow().sync, Sync::Paused);
    clock.advance(Duration::from_secs(1));
    agent.passes(8).await;
    let status = agent.status("a");
    assert_eq!((status.sync, status.reason, status.hold), (Sync::UpToDate, None, None));
    assert_eq!(images_running(&engine), ["sha256:box2"]);
}

#[tokio::test]
async fn a_hold_is_told_and_ends_while_no_engine_answers() {
    let (engine, begun) = (engine(), time::OffsetDateTime::UNIX_EPOCH);
    let mut agent = Agent::on(&engine, host(1)).await;
    let clock = ManualClock::new(begun);
    agent.reconciler.deps.clock = Arc::new(clock.clone());
    agent.want(vec![versioned("box", true)]).await;
    engine.go_away(true);
    agent.passes(1).await;
    let until = begun + time::Duration::minutes(10);
    let hold = Hold { by: "anna".into(), reason: "belt is open".into(), since: begun, until, whole_host: false };
    agent.ledger.hold(&Scope::Instance(name("a")), &hold).await.expect("commits");
    agent.passes(1).await;
    let status = agent.status("a");
    assert_eq!((status.health, status.sync, status.reason), (Health::Unknown, Sync::Paused, Some(Reason::Held)));
    assert_eq!(status.hold, Some(hold));
    assert_eq!(agent.reconciler.status.borrow().reason, Some(Reason::RuntimeUnreachable));
    clock.advance(Duration::from_secs(601));
    agent.passes(1).await;
    let status = agent.status("a");
    assert_eq!((status.sync, status.reason, status.hold), (Sync::OutOfDate, None, None));
}

#[tokio::test]
async fn a_taken_subnet_leads_to_the_next_and_is_kept() {
    let engine = engine();
    engine.take_subnet("10.231.64.0/24");
    let mut agent = Agent::on(&engine, host(1)).await;
    agent.want(vec![plain("a")]).await;
    agent.passes(3).await;
    let kept = agent.ledger.kv_get(execute::SUBNET_KEY).await.expect("the ledger answers");
    assert_eq!(kept.as_deref(), Some(&b"10.231.65.0/24"[..]));
}

#[tokio::test]
async fn a_missing_broker_is_named_and_the_others_go_on() {
    let engine = engine();
    let mut agent = Agent::on(&engine, host(1)).await;
    let flows = NodeRed { broker: Some(name("gone")), ..NodeRed::default() };
    agent.want(vec![plain("a"), spec("flows", "flows", Workload::NodeRed(flows))]).await;
    agent.passes(3).await;
    let status = agent.status("flows");
    assert_eq!((status.reason, status.names), (Some(Reason::WaitingForInstance), vec!["gone".to_owned()]));
    assert_eq!(agent.status("a").health, Health::Healthy);
}

#[tokio::test]
async fn rendering_twice_gives_the_same_bytes_after_a_restart_of_the_agent_too() {
    let engine = engine();
    let mut agent = Agent::on(&engine, host(1)).await;
    let broker = || spec("broker", "broker", Workload::Mosquitto(Mosquitto::default()));
    let flows = || spec("flows", "flows", Workload::NodeRed(NodeRed::default()));
    agent.want(vec![broker(), flows()]).await;
    agent.passes(4).await;
    engine.take_journal();
    agent.restart(&engine);
    agent.passes(3).await;
    assert_eq!(engine.take_journal(), Vec::<String>::new());
}

/// With data, so that two of it cannot run at once; or without.
fn versioned(image: &str, data: bool) -> InstanceSpec {
    let mut spec = spec("a", image, Workload::Container(Container::default()));
    spec.volumes = data.then(|| Volume { name: name("keep"), path: "/keep".into() }).into_iter().collect();
    spec
}

fn images_running(engine: &FakeRuntime) -> Vec<String> {
    let running = |(_, state, _): &(HostId, ContainerState, _)| *state == ContainerState::Running;
    engine.containers().into_values().filter(running).map(|(.., spec)| spec.image_id).collect()
}

#[tokio::test]
async fn a_container_that_ignores_its_stop_holds_up_no_other() {
    let engine = engine();
    let mut agent = Agent::on(&engine, host(1)).await;
    agent.want(vec![versioned("box", true), plain("b")]).await;
    agent.passes(4).await;
    let slow = agent.reconciler.names.container(&name("a"), 0);
    engine.stick(&slow, true);
    let mut other = plain("b");
    other.image = "box2".into();
    agent.want(vec![versioned("box2", true), other, plain("c")]).await;
    agent.passes(8).await;
    assert_eq!((agent.status("b").sync, agent.status("c").sync), (Sync::UpToDate, Sync::UpToDate));
    let status = agent.status("a");
    assert_eq!((status.phase, status.sync), (Phase::Running, Sync::Updating), "it still runs, and is being replaced");
    engine.take_journal();
    agent.passes(3).await;
    assert_eq!(engine.take_journal(), Vec::<String>::new(), "it is asked to end once");
    engine.stick(&slow, false);
    agent.passes(4).await;
    assert_eq!(agent.status("a").sync, Sync::UpToDate);
    assert_eq!(images_running(&engine), ["sha256:box2"; 2].into_iter().chain(["sha256:box"]).collect::<Vec<_>>());
}

#[tokio::test]
async fn what_never_comes_up_makes_way_for_what_worked_and_is_not_tried_again_unchanged() {
    for data in [true, false] {
        let engine = engine();
        let mut agent = Agent::on(&engine, host(1)).await;
        agent.want(vec![versioned("box", data)]).await;
        agent.passes(4).await;
        engine.crash_image("box2", true);
        agent.want(vec![versioned("box2", data)]).await;
        agent.passes(10).await;
        let status = agent.status("a");
        assert_eq!((status.phase, status.health, status.sync), (Phase::Running, Health::Healthy, Sync::RolledBack));
        assert_eq!((status.reason, status.names), (Some(Reason::ContainerExited), vec!["box2".to_owned()]));
        assert_eq!(agent.reconciler.status.borrow().sync, Sync::RolledBack);
        assert_eq!(images_running(&engine), ["sha256:box"]);
        // Neither more passes, nor a new process, nor another generation with the same spec try it again.
        engine.take_journal();
        agent.passes(3).await;
        agent.restart(&engine);
        agent.want(vec![versioned("box2", data), plain("z")]).await;
        agent.passes(4).await;
        let journal = engine.take_journal();
        assert!(journal.iter().all(|j| j.contains("-z-")), "{journal:?}");
        assert_eq!(agent.status("a").sync, Sync::RolledBack);
        // A changed nonce does, and what was wrong has been mended.
        engine.crash_image("box2", false);
        let again = InstanceSpec { restart_nonce: "1".into(), ..versioned("box2", data) };
        agent.want(vec![again]).await;
        agent.passes(8).await;
        let status = agent.status("a");
        assert_eq!((status.sync, status.reason), (Sync::UpToDate, None));
        assert_eq!(images_running(&engine), ["sha256:box2"]);
    }
}

#[tokio::test]
async fn a_refused_container_makes_way_for_what_worked_at_once() {
    let engine = engine();
    let mut agent = Agent::on(&engine, host(1)).await;
    agent.want(vec![versioned("box", true)]).await;
    agent.passes(4).await;
    engine.refuse_image("box2");
    agent.want(vec![versioned("box2", true)]).await;
    agent.passes(8).await;
    let status = agent.status("a");
    assert_eq!((status.sync, status.reason), (Sync::RolledBack, Some(Reason::StartRefused)));
    assert_eq!(images_running(&engine), ["sha256:box"]);
}

#[tokio::test]
async fn with_nothing_to_go_back_to_the_new_one_is_left_to_try_and_says_how_it_ends() {
    let engine = engine();
    engine.crash_image("box2", true);
    let mut agent = Agent::on(&engine, host(1)).await;
    agent.want(vec![versioned("box2", true)]).await;
    agent.passes(6).await;
    let status = agent.status("a");
    assert_eq!((status.phase, status.health, status.sync), (Phase::Crashed, Health::Error, Sync::UpToDate));
    assert_eq!((status.reason, status.exit_code), (Some(Reason::ContainerExited), Some(7)));
}

#[tokio::test]
async fn an_image_reference_means_what_it_meant_when_it_was_first_used() {
    let engine = engine();
    let mut agent = Agent::on(&engine, host(1)).await;
    agent.want(vec![plain("a")]).await;
    agent.passes(3).await;
    engine.retag("box", "sha256:moved");
    engine.take_journal();
    agent.passes(2).await;
    agent.restart(&engine);
    agent.passes(3).await;
    assert_eq!(engine.take_journal(), Vec::<String>::new(), "a moved tag replaced a container");
    // Once nobody refers to it, the next one who does asks anew.
    agent.want(vec![]).await;
    agent.passes(3).await;
    agent.want(vec![plain("a")]).await;
    agent.passes(4).await;
    assert_eq!(images_running(&engine), ["sha256:moved"]);
}

prop_compose! {
    fn any_instance()(
        who in 0..4_usize, kind in 0..3_u8, flags in any::<[bool; 4]>(), replicas in 1..4_u32,
    ) -> InstanceSpec {
        let who = ["a", "b", "c", "d"][who];
        let mut spec = match kind {
            0 => plain(who),
            1 => spec(who, "broker", Workload::Mosquitto(Mosquitto::default())),
            _ => spec(who, "flows", Workload::NodeRed(NodeRed::default())),
        };
        let [egress, suspend, volume, nonce] = flags;
        if kind == 0 && nonce {
            spec.image = "box2".into();
        }
        spec.egress = egress;
        spec.suspend = suspend;
        spec.restart_nonce = if nonce { "1".into() } else { String::new() };
        spec.volumes = volume.then(|| Volume { name: name("keep"), path: "/keep".into() }).into_iter().collect();
        if kind != 1 && !volume {
            spec.replicas = replicas;
        }
        spec
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever is wanted in turn, with an engine that fails now and then: in the end exactly that runs, data volumes are
    /// kept, and another host's containers are as they were.
    #[test]
    fn the_desired_state_is_reached_through_failures_and_others_are_untouched(
        turns in proptest::collection::vec(proptest::collection::vec(any_instance(), 0..4), 1..4),
        fail_every in 3..9_u64,
    ) {
        let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        rt.block_on(async {
            let engine = engine();
            let mut neighbour = Agent::on(&engine, host(2)).await;
            neighbour.want(vec![plain("a")]).await;
            neighbour.passes(3).await;
            let theirs = |engine: &FakeRuntime| engine.containers().into_iter().filter(|(_, c)| c.0 == host(2)).collect::<Vec<_>>();
            let before = theirs(&engine);
            let mut agent = Agent::on(&engine, host(1)).await;
            // A failure of the engine is none of the spec: nothing goes back to what was wanted before.
            agent.reconciler.deps.deadlines.healthy = Duration::from_secs(3_600);
            let mut data = Vec::new();
            let of_others = |i: &&InstanceSpec| i.workload.kind() == "node-red" && i.replicas > 1;
            let others: std::collections::BTreeSet<_> =
                turns.iter().flatten().filter(of_others).map(|i| i.name.clone()).collect();
            for turn in turns {
                agent.want(turn).await;
                engine.fail_every(Some(fail_every));
                agent.passes(4).await;
                engine.fail_every(None);
                agent.passes(32).await;
                let mine: BTreeMap<_, _> = engine.containers().into_iter().filter(|(_, c)| c.0 == host(1)).collect();
                let wanted = agent.ledger.desired().expect("accepted").state.instances.clone();
                let mut held = Vec::new();
                for w in &wanted {
                    let own: Vec<_> = (0..5).filter_map(|n| mine.get(&agent.reconciler.names.container(&w.name, n))).collect();
                    let running = own.iter().filter(|c| c.1 == ContainerState::Running).count();
                    if w.suspend {
                        assert_eq!(running, 0, "{}", w.name);
                    } else if others.contains(&w.name)
                        || agent.status(w.name.as_str()).sync == Sync::RolledBack
                    {
                        // What worked has its own number, and goes on where nothing of the new kind comes up: no
                        // Node-RED ever answers here.
                        assert!(running >= 1, "{}", w.name);
                    } else {
                        assert_eq!((own.len(), running), (w.replicas as usize, w.replicas as usize), "{}", w.name);
                    }
                }
                assert!(mine.keys().all(|c| wanted.iter().any(|w| c.contains(&format!("-{}-", w.name)))), "containers that nobody wants: {:?}", mine.keys());
                for c in mine.values().filter(|c| c.1 == ContainerState::Running) {
                    let data = c.2.mounts.iter().filter(|m| !m.read_only);
                    held.extend(data.map(|m| m.volume.clone()));
                }
                let once: std::collections::BTreeSet<_> = held.iter().collect();
                assert_eq!(once.len(), held.len(), "two containers hold one volume: {held:?}");
                let volumes = engine.volumes();
                assert!(data.iter().all(|d| volumes.contains_key(d)), "a data volume is gone");
                let is_data = |(n, p): (String, crate::runtime::VolumePurpose)| (p == crate::runtime::VolumePurpose::Data).then_some(n);
                data = volumes.into_iter().filter_map(is_data).collect();
            }
            engine.take_journal();
            agent.passes(2).await;
            assert_eq!(engine.take_journal(), Vec::<String>::new(), "the reached state is planned again");
            assert_eq!(theirs(&engine), before);
        });
    }
}

/// A pull of a large image looks at its bytes many times a second; a report is for people.
#[tokio::test]
async fn how_far_a_pull_is_reaches_the_status_once_a_second_and_ends_with_the_pull() {
    let engine = engine();
    let mut agent = Agent::on(&engine, host(1)).await;
    let clock = Arc::new(ManualClock::new(time::OffsetDateTime::UNIX_EPOCH));
    agent.reconciler.deps.clock = clock.clone();
    engine.send_image("large:1", 100, 1000);
    agent.want(vec![spec("a", "large:1", Workload::Container(Container::default()))]).await;
    agent.passes(2).await;
    let progress = |a: &Agent| a.status("a").progress.map(|p| (p.what, p.done_bytes, p.total_bytes));
    assert_eq!(progress(&agent), Some(("large:1".into(), 100, 1000)));
    assert_eq!(agent.status("a").phase, Phase::Pulling);
    let since = agent.status("a").changed_at;
    let mut told = BTreeSet::new();
    for step in 1..40_u64 {
        engine.send_image("large:1", 100 + step, 1000);
        agent.passes(1).await;
        assert_ne!(agent.reconciler.pass().await, Pace::Changed, "progress alone calls for no pass");
        told.extend(progress(&agent));
        clock.advance(Duration::from_millis(100));
    }
    // 40 looks in 4 seconds.
    assert!((3..=5).contains(&told.len()), "{told:?}");
    assert_eq!(agent.status("a").changed_at, since, "more bytes are no other state");
    engine.send_image("large:1", 1, 1);
    agent.passes(6).await;
    assert_eq!((agent.status("a").phase, progress(&agent)), (Phase::Running, None));
}
