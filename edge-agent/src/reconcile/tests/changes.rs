//! Changes that do not fit, hang or crash: what serves goes on, and the status says which and why.
use super::*;
use crate::runtime::EngineSeen;
use redforge_shared::report::preflight::ChangeStep;
use redforge_shared::{
    clock::Clock,
    report::preflight::{Check, Verdict},
};

const MIB: u64 = 1 << 20;

fn machine(memory_total_bytes: u64) -> EngineSeen {
    EngineSeen { root_dir: "/".into(), architecture: "x86_64".into(), memory_total_bytes, ..EngineSeen::default() }
}

fn limited(image: &str, mebibytes: u64) -> InstanceSpec {
    let mut spec = versioned(image, true);
    spec.resources.memory_bytes = Some(mebibytes * MIB);
    spec
}

#[tokio::test]
async fn what_does_not_fit_is_refused_with_its_numbers_and_what_serves_is_not_touched() {
    let engine = engine();
    engine.set_machine(machine(1024 * MIB));
    let mut agent = Agent::on(&engine, host(1)).await;
    agent.want(vec![limited("box", 100)]).await;
    agent.passes(4).await;
    engine.take_journal();
    agent.want(vec![limited("far", 2048)]).await;
    agent.passes(4).await;
    assert_eq!(engine.take_journal(), Vec::<String>::new());
    let status = agent.status("a");
    assert_eq!((status.phase, status.health, status.sync), (Phase::Running, Health::Healthy, Sync::OutOfDate));
    assert_eq!((status.reason, status.names), (Some(Reason::PreflightRefused), vec!["Memory".to_owned()]));
    let preflight = status.preflight.expect("typed");
    let memory = preflight.findings.iter().find(|f| f.check == Check::Memory).expect("looked at");
    assert_eq!((memory.needed, memory.available), (Some(2048 * MIB), Some(768 * MIB)));
    assert!(!agent.reconciler.jobs.is_running("image far"), "something is fetched");
    // It is no failure of the spec: once there is room it goes on by itself.
    engine.set_machine(machine(4096 * MIB));
    engine.bring_image("far");
    agent.passes(6).await;
    let status = agent.status("a");
    assert_eq!((status.sync, status.reason), (Sync::UpToDate, None));
    assert_eq!(status.preflight.map(|p| p.verdict), Some(Verdict::Fits));
    assert_eq!(images_running(&engine), ["sha256:far"]);
}

#[tokio::test]
async fn an_image_for_another_machine_is_not_fetched_and_says_so() {
    let engine = engine();
    engine.set_machine(machine(1024 * MIB));
    engine.set_architectures("far", &["arm64", "riscv64"]);
    let mut agent = Agent::on(&engine, host(1)).await;
    agent.want(vec![versioned("box", true)]).await;
    agent.passes(4).await;
    agent.want(vec![versioned("far", true)]).await;
    agent.passes(6).await;
    let status = agent.status("a");
    assert_eq!((status.health, status.reason), (Health::Healthy, Some(Reason::PreflightRefused)));
    assert_eq!(status.preflight.expect("typed").refusal(), "image for arm64, riscv64, host is amd64");
    assert_eq!(images_running(&engine), ["sha256:box"]);
}

#[tokio::test]
async fn a_fetch_that_hangs_is_given_up_once_nobody_wants_it() {
    let engine = engine();
    engine.stick("pull far", true);
    let mut agent = Agent::on(&engine, host(1)).await;
    agent.want(vec![versioned("box", true)]).await;
    agent.passes(4).await;
    agent.want(vec![versioned("far", true)]).await;
    agent.passes(4).await;
    assert!(agent.reconciler.jobs.is_running("image far"));
    assert_eq!((agent.status("a").phase, agent.status("a").health), (Phase::Pulling, Health::Healthy));
    agent.want(vec![versioned("box2", true)]).await;
    agent.passes(6).await;
    assert!(!agent.reconciler.jobs.is_running("image far"), "it hangs on");
    assert_eq!((agent.status("a").sync, images_running(&engine)), (Sync::UpToDate, vec!["sha256:box2".to_owned()]));
}

