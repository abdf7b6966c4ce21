//! What a flow publishes as soon as it runs is kept: it is not started at a broker that nobody listens to yet.
use crate::host::*;
use redforge_edge::{
    collect::{Tools, mqtt},
    db::outbox::{ClassStatus, Limits, Outbox},
    privacy::Gate,
    runtime::BrokersHeard,
};
use redforge_shared::{
    clock::SystemClock,
    daemon::Tasks,
    policy::Policy,
    record::RecordClass,
    report::{Phase, Reason},
};
use serde_json::json;
use std::{sync::Arc, time::Instant};
use tokio::sync::watch;

/// Publishes a log line as soon as it is connected, and an event when it is told to; /done says whether the broker has
/// acknowledged the line.
fn publishing_at_once() -> serde_json::Value {
    let line = r#"{"key":"first","line":"published at once"}"#;
    let event = r#"{"key":"second","name":"told","payload":{}}"#;
    json!([
        {"id": "t1", "type": "tab", "label": "first"},
        {"id": "b1", "type": "mqtt-broker", "name": "site", "broker": "${REDFORGE_MQTT_HOST}", "port": "1883"},
        {"id": "s1", "type": "status", "z": "t1", "scope": ["m1"], "x": 1, "y": 1, "wires": [["w1"]]},
        {"id": "w1", "type": "switch", "z": "t1", "property": "status.fill", "propertyType": "msg", "checkall": "true",
         "rules": [{"t": "eq", "v": "green", "vt": "str"}], "outputs": 1, "x": 2, "y": 1, "wires": [["c1"]]},
        {"id": "c1", "type": "change", "z": "t1", "x": 3, "y": 1, "wires": [["m1"]],
         "rules": [{"t": "set", "p": "payload", "pt": "msg", "to": line, "tot": "str"}]},
        {"id": "m1", "type": "mqtt out", "z": "t1", "topic": "redforge/records/log", "qos": "1", "broker": "b1",
         "x": 4, "y": 1, "wires": []},
        {"id": "k1", "type": "complete", "z": "t1", "scope": ["m1"], "x": 1, "y": 2, "wires": [["c2"]]},
        {"id": "c2", "type": "change", "z": "t1", "x": 2, "y": 2, "wires": [[]],
         "rules": [{"t": "set", "p": "done", "pt": "flow", "to": "yes", "tot": "str"}]},
        {"id": "h1", "type": "http in", "z": "t1", "url": "/done", "method": "get", "x": 1, "y": 3, "wires": [["c3"]]},
        {"id": "c3", "type": "change", "z": "t1", "x": 2, "y": 3, "wires": [["r1"]],
         "rules": [{"t": "set", "p": "payload", "pt": "msg", "to": "done", "tot": "flow"}]},
        {"id": "r1", "type": "http response", "z": "t1", "x": 3, "y": 3, "wires": []},
        {"id": "h2", "type": "http in", "z": "t1", "url": "/tell", "method": "get", "x": 1, "y": 4, "wires": [["c4"]]},
        {"id": "c4", "type": "change", "z": "t1", "x": 2, "y": 4, "wires": [["m2", "r1"]],
         "rules": [{"t": "set", "p": "payload", "pt": "msg", "to": event, "tot": "str"}]},
        {"id": "m2", "type": "mqtt out", "z": "t1", "topic": "redforge/records/event", "qos": "1", "broker": "b1",
         "x": 3, "y": 4, "wires": []}
    ])
}

/// The agent's collector; ends with the value.
struct Collector {
    outbox: Outbox,
    tasks: Tasks,
}

impl Collector {
    async fn start(host: &Host, heard: watch::Sender<BrokersHeard>) -> Self {
        let limits = Limits { reserve_bytes: 4096, ..Limits::default() };
        let outbox = Outbox::open(&host.dir.path().join("outbox.db"), limits, Arc::new(SystemClock)).await;
        let outbox = outbox.expect("opens");
        let tools = Tools::new(Gate::new(Policy::Open), outbox.clone(), Arc::new(SystemClock));
        let tasks = Tasks::new();
        tasks.spawn("collect", mqtt::run(host.brokers.clone(), tools, host.id, heard, tasks.stop_token()));
        Self { outbox, tasks }
    }

