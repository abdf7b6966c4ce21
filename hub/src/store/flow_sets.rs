//! Flow sets as operators read them. Their bytes are artifacts.
use super::{Act, Store, StoreError};
use sqlx::{AssertSqlSafe, types::Json};
use time::OffsetDateTime;

/// The newest revision of a flow set.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct FlowSetRow {
    pub name: String,
    pub revision: i64,
    pub digest: Vec<u8>,
    pub size_bytes: i64,
    pub node_count: i32,
    pub credential_names: Json<Vec<String>>,
    pub created_at: OffsetDateTime,
    /// Drafts that nobody has adopted.
    pub draft_count: i64,
}

/// A flow set's row with the number of its open drafts.
const COLUMNS: &str = "f.*, (SELECT count(*) FROM flow_set_draft d WHERE d.flow_set = f.name AND d.adopted_revision IS NULL) \
                       AS draft_count";

impl Store {
    /// Newest revisions of the flow sets after `after` by name.
    pub async fn list_flow_sets(&self, after: &str, limit: u32) -> Result<Vec<FlowSetRow>, StoreError> {
        sqlx::query_as(AssertSqlSafe(format!(
            "SELECT DISTINCT ON (f.name) {COLUMNS} FROM flow_set f WHERE f.name > $1 ORDER BY f.name, f.revision DESC LIMIT $2",
        )))
        .bind(after)
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await
        .act("listing flow sets")
    }

    /// The newest revision of this flow set.
    pub async fn flow_set(&self, name: &str) -> Result<Option<FlowSetRow>, StoreError> {
        sqlx::query_as(AssertSqlSafe(format!(
            "SELECT {COLUMNS} FROM flow_set f WHERE f.name = $1 ORDER BY f.revision DESC LIMIT 1",
        )))
        .bind(name)
        .fetch_optional(&self.pool)
        .await
        .act("reading a flow set")
    }

    /// This revision of it.
    pub async fn flow_set_revision(&self, name: &str, revision: i64) -> Result<Option<FlowSetRow>, StoreError> {
        sqlx::query_as(AssertSqlSafe(format!("SELECT {COLUMNS} FROM flow_set f WHERE f.name = $1 AND f.revision = $2")))
            .bind(name)
            .bind(revision)
            .fetch_optional(&self.pool)
            .await
            .act("reading a flow set's revision")
    }

    /// The newest revision whose content is another than the flow set has now.
    pub async fn flow_set_before(&self, name: &str) -> Result<Option<FlowSetRow>, StoreError> {
        sqlx::query_as(AssertSqlSafe(format!(
            "SELECT {COLUMNS} FROM flow_set f WHERE f.name = $1 AND f.digest <> \
             (SELECT n.digest FROM flow_set n WHERE n.name = $1 ORDER BY n.revision DESC LIMIT 1) \
             ORDER BY f.revision DESC LIMIT 1",
        )))
        .bind(name)
        .fetch_optional(&self.pool)
        .await
        .act("reading an earlier flow set")
    }

    /// Instances that run the flow set: host and instance names.
    pub async fn flow_set_users(&self, name: &str) -> Result<Vec<(String, String)>, StoreError> {
        sqlx::query_as(
            "SELECT h.name, i.name FROM instance i JOIN host h ON h.id = i.host_id \
             WHERE i.spec -> 'nodeRed' ->> 'flowSet' = $1 ORDER BY h.name, i.name",
        )
        .bind(name)
        .fetch_all(&self.pool)
        .await
        .act("listing the instances of a flow set")
    }
}
