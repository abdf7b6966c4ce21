//! Each host's desired state with its generation: read by sessions, written by the one who renders.
use super::{Act, Store, StoreError, events, hints, pushed};
use redforge_shared::{
    desired::Canonical,
    ids::{Digest, HostId, Name},
    policy::Policy,
};
use sqlx::{Postgres, Transaction, types::Json};
use std::collections::BTreeMap;
use time::OffsetDateTime;
use uuid::Uuid;

/// What a host should run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desired {
    pub generation: u64,
    pub spec: Vec<u8>,
    pub sha256: Digest,
    /// The agent holds a newer generation with other content.
    pub agent_ahead: bool,
}

#[derive(sqlx::FromRow)]
struct DesiredRow {
    generation: i64,
    spec: Vec<u8>,
    spec_sha256: Vec<u8>,
    agent_ahead_at: Option<OffsetDateTime>,
}

/// Everything that a host's desired state is made of, read in the transaction that may write it.
#[derive(Clone, Debug)]
pub struct Inputs {
    pub host_name: Name,
    pub site: Name,
    pub policy: Policy,
    /// Name and stored spec (JSON of `manifest::InstanceSpec`) of each instance.
    pub instances: Vec<(Name, serde_json::Value)>,
    /// Newest digest of every flow set that the instances may name.
    pub flow_sets: BTreeMap<Name, Digest>,
    /// Images and models that the hub can hand out.
    pub given: pushed::Given,
}

/// A host's desired state, locked while it is rendered.
pub struct PublishTx {
    pub(super) tx: Transaction<'static, Postgres>,
    host: HostId,
    before: Option<(u64, Digest)>,
}

#[derive(sqlx::FromRow)]
struct HostInputRow {
    name: String,
    site: String,
    policy: String,
}

const ACT: &str = "publishing a desired state";

impl Store {
    /// The host's desired state.
    pub async fn desired(&self, host: HostId) -> Result<Option<Desired>, StoreError> {
        let act = "reading a desired state";
        let row: Option<DesiredRow> =
            sqlx::query_as("SELECT generation, spec, spec_sha256, agent_ahead_at FROM host_desired WHERE host_id = $1")
                .bind(host.0)
                .fetch_optional(&self.pool)
                .await
                .act(act)?;
        row.map(|r| {
            Ok(Desired {
                generation: r.generation as u64,
                sha256: digest(act, &r.spec_sha256)?,
                spec: r.spec,
                agent_ahead: r.agent_ahead_at.is_some(),
            })
        })
        .transpose()
    }

    /// Generation and pause of these hosts, to find who must be told.
    pub async fn generations(&self, hosts: &[HostId]) -> Result<Vec<(HostId, u64, bool)>, StoreError> {
        let ids: Vec<Uuid> = hosts.iter().map(|h| h.0).collect();
        let rows: Vec<(Uuid, i64, bool)> = sqlx::query_as(
            "SELECT host_id, generation, agent_ahead_at IS NOT NULL FROM host_desired WHERE host_id = ANY ($1)",
        )
        .bind(ids)
        .fetch_all(&self.pool)
        .await
        .act("reading generations")?;
        Ok(rows.into_iter().map(|(h, g, p)| (HostId(h), g as u64, p)).collect())
    }

    /// Every host's id.
    pub async fn host_ids(&self) -> Result<Vec<HostId>, StoreError> {
        let ids: Vec<Uuid> =
            sqlx::query_scalar("SELECT id FROM host ORDER BY id").fetch_all(&self.pool).await.act("listing hosts")?;
        Ok(ids.into_iter().map(HostId).collect())
    }

    /// Locks the host's desired state; none if there is no such host.
    pub async fn begin_publish(&self, host: HostId) -> Result<Option<PublishTx>, StoreError> {
        let mut tx = self.pool.begin().await.act(ACT)?;
        // The row must be there to be locked: generation 0 stands for "nothing rendered yet".
        sqlx::query(
            "INSERT INTO host_desired (host_id, generation, spec, spec_sha256, updated_at) \
             SELECT id, 0, '', $2, enrolled_at FROM host WHERE id = $1 ON CONFLICT (host_id) DO NOTHING",
        )
        .bind(host.0)
        .bind(&Digest::of(b"").0[..])
        .execute(&mut *tx)
        .await
        .act(ACT)?;
        let row: Option<(i64, Vec<u8>)> =
            sqlx::query_as("SELECT generation, spec_sha256 FROM host_desired WHERE host_id = $1 FOR UPDATE")
                .bind(host.0)
                .fetch_optional(&mut *tx)
                .await
                .act(ACT)?;
        let Some((generation, sha)) = row else { return Ok(None) };
        let before = if generation == 0 { None } else { Some((generation as u64, digest(ACT, &sha)?)) };
        Ok(Some(PublishTx { tx, host, before }))
    }

