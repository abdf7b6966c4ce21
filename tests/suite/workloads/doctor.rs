//! `redforge-edge doctor` on a real host: nothing to say while all is well, and each fault named with what to do.
use crate::words::{broker, node_red};
use redforge_edge::{
    config::{Config, Environment, Flags},
    doctor::{self, Verdict},
};
use redforge_shared::clock::{Clock, ManualClock, SystemClock};
use redforge_tests::{
    agent::TestAgent,
    engine::docker,
    hub::TestHub,
    place::{Tmpfs, folder, is_root, text},
    wait::{eventually, when},
};
use serde_json::Value;
use std::{path::Path, process::Command, sync::Arc, time::Duration};
use tokio::net::TcpListener;

/// The JSON of a run with these settings more, and its exit code.
fn examined(agent: &TestAgent, more: &[(&str, &str)]) -> (Value, i32) {
    let mut asked = Command::new(redforge_tests::place::binary("redforge-edge"));
    asked.args(["doctor", "-o", "json", "--state"]).arg(agent.state()).envs(agent.env.iter().cloned());
    asked.envs(more.iter().copied());
    let said = redforge_tests::place::run(&mut asked, Duration::from_secs(60));
    let json = serde_json::from_slice(&said.stdout).unwrap_or_else(|e| panic!("{e}: {}", text(&said)));
    (json, said.status.code().expect("it ended by itself"))
}

fn check<'a>(json: &'a Value, check: &str) -> &'a Value {
    let all = json["checks"].as_array().expect("a list");
    all.iter().find(|c| c["check"] == check).unwrap_or_else(|| panic!("{check} is missing: {json:#}"))
}

#[track_caller]
fn fails((json, code): &(Value, i32), name: &str, says: &str) {
    let found = check(json, name);
    let said = found["text"].as_str().unwrap_or_default();
    assert!(found["verdict"] == "fail" && said.contains(says) && found["next"].is_string(), "{found:#}");
    assert_eq!(*code, 2, "{json:#}");
}

/// A middlebox that answers TLS with a chain of its own.
async fn interceptor() -> (u16, tokio::task::JoinSet<()>) {
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::new(vec!["hub.redforge.internal".into()]).expect("a name");
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, "Corporate Inspection CA");
    let certificate = params.self_signed(&key).expect("signed");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = rustls_pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .expect("a key pair");
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    let mut at_work = tokio::task::JoinSet::new();
    at_work.spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.expect("a connection");
            drop(acceptor.accept(tcp).await);
        }
    });
    (port, at_work)
}

/// The agent's settings as this process would read them, to look with another clock.
fn settings(agent: &TestAgent) -> Config {
    let flags = Flags { state_dir: Some(agent.state().to_owned()), ..Flags::default() };
    let mut vars = agent.env.clone();
    vars.push(("HOME".into(), "/nonexistent".into()));
    Config::load(&flags, &Environment { vars, root: false }).expect("valid settings")
}

