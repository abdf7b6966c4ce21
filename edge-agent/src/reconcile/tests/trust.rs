//! What is trusted, when, and what comes back when it breaks after it came up.
use super::*;

const LONG: Duration = Duration::from_secs(3_600);

fn good(agent: &Agent) -> Option<String> {
    let memory = agent.reconciler.memory.as_ref().expect("a pass was made");
    memory.last_good.get(&name("a")).map(|good| good.spec.image.clone())
}

/// An agent whose first version works, and is what it goes back to.
async fn with_box(engine: &Arc<FakeRuntime>, data: bool, replicas: u32) -> Agent {
    let mut agent = Agent::on(engine, host(1)).await;
    agent.want(vec![InstanceSpec { replicas, ..versioned("box", data) }]).await;
    agent.passes(4).await;
    assert_eq!(good(&agent).as_deref(), Some("box"));
    agent
}

#[tokio::test]
async fn what_worked_is_remembered_until_the_new_one_has_worked_for_its_time() {
    for data in [true, false] {
        let engine = engine();
        let mut agent = with_box(&engine, data, 1).await;
        agent.reconciler.deps.deadlines.healthy = LONG;
        agent.want(vec![versioned("box2", data)]).await;
        agent.passes(8).await;
        assert_eq!((agent.status("a").sync, images_running(&engine)), (Sync::UpToDate, vec!["sha256:box2".to_owned()]));
        assert_eq!(good(&agent).as_deref(), Some("box"), "trusted at once");
        let said = agent.status("a").trial_ends_at.expect("it is on trial, and says so");
        agent.passes(3).await;
        assert_eq!(agent.status("a").trial_ends_at, Some(said), "each report would be another");
        assert!(agent.reconciler.sooner(LONG * 2) <= LONG, "its time ends unseen");
        agent.reconciler.deps.deadlines.healthy = Duration::ZERO;
        agent.passes(2).await;
        assert_eq!(good(&agent).as_deref(), Some("box2"));
        assert_eq!(agent.status("a").trial_ends_at, None);
    }
}

#[tokio::test]
async fn a_version_that_breaks_after_it_came_up_makes_way_for_the_one_before() {
    for data in [true, false] {
        let engine = engine();
        let mut agent = with_box(&engine, data, 1).await;
        agent.reconciler.deps.deadlines.healthy = LONG;
        agent.want(vec![versioned("box2", data)]).await;
        agent.passes(8).await;
        assert_eq!(images_running(&engine), ["sha256:box2"]);
        let of_new =
            |c: &(String, (HostId, ContainerState, crate::runtime::ContainerSpec))| c.1.2.image_id == "sha256:box2";
        let container = engine.containers().into_iter().find(of_new).expect("it runs").0;
        for end in 1..=3 {
            engine.crash_again(&container);
            agent.passes(1).await;
            let status = agent.status("a");
            assert_eq!((status.phase, status.exit_code), (Phase::Crashed, Some(7)), "end {end}");
            // It came back, as it does after so many seconds of work each time.
            engine.set_state(&container, ContainerState::Running);
            agent.passes(1).await;
        }
        agent.passes(8).await;
        let status = agent.status("a");
        assert_eq!((status.phase, status.health, status.sync), (Phase::Running, Health::Healthy, Sync::RolledBack));
        assert_eq!((status.reason, status.late), (Some(Reason::ContainerExited), None));
        assert_eq!((good(&agent).as_deref(), images_running(&engine)), (Some("box"), vec!["sha256:box".to_owned()]));
    }
}