    /// The agent holds the same content under a higher number: the hub's number follows.
    pub async fn raise_generation(&self, host: HostId, sha256: Digest, to: u64) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "UPDATE host_desired SET generation = $3 WHERE host_id = $1 AND spec_sha256 = $2 AND generation < $3",
        )
        .bind(host.0)
        .bind(&sha256.0[..])
        .bind(to as i64)
        .execute(&self.pool)
        .await
        .act("raising a generation")?;
        Ok(done.rows_affected() > 0)
    }

    /// The agent holds a newer generation with other content: nothing is sent until an operator resumes.
    pub async fn pause_behind(
        &self,
        host: HostId,
        agent_generation: u64,
        now: OffsetDateTime,
    ) -> Result<(), StoreError> {
        let act = "pausing a host";
        let mut tx = self.pool.begin().await.act(act)?;
        let name: Option<String> = sqlx::query_scalar(
            "UPDATE host_desired d SET agent_ahead_at = $3, agent_generation = $2 FROM host h \
             WHERE d.host_id = $1 AND h.id = d.host_id AND d.agent_ahead_at IS NULL RETURNING h.name",
        )
        .bind(host.0)
        .bind(agent_generation as i64)
        .bind(now)
        .fetch_optional(&mut *tx)
        .await
        .act(act)?;
        let Some(name) = name else { return Ok(()) };
        let event = events::NewEvent {
            at: now,
            reason: "HUB_BEHIND",
            warning: true,
            resource: format!("hosts/{name}"),
            actor: "hub".into(),
            message: format!(
                "the agent holds generation {agent_generation} with content this hub does not have; nothing is sent \
                 until `redforgectl resume hosts/{name}`"
            ),
        };
        events::insert(&mut tx, &event).await?;
        hints::hint(&mut tx, "host_desired").await?;
        tx.commit().await.act(act)
    }

    /// Lifts the pause: the hub's generation goes above the agent's. False if the host was not paused.
    pub async fn resume_host(&self, host: HostId, actor: &str, now: OffsetDateTime) -> Result<bool, StoreError> {
        let act = "resuming a host";
        let mut tx = self.pool.begin().await.act(act)?;
        let name: Option<String> = sqlx::query_scalar(
            "UPDATE host_desired d SET generation = greatest(d.generation, coalesce(d.agent_generation, 0)) + 1, \
             agent_ahead_at = NULL, agent_generation = NULL, updated_at = $2 FROM host h \
             WHERE d.host_id = $1 AND h.id = d.host_id AND d.agent_ahead_at IS NOT NULL RETURNING h.name",
        )
        .bind(host.0)
        .bind(now)
        .fetch_optional(&mut *tx)
        .await
        .act(act)?;
        let Some(name) = name else { return Ok(false) };
        let event = events::NewEvent {
            at: now,
            reason: "HOST_RESUMED",
            warning: false,
            resource: format!("hosts/{name}"),
            actor: actor.into(),
            message: "the hub's desired state is sent again and replaces what the agent holds".into(),
        };
        events::insert(&mut tx, &event).await?;
        hints::hint(&mut tx, "host_desired").await?;
        tx.commit().await.act(act)?;
        Ok(true)
    }
}

impl PublishTx {
    /// What the desired state is made of, as it stands in this transaction.
    pub async fn inputs(&mut self) -> Result<Inputs, StoreError> {
        let row: HostInputRow = sqlx::query_as(
            "SELECT h.name, s.name AS site, s.policy FROM host h JOIN site s ON s.id = h.site_id WHERE h.id = $1",
        )
        .bind(self.host.0)
        .fetch_one(&mut *self.tx)
        .await
        .act(ACT)?;
        let instances: Vec<(String, Json<serde_json::Value>)> =
            sqlx::query_as("SELECT name, spec FROM instance WHERE host_id = $1 ORDER BY name")
                .bind(self.host.0)
                .fetch_all(&mut *self.tx)
                .await
                .act(ACT)?;
        let flow_sets: Vec<(String, Vec<u8>)> =
            sqlx::query_as("SELECT DISTINCT ON (name) name, digest FROM flow_set ORDER BY name, revision DESC")
                .fetch_all(&mut *self.tx)
                .await
                .act(ACT)?;
        let policy =
            serde_json::from_value(serde_json::Value::String(row.policy)).map_err(|e| corrupt(ACT, "policy", &e))?;
        let given = pushed::given(&mut *self.tx).await?;
        Ok(Inputs {
            given,
            host_name: name(&row.name)?,
            site: name(&row.site)?,
            policy,
            instances: instances.into_iter().map(|(n, s)| Ok((name(&n)?, s.0))).collect::<Result<_, StoreError>>()?,
            flow_sets: flow_sets
                .into_iter()
                .map(|(n, d)| Ok((name(&n)?, digest(ACT, &d)?)))
                .collect::<Result<_, StoreError>>()?,
        })
    }

    /// Writes the next generation if the content differs. Returns it, or none if nothing changed.
    pub async fn commit(mut self, doc: &Canonical, now: OffsetDateTime) -> Result<Option<u64>, StoreError> {
        let next = match self.before {
            Some((_, sha)) if sha == doc.sha256 => return Ok(None),
            Some((generation, _)) => generation + 1,
            None => 1,
        };
        sqlx::query(
            "UPDATE host_desired SET generation = $2, spec = $3, spec_sha256 = $4, updated_at = $5 WHERE host_id = $1",
        )
        .bind(self.host.0)
        .bind(next as i64)
        .bind(&doc.bytes)
        .bind(&doc.sha256.0[..])
        .bind(now)
        .execute(&mut *self.tx)
        .await
        .act(ACT)?;
        hints::hint(&mut self.tx, "host_desired").await?;
        self.tx.commit().await.act(ACT)?;
        Ok(Some(next))
    }
}

fn digest(act: &'static str, bytes: &[u8]) -> Result<Digest, StoreError> {
    Digest::try_from(bytes).map_err(|e| corrupt(act, "digest", &e))
}

fn name(text: &str) -> Result<Name, StoreError> {
    text.parse().map_err(|e| corrupt(ACT, "name", &e))
}

fn corrupt(act: &'static str, what: &'static str, e: &dyn std::fmt::Display) -> StoreError {
    StoreError::Corrupt { act, what, problem: e.to_string() }
}
