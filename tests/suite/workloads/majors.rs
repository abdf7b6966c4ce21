//! Both majors of Node-RED that hosts run, 4.1 and 5, side by side: what a flow author counts on is the same on each.
use crate::words::{broker, instance};
use redforge_shared::wire::pb;
use redforge_tests::{
    agent::TestAgent,
    engine::image,
    hub::TestHub,
    node_red::NodeRed,
    operator::Operator,
    wait::{eventually, when},
};
use serde_json::{Value, json};

const MEMORY_MIB: u64 = 320;
/// What Node-RED needs beside its JavaScript heap.
const BESIDE_MIB: u64 = 128;

/// A steady tab that counts what it hears, and another one that speaks and hands in one record for each of its versions.
fn flows(version: u32) -> Vec<u8> {
    let node = |id: &str, kind: &str, tab: &str, more: Value| {
        let mut node = json!({"id": id, "type": kind, "z": tab, "x": 1, "y": 1, "name": "", "wires": []});
        node.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        node
    };
    let function = |func: &str, initialize: &str, to: Value| json!({"func": func, "initialize": initialize, "finalize": "", "outputs": 1, "libs": [], "noerr": 0, "wires": [to]});
    let hand_in = format!(
        "const key = env.get('REDFORGE_INSTANCE') + '-{version}'; return {{key, payload: {{key, name: 'majors', payload: {{}}}}}};"
    );
    json!([
        {"id": "steady", "type": "tab", "label": "Steady"},
        {"id": "other", "type": "tab", "label": "Other"},
        {"id": "b1", "type": "mqtt-broker", "name": "site", "broker": "${REDFORGE_MQTT_HOST}",
         "port": "${REDFORGE_MQTT_PORT}", "clientid": "", "autoConnect": true, "usetls": false, "protocolVersion": "4",
         "keepalive": "60", "cleansession": true},
        node("hear", "mqtt in", "steady",
            json!({"topic": "tick", "qos": "1", "datatype": "auto", "broker": "b1", "inputs": 0, "wires": [["count"]]})),
        node("count", "function", "steady", function(
            "context.set('heard', (context.get('heard') || 0) + 1); return null;",
            "context.set('born', Date.now() + '.' + Math.random());", json!([]))),
        node("every", "inject", "other", json!({"props": [{"p": "payload"}], "repeat": "0.3", "crontab": "", "once": true,
            "onceDelay": 0.1, "topic": "", "payload": version.to_string(), "payloadType": "str", "wires": [["say", "make"]]})),
        node("say", "mqtt out", "other", json!({"topic": "tick", "qos": "1", "retain": "", "broker": "b1"})),
        node("make", "function", "other", function(&hand_in, "", json!(["out"]))),
        node("out", "redforge out", "other",
            json!({"class": "event", "unit": "", "maxRecords": 10_000, "maxMiB": 64, "whenFull": "refuse"})),
    ])
    .to_string()
    .into_bytes()
}

/// What the counting node has in its context.
fn kept(runtime: &NodeRed, key: &str) -> Result<String, String> {
    let seen = runtime.try_script(&format!("done(await admin('GET', '/context/node/count/{key}?store=default'))"))?;
    Ok(seen["msg"].as_str().unwrap_or_default().to_owned())
}

async fn counts(runtime: &NodeRed, beyond: u64) -> u64 {
    eventually("the counter runs", async || {
        let now = kept(runtime, "heard")?.parse::<u64>().unwrap_or(0);
        when(now > beyond, now.to_string()).map(|()| now)
    })
    .await
}

async fn up_to_date(operator: &mut Operator, name: &str) {
    let good = |s: &pb::InstanceStatus| {
        (s.phase(), s.health(), s.sync()) == (pb::Phase::Running, pb::Health::Healthy, pb::Sync::UpToDate)
    };
    operator.instance_when("press-1", name, "as desired", good).await;
}

