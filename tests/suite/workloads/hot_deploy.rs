//! A change of flows leaves the tabs that it does not touch alone: their broker session and their counters go on.
use crate::words::{broker, node_red};
use redforge_shared::wire::pb;
use redforge_tests::{
    agent::TestAgent,
    engine::try_docker,
    hub::TestHub,
    node_red::NodeRed,
    operator::Operator,
    wait::{eventually, when},
};
use serde_json::{Value, json};

/// Two tabs that share the broker's node. The steady one listens to a topic and counts what it hears; the other one, which
/// changes, publishes there every 200 ms. Each node has a place on its tab: one without is taken for a configuration.
fn flows(version: u32) -> Value {
    json!([
        {"id": "steady", "type": "tab", "label": "Steady"},
        {"id": "other", "type": "tab", "label": "Other"},
        {"id": "b1", "type": "mqtt-broker", "name": "site", "broker": "${REDFORGE_MQTT_HOST}",
         "port": "${REDFORGE_MQTT_PORT}", "clientid": "steady", "autoConnect": true, "usetls": false, "protocolVersion": "4",
         "keepalive": "60", "cleansession": true},
        {"id": "hear", "type": "mqtt in", "z": "steady", "x": 1, "y": 1, "name": "", "topic": "tick", "qos": "1",
         "datatype": "auto", "broker": "b1", "inputs": 0, "wires": [["count"]]},
        {"id": "count", "type": "function", "z": "steady", "x": 1, "y": 1, "name": "count", "outputs": 1, "libs": [],
         "initialize": "context.set('born', Date.now() + '.' + Math.random());",
         "finalize": "", "noerr": 0, "wires": [[]],
         "func": "context.set('heard', (context.get('heard') || 0) + 1); return null;"},
        {"id": "every", "type": "inject", "z": "other", "x": 1, "y": 1, "name": "", "props": [{"p": "payload"}], "repeat": "0.2",
         "crontab": "", "once": true, "onceDelay": 0.1, "topic": "", "payload": version.to_string(), "payloadType": "str",
         "wires": [["say"]]},
        {"id": "say", "type": "mqtt out", "z": "other", "x": 1, "y": 1, "name": "", "topic": "tick", "qos": "1", "retain": "",
         "broker": "b1", "wires": []}
    ])
}

/// What the steady tab's node has in its context: how often it heard, and a word that it draws whenever it is made.
fn kept(runtime: &NodeRed, key: &str) -> String {
    let seen = runtime.script(&format!("done(await admin('GET', '/context/node/count/{key}?store=default'))"));
    seen["msg"].as_str().unwrap_or_default().to_owned()
}

/// What its counter stands at.
fn heard(runtime: &NodeRed) -> u64 {
    kept(runtime, "heard").parse().unwrap_or(0)
}

/// How often the broker saw the steady client come, by its log.
fn connects(broker: &str) -> usize {
    let log = std::process::Command::new("docker").args(["logs", broker]).output().expect("a log");
    let text = String::from_utf8_lossy(&[log.stdout, log.stderr].concat()).into_owned();
    text.lines().filter(|l| l.contains("New client connected") && l.contains("as steady")).count()
}

async fn deployed(operator: &mut Operator, version: u32) {
    let known = operator.host("press-1").await.expect("known").generation;
    operator.push_flows("two-tabs", flows(version).to_string().as_bytes()).await.expect("a plain export");
    operator
        .host_when("press-1", "the host runs the new flows", |h| {
            h.observed_generation > known && h.sync() == pb::Sync::UpToDate
        })
        .await;
}

/// Waits until the counter is beyond `from`.
async fn counts_on(runtime: &NodeRed, from: u64) -> u64 {
    eventually("the counter runs", async || {
        let now = heard(runtime);
        when(now > from, now).map(|()| now)
    })
    .await
}

#[tokio::test]
async fn docker_a_hot_deploy_keeps_the_session_and_the_counter_of_another_tab() {
    let hub = TestHub::start().await;
    let agent = TestAgent::start(&hub, "press-1").await;
    let mut operator = hub.operator().await;
    operator.push_flows("two-tabs", flows(1).to_string().as_bytes()).await.expect("a plain export");
    operator.apply(&(broker("press-1") + &node_red("press-1", "flows", Some("two-tabs")))).await;
    operator.running("press-1", "flows").await;
    let broker = agent.container("broker").expect("it runs");
    let runtime = NodeRed { container: agent.container("flows").expect("it runs") };
    let run = runtime.run();
    let before = counts_on(&runtime, 10).await;
    let (came, born) = (connects(&broker), kept(&runtime, "born"));
    assert!(came >= 1, "{:?}", try_docker(&["logs", "--tail", "20", &broker]));

    for version in 2..=4 {
        deployed(&mut operator, version).await;
    }
    let every = runtime.flows()["flows"].as_array().and_then(|f| f.iter().find(|n| n["id"] == "every").cloned());
    assert_eq!(every.expect("the node")["payload"], "4", "the newest flows run");
    let after = counts_on(&runtime, before + 5).await;
    assert!(after > before, "{after} after {before}");
    assert_eq!(kept(&runtime, "born"), born, "the node is the one of before");
    assert_eq!((connects(&broker), runtime.run()), (came, run.clone()), "the session was kept through three deploys");
    // Reading them fails where they lie in the clear, as the runtime leaves those that it is given a second time.
    assert_eq!(runtime.credentials()["b1"]["user"], "${REDFORGE_MQTT_USER}");

    // Negative control: a full deploy of the same flows ends the session, and the counter begins anew.
    let seen = runtime.flows()["flows"].clone();
    runtime.deploy(&seen, None, "full");
    eventually("the client came again", async || when(connects(&broker) > came, connects(&broker))).await;
    eventually("the counter belongs to another node", async || {
        let now = kept(&runtime, "born");
        when(now != born, now)
    })
    .await;
    assert_eq!(runtime.run(), run);
}
