//! A secret of the site: named by an operator, given by a technician, known to nobody else.
use crate::words::instance;
use redforge_shared::wire::pb;
use redforge_tests::{
    agent::TestAgent,
    engine::{docker, image, inspect},
    hub::TestHub,
    place::text,
    wait::{eventually, when},
};

const VALUE: &str = "correct-horse-battery";

#[tokio::test]
async fn docker_a_secret_is_named_by_the_hub_given_at_the_site_and_shown_by_nobody() {
    let hub = TestHub::start().await;
    let agent = TestAgent::start(&hub, "press-1").await;
    let mut operator = hub.operator().await;
    let more = "  secretEnv: {ERP_KEY: erp-key}\n  container:\n    command: [sleep, \"100000\"]\n";
    operator.apply(&instance("press-1", "poller", "container", &image("busybox"), more)).await;
    let status = operator
        .instance_when("press-1", "poller", "its secret is missed", |s| s.reason() == pb::StatusReason::SecretMissing)
        .await;
    assert_eq!((status.names.as_slice(), status.phase()), (&["erp-key".to_owned()][..], pb::Phase::Pending));
    let missing = agent.edge(&["secret", "list"]);
    assert!(text(&missing).contains("erp-key") && text(&missing).contains("missing"), "{}", text(&missing));

    let file = agent.dir().join("key.txt");
    std::fs::write(&file, format!("{VALUE}\n")).expect("own folder");
    let given =
        agent.edge_reading(&["secret", "set", "erp-key"], std::fs::File::open(&file).expect("it is there").into());
    assert!(given.status.success(), "{}", text(&given));
    operator.running("press-1", "poller").await;
    let container = agent.container("poller").expect("it runs");
    assert_eq!(docker(&["exec", &container, "sh", "-c", "echo $ERP_KEY"]), VALUE);
    // Beside the container's own environment it is nowhere: no label, no list, no report, no document, no log.
    let list = agent.edge(&["secret", "list", "-o", "json"]);
    let reported = format!("{:?} {:?}", operator.instance("press-1", "poller").await, operator.host("press-1").await);
    let log = std::fs::read_to_string(agent.dir().join("edge.log")).expect("the agent logs");
    let document: Vec<u8> = sqlx::query_scalar("SELECT spec FROM host_desired LIMIT 1")
        .fetch_one(&hub.postgres.pool().await)
        .await
        .expect("the hub's tables are there");
    let document = String::from_utf8_lossy(&document).into_owned();
    assert!(document.contains("erp-key"), "{document}");
    for said in [text(&given), text(&list), reported, log, document, inspect(&container, "{{json .Config.Labels}}")] {
        assert!(!said.contains(VALUE), "{said}");
    }

    std::fs::write(&file, "another-one").expect("own folder");
    assert!(
        agent
            .edge_reading(&["secret", "set", "erp-key"], std::fs::File::open(&file).expect("it is there").into())
            .status
            .success()
    );
    eventually("another container has the new value", async || {
        let now = agent.container("poller").filter(|c| *c != container).ok_or("no other container")?;
        let value = redforge_tests::engine::try_docker(&["exec", &now, "sh", "-c", "echo $ERP_KEY"])?;
        when(value == "another-one", value)
    })
    .await;
    let gone = agent.edge(&["secret", "delete", "nobody"]);
    assert_eq!(gone.status.code(), Some(3), "{}", text(&gone));
    let empty = agent.edge(&["secret", "set", "erp-key"]);
    assert_eq!(empty.status.code(), Some(1), "{}", text(&empty));
}