/// What every major must do, from its first deploy to an edit that is put back.
async fn core(operator: &mut Operator, runtime: &NodeRed, name: &str, version: &str) {
    up_to_date(operator, name).await;
    let settings = runtime.script("done(await admin('GET', '/settings'))");
    assert!(settings["version"].as_str().is_some_and(|v| v.starts_with(version)), "{version}: {}", settings["version"]);
    // The heap is what the limit leaves, and the engine waits for the nodes to close.
    let heap = "done(Math.round(require('v8').getHeapStatistics().heap_size_limit / 1048576))";
    let heap = runtime.script(heap).as_u64().unwrap_or(0);
    let ceiling = MEMORY_MIB - BESIDE_MIB;
    assert!((ceiling..ceiling + 64).contains(&heap), "{name}: a heap of {heap} MiB, wanted {ceiling}");
    let stop = redforge_tests::engine::inspect(&runtime.container, "{{.Config.StopTimeout}}");
    assert!(stop.parse::<u32>().is_ok_and(|s| s >= 20), "{name}: {stop} s to stop");
}

#[tokio::test]
async fn docker_both_majors_deploy_hot_keep_a_counter_hand_in_records_and_lose_an_edit() {
    let hub = TestHub::start().await;
    let agent = TestAgent::start(&hub, "press-1").await;
    let mut operator = hub.operator().await;
    operator.push_flows("majors", &flows(1)).await.expect("a plain export");
    let majors = [("four", "node-red", "4.1."), ("five", "node-red-5", "5.")];
    let more = format!("  resources: {{memory: {MEMORY_MIB}Mi}}\n  nodeRed: {{flowSet: majors}}\n");
    let manifests = majors.map(|(name, kind, _)| instance("press-1", name, "node-red", &image(kind), &more));
    operator.apply(&(broker("press-1") + &manifests.concat())).await;
    let mut runs = Vec::new();
    for (name, _, version) in majors {
        operator.running("press-1", name).await;
        let runtime = NodeRed { container: agent.container(name).expect("it runs") };
        core(&mut operator, &runtime, name, version).await;
        let (heard, born) = (counts(&runtime, 3).await, kept(&runtime, "born").expect("it was made"));
        runs.push((name, runtime.run(), runtime, heard, born));
    }

    // Other flows on one tab: no restart, and the other tab's node is the one of before.
    operator.push_flows("majors", &flows(2)).await.expect("a plain export");
    for (name, run, runtime, heard, born) in &runs {
        eventually("the newest flows run", async || {
            let flows = runtime.try_script("done(await admin('GET', '/flows'))")?.to_string();
            when(flows.contains("-2'"), flows)
        })
        .await;
        up_to_date(&mut operator, name).await;
        counts(runtime, *heard).await;
        assert_eq!((kept(runtime, "born").as_ref(), &runtime.run()), (Ok(born), run), "{name}");

        // An edit in the editor is put back, as the flows' hash says.
        let before = runtime.parts().expect("it answers");
        let mut flows = runtime.flows()["flows"].clone();
        let say = flows.as_array_mut().expect("nodes").iter_mut().find(|n| n["id"] == "say").expect("the node");
        say["topic"] = json!("edited");
        runtime.deploy(&flows, None, "flows");
        eventually("the flows are as before", async || {
            let now = runtime.parts()?;
            when(now == before, now)
        })
        .await;
        up_to_date(&mut operator, name).await;
        assert_eq!(&runtime.run(), run, "{name}: no restart for an edit");
    }

    // The way out of each: one record for each version, however often it was handed in.
    let pool = hub.postgres.pool().await;
    eventually("both versions of both are at the hub", async || {
        let keys: Vec<String> = sqlx::query_scalar("SELECT key FROM record_event WHERE name = 'majors' ORDER BY key")
            .fetch_all(&pool)
            .await
            .map_err(|e| e.to_string())?;
        when(keys == ["five-1", "five-2", "four-1", "four-2"], keys)
    })
    .await;
}
