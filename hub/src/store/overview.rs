//! Hosts and instances as operators read them: what is wanted beside what was last reported. One query each.
use super::{Act, Store, StoreError, reports::OutboxNumbers};
use redforge_shared::report::{HostFacts, InstanceStatus, clean_up::CleanUp};
use serde_json::Value;
use sqlx::types::Json;
use std::collections::BTreeMap;
use time::OffsetDateTime;
use uuid::Uuid;

/// A host with its latest report.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct HostRow {
    pub id: Uuid,
    pub name: String,
    pub site: String,
    /// None until the agent has told any.
    pub facts: Option<Json<HostFacts>>,
    pub enrolled_at: OffsetDateTime,
    pub certificate_not_after: OffsetDateTime,
    pub last_seen_at: Option<OffsetDateTime>,
    pub generation: Option<i64>,
    pub spec_sha256: Option<Vec<u8>>,
    pub agent_ahead: bool,
    pub fenced: bool,
    /// Those with a container of their own.
    pub instance_count: i64,
    pub observed_generation: Option<i64>,
    pub observed_sha256: Option<Vec<u8>>,
    pub health: Option<String>,
    pub sync: Option<String>,
    pub reason: Option<String>,
    pub names: Option<Json<Vec<String>>>,
    pub instances: Option<Json<Vec<InstanceStatus>>>,
    pub outbox: Option<Json<Vec<OutboxNumbers>>>,
    pub clean_up: Option<Json<CleanUp>>,
    pub received_at: Option<OffsetDateTime>,
}

macro_rules! host_query {
    ($tail:literal) => {
        concat!(
            "SELECT h.id, h.name, s.name AS site, nullif(coalesce(nullif(r.facts, '{}'), h.facts), '{}') AS facts, ",
            "h.enrolled_at, h.certificate_not_after, greatest(l.at, r.received_at) AS last_seen_at, ",
            "nullif(d.generation, 0) AS generation, ",
            "CASE WHEN d.generation > 0 THEN d.spec_sha256 END AS spec_sha256, ",
            "d.agent_ahead_at IS NOT NULL AS agent_ahead, h.fenced_at IS NOT NULL AS fenced, ",
            "(SELECT count(*) FROM instance i WHERE i.host_id = h.id AND i.spec -> 'nodeRed' ->> 'runtime' IS NULL) AS instance_count, ",
            "r.generation AS observed_generation, r.spec_sha256 AS observed_sha256, r.health, r.sync, r.reason, ",
            "r.names, r.instances, r.outbox, r.clean_up, r.received_at ",
            "FROM host h JOIN site s ON s.id = h.site_id LEFT JOIN host_last_seen l ON l.host_id = h.id ",
            "LEFT JOIN host_desired d ON d.host_id = h.id LEFT JOIN host_report r ON r.host_id = h.id ",
            $tail
        )
    };
}

/// An instance with its latest status.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct InstanceRow {
    pub host: String,
    pub name: String,
    pub revision: i64,
    pub spec: Json<Value>,
    pub created_at: OffsetDateTime,
    pub updated_at: OffsetDateTime,
    pub labels: Json<BTreeMap<String, String>>,
    /// Of a guest: its runtime's.
    pub status: Option<Json<InstanceStatus>>,
    pub received_at: Option<OffsetDateTime>,
    pub last_seen_at: Option<OffsetDateTime>,
}

macro_rules! instance_query {
    ($tail:literal) => {
        concat!(
            "SELECT h.name AS host, i.name, i.revision, i.spec, i.created_at, i.updated_at, i.labels, ",
            "(SELECT e FROM jsonb_array_elements(r.instances) e WHERE e ->> 'name' = coalesce(i.spec -> 'nodeRed' ->> 'runtime', i.name) LIMIT 1) AS status, ",
            "r.received_at, greatest(l.at, r.received_at) AS last_seen_at ",
            "FROM instance i JOIN host h ON h.id = i.host_id LEFT JOIN host_report r ON r.host_id = h.id ",
            "LEFT JOIN host_last_seen l ON l.host_id = h.id ",
            $tail
        )
    };
}

impl Store {
    /// Hosts after `after` by name, of one site or of all.
    pub async fn list_hosts(&self, site: Option<&str>, after: &str, limit: u32) -> Result<Vec<HostRow>, StoreError> {
        sqlx::query_as(host_query!("WHERE ($1::text IS NULL OR s.name = $1) AND h.name > $2 ORDER BY h.name LIMIT $3"))
            .bind(site)
            .bind(after)
            .bind(i64::from(limit))
            .fetch_all(&self.pool)
            .await
            .act("listing hosts")
    }

    /// The host of this name.
    pub async fn host_overview(&self, name: &str) -> Result<Option<HostRow>, StoreError> {
        sqlx::query_as(host_query!("WHERE h.name = $1"))
            .bind(name)
            .fetch_optional(&self.pool)
            .await
            .act("reading a host")
    }

    /// Instances after `after` (host and instance name), of one host or of all.
    pub async fn list_instances(
        &self,
        host: Option<&str>,
        after: (&str, &str),
        limit: u32,
    ) -> Result<Vec<InstanceRow>, StoreError> {
        sqlx::query_as(instance_query!(
            "WHERE ($1::text IS NULL OR h.name = $1) AND (h.name, i.name) > ($2, $3) ORDER BY h.name, i.name LIMIT $4"
        ))
        .bind(host)
        .bind(after.0)
        .bind(after.1)
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await
        .act("listing instances")
    }

    /// The instance of this name on this host.
    pub async fn instance(&self, host: &str, name: &str) -> Result<Option<InstanceRow>, StoreError> {
        sqlx::query_as(instance_query!("WHERE h.name = $1 AND i.name = $2"))
            .bind(host)
            .bind(name)
            .fetch_optional(&self.pool)
            .await
            .act("reading an instance")
    }
}
