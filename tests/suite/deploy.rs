//! What an operator applies runs on the host, as wished and nothing else.
use crate::words::{broker, idler, instance, node_red, speaking_flow};
use redforge_shared::wire::pb;
use redforge_tests::{
    agent::TestAgent,
    engine::{self, Foreign, docker, image},
    handmade::{self, Session},
    hub::TestHub,
    wait::{eventually, stays, when},
};
use std::time::Duration;

#[tokio::test]
async fn docker_limits_are_read_back_from_docker() {
    let hub = TestHub::start().await;
    let agent = TestAgent::start(&hub, "press-1").await;
    let mut operator = hub.operator().await;
    let more = "  resources: {cpu: 0.25, memory: 48Mi, pids: 37}\n  container:\n    command: [sleep, \"100000\"]\n";
    operator.apply(&instance("press-1", "worker", "container", &image("busybox"), more)).await;
    let status = operator.running("press-1", "worker").await;
    let container = agent.container("worker").expect("it runs");
    let seen = engine::inspect(&container, "{{.HostConfig.NanoCpus}} {{.HostConfig.Memory}} {{.HostConfig.PidsLimit}}");
    assert_eq!(seen, format!("250000000 {} 37", 48 << 20));
    assert_eq!((status.memory_limit_bytes, status.cpu_limit_millicores), (48 << 20, 250));
    let guards =
        engine::inspect(&container, "{{.HostConfig.Privileged}} {{.HostConfig.NetworkMode}} {{.HostConfig.Binds}}");
    assert!(guards.starts_with("false ") && !guards.contains("host") && !guards.contains("docker.sock"), "{guards}");
}

#[tokio::test]
async fn docker_a_record_that_a_flow_published_lies_in_postgresql() {
    let hub = TestHub::start().await;
    let agent = TestAgent::start(&hub, "press-1").await;
    let mut operator = hub.operator().await;
    operator.push_flows("speak", &speaking_flow()).await.expect("a plain export");
    operator.apply(&(broker("press-1") + &node_red("press-1", "flows", Some("speak")))).await;
    operator.running("press-1", "broker").await;
    operator.running("press-1", "flows").await;
    let address = engine::address(&agent.container("flows").expect("it runs"));
    say(&address, "cycle-1").await;
    eventually("the record is committed", async || {
        let n: i64 = sqlx::query_scalar("SELECT count(*) FROM record_event WHERE key = 'cycle-1' AND name = 'said'")
            .fetch_one(&hub.postgres.pool().await)
            .await
            .expect("the hub's tables are there");
        when(n == 1, n)
    })
    .await;
    let checked = hub.checker(&[]);
    assert!(checked.good, "{}", checked.text);
}

/// Calls the flow's own HTTP-in until it answers.
async fn say(address: &str, key: &str) {
    use http_body_util::Full;
    let client = hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new()).build_http();
    eventually("the flow answers", async || {
        let body = Full::new(bytes::Bytes::from(serde_json::json!({"key": key}).to_string()));
        let request = hyper::Request::post(format!("http://{address}:1880/say"))
            .header("content-type", "application/json")
            .body(body)
            .expect("a good request");
        let answer = tokio::time::timeout(Duration::from_secs(5), client.request(request)).await;
        let status = answer.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?.status();
        when(status.is_success(), status)
    })
    .await;
}

#[tokio::test]
async fn docker_a_flow_set_with_an_unknown_node_type_names_the_type() {
    let hub = TestHub::start().await;
    let _agent = TestAgent::start(&hub, "press-1").await;
    let mut operator = hub.operator().await;
    let flows = br#"[{"id":"t","type":"tab","label":"Flow"},{"id":"n","type":"warp-drive","z":"t","wires":[[]]}]"#;
    operator.push_flows("warp", flows).await.expect("the hub cannot know every node type");
    operator.apply(&(broker("press-1") + &node_red("press-1", "flows", Some("warp")))).await;
    let status = operator
        .instance_when("press-1", "flows", "the missing type is named", |s| {
            s.reason() == pb::StatusReason::MissingTypes
        })
        .await;
    assert_eq!(status.names, ["warp-drive"]);
    assert_eq!((status.phase(), status.health()), (pb::Phase::Starting, pb::Health::Error));
    assert_eq!(status.sync(), pb::Sync::Failed);
}

#[tokio::test]
async fn docker_a_change_of_flows_keeps_the_container() {
    let hub = TestHub::start().await;
    let agent = TestAgent::start(&hub, "press-1").await;
    let mut operator = hub.operator().await;
    operator.push_flows("speak", &speaking_flow()).await.expect("a plain export");
    operator.apply(&(broker("press-1") + &node_red("press-1", "flows", Some("speak")))).await;
    operator.running("press-1", "flows").await;
    let before = agent.container("flows").expect("it runs");
    let started = engine::inspect(&before, "{{.State.StartedAt}}");
    let host = operator.host("press-1").await.expect("known");
    let changed = String::from_utf8(speaking_flow()).expect("JSON").replace("/say", "/tell");
    let pushed = operator.push_flows("speak", changed.as_bytes()).await.expect("a plain export");
    assert!(pushed.changed && pushed.instances == ["hosts/press-1/instances/flows"], "{pushed:?}");
    operator
        .host_when("press-1", "the new flows are reported", |h| {
            h.observed_generation > host.generation && h.sync() == pb::Sync::UpToDate
        })
        .await;
    assert_eq!(agent.container("flows"), Some(before.clone()));
    assert_eq!(engine::inspect(&before, "{{.State.StartedAt}}"), started);
}

