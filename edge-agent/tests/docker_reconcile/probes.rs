//! Probes on the real engine: each kind of question is answered by what it is meant for, and a wrong answer is told.
use crate::host::*;
use redforge_shared::{
    desired::{Check, Container, InstanceSpec, Model, Ollama, Probe, Workload},
    ids::Digest,
    report::{Health, InstanceStatus, Phase, Reason, Sync},
};
use serde_json::json;

fn every_second(probe: Probe, failure_threshold: u32) -> Option<Check> {
    Some(Check { probe, period_s: 1, timeout_s: 2, failure_threshold })
}

/// A web server with one page, which a hand can take away.
fn web(failure_threshold: u32) -> InstanceSpec {
    let serve = "mkdir -p /tmp/w && echo fine > /tmp/w/health && exec busybox httpd -f -p 8080 -h /tmp/w";
    let command = ["sh", "-c", serve].map(str::to_owned).to_vec();
    let mut spec = spec("web", image("busybox"), Workload::Container(Container { command, ..Container::default() }));
    spec.probe = every_second(Probe::Http { port: 8080, path: "/health".into() }, failure_threshold);
    spec.read_only_root = Some(true);
    spec
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_a_few_failures_degrade_and_many_are_an_error() {
    let mut host = Host::start().await;
    // So many failures in a row never happen here: it stays degraded.
    host.want(vec![web(100)]).await;
    host.until_running("web").await;
    let run = host.run_of("web");
    // Everything but volumes and /tmp is closed, and nothing in /tmp can be run.
    assert_eq!(host.inspect("web", "{{.HostConfig.ReadonlyRootfs}}"), "true");
    let name = host.container("web");
    let tries =
        "touch /x 2>/dev/null && echo open; cp /bin/busybox /tmp/b && /tmp/b true 2>/dev/null && echo runs; true";
    assert_eq!(docker(&["exec", &name, "sh", "-c", tries]), "");
    docker(&["exec", &name, "rm", "/tmp/w/health"]);
    let status = host.until("web", "degraded", |i| i.health == Health::Degraded).await;
    assert_eq!((status.phase, status.reason), (Phase::Running, Some(Reason::ProbeFailed)));
    assert_eq!((status.sync, status.names), (Sync::UpToDate, vec!["http".to_owned()]));
    // A probe is no part of the container: another threshold restarts nothing.
    host.want(vec![web(2)]).await;
    host.until("web", "in error", |i| i.health == Health::Error && i.reason == Some(Reason::ProbeFailed)).await;
    docker(&["exec", &name, "sh", "-c", "echo fine > /tmp/w/health"]);
    host.until_running("web").await;
    assert_eq!(host.run_of("web"), run);
}

fn answering() -> serde_json::Value {
    json!([
        {"id": "t1", "type": "tab", "label": "answers"},
        {"id": "b1", "type": "mqtt-broker", "name": "site", "broker": "${REDFORGE_MQTT_HOST}", "port": "1883"},
        {"id": "n1", "type": "http in", "z": "t1", "url": "/ping", "method": "post", "x": 1, "y": 1, "wires": [["n2"]]},
        {"id": "n2", "type": "function", "z": "t1", "func": "msg.payload = 'heard ' + msg.payload; return msg;",
         "outputs": 1, "libs": [], "x": 2, "y": 1, "wires": [["n3"]]},
        {"id": "n3", "type": "http response", "z": "t1", "x": 3, "y": 1, "wires": []},
        {"id": "m1", "type": "mqtt in", "z": "t1", "topic": "line/ask", "qos": "1", "datatype": "utf8", "broker": "b1",
         "x": 1, "y": 2, "wires": [["m2"]]},
        {"id": "m2", "type": "function", "z": "t1", "func": "msg.topic = 'line/answer'; msg.payload = 'heard ' + msg.payload; return msg;",
         "outputs": 1, "libs": [], "x": 2, "y": 2, "wires": [["m3"]]},
        {"id": "m3", "type": "mqtt out", "z": "t1", "topic": "", "qos": "1", "broker": "b1", "x": 3, "y": 2, "wires": []}
    ])
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_a_broker_echoes_and_flows_answer_by_mqtt_and_http() {
    let mut host = Host::start().await;
    let digest = host.bring(answering()).await;
    let site = |probe: Probe| {
        let mut flows = node_red("flows", digest);
        flows.probe = every_second(probe, 2);
        let mut broker = broker("broker");
        broker.probe = every_second(Probe::MqttEcho {}, 3);
        vec![broker, flows]
    };
    let by_mqtt = |topic: &str| Probe::FlowMqtt {
        topic: topic.into(),
        answer_topic: "line/answer".into(),
        message: "ping".into(),
        expect: "heard ping".into(),
    };
    let by_http = |expect: &str| {
        let (path, message, expect) = ("/ping".into(), "ping".into(), expect.into());
        Probe::FlowHttp { path, message, expect }
    };
    host.want(site(by_mqtt("line/ask"))).await;
    host.until_running("broker").await;
    host.until_running("flows").await;
    for app in ["broker", "flows"] {
        assert_eq!(host.inspect(app, "{{.HostConfig.ReadonlyRootfs}}"), "true", "{app}");
    }
    let run = host.run_of("flows");
    // Negative controls: nobody listens there; the answer is another.
    let silent = |i: &InstanceStatus| i.health == Health::Error && i.reason == Some(Reason::ProbeFailed);
    host.want(site(by_mqtt("line/nobody"))).await;
    let status = host.until("flows", "without an answer", silent).await;
    assert_eq!(status.names, ["flowMessage"]);
    host.want(site(by_http("heard ping"))).await;
    host.until_running("flows").await;
    host.want(site(by_http("heard pong"))).await;
    host.until("flows", "with another answer", silent).await;
    assert_eq!(host.run_of("flows"), run);
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_a_model_answers_a_prompt_and_gives_its_vector() {
    let mut host = Host::start().await;
    let ollama = |models: Vec<Model>, probe: Option<Check>| {
        let mut spec =
            spec("ollama", image("ollama-standin"), Workload::Ollama(Ollama { models, ..Ollama::default() }));
        spec.probe = probe;
        spec
    };
    let prompt = |model: &str, embed| {
        let (model, prompt) = (model.to_owned(), "ping".into());
        Some(Check { timeout_s: 30, ..every_second(Probe::ModelPrompt { model, prompt, embed }, 2).expect("some") })
    };
    host.want(vec![ollama(vec![], None)]).await;
    host.until_running("ollama").await;
    // A model that the server does not hold answers nothing.
    host.want(vec![ollama(vec![], prompt("redforge-standin-embed", true))]).await;
    let late = |i: &InstanceStatus| i.health == Health::Error && i.reason == Some(Reason::ProbeFailed);
    assert_eq!(host.until("ollama", "without the model", late).await.names, ["modelPrompt"]);
    let model = |name: &str, digest: Digest| Model { name: name.into(), digest, preload: false, blobs: vec![] };
    let wrong = Digest::of(b"another");
    host.want(vec![ollama(vec![model("redforge-standin-embed", wrong)], None)]).await;
    host.until("ollama", "of another digest", |i| i.reason == Some(Reason::ModelDigest)).await;
    let held = redforge_edge::workload::ollama::models(host.address("ollama").await).await.expect("an answer");
    let right: Digest = held["redforge-standin-embed:latest"].parse().expect("a digest");
    let models = vec![model("redforge-standin-embed", right)];
    host.want(vec![ollama(models, prompt("redforge-standin-embed", true))]).await;
    host.until_running("ollama").await;
}
