//! Replacing containers: healthy first, back to what worked, and nobody waits for another's end.
use crate::{host::*, host_run};
use redforge_shared::{
    desired::{Container, InstanceSpec, Probe, Workload},
    report::{Health, InstanceStatus, Phase, Reason, Sync},
};
use std::time::Duration;

/// A server without data, that takes a while to listen.
fn server(instance: &str, version: &str) -> InstanceSpec {
    let command = ["sh", "-c", "sleep 2; exec nc -ll -p 8080 -e echo $VERSION"].map(str::to_owned).to_vec();
    let workload = Container { command, probe: Some(Probe::Tcp { port: 8080 }), broker: None };
    let mut spec = spec(instance, image("busybox"), Workload::Container(workload));
    spec.env = [("VERSION".to_owned(), version.to_owned())].into();
    spec
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_a_new_version_is_healthy_before_the_old_one_goes() {
    let mut host = Host::start().await;
    let asking = "while :; do nc -w 1 web 8080 || echo DOWN; sleep 0.1; done";
    let command = ["sh", "-c", asking].map(str::to_owned).to_vec();
    let visitor = || {
        spec(
            "visitor",
            image("busybox"),
            Workload::Container(Container { command: command.clone(), probe: None, broker: None }),
        )
    };
    host.want(vec![server("web", "one")]).await;
    host.until_running("web").await;
    let first = host.until_running("web").await.container_id.expect("it runs");
    host.want(vec![server("web", "one"), visitor()]).await;
    host.until_running("visitor").await;
    host.want(vec![server("web", "two"), visitor()]).await;
    host.until("web", "replaced", |i| i.sync == Sync::UpToDate && i.container_id.as_ref() != Some(&first)).await;
    let there = || docker(&["ps", "-aq", "--no-trunc", "--filter", &format!("id={first}")]);
    eventually("the old container goes", || there().is_empty()).await;
    let heard = || docker(&["logs", &host.container("visitor")]);
    // Everybody has answered the last question once a "two" follows the old one's end.
    let said = heard().lines().count();
    eventually("somebody answers", || heard().lines().count() >= said + 5).await;
    let heard = heard();
    assert!(heard.lines().last() == Some("two"), "the visitor still hears the old one: {heard}");
    let longest = heard.split('\n').fold((0, 0), |(run, longest), line| {
        let run = if line == "DOWN" { run + 1 } else { 0 };
        (run, longest.max(run))
    });
    // A visitor may meet the old one in the moment in which it ends, not for longer.
    assert!(longest.1 <= 2, "nobody answered {} times in a row:\n{heard}", longest.1);
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_what_does_not_become_healthy_goes_back_by_itself() {
    let mut host = Host::start().await;
    let with_data = |command: &str, nonce: &str| {
        let command = ["sh", "-c", command].map(str::to_owned).to_vec();
        let mut spec =
            spec("data", image("busybox"), Workload::Container(Container { command, probe: None, broker: None }));
        spec.volumes = vec![redforge_shared::desired::Volume { name: name("keep"), path: "/keep".into() }];
        spec.restart_nonce = nonce.into();
        spec
    };
    let good = "trap 'exit 0' TERM; while :; do sleep 1; done";
    host.want(vec![with_data(good, ""), server("web", "one")]).await;
    host.until_running("data").await;
    host.until_running("web").await;
    // What worked is what has worked for a while.
    let began = std::time::Instant::now();
    while host.ledger.memory_all("last_good").await.expect("the ledger answers").len() < 2 {
        assert!(began.elapsed() < DEADLINE, "nothing is remembered as good");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let web = host.run_of("web");
    let mut deaf = server("web", "two");
    deaf.workload = match deaf.workload {
        Workload::Container(c) => Workload::Container(Container { probe: Some(Probe::Tcp { port: 9 }), ..c }),
        other => other,
    };
    host.want(vec![with_data("exit 7", ""), deaf]).await;
    let back = |i: &InstanceStatus| i.sync == Sync::RolledBack;
    let status = host.until("data", "back", back).await;
    assert_eq!((status.phase, status.health), (Phase::Running, Health::Healthy));
    assert_eq!((status.reason, status.names), (Some(Reason::ContainerExited), vec![image("busybox")]));
    let status = host.until("web", "back", back).await;
    assert_eq!((status.health, status.reason), (Health::Healthy, Some(Reason::ProbeFailed)));
    assert_eq!(host.run_of("web"), web, "the one that served was touched");
    // A new process does not try it again; a changed nonce does.
    let data = host.run_of("data");
    host.restart_agent(None).await;
    host.until("data", "still back", back).await;
    assert_eq!(host.run_of("data"), data);
    host.want(vec![with_data(good, "again"), server("web", "one")]).await;
    host.until_running("data").await;
    host.until_running("web").await;
    assert_eq!(host.run_of("web"), web);
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_a_container_that_ends_again_and_again_is_crashed_with_its_last_exit_code() {
    let mut host = Host::start().await;
    let command = ["sh", "-c", "sleep 0.3; exit 7"].map(str::to_owned).to_vec();
    host.want(vec![spec(
        "loop",
        image("busybox"),
        Workload::Container(Container { command, probe: None, broker: None }),
    )])
    .await;
    let crashed = |i: &InstanceStatus| i.phase == Phase::Crashed && i.exit_code == Some(7) && i.restarts >= 1;
    let status = host.until("loop", "crashed", crashed).await;
    assert_eq!((status.health, status.reason), (Health::Error, Some(Reason::ContainerExited)));
    // Until the engine has brought it back twice more it is never said to run.
    let mut seen = host.status.clone();
    let watching = async {
        loop {
            seen.changed().await.expect("the reconciler runs");
            let i = seen.borrow_and_update().instances[0].clone();
            assert_eq!((i.phase, i.health, i.exit_code), (Phase::Crashed, Health::Error, Some(7)), "{i:?}");
            if i.restarts >= status.restarts + 2 {
                return;
            }
        }
    };
    tokio::time::timeout(DEADLINE, watching).await.expect("in time");
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_one_slow_stop_holds_up_no_other() {
    let mut host = Host::start().await;
    let stubborn = |nonce: &str| {
        let command = ["sh", "-c", "trap '' TERM; while :; do sleep 1; done"].map(str::to_owned).to_vec();
        let mut spec =
            spec("stubborn", image("busybox"), Workload::Container(Container { command, probe: None, broker: None }));
        spec.volumes = vec![redforge_shared::desired::Volume { name: name("keep"), path: "/keep".into() }];
        spec.restart_nonce = nonce.into();
        spec
    };
    host.want(vec![stubborn(""), sleeper("other")]).await;
    host.until_running("stubborn").await;
    host.until_running("other").await;
    let before = host.run_of("stubborn");
    host.want(vec![stubborn("1"), sleeper("other"), sleeper("third")]).await;
    host.until_running("third").await;
    assert_eq!(host.run_of("stubborn"), before, "the third came only after the stubborn one had ended");
    host.until("stubborn", "new", |i| i.phase == Phase::Running && host_run(&i.container_id) != before).await;
}
