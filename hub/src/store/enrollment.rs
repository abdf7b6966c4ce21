//! Enrollment tokens, their uses, hosts' first rows and certificates. The decision is made by the caller, inside the
//! transaction that holds the token.
use super::{Act, Store, StoreError, events, hints, new_id};
use redforge_shared::{
    ids::{Digest, HostId},
    report::HostFacts,
};
use sqlx::{Postgres, Transaction, types::Json};
use time::OffsetDateTime;
use uuid::Uuid;

const ACT: &str = "enrolling a host";

/// A token, locked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    pub id: Uuid,
    pub site: String,
    pub site_id: Uuid,
    pub host_name: Option<String>,
    pub uses: u32,
    pub used: u32,
    pub expires_at: OffsetDateTime,
}

#[derive(sqlx::FromRow)]
struct TokenRow {
    id: Uuid,
    site: String,
    site_id: Uuid,
    host_name: Option<String>,
    uses: i32,
    used: i64,
    expires_at: OffsetDateTime,
}

/// A host that has the identity key of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownHost {
    pub id: HostId,
    pub name: String,
    pub site_id: Uuid,
    pub fenced: bool,
    /// The request key with which this token was used for it, if it was.
    pub used_with: Option<Digest>,
}

/// A leaf as it was issued before.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct LeafRow {
    pub serial: Vec<u8>,
    pub certificate: Vec<u8>,
    pub issuer: Vec<u8>,
    pub not_after: OffsetDateTime,
}

/// A leaf that was just issued.
#[derive(Clone, Debug)]
pub struct NewLeaf {
    pub serial: Vec<u8>,
    pub certificate: Vec<u8>,
    /// Row of the issuing authority.
    pub issuer_id: i64,
    /// SHA-256 of the request's SubjectPublicKeyInfo.
    pub csr_key: Digest,
    pub not_after: OffsetDateTime,
}

/// A new token.
#[derive(Clone, Debug)]
pub struct NewToken {
    pub hash: Digest,
    pub site_id: Uuid,
    pub host_name: Option<String>,
    pub uses: u32,
    pub created_by: String,
    pub expires_at: OffsetDateTime,
}

/// The host that a request makes or makes again.
#[derive(Clone, Debug)]
pub struct EnrolledHost<'a> {
    pub id: HostId,
    pub name: &'a str,
    pub identity_key: &'a [u8],
    pub sealing_key: &'a [u8],
    pub facts: &'a HostFacts,
    pub leaf: &'a NewLeaf,
}

/// A request to enroll, holding its token.
pub struct EnrollTx {
    tx: Transaction<'static, Postgres>,
    pub token: Token,
}

