//! Instances with several containers, over whole passes.
use super::*;
use crate::reconcile::plan::room::Capacity;
use redforge_shared::scale::Replicas;

fn replicated(image: &str, replicas: u32) -> InstanceSpec {
    let workload = if image == "flows" {
        Workload::NodeRed(NodeRed::default())
    } else {
        Workload::Container(Container::default())
    };
    InstanceSpec { replicas, ..spec("a", image, workload) }
}

/// Numbers of the instance's containers, with what each alone has.
fn crew(agent: &Agent, engine: &FakeRuntime) -> Vec<String> {
    let names = &agent.reconciler.names;
    let prefix = format!("{}-a-", names.network());
    let own = |(name, (_, _, spec)): (String, (HostId, ContainerState, crate::runtime::ContainerSpec))| {
        let number = name.strip_prefix(&prefix)?.to_owned();
        assert_eq!(spec.env["REDFORGE_REPLICA"], number);
        assert_eq!(spec.env["REDFORGE_CLIENT_ID"], format!("a-{number}"));
        let data = spec.mounts.into_iter().filter(|m| !m.read_only).map(|m| m.volume);
        Some(format!("{number} {}", data.collect::<Vec<_>>().join(" ")))
    };
    engine.containers().into_iter().filter_map(own).collect()
}

fn counts(status: &InstanceStatus) -> (u32, u32, u32) {
    let Replicas { ready, desired, total } = status.replicas;
    (ready, desired, total)
}

#[tokio::test]
async fn another_number_of_replicas_leaves_those_that_stay_as_they_are() {
    let engine = engine();
    let mut agent = Agent::on(&engine, host(1)).await;
    agent.want(vec![replicated("flows", 1)]).await;
    agent.passes(4).await;
    engine.take_journal();
    agent.want(vec![replicated("flows", 3)]).await;
    agent.passes(6).await;
    let first = agent.reconciler.names.container(&name("a"), 0);
    let journal = engine.take_journal();
    assert!(journal.iter().all(|j| !j.contains(&first)), "the first was touched: {journal:?}");
    // Each has the data of its image for itself: two Node-RED on one folder would overwrite each other's flows.
    let crew_of_three = crew(&agent, &engine);
    let volumes: std::collections::BTreeSet<_> =
        crew_of_three.iter().map(|c| c.split(' ').nth(1).expect("a data volume")).collect();
    assert_eq!((crew_of_three.len(), volumes.len()), (3, 3), "{crew_of_three:?}");
    assert_eq!(counts(&agent.status("a")).1, 3);
    agent.want(vec![replicated("flows", 1)]).await;
    agent.passes(6).await;
    assert_eq!(crew(&agent, &engine), crew_of_three[..1]);
    let journal = engine.take_journal();
    assert!(journal.iter().all(|j| !j.contains(&first)), "the first was touched: {journal:?}");
}

#[tokio::test]
async fn while_fewer_are_ready_than_wanted_the_instance_is_degraded_and_says_how_many() {
    let engine = engine();
    let mut agent = Agent::on(&engine, host(1)).await;
    agent.want(vec![replicated("box", 3)]).await;
    agent.passes(4).await;
    let status = agent.status("a");
    assert_eq!((status.health, status.sync, counts(&status)), (Health::Healthy, Sync::UpToDate, (3, 3, 3)));
    engine.set_state(&agent.reconciler.names.container(&name("a"), 1), ContainerState::Restarting);
    agent.passes(1).await;
    let status = agent.status("a");
    assert_eq!((status.phase, status.health, counts(&status)), (Phase::Running, Health::Degraded, (2, 3, 3)));
    assert_eq!(status.reason, Some(Reason::ContainerExited));
}

#[tokio::test]
async fn a_host_without_room_for_all_runs_what_it_can_and_says_so() {
    let engine = engine();
    let mut agent = Agent::on(&engine, host(1)).await;
    let room = Capacity { cpu_millicores: 4000, memory_bytes: 250 << 20 };
    agent.reconciler.deps.capacity = Some(room);
    let mut wish = replicated("box", 3);
    wish.resources.memory_bytes = Some(100 << 20);
    agent.want(vec![wish]).await;
    agent.passes(6).await;
    let status = agent.status("a");
    assert_eq!((status.health, status.sync, counts(&status)), (Health::Degraded, Sync::OutOfDate, (2, 3, 2)));
    assert_eq!(status.reason, Some(Reason::NoRoom));
    engine.take_journal();
    agent.passes(3).await;
    assert_eq!(engine.take_journal(), Vec::<String>::new());
}

