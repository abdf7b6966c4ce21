//! How long a service is gone when its new version never gets healthy, beyond the deadline that it is given: from the last
//! answer of the old version to the first one after it was brought back. Beside it: the engine alone makes and starts such a
//! container and is asked until it answers; the least that bringing it back can cost.
//!
//! The worst case is measured: the service publishes a port, so that old and new cannot stand side by side.
use crate::{
    ground::Ground,
    pass::SOCKET,
    report::{Goal, Report, Subject},
    rounds::Rounds,
};
use anyhow::{Context as _, ensure};
use redforge_shared::wire::pb;
use redforge_tests::{agent::TestAgent, engine, operator::Operator, place::free_port};
use serde_json::json;
use std::time::{Duration, Instant};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

const HOST: &str = "revert";
/// What the agent gives a new version.
const DEADLINE_S: u64 = 10;
/// How long the good version runs before it is replaced.
const TRUSTED: Duration = Duration::from_secs(15);
const PATIENCE: Duration = Duration::from_secs(120);

/// The service's command.
const SERVE: [&str; 3] = ["sh", "-c", "echo ok > /tmp/index.html; exec httpd -f -p 8080 -h /tmp"];

/// The service: it answers, or is a version of this number that does not.
fn manifest(port: u16, broken: Option<usize>) -> String {
    let command = match broken {
        None => json!(SERVE),
        Some(n) => json!(["sh", "-c", format!("trap 'exit 0' TERM; sleep {} & wait", 100_000 + n)]),
    };
    format!(
        "apiVersion: redforge.io/v1\nkind: Instance\nmetadata:\n  name: web\nspec:\n  host: {HOST}\n  kind: container\n  \
         image: {}\n  ports:\n    - {{container: 8080, host: {port}, address: 127.0.0.1}}\n  container:\n    \
         command: {command}\n    probe: {{http: {{port: 8080, path: /}}}}\n",
        engine::image("busybox")
    )
}

async fn answers(port: u16) -> bool {
    let ask = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        std::io::Result::Ok(text.contains("200 OK"))
    };
    matches!(tokio::time::timeout(Duration::from_millis(200), ask).await, Ok(Ok(true)))
}

/// Waits until it answers, or does not; gives the moment.
async fn until(port: u16, answer: bool) -> anyhow::Result<Instant> {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        if answers(port).await == answer {
            return Ok(Instant::now());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    anyhow::bail!("{} after {} s", if answer { "no answer" } else { "it still answers" }, PATIENCE.as_secs())
}

/// Seconds without an answer while a version that never works is tried and taken back.
async fn outage(operator: &mut Operator, port: u16, n: usize) -> anyhow::Result<f64> {
    // Only a version that stayed up for ten seconds is one to go back to.
    tokio::time::sleep(TRUSTED).await;
    operator.apply(&manifest(port, Some(n))).await;
    let gone = until(port, false).await?;
    let back = until(port, true).await?;
    let status =
        operator.instance_when(HOST, "web", "the revert is reported", |s| s.sync() == pb::Sync::RolledBack).await;
    ensure!(status.health() == pb::Health::Healthy, "{status:?}");
    // The next round begins with a version that nobody refused.
    operator.apply(&manifest(port, None)).await;
    operator.instance_when(HOST, "web", "the good version is wanted again", |s| s.sync() == pb::Sync::UpToDate).await;
    Ok((back - gone).as_secs_f64())
}

/// Measures reverts.
pub async fn measure(ground: &mut Ground, report: &mut Report) -> anyhow::Result<()> {
    let mut operator = ground.hub().await.operator().await;
    let mut agent = TestAgent::prepare(HOST);
    agent.env.push(("REDFORGE_EDGE__RUNTIME__START_DEADLINE_S".into(), DEADLINE_S.to_string()));
    agent.enroll_at(ground.hub().await).await;
    agent.up().await;
    let port = free_port();
    operator.apply(&manifest(port, None)).await;
    operator.running(HOST, "web").await;
    let rounds = Rounds::take(ground, false, async |ground, n| {
        let question = json!({"ask": "container", "socket": SOCKET, "image": engine::image("busybox"), "port": 8080, "command": SERVE});
        let raw = ground.yard.number(&question, "seconds").context("no limit")?;
        let whole = outage(&mut operator, port, n).await?;
        Ok(vec![("raw", raw), ("outage", whole), ("beyond", whole - DEADLINE_S as f64)])
    })
    .await?;
    for (id, what, value, limit) in [
        ("REVERT", "outage of a revert beyond its deadline of 10 s; engine", "beyond", "raw"),
        ("REVERT-all", "outage of a revert, its deadline of 10 s included", "outage", ""),
    ] {
        report.add(
            &Subject {
                id,
                what,
                unit: "s",
                value,
                limit,
                goal: Goal::Told,
                sync_bound: false,
                profile: "agent release-small, hub release",
                peer: "",
            },
            &rounds,
        );
    }
    Ok(())
}
