//! A durable way out: what a flow hands to `redforge out` arrives once, whatever ends and begins again meanwhile.
use crate::words::{broker, node_red};
use redforge_tests::{
    agent::TestAgent,
    engine::{self, docker, try_docker},
    flowless::call,
    hub::TestHub,
    wait::{eventually, when},
};
use serde_json::{Value, json};
use sqlx::PgPool;
use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

const RESTARTS: u32 = 10;
/// Who hands in at the same time.
const HANDS: u64 = 4;
const PATIENCE: Duration = Duration::from_secs(90);

/// `POST /hand {key}` is answered once the way out has the message: both are wired to one node, the way out first.
fn flow(out: &Value) -> Vec<u8> {
    let mut nodes = json!([
        {"id": "t1", "type": "tab", "label": "Out"},
        {"id": "b1", "type": "mqtt-broker", "name": "site", "broker": "${REDFORGE_MQTT_HOST}",
         "port": "${REDFORGE_MQTT_PORT}", "clientid": "", "autoConnect": true, "usetls": false, "protocolVersion": "4",
         "keepalive": "60", "cleansession": true},
        {"id": "in", "type": "http in", "z": "t1", "name": "", "url": "/hand", "method": "post", "wires": [["fn"]]},
        {"id": "fn", "type": "function", "z": "t1", "name": "record", "outputs": 1, "libs": [], "initialize": "",
         "finalize": "", "noerr": 0, "func": "const k = msg.payload.key; msg.key = k; msg.topic = 'redforge/records/event';\
            msg.payload = {key: k, name: 'handed', payload: {key: k}}; return msg;",
         "wires": [["out", "ok"]]},
        {"id": "ok", "type": "http response", "z": "t1", "name": "", "statusCode": "200", "headers": {}, "wires": []}
    ]);
    nodes.as_array_mut().expect("a list").push(out.clone());
    nodes.to_string().into_bytes()
}

fn redforge_out() -> Value {
    json!({"id": "out", "type": "redforge out", "z": "t1", "name": "", "class": "event", "unit": "", "maxRecords": 10_000,
           "maxMiB": 64, "whenFull": "refuse", "wires": []})
}

fn mqtt_out() -> Value {
    json!({"id": "out", "type": "mqtt out", "z": "t1", "name": "", "topic": "", "qos": "1", "retain": "", "broker": "b1",
           "wires": []})
}

/// Hands one key in; answered means that the flow has it.
async fn hand(address: &str, key: &str) -> Result<(), String> {
    let url = format!("http://{address}:1880/hand");
    let asked = call("POST", &url, json!({"key": key}));
    match tokio::time::timeout(Duration::from_secs(5), asked).await {
        Ok(Ok(_)) => Ok(()),
        // An answer without a body is no JSON, and good.
        Ok(Err(e)) if e.starts_with("EOF") => Ok(()),
        Ok(Err(e)) => Err(e),
        Err(_) => Err("no answer in time".into()),
    }
}

/// Keys that the hub has, and rows.
async fn landed(pool: &PgPool) -> (i64, i64) {
    sqlx::query_as("SELECT count(DISTINCT key), count(*) FROM record_event WHERE name = 'handed'")
        .fetch_one(pool)
        .await
        .expect("the hub's tables are there")
}

