//! A restart of the agent makes nothing young.
use super::*;
use redforge_shared::clock::Clock as _;

#[tokio::test]
async fn another_process_says_since_when_things_are_as_they_are() {
    let engine = engine();
    let mut agent = Agent::on(&engine, host(1)).await;
    let clock = ManualClock::new(time::OffsetDateTime::UNIX_EPOCH + time::Duration::days(20_000));
    agent.reconciler.deps.clock = Arc::new(clock.clone());
    // One works, one has three of which one has crashed, one waits for what is not there, one never answers.
    let nobody = NodeRed { broker: Some(name("gone")), ..NodeRed::default() };
    agent
        .want(vec![
            plain("works"),
            InstanceSpec { replicas: 3, ..plain("three") },
            spec("waits", "flows", Workload::NodeRed(nobody)),
            spec("silent", "flows", Workload::NodeRed(NodeRed::default())),
        ])
        .await;
    agent.passes(6).await;
    engine.crash_again(&agent.reconciler.names.container(&name("three"), 1));
    clock.advance(Duration::from_secs(60));
    agent.passes(2).await;
    let all = ["works", "three", "waits", "silent"];
    let ages = |agent: &Agent| all.map(|n| (n, agent.status(n).health, agent.status(n).changed_at));
    let before = ages(&agent);
    assert!(before[0].2 < before[1].2, "{before:?}");
    clock.advance(Duration::from_secs(86_400));
    for process in 1..3 {
        agent.restart(&engine);
        agent.reconciler.deps.clock = Arc::new(clock.clone());
        // For a moment nobody answers: nothing is known then, and that is younger.
        engine.go_away(true);
        agent.passes(1).await;
        assert!(agent.status("works").changed_at > before[0].2);
        engine.go_away(false);
        agent.passes(3).await;
        assert_eq!(ages(&agent), before, "process {process}");
    }
    // What changes has a new age, over another restart too.
    clock.advance(Duration::from_secs(60));
    engine.set_state(&agent.reconciler.names.container(&name("works"), 0), ContainerState::Restarting);
    agent.passes(1).await;
    let crashed = agent.status("works").changed_at;
    assert_eq!(crashed, clock.now());
    clock.advance(Duration::from_secs(60));
    agent.restart(&engine);
    agent.reconciler.deps.clock = Arc::new(clock.clone());
    agent.passes(1).await;
    assert_eq!(agent.status("works").changed_at, crashed);
    // The machine came back from the dark meanwhile: the same words, of another start.
    clock.advance(Duration::from_secs(60));
    agent.restart(&engine);
    agent.reconciler.deps.clock = Arc::new(clock.clone());
    engine.set_started(&agent.reconciler.names.container(&name("works"), 0), "another start");
    agent.passes(1).await;
    assert_eq!(agent.status("works").changed_at, clock.now());
}
