//! P4: the hub's ingest fed from memory beside binary COPY into a table with the same columns and primary key, in the same
//! cluster, with as many rows a commit. One host, one connection, batches as full as the wire lets them be.
use crate::{
    ground::{Ground, vector},
    report::{Goal, Report, Subject},
    rounds::{Rounds, cpu_of_family_s, cpu_s},
};
use anyhow::{bail, ensure};
use prost::Message as _;
use redforge_hub::{
    grpc::telemetry::{
        decoded::decode,
        ingest::{Answer, Ingest},
    },
    store::{DatabaseConfig, Store, hints::Hints},
};
use redforge_shared::{
    clock::{Clock as _, SystemClock},
    ids::HostId,
    record::{MAX_BATCH_BYTES, MAX_UNACKED_BATCHES, Record},
    wire::pb,
};
use serde_json::json;
use sqlx::{Executor as _, PgPool};
use std::{sync::Arc, time::Instant};
use tokio::sync::Semaphore;

/// A host's row, as enrolling would have made it.
pub async fn host(pool: &PgPool) -> anyhow::Result<HostId> {
    pool.execute(
        "INSERT INTO site (id, name, created_at) VALUES (gen_random_uuid(), 'bench', now()) ON CONFLICT DO NOTHING",
    )
    .await?;
    let id = sqlx::query_scalar(
        "INSERT INTO host (id, name, site_id, identity_key, sealing_key, enrolled_at, serial_current, \
         certificate_not_after) SELECT gen_random_uuid(), 'ingest', id, decode(repeat('01', 32), 'hex'), \
         decode(repeat('01', 32), 'hex'), now(), '\\x01', now() \
         FROM site WHERE name = 'bench' RETURNING id",
    )
    .fetch_one(pool)
    .await?;
    Ok(HostId(id))
}

/// Records of 3 KiB, as many as a batch may hold.
fn full_batch() -> Vec<bytes::Bytes> {
    let record = Record { at: SystemClock.now(), instance: "flows".parse().ok(), key: None, body: vector() };
    let sealed = bytes::Bytes::from(pb::SealedRecord::from(&record).encode_to_vec());
    // The link's frame costs a few bytes a record.
    vec![sealed.clone(); MAX_BATCH_BYTES / (sealed.len() + 8)]
}

/// Rows a second through the ingest into an empty landing table, and rows that one transaction landed on average.
async fn ingest(
    ground: &mut Ground,
    pool: &PgPool,
    host: HostId,
    epoch: u8,
    rows: &[bytes::Bytes],
) -> anyhow::Result<(f64, usize)> {
    let seconds = ground.slot_s();
    let url = ground.hub().await.postgres.url();
    let store = Store::open(&DatabaseConfig { url: url.clone(), direct_url: url, max_connections: 4 })?;
    pool.execute("TRUNCATE record_vector").await?;
    pool.execute("CHECKPOINT").await?;
    let ingest = Ingest::new(store.clone(), Arc::new(SystemClock), Hints::new());
    let stream = pb::StreamId { class: pb::RecordClass::Vector.into(), epoch: vec![epoch; 16].into() };
    // As the door does it: one job decodes ahead, one lands all that waits. As an agent does it: so many unacked at most.
    let (queue, mut queued) = tokio::sync::mpsc::channel(MAX_UNACKED_BATCHES);
    let unacked = Arc::new(Semaphore::new(MAX_UNACKED_BATCHES));
    let (mut decoders, begun) = (tokio::task::JoinSet::new(), Instant::now());
    let (records, window) = (rows.to_vec(), unacked.clone());
    decoders.spawn(async move {
        let mut first_seq = 1;
        while begun.elapsed().as_secs_f64() < seconds {
            window.acquire().await.expect("the window is never closed").forget();
            let batch = pb::Batch { stream: Some(stream.clone()), first_seq, records: records.clone(), live: false };
            first_seq += records.len() as u64;
            if queue.send(decode(host, batch)).await.is_err() {
                return;
            }
        }
    });
    let (mut next, mut transactions) = (1, 0);
    while let Some(first) = queued.recv().await {
        let mut run = first?;
        while let Ok(more) = queued.try_recv() {
            ensure!(run.join(more?).is_none(), "the batches do not follow one another");
        }
        transactions += 1;
        for answer in ingest.land(host, run).await? {
            let Answer::Ack(_) = answer else { bail!("the batch was not taken: {answer:?}") };
            next += rows.len() as u64;
            unacked.add_permits(1);
        }
    }
    let rate = (next - 1) as f64 / begun.elapsed().as_secs_f64();
    let landed: i64 = sqlx::query_scalar("SELECT count(*) FROM record_vector").fetch_one(pool).await?;
    ensure!(landed as u64 == next - 1, "{landed} rows landed of {}", next - 1);
    pool.execute("TRUNCATE record_vector").await?;
    store.close().await;
    Ok((rate, ((next - 1) as usize).checked_div(transactions).unwrap_or(0)))
}

