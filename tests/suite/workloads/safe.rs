//! Flows that end their runtime leave it reachable: it comes up without them, and what repairs them runs at once.
use super::changes::remembered;
use crate::words::node_red;
use redforge_shared::wire::pb;
use redforge_tests::{
    agent::TestAgent,
    ctl::Ctl,
    engine,
    hub::TestHub,
    node_red::NodeRed,
    wait::{eventually, when},
};
use serde_json::{Value, json};
use std::process::Command;

/// A tab that answers, and a function whose start does this.
fn flows(start: &str) -> Value {
    json!([
        {"id": "t", "type": "tab", "label": "Loop"},
        {"id": "in", "type": "http in", "z": "t", "x": 1, "y": 1, "name": "", "url": "/alive", "method": "get", "wires": [["ok"]]},
        {"id": "ok", "type": "http response", "z": "t", "x": 1, "y": 1, "name": "", "statusCode": "200", "headers": {}, "wires": []},
        {"id": "f", "type": "function", "z": "t", "x": 1, "y": 1, "name": "late", "outputs": 0, "libs": [], "initialize": start,
         "finalize": "", "noerr": 0, "func": "return null;", "wires": []}
    ])
}

async fn answers(runtime: &NodeRed) -> Result<u64, String> {
    let status = runtime.try_script("done((await fetch('http://127.0.0.1:1880/alive')).status)")?;
    status.as_u64().ok_or_else(|| status.to_string())
}

#[tokio::test]
async fn docker_flows_that_end_their_runtime_leave_it_in_safe_mode_until_they_are_repaired() {
    let hub = TestHub::start().await;
    let agent = TestAgent::start(&hub, "press-1").await;
    let mut operator = hub.operator().await;
    let ctl = Ctl::new(&hub);
    // A rejection that nobody catches ends the process; what a timer throws the function node catches.
    let broken = flows("setTimeout(() => { Promise.reject(new Error('by the author')) }, 300);").to_string();
    operator.push_flows("loop", broken.as_bytes()).await.expect("a plain export");
    operator.apply(&node_red("press-1", "flows", Some("loop"))).await;
    let looping = |s: &pb::InstanceStatus| s.phase() == pb::Phase::Crashed && s.exit_code != 0;
    operator.instance_when("press-1", "flows", "the crash is told", looping).await;
    let safe = |s: &pb::InstanceStatus| s.phase() == pb::Phase::Safe && s.reason() == pb::StatusReason::SafeMode;
    let status = operator.instance_when("press-1", "flows", "it is in safe mode", safe).await;
    assert_eq!((status.health(), status.sync()), (pb::Health::Error, pb::Sync::Failed));
    assert!(status.exit_code != 0, "{status:?}");
    let runtime = NodeRed { container: agent.container("flows").expect("it runs") };
    let run = runtime.run();
    assert!(runtime.flows()["flows"].to_string().contains("by the author"), "the flows can be read");
    assert_eq!(answers(&runtime).await, Ok(404), "and do not run");

    // Held, it is no better for it, whatever waits to be given.
    assert!(agent.edge(&["hold", "flows", "--for", "1h", "--reason", "story"]).status.success());
    ctl.file("flows.json", flows("").to_string());
    ctl.run(&["flowset", "push", "loop", "flows.json"]).good();
    let held = |s: &pb::InstanceStatus| s.sync() == pb::Sync::Paused && s.reason() == pb::StatusReason::BlobMissing;
    let status = operator.instance_when("press-1", "flows", "it is held, and the flows wait", held).await;
    assert_eq!((status.phase(), status.health()), (pb::Phase::Safe, pb::Health::Error), "{status:?}");
    assert!(agent.edge(&["release", "flows"]).status.success());

    // Repaired: in the same run of the same container.
    eventually("the repaired flows answer", async || {
        let now = answers(&runtime).await;
        when(now == Ok(200), now)
    })
    .await;
    assert_eq!(runtime.run(), run);

    // A start later is a usual one.
    engine::docker(&["restart", "-t", "25", &runtime.container]);
    eventually("the flows answer after a restart", async || {
        let now = answers(&runtime).await;
        when(now == Ok(200), now)
    })
    .await;
    let good = |s: &pb::InstanceStatus| s.phase() == pb::Phase::Running && s.health() == pb::Health::Healthy;
    operator.instance_when("press-1", "flows", "it is well", good).await;

    // Flows that have worked, and are ended from outside again and again, are tried again and not left in safe mode.
    remembered(&agent, &["flows"]).await;
    for end in 1..=3 {
        let pid = eventually("it runs", async || {
            let pid: u32 = engine::inspect(&runtime.container, "{{.State.Pid}}").parse().map_err(|e| format!("{e}"))?;
            when(pid > 1, pid).map(|()| pid.to_string())
        })
        .await;
        let killed = Command::new("kill").args(["-9", &pid]).status();
        assert!(killed.is_ok_and(|s| s.success()), "{pid} was not there");
        let again = |s: &pb::InstanceStatus| s.restarts >= end;
        operator.instance_when("press-1", "flows", &format!("end {end} is told"), again).await;
    }
    let rests = |s: &pb::InstanceStatus| s.phase() == pb::Phase::Crashed && s.next_start_at.is_some();
    operator.instance_when("press-1", "flows", "it rests", rests).await;
    eventually("the flows answer after a rest", async || {
        let now = answers(&runtime).await;
        when(now == Ok(200), now)
    })
    .await;
}
