//! Roots and issuing authorities, keys sealed.
use super::{Act, Store, StoreError};
use sqlx::{PgConnection, Postgres, Transaction};
use time::OffsetDateTime;

/// One lock for all who may make an authority: two hubs starting together make one.
const LOCK: i64 = 0x7265_6466_706b_6900;

/// A stored authority.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct AuthorityRow {
    pub id: i64,
    /// `root` or `issuing`.
    pub role: String,
    pub certificate: Vec<u8>,
    pub sealed_key: Vec<u8>,
    pub not_before: OffsetDateTime,
    pub not_after: OffsetDateTime,
}

/// All authorities, held against other makers until it ends.
pub struct AuthoritiesTx {
    tx: Transaction<'static, Postgres>,
}

const ALL: &str =
    "SELECT id, role, certificate, sealed_key, not_before, not_after FROM pki_authority ORDER BY role, id DESC";

impl Store {
    /// Every authority: issuing ones first, newest first.
    pub async fn authorities(&self) -> Result<Vec<AuthorityRow>, StoreError> {
        sqlx::query_as(ALL).fetch_all(&self.pool).await.act("reading the certificate authorities")
    }

    /// Begins a change that no other hub makes at the same time.
    pub async fn lock_authorities(&self) -> Result<AuthoritiesTx, StoreError> {
        let act = "locking the certificate authorities";
        let mut tx = self.pool.begin().await.act(act)?;
        sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(LOCK).execute(&mut *tx).await.act(act)?;
        Ok(AuthoritiesTx { tx })
    }
}

impl AuthoritiesTx {
    /// Every authority, as [`Store::authorities`].
    pub async fn all(&mut self) -> Result<Vec<AuthorityRow>, StoreError> {
        sqlx::query_as(ALL).fetch_all(&mut *self.tx).await.act("reading the certificate authorities")
    }

    /// Adds one. `row.id` is ignored.
    pub async fn insert(&mut self, row: &AuthorityRow, at: OffsetDateTime) -> Result<i64, StoreError> {
        insert(&mut self.tx, row, at).await
    }

    /// Makes the change.
    pub async fn commit(self) -> Result<(), StoreError> {
        self.tx.commit().await.act("storing the certificate authorities")
    }
}

async fn insert(tx: &mut PgConnection, row: &AuthorityRow, at: OffsetDateTime) -> Result<i64, StoreError> {
    sqlx::query_scalar(
        "INSERT INTO pki_authority (role, certificate, sealed_key, not_before, not_after, created_at) \
         VALUES ($1, $2, $3, $4, $5, $6) RETURNING id",
    )
    .bind(&row.role)
    .bind(&row.certificate)
    .bind(&row.sealed_key)
    .bind(row.not_before)
    .bind(row.not_after)
    .bind(at)
    .fetch_one(tx)
    .await
    .act("storing a certificate authority")
}
