//! What failed can be read where it failed: its last lines, the port that was taken, the engine's words.
use super::changes::remembered;
use crate::words::{idler, instance};
use redforge_shared::wire::pb;
use redforge_tests::{
    agent::TestAgent,
    ctl::Ctl,
    engine::{self, docker, image},
    hub::TestHub,
    place::{free_port, text},
    wait::{eventually, when},
};
use serde_json::Value;
use std::net::TcpListener;

/// Containers of the host, running or not.
fn containers(agent: &TestAgent) -> Vec<String> {
    let label = format!("label=redforge.host={}", agent.host_id);
    docker(&["ps", "-aq", "--filter", &label]).lines().map(str::to_owned).collect()
}

/// Since when an instance is as it is, as the running agent tells it; none while it has not looked.
fn since(agent: &TestAgent, name: &str) -> Option<String> {
    let said: Value = serde_json::from_str(&text(&agent.status(&["-o", "json"]))).ok()?;
    let all = said["view"]["status"]["instances"].as_array()?.clone();
    let own = all.into_iter().find(|i| i["name"] == name && i["health"] == "Healthy")?;
    own["changed_at"].as_str().map(str::to_owned)
}

#[tokio::test]
async fn docker_the_last_words_of_a_version_that_was_taken_back_are_read_at_the_site_and_outlive_the_agent() {
    let mut hub = TestHub::start().await;
    let mut agent = TestAgent::prepare("press-1");
    agent.env.push(("REDFORGE_EDGE__RUNTIME__START_DEADLINE_S".into(), "10".into()));
    agent.enroll_at(&hub).await;
    agent.up().await;
    let mut operator = hub.operator().await;
    operator.apply(&(idler("press-1", "worker") + &idler("press-1", "other"))).await;
    operator.running("press-1", "worker").await;
    operator.running("press-1", "other").await;
    remembered(&agent, &["worker", "other"]).await;
    let other = since(&agent, "other").expect("it is healthy");
    let none = agent.edge(&["logs", "worker", "--failed"]);
    assert!(none.status.code() == Some(1) && text(&none).contains("nothing is kept of a failure of 'worker'"));

    // It prints, on both outputs and with what a terminal would obey, and ends.
    let script = "i=0; while [ $i -lt 300 ]; do echo line-$i; i=$((i+1)); done; printf 'no table \\033[2J orders\\n' >&2; exit 3";
    let dies = format!("  container:\n    command: [sh, -c, \"{}\"]\n", script.replace('\\', "\\\\"));
    let manifest = instance("press-1", "worker", "container", &image("busybox"), &dies) + &idler("press-1", "other");
    operator.apply(&manifest).await;
    let back = |s: &pb::InstanceStatus| s.sync() == pb::Sync::RolledBack && s.health() == pb::Health::Healthy;
    operator.instance_when("press-1", "worker", "what worked is back", back).await;
    eventually("only what worked is there", async || when(containers(&agent).len() == 2, containers(&agent))).await;

    let said = text(&agent.status(&[]));
    assert!(said.contains("what it printed last: redforge-edge logs worker --failed"), "{said}");
    hub.kill9();
    for process in ["while it runs", "while it is down", "after its restart"] {
        let log = agent.edge(&["logs", "worker", "--failed"]);
        assert!(log.status.success(), "{process}: {}", text(&log));
        let log = text(&log);
        let head: Vec<&str> = log.lines().take_while(|l| l.starts_with('#')).collect();
        assert!(
            head[0].starts_with("# worker failed at 20") && head[0].ends_with("UTC: ContainerExited, exit code 3"),
            "{log}"
        );
        assert!(head[1].contains(&image("busybox")) && head[1].contains(", container "), "{log}");
        let lines: Vec<&str> = log.lines().skip(head.len()).collect();
        // It ended several times; of one run 301 lines come, and 200 are kept.
        assert!(lines.len() == 200 && lines.iter().any(|l| l.ends_with("stdout line-299")), "{log}");
        let last = lines.iter().filter(|l| l.contains(" stderr ")).count();
        assert!(last >= 1 && log.contains(r"stderr no table \u{1b}[2J orders") && !log.contains('\x1b'), "{log}");
        let two = text(&agent.edge(&["logs", "worker", "--failed", "--tail", "2"]));
        assert_eq!(two.lines().filter(|l| !l.starts_with('#')).count(), 2, "{two}");
        match process {
            "while it runs" => agent.kill9(),
            "while it is down" => agent.up().await,
            _ => {}
        }
    }
    // What worked all the time is no younger for the agent's restart.
    eventually("the age is that of before", async || {
        let now = since(&agent, "other").ok_or_else(|| "it does not say yet".to_owned())?;
        when(now == other, format!("{now}, and was {other}"))
    })
    .await;
    let now = text(&agent.edge(&["logs", "worker"]));
    assert!(!now.contains("no table"), "what runs has printed nothing: {now}");
}

#[tokio::test]
async fn docker_a_taken_port_and_the_engines_refusal_are_told_in_full_at_both_ends() {
    let hub = TestHub::start().await;
    let mut agent = TestAgent::start(&hub, "press-1").await;
    let mut operator = hub.operator().await;
    let port = free_port();
    let serves = format!(
        "  ports:\n    - {{container: 8080, host: {port}, address: 127.0.0.1}}\n  container:\n    command: [sleep, \"100000\"]\n"
    );
    let nope = "  container:\n    command: [no-such-program, \"--flag\"]\n";
    let manifest = instance("press-1", "web", "container", &image("busybox"), &serves)
        + &instance("press-1", "nope", "container", &image("busybox"), nope);
    operator.apply(&manifest).await;
    operator.running("press-1", "web").await;
    let refused = |s: &pb::InstanceStatus| s.reason() == pb::StatusReason::StartRefused && !s.detail.is_empty();
    let status = operator.instance_when("press-1", "nope", "the engine refuses it", refused).await;
    assert!(status.detail.contains("no-such-program") && !status.detail.contains('\n'), "{}", status.detail);

    // While the agent is down its container ends, and another program takes the port.
    agent.kill9();
    docker(&["stop", "-t", "1", &agent.container("web").expect("it runs")]);
    let holder = TcpListener::bind(("127.0.0.1", port)).expect("it is free now");
    agent.up().await;
    let taken = |s: &pb::InstanceStatus| s.reason() == pb::StatusReason::PortTaken;
    let status = operator.instance_when("press-1", "web", "the port is taken", taken).await;
    assert_eq!(status.names, [format!("{port}/tcp")]);

    let port_told = format!("port {port}/tcp is held by another program");
    let ctl = Ctl::new(&hub);
    let rows = ctl.run(&["get", "instances"]).good();
    assert!(rows.contains(&format!("PortTaken: {port_told}")), "{rows}");
    assert!(rows.contains("StartRefused: ") && rows.contains("no-such-program"), "{rows}");
    let json = ctl.run(&["get", "instances", "press-1/nope", "-o", "json"]).json();
    assert!(json["status"]["detail"].as_str().is_some_and(|d| d.contains("no-such-program")), "{json}");
    let said = text(&agent.status(&[]));
    assert!(said.contains(&port_told) && said.contains("no-such-program"), "{said}");
    let log = text(&agent.edge(&["logs", "nope", "--failed"]));
    assert!(log.contains("# the engine said: ") && log.contains("no-such-program"), "{log}");
    drop(holder);
    operator.running("press-1", "web").await;
    assert_eq!(engine::inspect(&agent.container("web").expect("it runs"), "{{.State.Running}}"), "true");
}
