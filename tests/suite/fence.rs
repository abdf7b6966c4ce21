//! A host that exists twice: two agents on copies of one state folder, until an operator decides.
use crate::words::{broker, node_red};
use redforge_edge::{
    db::outbox::{Limits, Outbox},
    privacy::{Gate, RawRecord},
};
use redforge_shared::{
    clock::{Clock as _, SystemClock},
    policy::Policy,
    record::{Body, Event},
    wire::pb,
};
use redforge_tests::{
    agent::TestAgent,
    ctl::Ctl,
    flowless::broker_of,
    hub::TestHub,
    operator::Operator,
    place::{command, run, text},
    publisher::Publisher,
    wait::{eventually, stays, when},
};
use std::{path::Path, sync::Arc, time::Duration};

/// An agent on a copy of the (stopped) other one's state folder; it has no engine, as a bare clone of the disk elsewhere.
fn copy_of(agent: &TestAgent) -> TestAgent {
    let copy = TestAgent::prepare(&agent.name).without_docker();
    let mut cp = command(Path::new("cp"));
    cp.arg("-a").arg(format!("{}/.", agent.state().display())).arg(copy.state());
    let output = run(&mut cp, Duration::from_secs(60));
    assert!(output.status.success(), "{}", text(&output));
    copy
}

/// Puts an event into the outbox of an agent that does not run.
async fn append(agent: &TestAgent, key: &str) {
    let path = agent.state().join("outbox.db");
    let outbox = Outbox::open(&path, Limits::default(), Arc::new(SystemClock)).await.expect("opens");
    let raw = RawRecord {
        at: SystemClock.now(),
        instance: None,
        key: Some(key.into()),
        repeat_of: None,
        body: Body::Event(Event { name: "cycle".into(), payload_json: "{}".into() }),
    };
    let released = Gate::new(Policy::Open).release(raw).expect("is within bounds");
    outbox.append(vec![released], None).await.expect("commits");
    outbox.close().await;
}

async fn keys(hub: &TestHub) -> Vec<String> {
    let pool = hub.postgres.pool().await;
    sqlx::query_scalar("SELECT key FROM record_event ORDER BY key").fetch_all(&pool).await.expect("the hub's table")
}

async fn says(agent: &TestAgent, words: &[&str]) {
    eventually(&format!("status says {words:?}"), async || {
        let said = text(&agent.status(&[]));
        when(words.iter().all(|w| said.contains(w)), said)
    })
    .await;
}

async fn fenced(operator: &mut Operator) {
    let is = |h: &pb::Host| h.sync() == pb::Sync::Paused && h.reason() == pb::StatusReason::Fenced;
    operator.host_when("press-1", "the host is fenced", is).await;
}

#[tokio::test]
async fn docker_two_agents_on_a_copied_folder_are_fenced_until_an_operator_says_which_stays() {
    let hub = TestHub::start().await;
    let mut first = TestAgent::start(&hub, "press-1").await;
    let (mut operator, ctl) = (hub.operator().await, Ctl::new(&hub));
    operator.apply(&(broker("press-1") + &node_red("press-1", "flows", None))).await;
    let at = broker_of(&mut operator, &first).await;
    let mut publisher = Publisher::new(&at, "rft-publisher", &first.dir().join("acked.jsonl"));
    publisher.publish("before").await;
    publisher.all_acked().await;
    eventually("the first event has arrived", async || when(keys(&hub).await == ["before"], "not yet")).await;
    first.stop().await;
    let mut copy = copy_of(&first);
    first.up().await;
    operator.host_when("press-1", "the host is online", |h| h.link() == pb::Link::Online).await;
    copy.up().await;
    fenced(&mut operator).await;

    // Both run and hold what nobody has: none of it lands.
    copy.stop().await;
    append(&copy, "of the copy").await;
    copy.up().await;
    for key in ["dark-1", "dark-2", "dark-3"] {
        publisher.publish(key).await;
    }
    publisher.all_acked().await;
    let command = "redforgectl resume press-1";
    says(&first, &["Fenced by the hub", command, "3 records waiting"]).await;
    says(&copy, &["Fenced by the hub", command, "1 record waiting"]).await;
    let landed = stays(Duration::from_secs(6), "what has landed", async || keys(&hub).await).await;
    assert_eq!(landed, ["before"]);
    let log = first.process.as_ref().expect("it runs").said();
    assert!(log.iter().any(|l| l.contains(command)), "the agent's log does not name the command: {log:?}");
    let row = ctl.run(&["get", "host", "press-1"]).good();
    assert!(row.contains(" Paused ") && row.contains("Fenced") && !row.contains("was Paused"), "{row}");
    let events = ctl.run(&["get", "events", "press-1"]).good();
    assert!(events.contains("HOST_FENCED") && events.contains(command), "{events}");

    // The first one stays, although it was superseded, and as the process that it is.
    copy.stop().await;
    let pid = first.process.as_ref().map(redforge_tests::place::Process::pid);
    assert!(ctl.run(&["resume", "press-1"]).good().contains("hosts/press-1 resumed"));
    let all = ["before", "dark-1", "dark-2", "dark-3"];
    eventually("what waited has arrived", async || {
        let now = keys(&hub).await;
        when(now == all, now)
    })
    .await;
    operator
        .host_when("press-1", "the host is as it was", |h| {
            h.link() == pb::Link::Online && h.sync() == pb::Sync::UpToDate
        })
        .await;
    assert_eq!(first.process.as_ref().map(redforge_tests::place::Process::pid), pid);
    assert!(first.process.as_mut().is_some_and(redforge_tests::place::Process::is_running), "it was restarted");
    let after = ctl.run(&["get", "events", "press-1"]).good();
    // The copy looked like a folder from a backup; the one that was let in does not.
    let restored = |events: &str| events.matches("AGENT_RESTORED").count();
    assert!(after.contains("HOST_UNFENCED") && restored(&after) == restored(&events), "{after}");
    assert!(ctl.run(&["resume", "press-1"]).bad(4).contains("hosts/press-1 is not paused"));
    let checked = hub.checker(&[]);
    assert!(checked.good, "{}", checked.text);

    // Resumed while both run: fenced anew.
    copy.up().await;
    fenced(&mut operator).await;
    assert_eq!(keys(&hub).await.iter().filter(|k| k.starts_with("dark")).count(), 3, "stored twice");
}
