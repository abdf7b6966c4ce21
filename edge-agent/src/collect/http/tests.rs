//! The gateway on a real socket, with a real outbox: what is taken, and how each wrong thing is refused by its field.
use super::*;
use crate::{
    collect::payload,
    db::{
        ledger::Ledger,
        outbox::{Limits, Outbox},
    },
    privacy::Gate,
};
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use redforge_shared::{
    clock::{Clock as _, SystemClock},
    desired::{DesiredState, Developer, InstanceSpec, NodeRed, Workload, user_of},
    ids::Digest,
    policy::Policy,
    record::{MAX_RECORD_BYTES, RecordClass},
};
use serde_json::{Value, json};
use std::{collections::BTreeMap, time::Instant};

const TOKEN: &str = "token-of-flows";
const DEADLINE: Duration = Duration::from_secs(60);

struct Gateway {
    url: String,
    door: watch::Sender<Option<IngestDoor>>,
    tools: watch::Sender<Option<Tools>>,
    trouble: watch::Receiver<Option<String>>,
    tasks: Tasks,
    outbox: Outbox,
    ledger: Ledger,
    _dir: tempfile::TempDir,
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.tasks.stop_token().cancel();
    }
}

fn door(addr: &str) -> IngestDoor {
    let tokens = BTreeMap::from([(Digest::of(TOKEN.as_bytes()), "flows".parse().expect("a name"))]);
    IngestDoor { addr: addr.parse().expect("an address"), tokens }
}

impl Gateway {
    /// On an address of its own, so that no two tests meet on the port.
    async fn start(addr: &str, limits: Limits) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let clock = std::sync::Arc::new(SystemClock);
        let outbox = Outbox::open(&dir.path().join("outbox.db"), limits, clock.clone()).await.expect("opens");
        let tools = Tools::new(Gate::new(Policy::Open), outbox.clone(), clock);
        let (door_out, door_in) = watch::channel(Some(door(addr)));
        let (tools_out, tools_in) = watch::channel(Some(tools));
        let (trouble_out, trouble) = watch::channel(None);
        let tasks = Tasks::new();
        let ledger = Ledger::open(&dir.path().join("ledger.db")).await.expect("opens");
        let desk = Desk::new(ledger.clone(), std::sync::Arc::new(SystemClock));
        let deps = Deps { door: door_in, tools: tools_in, desk, trouble: trouble_out, port: 17_462 };
        tasks.spawn("gateway", run(deps, tasks.clone()));
        let url = format!("http://{addr}:17462");
        Self { url, door: door_out, tools: tools_out, trouble, tasks, outbox, ledger, _dir: dir }
    }

    async fn ask(&self, method: Method, path: &str, headers: &[(&str, &str)], body: &str) -> (u16, Value, String) {
        let client = Client::builder(TokioExecutor::new()).build_http::<Full<bytes::Bytes>>();
        let began = Instant::now();
        loop {
            let mut request = Request::builder().method(method.clone()).uri(format!("{}{path}", self.url));
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let request = request.body(Full::new(body.to_owned().into())).expect("a request");
            let answer = match client.request(request).await {
                Ok(answer) => answer,
                Err(e) => {
                    assert!(began.elapsed() < DEADLINE, "the gateway does not listen: {e}");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                }
            };
            let status = answer.status().as_u16();
            let after = answer.headers().get("retry-after").and_then(|v| v.to_str().ok()).unwrap_or("").to_owned();
            let body = answer.into_body().collect().await.expect("a body").to_bytes();
            return (status, serde_json::from_slice(&body).expect("JSON"), after);
        }
    }

    async fn post(&self, path: &str, body: &str) -> (u16, Value) {
        let token = format!("Bearer {TOKEN}");
        let (status, body, _) = self.ask(Method::POST, path, &[("authorization", &token)], body).await;
        (status, body)
    }

    async fn lines(&self, path: &str, body: &str) -> (u16, Value) {
        let token = format!("Bearer {TOKEN}");
        let headers = [("authorization", token.as_str()), ("content-type", "application/x-ndjson")];
        let (status, body, _) = self.ask(Method::POST, path, &headers, body).await;
        (status, body)
    }

    async fn waiting(&self) -> (u64, u64) {
        let all = self.outbox.status().await.expect("reads");
        (all.iter().map(|c| c.waiting).sum(), all.iter().map(|c| c.refused).sum())
    }
}

