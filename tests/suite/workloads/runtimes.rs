//! Several flow sets in one runtime: each comes, changes and goes without the others noticing.
use crate::words::{broker, node_red};
use redforge_shared::wire::pb;
use redforge_tests::{
    agent::TestAgent,
    ctl::Ctl,
    hub::TestHub,
    node_red::NodeRed,
    operator::Operator,
    wait::{eventually, when},
};
use serde_json::{Value, json};

/// A tab that counts five times a second, and knows when it was made. All of them bring the same broker's node along.
fn counting(tab: &str, version: u32) -> Vec<u8> {
    let id = |of: &str| format!("{tab}-{of}");
    json!([
        {"id": tab, "type": "tab", "label": tab},
        {"id": "b1", "type": "mqtt-broker", "name": "site", "broker": "${REDFORGE_MQTT_HOST}", "port": "${REDFORGE_MQTT_PORT}",
         "clientid": "", "autoConnect": true, "usetls": false, "protocolVersion": "4", "keepalive": "60", "cleansession": true},
        {"id": id("every"), "type": "inject", "z": tab, "x": 1, "y": 1, "name": "", "props": [{"p": "payload"}], "repeat": "0.2",
         "crontab": "", "once": true, "onceDelay": 0.1, "topic": "", "payload": version.to_string(), "payloadType": "str",
         "wires": [[id("count")]]},
        {"id": id("count"), "type": "function", "z": tab, "x": 1, "y": 1, "name": "count", "outputs": 1, "libs": [],
         "initialize": "context.set('born', Date.now() + '.' + Math.random());", "finalize": "", "noerr": 0, "wires": [[]],
         "func": "context.set('heard', (context.get('heard') || 0) + 1); context.set('last', msg.payload); return null;"}
    ])
    .to_string()
    .into_bytes()
}

fn guest(name: &str, flow_set: &str) -> String {
    format!(
        "---\napiVersion: redforge.io/v1\nkind: Instance\nmetadata:\n  name: {name}\nspec:\n  host: press-1\n  \
         kind: node-red\n  nodeRed:\n    flowSet: {flow_set}\n    runtime: main\n"
    )
}

/// What a tab's counter has in its context.
fn kept(runtime: &NodeRed, tab: &str, key: &str) -> String {
    let seen =
        runtime.try_script(&format!("done(await admin('GET', '/context/node/{tab}-count/{key}?store=default'))"));
    seen.ok().and_then(|s| Some(s["msg"].as_str()?.to_owned())).unwrap_or_default()
}

async fn counts_on(runtime: &NodeRed, tab: &str) {
    let heard = || kept(runtime, tab, "heard").parse::<u64>().unwrap_or(0);
    let from = heard();
    eventually(&format!("{tab} counts on"), async || when(heard() > from + 3, heard())).await;
}

async fn as_desired(operator: &mut Operator, name: &str) {
    let is = |s: &pb::InstanceStatus| {
        (s.phase(), s.health(), s.sync()) == (pb::Phase::Running, pb::Health::Healthy, pb::Sync::UpToDate)
    };
    operator.instance_when("press-1", name, "as desired", is).await;
}

async fn has_tabs(runtime: &NodeRed, wanted: &[&str]) {
    eventually(&format!("the tabs are {wanted:?}"), async || {
        let flows = runtime.try_script("done(await admin('GET', '/flows'))")?;
        let nodes = flows["flows"].as_array().cloned().unwrap_or_default();
        let is_tab = |n: &&Value| n["type"] == "tab";
        let tabs: Vec<String> =
            nodes.iter().filter(is_tab).filter_map(|n| Some(n["id"].as_str()?.to_owned())).collect();
        when(tabs == wanted, tabs)
    })
    .await;
}

#[tokio::test]
async fn docker_two_flow_sets_share_a_runtime_and_each_changes_and_goes_without_the_other_noticing() {
    let hub = TestHub::start().await;
    let agent = TestAgent::start(&hub, "press-1").await;
    let mut operator = hub.operator().await;
    let ctl = Ctl::new(&hub);
    operator.push_flows("calm-flows", &counting("calm", 1)).await.expect("a plain export");
    operator.push_flows("busy-flows", &counting("busy", 1)).await.expect("a plain export");
    let set = broker("press-1")
        + &node_red("press-1", "main", None)
        + &guest("busy", "busy-flows")
        + &guest("calm", "calm-flows");
    operator.apply(&set).await;
    for name in ["main", "busy", "calm"] {
        as_desired(&mut operator, name).await;
    }
    assert_eq!((agent.container("busy"), agent.container("calm")), (None, None), "they have no container of their own");
    let runtime = NodeRed { container: agent.container("main").expect("it runs") };
    has_tabs(&runtime, &["busy", "calm"]).await;
    counts_on(&runtime, "busy").await;
    counts_on(&runtime, "calm").await;
    let (run, born) = (runtime.run(), kept(&runtime, "calm", "born"));

    // One changes: it runs its new flows, and the other one's counter is the one of before.
    for version in 2..=3_u32 {
        operator.push_flows("busy-flows", &counting("busy", version)).await.expect("a plain export");
        eventually("the new flows run", async || {
            let last = kept(&runtime, "busy", "last");
            when(last == version.to_string(), last)
        })
        .await;
    }
    as_desired(&mut operator, "busy").await;
    counts_on(&runtime, "calm").await;
    assert_eq!((runtime.run(), kept(&runtime, "calm", "born")), (run.clone(), born.clone()));

    // What cannot stand side by side is refused by the node, before anything is stored.
    let refused = operator.push_flows("busy-flows", &counting("calm", 9)).await.expect_err("its ids are taken");
    assert!(refused.message().contains("node 'calm'"), "{refused}");
    let refused = ctl.run(&["delete", "instance", "press-1/main"]).bad(4);
    assert!(refused.contains("runtime of another instance"), "{refused}");

    // One goes: only its tab does.
    ctl.run(&["delete", "instance", "press-1/busy"]).good();
    has_tabs(&runtime, &["calm"]).await;
    counts_on(&runtime, "calm").await;
    assert_eq!((runtime.run(), kept(&runtime, "calm", "born")), (run, born));
}
