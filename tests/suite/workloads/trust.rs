//! Flows that break after they came up make way for those before, by themselves; and a runtime that is to have none has none.
use super::changes::remembered;
use crate::words::{instance, node_red};
use redforge_shared::{ids::Digest, wire::pb};
use redforge_tests::{
    agent::TestAgent,
    engine::image,
    hub::TestHub,
    node_red::NodeRed,
    operator::Operator,
    place::{free_port, text},
    visitor::Visitor,
    wait::{eventually, when},
};
use serde_json::{Value, json};
use std::time::Duration;

/// What a version of the flows is.
#[derive(Clone, Copy)]
enum Kind {
    /// Answers at /ping.
    Good,
    /// Answers, and takes all the memory there is six seconds after it was started.
    Leaks,
    /// Ends its runtime whenever it is started: the admin API never answers again.
    Kills,
    /// Runs, and answers elsewhere.
    Silent,
    /// Uses a node that nobody has.
    Lacks,
}

/// Flows that say their version at /ping.
fn flows(says: &str, kind: Kind) -> Vec<u8> {
    let starts = match kind {
        Kind::Leaks => {
            "const held = []; setTimeout(() => setInterval(() => held.push(Buffer.alloc(32 << 20, 1)), 50), 6000);"
        }
        Kind::Kills => "const held = []; for (;;) held.push(Buffer.alloc(32 << 20, 1));",
        _ => "",
    };
    let url = if matches!(kind, Kind::Silent) { "/elsewhere" } else { "/ping" };
    let mut nodes = vec![
        json!({"id": "t1", "type": "tab", "label": "Ping"}),
        json!({"id": "in", "type": "http in", "z": "t1", "x": 1, "y": 1, "name": "", "url": url, "method": "get", "wires": [["fn"]]}),
        json!({"id": "fn", "type": "function", "z": "t1", "x": 1, "y": 1, "name": "say", "outputs": 1, "libs": [],
               "initialize": starts, "finalize": "", "noerr": 0, "func": format!("msg.payload = '{says}'; return msg;"),
               "wires": [["out"]]}),
        json!({"id": "out", "type": "http response", "z": "t1", "x": 1, "y": 1, "name": "", "statusCode": "200", "headers": {},
               "wires": []}),
    ];
    if matches!(kind, Kind::Lacks) {
        nodes.push(json!({"id": "no", "type": "nobody-has-this", "z": "t1", "x": 1, "y": 1, "name": "", "wires": []}));
    }
    Value::Array(nodes).to_string().into_bytes()
}

async fn agent(hub: &TestHub) -> TestAgent {
    let mut agent = TestAgent::prepare("press-1");
    agent.env.push(("REDFORGE_EDGE__RUNTIME__DEPLOY_DEADLINE_S".into(), "12".into()));
    agent.enroll_at(hub).await;
    agent.up().await;
    agent
}

/// Gives the host other flows and takes the hub away as soon as they run; what ran before comes back. The status at the
/// machine says so, and so does the hub, once it is there again.
async fn takes_back(
    (hub, operator, agent, visitor): (&mut TestHub, &mut Operator, &TestAgent, &Visitor),
    (what, kind): (&str, Kind),
    (reason, word): (pb::StatusReason, &str),
) {
    visitor.longest_outage();
    let known = operator.host("press-1").await.expect("known").generation;
    let pushed = operator.push_flows("ping", &flows(what, kind)).await.expect("a plain export");
    let runtime = NodeRed { container: agent.container("flows").expect("it runs") };
    operator.host_when("press-1", "the host is to run the new flows", |h| h.observed_generation > known).await;
    // The flows themselves come after their name.
    let digest: Digest = pushed.flow_set.expect("the newest").digest.parse().expect("a digest");
    let here = agent.state().join("blobs/sha256").join(digest.hex());
    eventually("the host has the new flows", async || when(here.exists(), &here)).await;
    hub.kill9();
    if matches!(kind, Kind::Leaks) {
        eventually("the new flows answer", async || when(visitor.said() == what, visitor.said())).await;
    }
    eventually("the machine says that it went back", async || {
        let said = text(&agent.status(&[]));
        // Of every version before this one it gave another reason.
        let back = said.lines().any(|l| l.contains("Healthy") && l.contains("RolledBack") && l.contains(word));
        when(back && visitor.said() == "good", said)
    })
    .await;
    let outage = visitor.longest_outage();
    println!("outage: {what}: {} ms, with the hub away", outage.as_millis());
    assert!(outage < Duration::from_secs(75), "{what}: {outage:?}");
    let answers = runtime.script("done(await (await fetch('http://127.0.0.1:1880/ping')).text())");
    assert_eq!(answers, "good", "{what}");
    hub.up().await;
    *operator = hub.operator().await;
    let back = |s: &pb::InstanceStatus| s.sync() == pb::Sync::RolledBack && s.reason() == reason;
    operator.instance_when("press-1", "flows", &format!("{what} went back"), back).await;
}

