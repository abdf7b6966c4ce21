//! Instances that scale by themselves, over whole passes.
use super::*;
use crate::{
    reconcile::plan::room::Capacity,
    runtime::{QueueHeard, QueuesHeard},
};
use redforge_shared::{
    report::ScaleLimit,
    scale::{Autoscale, ScaleBy},
};
use tokio::time::Instant;

fn scaled(by: ScaleBy, max: u32) -> InstanceSpec {
    InstanceSpec { autoscale: Some(Autoscale { min: 1, max, by, scale_down_after_s: 0 }), ..plain("a") }
}

fn say(queues: &watch::Sender<QueuesHeard>, waiting: u64) {
    queues.send_modify(|all| {
        all.insert(name("a"), QueueHeard { waiting, at: Instant::now() });
    });
}

fn told(agent: &Agent) -> (u32, String) {
    let status = agent.status("a");
    (status.replicas.desired, status.scaled.map_or_else(String::new, |s| s.to_string()))
}

#[tokio::test]
async fn the_queue_that_an_instance_reports_decides_how_many_there_are_and_a_restart_changes_nothing() {
    let engine = engine();
    let mut agent = Agent::on(&engine, host(1)).await;
    let queues = watch::Sender::new(QueuesHeard::new());
    agent.reconciler.deps.queues_heard = Some(queues.subscribe());
    agent.want(vec![scaled(ScaleBy::Queue(100), 3)]).await;
    agent.passes(4).await;
    assert_eq!(told(&agent), (1, "scaled to 1: no queue measured".into()));
    say(&queues, 240);
    agent.passes(4).await;
    assert_eq!(told(&agent), (3, "scaled to 3: queue 240, 100 per replica".into()));
    assert_eq!(images_running(&engine).len(), 3);
    // Another process, that has heard nothing yet.
    engine.take_journal();
    agent.restart(&engine);
    agent.passes(4).await;
    assert_eq!(engine.take_journal(), Vec::<String>::new(), "the restart changed the number");
    assert_eq!(told(&agent), (3, "scaled to 3: no queue measured".into()));
    agent.reconciler.deps.queues_heard = Some(queues.subscribe());
    say(&queues, 10);
    agent.passes(6).await;
    assert_eq!(told(&agent), (1, "scaled to 1: queue 10, 100 per replica".into()));
    assert_eq!(images_running(&engine).len(), 1);
}

#[tokio::test]
async fn the_load_of_one_takes_no_room_that_another_needs() {
    let engine = engine();
    let mut agent = Agent::on(&engine, host(1)).await;
    let queues = watch::Sender::new(QueuesHeard::new());
    agent.reconciler.deps.queues_heard = Some(queues.subscribe());
    agent.reconciler.deps.capacity = Some(Capacity { cpu_millicores: 2000, memory_bytes: 1 << 30 });
    let limited = |mut spec: InstanceSpec, cpu| {
        spec.resources.cpu_millicores = Some(cpu);
        spec
    };
    agent.want(vec![limited(scaled(ScaleBy::Queue(1), 9), 500), limited(plain("other"), 600)]).await;
    agent.passes(2).await;
    say(&queues, 1000);
    agent.passes(6).await;
    let status = agent.status("a");
    assert_eq!(status.scaled.map(|s| (s.replicas, s.limit)), Some((2, ScaleLimit::Capacity)));
    // What the host has no room for is no fault of the instance.
    assert_eq!((status.health, status.sync, status.replicas.ready), (Health::Healthy, Sync::UpToDate, 2));
    assert_eq!(images_running(&engine).len(), 3);
}

#[tokio::test]
async fn busy_containers_get_company() {
    let engine = engine();
    let mut agent = Agent::on(&engine, host(1)).await;
    let mut busy = scaled(ScaleBy::CpuPercent(70), 4);
    busy.resources.cpu_millicores = Some(500);
    agent.want(vec![busy]).await;
    agent.passes(3).await;
    let first = agent.reconciler.names.container(&name("a"), 0);
    let until = Instant::now() + Duration::from_secs(60);
    while told(&agent).0 == 1 {
        assert!(Instant::now() < until, "nobody came: {:?}", told(&agent));
        // More than it could: the real clock between two looks is what it is.
        engine.use_cpu(&first, 1_000_000_000_000);
        agent.passes(1).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (count, text) = told(&agent);
    assert!(count == 4 && text.ends_with("70 % per replica, not above the maximum"), "{text}");
}
