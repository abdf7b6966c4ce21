//! Several containers of one instance: they share a topic, and their number follows the load with nobody's help.
use crate::words::{broker, instance};
use redforge_shared::wire::pb;
use redforge_tests::{
    agent::TestAgent,
    engine::{self, image},
    hub::TestHub,
    node_red::NodeRed,
    wait::{eventually, eventually_within, when},
};
use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Packet, QoS};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use tokio::time::{Instant, MissedTickBehavior};

/// A consumer as one would write it: it takes jobs from a shared subscription one after the other, acks each when it
/// has passed on what came of it, says what waits, and at SIGTERM unsubscribes and sends
/// itself a last message: when that comes back, everything that the broker had for it has come.
const CONSUMER: &str = r"
const mqtt = require('/usr/src/node-red/node_modules/mqtt'), env = process.env;
const client = mqtt.connect({
  host: env.REDFORGE_MQTT_HOST, port: +env.REDFORGE_MQTT_PORT, protocol: 'mqtt', clean: true,
  clientId: env.REDFORGE_CLIENT_ID, username: env.REDFORGE_MQTT_USER, password: env.REDFORGE_MQTT_PASSWORD,
});
const share = '$share/crew/work/jobs', goodbye = 'work/goodbye/' + env.REDFORGE_CLIENT_ID;
let told = 0;
client.handleMessage = (packet, ack) => {
  if (packet.topic === goodbye) { ack(); client.end(false, () => process.exit(0)); return; }
  const job = JSON.parse(packet.payload);
  setTimeout(() => {
    if (Date.now() - told > 200) {
      told = Date.now();
      client.publish('redforge/scale/' + env.REDFORGE_INSTANCE, JSON.stringify({ queue: job.queue }), { retain: true });
    }
    client.publish('work/done', JSON.stringify({ id: job.id, by: env.REDFORGE_REPLICA }), { qos: 1 });
    ack();
  }, 20);
};
client.on('connect', () => client.subscribe([goodbye, share], { qos: 1 }));
process.on('SIGTERM', () => client.unsubscribe(share, () => client.publish(goodbye, '', { qos: 1 })));
";

fn crew(host: &str, image: &str, more: &str) -> String {
    let command = json!(["-e", CONSUMER]);
    let section = format!("{more}  container:\n    broker: broker\n    command: {command}\n");
    instance(host, "crew", "container", image, &section)
}

/// The same as a flow author writes it: a shared `mqtt in`, and the client id that the agent gave. Says its version too.
fn crew_flows(version: u32) -> Vec<u8> {
    let pass = format!(
        "return {{topic: 'work/done', payload: {{id: msg.payload.id, by: env.get('REDFORGE_REPLICA') + '.{version}'}}}};"
    );
    json!([
        {"id": "t", "type": "tab", "label": "Crew"},
        {"id": "b", "type": "mqtt-broker", "name": "site", "broker": "${REDFORGE_MQTT_HOST}",
         "port": "${REDFORGE_MQTT_PORT}", "clientid": "${REDFORGE_CLIENT_ID}", "autoConnect": true, "usetls": false,
         "protocolVersion": "4", "keepalive": "60", "cleansession": true},
        {"id": "take", "type": "mqtt in", "z": "t", "x": 1, "y": 1, "name": "", "topic": "$share/crew/work/jobs",
         "qos": "1", "datatype": "json", "broker": "b", "inputs": 0, "wires": [["do"]]},
        {"id": "do", "type": "function", "z": "t", "x": 1, "y": 1, "name": "", "func": pass, "initialize": "",
         "finalize": "", "outputs": 1, "libs": [], "noerr": 0, "wires": [["done"]]},
        {"id": "done", "type": "mqtt out", "z": "t", "x": 1, "y": 1, "name": "", "topic": "", "qos": "1",
         "retain": "", "broker": "b", "wires": []}
    ])
    .to_string()
    .into_bytes()
}

/// Id and start of each container of the crew.
fn runs(agent: &TestAgent) -> BTreeSet<String> {
    let host = format!("label=redforge.host={}", agent.host_id);
    let ids =
        engine::docker(&["ps", "-q", "--no-trunc", "--filter", &host, "--filter", "label=redforge.instance=crew"]);
    ids.lines().map(|id| engine::inspect(id, "{{.Id}} {{.State.StartedAt}}")).collect()
}

