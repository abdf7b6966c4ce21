//! What the hub noticed, for people: written in the transaction of the change it tells about.
use super::{Act, Store, StoreError};
use sqlx::PgConnection;
use time::OffsetDateTime;

/// Something the hub noticed.
#[derive(Clone, Debug)]
pub struct NewEvent {
    pub at: OffsetDateTime,
    /// UPPER_SNAKE.
    pub reason: &'static str,
    pub warning: bool,
    /// Resource name, such as hosts/press-4.
    pub resource: String,
    /// Who caused it: a token's name, `agent`, or `hub`.
    pub actor: String,
    pub message: String,
}

pub(in crate::store) async fn insert(tx: &mut PgConnection, e: &NewEvent) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO event (at, reason, warning, resource, actor, message) VALUES ($1, $2, $3, $4, $5, $6)")
        .bind(e.at)
        .bind(e.reason)
        .bind(e.warning)
        .bind(&e.resource)
        .bind(&e.actor)
        .bind(&e.message)
        .execute(tx)
        .await
        .act("writing an event")?;
    Ok(())
}

/// An event as it was written.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct EventRow {
    pub at: OffsetDateTime,
    pub reason: String,
    pub warning: bool,
    pub resource: String,
    pub actor: String,
    pub message: String,
}

impl Store {
    /// Newest events first, of one resource and what lies below it, or of all.
    pub async fn list_events(&self, resource: Option<&str>, limit: u32) -> Result<Vec<EventRow>, StoreError> {
        sqlx::query_as(
            "SELECT at, reason, warning, resource, actor, message FROM event \
             WHERE $1::text IS NULL OR resource = $1 OR starts_with(resource, $1 || '/') \
             ORDER BY at DESC, id DESC LIMIT $2",
        )
        .bind(resource)
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await
        .act("listing events")
    }

    /// Writes an event that belongs to no other change.
    pub async fn record_event(&self, e: &NewEvent) -> Result<(), StoreError> {
        let mut tx = self.pool.begin().await.act("writing an event")?;
        insert(&mut tx, e).await?;
        super::hints::hint(&mut tx, "event").await?;
        tx.commit().await.act("writing an event")
    }
}
