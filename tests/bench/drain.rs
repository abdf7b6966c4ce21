//! P5: four agents with full outboxes drain into one hub: SQLite, mutual TLS, COPY and commit, ack, mark, delete. Agents,
//! hub and PostgreSQL share this machine; raw COPY has it for itself in between.
use crate::{
    ground::{Ground, vector},
    report::{Goal, Report, Subject},
    rounds::Rounds,
};
use redforge_edge::{
    db::outbox::{Limits, Outbox},
    privacy::{Gate, RawRecord},
};
use redforge_shared::{
    clock::{Clock as _, SystemClock},
    policy::Policy,
};
use redforge_tests::{
    agent::TestAgent,
    wait::{eventually, when},
};
use serde_json::json;
use sqlx::{Executor as _, PgPool};
use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

const AGENTS: usize = 4;
/// Rows that a raw COPY of the same length of time commits at once.
const COPY_BATCH: usize = 1_000;
/// How often progress is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// Puts `rows` records of 3 KiB into the outbox of an agent that does not run.
async fn fill(state: &Path, rows: usize) -> anyhow::Result<()> {
    let outbox = Outbox::open(&state.join("outbox.db"), Limits::default(), Arc::new(SystemClock)).await?;
    let raw = RawRecord { at: SystemClock.now(), instance: None, key: None, repeat_of: None, body: vector() };
    let record = Gate::new(Policy::Open).release(raw)?;
    for _ in 0..rows / 1_000 {
        outbox.append(vec![record.clone(); 1_000], None).await?;
    }
    outbox.close().await;
    Ok(())
}

async fn committed(pool: &PgPool) -> anyhow::Result<i64> {
    Ok(sqlx::query_scalar(
        "SELECT coalesce(sum(upper(r) - lower(r)), 0)::bigint FROM stream s JOIN host h ON h.id = s.host_id, \
         unnest(s.committed) AS r WHERE h.name LIKE 'drain-%'",
    )
    .fetch_one(pool)
    .await?)
}

/// What the outbox's books and rows say: waiting for an ack, and still in the file.
fn held(agent: &TestAgent) -> (i64, i64) {
    let db = agent.outbox();
    let one = |sql: &str| db.query_row(sql, [], |r| r.get(0)).unwrap_or(i64::MAX);
    (one("SELECT coalesce(sum(waiting), 0) FROM stream"), one("SELECT count(*) FROM record"))
}

/// Rows a second from the first commit to the last ack marked.
async fn drain(agents: &mut [TestAgent], pool: &PgPool, rows: usize) -> anyhow::Result<f64> {
    for agent in &*agents {
        fill(agent.state(), rows).await?;
    }
    pool.execute("CHECKPOINT").await?;
    let before = committed(pool).await?;
    let all = before + (rows * agents.len()) as i64;
    agents.iter_mut().for_each(TestAgent::spawn);
    let mut first: Option<(Instant, i64)> = None;
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        let now = committed(pool).await?;
        if now > before && first.is_none() {
            first = Some((Instant::now(), now));
        }
        if now >= all && agents.iter().all(|a| held(a).0 == 0) {
            break;
        }
        anyhow::ensure!(Instant::now() < deadline, "{now} of {all} rows are committed after 120 s");
        tokio::time::sleep(LOOK).await;
    }
    let (begun, seen) = first.unwrap_or((Instant::now(), before));
    let rate = (all - seen) as f64 / begun.elapsed().as_secs_f64();
    // What was acked within the hub's window, here a second, is kept until the hub is heard after it.
    tokio::time::sleep(Duration::from_secs(2)).await;
    for agent in &mut *agents {
        agent.stop().await;
        agent.spawn();
    }
    for agent in &*agents {
        let emptied = format!("{} deletes what was acked", agent.name);
        eventually(&emptied, async || when(held(agent) == (0, 0), held(agent))).await;
    }
    for agent in &mut *agents {
        agent.stop().await;
    }
    pool.execute("TRUNCATE record_vector").await?;
    Ok(rate)
}

/// Measures P5.
pub async fn measure(ground: &mut Ground, report: &mut Report) -> anyhow::Result<()> {
    let pool = ground.hub().await.postgres.pool().await;
    let url = ground.hub().await.postgres.url();
    let mut agents = Vec::new();
    for n in 1..=AGENTS {
        let mut agent = TestAgent::prepare(&format!("drain-{n}")).without_docker();
        agent.enroll_at(ground.hub().await).await;
        agents.push(agent);
    }
    let rows = if ground.quick { 4_000 } else { 20_000 };
    let rounds = Rounds::take(ground, false, async |ground, _| {
        let slot = ground.slot_s();
        let question = json!({"ask": "copy", "url": url, "method": "copy", "batch": COPY_BATCH, "seconds": slot});
        let raw = ground.yard.number(&question, "per_s")?;
        let ours = drain(&mut agents, &pool, rows).await?;
        Ok(vec![("copy", raw), ("drain", ours)])
    })
    .await?;
    report.add(
        &Subject {
            id: "P5",
            what: "4 agents' outboxes to PostgreSQL and acked; raw COPY",
            unit: "rows/s",
            value: "drain",
            limit: "copy",
            goal: Goal::RatioAtLeast(0.5),
            sync_bound: false,
            profile: "agents release-small, hub release",
            peer: "",
        },
        &rounds,
    );
    Ok(())
}