/// Node.js with its MQTT client, out of the image of Node-RED; goes with the value.
struct NodeImage(String);

impl NodeImage {
    fn make(agent: &TestAgent) -> Self {
        let name = format!("rft-node:{}", agent.host_id);
        let made = engine::docker(&["create", &image("node-red")]);
        engine::docker(&["commit", "--change", "ENTRYPOINT [\"node\"]", made.trim(), &name]);
        engine::docker(&["rm", "-v", made.trim()]);
        Self(name)
    }
}

impl Drop for NodeImage {
    fn drop(&mut self) {
        // The agent's containers may go a moment later.
        drop(engine::try_docker(&["rmi", "-f", &self.0]));
    }
}

/// Sends jobs and sees what comes of them.
struct Foreman {
    client: AsyncClient,
    events: EventLoop,
    sent: u64,
    acked: u64,
    /// By job: which replicas did it.
    done: BTreeMap<u64, Vec<String>>,
}

impl Foreman {
    async fn new(agent: &TestAgent) -> Self {
        let env =
            engine::inspect(&agent.container("crew").expect("it runs"), "{{range .Config.Env}}{{println .}}{{end}}");
        let get =
            |name: &str| env.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix('=')).expect("set").to_owned();
        let address = engine::address(&agent.container("broker").expect("it runs"));
        let mut options = MqttOptions::new("foreman", address, 1883);
        options.set_credentials(get("REDFORGE_MQTT_USER"), get("REDFORGE_MQTT_PASSWORD"));
        options.set_clean_session(false).set_inflight(200).set_keep_alive(Duration::from_secs(600));
        let (client, events) = AsyncClient::new(options, 1000);
        client.subscribe("work/done", QoS::AtLeastOnce).await.expect("the client lives");
        let mut foreman = Self { client, events, sent: 0, acked: 0, done: BTreeMap::new() };
        while !matches!(foreman.events.poll().await, Ok(Event::Incoming(Packet::SubAck(_)))) {}
        foreman
    }

    fn waiting(&self) -> u64 {
        self.sent - self.done.len() as u64
    }

    /// Jobs at this pace until `enough`, asked twice a second.
    async fn send(&mut self, per_second: u64, what: &str, mut enough: impl FnMut(&Self) -> Result<(), String>) {
        let mut pace = tokio::time::interval(Duration::from_millis(1000 / per_second));
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut look = tokio::time::interval(Duration::from_millis(500));
        let until = Instant::now() + Duration::from_secs(90);
        loop {
            tokio::select! {
                _ = pace.tick() => {
                    let job = json!({"id": self.sent, "queue": self.waiting()}).to_string();
                    // No room in the client: the next tick tries again.
                    if self.client.try_publish("work/jobs", QoS::AtLeastOnce, false, job).is_ok() {
                        self.sent += 1;
                    }
                }
                event = self.events.poll() => self.take(event.expect("the broker stays")),
                _ = look.tick() => match enough(self) {
                    Ok(()) => return,
                    Err(seen) => assert!(Instant::now() < until, "waited for {what}, and saw {seen}; {} wait", self.waiting()),
                },
            }
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Incoming(Packet::PubAck(_)) => self.acked += 1,
            Event::Incoming(Packet::Publish(p)) => {
                let done: Value = serde_json::from_slice(&p.payload).expect("the consumer's own JSON");
                let by = done["by"].as_str().expect("its number").to_owned();
                self.done.entry(done["id"].as_u64().expect("the job's id")).or_default().push(by);
            }
            _ => {}
        }
    }

    /// Until every job came back.
    async fn finish(&mut self) {
        let until = Instant::now() + Duration::from_secs(60);
        while self.waiting() > 0 || self.acked < self.sent {
            assert!(Instant::now() < until, "{} of {} never came back", self.waiting(), self.sent);
            if let Ok(event) = tokio::time::timeout(Duration::from_secs(1), self.events.poll()).await {
                self.take(event.expect("the broker stays"));
            }
        }
    }
}

