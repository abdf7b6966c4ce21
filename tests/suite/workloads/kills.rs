//! An agent that is killed at every step of a change: it converges, and what is equal is not touched.
use crate::words::{broker, idler, instance, node_red, speaking_flow};
use redforge_edge::reconcile::plan::model::DEEDS;
use redforge_tests::{
    agent::TestAgent,
    engine::{self, docker, image},
    hub::TestHub,
    operator::Operator,
    place::{Process, fault_binary},
    wait::{DEADLINE, eventually, when},
};
use std::{collections::BTreeSet, time::Instant};

/// What is different in the second change from the first, so that every step is needed in one of the two.
#[derive(Clone, Copy, PartialEq)]
enum Version {
    First,
    Second,
}

fn all(version: Version) -> String {
    let second = version == Version::Second;
    let nonce = if second { "  restartNonce: again\n" } else { "" };
    let web = format!(
        "{nonce}  egress: true\n  volumes:\n    - {{name: keep, path: /keep}}\n  container:\n    command: [sleep, \"100000\"]\n"
    );
    let pair = format!("{nonce}  container:\n    command: [sleep, \"100000\"]\n");
    let queue = if second { "  mosquitto:\n    maxQueuedMessages: 5000\n" } else { "" };
    idler("press-1", "steady")
        + &instance("press-1", "web", "container", &image("busybox"), &web)
        + &instance("press-1", "pair", "container", &image("busybox"), &pair)
        + &if second {
            instance("press-1", "broker", "mosquitto", &image("mosquitto"), queue)
        } else {
            broker("press-1")
        }
        + &node_red("press-1", "flows", Some("speak"))
}

/// Fault points that have not been met, as crate `fail` reads them.
fn armed(left: &BTreeSet<String>) -> String {
    left.iter().map(|point| format!("reconcile.{point}=panic")).collect::<Vec<_>>().join(";")
}

/// Starts the agent again and again with every point that is left; each start ends at the first of them that is met.
async fn kill_at(agent: &mut TestAgent, left: &mut BTreeSet<String>, these: &[&str]) {
    let wanted: BTreeSet<String> =
        these.iter().flat_map(|deed| [format!("before.{deed}"), format!("after.{deed}")]).collect();
    while left.iter().any(|point| wanted.contains(point)) {
        agent.env.retain(|(name, _)| name != "FAILPOINTS");
        agent.env.push(("FAILPOINTS".into(), armed(left)));
        agent.spawn();
        let process = agent.process.as_mut().expect("just started");
        let point = ended_at(process, left, &wanted).await;
        assert!(left.remove(&point), "{point} was not armed");
        agent.process = None;
    }
}

/// The fault point that ended it.
async fn ended_at(process: &mut Process, left: &BTreeSet<String>, wanted: &BTreeSet<String>) -> String {
    let missing = || format!("not met: {:?}", left.intersection(wanted).collect::<Vec<_>>());
    let killed = tokio::time::timeout(DEADLINE, process.killed(DEADLINE * 2)).await;
    assert!(killed.is_ok(), "{}\n{}", missing(), process.tail());
    eventually("its last words are read", async || {
        let said = process.said();
        let last = said.iter().rev().find_map(|l| l.strip_prefix("failpoint reconcile."));
        last.and_then(|l| l.split_whitespace().next()).map(str::to_owned).ok_or(said)
    })
    .await
}

async fn all_well(operator: &mut Operator, generation: u64) {
    operator
        .host_when("press-1", "everything is as asked", |h| {
            h.observed_generation >= generation
                && h.sync() == redforge_shared::wire::pb::Sync::UpToDate
                && h.instances_running == h.instance_count
        })
        .await;
}

#[tokio::test]
async fn docker_an_agent_killed_at_every_step_of_a_change_converges_and_touches_nothing_equal() {
    let hub = TestHub::start().await;
    let mut agent = TestAgent::start(&hub, "press-1").await;
    let mut operator = hub.operator().await;
    operator.push_flows("speak", &speaking_flow()).await.expect("a plain export");
    operator.apply(&idler("press-1", "steady")).await;
    operator.running("press-1", "steady").await;
    let steady = agent.container("steady").expect("it runs");
    let look = || engine::inspect(&steady, "{{.Id}} {{.State.StartedAt}}");
    let before = look();
    agent.kill9();
    agent.faults = true;
    // Building it is no part of a deadline.
    fault_binary("redforge-edge-faults");

    let mut left: BTreeSet<String> =
        DEEDS.iter().flat_map(|deed| [format!("before.{deed}"), format!("after.{deed}")]).collect();
    // Models need a server of their own, and somebody who stops flows by hand another story.
    for elsewhere in ["pull-model", "load-model", "start-flows"] {
        left.remove(&format!("before.{elsewhere}"));
        left.remove(&format!("after.{elsewhere}"));
    }
    let began = Instant::now();
    operator.apply(&all(Version::First)).await;
    let first = [
        "want-blob",
        "resolve-image",
        "ensure-network",
        "ensure-volume",
        "put-config",
        "put-live",
        "create",
        "connect-outside",
        "start",
        "reload",
        "deploy-flows",
    ];
    kill_at(&mut agent, &mut left, &first).await;
    assert_eq!(look(), before);
    agent.env.retain(|(name, _)| name != "FAILPOINTS");
    agent.up().await;
    let generation = operator.host("press-1").await.expect("known").generation;
    all_well(&mut operator, generation).await;
    agent.kill9();

    // What a killed agent may leave behind while it carries files.
    let label = format!("redforge.host={}", agent.host_id);
    let network = engine::inspect(&steady, "{{.HostConfig.NetworkMode}}");
    let helper = format!("{network}-put-left");
    docker(&["create", "--name", &helper, "--label", &label, "--label", "redforge.helper=1", &image("busybox")]);
    operator.apply(&all(Version::Second)).await;
    kill_at(&mut agent, &mut left, &["remove-helper", "stop", "remove", "remove-volume", "take-name"]).await;
    assert!(left.is_empty(), "never met: {left:?}");
    let kills = (DEEDS.len() - 3) * 2;
    println!("{kills} kills at {kills} points in {} s", began.elapsed().as_secs());
    agent.env.retain(|(name, _)| name != "FAILPOINTS");
    agent.up().await;
    let generation = operator.host("press-1").await.expect("known").generation;
    all_well(&mut operator, generation).await;
    assert_eq!(look(), before, "an equal container was touched");
    let filter = format!("label={label}");
    eventually("one container for each instance is left", async || {
        let there = docker(&["ps", "-a", "--filter", &filter, "--format", "{{.Names}} {{.State}}"]);
        when(there.lines().count() == 5 && there.lines().all(|l| l.ends_with(" running")), there)
    })
    .await;
}
