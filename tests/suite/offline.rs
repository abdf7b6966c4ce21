//! The hub is away, the agent dies in the dark, and the host goes on as it was.
use crate::words::idler;
use redforge_shared::wire::pb;
use redforge_tests::{
    agent::TestAgent,
    engine,
    hub::{TestHub, Wishes},
    place::text,
    proxy::{Proxy, Weather},
    wait::{eventually, stays, when},
};
use std::time::Duration;

fn identity(container: &str) -> String {
    engine::inspect(container, "{{.Id}} {{.State.StartedAt}} {{.State.Running}}")
}

#[tokio::test]
async fn docker_containers_keep_running_while_the_hub_is_away() {
    let mut hub = TestHub::start().await;
    let agent = TestAgent::start(&hub, "press-1").await;
    let mut operator = hub.operator().await;
    operator.apply(&idler("press-1", "worker")).await;
    operator.running("press-1", "worker").await;
    let container = agent.container("worker").expect("it runs");
    let before = identity(&container);
    hub.kill9();
    stays(Duration::from_secs(8), "the container", async || identity(&container)).await;
    assert_eq!(agent.container("worker").map(|c| identity(&c)), Some(before.clone()));
    hub.up().await;
    let mut operator = hub.operator().await;
    operator.host_when("press-1", "the host is online again", |h| h.link() == pb::Link::Online).await;
    assert_eq!(identity(&container), before);
}

#[tokio::test]
async fn docker_an_agent_restarted_in_the_dark_runs_what_it_last_knew() {
    let mut hub = TestHub::start().await;
    let mut agent = TestAgent::start(&hub, "press-1").await;
    let mut operator = hub.operator().await;
    operator.apply(&(idler("press-1", "worker") + &idler("press-1", "second"))).await;
    operator.running("press-1", "worker").await;
    operator.running("press-1", "second").await;
    let (kept, lost) = (agent.container("worker").expect("it runs"), agent.container("second").expect("it runs"));
    let before = identity(&kept);
    hub.stop().await;
    agent.kill9();
    // What vanished while nobody looked comes back without a hub; what runs is not touched.
    engine::docker(&["rm", "-f", &lost]);
    agent.up().await;
    eventually("the lost container is back", async || {
        let now = agent.container("second");
        when(now.as_ref().is_some_and(|c| engine::inspect(c, "{{.State.Running}}") == "true"), now)
    })
    .await;
    assert_eq!(identity(&kept), before);
    // It says so once it has tried to reach the hub, which is nobody's condition for the container.
    eventually("status says that it works alone", async || {
        let said = text(&agent.status(&[]));
        when(said.starts_with("Working alone"), said)
    })
    .await;
}

/// The agent's words at the machine, while it runs and after it was stopped.
#[tokio::test]
async fn docker_a_stopped_agent_still_tells_how_many_records_wait() {
    let mut hub = TestHub::start().await;
    let mut agent = TestAgent::start(&hub, "press-1").await;
    let mut operator = hub.operator().await;
    operator.apply(&(crate::words::broker("press-1") + &crate::words::node_red("press-1", "flows", None))).await;
    let at = redforge_tests::flowless::broker_of(&mut operator, &agent).await;
    hub.stop().await;
    let mut publisher = redforge_tests::publisher::Publisher::new(&at, "rft-publisher", &agent.dir().join("acked"));
    for i in 0..7 {
        publisher.publish(&format!("dark-{i}")).await;
    }
    publisher.all_acked().await;
    eventually("status counts what waits", async || {
        let output = agent.status(&[]);
        let said = text(&output);
        when(
            output.status.code() == Some(0) && said.starts_with("Working alone") && said.contains("7 records waiting"),
            said,
        )
    })
    .await;
    agent.kill9();
    let output = agent.status(&[]);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.starts_with("The agent is not running; containers of 'press-1' go on by themselves"), "{said}");
    assert!(said.lines().next().is_some_and(|l| l.contains("7 records waiting")), "{said}");
    // Looking has changed nothing: the records go up once everybody is back.
    hub.up().await;
    agent.up().await;
    let pool = hub.postgres.pool().await;
    eventually("what waited has arrived", async || {
        let n: i64 = sqlx::query_scalar("SELECT count(*) FROM record_event").fetch_one(&pool).await.expect("there");
        when(n == 7, n)
    })
    .await;
}

#[tokio::test]
async fn a_host_that_goes_dark_is_offline_and_comes_back_online() {
    let hub = TestHub::start_with(Wishes::default()).await;
    let proxy = Proxy::start(hub.agents_port).await;
    let mut agent = TestAgent::prepare("press-1").without_docker();
    let mut operator = hub.operator().await;
    operator.site("plant").await;
    let token = operator.enroll_token("plant").await;
    let output = agent.enroll_with(&proxy.url(), &token.token, &token.ca_pin);
    assert!(output.status.success(), "{}", text(&output));
    agent.up().await;
    operator.host_when("press-1", "the host is online", |h| h.link() == pb::Link::Online).await;
    for weather in [Weather::Blackhole, Weather::Reset] {
        proxy.set(weather);
        operator.host_when("press-1", "the host is offline", |h| h.link() == pb::Link::Offline).await;
        proxy.set(Weather::Clear);
        operator.host_when("press-1", "the host is online again", |h| h.link() == pb::Link::Online).await;
    }
}

#[tokio::test]
async fn docker_what_was_wished_during_the_cut_is_done_after_it() {
    let hub = TestHub::start().await;
    let proxy = Proxy::start(hub.agents_port).await;
    let mut agent = TestAgent::prepare("press-1");
    let mut operator = hub.operator().await;
    operator.site("plant").await;
    let token = operator.enroll_token("plant").await;
    let output = agent.enroll_with(&proxy.url(), &token.token, &token.ca_pin);
    assert!(output.status.success(), "{}", text(&output));
    agent.host_id = operator.host("press-1").await.expect("registered").id;
    agent.up().await;
    operator.host_when("press-1", "the host is online", |h| h.link() == pb::Link::Online).await;
    proxy.set(Weather::Cut);
    operator.host_when("press-1", "the link is lost", |h| h.link() != pb::Link::Online).await;
    operator.apply(&idler("press-1", "worker")).await;
    proxy.set(Weather::Clear);
    operator.running("press-1", "worker").await;
    assert!(agent.container("worker").is_some());
}
