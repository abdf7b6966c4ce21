//! The site's own hand: a technician holds, releases, restarts and looks, with the hub away and with the agent down.
use crate::words::{idler, instance};
use redforge_shared::wire::{from_timestamp, pb};
use redforge_tests::{
    agent::TestAgent,
    ctl::Ctl,
    engine::{self, docker, image},
    hub::TestHub,
    place::text,
    wait::{eventually, stays, when},
};
use std::time::Duration;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// An idler that says which version it is.
fn version(host: &str, n: u32) -> String {
    let more = format!("  env: {{VERSION: \"{n}\"}}\n  container:\n    command: [sleep, \"100000\"]\n");
    instance(host, "worker", "container", &image("busybox"), &more)
}

fn created(container: &str) -> OffsetDateTime {
    let at = engine::inspect(container, "{{.Created}}");
    OffsetDateTime::parse(&at, &Rfc3339).expect("the engine writes RFC 3339")
}

#[tokio::test]
async fn docker_a_hold_survives_a_restart_and_ends_by_itself() {
    let mut hub = TestHub::start().await;
    let mut agent = TestAgent::start(&hub, "press-1").await;
    let mut operator = hub.operator().await;
    operator.apply(&version("press-1", 1)).await;
    operator.running("press-1", "worker").await;
    let first = agent.container("worker").expect("it runs");

    let said = agent.edge(&["hold", "worker", "--for", "30s", "--reason", "belt is open"]);
    assert!(said.status.success() && text(&said).contains("worker is held by"), "{}", text(&said));
    operator.apply(&version("press-1", 2)).await;
    let status = operator
        .instance_when("press-1", "worker", "the hub's operators see the hold", |s| {
            s.sync() == pb::Sync::Paused && s.hold.is_some()
        })
        .await;
    let hold = status.hold.clone().expect("just seen");
    assert_eq!((status.reason(), status.health()), (pb::StatusReason::Held, pb::Health::Healthy));
    assert_eq!(hold.reason, "belt is open");
    let until = from_timestamp("until", hold.until.as_ref()).expect("a time");
    let ctl = Ctl::new(&hub);
    let row = ctl.run(&["get", "instances", "-o", "wide"]).good();
    assert!(row.contains("Paused") && row.contains(&format!("held by {} until ", hold.by)), "{row}");
    let object = ctl.run(&["get", "instances", "press-1/worker", "-o", "json"]).json();
    assert_eq!(object["status"]["hold"]["reason"], "belt is open", "{object}");
    let page = crate::operators::page::document(&mut hub).await;
    assert!(page.contains("belt is open"), "{page}");

    // Both sides die; the agent comes back in the dark and still leaves the container alone.
    hub.kill9();
    agent.kill9();
    agent.up().await;
    let restarted = now_here();
    assert!(restarted < until, "the machine was too slow for this story: it says nothing");
    stays(Duration::from_secs(3), "the held container", async || agent.container("worker")).await;
    let second = eventually("the hold ends and what was wished is done", async || {
        let now = agent.container("worker").filter(|c| *c != first).ok_or("the first one")?;
        when(engine::inspect(&now, "{{.Config.Env}}").contains("VERSION=2"), &now).map_err(|_| "another")?;
        Ok::<_, &str>(now)
    })
    .await;
    assert!(created(&second) >= until, "replaced at {}, held until {until}", created(&second));
    hub.up().await;
    let mut operator = hub.operator().await;
    let over = |s: &pb::InstanceStatus| s.sync() == pb::Sync::UpToDate && s.hold.is_none();
    operator.instance_when("press-1", "worker", "the hold is over for the hub too", over).await;
}

#[expect(clippy::disallowed_methods, reason = "a hold's end is a time of the machine")]
fn now_here() -> OffsetDateTime {
    OffsetDateTime::now_utc()
}

