//! Flow sets that share a runtime, as one tar: found by what they are made of, kept while a host is meant to run them.
use super::{Act, Store, StoreError, artifacts::CHUNK_BYTES, changes::Changes, desired::PublishTx};
use redforge_shared::ids::{Digest, Name};
use std::collections::BTreeMap;
use time::OffsetDateTime;

const ACT: &str = "merging the flow sets of a runtime";

impl PublishTx {
    /// The tar that was made of these parts before.
    pub async fn merged(&mut self, parts: Digest) -> Result<Option<Digest>, StoreError> {
        let row: Option<Vec<u8>> = sqlx::query_scalar("SELECT digest FROM merged_flow_set WHERE parts = $1")
            .bind(&parts.0[..])
            .fetch_optional(&mut *self.tx)
            .await
            .act(ACT)?;
        let digest = row.map(|d| Digest::try_from(&d[..]));
        digest.transpose().map_err(|e| StoreError::Corrupt { act: ACT, what: "digest", problem: e.to_string() })
    }

    /// A flow set's tar.
    pub async fn flow_set_tar(&mut self, digest: Digest) -> Result<Option<Vec<u8>>, StoreError> {
        sqlx::query_scalar("SELECT string_agg(data, ''::bytea ORDER BY idx) FROM artifact_chunk WHERE digest = $1")
            .bind(&digest.0[..])
            .fetch_one(&mut *self.tx)
            .await
            .act(ACT)
    }

    /// Keeps what was made of these parts. It becomes true with the desired state that names it, or not at all.
    pub async fn keep_merged(&mut self, parts: Digest, tar: &[u8], now: OffsetDateTime) -> Result<Digest, StoreError> {
        let digest = Digest::of(tar);
        let artifact =
            "INSERT INTO artifact (digest, size_bytes, created_at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
        let inserted = sqlx::query(artifact)
            .bind(&digest.0[..])
            .bind(tar.len() as i64)
            .bind(now)
            .execute(&mut *self.tx)
            .await
            .act(ACT)?
            .rows_affected();
        let chunks = tar.chunks(CHUNK_BYTES).enumerate().filter(|_| inserted > 0);
        for (idx, chunk) in chunks {
            sqlx::query("INSERT INTO artifact_chunk (digest, idx, data) VALUES ($1, $2, $3)")
                .bind(&digest.0[..])
                .bind(idx as i32)
                .bind(chunk)
                .execute(&mut *self.tx)
                .await
                .act(ACT)?;
        }
        sqlx::query("INSERT INTO merged_flow_set (parts, digest, made_at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING")
            .bind(&parts.0[..])
            .bind(&digest.0[..])
            .bind(now)
            .execute(&mut *self.tx)
            .await
            .act(ACT)?;
        Ok(digest)
    }
}

impl Changes {
    /// The newest tars of these flow sets, with what this request puts in place.
    pub async fn newest_tars(&mut self, names: &[&Name]) -> Result<BTreeMap<Name, Vec<u8>>, StoreError> {
        let names: Vec<&str> = names.iter().map(|n| n.as_str()).collect();
        let rows: Vec<(String, Vec<u8>)> = sqlx::query_as(
            "SELECT f.name, (SELECT string_agg(data, ''::bytea ORDER BY idx) FROM artifact_chunk c WHERE c.digest = f.digest) \
             FROM (SELECT DISTINCT ON (name) name, digest FROM flow_set WHERE name = ANY ($1) ORDER BY name, revision DESC) f",
        )
        .bind(names)
        .fetch_all(&mut *self.tx)
        .await
        .act(ACT)?;
        Ok(rows.into_iter().filter_map(|(name, tar)| Some((name.parse().ok()?, tar))).collect())
    }

    /// Hosts with an instance that runs this flow set.
    pub async fn hosts_running(
        &mut self,
        flow_set: &Name,
    ) -> Result<Vec<(redforge_shared::ids::HostId, Name)>, StoreError> {
        let rows: Vec<(uuid::Uuid, String)> = sqlx::query_as(
            "SELECT DISTINCT h.id, h.name FROM instance i JOIN host h ON h.id = i.host_id \
             WHERE i.spec -> 'nodeRed' ->> 'flowSet' = $1 ORDER BY h.name",
        )
        .bind(flow_set.as_str())
        .fetch_all(&mut *self.tx)
        .await
        .act(ACT)?;
        let named = |(id, name): (uuid::Uuid, String)| Some((redforge_shared::ids::HostId(id), name.parse().ok()?));
        Ok(rows.into_iter().filter_map(named).collect())
    }
}

impl Store {
    /// Forgets merged flow sets that were made before `before` and that no host is meant to run; their bytes then go with
    /// everything that nothing names.
    pub async fn drop_merged(&self, before: OffsetDateTime) -> Result<u64, StoreError> {
        let dropped = sqlx::query(
            "DELETE FROM merged_flow_set m WHERE made_at < $1 AND NOT EXISTS (SELECT 1 FROM host_desired d \
             WHERE position(convert_to(encode(m.digest, 'hex'), 'UTF8') IN d.spec) > 0)",
        )
        .bind(before)
        .execute(&self.pool)
        .await
        .act(ACT)?;
        Ok(dropped.rows_affected())
    }
}
