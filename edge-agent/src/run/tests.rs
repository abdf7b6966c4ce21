//! The whole agent in this process, against a hub that the test plays and a Docker socket that is not there.
use super::*;
use crate::{
    config::{Environment, Flags},
    enroll,
    link::fake_hub::{DEADLINE, FakeHub},
    status,
};
use redforge_shared::wire::pb::{self, session_request::Message as Up};

fn config(dir: &Path) -> Config {
    let flags = Flags { state_dir: Some(dir.to_owned()), ..Flags::default() };
    let home = ("HOME".to_owned(), "/nonexistent".to_owned());
    let page = ("REDFORGE_EDGE__PAGE__LISTEN".to_owned(), "off".to_owned());
    let socket = ("REDFORGE_EDGE__RUNTIME__DOCKER_SOCKET".to_owned(), dir.join("no.sock").display().to_string());
    Config::load(&flags, &Environment { vars: vec![home, socket, page], root: false }).expect("valid settings")
}

/// What `status` prints, once it is as wanted.
async fn shown(config: &Config, wanted: impl Fn(&str) -> bool) -> String {
    let mut last = String::new();
    let asking = async {
        let mut again = tokio::time::interval(Duration::from_millis(50));
        loop {
            again.tick().await;
            if let Ok(view) = status::gather(config, &SystemClock).await
                && view.running
            {
                let text = status::render(&view);
                if wanted(&text) {
                    return text;
                }
                last = text;
            }
        }
    };
    let in_time = tokio::time::timeout(DEADLINE, asking).await;
    in_time.unwrap_or_else(|_| panic!("status never became as wanted; at the end it said: {last}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_waits_for_its_enrollment_and_lives_without_docker_and_without_its_hub() {
    let state = tempfile::tempdir().expect("a folder");
    let config = config(state.path());
    let mut agent = tokio::task::JoinSet::new();
    agent.spawn(run(config.clone()));
    shown(&config, |text| text.starts_with("Not enrolled")).await;

    let mut hub = FakeHub::start().await;
    let request = enroll::Request {
        hub: hub.url.parse().expect("a URL"),
        token: "good".to_owned().into(),
        ca_pin: hub.pin,
        name: None,
        state_dir: state.path().to_owned(),
        now: time::macros::datetime!(2026-11-01 00:00 UTC),
    };
    enroll::enroll(&request).await.expect("enrolled");
    let mut side = hub.session().await;
    side.welcome(time::macros::datetime!(2026-11-02 00:00 UTC)).await;
    let spec = serde_json_canonicalizer::to_vec(&serde_json::json!({
        "schema": 1, "host": "018f0000-0000-7000-8000-000000000001", "host_name": "edge-1", "site": "plant",
        "policy": "open",
        "instances": [{"name": "a", "image": "i:1", "workload": {"container": {}}, "resources": {}}],
    }));
    let spec = spec.expect("canonical");
    let spec_sha256 = redforge_shared::ids::Digest::of(&spec).0.to_vec().into();
    side.say(pb::session_response::Message::Desired(pb::Desired {
        spec: spec.into(),
        spec_sha256,
        generation: 1,
        ..pb::Desired::default()
    }))
    .await;
    let unreachable = i32::from(pb::StatusReason::RuntimeUnreachable);
    let report = side.report(|r| r.generation == 1 && r.reason == unreachable).await;
    assert_eq!(report.health, i32::from(pb::Health::Error));
    assert!(report.facts.is_some_and(|f| f.disk_total_bytes > 0));
    shown(&config, |text| text.starts_with("Connected to https://127.0.0.1:")).await;

    // The hub goes for good; the agent does not.
    drop(side);
    drop(hub);
    let shown = shown(&config, |text| text.starts_with("Working alone since")).await;
    assert!(shown.contains("Docker does not answer"), "{shown}");
    assert!(agent.try_join_next().is_none(), "the agent must go on");

    // Its state folder is taken.
    let second = run(config.clone()).await.expect_err("one agent per state folder").to_string();
    assert!(second.contains("another agent (pid "), "{second}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_start_counts_and_the_lock_is_free_after_a_kill() {
    let state = tempfile::tempdir().expect("a folder");
    let config = config(state.path());
    let mut hub = FakeHub::start().await;
    let request = enroll::Request {
        hub: hub.url.parse().expect("a URL"),
        token: "good".to_owned().into(),
        ca_pin: hub.pin,
        name: None,
        state_dir: state.path().to_owned(),
        now: time::macros::datetime!(2026-11-01 00:00 UTC),
    };
    enroll::enroll(&request).await.expect("enrolled");
    let mut starts = Vec::new();
    for _ in 0..2 {
        let mut agent = tokio::task::JoinSet::new();
        agent.spawn(run(config.clone()));
        let mut side = hub.session().await;
        starts.push(side.hello.start_no);
        side.welcome(time::macros::datetime!(2026-11-02 00:00 UTC)).await;
        assert!(matches!(side.heard().await, Up::Confirm(_)));
        // Cut off in the middle, as kill -9 would; the lock must be free for the next start.
        agent.shutdown().await;
    }
    assert_eq!(starts, [1, 2], "every start counts");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_taken_port_is_a_warning_and_is_tried_again() {
    let state = tempfile::tempdir().expect("a folder");
    // An address of its own, that no other test asks for a port of.
    let taken = std::net::TcpListener::bind("127.94.7.1:0").expect("a free port");
    let addr = taken.local_addr().expect("an address");
    let config = Config { page_listen: Some(addr), ..config(state.path()) };
    let mut agent = tokio::task::JoinSet::new();
    agent.spawn(run(config.clone()));
    let warning = format!("Warning: the status page is not on {addr}");
    shown(&config, |text| text.starts_with("Not enrolled") && text.contains(&warning)).await;
    drop(taken);
    shown(&config, |text| text.starts_with("Not enrolled") && !text.contains("Warning")).await;
    tokio::net::TcpStream::connect(addr).await.expect("the page is open once its port is free");
}
