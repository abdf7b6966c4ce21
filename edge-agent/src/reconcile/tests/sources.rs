//! Where images come from that neither the host nor the hub has: mirrors first, each with what the host is to it.
use super::*;
use crate::reconcile::sources::{Account, Password, Registries, Registry};

const MIRROR: &str = "m.example";
const THERE: &str = "m.example/library/large:1";

/// An agent that is somebody at a mirror of the default registry.
async fn with_a_mirror(password: Password) -> (Arc<FakeRuntime>, Agent) {
    let engine = engine();
    engine.lock_registry(MIRROR, "press", "rolls");
    let mut agent = Agent::on(&engine, host(1)).await;
    let account = Some(Account { username: "press".into(), password });
    let registries = Registries::from([
        ("docker.io".into(), Registry { mirrors: vec![MIRROR.into()], account: None }),
        (MIRROR.into(), Registry { mirrors: vec![], account }),
    ]);
    agent.reconciler.shelf.registries = Arc::new(registries);
    agent.want(vec![spec("a", "large:1", Workload::Container(Container::default()))]).await;
    (engine, agent)
}

#[tokio::test]
async fn an_image_from_a_mirror_bears_the_name_that_was_written_and_no_other() {
    let (engine, mut agent) = with_a_mirror(Password::Secret(name("mirror"))).await;
    let value = secrecy::SecretString::from("rolls".to_owned());
    agent.ledger.give_secret(&name("mirror"), value, 1).await.expect("given");
    engine.bring_image_elsewhere(THERE);
    agent.passes(12).await;
    assert_eq!(agent.status("a").phase, Phase::Running);
    let journal = engine.take_journal();
    let of_names: Vec<_> = journal.iter().filter(|j| j.contains("tag ") || j.contains("take the name")).collect();
    assert_eq!(of_names, ["tag large:1", &format!("take the name {THERE}")]);
}

#[tokio::test]
async fn a_shut_door_says_more_than_a_registry_that_has_nothing_and_no_key_more_than_that() {
    let (_engine, mut agent) = with_a_mirror(Password::Secret(name("mirror"))).await;
    agent.passes(6).await;
    let status = agent.status("a");
    assert_eq!((status.reason, status.names), (Some(Reason::SecretMissing), vec!["large:1".into(), "mirror".into()]));
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("password");
    let (_engine, mut agent) = with_a_mirror(Password::File(file.clone())).await;
    agent.passes(6).await;
    let denied = (Some(Reason::RegistryDenied), vec!["large:1".to_owned(), MIRROR.to_owned()]);
    let status = agent.status("a");
    assert_eq!((status.reason, status.names), denied, "there is no file");
    std::fs::write(&file, "wrong").expect("own folder");
    let (_engine, mut agent) = with_a_mirror(Password::File(file)).await;
    agent.passes(6).await;
    let status = agent.status("a");
    assert_eq!((status.reason, status.names), denied, "it is the wrong one");
}

/// Without the mirror that has it the registry itself is asked.
#[tokio::test]
async fn where_a_mirror_gives_nothing_the_registry_itself_does() {
    let (engine, mut agent) = with_a_mirror(Password::Secret(name("mirror"))).await;
    engine.bring_image_elsewhere("large:1");
    agent.passes(12).await;
    assert_eq!(agent.status("a").phase, Phase::Running);
}
