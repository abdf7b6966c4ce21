//! The latest report of each host. An older one never replaces a newer one.
use super::{Act, Store, StoreError};
use redforge_shared::{
    ids::{Digest, HostId, RunId},
    record::RecordClass,
    report::{HostFacts, HostStatus},
};
use serde::{Deserialize, Serialize};
use sqlx::types::Json;
use time::OffsetDateTime;

/// A report that was checked.
#[derive(Clone, Debug)]
pub struct Report {
    pub start_no: u64,
    pub report_no: u64,
    pub status: HostStatus,
    pub facts: HostFacts,
    pub outbox: Vec<OutboxNumbers>,
    pub reported_at: OffsetDateTime,
}

/// One class of a host's outbox in numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutboxNumbers {
    pub class: RecordClass,
    pub waiting: u64,
    pub waiting_bytes: u64,
    pub refused: u64,
    pub absorbed: u64,
    pub lost: u64,
}

/// What became of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Saved {
    Yes,
    /// A later one is stored already.
    Older,
    /// Another process speaks for the host now, or the host is fenced.
    NotSpeaking,
}

impl Store {
    /// Stores a report of the process that speaks for the host.
    pub async fn save_report(
        &self,
        host: HostId,
        run_id: RunId,
        r: &Report,
        now: OffsetDateTime,
    ) -> Result<Saved, StoreError> {
        let act = "storing a report";
        let mut tx = self.pool.begin().await.act(act)?;
        // FOR SHARE: a takeover waits until this report is in, or this report sees the takeover.
        let speaks: Option<bool> =
            sqlx::query_scalar("SELECT run_id = $2 AND fenced_at IS NULL FROM host WHERE id = $1 FOR SHARE")
                .bind(host.0)
                .bind(&run_id.0[..])
                .fetch_optional(&mut *tx)
                .await
                .act(act)?
                .flatten();
        if speaks != Some(true) {
            return Ok(Saved::NotSpeaking);
        }
        let stored = sqlx::query(
            "INSERT INTO host_report (host_id, start_no, report_no, generation, spec_sha256, health, sync, reason, \
             names, instances, facts, outbox, reported_at, received_at, clean_up) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15) \
             ON CONFLICT (host_id) DO UPDATE SET start_no = excluded.start_no, report_no = excluded.report_no, \
             generation = excluded.generation, spec_sha256 = excluded.spec_sha256, health = excluded.health, \
             sync = excluded.sync, reason = excluded.reason, names = excluded.names, instances = excluded.instances, \
             facts = excluded.facts, outbox = excluded.outbox, reported_at = excluded.reported_at, \
             received_at = excluded.received_at, clean_up = excluded.clean_up \
             WHERE (host_report.start_no, host_report.report_no) < (excluded.start_no, excluded.report_no)",
        )
        .bind(host.0)
        .bind(r.start_no as i64)
        .bind(r.report_no as i64)
        .bind(r.status.generation as i64)
        .bind(r.status.spec_sha256.map(|d: Digest| d.0.to_vec()))
        .bind(r.status.health.as_str())
        .bind(r.status.sync.as_str())
        .bind(r.status.reason.map(|w| w.as_str()))
        .bind(Json(&r.status.names))
        .bind(Json(&r.status.instances))
        .bind(Json(&r.facts))
        .bind(Json(&r.outbox))
        .bind(r.reported_at)
        .bind(now)
        .bind(Json(&r.status.clean_up))
        .execute(&mut *tx)
        .await
        .act(act)?
        .rows_affected();
        tx.commit().await.act(act)?;
        Ok(if stored == 0 { Saved::Older } else { Saved::Yes })
    }
}