async fn ready(hub: &TestHub, out: &Value, faults: bool) -> TestAgent {
    let mut agent = TestAgent::prepare("press-1");
    agent.faults = faults;
    agent.enroll_at(hub).await;
    agent.up().await;
    let mut operator = hub.operator().await;
    operator.push_flows("out", &flow(out)).await.expect("a plain export");
    operator.apply(&(broker("press-1") + &node_red("press-1", "flows", Some("out")))).await;
    operator.running("press-1", "broker").await;
    operator.running("press-1", "flows").await;
    agent
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn docker_redforge_out_loses_and_doubles_nothing_across_ten_restarts_of_agent_and_node_red() {
    let hub = TestHub::start().await;
    let mut agent = ready(&hub, &redforge_out(), true).await;
    let container = agent.container("flows").expect("it runs");
    let (stop, handed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut hands = tokio::task::JoinSet::new();
    for who in 0..HANDS {
        hands.spawn(keep_handing(who, container.clone(), Arc::clone(&stop), Arc::clone(&handed)));
    }
    for round in 0..RESTARTS {
        // Between a commit and its answer: the node cannot know that its batch was taken, and sends it again.
        let process = agent.process.as_mut().expect("it runs");
        process.arm("ingest.before-answer=3*off->panic").await;
        process.killed(PATIENCE).await;
        agent.kill9();
        let before = handed.load(Ordering::Relaxed);
        eventually("the flow takes messages while the agent is down", async || {
            let now = handed.load(Ordering::Relaxed);
            when(now > before + 10, now)
        })
        .await;
        if round % 2 == 0 {
            // In the dark: what the flow had taken lies in its volume alone.
            docker(&["restart", "-t", "0", &container]);
            agent.up().await;
        } else {
            agent.up().await;
            docker(&["restart", "-t", "25", &container]);
        }
    }
    stop.store(true, Ordering::Relaxed);
    while let Some(ended) = hands.join_next().await {
        ended.expect("every hand came to its end");
    }
    let expected = i64::try_from(handed.load(Ordering::Relaxed)).expect("a small number");
    let pool = hub.postgres.pool().await;
    eventually("everything that the flow took is at the hub", async || {
        let (keys, _) = landed(&pool).await;
        when(keys >= expected, (keys, expected))
    })
    .await;
    assert_eq!(landed(&pool).await, (expected, expected), "keys and rows at the hub");
    let absorbed = absorbed(&agent);
    assert!(absorbed >= u64::from(RESTARTS), "{absorbed} repeats: a kill missed its moment, the story proves nothing");
    let checked = hub.checker(&[]);
    assert!(checked.good, "{}", checked.text);
    assert_eq!(agent.container("flows").as_ref(), Some(&container), "it was the same container all the time");
    println!(
        "{expected} keys over {RESTARTS} kills of the agent and {RESTARTS} restarts of Node-RED, {absorbed} absorbed"
    );
}

/// Hands in keys, each until the flow has taken it.
async fn keep_handing(who: u64, container: String, stop: Arc<AtomicBool>, handed: Arc<AtomicU64>) {
    let mut address = engine::address(&container);
    let mut n = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        let key = format!("{who}-{n}");
        let begun = Instant::now();
        while let Err(why) = hand(&address, &key).await {
            assert!(begun.elapsed() < PATIENCE, "the flow does not take {key}: {why}");
            tokio::time::sleep(Duration::from_millis(50)).await;
            // Another start may have another address, and for a moment none.
            let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}";
            let now = try_docker(&["inspect", "--format", format, &container]).unwrap_or_default();
            address = now.split_whitespace().next().unwrap_or(&address).to_owned();
        }
        n += 1;
        handed.fetch_add(1, Ordering::Relaxed);
    }
}

/// Repeats that the agent has absorbed, as its status counts them.
fn absorbed(agent: &TestAgent) -> u64 {
    let said = agent.status(&["-o", "json"]);
    let json: Value = serde_json::from_slice(&said.stdout).expect("JSON");
    let classes = json["view"]["outbox"].as_array().cloned().unwrap_or_default();
    classes.iter().filter_map(|c| c["absorbed"].as_u64()).sum()
}

/// The negative control: the same flow with Node-RED's own node, whose broker is away for a moment.
#[tokio::test]
async fn docker_mqtt_out_loses_what_it_is_given_while_its_broker_is_away() {
    let hub = TestHub::start().await;
    let agent = ready(&hub, &mqtt_out(), false).await;
    let address = engine::address(&agent.container("flows").expect("it runs"));
    let pool = hub.postgres.pool().await;
    hand(&address, "before").await.expect("the flow takes it");
    eventually("what is handed in arrives", async || when(landed(&pool).await.0 == 1, "not yet")).await;
    assert!(agent.edge(&["hold", "broker", "--for", "1h", "--reason", "story"]).status.success());
    let broker = agent.container("broker").expect("it runs");
    docker(&["stop", "-t", "30", &broker]);
    for n in 0..20 {
        hand(&address, &format!("away-{n}")).await.expect("the flow takes it all the same");
    }
    docker(&["start", &broker]);
    let mut n = 0;
    eventually("it publishes again", async || {
        n += 1;
        hand(&address, &format!("after-{n}")).await?;
        let after: i64 = sqlx::query_scalar("SELECT count(*) FROM record_event WHERE key LIKE 'after-%'")
            .fetch_one(&pool)
            .await
            .expect("there");
        when(after > 0, after)
    })
    .await;
    let away: i64 = sqlx::query_scalar("SELECT count(*) FROM record_event WHERE key LIKE 'away-%'")
        .fetch_one(&pool)
        .await
        .expect("there");
    assert!(away < 20, "mqtt out has become durable: the other story has lost its control");
}

/// On the image's own Node.js: what the node's parts promise alone.
#[test]
fn docker_the_nodes_own_tests_pass() {
    let package = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/node-red/node-red-contrib-redforge");
    let package = package.canonicalize().expect("it is part of the sources");
    let mount = format!("{}:/package:ro", package.display());
    let image = engine::image("node-red");
    let node = ["--entrypoint", "/usr/local/bin/node", &image, "--test", "/package/test/out.test.js"];
    let said = docker(&[&["run", "--rm", "--network", "none", "-v", &mount][..], &node].concat());
    assert!(said.contains("# fail 0") && !said.contains("# pass 0"), "{said}");
}
