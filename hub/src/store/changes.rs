//! What operators change: sites, flow sets and instances, in one transaction that holds all of a request or nothing.
//!
//! Changes of several operators happen one after another (one advisory lock), so what a request read still holds when it
//! commits. Every change leaves an event and a hint. Whether a change is allowed is the caller's decision.
use super::{Act, Store, StoreError, artifacts::CHUNK_BYTES, events, hints, new_id};
use redforge_shared::ids::{Digest, HostId, Name};
use serde_json::Value;
use sqlx::{Postgres, Transaction, types::Json};
use std::collections::BTreeMap;
use time::OffsetDateTime;
use uuid::Uuid;

mod revisions;

const ACT: &str = "changing what hosts should run";

/// What a change did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changed {
    Created,
    Configured,
    Unchanged,
}

/// A request's changes, not yet committed. Dropping it undoes them.
pub struct Changes {
    pub(super) tx: Transaction<'static, Postgres>,
    pub(super) at: OffsetDateTime,
    pub(super) actor: String,
}

/// A flow set that was unpacked and checked.
#[derive(Clone, Debug)]
pub struct NewFlowSet {
    pub name: Name,
    pub digest: Digest,
    /// The tar.
    pub bytes: Vec<u8>,
    pub node_count: u32,
    pub credential_names: Vec<String>,
}

/// An instance to be put in place.
#[derive(Clone, Debug)]
pub struct NewInstance<'a> {
    pub host: HostId,
    pub host_name: &'a Name,
    pub name: &'a Name,
    pub labels: &'a BTreeMap<String, String>,
    pub spec: &'a Value,
}

impl Store {
    /// Begins changes in the name of `actor`.
    pub async fn begin_changes(&self, actor: &str, at: OffsetDateTime) -> Result<Changes, StoreError> {
        let mut tx = self.pool.begin().await.act(ACT)?;
        sqlx::query("SELECT pg_advisory_xact_lock(hashtext('redforge changes'))").execute(&mut *tx).await.act(ACT)?;
        Ok(Changes { tx, at, actor: actor.to_owned() })
    }
}

impl Changes {
    /// Creates a site or makes it as given.
    pub async fn put_site(
        &mut self,
        name: &Name,
        labels: &BTreeMap<String, String>,
        time_zone: &str,
        policy: &str,
    ) -> Result<Changed, StoreError> {
        let before: Option<(Uuid, Json<BTreeMap<String, String>>, String, String)> =
            sqlx::query_as("SELECT id, labels, time_zone, policy FROM site WHERE name = $1")
                .bind(name.as_str())
                .fetch_optional(&mut *self.tx)
                .await
                .act(ACT)?;
        let changed = match &before {
            None => Changed::Created,
            Some((_, l, t, p)) if l.0 == *labels && t == time_zone && p == policy => return Ok(Changed::Unchanged),
            Some(_) => Changed::Configured,
        };
        sqlx::query(
            "INSERT INTO site (id, name, labels, time_zone, policy, created_at) VALUES ($1, $2, $3, $4, $5, $6) \
             ON CONFLICT (name) DO UPDATE SET labels = excluded.labels, time_zone = excluded.time_zone, \
             policy = excluded.policy",
        )
        .bind(new_id())
        .bind(name.as_str())
        .bind(Json(labels))
        .bind(time_zone)
        .bind(policy)
        .bind(self.at)
        .execute(&mut *self.tx)
        .await
        .act(ACT)?;
        let reason = if changed == Changed::Created { "SITE_CREATED" } else { "SITE_CHANGED" };
        self.tell(reason, format!("sites/{name}"), format!("time zone {time_zone}, policy {policy}")).await?;
        hints::hint(&mut self.tx, "site").await?;
        Ok(changed)
    }

    /// What putting this content would do, and the revision it would be.
    pub async fn flow_set_change(&mut self, name: &Name, digest: Digest) -> Result<(Changed, u64), StoreError> {
        let newest: Option<(i64, Vec<u8>)> =
            sqlx::query_as("SELECT revision, digest FROM flow_set WHERE name = $1 ORDER BY revision DESC LIMIT 1")
                .bind(name.as_str())
                .fetch_optional(&mut *self.tx)
                .await
                .act(ACT)?;
        Ok(match newest {
            None => (Changed::Created, 1),
            Some((revision, have)) if have == digest.0 => (Changed::Unchanged, revision as u64),
            Some((revision, _)) => (Changed::Configured, revision as u64 + 1),
        })
    }