#[tokio::test]
async fn docker_a_foreign_container_with_our_name_and_image_is_not_touched() {
    let hub = TestHub::start().await;
    let mut agent = TestAgent::prepare("press-1");
    agent.enroll_at(&hub).await;
    let mut operator = hub.operator().await;
    // The name that the agent will want, as design.md section 7 makes it.
    let h8: String = redforge_shared::ids::Digest::of(agent.host_id.as_bytes()).hex().chars().take(8).collect();
    let busybox = image("busybox");
    let same_name = Foreign(format!("redforge-{h8}-worker-0"));
    docker(&["run", "-d", "--name", &same_name.0, &busybox, "sleep", "100000"]);
    let other_host = Foreign(format!("rft-other-{h8}"));
    let label = "redforge.host=01920000-0000-7000-8000-00000000ffff";
    docker(&[
        "run",
        "-d",
        "--name",
        &other_host.0,
        "--label",
        label,
        "--label",
        "redforge.instance=worker",
        &busybox,
        "sleep",
        "100000",
    ]);
    let look = |name: &str| engine::inspect(name, "{{.Id}} {{.State.StartedAt}} {{.State.Running}}");
    let before = (look(&same_name.0), look(&other_host.0));
    agent.up().await;
    operator.apply(&(idler("press-1", "worker") + &idler("press-1", "second"))).await;
    operator.running("press-1", "second").await;
    let status = operator
        .instance_when("press-1", "worker", "the foreign object is named, or the name avoided", |s| {
            s.reason() == pb::StatusReason::ForeignObject || s.phase() == pb::Phase::Running
        })
        .await;
    if status.reason() == pb::StatusReason::ForeignObject {
        assert_eq!(status.health(), pb::Health::Error);
        assert_eq!(status.names, std::slice::from_ref(&same_name.0));
    }
    stays(Duration::from_secs(5), "the foreign containers", async || (look(&same_name.0), look(&other_host.0))).await;
    assert_eq!((look(&same_name.0), look(&other_host.0)), before);
}

#[tokio::test]
async fn docker_two_agents_on_one_engine_do_not_see_each_other() {
    let hub = TestHub::start().await;
    let left = TestAgent::start(&hub, "left").await;
    let mut right = TestAgent::start(&hub, "right").await;
    let mut operator = hub.operator().await;
    operator.apply(&(idler("left", "worker") + &idler("right", "worker"))).await;
    operator.running("left", "worker").await;
    operator.running("right", "worker").await;
    let (a, b) = (left.container("worker").expect("it runs"), right.container("worker").expect("it runs"));
    assert_ne!(a, b);
    let network = |c: &str| engine::inspect(c, "{{range $n, $e := .NetworkSettings.Networks}}{{$n}} {{end}}");
    assert_ne!(network(&a), network(&b), "hosts share a network");
    // One host loses everything; the other must not notice.
    let started = engine::inspect(&a, "{{.Id}} {{.State.StartedAt}}");
    let name = "hosts/right/instances/worker".to_owned();
    operator.admin.delete_instance(pb::DeleteInstanceRequest { name }).await.expect("it exists");
    eventually("the right host's container is gone", async || when(right.container("worker").is_none(), "still there"))
        .await;
    right.kill9();
    right.up().await;
    stays(Duration::from_secs(3), "the left host", async || engine::inspect(&a, "{{.Id}} {{.State.StartedAt}}")).await;
    assert_eq!(engine::inspect(&a, "{{.Id}} {{.State.StartedAt}}"), started);
}

#[tokio::test]
async fn docker_a_container_that_was_removed_by_hand_comes_back() {
    let hub = TestHub::start().await;
    let agent = TestAgent::start(&hub, "press-1").await;
    let mut operator = hub.operator().await;
    operator.apply(&idler("press-1", "worker")).await;
    operator.running("press-1", "worker").await;
    let first = agent.container("worker").expect("it runs");
    docker(&["rm", "-f", &first]);
    eventually("another container runs", async || {
        let now = agent.container("worker");
        when(now.as_ref().is_some_and(|c| *c != first && engine::inspect(c, "{{.State.Running}}") == "true"), now)
    })
    .await;
}

#[tokio::test]
async fn a_wish_that_is_taken_back_before_it_was_reported_comes_whole_again() {
    let hub = TestHub::start().await;
    let mut operator = hub.operator().await;
    operator.site("plant").await;
    let token = operator.enroll_token("plant").await.token;
    let identity = handmade::enroll(hub.agents_port, &hub.root_pem(), token, "by-hand").await;
    let config = handmade::config(&hub.root_pem(), Some(identity));
    let mut session = Session::open(hub.agents_port, config).await.expect("it is greeted");
    let wish = |image: &str| instance("by-hand", "a", "container", image, "");
    operator.apply(&wish("first:1")).await;
    let first = session.next_desired().await.expect("a session");
    session.report(time::OffsetDateTime::UNIX_EPOCH, vec![]).await;
    operator.host_when("by-hand", "it has the first", |h| h.observed_generation == first.generation).await;

    // The host says nothing of the second before the first is wished for again.
    operator.apply(&wish("second:1")).await;
    let second = session.next_desired().await.expect("a session");
    assert_ne!(second.spec_sha256, first.spec_sha256);
    operator.apply(&wish("first:1")).await;
    let again = session.next_desired().await.expect("a session");
    assert_eq!((again.raise_only, &again.spec, again.generation > second.generation), (false, &first.spec, true));
}
