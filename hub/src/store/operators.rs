//! Operators' tokens. Only hashes are stored.
use super::{Act, Store, StoreError, new_id};
use redforge_shared::ids::Digest;
use time::OffsetDateTime;
use uuid::Uuid;

/// A token that was found and has not ended.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct OperatorRow {
    pub id: Uuid,
    /// SHA-256 of the token.
    pub hash: Vec<u8>,
    pub name: String,
    /// admin, operator or viewer.
    pub role: String,
}

/// A token as the administrator sees it.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct OperatorTokenRow {
    pub name: String,
    pub role: String,
    pub created_at: OffsetDateTime,
    pub expires_at: Option<OffsetDateTime>,
}

impl Store {
    /// Every token, the oldest first.
    pub async fn operator_tokens(&self) -> Result<Vec<OperatorTokenRow>, StoreError> {
        sqlx::query_as("SELECT name, role, created_at, expires_at FROM operator_token ORDER BY created_at, id")
            .fetch_all(&self.pool)
            .await
            .act("listing operators' tokens")
    }

    /// Forgets every token of this name; says how many.
    pub async fn delete_operator_tokens(&self, name: &str) -> Result<u64, StoreError> {
        let gone = sqlx::query("DELETE FROM operator_token WHERE name = $1").bind(name).execute(&self.pool).await;
        Ok(gone.act("ending an operator's token")?.rows_affected())
    }

    /// Adds a token under its hash.
    pub async fn insert_operator_token(
        &self,
        hash: Digest,
        name: &str,
        role: &str,
        now: OffsetDateTime,
        expires_at: Option<OffsetDateTime>,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO operator_token (id, hash, name, role, created_at, expires_at) VALUES ($1, $2, $3, $4, $5, $6) \
             ON CONFLICT (hash) DO NOTHING",
        )
        .bind(new_id())
        .bind(&hash.0[..])
        .bind(name)
        .bind(role)
        .bind(now)
        .bind(expires_at)
        .execute(&self.pool)
        .await
        .act("storing an operator's token")?;
        Ok(())
    }

    /// The token of this hash, if it is good at `now`.
    pub async fn operator_by_hash(&self, hash: Digest, now: OffsetDateTime) -> Result<Option<OperatorRow>, StoreError> {
        sqlx::query_as(
            "SELECT id, hash, name, role FROM operator_token WHERE hash = $1 AND (expires_at IS NULL OR expires_at > $2)",
        )
        .bind(&hash.0[..])
        .bind(now)
        .fetch_optional(&self.pool)
        .await
        .act("looking up an operator's token")
    }

    /// The token of this id, if it is good at `now`.
    pub async fn operator_by_id(&self, id: Uuid, now: OffsetDateTime) -> Result<Option<OperatorRow>, StoreError> {
        sqlx::query_as(
            "SELECT id, hash, name, role FROM operator_token WHERE id = $1 AND (expires_at IS NULL OR expires_at > $2)",
        )
        .bind(id)
        .bind(now)
        .fetch_optional(&self.pool)
        .await
        .act("looking up an operator's session")
    }
}