    /// Keeps the bytes of a flow set without making a revision.
    pub async fn stage(&mut self, set: &NewFlowSet) -> Result<(), StoreError> {
        self.put_artifact(set.digest, &set.bytes).await?;
        // Staged again it is wanted again: what nothing names is dropped after a day.
        sqlx::query("UPDATE artifact SET created_at = $2 WHERE digest = $1")
            .bind(&set.digest.0[..])
            .bind(self.at)
            .execute(&mut *self.tx)
            .await
            .act(ACT)?;
        Ok(())
    }

    /// The bytes of a flow set that was staged or pushed before.
    pub async fn staged(&mut self, digest: Digest) -> Result<Option<Vec<u8>>, StoreError> {
        sqlx::query_scalar("SELECT string_agg(data, ''::bytea ORDER BY idx) FROM artifact_chunk WHERE digest = $1")
            .bind(&digest.0[..])
            .fetch_one(&mut *self.tx)
            .await
            .act(ACT)
    }

    /// Makes a new revision of a flow set, unless its newest one has this digest.
    pub async fn put_flow_set(&mut self, set: &NewFlowSet) -> Result<(Changed, u64), StoreError> {
        let (changed, revision) = self.flow_set_change(&set.name, set.digest).await?;
        if changed == Changed::Unchanged {
            return Ok((changed, revision));
        }
        self.put_artifact(set.digest, &set.bytes).await?;
        sqlx::query(
            "INSERT INTO flow_set (name, revision, digest, size_bytes, node_count, credential_names, created_at) \
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(set.name.as_str())
        .bind(revision as i64)
        .bind(&set.digest.0[..])
        .bind(set.bytes.len() as i64)
        .bind(set.node_count as i32)
        .bind(Json(&set.credential_names))
        .bind(self.at)
        .execute(&mut *self.tx)
        .await
        .act(ACT)?;
        let message = format!("revision {revision}, {} nodes, {}", set.node_count, set.digest);
        let reason = if changed == Changed::Created { "FLOW_SET_CREATED" } else { "FLOW_SET_CHANGED" };
        self.tell(reason, format!("flowsets/{}", set.name), message).await?;
        hints::hint(&mut self.tx, "flow_set").await?;
        Ok((changed, revision))
    }

    pub(super) async fn put_artifact(&mut self, digest: Digest, bytes: &[u8]) -> Result<(), StoreError> {
        let inserted = sqlx::query(
            "INSERT INTO artifact (digest, size_bytes, created_at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
        )
        .bind(&digest.0[..])
        .bind(bytes.len() as i64)
        .bind(self.at)
        .execute(&mut *self.tx)
        .await
        .act(ACT)?
        .rows_affected();
        if inserted == 0 {
            return Ok(());
        }
        for (idx, chunk) in bytes.chunks(CHUNK_BYTES).enumerate() {
            sqlx::query("INSERT INTO artifact_chunk (digest, idx, data) VALUES ($1, $2, $3)")
                .bind(&digest.0[..])
                .bind(idx as i32)
                .bind(chunk)
                .execute(&mut *self.tx)
                .await
                .act(ACT)?;
        }
        Ok(())
    }

    /// The host of this name.
    pub async fn host(&mut self, name: &Name) -> Result<Option<HostId>, StoreError> {
        let id: Option<Uuid> = sqlx::query_scalar("SELECT id FROM host WHERE name = $1")
            .bind(name.as_str())
            .fetch_optional(&mut *self.tx)
            .await
            .act(ACT)?;
        Ok(id.map(HostId))
    }

    /// Is there a flow set of this name?
    pub async fn has_flow_set(&mut self, name: &Name) -> Result<bool, StoreError> {
        sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM flow_set WHERE name = $1)")
            .bind(name.as_str())
            .fetch_one(&mut *self.tx)
            .await
            .act(ACT)
    }