async fn verdict_at(agent: &TestAgent, ahead: time::Duration, name: &str) -> (Verdict, String) {
    let clock = ManualClock::new(SystemClock.now() + ahead);
    let found = doctor::examine(&settings(agent), &clock).await;
    let found = found.into_iter().find(|f| f.check == name).unwrap_or_else(|| panic!("{name} is missing"));
    (found.verdict, found.text)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn docker_doctor_names_each_fault_and_what_to_do_about_it() {
    redforge_shared::daemon::install_crypto();
    let mut hub = TestHub::start().await;
    let mut agent = TestAgent::start(&hub, "press-1").await;
    let mut operator = hub.operator().await;
    operator.apply(&(broker("press-1") + &node_red("press-1", "flows", None))).await;
    operator.running("press-1", "broker").await;
    let well = examined(&agent, &[]);
    let failed = well.0["checks"].as_array().expect("a list").iter().filter(|c| c["verdict"] == "fail").count();
    // A nearly full disk of the machine that this runs on is no fault of the agent.
    assert!(failed == 0 && well.1 < 2, "{:#}", well.0);
    for name in [
        "agent",
        "docker.socket",
        "docker.api",
        "docker.cgroup",
        "disk",
        "disk.write",
        "disk.reserve",
        "sqlite.ledger",
        "sqlite.outbox",
        "certificate",
        "hub",
        "hub.tls",
        "clock",
        "broker",
        "ports.page",
    ] {
        check(&well.0, name);
    }
    assert_eq!(check(&well.0, "clock")["verdict"], "ok", "{:#}", well.0);

    // Wrong clocks: the host's own, seen by the hub's.
    assert_eq!(verdict_at(&agent, time::Duration::HOUR, "clock").await.0, Verdict::Fail);
    assert_eq!(verdict_at(&agent, -time::Duration::minutes(2), "clock").await.0, Verdict::Warn);
    let (verdict, text) = verdict_at(&agent, time::Duration::days(30), "certificate").await;
    assert!(verdict == Verdict::Fail && text.contains("it ended"), "{text}");

    let (port, _middlebox) = interceptor().await;
    let url = format!("https://127.0.0.1:{port}");
    let intercepted = examined(&agent, &[("REDFORGE_EDGE__HUB_URL", &url)]);
    fails(&intercepted, "hub.tls", "Corporate Inspection CA");
    assert_eq!(check(&intercepted.0, "hub")["verdict"], "ok", "the port itself answers");
    fails(&examined(&agent, &[("REDFORGE_EDGE__HUB_URL", "https://hub.invalid:7443")]), "dns", "hub.invalid");
    let absent = agent.dir().join("no.sock").display().to_string();
    fails(&examined(&agent, &[("REDFORGE_EDGE__RUNTIME__DOCKER_SOCKET", &absent)]), "docker.socket", "there is no");

    // The broker's container is held down by hand: the agent may not bring it back meanwhile.
    assert!(agent.edge(&["hold", "broker", "--for", "1h", "--reason", "story"]).status.success());
    docker(&["stop", "-t", "20", &agent.container("broker").expect("it runs")]);
    fails(&examined(&agent, &[]), "broker", "broker does not run");

    hub.stop().await;
    let away = eventually("the hub's port is closed", async || {
        let found = examined(&agent, &[]);
        when(check(&found.0, "hub")["verdict"] == "fail", &found.0).map(|()| found)
    })
    .await;
    fails(&away, "hub", "cannot be reached");

    agent.kill9();
    let _taken = TcpListener::bind(("127.0.0.1", agent.page_port)).await.expect("the agent is gone");
    let down = examined(&agent, &[]);
    assert_eq!(check(&down.0, "agent")["verdict"], "warn");
    fails(&down, "ports.page", "is taken");
}

#[tokio::test]
async fn engine_doctor_tells_a_full_disk_and_a_damaged_copy() {
    assert!(is_root(), "this story mounts a tmpfs");
    let hub = TestHub::start().await;
    let place = folder();
    let disk = Tmpfs::mount(&place.path().join("edge"), "96m");
    let mut agent = TestAgent::prepare("press-1").with_state(disk.path()).without_docker();
    agent.enroll_at(&hub).await;
    agent.up().await;
    assert_eq!(check(&examined(&agent, &[]).0, "disk.write")["verdict"], "ok");
    // The files of a running agent, copied as a careless backup does, with a hole in one.
    agent.stop().await;
    tear(&agent.state().join("outbox.db"));
    fails(&examined(&agent, &[]), "sqlite.outbox", "outbox.db is damaged");
    let _filler = disk.fill();
    let full = examined(&agent, &[]);
    fails(&full, "disk", "0 MiB of 96 MiB free");
    fails(&full, "disk.write", "takes no file");
}

fn tear(path: &Path) {
    // What stands in the log would cover the hole.
    let file = rusqlite::Connection::open(path).expect("the agent made it");
    file.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).expect("nobody else has it open");
    drop(file);
    let mut bytes = std::fs::read(path).expect("the agent made it");
    assert!(bytes.len() > 8192, "nothing to tear");
    bytes[4096..].fill(0x5a);
    std::fs::write(path, bytes).expect("own file");
}