#[tokio::test]
async fn whoever_ended_lately_is_degraded_and_says_how() {
    let engine = engine();
    let mut agent = with_box(&engine, false, 1).await;
    let clock = ManualClock::new(time::OffsetDateTime::UNIX_EPOCH);
    agent.reconciler.deps.clock = Arc::new(clock.clone());
    let container = agent.reconciler.names.container(&name("a"), 0);
    engine.crash_again(&container);
    agent.passes(1).await;
    clock.advance(Duration::from_secs(5));
    engine.set_state(&container, ContainerState::Running);
    engine.set_started(&container, "1970-01-01T00:00:05Z");
    agent.passes(1).await;
    assert_eq!(agent.status("a").phase, Phase::Crashed);
    clock.advance(Duration::from_secs(15));
    agent.passes(1).await;
    let status = agent.status("a");
    assert_eq!((status.phase, status.health, status.sync), (Phase::Running, Health::Degraded, Sync::UpToDate));
    assert_eq!((status.reason, status.exit_code, status.restarts), (Some(Reason::ContainerExited), Some(7), 1));
    clock.advance(Duration::from_secs(45));
    agent.passes(1).await;
    let status = agent.status("a");
    assert_eq!((status.health, status.reason, status.exit_code), (Health::Healthy, None, None));
}

#[tokio::test]
async fn one_bad_replica_of_three_brings_all_back() {
    let engine = engine();
    let mut agent = with_box(&engine, false, 3).await;
    let second = agent.reconciler.names.container(&name("a"), 1);
    engine.crash_only("box2", &second);
    agent.want(vec![InstanceSpec { replicas: 3, ..versioned("box2", false) }]).await;
    agent.passes(40).await;
    let status = agent.status("a");
    assert_eq!((status.health, status.sync), (Health::Healthy, Sync::RolledBack));
    assert_eq!(images_running(&engine), ["sha256:box"; 3]);
}

#[tokio::test]
async fn a_first_version_that_does_not_come_up_says_that_it_is_late_and_goes_on_trying() {
    let engine = engine();
    let mut agent = Agent::on(&engine, host(1)).await;
    agent.reconciler.deps.deadlines.healthy = LONG;
    agent.want(vec![spec("a", "flows", Workload::NodeRed(NodeRed::default()))]).await;
    agent.passes(6).await;
    let status = agent.status("a");
    assert_eq!((status.phase, status.health, status.sync), (Phase::Starting, Health::Unknown, Sync::Updating));
    agent.reconciler.deps.deadlines.healthy = Duration::ZERO;
    agent.passes(2).await;
    let status = agent.status("a");
    assert_eq!((status.phase, status.health, status.sync), (Phase::Starting, Health::Error, Sync::OutOfDate));
    let late = redforge_shared::report::preflight::ChangeStep::Healthy;
    assert_eq!((status.reason, status.late), (Some(Reason::DeadlineExceeded), Some(late)));
    engine.take_journal();
    agent.passes(3).await;
    assert_eq!(engine.take_journal(), Vec::<String>::new(), "it is left to try");
    assert_eq!(good(&agent), None);
}

#[tokio::test]
async fn what_failed_is_not_tried_again_because_it_was_suspended_and_started_again() {
    let engine = engine();
    let mut agent = with_box(&engine, true, 1).await;
    engine.crash_image("box2", true);
    agent.want(vec![versioned("box2", true)]).await;
    agent.passes(10).await;
    assert_eq!(agent.status("a").sync, Sync::RolledBack);
    agent.want(vec![InstanceSpec { suspend: true, ..versioned("box2", true) }]).await;
    agent.passes(4).await;
    assert_eq!((agent.status("a").phase, images_running(&engine)), (Phase::Stopped, vec![]));
    engine.take_journal();
    agent.want(vec![versioned("box2", true)]).await;
    agent.passes(6).await;
    assert_eq!((agent.status("a").sync, images_running(&engine)), (Sync::RolledBack, vec!["sha256:box".to_owned()]));
    let journal = engine.take_journal();
    assert!(!journal.iter().any(|j| j.starts_with("create")), "what failed was tried again: {journal:?}");
    // With nothing to go back to it is ended when it is suspended, failed or not.
    engine.refuse_image("box");
    let mut alone = Agent::on(&engine, host(4)).await;
    alone.want(vec![versioned("box", true)]).await;
    alone.passes(4).await;
    assert_eq!(alone.status("a").sync, Sync::Failed);
    alone.want(vec![InstanceSpec { suspend: true, ..versioned("box", true) }]).await;
    alone.passes(4).await;
    assert_eq!((alone.status("a").phase, alone.status("a").reason), (Phase::Stopped, Some(Reason::Suspended)));
}

