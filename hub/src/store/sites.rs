//! Sites as operators read them.
use super::{Act, Store, StoreError};
use sqlx::types::Json;
use std::collections::BTreeMap;
use time::OffsetDateTime;
use uuid::Uuid;

/// A site.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct SiteRow {
    pub id: Uuid,
    pub name: String,
    pub labels: Json<BTreeMap<String, String>>,
    pub time_zone: String,
    pub policy: String,
    pub created_at: OffsetDateTime,
    pub host_count: i64,
}

impl Store {
    /// Sites after `after` by name.
    pub async fn list_sites(&self, after: &str, limit: u32) -> Result<Vec<SiteRow>, StoreError> {
        sqlx::query_as(
            "SELECT s.*, (SELECT count(*) FROM host h WHERE h.site_id = s.id) AS host_count \
             FROM site s WHERE s.name > $1 ORDER BY s.name LIMIT $2",
        )
        .bind(after)
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await
        .act("listing sites")
    }

    /// The site of this name.
    pub async fn site(&self, name: &str) -> Result<Option<SiteRow>, StoreError> {
        sqlx::query_as(
            "SELECT s.*, (SELECT count(*) FROM host h WHERE h.site_id = s.id) AS host_count FROM site s WHERE s.name = $1",
        )
        .bind(name)
        .fetch_optional(&self.pool)
        .await
        .act("reading a site")
    }
}