fn event(key: &str) -> String {
    json!({"key": key, "name": "cycle", "payload": {"part": key}}).to_string()
}

/// The desired state of a host whose instance `flows` is in developer mode.
async fn develop(ledger: &Ledger, generation: u64, developer: Option<Developer>) {
    let workload = Workload::NodeRed(NodeRed { developer, ..NodeRed::default() });
    let state = DesiredState {
        schema: 1,
        host: redforge_shared::ids::HostId(uuid::Uuid::from_u128(1)),
        host_name: "press-1".parse().expect("a name"),
        site: "plant".parse().expect("a name"),
        policy: Policy::Open,
        instances: vec![InstanceSpec::bare("flows".parse().expect("a name"), "node-red:1", workload)],
    };
    let document = state.canonical().expect("small");
    ledger.accept(generation, document.bytes.into(), document.sha256).await.expect("accepted");
}

#[tokio::test]
async fn a_runtime_is_told_who_may_use_its_editor_and_a_password_is_good_once() {
    let gateway = Gateway::start("127.94.9.9", Limits::default()).await;
    let (login, stay) = ("/v1/editor/login", "/v1/editor/stay");
    let hash = Digest::of(b"right");
    let user = user_of(hash);
    let asked = |password: &str| json!({"user": user, "password": password}).to_string();
    assert_eq!(gateway.post(login, &asked("right")).await.0, 403, "before the first desired state");
    let open = Developer { until: SystemClock.now() + Duration::from_secs(600), password_sha256: Some(hash) };
    develop(&gateway.ledger, 1, Some(open.clone())).await;
    assert_eq!(gateway.post(stay, &asked("")).await.0, 403, "nobody has logged in");
    let (status, said) = gateway.post(login, &asked("wrong")).await;
    assert_eq!((status, said["detail"].as_str().expect("why").contains("another password")), (403, true), "{said}");
    // Two at once: one of them is the one.
    let (right, twice) = (asked("right"), asked("right"));
    let (a, b) = tokio::join!(gateway.post(login, &right), gateway.post(login, &twice));
    let mut both = [a.0, b.0];
    both.sort_unstable();
    assert_eq!(both, [200, 403]);
    assert_eq!(gateway.post(login, &asked("right")).await.0, 403, "it was used");
    let (status, said) = gateway.post(stay, &asked("")).await;
    let until_ms = i64::try_from(open.until.unix_timestamp_nanos() / 1_000_000).expect("near");
    assert_eq!((status, said), (200, json!({"until_ms": until_ms})));
    // Nobody else's token, no other way of asking.
    let (status, ..) = gateway.ask(Method::POST, stay, &[("authorization", "Bearer other")], &asked("")).await;
    assert_eq!(status, 401);
    assert_eq!(gateway.post(stay, "[]").await.0, 400);
    assert_eq!(gateway.post(login, &asked(&"x".repeat(8 << 10))).await.0, 400);
    let token = format!("Bearer {TOKEN}");
    let (status, ..) = gateway.ask(Method::GET, stay, &[("authorization", &token)], "").await;
    assert_eq!(status, 405);
    // Closed by the operator, and over by itself.
    develop(&gateway.ledger, 2, None).await;
    assert_eq!(gateway.post(stay, &asked("")).await.0, 403);
    let over = Developer { until: SystemClock.now() - Duration::from_secs(1), ..open };
    develop(&gateway.ledger, 3, Some(over)).await;
    assert_eq!(gateway.post(stay, &asked("")).await.0, 403);
}

