//! Hosts: who they are, which process speaks for them, when they were last heard.
use super::{Act, Store, StoreError, events};
use redforge_shared::{
    ids::{HostId, RunId},
    report::{HostFacts, Link},
};
use sqlx::types::Json;
use time::OffsetDateTime;
use uuid::Uuid;

/// What a request of an agent is checked against.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct PeerRow {
    pub name: String,
    pub serial_current: Vec<u8>,
    pub serial_next: Option<Vec<u8>>,
    pub fenced_at: Option<OffsetDateTime>,
}

/// An agent's process that asks to speak for its host.
#[derive(Clone, Debug)]
pub struct SessionClaim {
    pub host: HostId,
    pub run_id: RunId,
    pub start_no: u64,
    pub hello_no: u64,
    pub facts: HostFacts,
}

/// What became of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claimed {
    /// It speaks for the host now.
    Yes,
    /// The same process has said a later hello already.
    Older,
    /// A process that was superseded spoke again: the host exists twice and is fenced now.
    Clone,
    /// The host was fenced before.
    Fenced,
    /// There is no such host.
    Unknown,
}

#[derive(sqlx::FromRow)]
struct SpeakerRow {
    name: String,
    run_id: Option<Vec<u8>>,
    start_no: i64,
    hello_no: i64,
    fenced_at: Option<OffsetDateTime>,
}

/// A host whose connection is judged.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct LinkRow {
    pub id: Uuid,
    pub name: String,
    pub last_seen_at: Option<OffsetDateTime>,
    pub link: Option<String>,
}

/// Superseded processes remembered per host.
const SUPERSEDED_KEPT: i64 = 100;

impl Store {
    /// The host as its requests are checked.
    pub async fn peer(&self, host: HostId) -> Result<Option<PeerRow>, StoreError> {
        sqlx::query_as("SELECT name, serial_current, serial_next, fenced_at FROM host WHERE id = $1")
            .bind(host.0)
            .fetch_optional(&self.pool)
            .await
            .act("checking an agent")
    }

    /// The next serial was used: from now on it is the only one.
    pub async fn promote_serial(&self, host: HostId, next: &[u8]) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE host SET serial_current = serial_next, serial_next = NULL WHERE id = $1 AND serial_next = $2",
        )
        .bind(host.0)
        .bind(next)
        .execute(&self.pool)
        .await
        .act("putting a renewed certificate in use")?;
        Ok(())
    }

    /// Lets a process speak for its host, or finds that it must not.
    pub async fn claim_session(&self, claim: &SessionClaim, now: OffsetDateTime) -> Result<Claimed, StoreError> {
        let act = "beginning a session";
        let mut tx = self.pool.begin().await.act(act)?;
        let row: Option<SpeakerRow> =
            sqlx::query_as("SELECT name, run_id, start_no, hello_no, fenced_at FROM host WHERE id = $1 FOR UPDATE")
                .bind(claim.host.0)
                .fetch_optional(&mut *tx)
                .await
                .act(act)?;
        let Some(row) = row else { return Ok(Claimed::Unknown) };
        if row.fenced_at.is_some() {
            return Ok(Claimed::Fenced);
        }
        let same_run = row.run_id.as_deref() == Some(&claim.run_id.0[..]);
        if same_run && row.hello_no >= claim.hello_no as i64 {
            return Ok(Claimed::Older);
        }
        let superseded: bool =
            sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM host_superseded WHERE host_id = $1 AND run_id = $2)")
                .bind(claim.host.0)
                .bind(&claim.run_id.0[..])
                .fetch_one(&mut *tx)
                .await
                .act(act)?;
        if superseded {
            fence(&mut tx, claim.host, &row.name, now).await?;
            tx.commit().await.act(act)?;
            return Ok(Claimed::Clone);
        }
        if !same_run {
            supersede(&mut tx, claim, &row, now).await?;
        }
        sqlx::query("UPDATE host SET run_id = $2, start_no = $3, hello_no = $4, facts = $5 WHERE id = $1")
            .bind(claim.host.0)
            .bind(&claim.run_id.0[..])
            .bind(claim.start_no as i64)
            .bind(claim.hello_no as i64)
            .bind(Json(&claim.facts))
            .execute(&mut *tx)
            .await
            .act(act)?;
        tx.commit().await.act(act)?;
        Ok(Claimed::Yes)
    }

    /// An operator says that one agent is left: any process may speak for the host again. False if it was not fenced.
    pub async fn unfence_host(&self, host: HostId, actor: &str, now: OffsetDateTime) -> Result<bool, StoreError> {
        let act = "letting a fenced host in again";
        let mut tx = self.pool.begin().await.act(act)?;
        // Which of the two stays is not known here, and it may well be the older one: starts are counted anew.
        let name: Option<String> = sqlx::query_scalar(
            "UPDATE host SET fenced_at = NULL, start_no = 0 WHERE id = $1 AND fenced_at IS NOT NULL RETURNING name",
        )
        .bind(host.0)
        .fetch_optional(&mut *tx)
        .await
        .act(act)?;
        let Some(name) = name else { return Ok(false) };
        // The one that stays may have been superseded, and speaks on as the process that it was.
        for statement in [
            "DELETE FROM host_superseded WHERE host_id = $1",
            "UPDATE host_report SET start_no = 0, report_no = 0 WHERE host_id = $1",
        ] {
            sqlx::query(statement).bind(host.0).execute(&mut *tx).await.act(act)?;
        }
        let event = events::NewEvent {
            at: now,
            reason: "HOST_UNFENCED",
            warning: false,
            resource: format!("hosts/{name}"),
            actor: actor.into(),
            message: "the host is let in again; a second agent that still speaks for it fences it anew".into(),
        };
        events::insert(&mut tx, &event).await?;
        tx.commit().await.act(act)?;
        Ok(true)
    }

    /// Does this process still speak for its host?
    pub async fn speaks(&self, host: HostId, run_id: RunId, hello_no: u64) -> Result<bool, StoreError> {
        sqlx::query_scalar(
            "SELECT EXISTS (SELECT 1 FROM host WHERE id = $1 AND run_id = $2 AND hello_no = $3 AND fenced_at IS NULL)",
        )
        .bind(host.0)
        .bind(&run_id.0[..])
        .bind(hello_no as i64)
        .fetch_one(&self.pool)
        .await
        .act("checking a session")
    }

    /// Writes when hosts were last heard, all at once. Times never go backwards.
    pub async fn write_last_seen(&self, seen: &[(HostId, OffsetDateTime)]) -> Result<(), StoreError> {
        let hosts: Vec<Uuid> = seen.iter().map(|(h, _)| h.0).collect();
        let times: Vec<OffsetDateTime> = seen.iter().map(|(_, t)| *t).collect();
        sqlx::query(
            "INSERT INTO host_last_seen (host_id, at) SELECT s.id, s.at FROM unnest($1::uuid[], $2::timestamptz[]) AS s (id, at) \
             WHERE EXISTS (SELECT 1 FROM host h WHERE h.id = s.id) ORDER BY s.id \
             ON CONFLICT (host_id) DO UPDATE SET at = greatest(host_last_seen.at, excluded.at)",
        )
        .bind(hosts)
        .bind(times)
        .execute(&self.pool)
        .await
        .act("writing when hosts were last seen")?;
        Ok(())
    }

    /// Every host with what is known of its connection.
    pub async fn links(&self) -> Result<Vec<LinkRow>, StoreError> {
        sqlx::query_as(
            "SELECT h.id, h.name, s.at AS last_seen_at, l.link FROM host h \
             LEFT JOIN host_last_seen s ON s.host_id = h.id LEFT JOIN host_link l ON l.host_id = h.id",
        )
        .fetch_all(&self.pool)
        .await
        .act("reading the hosts' links")
    }

    /// Stores a changed link; of several hubs that see the same change one writes the event.
    pub async fn change_link(
        &self,
        host: HostId,
        from: Option<Link>,
        to: Link,
        event: &events::NewEvent,
    ) -> Result<bool, StoreError> {
        let act = "storing a changed link";
        let mut tx = self.pool.begin().await.act(act)?;
        let changed = sqlx::query(
            "INSERT INTO host_link (host_id, link, since) SELECT id, $3, $4 FROM host WHERE id = $1 \
             ON CONFLICT (host_id) DO UPDATE SET link = excluded.link, since = excluded.since WHERE host_link.link = $2",
        )
        .bind(host.0)
        .bind(from.map(Link::as_str))
        .bind(to.as_str())
        .bind(event.at)
        .execute(&mut *tx)
        .await
        .act(act)?
        .rows_affected();
        if changed == 0 {
            return Ok(false);
        }
        events::insert(&mut tx, event).await?;
        super::hints::hint(&mut tx, "host_link").await?;
        tx.commit().await.act(act)?;
        Ok(true)
    }
}