/// Measures P4.
pub async fn measure(ground: &mut Ground, report: &mut Report) -> anyhow::Result<()> {
    let pool = ground.hub().await.postgres.pool().await;
    let url = ground.hub().await.postgres.url();
    let host = host(&pool).await?;
    let rows = full_batch();
    let server = ground.hub().await.postgres.pid();
    let rounds = Rounds::take(ground, false, async |ground, n| {
        let slot = ground.slot_s();
        let ask = |method: &str, batch: usize| {
            json!({"ask": "copy", "url": url, "method": method, "batch": batch, "seconds": slot})
        };
        // Client and server: what the database does for either side is part of what it costs.
        let used = |client: u32| cpu_s(client) + cpu_of_family_s(server);
        let before = used(std::process::id());
        let (ours, together) = ingest(ground, &pool, host, n as u8 + 1, &rows).await?;
        let ours_cpu = (used(std::process::id()) - before) * 1e6 / (ours * slot);
        // The limit commits as many rows at once as the ingest just did: else a sync would be weighed against several.
        let before = used(ground.yard.pid());
        let raw = ground.yard.number(&ask("copy", together), "per_s")?;
        let raw_cpu = (used(ground.yard.pid()) - before) * 1e6 / (raw * slot);
        let stage = ground.yard.number(&ask("stage", together), "per_s")?;
        let raw_batch = ground.yard.number(&ask("copy", rows.len()), "per_s")?;
        let raw_1000 = ground.yard.number(&ask("copy", 1_000), "per_s")?;
        Ok(vec![
            ("copy", raw),
            ("ingest", ours),
            ("together", together as f64),
            ("copy_cpu", raw_cpu),
            ("ingest_cpu", ours_cpu),
            ("stage", stage),
            ("copy_batch", raw_batch),
            ("copy_1000", raw_1000),
        ])
    })
    .await?;
    let subject = |id, what, limit, goal| Subject {
        id,
        what,
        unit: "rows/s",
        value: "ingest",
        limit,
        goal,
        sync_bound: false,
        profile: "release",
        peer: "",
    };
    let told = Subject {
        value: "ingest_cpu",
        unit: "us",
        ..subject("P4-cpu", "the same, CPU a row, client and server", "copy_cpu", Goal::Told)
    };
    let together = Subject {
        value: "together",
        unit: "rows",
        ..subject("P4-commit", "rows that the ingest landed in a transaction", "", Goal::Told)
    };
    for s in [
        told,
        together,
        subject("P4", "hub ingest, exactly once, 3 KiB rows; as large COPYs", "copy", Goal::RatioAtLeast(0.85)),
        subject("P4-batch", "the same beside raw COPY of one batch a commit", "copy_batch", Goal::Told),
        subject("P4-1000", "the same beside raw COPY of 1,000 rows a commit", "copy_1000", Goal::RatioAtLeast(0.85)),
        subject("P4-stage", "the same beside staging and ON CONFLICT", "stage", Goal::RatioAtLeast(1.5)),
    ] {
        report.add(&s, &rounds);
    }
    Ok(())
}
