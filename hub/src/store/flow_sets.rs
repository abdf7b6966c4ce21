//! Flow sets as operators read them. Their bytes are artifacts.
use super::{Act, Store, StoreError};
use sqlx::types::Json;
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
}

impl Store {
    /// Newest revisions of the flow sets after `after` by name.
    pub async fn list_flow_sets(&self, after: &str, limit: u32) -> Result<Vec<FlowSetRow>, StoreError> {
        sqlx::query_as(
            "SELECT DISTINCT ON (name) * FROM flow_set WHERE name > $1 ORDER BY name, revision DESC LIMIT $2",
        )
        .bind(after)
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await
        .act("listing flow sets")
    }

    /// The newest revision of this flow set.
    pub async fn flow_set(&self, name: &str) -> Result<Option<FlowSetRow>, StoreError> {
        sqlx::query_as("SELECT * FROM flow_set WHERE name = $1 ORDER BY revision DESC LIMIT 1")
            .bind(name)
            .fetch_optional(&self.pool)
            .await
            .act("reading a flow set")
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
