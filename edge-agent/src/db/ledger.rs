//! `ledger.db`: the host's accepted desired state, the site's own rows, what the reconciler remembers, wanted blobs and the
//! secrets the host made for itself. Step "accept (commit)" of the flow down.
//!
//! It commits, then tells: the hints of `subscribe` and `subscribe_wanted` come after the commit and carry nothing. It
//! does not know the hub, Docker or what a memory row means. Small, so it is checked whole at every start.
use super::{
    OpenError, Shape,
    worker::{CallError, Worker},
};
use bytes::Bytes;
use redforge_shared::{
    desired::{DesiredState, InvalidDesired},
    ids::Digest,
};
use rusqlite::{Connection, OptionalExtension as _, params};
use rusqlite_migration::{M, Migrations};
use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, RwLock},
};
use tokio::sync::watch;

mod blobs;
mod failed_log;
mod given;
mod kept;
mod site;

pub use blobs::BlobFault;
pub use failed_log::{FailedLine, FailedLog};
pub use given::{Given, GivenSecrets};
pub use kept::KeptDraft;
pub use site::{Scope, Site};

const APPLICATION_ID: i32 = 0x5246_4c31; // "RFL1"

const SCHEMA: &str = "
CREATE TABLE desired (one INTEGER PRIMARY KEY CHECK (one = 1), generation INTEGER NOT NULL, sha256 BLOB NOT NULL,
                      spec BLOB NOT NULL) STRICT;