#[tokio::test]
async fn what_is_taken_is_committed_once_alone_in_a_list_and_in_lines() {
    let gateway = Gateway::start("127.94.9.1", Limits::default()).await;
    assert_eq!(gateway.post("/v1/records/event", &event("k1")).await, (202, json!({"accepted": 1, "repeats": 0})));
    assert_eq!(gateway.post("/v1/records/event", &event("k1")).await, (202, json!({"accepted": 0, "repeats": 1})));
    let list = json!([{"class": "log", "line": "x", "key": "l1"},
                      {"class": "measurement", "name": "t", "value": 1.5, "unit": "C", "key": "m1"}]);
    assert_eq!(gateway.post("/v1/records", &list.to_string()).await, (202, json!({"accepted": 2, "repeats": 0})));
    let lines = format!("{}\n\n{}\n{}", event("k2"), event("k1"), event("k3"));
    assert_eq!(gateway.lines("/v1/records/event", &lines).await, (202, json!({"accepted": 2, "repeats": 1})));
    assert_eq!(gateway.waiting().await, (5, 0));
    // The control: without a key nobody knows that it is the same.
    let keyless = r#"{"name":"n","payload":{}}"#;
    for _ in 0..2 {
        assert_eq!(gateway.post("/v1/records/event", keyless).await.1, json!({"accepted": 1, "repeats": 0}));
    }
    assert_eq!(gateway.waiting().await, (7, 0));
}