/// What the agent itself says of the instance.
fn seen(agent: &TestAgent) -> Value {
    let output = agent.status(&["-o", "json"]);
    let all: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"));
    assert!(all["view"]["status"]["instances"].is_array(), "{all}");
    let instances = all["view"]["status"]["instances"].as_array().cloned().unwrap_or_default();
    instances.into_iter().find(|i| i["name"] == "crew").unwrap_or_default()
}

fn counts(agent: &TestAgent, ready: u64, total: u64) -> Result<(), String> {
    let replicas = &seen(agent)["replicas"];
    when(replicas["ready"] == ready && replicas["total"] == total, seen(agent).to_string())
}

#[tokio::test]
async fn docker_consumers_share_a_topic_and_scale_from_one_to_three_and_back_by_their_queue_without_a_hub() {
    let mut hub = TestHub::start().await;
    let agent = TestAgent::start(&hub, "press-1").await;
    let mut operator = hub.operator().await;
    let node = NodeImage::make(&agent);
    let policy = "  resources: {memory: 96Mi}\n  autoscale: {min: 1, max: 3, queue: 100, scaleDownAfterSeconds: 5}\n";
    operator.apply(&(broker("press-1") + &crew("press-1", &node.0, policy))).await;
    operator.running("press-1", "broker").await;
    operator.running("press-1", "crew").await;
    let first = agent.container("crew").expect("it runs");
    let started = engine::inspect(&first, "{{.State.StartedAt}}");
    // From here on the host is alone.
    hub.stop().await;

    let mut foreman = Foreman::new(&agent).await;
    foreman.send(20, "jobs that one consumer does", |f| when(f.done.len() > 40, f.done.len())).await;
    counts(&agent, 1, 1).expect("one is enough for so little");
    foreman.send(150, "three consumers", |_| counts(&agent, 3, 3)).await;
    let scaled = seen(&agent)["scaled"].clone();
    assert_eq!((&scaled["metric"], &scaled["target"]), (&json!("Queue"), &json!(100)), "{scaled}");
    let shared = |f: &Foreman| f.done.values().flatten().filter(|by| *by != "0").count();
    foreman.send(80, "all three at work", |f| when(shared(f) > 100 && f.waiting() < 50, f.waiting())).await;
    foreman.send(20, "one consumer again", |_| counts(&agent, 1, 1)).await;
    foreman.finish().await;

    let twice: Vec<_> = foreman.done.iter().filter(|(_, by)| by.len() != 1).collect();
    assert!(twice.is_empty(), "done more than once: {twice:?}");
    assert_eq!(foreman.done.len() as u64, foreman.sent, "jobs are missing");
    assert_eq!(engine::inspect(&first, "{{.State.StartedAt}}"), started, "the first was touched");

    hub.up().await;
    let mut operator = hub.operator().await;
    operator
        .instance_when("press-1", "crew", "the hub hears of one replica and why", |s| {
            let counts = (s.replicas_ready, s.replicas_desired, s.replicas_total);
            counts == (1, 1, 1) && s.scaled.as_ref().is_some_and(|d| d.replicas == 1)
        })
        .await;
    println!("{} jobs, none lost, none twice", foreman.sent);
}

#[tokio::test]
async fn docker_three_replicas_are_replaced_one_after_another_and_all_are_found_under_the_name() {
    let hub = TestHub::start().await;
    let agent = TestAgent::start(&hub, "press-1").await;
    let mut operator = hub.operator().await;
    let web = |word: &str| {
        let command = json!(["sh", "-c", "exec nc -ll -p 8080 -e echo $WORD $REDFORGE_REPLICA"]);
        let more = format!(
            "  replicas: 3\n  env: {{WORD: {word}}}\n  container:\n    command: {command}\n    probe: {{tcp: {{port: 8080}}}}\n"
        );
        instance("press-1", "web", "container", &image("busybox"), &more)
    };
    operator.apply(&(web("one") + &crate::words::idler("press-1", "visitor"))).await;
    operator.running("press-1", "visitor").await;
    operator
        .instance_when("press-1", "web", "three are ready", |s| (s.replicas_ready, s.replicas_total) == (3, 3))
        .await;
    let visitor = agent.container("visitor").expect("it runs");
    let ask = || engine::docker(&["exec", &visitor, "sh", "-c", "nc web 8080 </dev/null || true"]).trim().to_owned();
    let mut met = BTreeSet::new();
    eventually("the name stands for all three", async || {
        met.insert(ask());
        when(met.iter().filter(|m| m.starts_with("one ")).count() == 3, &met)
    })
    .await;

    operator.apply(&web("two")).await;
    let mut fewest = 3;
    eventually_within(Duration::from_secs(150), "all three are new", async || {
        let web = operator.instance("press-1", "web").await.map_err(|e| e.to_string())?.status.unwrap_or_default();
        fewest = fewest.min(web.replicas_ready);
        let new = web.replicas_total == 3 && web.replicas_ready == 3 && i32::from(pb::Sync::UpToDate) == web.sync;
        let said = ask();
        when(new && said.starts_with("two "), format!("{web:?} {said}"))
    })
    .await;
    assert_eq!(fewest, 3, "fewer than three served meanwhile");
}

