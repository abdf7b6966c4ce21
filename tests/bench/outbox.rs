//! P1 and P2: durable enqueue at the edge beside SQLite alone, with the same pragmas, columns and batches.
use crate::{
    ground::Ground,
    report::{Goal, Report, Subject},
    rounds::{Rounds, cpu_s},
};
use anyhow::ensure;
use redforge_edge::{
    db::outbox::{Appended, Limits, Outbox},
    privacy::{Gate, RawRecord, Released},
};
use redforge_shared::{
    clock::{Clock as _, SystemClock},
    policy::Policy,
    record::{Body, Event},
};
use serde_json::json;
use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::task::JoinSet;

const BATCH: usize = 1_000;
const BYTES: usize = 1_024;
const CALLERS: usize = 64;

const PROFILE: &str = "release";

/// A released record of exactly `bytes` bytes.
fn record(bytes: usize) -> anyhow::Result<Released> {
    let gate = Gate::new(Policy::Open);
    let release = |pad: usize| {
        let payload_json = format!("{{\"pad\":\"{}\"}}", "x".repeat(pad));
        let body = Body::Event(Event { name: "cycle".into(), payload_json });
        gate.release(RawRecord { at: SystemClock.now(), instance: None, key: None, repeat_of: None, body })
    };
    let overhead = release(bytes - 100)?.sealed().len() - (bytes - 100);
    let record = release(bytes - overhead)?;
    ensure!(record.sealed().len() == bytes, "a record of {} bytes instead of {bytes}", record.sealed().len());
    Ok(record)
}

async fn open(dir: &Path) -> anyhow::Result<Outbox> {
    Ok(Outbox::open(&dir.join("outbox.db"), Limits::default(), Arc::new(SystemClock)).await?)
}

/// Rows a second of two callers that append batch after batch: while one is answered the other is served.
async fn batches(dir: &Path, record: &Released, slot: Duration) -> anyhow::Result<f64> {
    let outbox = open(dir).await?;
    let batch = vec![record.clone(); BATCH];
    let begun = Instant::now();
    let caller = async || {
        let mut rows = 0;
        while begun.elapsed() < slot {
            rows += outbox.append(batch.clone(), None).await?.len();
        }
        anyhow::Ok(rows)
    };
    let (one, other) = tokio::try_join!(caller(), caller())?;
    let rate = (one + other) as f64 / begun.elapsed().as_secs_f64();
    outbox.close().await;
    Ok(rate)
}

/// Rows a second of many callers that append one record at a time, and the milliseconds that 99 of 100 did not exceed.
async fn singles(dir: &Path, record: &Released, slot: Duration) -> anyhow::Result<(f64, f64)> {
    let outbox = open(dir).await?;
    let begun = Instant::now();
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let (outbox, record) = (outbox.clone(), record.clone());
        callers.spawn(async move {
            let mut took = Vec::new();
            while begun.elapsed() < slot {
                let called = Instant::now();
                let done = outbox.append(vec![record.clone()], None).await?;
                ensure!(matches!(done[..], [Appended::New(_)]), "not stored: {done:?}");
                took.push(called.elapsed().as_secs_f64() * 1e3);
            }
            Ok(took)
        });
    }
    let mut took = Vec::new();
    while let Some(ended) = callers.join_next().await {
        took.extend(ended??);
    }
    let rate = took.len() as f64 / begun.elapsed().as_secs_f64();
    outbox.close().await;
    took.sort_by(f64::total_cmp);
    Ok((rate, took[took.len() * 99 / 100]))
}

/// Measures P1 and P2.
pub async fn measure(ground: &mut Ground, report: &mut Report) -> anyhow::Result<()> {
    let record = record(BYTES)?;
    let slot = Duration::from_secs_f64(ground.slot_s());
    let rounds = Rounds::take(ground, true, async |ground, _| {
        let question = |batch: usize, dir: &Path| {
            json!({"ask": "sqlite", "dir": dir, "batch": batch, "bytes": BYTES, "seconds": slot.as_secs_f64()})
        };
        let limit = ground.fresh("limit")?;
        let (own, yard) = (std::process::id(), ground.yard.pid());
        let before = cpu_s(yard);
        let raw = ground.yard.number(&question(BATCH, &limit), "per_s")?;
        let raw_cpu = (cpu_s(yard) - before) * 1e6 / (raw * slot.as_secs_f64());
        let dir = ground.fresh("outbox")?;
        let before = cpu_s(own);
        let ours = batches(&dir, &record, slot).await?;
        let ours_cpu = (cpu_s(own) - before) * 1e6 / (ours * slot.as_secs_f64());
        let raw_100 = ground.yard.ask(&question(100, &limit))?;
        let (single, p99) = singles(&ground.fresh("outbox")?, &record, slot).await?;
        let raw_1 = ground.yard.number(&question(1, &limit), "per_s")?;
        Ok(vec![
            ("raw_1000", raw),
            ("append_1000", ours),
            ("raw_cpu", raw_cpu),
            ("append_cpu", ours_cpu),
            ("raw_100", raw_100["per_s"].as_f64().unwrap_or(0.0)),
            ("raw_100_p99_ms", raw_100["p99_ms"].as_f64().unwrap_or(0.0)),
            ("raw_1", raw_1),
            ("append_64x1", single),
            ("append_64x1_p99_ms", p99),
        ])
    })
    .await?;
    told(report, &rounds);
    Ok(())
}

/// What the rounds say, goal by goal.
fn told(report: &mut Report, rounds: &Rounds) {
    let subject = |id, what, unit, value, limit, goal| Subject {
        id,
        what,
        unit,
        value,
        limit,
        goal,
        sync_bound: true,
        profile: PROFILE,
        peer: "",
    };
    for s in [
        subject(
            "P1",
            "durable enqueue, 1,000 x 1 KiB a call, FULL",
            "rows/s",
            "append_1000",
            "raw_1000",
            Goal::RatioAtLeast(0.85),
        ),
        subject(
            "P1-cpu",
            "the same, CPU a row, which other work does not change",
            "us",
            "append_cpu",
            "raw_cpu",
            Goal::Told,
        ),
        subject(
            "P2",
            "64 callers, a row each, acked after fsync; raw batch 100",
            "rows/s",
            "append_64x1",
            "raw_100",
            Goal::RatioAtLeast(0.6),
        ),
        subject("P2-single", "the same beside raw batch 1", "rows/s", "append_64x1", "raw_1", Goal::RatioAtLeast(10.0)),
        subject(
            "P2-p99",
            "the same, p99 beside a raw commit of 100",
            "ms",
            "append_64x1_p99_ms",
            "raw_100_p99_ms",
            Goal::RatioAtMost(3.0),
        ),
    ] {
        report.add(&s, rounds);
    }
}