impl Store {
    /// Stores a token under its hash and tells of it.
    pub async fn insert_enroll_token(&self, t: &NewToken, now: OffsetDateTime) -> Result<(), StoreError> {
        let act = "storing an enrollment token";
        sqlx::query(
            "INSERT INTO enroll_token (id, hash, site_id, host_name, uses, created_at, created_by, expires_at) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(new_id())
        .bind(&t.hash.0[..])
        .bind(t.site_id)
        .bind(&t.host_name)
        .bind(t.uses as i32)
        .bind(now)
        .bind(&t.created_by)
        .bind(t.expires_at)
        .execute(&self.pool)
        .await
        .act(act)?;
        Ok(())
    }

    /// Locks the token of this hash; none if there is none.
    pub async fn begin_enroll(&self, hash: Digest) -> Result<Option<EnrollTx>, StoreError> {
        let mut tx = self.pool.begin().await.act(ACT)?;
        let row: Option<TokenRow> = sqlx::query_as(
            "SELECT t.id, s.name AS site, t.site_id, t.host_name, t.uses, t.expires_at, \
             (SELECT count(*) FROM enroll_use u WHERE u.token_id = t.id) AS used \
             FROM enroll_token t JOIN site s ON s.id = t.site_id WHERE t.hash = $1 FOR UPDATE OF t",
        )
        .bind(&hash.0[..])
        .fetch_optional(&mut *tx)
        .await
        .act(ACT)?;
        let Some(r) = row else { return Ok(None) };
        // Counted again below the lock: the first statement's view may be older than the lock.
        let used: i64 = sqlx::query_scalar("SELECT count(*) FROM enroll_use WHERE token_id = $1")
            .bind(r.id)
            .fetch_one(&mut *tx)
            .await
            .act(ACT)?;
        let token = Token {
            id: r.id,
            site: r.site,
            site_id: r.site_id,
            host_name: r.host_name,
            uses: r.uses as u32,
            used: used.max(r.used) as u32,
            expires_at: r.expires_at,
        };
        Ok(Some(EnrollTx { tx, token }))
    }

    /// The leaf issued for this key of this host.
    pub async fn leaf_for_key(&self, host: HostId, csr_key: Digest) -> Result<Option<LeafRow>, StoreError> {
        leaf_for_key(&self.pool, host, csr_key).await
    }

    /// Stores a renewed leaf as the host's next one and tells whether it was stored: false if there is no such host.
    pub async fn store_next_leaf(&self, host: HostId, leaf: &NewLeaf, now: OffsetDateTime) -> Result<bool, StoreError> {
        let act = "storing a renewed certificate";
        let mut tx = self.pool.begin().await.act(act)?;
        let done = sqlx::query("UPDATE host SET serial_next = $2, certificate_not_after = $3 WHERE id = $1")
            .bind(host.0)
            .bind(&leaf.serial)
            .bind(leaf.not_after)
            .execute(&mut *tx)
            .await
            .act(act)?;
        if done.rows_affected() == 0 {
            return Ok(false);
        }
        insert_leaf(&mut tx, host, leaf, now).await?;
        // Only the leaves that can still be asked for again are worth keeping.
        sqlx::query("DELETE FROM pki_leaf WHERE host_id = $1 AND not_after < $2")
            .bind(host.0)
            .bind(now)
            .execute(&mut *tx)
            .await
            .act(act)?;
        tx.commit().await.act(act)?;
        Ok(true)
    }
}

async fn leaf_for_key(
    db: impl sqlx::PgExecutor<'_>,
    host: HostId,
    csr_key: Digest,
) -> Result<Option<LeafRow>, StoreError> {
    sqlx::query_as(
        "SELECT l.serial, l.certificate, a.certificate AS issuer, l.not_after FROM pki_leaf l \
         JOIN pki_authority a ON a.id = l.issuer_id WHERE l.host_id = $1 AND l.csr_key = $2",
    )
    .bind(host.0)
    .bind(&csr_key.0[..])
    .fetch_optional(db)
    .await
    .act("looking up a certificate")
}

async fn insert_leaf(
    tx: &mut sqlx::PgConnection,
    host: HostId,
    leaf: &NewLeaf,
    now: OffsetDateTime,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO pki_leaf (serial, host_id, csr_key, certificate, issuer_id, not_after, issued_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (host_id, csr_key) DO UPDATE SET serial = excluded.serial, \
         certificate = excluded.certificate, issuer_id = excluded.issuer_id, not_after = excluded.not_after, \
         issued_at = excluded.issued_at",
    )
    .bind(&leaf.serial)
    .bind(host.0)
    .bind(&leaf.csr_key.0[..])
    .bind(&leaf.certificate)
    .bind(leaf.issuer_id)
    .bind(leaf.not_after)
    .bind(now)
    .execute(tx)
    .await
    .act("storing a certificate")?;
    Ok(())
}

impl EnrollTx {
    /// The host that has this identity key.
    pub async fn host_of_key(&mut self, identity_key: &[u8]) -> Result<Option<KnownHost>, StoreError> {
        let row: Option<(Uuid, String, Uuid, bool, Option<Vec<u8>>)> = sqlx::query_as(
            "SELECT h.id, h.name, h.site_id, h.fenced_at IS NOT NULL, u.csr_key FROM host h \
             LEFT JOIN enroll_use u ON u.host_id = h.id AND u.token_id = $2 WHERE h.identity_key = $1 FOR UPDATE OF h",
        )
        .bind(identity_key)
        .bind(self.token.id)
        .fetch_optional(&mut *self.tx)
        .await
        .act(ACT)?;
        Ok(row.map(|(id, name, site_id, fenced, used_with)| KnownHost {
            id: HostId(id),
            name,
            site_id,
            fenced,
            used_with: used_with.and_then(|k| Digest::try_from(k.as_slice()).ok()),
        }))
    }

    /// Which of these names are taken.
    pub async fn names_taken(&mut self, names: &[String]) -> Result<Vec<String>, StoreError> {
        sqlx::query_scalar("SELECT name FROM host WHERE name = ANY ($1)")
            .bind(names)
            .fetch_all(&mut *self.tx)
            .await
            .act(ACT)
    }

    /// The leaf issued for this key of this host.
    pub async fn leaf_for_key(&mut self, host: HostId, csr_key: Digest) -> Result<Option<LeafRow>, StoreError> {
        leaf_for_key(&mut *self.tx, host, csr_key).await
    }

    /// An id for a new host.
    pub fn new_host_id(&self) -> HostId {
        HostId(new_id())
    }

    /// Makes the host, or puts a known one's new certificate in use, and counts the use of the token.
    pub async fn commit(mut self, h: EnrolledHost<'_>, now: OffsetDateTime) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO host (id, name, site_id, identity_key, sealing_key, facts, enrolled_at, serial_current, \
             certificate_not_after) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) \
             ON CONFLICT (id) DO UPDATE SET sealing_key = excluded.sealing_key, facts = excluded.facts, \
             serial_current = excluded.serial_current, serial_next = NULL, \
             certificate_not_after = excluded.certificate_not_after",
        )
        .bind(h.id.0)
        .bind(h.name)
        .bind(self.token.site_id)
        .bind(h.identity_key)
        .bind(h.sealing_key)
        .bind(Json(h.facts))
        .bind(now)
        .bind(&h.leaf.serial)
        .bind(h.leaf.not_after)
        .execute(&mut *self.tx)
        .await
        .act(ACT)?;
        sqlx::query(
            "INSERT INTO enroll_use (token_id, identity_key, host_id, csr_key, used_at) VALUES ($1, $2, $3, $4, $5) \
             ON CONFLICT (token_id, identity_key) DO NOTHING",
        )
        .bind(self.token.id)
        .bind(h.identity_key)
        .bind(h.id.0)
        .bind(&h.leaf.csr_key.0[..])
        .bind(now)
        .execute(&mut *self.tx)
        .await
        .act(ACT)?;
        insert_leaf(&mut self.tx, h.id, h.leaf, now).await?;
        let event = events::NewEvent {
            at: now,
            reason: "HOST_ENROLLED",
            warning: false,
            resource: format!("hosts/{}", h.name),
            actor: "agent".into(),
            message: format!("enrolled into site {}", self.token.site),
        };
        events::insert(&mut self.tx, &event).await?;
        hints::hint(&mut self.tx, "host").await?;
        self.tx.commit().await.act(ACT)
    }
}