    async fn has(&self, class: RecordClass) -> u64 {
        let all: Vec<ClassStatus> = self.outbox.status().await.expect("reads");
        all.iter().find(|c| c.class == class).map_or(0, |c| c.waiting)
    }

    async fn until_it_has(&self, class: RecordClass) {
        let began = Instant::now();
        while self.has(class).await == 0 {
            assert!(began.elapsed() < DEADLINE, "no {class} arrives");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.tasks.stop_token().cancel();
    }
}

async fn until_published(host: &Host) {
    let (address, began) = (host.address("flows").await, Instant::now());
    while get(address, "/done").await != "yes" {
        assert!(began.elapsed() < DEADLINE, "the flow has not published");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_a_flow_is_held_back_at_a_new_broker_until_the_agent_listens_and_its_first_record_arrives() {
    let (heard_out, heard) = watch::channel(BrokersHeard::new());
    let mut host = Host::start_hearing(Some(heard)).await;
    let flows = host.bring(publishing_at_once()).await;
    host.want(vec![broker("broker"), node_red("flows", flows)]).await;
    host.until_running("broker").await;
    let made = |i: &redforge_shared::report::InstanceStatus| {
        i.reason == Some(Reason::WaitingForSession) && i.container_id.is_some()
    };
    let status = host.until("flows", "held back", made).await;
    assert_eq!((status.phase, status.names), (Phase::Pending, vec!["broker".to_owned()]));
    assert_eq!(host.inspect("flows", "{{.State.Status}}"), "created", "it runs and nobody listens");

    let collector = Collector::start(&host, heard_out).await;
    host.until_running("flows").await;
    collector.until_it_has(RecordClass::Log).await;
    drop(collector);

    // Nobody listens now, and the broker is started again: what it keeps for the agent is in its volume.
    host.restart_agent(Some(watch::channel(BrokersHeard::new()).1)).await;
    docker(&["restart", &host.container("broker")]);
    host.want(vec![broker("broker"), node_red("flows", flows), node_red("more", flows)]).await;
    host.until_running("more").await;

    // Another volume is another broker. Who ran before runs on.
    let all = || ["flows", "more"].map(|i| node_red(i, flows)).into_iter();
    let mut resting = broker("broker");
    resting.suspend = true;
    host.want(all().chain([resting]).collect()).await;
    host.until("broker", "stopped", |i| i.phase == Phase::Stopped).await;
    let before = host.run_of("flows");
    let volume =
        host.inspect("broker", "{{range .Mounts}}{{if eq .Destination \"/mosquitto/data\"}}{{.Name}}{{end}}{{end}}");
    let id = host.inspect("broker", "{{.Id}}");
    docker(&["rm", "-f", &id]);
    docker(&["volume", "rm", "-f", &volume]);
    host.want(all().chain([broker("broker"), node_red("third", flows)]).collect()).await;
    host.until("third", "held back", made).await;
    host.until_running("broker").await;
    assert_eq!(host.inspect("third", "{{.State.Status}}"), "created");
    assert_eq!(host.run_of("flows"), before, "a new broker touched who ran before");
}

/// The same flow without anybody to wait for: what it published first is acknowledged and lost.
#[tokio::test(flavor = "multi_thread")]
async fn docker_without_the_wait_the_first_record_is_lost() {
    let mut host = Host::start().await;
    let flows = host.bring(publishing_at_once()).await;
    host.want(vec![broker("broker"), node_red("flows", flows)]).await;
    host.until_running("flows").await;
    until_published(&host).await;
    let (heard_out, mut heard) = watch::channel(BrokersHeard::new());
    let collector = Collector::start(&host, heard_out).await;
    tokio::time::timeout(DEADLINE, heard.wait_for(|h| !h.is_empty())).await.expect("in time").expect("it collects");
    get(host.address("flows").await, "/tell").await;
    // In order from one client: what came first would be here by now.
    collector.until_it_has(RecordClass::Event).await;
    assert_eq!(collector.has(RecordClass::Log).await, 0, "somebody kept it: what is the wait good for?");
}
