//! Drafts of flow sets: put by a host that adopts edits, listed and adopted by operators. Their bytes are artifacts.
use super::{
    Act, Store, StoreError,
    changes::{Changes, NewFlowSet},
};
use redforge_shared::ids::{Digest, HostId, Name};
use sqlx::types::Json;
use time::OffsetDateTime;

const ACT: &str = "keeping a draft of a flow set";
/// Drafts of one instance that nobody adopted; the oldest make room.
const KEPT: i64 = 20;
const LISTED: i64 = 1000;

/// A draft as it is listed.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct DraftRow {
    pub flow_set: String,
    pub number: i64,
    pub host: String,
    pub instance: String,
    pub base_revision: i64,
    pub digest: Vec<u8>,
    pub size_bytes: i64,
    pub node_count: i32,
    pub credential_names: Json<Vec<String>>,
    pub created_at: OffsetDateTime,
    pub adopted_revision: Option<i64>,
}

/// What an instance that sends a draft runs, as operators wrote it.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct Editable {
    pub flow_set: Option<String>,
    pub drift: Option<String>,
    /// Was it ever in developer mode? What was edited then may come when that is over.
    pub developed: bool,
    /// The revision that was edited, if it is one of this flow set.
    pub base_revision: Option<i64>,
}

impl Store {
    /// What the instance runs, with the revision of its flow set that has this digest; none: there is no such instance.
    pub async fn editable(&self, host: HostId, name: &Name, base: Digest) -> Result<Option<Editable>, StoreError> {
        sqlx::query_as(
            "SELECT i.spec -> 'nodeRed' ->> 'flowSet' AS flow_set, i.spec -> 'nodeRed' ->> 'drift' AS drift, \
             EXISTS (SELECT 1 FROM instance_revision r WHERE r.host_id = i.host_id AND r.name = i.name \
             AND r.spec -> 'nodeRed' -> 'developer' IS NOT NULL) AS developed, \
             (SELECT max(f.revision) FROM flow_set f WHERE f.name = i.spec -> 'nodeRed' ->> 'flowSet' AND f.digest = $3) \
             AS base_revision FROM instance i WHERE i.host_id = $1 AND i.name = $2",
        )
        .bind(host.0)
        .bind(name.as_str())
        .bind(&base.0[..])
        .fetch_optional(&self.pool)
        .await
        .act(ACT)
    }

    /// Drafts of a flow set, or of all, the newest first.
    pub async fn list_drafts(&self, flow_set: Option<&Name>) -> Result<Vec<DraftRow>, StoreError> {
        sqlx::query_as(
            "SELECT d.*, h.name AS host FROM flow_set_draft d JOIN host h ON h.id = d.host_id \
             WHERE $1::text IS NULL OR d.flow_set = $1 ORDER BY d.created_at DESC, d.flow_set, d.number DESC LIMIT $2",
        )
        .bind(flow_set.map(Name::as_str))
        .bind(LISTED)
        .fetch_all(&self.pool)
        .await
        .act("listing drafts")
    }

    /// This draft.
    pub async fn draft(&self, flow_set: &Name, number: i64) -> Result<Option<DraftRow>, StoreError> {
        sqlx::query_as(
            "SELECT d.*, h.name AS host FROM flow_set_draft d JOIN host h ON h.id = d.host_id \
             WHERE d.flow_set = $1 AND d.number = $2",
        )
        .bind(flow_set.as_str())
        .bind(number)
        .fetch_optional(&self.pool)
        .await
        .act("reading a draft")
    }
}

impl Changes {
    /// Keeps a draft, unless it is there; gives its number.
    pub async fn put_draft(
        &mut self,
        host: HostId,
        instance: &Name,
        base_revision: i64,
        set: &NewFlowSet,
    ) -> Result<i64, StoreError> {
        let known: Option<i64> = sqlx::query_scalar(
            "SELECT number FROM flow_set_draft WHERE flow_set = $1 AND host_id = $2 AND instance = $3 AND digest = $4",
        )
        .bind(set.name.as_str())
        .bind(host.0)
        .bind(instance.as_str())
        .bind(&set.digest.0[..])
        .fetch_optional(&mut *self.tx)
        .await
        .act(ACT)?;
        if let Some(number) = known {
            return Ok(number);
        }
        self.put_artifact(set.digest, &set.bytes).await?;
        let number: i64 = sqlx::query_scalar(
            "INSERT INTO flow_set_draft (flow_set, number, host_id, instance, base_revision, digest, size_bytes, node_count, \
             credential_names, created_at) SELECT $1, coalesce(max(number), 0) + 1, $2, $3, $4, $5, $6, $7, $8, $9 \
             FROM flow_set_draft WHERE flow_set = $1 RETURNING number",
        )
        .bind(set.name.as_str())
        .bind(host.0)
        .bind(instance.as_str())
        .bind(base_revision)
        .bind(&set.digest.0[..])
        .bind(set.bytes.len() as i64)
        .bind(set.node_count as i32)
        .bind(Json(&set.credential_names))
        .bind(self.at)
        .fetch_one(&mut *self.tx)
        .await
        .act(ACT)?;
        sqlx::query(
            "DELETE FROM flow_set_draft WHERE flow_set = $1 AND host_id = $2 AND instance = $3 AND number IN \
             (SELECT number FROM flow_set_draft WHERE flow_set = $1 AND host_id = $2 AND instance = $3 \
             AND adopted_revision IS NULL ORDER BY number DESC OFFSET $4)",
        )
        .bind(set.name.as_str())
        .bind(host.0)
        .bind(instance.as_str())
        .bind(KEPT)
        .execute(&mut *self.tx)
        .await
        .act(ACT)?;
        let message = format!("flows of {instance} were edited on {}, {} nodes", self.actor, set.node_count);
        self.tell("FLOW_SET_DRAFT", format!("flowsets/{}/drafts/{number}", set.name), message).await?;
        Ok(number)
    }

    /// Notes which revision a draft became.
    pub async fn adopted(&mut self, flow_set: &Name, number: i64, revision: u64) -> Result<(), StoreError> {
        sqlx::query("UPDATE flow_set_draft SET adopted_revision = $3 WHERE flow_set = $1 AND number = $2")
            .bind(flow_set.as_str())
            .bind(number)
            .bind(revision as i64)
            .execute(&mut *self.tx)
            .await
            .act(ACT)?;
        Ok(())
    }
}