#[tokio::test]
async fn a_bad_version_of_replicas_makes_way_for_what_worked_and_two_thirds_never_went() {
    let engine = engine();
    let mut agent = Agent::on(&engine, host(1)).await;
    agent.want(vec![replicated("box", 3)]).await;
    agent.passes(4).await;
    engine.crash_image("box2", true);
    agent.want(vec![replicated("box2", 3)]).await;
    for _ in 0..10 {
        agent.passes(1).await;
        assert_eq!(images_running(&engine), ["sha256:box"; 3], "what served went");
    }
    let status = agent.status("a");
    assert_eq!((status.health, status.sync, counts(&status)), (Health::Healthy, Sync::RolledBack, (3, 3, 3)));
    engine.crash_image("box2", false);
    agent.want(vec![InstanceSpec { restart_nonce: "1".into(), ..replicated("box2", 3) }]).await;
    agent.passes(24).await;
    assert_eq!(images_running(&engine), ["sha256:box2"; 3]);
    assert_eq!(agent.status("a").sync, Sync::UpToDate);
}

#[tokio::test]
async fn a_document_that_would_have_two_write_to_one_volume_is_refused_by_the_agent_too() {
    let engine = engine();
    let mut agent = Agent::on(&engine, host(1)).await;
    let mut two = replicated("box", 2);
    two.volumes = vec![Volume { name: name("keep"), path: "/keep".into() }];
    agent.want(vec![two]).await;
    agent.passes(3).await;
    assert_eq!(crew(&agent, &engine), Vec::<String>::new());
    let status = agent.status("a");
    assert_eq!((status.reason, status.names), (Some(Reason::SpecRefused), vec!["instances[a].replicas".to_owned()]));
}

#[tokio::test]
async fn three_that_never_answered_are_replaced_together() {
    let engine = engine();
    let mut agent = Agent::on(&engine, host(1)).await;
    agent.reconciler.deps.deadlines.healthy = Duration::from_secs(3_600);
    agent.want(vec![replicated("flows", 3)]).await;
    agent.passes(4).await;
    assert_eq!(counts(&agent.status("a")), (0, 3, 3));
    let before = ids(&agent);
    agent.want(vec![InstanceSpec { restart_nonce: "1".into(), ..replicated("flows", 3) }]).await;
    for _ in 0..6 {
        agent.passes(1).await;
        let status = agent.status("a");
        assert_ne!((status.health, counts(&status).0), (Health::Healthy, 3), "what never answered is told as good");
    }
    let after = ids(&agent);
    assert!(after.len() == 3 && after.is_disjoint(&before), "{before:?} then {after:?}");
    // Another process does not know whether they ever served: then one at a time.
    agent.restart(&engine);
    agent.reconciler.deps.deadlines.healthy = Duration::from_secs(3_600);
    agent.passes(2).await;
    agent.want(vec![InstanceSpec { restart_nonce: "2".into(), ..replicated("flows", 3) }]).await;
    agent.passes(8).await;
    assert!(ids(&agent).is_superset(&after), "somebody may have been served");
}

/// Ids of all containers, as the last pass found them.
fn ids(agent: &Agent) -> BTreeSet<String> {
    agent.reconciler.logs.borrow().iter().map(|l| l.container_id.clone()).collect()
}

#[tokio::test]
async fn while_replicas_are_replaced_no_more_are_told_as_ready_than_were_asked_for() {
    let engine = engine();
    let mut agent = Agent::on(&engine, host(1)).await;
    agent.want(vec![replicated("box", 3)]).await;
    agent.passes(4).await;
    agent.want(vec![replicated("box2", 3)]).await;
    let mut most = 0;
    for _ in 0..24 {
        agent.passes(1).await;
        let (ready, desired, total) = counts(&agent.status("a"));
        assert_eq!((ready, desired), (3, 3));
        most = most.max(total);
    }
    assert_eq!((most, images_running(&engine)), (4, vec!["sha256:box2".to_owned(); 3]), "one more was beside them");
}