#[tokio::test]
async fn what_is_wrong_is_refused_by_its_field_counted_and_nothing_of_it_is_taken() {
    let gateway = Gateway::start("127.94.9.2", Limits::default()).await;
    let long_key = event(&"k".repeat(129));
    let huge = json!({"name": "n", "payload": {"x": "y".repeat(MAX_RECORD_BYTES)}}).to_string();
    let other = json!({"name": "n", "payload": {}, "instance": "another"}).to_string();
    let mixed = format!("{}\n{}", event("good"), r#"{"name":"n","payload":[]}"#);
    let cases: [(&str, &str, u16, &str, bool); 11] = [
        ("/v1/records/event", r#"{"name":"n"}"#, 422, "payload", true),
        ("/v1/records/event", r#"{"name":"n","payload":{},"extra":1}"#, 422, "extra", true),
        ("/v1/records/measurement", r#"{"name":"t","value":"1","unit":""}"#, 422, "value", true),
        ("/v1/records/event", &long_key, 422, "key", true),
        ("/v1/records/event", &other, 422, "instance", true),
        ("/v1/records/event", "{", 400, "", true),
        ("/v1/records", r#"{"name":"n","payload":{}}"#, 422, "class", true),
        ("/v1/records", r#"{"class":"rumour","name":"n"}"#, 422, "class", true),
        ("/v1/records/rumour", &event("x"), 422, "class", false),
        ("/v1/records/event", &huge, 413, "", true),
        ("/v1/records/event", "[]", 400, "", false),
    ];
    let mut refused = 0;
    for (path, body, status, field, counted) in cases {
        let (found, problem) = gateway.post(path, body).await;
        assert_eq!((found, problem["status"].as_u64()), (status, Some(status.into())), "{path} {problem}");
        assert_eq!(problem["field"].as_str().unwrap_or_default(), field, "{path} {problem}");
        refused += u64::from(counted);
        assert_eq!(gateway.waiting().await, (0, refused), "{path}: {problem}");
    }
    let (status, problem) = gateway.lines("/v1/records/event", &mixed).await;
    assert_eq!((status, problem["index"].as_u64(), problem["field"].as_str()), (422, Some(1), Some("payload")));
    assert_eq!(gateway.waiting().await.0, 0, "the good one of a bad batch was taken");
    let many = vec!["{}"; 1_001].join("\n");
    assert_eq!(gateway.lines("/v1/records/event", &many).await.0, 413);
    assert_eq!(gateway.post("/v1/records/event", &"x".repeat((4 << 20) + 1)).await.0, 413);
}

#[tokio::test]
async fn strangers_other_methods_and_other_forms_are_not_let_in() {
    let gateway = Gateway::start("127.94.9.3", Limits::default()).await;
    let token = format!("Bearer {TOKEN}");
    let body = event("k");
    for (method, path, headers, status) in [
        (Method::POST, "/v1/records/event", vec![], 401),
        (Method::POST, "/v1/records/event", vec![("authorization", "Bearer another")], 401),
        (Method::POST, "/v1/records/event", vec![("authorization", TOKEN)], 401),
        (Method::GET, "/v1/records/event", vec![("authorization", token.as_str())], 405),
        (Method::POST, "/v2/records", vec![("authorization", token.as_str())], 404),
        (Method::POST, "/v1/recordsevent", vec![("authorization", token.as_str())], 404),
        (
            Method::POST,
            "/v1/records/event",
            vec![("authorization", token.as_str()), ("content-type", "application/xml")],
            415,
        ),
    ] {
        let (found, problem, _) = gateway.ask(method, path, &headers, &body).await;
        assert_eq!(found, status, "{problem}");
    }
    assert_eq!(gateway.waiting().await, (0, 0));
}

#[tokio::test]
async fn without_room_the_sender_is_told_when_to_come_back_and_while_starting_too() {
    // Events are never dropped for want of room: they push back.
    let gateway = Gateway::start("127.94.9.4", Limits { max_bytes: 200_000, ..Limits::default() }).await;
    let token = format!("Bearer {TOKEN}");
    let headers = [("authorization", token.as_str())];
    let (mut taken, mut full) = (0, None);
    for n in 0..100 {
        let body = json!({"key": n.to_string(), "name": "n", "payload": {"x": "y".repeat(10_000)}}).to_string();
        let (status, _, after) = gateway.ask(Method::POST, "/v1/records/event", &headers, &body).await;
        match status {
            202 => taken += 1,
            429 => {
                full = Some(after);
                break;
            }
            other => panic!("{other}"),
        }
    }
    assert_eq!(full.as_deref(), Some("5"), "after {taken} records");
    assert!(taken > 3, "{taken}");
    assert_eq!(gateway.waiting().await.0, taken, "what was answered 429 is not there");
    let tools = gateway.tools.send_replace(None);
    let (status, _, after) = gateway.ask(Method::POST, "/v1/records/event", &headers, &event("k")).await;
    assert_eq!((status, after.as_str()), (503, "2"));
    gateway.tools.send_replace(tools);
}

#[tokio::test]
async fn the_listener_follows_the_bridge_and_says_when_it_cannot_be_there() {
    let mut gateway = Gateway::start("127.94.9.5", Limits::default()).await;
    assert_eq!(gateway.post("/v1/records/event", &event("a")).await.0, 202);
    // An address that this machine does not have, as a bridge that is not there yet.
    gateway.door.send_replace(Some(door("192.0.2.77")));
    let said = tokio::time::timeout(DEADLINE, gateway.trouble.wait_for(Option::is_some)).await;
    let said = said.expect("in time").expect("it lives").clone().expect("just seen");
    assert!(said.contains("the gateway is not on 192.0.2.77:17462"), "{said}");
    gateway.door.send_replace(Some(door("127.94.9.6")));
    gateway.url = "http://127.94.9.6:17462".into();
    assert_eq!(gateway.post("/v1/records/event", &event("b")).await.0, 202);
    tokio::time::timeout(DEADLINE, gateway.trouble.wait_for(Option::is_none))
        .await
        .expect("in time")
        .expect("it lives");
    // Other tokens need no other listener.
    gateway.door.send_replace(Some(IngestDoor { tokens: BTreeMap::new(), ..door("127.94.9.6") }));
    assert_eq!(gateway.post("/v1/records/event", &event("c")).await.0, 401);
}

#[test]
fn one_greedy_instance_leaves_room_for_the_others() {
    let seats = Seats::default();
    let ip = |n: u8| IpAddr::from([10, 0, 0, n]);
    let own: Vec<Seat> = std::iter::from_fn(|| seats.take(ip(1))).collect();
    assert_eq!(own.len(), MAX_VISITORS_OF_ONE);
    let other = seats.take(ip(2));
    assert!(other.is_some());
    drop(own);
    assert_eq!(seats.0.lock().expect("no panic").len(), 1, "who has gone takes no memory");
}

#[test]
fn the_topics_classes_are_the_paths() {
    for class in RecordClass::ALL {
        assert_eq!(payload::class_of(&format!("{}{class}", payload::TOPIC)), Some(class));
    }
}