#[tokio::test]
async fn docker_three_node_red_share_a_topic_get_other_flows_hot_and_become_one() {
    let hub = TestHub::start().await;
    let agent = TestAgent::start(&hub, "press-1").await;
    let mut operator = hub.operator().await;
    operator.push_flows("crew", &crew_flows(1)).await.expect("a plain export");
    let crew = |replicas: u32| {
        let more = format!("  replicas: {replicas}\n  nodeRed: {{flowSet: crew}}\n");
        instance("press-1", "crew", "node-red", &image("node-red"), &more)
    };
    operator.apply(&(broker("press-1") + &crew(3))).await;
    eventually_within(Duration::from_secs(150), "three run", async || counts(&agent, 3, 3)).await;
    let three = runs(&agent);
    let mut foreman = Foreman::new(&agent).await;
    // Who did how many, by the version of the flows.
    let by = |f: &Foreman, who: &str| f.done.values().flatten().filter(|by| *by == who).count();
    let all = |f: &Foreman, version: u32, least: usize| {
        let each = [0, 1, 2].map(|n| by(f, &format!("{n}.{version}")));
        when(each.iter().all(|n| *n >= least), format!("{each:?}"))
    };
    foreman.send(40, "each of the three at work", |f| all(f, 1, 20)).await;
    foreman.finish().await;

    operator.push_flows("crew", &crew_flows(2)).await.expect("a plain export");
    eventually("all three run the new flows", async || {
        let status = operator.instance("press-1", "crew").await.map_err(|s| s.to_string())?.status;
        let status = status.unwrap_or_default();
        let said = runs(&agent).iter().map(|run| flows_of(run)).collect::<Result<Vec<_>, _>>()?;
        let new = said.iter().all(|flows| flows.contains(".2'"));
        when(new && status.sync() == pb::Sync::UpToDate, format!("{status:?}"))
    })
    .await;
    foreman.send(40, "each of the three at work with the new flows", |f| all(f, 2, 20)).await;
    foreman.finish().await;
    assert_eq!(runs(&agent), three, "other flows need no restart");

    operator.apply(&crew(1)).await;
    eventually("one is left", async || counts(&agent, 1, 1)).await;
    let one = runs(&agent);
    assert!(one.len() == 1 && one.is_subset(&three), "{one:?} of {three:?}");
    let (first, before) = (by(&foreman, "0.2"), foreman.done.len());
    foreman.send(40, "one does all", |f| when(f.done.len() > before + 40, f.done.len().to_string())).await;
    foreman.finish().await;
    assert_eq!(by(&foreman, "0.2") - first, foreman.done.len() - before, "the first does all that came since");
    let twice: Vec<_> = foreman.done.iter().filter(|(_, by)| by.len() != 1).collect();
    assert!(twice.is_empty(), "done more than once: {twice:?}");
    println!("{} jobs of three Node-RED and then one, none lost, none twice", foreman.sent);
}

/// The flows that one of the crew says it runs.
fn flows_of(run: &str) -> Result<String, String> {
    let container = run.split(' ').next().expect("its id").to_owned();
    NodeRed { container }.try_script("done(await admin('GET', '/flows'))").map(|f| f.to_string())
}