#[tokio::test]
async fn docker_a_technician_needs_neither_hub_nor_agent_to_hold_restart_and_look() {
    let mut hub = TestHub::start().await;
    let mut agent = TestAgent::prepare("press-1");
    agent.env.push(("REDFORGE_EDGE__SITE__MAX_HOLD_S".into(), "7200".into()));
    agent.enroll_at(&hub).await;
    agent.up().await;
    let mut operator = hub.operator().await;
    let ticks = "  container:\n    command: [sh, -c, \"while true; do echo tick; sleep 1; done\"]\n";
    operator
        .apply(&(instance("press-1", "worker", "container", &image("busybox"), ticks) + &idler("press-1", "second")))
        .await;
    operator.running("press-1", "worker").await;
    operator.running("press-1", "second").await;
    hub.kill9();

    refused(
        &agent,
        &["hold", "worker", "--for", "3h", "--reason", "r"],
        "10800 s were asked for and a hold may last 7200 s",
    );
    refused(&agent, &["hold", "wroker", "--for", "1h", "--reason", "r"], "no instance 'wroker'; it has second, worker");
    refused(&agent, &["logs", "wroker"], "those that have: second, worker");

    let lines = agent.edge(&["logs", "worker", "--tail", "2"]);
    assert!(lines.status.success() && text(&lines).lines().all(|l| l.ends_with("stdout tick")), "{}", text(&lines));
    let first = agent.container("worker").expect("it runs");
    let second = agent.container("second").expect("it runs");
    let said = agent.edge(&["restart", "worker"]);
    assert!(said.status.success(), "{}", text(&said));
    eventually("the instance has a new container, without a hub", async || {
        let now = agent.container("worker");
        when(now.as_ref().is_some_and(|c| *c != first && engine::inspect(c, "{{.State.Running}}") == "true"), now)
    })
    .await;
    assert_eq!(agent.container("second").as_ref(), Some(&second), "the other one was not touched");

    // A restart of the agent is no reason to restart the instance again.
    let restarted = agent.container("worker").expect("it runs");
    agent.kill9();
    let said = agent.edge(&["hold", "--all", "--for", "1h", "--reason", "moving the cabinet"]);
    assert!(said.status.success() && text(&said).contains("it reads this when it starts"), "{}", text(&said));
    assert!(text(&agent.status(&[])).contains("moving the cabinet"));
    agent.up().await;
    docker(&["rm", "-f", &second]);
    eventually("status and page tell the hold", async || {
        let (status, page) = (text(&agent.status(&[])), page(&agent).await?);
        let both = [&status, &page].iter().all(|t| t.contains("moving the cabinet") && t.contains("Paused"));
        when(both, (status, page))
    })
    .await;
    stays(Duration::from_secs(4), "the held host", async || (agent.container("worker"), agent.container("second")))
        .await;
    assert_eq!((agent.container("worker"), agent.container("second")), (Some(restarted), None));
    refused(&agent, &["restart", "worker"], "release it first");
    let said = agent.edge(&["release", "--all"]);
    assert!(said.status.success(), "{}", text(&said));
    eventually("what was removed by hand comes back", async || when(agent.container("second").is_some(), "not yet"))
        .await;
}

fn refused(agent: &TestAgent, args: &[&str], says: &str) {
    let said = agent.edge(args);
    assert!(said.status.code() == Some(1) && text(&said).contains(says), "{args:?}: {}", text(&said));
}

/// The agent's page as a browser gets it.
async fn page(agent: &TestAgent) -> Result<String, String> {
    use http_body_util::{BodyExt, Empty};
    let client = hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new())
        .build_http::<Empty<bytes::Bytes>>();
    let url = format!("http://127.0.0.1:{}/", agent.page_port).parse().map_err(|e| format!("{e}"))?;
    let answer = client.get(url).await.map_err(|e| e.to_string())?;
    let body = answer.into_body().collect().await.map_err(|e| e.to_string())?.to_bytes();
    Ok(String::from_utf8_lossy(&body).into_owned())
}