async fn fence(tx: &mut sqlx::PgConnection, host: HostId, name: &str, now: OffsetDateTime) -> Result<(), StoreError> {
    sqlx::query("UPDATE host SET fenced_at = $2 WHERE id = $1")
        .bind(host.0)
        .bind(now)
        .execute(&mut *tx)
        .await
        .act("fencing a host")?;
    let event = events::NewEvent {
        at: now,
        reason: "HOST_FENCED",
        warning: true,
        resource: format!("hosts/{name}"),
        actor: "hub".into(),
        message: format!(
            "an agent process that had been superseded spoke again: this host's state folder exists twice; nothing is \
             taken from it until one of the two agents is stopped and `redforgectl resume {name}` is said"
        ),
    };
    events::insert(tx, &event).await
}

async fn supersede(
    tx: &mut sqlx::PgConnection,
    claim: &SessionClaim,
    before: &SpeakerRow,
    now: OffsetDateTime,
) -> Result<(), StoreError> {
    let act = "superseding a session";
    let Some(run_id) = &before.run_id else { return Ok(()) };
    sqlx::query("INSERT INTO host_superseded (host_id, run_id, at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING")
        .bind(claim.host.0)
        .bind(run_id)
        .bind(now)
        .execute(&mut *tx)
        .await
        .act(act)?;
    sqlx::query(
        "DELETE FROM host_superseded WHERE host_id = $1 AND run_id NOT IN \
         (SELECT run_id FROM host_superseded WHERE host_id = $1 ORDER BY at DESC LIMIT $2)",
    )
    .bind(claim.host.0)
    .bind(SUPERSEDED_KEPT)
    .execute(&mut *tx)
    .await
    .act(act)?;
    if (claim.start_no as i64) > before.start_no {
        return Ok(());
    }
    // The state folder came back from an older copy: its reports count from the beginning again.
    sqlx::query("UPDATE host_report SET start_no = 0, report_no = 0 WHERE host_id = $1")
        .bind(claim.host.0)
        .execute(&mut *tx)
        .await
        .act(act)?;
    let event = events::NewEvent {
        at: now,
        reason: "AGENT_RESTORED",
        warning: true,
        resource: format!("hosts/{}", before.name),
        actor: "agent".into(),
        message: format!(
            "the agent's state folder is older than it was: start {} came after start {}",
            claim.start_no, before.start_no
        ),
    };
    events::insert(tx, &event).await
}