    /// Creates an instance or makes a new revision of it.
    pub async fn put_instance(&mut self, new: &NewInstance<'_>) -> Result<(Changed, u64), StoreError> {
        let before: Option<(i64, Json<Value>, Json<BTreeMap<String, String>>)> =
            sqlx::query_as("SELECT revision, spec, labels FROM instance WHERE host_id = $1 AND name = $2")
                .bind(new.host.0)
                .bind(new.name.as_str())
                .fetch_optional(&mut *self.tx)
                .await
                .act(ACT)?;
        let (changed, revision) = match &before {
            // An instance that was deleted goes on counting where it ended.
            None => (Changed::Created, self.last_revision(new).await? + 1),
            Some((revision, spec, labels)) if spec.0 == *new.spec && labels.0 == *new.labels => {
                return Ok((Changed::Unchanged, *revision as u64));
            }
            Some((revision, _, _)) => (Changed::Configured, revision + 1),
        };
        sqlx::query(
            "INSERT INTO instance (host_id, name, revision, spec, labels, created_at, updated_at) \
             VALUES ($1, $2, $3, $4, $5, $6, $6) ON CONFLICT (host_id, name) DO UPDATE SET \
             revision = excluded.revision, spec = excluded.spec, labels = excluded.labels, updated_at = excluded.updated_at",
        )
        .bind(new.host.0)
        .bind(new.name.as_str())
        .bind(revision)
        .bind(Json(new.spec))
        .bind(Json(new.labels))
        .bind(self.at)
        .execute(&mut *self.tx)
        .await
        .act(ACT)?;
        sqlx::query(
            "INSERT INTO instance_revision (host_id, name, revision, spec, created_at, actor) VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(new.host.0)
        .bind(new.name.as_str())
        .bind(revision)
        .bind(Json(new.spec))
        .bind(self.at)
        .bind(&self.actor)
        .execute(&mut *self.tx)
        .await
        .act(ACT)?;
        let reason = if changed == Changed::Created { "INSTANCE_CREATED" } else { "INSTANCE_CHANGED" };
        let resource = format!("hosts/{}/instances/{}", new.host_name, new.name);
        self.tell(reason, resource, format!("revision {revision}")).await?;
        hints::hint(&mut self.tx, "instance").await?;
        Ok((changed, revision as u64))
    }

    async fn last_revision(&mut self, new: &NewInstance<'_>) -> Result<i64, StoreError> {
        sqlx::query_scalar("SELECT coalesce(max(revision), 0) FROM instance_revision WHERE host_id = $1 AND name = $2")
            .bind(new.host.0)
            .bind(new.name.as_str())
            .fetch_one(&mut *self.tx)
            .await
            .act(ACT)
    }

    /// Removes an instance. False if there is none.
    pub async fn delete_instance(&mut self, host: &Name, name: &Name) -> Result<bool, StoreError> {
        let gone =
            sqlx::query("DELETE FROM instance i USING host h WHERE h.id = i.host_id AND h.name = $1 AND i.name = $2")
                .bind(host.as_str())
                .bind(name.as_str())
                .execute(&mut *self.tx)
                .await
                .act(ACT)?
                .rows_affected();
        if gone == 0 {
            return Ok(false);
        }
        let resource = format!("hosts/{host}/instances/{name}");
        self.tell("INSTANCE_DELETED", resource, "its container will be removed, its volumes are kept".into()).await?;
        hints::hint(&mut self.tx, "instance").await?;
        Ok(true)
    }

    /// Every instance of a host as it stands now: name and stored spec.
    pub async fn instances(&mut self, host: HostId) -> Result<Vec<(String, Value)>, StoreError> {
        let rows: Vec<(String, Json<Value>)> =
            sqlx::query_as("SELECT name, spec FROM instance WHERE host_id = $1 ORDER BY name")
                .bind(host.0)
                .fetch_all(&mut *self.tx)
                .await
                .act(ACT)?;
        Ok(rows.into_iter().map(|(name, spec)| (name, spec.0)).collect())
    }

    pub(super) async fn tell(
        &mut self,
        reason: &'static str,
        resource: String,
        message: String,
    ) -> Result<(), StoreError> {
        let event =
            events::NewEvent { at: self.at, reason, warning: false, resource, actor: self.actor.clone(), message };
        events::insert(&mut self.tx, &event).await
    }

    /// Makes everything true at once.
    pub async fn commit(self) -> Result<(), StoreError> {
        self.tx.commit().await.act(ACT)
    }
}