#[tokio::test]
async fn docker_flows_that_break_after_they_came_up_make_way_for_those_before_with_the_hub_away() {
    let mut hub = TestHub::start().await;
    let agent = agent(&hub).await;
    let mut operator = hub.operator().await;
    let port = free_port();
    let more = format!(
        "  resources: {{memory: 320Mi}}\n  ports:\n    - {{container: 1880, host: {port}, address: 127.0.0.1}}\n  nodeRed:\n    \
         flowSet: ping\n  probe: {{http: {{port: 1880, path: /ping}}, periodSeconds: 2, failureThreshold: 3}}\n"
    );
    operator.push_flows("ping", &flows("good", Kind::Good)).await.expect("a plain export");
    operator.apply(&instance("press-1", "flows", "node-red", &image("node-red"), &more)).await;
    operator.running("press-1", "flows").await;
    let visitor = Visitor::of_page(port, "/ping");
    eventually("the flows answer", async || when(visitor.said() == "good", visitor.said())).await;
    remembered(&agent, &["flows"]).await;

    for (what, kind, reason) in [
        ("leaks", Kind::Leaks, (pb::StatusReason::OutOfMemory, "OutOfMemory")),
        ("silent", Kind::Silent, (pb::StatusReason::ProbeFailed, "ProbeFailed")),
        ("kills", Kind::Kills, (pb::StatusReason::OutOfMemory, "OutOfMemory")),
    ] {
        takes_back((&mut hub, &mut operator, &agent, &visitor), (what, kind), reason).await;
    }
    // Good flows that are given to a runtime that others are just ending are not condemned with those.
    operator.push_flows("ping", &flows("kills again", Kind::Kills)).await.expect("a plain export");
    let ends = |s: &pb::InstanceStatus| s.phase() == pb::Phase::Crashed;
    operator.instance_when("press-1", "flows", "the flows end it", ends).await;
    operator.push_flows("ping", &flows("rescue", Kind::Good)).await.expect("a plain export");
    eventually("the good flows answer", async || when(visitor.said() == "rescue", visitor.said())).await;
    let well = |s: &pb::InstanceStatus| (s.health(), s.sync()) == (pb::Health::Healthy, pb::Sync::UpToDate);
    operator.instance_when("press-1", "flows", "the good flows are what was asked for", well).await;

    // What works is trusted, and then it is what others go back to.
    operator.push_flows("ping", &flows("better", Kind::Good)).await.expect("a plain export");
    eventually("the better flows answer", async || when(visitor.said() == "better", visitor.said())).await;
    let on_trial = |s: &pb::InstanceStatus| s.sync() == pb::Sync::UpToDate && s.trial_ends_at.is_some();
    operator.instance_when("press-1", "flows", "the better flows are on trial", on_trial).await;
    // What lacks a node is not given to a runtime that has others, trusted or not.
    visitor.longest_outage();
    operator.push_flows("ping", &flows("lacks", Kind::Lacks)).await.expect("a plain export");
    let back = |s: &pb::InstanceStatus| s.sync() == pb::Sync::RolledBack && s.names == ["nobody-has-this"];
    operator.instance_when("press-1", "flows", "they are refused by name", back).await;
    eventually("what was trusted answers", async || when(visitor.said() == "good", visitor.said())).await;
    let outage = visitor.longest_outage();
    println!("outage: lacks, beside flows on trial: {} ms", outage.as_millis());
    assert!(outage < Duration::from_secs(2), "{outage:?}");

    // What works for its time is trusted, and no longer on trial.
    operator.push_flows("ping", &flows("better still", Kind::Good)).await.expect("a plain export");
    eventually("the best flows answer", async || when(visitor.said() == "better still", visitor.said())).await;
    let trusted = |s: &pb::InstanceStatus| s.sync() == pb::Sync::UpToDate && s.trial_ends_at.is_none();
    operator.instance_when("press-1", "flows", "the best flows are trusted", trusted).await;
}

#[tokio::test]
async fn docker_a_runtime_that_is_to_have_no_flows_is_emptied_and_is_not_green_before() {
    let hub = TestHub::start().await;
    let agent = agent(&hub).await;
    let mut operator = hub.operator().await;
    operator.apply(&node_red("press-1", "flows", None)).await;
    operator.running("press-1", "flows").await;
    remembered(&agent, &["flows"]).await;
    let runtime = NodeRed { container: agent.container("flows").expect("it runs") };
    let count = |runtime: &NodeRed| runtime.flows()["flows"].as_array().map_or(0, Vec::len);
    // What somebody made where nothing was given is theirs.
    let own: Value = serde_json::from_slice(&flows("own", Kind::Good)).expect("JSON");
    runtime.deploy(&own, None, "full");

    operator.push_flows("bad", &flows("bad", Kind::Lacks)).await.expect("a plain export");
    assert_eq!(count(&runtime), 4, "nothing was given, and something was taken out");
    operator.apply(&node_red("press-1", "flows", Some("bad"))).await;
    let back = |s: &pb::InstanceStatus| s.sync() == pb::Sync::RolledBack && s.health() == pb::Health::Healthy;
    let status = operator.instance_when("press-1", "flows", "it went back to none", back).await;
    assert_eq!((status.reason(), status.names), (pb::StatusReason::MissingTypes, vec!["nobody-has-this".to_owned()]));
    assert_eq!(count(&runtime), 0, "what was given is still there");

    // Flows that work, and then none: what was given goes, and only then all is well.
    operator.push_flows("good", &flows("good", Kind::Good)).await.expect("a plain export");
    operator.apply(&node_red("press-1", "flows", Some("good"))).await;
    let well = |s: &pb::InstanceStatus| s.sync() == pb::Sync::UpToDate && s.health() == pb::Health::Healthy;
    operator.instance_when("press-1", "flows", "the good flows run", well).await;
    assert_eq!(count(&runtime), 4);
    let known = operator.host("press-1").await.expect("known").generation;
    operator.apply(&node_red("press-1", "flows", None)).await;
    operator
        .host_when("press-1", "it is as it was asked for", |h| {
            h.observed_generation > known && h.sync() == pb::Sync::UpToDate && h.instances_running == 1
        })
        .await;
    assert_eq!(count(&runtime), 0);
    let runtime_was = runtime.run();
    runtime.deploy(&own, None, "full");
    eventually("what somebody made is theirs", async || when(count(&runtime) == 4, count(&runtime))).await;
    assert_eq!(runtime.run(), runtime_was, "it was one container all the time");
}