/// Passes until it is so; deadlines of milliseconds are real time.
async fn until(agent: &mut Agent, what: &str, so: impl Fn(&InstanceStatus) -> bool) -> InstanceStatus {
    for _ in 0..2_000 {
        agent.passes(1).await;
        let status = agent.status("a");
        if so(&status) {
            return status;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never {what}: {:?}", agent.status("a"));
}

#[tokio::test]
async fn a_step_that_runs_out_of_time_is_named_and_what_worked_stays() {
    let engine = engine();
    let mut agent = Agent::on(&engine, host(1)).await;
    agent.reconciler.deps.deadlines.pull = Duration::from_millis(50);
    agent.reconciler.deps.deadlines.start = Duration::from_millis(500);
    agent.want(vec![versioned("box", false)]).await;
    agent.passes(4).await;
    engine.stick("pull far", true);
    agent.want(vec![versioned("far", false)]).await;
    let late = |s: &InstanceStatus| s.reason == Some(Reason::DeadlineExceeded);
    let status = until(&mut agent, "late", late).await;
    assert_eq!((status.late, status.sync), (Some(ChangeStep::Pull), Sync::OutOfDate));
    assert_eq!(images_running(&engine), ["sha256:box"]);
    // Making its container hangs: the spec has failed, and stays so for another process.
    let slot = agent.reconciler.names.container(&name("a"), 1);
    engine.stick(&format!("create {slot}"), true);
    agent.want(vec![versioned("box2", false)]).await;
    let status = until(&mut agent, "back", |s| s.sync == Sync::RolledBack).await;
    assert_eq!((status.late, status.reason), (Some(ChangeStep::Start), Some(Reason::DeadlineExceeded)));
    assert_eq!((status.health, images_running(&engine)), (Health::Healthy, vec!["sha256:box".to_owned()]));
    engine.stick(&format!("create {slot}"), false);
    agent.restart(&engine);
    agent.passes(5).await;
    assert_eq!((agent.status("a").sync, images_running(&engine)), (Sync::RolledBack, vec!["sha256:box".to_owned()]));
}

#[tokio::test]
async fn a_container_that_ends_again_and_again_rests_and_is_started_later() {
    let engine = engine();
    let mut agent = Agent::on(&engine, host(1)).await;
    let clock = Arc::new(ManualClock::new(time::OffsetDateTime::UNIX_EPOCH));
    agent.reconciler.deps.clock = clock.clone();
    agent.want(vec![plain("a")]).await;
    agent.passes(4).await;
    let container = agent.reconciler.names.container(&name("a"), 0);
    let state = || engine.containers()[&container].1;
    for _ in 0..3 {
        engine.crash_again(&container);
        agent.passes(1).await;
    }
    agent.passes(3).await;
    let status = agent.status("a");
    assert_eq!(
        (status.phase, status.health, status.reason),
        (Phase::Crashed, Health::Error, Some(Reason::ContainerExited))
    );
    assert_eq!((status.exit_code, status.restarts, state()), (Some(7), 3, ContainerState::Exited));
    assert_eq!(status.next_start_at, Some(clock.now() + time::Duration::seconds(10)));
    engine.take_journal();
    // Not sooner, nor by another process.
    clock.advance(Duration::from_secs(9));
    agent.restart(&engine);
    agent.reconciler.deps.clock = clock.clone();
    agent.passes(3).await;
    assert_eq!(engine.take_journal(), Vec::<String>::new());
    clock.advance(Duration::from_secs(1));
    agent.passes(3).await;
    assert_eq!(state(), ContainerState::Running);
}

#[tokio::test]
async fn a_new_version_that_crashes_in_a_loop_goes_back_without_waiting_for_its_deadline() {
    let engine = engine();
    let mut agent = Agent::on(&engine, host(1)).await;
    agent.reconciler.deps.deadlines.healthy = Duration::from_secs(3600);
    agent.want(vec![versioned("box", true)]).await;
    agent.passes(4).await;
    engine.crash_image("box2", true);
    agent.want(vec![versioned("box2", true)]).await;
    agent.passes(5).await;
    let container = agent.reconciler.names.container(&name("a"), 0);
    assert_eq!(agent.status("a").sync, Sync::UpToDate, "once is no loop");
    for _ in 0..2 {
        engine.crash_again(&container);
        agent.passes(1).await;
    }
    agent.passes(6).await;
    let status = agent.status("a");
    assert_eq!((status.sync, status.reason, status.late), (Sync::RolledBack, Some(Reason::ContainerExited), None));
    assert_eq!(images_running(&engine), ["sha256:box"]);
}

#[tokio::test]
async fn the_next_look_comes_when_a_deadline_or_a_rest_ends() {
    let engine = engine();
    let mut agent = Agent::on(&engine, host(1)).await;
    agent.reconciler.deps.deadlines.healthy = Duration::from_secs(5);
    agent.want(vec![versioned("box", true)]).await;
    agent.passes(4).await;
    assert_eq!(agent.reconciler.sooner(TICK), TICK, "nothing is waited for");
    engine.crash_image("box2", true);
    agent.want(vec![versioned("box2", true)]).await;
    agent.passes(5).await;
    let sooner = agent.reconciler.sooner(TICK);
    assert!(sooner <= Duration::from_secs(5) && sooner >= AT_ONCE, "the trial ends within {sooner:?}");
    let clock = Arc::new(ManualClock::new(time::OffsetDateTime::UNIX_EPOCH));
    let mut other = Agent::on(&engine, host(3)).await;
    other.reconciler.deps.clock = clock;
    other.want(vec![plain("a")]).await;
    other.passes(4).await;
    let container = other.reconciler.names.container(&name("a"), 0);
    for _ in 0..3 {
        engine.crash_again(&container);
        other.passes(1).await;
    }
    let sooner = other.reconciler.sooner(TICK * 2);
    assert!(sooner <= TICK, "it rests for ten seconds, and is looked at in {sooner:?}");
}

#[tokio::test]
async fn a_secret_that_the_host_was_not_given_is_found_before_anything_is_fetched() {
    let engine = engine();
    let mut agent = Agent::on(&engine, host(1)).await;
    let mut wants = versioned("far", true);
    wants.secret_env = [("PASSWORD".to_owned(), name("db"))].into();
    agent.want(vec![wants]).await;
    agent.passes(4).await;
    let status = agent.status("a");
    assert_eq!((status.reason, status.names), (Some(Reason::SecretMissing), vec!["db".to_owned()]));
    assert_eq!(status.preflight.expect("typed").refusal(), "secret db is not known on the host");
    assert!(!agent.reconciler.jobs.is_running("image far") && engine.take_journal().is_empty());
}