CREATE TABLE identity (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT;
CREATE TABLE site_hold (instance TEXT PRIMARY KEY) STRICT;
CREATE TABLE site_nonce (instance TEXT PRIMARY KEY, nonce TEXT NOT NULL) STRICT;
CREATE TABLE memory (kind TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL, PRIMARY KEY (kind, key)) STRICT;
CREATE TABLE wanted (digest BLOB PRIMARY KEY, here INTEGER NOT NULL DEFAULT 0) STRICT;
CREATE TABLE local_secret (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT;
CREATE TABLE kv (key TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT;
";

/// Nothing ever wrote or read it: the identity is in files of its own.
const UNUSED: &str = "DROP TABLE identity;";

/// What went wrong, by the act that failed.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    #[error("opening the ledger")]
    Open(#[from] OpenError),
    #[error("{0}")]
    Act(&'static str, #[source] rusqlite::Error),
    #[error("{0}: the ledger has been given up after a disk error")]
    Stopped(&'static str),
    #[error("the desired state is refused")]
    Refused(#[source] InvalidDesired),
}

/// The desired state that this host accepted last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcceptedDesired {
    pub generation: u64,
    pub sha256: Digest,
    /// Canonical document, verbatim as the hub sent it.
    pub bytes: Bytes,
    pub state: DesiredState,
}

/// What became of an offered desired state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// Committed; it replaces what was there.
    New,
    /// Exactly what is there.
    Same,
    /// Same content under a higher number: the number was raised.
    Raised,
    /// Not newer than what is there; nothing is downgraded by itself.
    Older,
}

/// A handle to `ledger.db`; clones share one writer thread.
#[derive(Clone, Debug)]
pub struct Ledger {
    worker: Worker,
    head: Arc<RwLock<Head>>,
    changed: watch::Sender<u64>,
    wanted: watch::Sender<u64>,
    kept: watch::Sender<u64>,
    faults: watch::Sender<BTreeMap<Digest, BlobFault>>,
}

#[derive(Debug, Default)]
struct Head {
    number: Option<(u64, Digest)>,
    desired: Option<Arc<AcceptedDesired>>,
}

impl Ledger {
    /// Opens or creates the file, brings its schema up to date and checks it whole.
    pub async fn open(path: &Path) -> Result<Self, LedgerError> {
        let path = path.to_path_buf();
        let (worker, head) = Worker::start("ledger", move || open_checked(&path)).await?;
        Ok(Self {
            worker,
            head: Arc::new(RwLock::new(head)),
            changed: watch::Sender::new(0),
            wanted: watch::Sender::new(0),
            kept: watch::Sender::new(0),
            faults: watch::Sender::default(),
        })
    }

    /// Resolves when the file can no longer be trusted (a failed fsync, a torn page): the process must end.
    pub async fn broken(&self) {
        self.worker.broken().await;
    }

    /// A hint after each commit that the reconciler should look at: desired state, site rows, an arrived blob.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// A hint after each newly wanted blob.
    pub fn subscribe_wanted(&self) -> watch::Receiver<u64> {
        self.wanted.subscribe()
    }

    /// The accepted desired state. `None`: there is none, or this build cannot read it (then `accepted` still has its
    /// number). Neither means "nothing should run".
    pub fn desired(&self) -> Option<Arc<AcceptedDesired>> {
        self.head.read().expect("no panic while the lock is held").desired.clone()
    }

    /// Generation and hash of the accepted desired state, for the hello.
    pub fn accepted(&self) -> Option<(u64, Digest)> {
        self.head.read().expect("no panic while the lock is held").number
    }

    /// Takes over a desired state if it is newer, and commits it before anybody hears of it. A document that does not
    /// match its hash or is not understood whole is refused and changes nothing.
    pub async fn accept(&self, generation: u64, spec: Bytes, sha256: Digest) -> Result<Accepted, LedgerError> {
        const ACT: &str = "accepting the desired state";
        if Digest::of(&spec) != sha256 {
            return Err(LedgerError::Refused(InvalidDesired::HashMismatch));
        }
        let state = DesiredState::parse(&spec).map_err(LedgerError::Refused)?;
        let offered = AcceptedDesired { generation, sha256, bytes: spec.clone(), state };
        let head = Arc::clone(&self.head);
        let verdict = self
            .call(ACT, move |c| {
                // On the one writer thread, so that two offers cannot interleave.
                let verdict = judge(head.read().expect("no panic while the lock is held").number, generation, sha256);
                if matches!(verdict, Accepted::New | Accepted::Raised) {
                    c.execute(
                        "INSERT OR REPLACE INTO desired (one, generation, sha256, spec) VALUES (1, ?1, ?2, ?3)",
                        params![generation as i64, &sha256.0[..], &offered.bytes[..]],
                    )?;
                    let mut head = head.write().expect("no panic while the lock is held");
                    *head = Head { number: Some((generation, sha256)), desired: Some(Arc::new(offered)) };
                }
                Ok(verdict)
            })
            .await?;
        if matches!(verdict, Accepted::New | Accepted::Raised) {
            bump(&self.changed);
        }
        Ok(verdict)
    }

    /// All memory rows of a kind, by key.
    pub async fn memory_all(&self, kind: &str) -> Result<Vec<(String, Vec<u8>)>, LedgerError> {
        let kind = kind.to_owned();
        self.call("reading the memory", move |c| {
            c.prepare_cached("SELECT key, value FROM memory WHERE kind = ?1 ORDER BY key")?
                .query_map([kind], |r| Ok((r.get(0)?, r.get(1)?)))?
                .collect()
        })
        .await
    }

    /// Remembers a value, or forgets it. No hint: only the reconciler writes and reads these.
    pub async fn memory_set(&self, kind: &str, key: &str, value: Option<&[u8]>) -> Result<(), LedgerError> {
        let (kind, key, value) = (kind.to_owned(), key.to_owned(), value.map(<[u8]>::to_vec));
        self.call("writing the memory", move |c| {
            match value {
                Some(v) => c.execute(
                    "INSERT OR REPLACE INTO memory (kind, key, value) VALUES (?1, ?2, ?3)",
                    params![kind, key, v],
                )?,
                None => c.execute("DELETE FROM memory WHERE kind = ?1 AND key = ?2", [kind, key])?,
            };
            Ok(())
        })
        .await
    }

    /// The secret of this name; drawn by `make` the first time and the same for ever after.
    pub async fn local_secret(
        &self,
        name: &str,
        make: impl FnOnce() -> Vec<u8> + Send + 'static,
    ) -> Result<Vec<u8>, LedgerError> {
        let name = name.to_owned();
        self.call("reading a local secret", move |c| {
            let stored = c
                .prepare_cached("SELECT value FROM local_secret WHERE name = ?1")?
                .query_row([&name], |r| r.get(0))
                .optional()?;
            if let Some(stored) = stored {
                return Ok(stored);
            }
            let drawn = make();
            c.execute("INSERT INTO local_secret (name, value) VALUES (?1, ?2)", params![name, drawn])?;
            Ok(drawn)
        })
        .await
    }

    /// A small value by key (subnet, last hub time).
    pub async fn kv_get(&self, key: &str) -> Result<Option<Vec<u8>>, LedgerError> {
        let key = key.to_owned();
        self.call("reading a value", move |c| {
            c.query_row("SELECT value FROM kv WHERE key = ?1", [key], |r| r.get(0)).optional()
        })
        .await
    }

    /// Writes a small value.
    pub async fn kv_set(&self, key: &str, value: impl Into<Vec<u8>>) -> Result<(), LedgerError> {
        let (key, value) = (key.to_owned(), value.into());
        self.call("writing a value", move |c| {
            c.execute("INSERT OR REPLACE INTO kv (key, value) VALUES (?1, ?2)", params![key, value]).map(|_| ())
        })
        .await
    }

    /// Counts a start of the agent on this state folder, from 1. Call once per process.
    pub async fn next_start_no(&self) -> Result<u64, LedgerError> {
        self.call("counting the start", |c| {
            let last: Option<Vec<u8>> =
                c.query_row("SELECT value FROM kv WHERE key = 'start_no'", [], |r| r.get(0)).optional()?;
            let last = last.and_then(|v| v.try_into().ok()).map_or(0, u64::from_be_bytes);
            let next = last + 1;
            c.execute(
                "INSERT OR REPLACE INTO kv (key, value) VALUES ('start_no', ?1)",
                [next.to_be_bytes().as_slice()],
            )?;
            Ok(next)
        })
        .await
    }

    async fn call<T: Send + 'static>(
        &self,
        act: &'static str,
        f: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, LedgerError> {
        self.worker.call(f).await.map_err(|e| match e {
            CallError::Sql(e) => LedgerError::Act(act, e),
            CallError::Stopped => LedgerError::Stopped(act),
        })
    }
}

fn bump(hint: &watch::Sender<u64>) {
    hint.send_modify(|n| *n += 1);
}

/// Pure: what to do with an offered (generation, hash).
fn judge(head: Option<(u64, Digest)>, generation: u64, sha256: Digest) -> Accepted {
    match head {
        Some((g, s)) if s == sha256 && generation == g => Accepted::Same,
        Some((g, s)) if s == sha256 && generation > g => Accepted::Raised,
        Some((g, _)) if generation <= g => Accepted::Older,
        _ => Accepted::New,
    }
}

fn open_checked(path: &Path) -> Result<(Connection, Head), OpenError> {
    let first = [SCHEMA, site::HOLDS, given::SCHEMA, kept::SCHEMA, site::CHAINS];
    let steps: Vec<_> = first.into_iter().chain([failed_log::SCHEMA, UNUSED]).map(M::up).collect();
    let schema_version = steps.len();
    let shape = Shape { application_id: APPLICATION_ID, migrations: Migrations::new(steps), schema_version };
    let conn = super::open(path, &shape)?;
    let sql = |source| OpenError::Open { path: path.into(), source };
    if let Some(problem) = super::quick_check(&conn).map_err(sql)? {
        return Err(OpenError::Damaged { path: path.into(), problem });
    }
    let row = conn
        .query_row("SELECT generation, sha256, spec FROM desired", [], |r| {
            Ok((r.get::<_, i64>(0)? as u64, r.get::<_, [u8; 32]>(1)?, r.get::<_, Vec<u8>>(2)?))
        })
        .optional()
        .map_err(sql)?;
    let Some((generation, sha, spec)) = row else { return Ok((conn, Head::default())) };
    let sha256 = Digest(sha);
    let desired = match DesiredState::parse(&spec) {
        Ok(state) => Some(Arc::new(AcceptedDesired { generation, sha256, bytes: spec.into(), state })),
        Err(e) => {
            tracing::error!(generation, error = %e, "the stored desired state is not understood by this agent");
            None
        }
    };
    Ok((conn, Head { number: Some((generation, sha256)), desired }))
}

#[cfg(test)]
mod tests;