#[tokio::test]
async fn a_restart_by_the_site_of_what_went_back_restarts_what_serves() {
    let engine = engine();
    let mut agent = with_box(&engine, true, 1).await;
    engine.crash_image("box2", true);
    agent.want(vec![versioned("box2", true)]).await;
    agent.passes(10).await;
    assert_eq!(agent.status("a").sync, Sync::RolledBack);
    engine.take_journal();
    agent.ledger.set_nonce(&name("a"), "again").await.expect("commits");
    for _ in 0..8 {
        agent.passes(1).await;
        assert!(engine.containers().values().all(|c| c.2.image_id == "sha256:box"), "what failed is tried again");
    }
    let journal = engine.take_journal();
    assert!(journal.iter().any(|j| j.starts_with("create")), "nothing was restarted: {journal:?}");
    let status = agent.status("a");
    assert_eq!((status.health, status.sync), (Health::Healthy, Sync::RolledBack));
    // What has nothing to go back to is tried again by the same word.
    engine.refuse_image("box");
    let mut alone = Agent::on(&engine, host(4)).await;
    alone.want(vec![versioned("box", true)]).await;
    alone.passes(4).await;
    assert_eq!(alone.status("a").sync, Sync::Failed);
    engine.take_journal();
    alone.ledger.set_nonce(&name("a"), "again").await.expect("commits");
    alone.passes(3).await;
    assert!(engine.take_journal().iter().any(|j| j.starts_with("start")), "it is not tried again");
}

#[tokio::test]
async fn what_the_agent_ends_itself_has_not_crashed() {
    for data in [true, false] {
        let engine = engine();
        let mut agent = with_box(&engine, data, 1).await;
        let mut phases = Vec::new();
        let mut watch = async |agent: &mut Agent, n: usize| {
            for _ in 0..n {
                agent.passes(1).await;
                let status = agent.status("a");
                assert_ne!(status.phase, Phase::Crashed, "{status:?}");
                phases.push(status.phase);
            }
        };
        agent.want(vec![versioned("box2", data)]).await;
        watch(&mut agent, 8).await;
        agent.want(vec![InstanceSpec { suspend: true, ..versioned("box2", data) }]).await;
        watch(&mut agent, 4).await;
        assert_eq!(agent.status("a").phase, Phase::Stopped);
        agent.want(vec![versioned("box2", data)]).await;
        watch(&mut agent, 4).await;
        assert_eq!(agent.status("a").phase, Phase::Running);
        assert!(phases.contains(&Phase::Stopping), "{phases:?}");
        // A hand on the engine has no such excuse.
        engine.set_state(&agent.reconciler.names.container(&name("a"), u32::from(!data)), ContainerState::Exited);
        agent.reconciler.pass().await;
        assert_eq!(agent.status("a").phase, Phase::Crashed);
    }
}

#[tokio::test]
async fn a_container_that_somebody_paused_goes_on() {
    let engine = engine();
    let mut agent = with_box(&engine, true, 1).await;
    let container = agent.reconciler.names.container(&name("a"), 0);
    engine.set_state(&container, ContainerState::Paused);
    agent.passes(1).await;
    let status = agent.status("a");
    assert_eq!((status.health, status.sync), (Health::Error, Sync::Drifted));
    agent.passes(2).await;
    assert_eq!(engine.containers()[&container].1, ContainerState::Running);
    assert_eq!((agent.status("a").health, agent.status("a").sync), (Health::Healthy, Sync::UpToDate));
}
