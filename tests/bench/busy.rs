//! An agent with ten containers that do nothing: its memory, its CPU, and what it writes to disk in an hour without work.
use crate::{
    footprint::{CONNECTED, Running, agent_command},
    ground::Ground,
    report::{Goal, Report, Subject},
    rounds::Rounds,
};
use redforge_tests::{agent::TestAgent, engine};
use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

const HOST: &str = "busy";
const CONTAINERS: usize = 10;
const HOUR_S: f64 = 3600.0;

/// Measures the agent in windows of idleness.
pub async fn measure(ground: &mut Ground, report: &mut Report) -> anyhow::Result<()> {
    let mut operator = ground.hub().await.operator().await;
    let mut agent = TestAgent::start(ground.hub().await, HOST).await;
    let mut manifests = String::new();
    for n in 0..CONTAINERS {
        write!(
            manifests,
            "---\napiVersion: redforge.io/v1\nkind: Instance\nmetadata:\n  name: a{n}\nspec:\n  host: {HOST}\n  kind: container\n  \
             image: {}\n  container:\n    command: [sleep, \"100000\"]\n",
            engine::image("busybox")
        )?;
    }
    operator.apply(&manifests).await;
    for n in 0..CONTAINERS {
        operator.running(HOST, &format!("a{n}")).await;
    }
    // Again as it ships and alone: what making them cost does not count.
    agent.stop().await;
    let (running, _) = Running::start(agent_command(&agent), CONNECTED)?;
    let (settle, window) = if ground.quick { (5, 15) } else { (15, 60) };
    tokio::time::sleep(Duration::from_secs(settle)).await;
    let rounds = Rounds::take(ground, false, async |_, _| {
        let (begun, cpu, written) = (Instant::now(), running.cpu_s()?, running.written()?);
        tokio::time::sleep(Duration::from_secs(window)).await;
        let seconds = begun.elapsed().as_secs_f64();
        Ok(vec![
            ("rss", running.memory("Rss")?),
            ("cpu", (running.cpu_s()? - cpu) / seconds * 100.0),
            ("written", (running.written()? - written) / seconds * HOUR_S / f64::from(1 << 20)),
        ])
    })
    .await?;
    for (id, what, unit, value) in [
        ("P7-10", "idle agent with 10 containers, RSS", "MiB", "rss"),
        ("P8-10", "idle agent with 10 containers, CPU of a core", "%", "cpu"),
        ("WRITES", "idle agent with 10 containers, disk writes an hour", "MiB", "written"),
    ] {
        report.add(
            &Subject {
                id,
                what,
                unit,
                value,
                limit: "",
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
