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
    reconcile::{Deps, Pace, Reconciler},
    runtime::docker::Docker,
    workload::mosquitto::LIVE_PATH,
};
use redforge_shared::{
    clock::SystemClock,
    desired::{Container, DesiredState, InstanceSpec, Mosquitto, Resources, SCHEMA, Workload},
    ids::HostId,
    policy::Policy,
    report::Phase,
};
use redforge_tests::engine;
use serde_json::json;
use std::{
    collections::BTreeMap,
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
    Ok(InstanceSpec {
        name: name.parse()?,
        image: engine::image(kind),
        workload,
        env: BTreeMap::new(),
        resources: Resources::default(),
        volumes: vec![],
        ports: vec![],
        egress: false,
        restart_nonce: String::new(),
        suspend: false,
        collect_logs: false,
    })
}

/// A broker and two containers.
fn desired(host: HostId) -> anyhow::Result<DesiredState> {
    let sleeper = || Container { command: vec!["sleep".into(), "100000".into()], probe: None };
    Ok(DesiredState {
        schema: SCHEMA,
        host,
        host_name: "bench".parse()?,
        site: "bench".parse()?,
        policy: Policy::Open,
        instances: vec![
            spec("a", "busybox", Workload::Container(sleeper()))?,
            spec("b", "busybox", Workload::Container(sleeper()))?,
            spec("broker", "mosquitto", Workload::Mosquitto(Mosquitto::default()))?,
        ],
    })
}

/// Measures a pass without work.
pub async fn measure(ground: &mut Ground, report: &mut Report) -> anyhow::Result<()> {
    let dir = ground.fresh("pass")?;
    let host = HostId(uuid::Uuid::now_v7());
    let _gone = Gone(host.to_string());
    let ledger = Ledger::open(&dir.join("ledger.db")).await?;
    let canonical = desired(host)?.canonical()?;
    ledger.accept(1, canonical.bytes.into(), canonical.sha256).await?;
    let mut reconciler = Reconciler::new(Deps {
        ledger,
        runtime: Arc::new(Docker::new(SOCKET)),
        blobs: dir.join("blobs"),
        clock: Arc::new(SystemClock),
        host,
        pool: "10.231.64.0/18".parse().context("the pool")?,
        subnet: None,
        start_deadline: Duration::from_secs(120),
        brokers_heard: None,
    });
    let status = reconciler.status();
    let deadline = Instant::now() + Duration::from_secs(90);
    loop {
        let settled = reconciler.pass().await == Pace::Settled;
        let running = |s: &redforge_shared::report::HostStatus| {
            s.instances.len() == 3 && s.instances.iter().all(|i| i.phase == Phase::Running)
        };
        if settled && running(&status.borrow()) {
            break;
        }
        ensure!(Instant::now() < deadline, "the host does not settle: {:?}", status.borrow().instances);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let times = if ground.quick { 5 } else { 25 };
    let rounds = Rounds::take(ground, false, async |ground, _| {
        let label = format!("redforge.host={host}");
        let raw = ground
            .yard
            .ask(&json!({"ask": "observe", "socket": SOCKET, "label": label, "path": LIVE_PATH, "times": times}))?;
        ensure!(raw["containers"] == 3 && raw["read"] == 1, "the limit program saw something else: {raw}");
        let mut took = Vec::new();
        for _ in 0..times {
            let begun = Instant::now();
            let pace = reconciler.pass().await;
            took.push(begun.elapsed().as_secs_f64() * 1e3);
            ensure!(pace == Pace::Settled, "a pass had work to do: {pace:?}");
        }
        Ok(vec![("raw", raw["p50_ms"].as_f64().context("no limit")?), ("pass", median(took))])
    })
    .await?;
    report.add(
        &Subject {
            id: "NOOP",
            what: "reconcile pass without work, 3 instances; engine calls",
            unit: "ms",
            value: "pass",
            limit: "raw",
            goal: Goal::RatioAtMost(2.0),
            sync_bound: false,
            profile: "release",
            peer: "",
        },
        &rounds,
    );
    Ok(())
}
