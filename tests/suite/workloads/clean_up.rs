//! Data that no spec names any more: kept for a while, told before it goes, counted after, and never taken from a held one.
use crate::words::instance;
use redforge_shared::{report::clean_up::Leftover, wire::pb};
use redforge_tests::{
    agent::TestAgent,
    engine::{docker, image},
    hub::TestHub,
    operator::Operator,
    place::text,
    wait::{eventually, when},
};
use std::collections::BTreeSet;

fn keeper(name: &str, volumes: &str) -> String {
    let more = format!("{volumes}  container:\n    command: [sleep, \"100000\"]\n");
    instance("press-1", name, "container", &image("busybox"), &more)
}

const DATA: &str = "  volumes:\n    - {name: keep, path: /keep}\n";

/// Data volumes of this host, by the instance whose they are.
fn volumes(agent: &TestAgent) -> BTreeSet<String> {
    let filter = format!("label=redforge.host={}", agent.host_id);
    let format = "{{.Label \"redforge.instance\"}}";
    docker(&["volume", "ls", "--filter", &filter, "--format", format]).lines().map(str::to_owned).collect()
}

fn said(host: &pb::Host) -> pb::CleanUp {
    host.clean_up.clone().unwrap_or_default()
}

async fn delete(operator: &mut Operator, name: &str) {
    let name = format!("hosts/press-1/instances/{name}");
    operator.admin.delete_instance(pb::DeleteInstanceRequest { name }).await.expect("it exists");
}

#[tokio::test]
async fn docker_data_of_a_deleted_instance_is_listed_then_goes_and_that_of_a_held_one_stays() {
    let hub = TestHub::start().await;
    let mut agent = TestAgent::prepare("press-1");
    agent.env.push(("REDFORGE_EDGE__CLEAN_UP__KEEP_VOLUMES".into(), "true".into()));
    agent.enroll_at(&hub).await;
    agent.up().await;
    let mut operator = hub.operator().await;
    let all: Vec<_> = ["deleted", "dropped", "held", "kept"].iter().map(|name| keeper(name, DATA)).collect();
    operator.apply(&all.concat()).await;
    for name in ["deleted", "dropped", "held", "kept"] {
        operator.running("press-1", name).await;
    }
    assert!(agent.edge(&["hold", "held", "--for", "1h", "--reason", "open"]).status.success());
    delete(&mut operator, "deleted").await;
    delete(&mut operator, "held").await;
    operator.apply(&keeper("dropped", "")).await;
    // Data is kept for ever here: two are listed, without a time.
    let host = operator.host_when("press-1", "what nobody needs is listed", |h| said(h).count == 2).await;
    let listed = said(&host).unneeded;
    assert!(listed.iter().all(|u| u.kind() == pb::Leftover::from(Leftover::Volume) && u.removed_at.is_none()));
    assert!(text(&agent.status(&[])).contains("stays: [clean_up] keeps data"));
    assert_eq!(volumes(&agent).len(), 4);
    // Another setting, and those two go; the held one stays.
    agent.stop().await;
    agent.env.retain(|(name, _)| !name.contains("KEEP_VOLUMES"));
    agent.env.push(("REDFORGE_EDGE__CLEAN_UP__VOLUME_MIN_AGE_S".into(), "3".into()));
    agent.up().await;
    operator.host_when("press-1", "what went is counted", |h| said(h).removed_volumes == 2).await;
    assert_eq!(volumes(&agent), BTreeSet::from(["held".to_owned(), "kept".to_owned()]));
    assert!(agent.edge(&["release", "held"]).status.success());
    eventually("the data of the released one goes too", async || {
        let left = volumes(&agent);
        when(left == BTreeSet::from(["kept".to_owned()]), left)
    })
    .await;
}
