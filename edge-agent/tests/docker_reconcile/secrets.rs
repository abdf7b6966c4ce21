//! The site's secrets on the real engine: named by the spec, given at the site, seen by the container alone.
use crate::host::*;
use redforge_shared::report::{Health, Phase, Reason, Sync};

#[tokio::test(flavor = "multi_thread")]
async fn docker_a_secret_reaches_its_container_and_a_new_value_makes_a_new_one() {
    let mut host = Host::start().await;
    let mut wanted = sleeper("poller");
    wanted.secret_env = [("API_KEY".to_owned(), name("erp-key"))].into();
    // Not even the image is looked for.
    wanted.image = "redforge.local/not-there:1".into();
    host.want(vec![wanted.clone()]).await;
    let status = host.until("poller", "without its secret", |i| i.reason == Some(Reason::SecretMissing)).await;
    assert_eq!(status.names, ["erp-key"]);
    assert_eq!((status.phase, status.health, status.sync), (Phase::Pending, Health::Error, Sync::OutOfDate));
    wanted.image = image("busybox");
    host.want(vec![wanted.clone()]).await;
    host.ledger.give_secret(&name("erp-key"), "first-value".into(), 0).await.expect("the ledger takes it");
    host.until_running("poller").await;
    let env = |host: &Host| docker(&["exec", &host.container("poller"), "sh", "-c", "echo $API_KEY"]);
    assert_eq!(env(&host), "first-value");
    let run = host.run_of("poller");
    // The same value again is no change; another is a new container.
    host.ledger.give_secret(&name("erp-key"), "first-value".into(), 1).await.expect("the ledger takes it");
    host.want(vec![wanted.clone(), sleeper("other")]).await;
    host.until_running("other").await;
    assert_eq!(host.run_of("poller"), run);
    host.ledger.give_secret(&name("erp-key"), "second-value".into(), 2).await.expect("the ledger takes it");
    let id = run.split(' ').next().unwrap_or_default().to_owned();
    host.until("poller", "another container", |i| {
        i.phase == Phase::Running && i.sync == Sync::UpToDate && i.container_id.as_ref().is_some_and(|c| *c != id)
    })
    .await;
    let all = docker(&[
        "ps",
        "-q",
        "--filter",
        &format!("label=redforge.host={}", host.id),
        "--filter",
        "label=redforge.instance=poller",
    ]);
    assert_eq!(docker(&["exec", all.lines().next().expect("it runs"), "sh", "-c", "echo $API_KEY"]), "second-value");
    // Deleted: what runs goes on, and it is told.
    host.ledger.delete_secret(&name("erp-key")).await.expect("the ledger takes it");
    let status = host.until("poller", "told", |i| i.reason == Some(Reason::SecretMissing)).await;
    assert_eq!((status.phase, status.health), (Phase::Running, Health::Degraded));
}
