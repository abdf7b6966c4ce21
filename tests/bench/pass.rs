//! A reconcile pass that finds everything as it shall be, beside the engine calls alone that such a pass must make:
//! whoever may not remember what it wrote has to read it.
use crate::{
    ground::Ground,
    report::{Goal, Report, Subject},
    rounds::{Rounds, median},
};
use anyhow::{Context as _, ensure};
use redforge_edge::{
    db::ledger::Ledger,
    reconcile::{Deps, Pace, Reconciler, deadlines::Deadlines, preflight::Limits},
    runtime::docker::Docker,
    workload::mosquitto::LIVE_PATH,
};
use redforge_shared::{
    clock::SystemClock,
    desired::{Container, DesiredState, InstanceSpec, Mosquitto, SCHEMA, Workload},
    ids::HostId,
    policy::Policy,
    report::Phase,
};
use redforge_tests::engine;
use serde_json::json;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

pub const SOCKET: &str = "/var/run/docker.sock";

/// Removes what the host had, whatever happened.
struct Gone(String);

impl Drop for Gone {
    fn drop(&mut self) {
        engine::remove_all(&self.0);
    }
}

fn spec(name: &str, kind: &str, workload: Workload) -> anyhow::Result<InstanceSpec> {
    Ok(InstanceSpec::bare(name.parse()?, engine::image(kind), workload))
}

/// A broker and so many containers.
fn desired(host: HostId, sleepers: usize) -> anyhow::Result<DesiredState> {
    let sleeper = |n: usize| {
        let command = vec!["sleep".into(), "100000".into()];
        spec(&format!("a{n:02}"), "busybox", Workload::Container(Container { command, probe: None, broker: None }))
    };
    let mut instances = (0..sleepers).map(sleeper).collect::<anyhow::Result<Vec<_>>>()?;
    instances.push(spec("broker", "mosquitto", Workload::Mosquitto(Mosquitto::default()))?);
    Ok(DesiredState {
        schema: SCHEMA,
        host,
        host_name: "bench".parse()?,
        site: "bench".parse()?,
        policy: Policy::Open,
        instances,
    })
}

/// Measures a pass without work, on a small host and on a full one.
pub async fn measure(ground: &mut Ground, report: &mut Report) -> anyhow::Result<()> {
    let sizes = [
        (2, "NOOP", "reconcile pass without work, 3 instances; engine calls"),
        (49, "NOOP-50", "reconcile pass without work, 50 instances; engine calls"),
    ];
    for (sleepers, id, what) in sizes {
        let rounds = passes(ground, sleepers).await?;
        let subject = Subject {
            id,
            what,
            unit: "ms",
            value: "pass",
            limit: "raw",
            goal: Goal::RatioAtMost(2.0),
            sync_bound: false,
            profile: "release",
            peer: "",
        };
        report.add(&subject, &rounds);
    }
    Ok(())
}

async fn passes(ground: &mut Ground, sleepers: usize) -> anyhow::Result<Rounds> {
    let dir = ground.fresh(&format!("pass-{sleepers}"))?;
    let all = sleepers + 1;
    let host = HostId(uuid::Uuid::now_v7());
    let _gone = Gone(host.to_string());
    let ledger = Ledger::open(&dir.join("ledger.db")).await?;
    let canonical = desired(host, sleepers)?.canonical()?;
    ledger.accept(1, canonical.bytes.into(), canonical.sha256).await?;
    let mut reconciler = Reconciler::new(Deps {
        ledger,
        runtime: Arc::new(Docker::new(SOCKET)),
        blobs: dir.join("blobs"),
        clock: Arc::new(SystemClock),
        host,
        pool: "10.231.64.0/18".parse().context("the pool")?,
        subnet: None,
        deadlines: Deadlines::default(),
        limits: Limits::default(),
        gateway_port: 7462,
        brokers_heard: None,
        capacity: None,
        clean_up: redforge_edge::reconcile::clean_up::CleanUp {
            enabled: true,
            min_age: std::time::Duration::from_secs(86_400),
            keep_data: None,
        },
        disk_full: None,
        registries: std::sync::Arc::default(),
        queues_heard: None,
    });
    let status = reconciler.status();
    let deadline = Instant::now() + Duration::from_secs(240);
    loop {
        let settled = reconciler.pass().await == Pace::Settled;
        let running = |s: &redforge_shared::report::HostStatus| {
            s.instances.len() == all && s.instances.iter().all(|i| i.phase == Phase::Running)
        };
        if settled && running(&status.borrow()) {
            break;
        }
        ensure!(Instant::now() < deadline, "the host does not settle: {:?}", status.borrow().instances);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let times = if ground.quick { 5 } else { 25 };
    Rounds::take(ground, false, async |ground, _| {
        let label = format!("redforge.host={host}");
        let raw = ground
            .yard
            .ask(&json!({"ask": "observe", "socket": SOCKET, "label": label, "path": LIVE_PATH, "times": times}))?;
        ensure!(raw["containers"] == all && raw["read"] == 1, "the limit program saw something else: {raw}");
        let mut took = Vec::new();
        for _ in 0..times {
            let begun = Instant::now();
            let pace = reconciler.pass().await;
            took.push(begun.elapsed().as_secs_f64() * 1e3);
            ensure!(pace == Pace::Settled, "a pass had work to do: {pace:?}");
        }
        Ok(vec![("raw", raw["p50_ms"].as_f64().context("no limit")?), ("pass", median(took))])
    })
    .await
}
