//! A host that is in every state at once: enrolls by hand at a real hub, reports one instance for each state that an
//! operator may meet, pushes a draft, and stays Online until it is ended. For those who look at what operators are shown;
//! that agents come into these states is other stories' to prove.
use anyhow::{Context, Result};
use clap::Parser;
use redforge_shared::{
    clock::{Clock, SystemClock},
    flows::Flows,
    wire::{pb, timestamp},
};
use redforge_tests::handmade::{Session, config, enroll, push_draft};
use std::path::PathBuf;
use time::{Duration, OffsetDateTime};

#[derive(Parser)]
#[command(name = "redforge-narrator", about = "Reports one instance for each state that an operator may meet")]
struct Args {
    /// Port of the agents' door on this machine.
    #[arg(long)]
    port: u16,
    /// The hub's root.pem.
    #[arg(long)]
    root: PathBuf,
    /// Enrolment token.
    #[arg(long)]
    token: String,
    /// The host's name.
    #[arg(long)]
    name: String,
    /// Flows of the flow set that the instance `adopting` runs; the draft has one node more.
    #[arg(long)]
    flows: PathBuf,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args = Args::parse();
    let identity = enroll(args.port, &args.root, args.token, &args.name).await;
    let tls = config(&args.root, Some(identity));
    println!("enrolled");
    // The instances are made once the host is there: what it shall run comes when somebody says so.
    std::io::stdin().read_line(&mut String::new())?;
    let export = std::fs::read(&args.flows).context("the flows")?;
    let (base, _) = Flows::parse(&export).context("the flows")?;
    let mut edited: Vec<serde_json::Value> = serde_json::from_slice(&export)?;
    let tab = edited.iter().find(|n| n["type"] == "tab").context("a tab")?["id"].clone();
    edited.push(
        serde_json::json!({"id": "5eed5eed5eed5eed", "type": "debug", "z": tab, "x": 100, "y": 400, "wires": []}),
    );
    let (edited, _) = Flows::from_value(edited.into()).context("the edited flows")?;
    let number = push_draft(args.port, tls.clone(), "adopting", (&base, &edited)).await.context("the draft")?;
    let mut session = Session::open(args.port, tls).await.context("the session")?;
    session.report(SystemClock.now(), states(SystemClock.now())).await;
    println!("told, draft {number}");
    session.beat().await.context("the session ended")
}

fn status(name: &str, phase: pb::Phase, health: pb::Health, sync: pb::Sync, at: OffsetDateTime) -> pb::InstanceStatus {
    pb::InstanceStatus {
        name: name.into(),
        kind: if name == "adopting" || name == "edited" || name == "safe" { "node-red" } else { "container" }.into(),
        phase: phase.into(),
        health: health.into(),
        sync: sync.into(),
        changed_at: Some(timestamp(at)),
        replicas_ready: 1,
        replicas_desired: 1,
        replicas_total: 1,
        ..Default::default()
    }
}

fn finding(
    check: pb::PreflightCheck,
    verdict: pb::PreflightVerdict,
    n: [u64; 2],
    names: &[&str],
) -> pb::PreflightFinding {
    pb::PreflightFinding {
        check: check.into(),
        verdict: verdict.into(),
        needed: Some(n[0]),
        available: Some(n[1]),
        names: names.iter().map(|n| (*n).to_owned()).collect(),
    }
}

/// One instance a state, in the order of their names.
fn states(now: OffsetDateTime) -> Vec<pb::InstanceStatus> {
    use pb::{Health as H, Phase as P, PreflightCheck as C, PreflightVerdict as V, StatusReason as R, Sync as S};
    let of = |name, phase, health, sync| status(name, phase, health, sync, now - Duration::minutes(3));
    let fits = pb::Preflight {
        verdict: V::Fits.into(),
        findings: vec![
            finding(C::Disk, V::Fits, [60 << 20, 12 << 30], &[]),
            finding(C::Memory, V::Fits, [256 << 20, 3 << 30], &[]),
            finding(C::Port, V::Fits, [8080, 0], &["tcp"]),
        ],
    };
    let refused = pb::Preflight {
        verdict: V::Refused.into(),
        findings: vec![
            finding(C::Disk, V::FitsAfterCleanUp, [6 << 30, 4 << 30], &[]),
            finding(C::Memory, V::Refused, [8 << 30, 2 << 30], &[]),
            finding(C::Port, V::Refused, [1883, 0], &["tcp", "broker"]),
        ],
    };
    let pull = |done, total| pb::Progress { what: "redforge.local/web:2".into(), done_bytes: done, total_bytes: total };
    let hold = pb::Hold {
        by: "anna".into(),
        reason: "<b>belt</b> is open".into(),
        since: Some(timestamp(now)),
        until: Some(timestamp(now + Duration::hours(30))),
        whole_host: false,
    };
    let scaled = pb::ScaleStatus {
        replicas: 3,
        metric: pb::ScaleMetric::Cpu.into(),
        measured: Some(900),
        target: 70,
        limit: pb::ScaleLimit::Maximum.into(),
    };
    let mut all = vec![
        of("adopting", P::Running, H::Healthy, S::Drifted),
        of("edited", P::Running, H::Healthy, S::Drifted),
        of("fetching", P::Pulling, H::Unknown, S::Updating),
        of("fetching-unsized", P::Pulling, H::Unknown, S::Updating),
        of("fits", P::Running, H::Healthy, S::UpToDate),
        of("held", P::Running, H::Healthy, S::Paused),
        of("looping", P::Crashed, H::Error, S::UpToDate),
        of("refused", P::Pending, H::Unknown, S::Failed),
        of("rolled-back", P::Running, H::Healthy, S::RolledBack),
        of("safe", P::Safe, H::Degraded, S::Updating),
        of("scaled", P::Running, H::Degraded, S::UpToDate),
        of("stopped", P::Stopped, H::Unknown, S::UpToDate),
    ];
    for s in &mut all {
        let (reason, names): (_, &[&str]) = match s.name.as_str() {
            "adopting" => (R::Edited, &["flows"]),
            "edited" => (R::Edited, &["flows", "credentials", "settings"]),
            "held" => (R::Held, &[]),
            "looping" => (R::OutOfMemory, &[]),
            "refused" => (R::PreflightRefused, &[]),
            "rolled-back" => (R::DeadlineExceeded, &["redforge.local/web:2"]),
            "safe" => (R::FlowsStopped, &[]),
            "stopped" => (R::Suspended, &[]),
            _ => (R::Unspecified, &[]),
        };
        (s.reason, s.names) = (reason.into(), names.iter().map(|n| (*n).to_owned()).collect());
        match s.name.as_str() {
            "fetching" => s.progress = Some(pull(117 << 20, 274 << 20)),
            "fetching-unsized" => s.progress = Some(pull(117 << 20, 0)),
            "fits" => s.preflight = Some(fits.clone()),
            "held" => s.hold = Some(hold.clone()),
            "looping" => {
                (s.exit_code, s.restarts) = (137, 4);
                s.next_start_at = Some(timestamp(now + Duration::minutes(5)));
            }
            "refused" => s.preflight = Some(refused.clone()),
            "rolled-back" => s.late = pb::ChangeStep::Healthy.into(),
            "scaled" => {
                (s.replicas_ready, s.replicas_desired, s.replicas_total) = (2, 3, 3);
                s.scaled = Some(scaled);
            }
            _ => {}
        }
    }
    all
}
