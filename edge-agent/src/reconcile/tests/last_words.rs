//! What failed printed last is kept before its container goes, and outlives the agent.
use super::*;
use crate::db::ledger::FailedLog;

async fn kept(agent: &Agent) -> Option<FailedLog> {
    agent.ledger.failed_log(&name("a")).await.expect("the ledger answers")
}

fn texts(log: &FailedLog) -> Vec<&str> {
    log.lines.iter().map(|l| l.text.as_str()).collect()
}

/// A host where `box` works and `box2` says something and ends.
async fn where_box2_ends(data: bool) -> (Arc<FakeRuntime>, Agent) {
    let engine = engine();
    let mut agent = Agent::on(&engine, host(1)).await;
    agent.want(vec![versioned("box", data)]).await;
    agent.passes(4).await;
    assert_eq!(kept(&agent).await, None, "what works has no last words");
    engine.image_says("box2", &["begins", "no such table"]);
    engine.crash_image("box2", true);
    (engine, agent)
}

#[tokio::test]
async fn the_words_of_a_version_that_was_taken_back_are_kept_over_a_restart_until_its_instance_is_deleted() {
    for data in [true, false] {
        let (engine, mut agent) = where_box2_ends(data).await;
        agent.want(vec![versioned("box2", data)]).await;
        agent.passes(10).await;
        assert_eq!(
            (agent.status("a").sync, images_running(&engine)),
            (Sync::RolledBack, vec!["sha256:box".to_owned()])
        );
        assert!(engine.containers().values().all(|c| c.2.image_id != "sha256:box2"), "its container is gone");
        let log = kept(&agent).await.expect("it is kept");
        assert_eq!((log.reason, log.exit_code, log.image.as_str()), (Reason::ContainerExited, Some(7), "box2"));
        assert_eq!(texts(&log), ["begins", "no such table"]);
        // What came back ends once too: that can be read in its container, the other nowhere else.
        let container = agent.reconciler.names.container(&name("a"), 0);
        engine.image_says("box", &["box ends"]);
        engine.crash_again(&container);
        agent.passes(2).await;
        agent.restart(&engine);
        agent.passes(3).await;
        assert_eq!(kept(&agent).await.as_ref(), Some(&log));
        agent.want(vec![]).await;
        agent.passes(3).await;
        assert_eq!(kept(&agent).await, None, "a later one of this name begins anew");
    }
}

#[tokio::test]
async fn the_words_of_one_that_crashed_are_kept_when_an_operator_puts_another_in_its_place() {
    let (engine, mut agent) = where_box2_ends(true).await;
    let mut alone = Agent::on(&engine, host(5)).await;
    alone.want(vec![versioned("box2", true)]).await;
    alone.passes(6).await;
    alone.want(vec![versioned("box", true)]).await;
    alone.passes(6).await;
    assert_eq!(alone.status("a").sync, Sync::UpToDate);
    assert_eq!(kept(&alone).await.as_ref().map(texts), Some(vec!["begins", "no such table"]));
    // The newest failure takes the place of the one before.
    engine.image_says("box2", &["another reason"]);
    agent.want(vec![versioned("box2", true)]).await;
    agent.passes(8).await;
    assert_eq!(kept(&agent).await.as_ref().map(texts), Some(vec!["another reason"]));
}

#[tokio::test]
async fn a_first_version_that_is_late_leaves_its_words() {
    let engine = engine();
    engine.image_says("flows", &["still installing"]);
    let mut agent = Agent::on(&engine, host(1)).await;
    agent.want(vec![spec("a", "flows", Workload::NodeRed(NodeRed::default()))]).await;
    agent.passes(6).await;
    assert_eq!(agent.status("a").reason, Some(Reason::DeadlineExceeded));
    let log = kept(&agent).await.expect("it is kept");
    assert_eq!((log.reason, log.exit_code, texts(&log)), (Reason::DeadlineExceeded, None, vec!["still installing"]));
}

#[tokio::test]
async fn what_the_engine_refused_says_so_in_its_words_here_and_to_the_hub() {
    let engine = engine();
    let mut agent = Agent::on(&engine, host(1)).await;
    agent.want(vec![versioned("box", true)]).await;
    agent.passes(4).await;
    engine.refuse_image("box2");
    agent.want(vec![versioned("box2", true)]).await;
    for _ in 0..2 {
        agent.passes(8).await;
        let status = agent.status("a");
        assert_eq!((status.sync, status.reason), (Sync::RolledBack, Some(Reason::StartRefused)));
        assert_eq!(status.detail.as_deref(), Some("no such command"));
        let log = kept(&agent).await.expect("it is kept");
        assert_eq!((log.detail.as_deref(), texts(&log)), (Some("no such command"), vec![]));
        agent.restart(&engine);
    }
    // Nothing of it is left once another works.
    agent.want(vec![versioned("box", true)]).await;
    agent.passes(4).await;
    assert_eq!((agent.status("a").reason, agent.status("a").detail), (None, None));
}

#[tokio::test]
async fn a_port_that_is_taken_is_named_with_the_instance_that_has_it() {
    use redforge_shared::desired::{Port, Protocol};
    let engine = engine();
    let mut agent = Agent::on(&engine, host(1)).await;
    let port = |address: [u8; 4]| Port {
        container: 80,
        host: 61_080,
        address: std::net::IpAddr::from(address),
        protocol: Protocol::Tcp,
    };
    agent.want(vec![InstanceSpec { ports: vec![port([127, 0, 0, 1])], ..plain("b") }, plain("c")]).await;
    agent.passes(4).await;
    engine.take_port("box2", "61080/tcp");
    let clash = InstanceSpec { ports: vec![port([127, 0, 0, 2])], ..versioned("box2", true) };
    agent.want(vec![clash.clone(), InstanceSpec { ports: vec![port([127, 0, 0, 1])], ..plain("b") }]).await;
    agent.passes(4).await;
    let status = agent.status("a");
    assert_eq!((status.reason, status.names), (Some(Reason::PortTaken), vec!["61080/tcp".to_owned(), "b".to_owned()]));
    // Another program has it then.
    agent.want(vec![clash]).await;
    agent.passes(6).await;
    assert_eq!(agent.status("a").names, ["61080/tcp"]);
}
