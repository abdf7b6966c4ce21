//! Blobs by digest, in chunks of 256 KiB.
use super::{Act, Store, StoreError};
use redforge_shared::ids::Digest;
use time::OffsetDateTime;

/// Bytes of every chunk but the last.
pub const CHUNK_BYTES: usize = 256 * 1024;

impl Store {
    /// Size of the blob, if the hub has it.
    pub async fn artifact_size(&self, digest: Digest) -> Result<Option<u64>, StoreError> {
        let size: Option<i64> = sqlx::query_scalar("SELECT size_bytes FROM artifact WHERE digest = $1")
            .bind(&digest.0[..])
            .fetch_optional(&self.pool)
            .await
            .act("looking up a blob")?;
        Ok(size.map(|s| s as u64))
    }

    /// One chunk of a blob.
    pub async fn artifact_chunk(&self, digest: Digest, idx: u32) -> Result<Option<Vec<u8>>, StoreError> {
        sqlx::query_scalar("SELECT data FROM artifact_chunk WHERE digest = $1 AND idx = $2")
            .bind(&digest.0[..])
            .bind(idx as i32)
            .fetch_optional(&self.pool)
            .await
            .act("reading a blob")
    }

    /// Drops blobs that were staged before `before` and that no flow set names: their apply never came, or was refused.
    pub async fn drop_staged(&self, before: OffsetDateTime) -> Result<u64, StoreError> {
        let dropped = sqlx::query(
            "DELETE FROM artifact a WHERE created_at < $1 \
             AND NOT EXISTS (SELECT 1 FROM flow_set f WHERE f.digest = a.digest) \
             AND NOT EXISTS (SELECT 1 FROM flow_set_draft d WHERE d.digest = a.digest) \
             AND NOT EXISTS (SELECT 1 FROM merged_flow_set m WHERE m.digest = a.digest)",
        )
        .bind(before)
        .execute(&self.pool)
        .await
        .act("dropping staged blobs")?;
        Ok(dropped.rows_affected())
    }
}
