//! Keeps the hub's own certificates: loads the authority, makes its successor in time, renews what the doors show.
use crate::{
    pki::{
        Kek, Pki, PkiError,
        authority::{self, SealedAuthority},
        leaf::{self, ServerLeaf},
        server_tls::{self, DoorTls},
    },
    store::{Store, StoreError, authorities::AuthorityRow},
};
use redforge_shared::{clock::SharedClock, error::Chain};
use std::{path::PathBuf, sync::Arc, time::Duration};
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What keeping certificates needs.
#[derive(Clone, Debug)]
pub struct Keeper {
    pub store: Store,
    pub pki: Pki,
    pub tls: Arc<DoorTls>,
    pub clock: SharedClock,
    /// State folder: key file, root.pem, the doors' last certificate.
    pub state_dir: PathBuf,
    /// What browsers dial the operators' door by.
    pub names: Vec<String>,
    /// Make the authority where there is none.
    pub create: bool,
}

/// Why certificates are not in order.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    #[error("there is no certificate authority yet: run `redforge-hub pki init`")]
    None,
    #[error("keeping the certificate authorities")]
    Store(#[source] StoreError),
    #[error("making or loading certificates")]
    Pki(#[source] PkiError),
    #[error("writing {path}")]
    Write { path: PathBuf, source: std::io::Error },
}

/// The doors' last certificate, so that they open while the database is away.
const DOOR_FILE: &str = "door.pem";

impl Keeper {
    /// Runs until the stop; `ready` turns true once the doors have a certificate of the loaded authority.
    pub async fn run(self, ready: watch::Sender<bool>, stop: CancellationToken) {
        let mut leaf = self.open_with_the_last();
        let mut said = String::new();
        loop {
            let tick = match self.pass(&mut leaf).await {
                Ok(()) => {
                    ready.send_if_modified(|r| !std::mem::replace(r, true));
                    said.clear();
                    // Short-lived certificates are looked at more often.
                    (self.pki.lifetimes.server / 10).min(Duration::from_secs(60))
                }
                Err(KeepError::Store(e)) if e.is_unavailable() => Duration::from_millis(500),
                Err(e) => {
                    let text = Chain(&e).to_string();
                    if text != said {
                        tracing::error!(error = text, "certificates are not in order");
                        said = text;
                    }
                    Duration::from_secs(2)
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(tick) => {}
            }
        }
    }

    fn open_with_the_last(&self) -> Option<ServerLeaf> {
        let leaf = server_tls::load(&self.state_dir.join(DOOR_FILE))?;
        if leaf.not_after <= self.clock.now() {
            return None;
        }
        let root = leaf.chain.last()?.clone();
        self.tls.set(&leaf, &[root]).ok()?;
        Some(leaf)
    }

    /// One look: idempotent.
    async fn pass(&self, leaf: &mut Option<ServerLeaf>) -> Result<(), KeepError> {
        let now = self.clock.now();
        let mut rows = self.store.authorities().await.map_err(KeepError::Store)?;
        if wants(&rows, now) {
            if rows.is_empty() && !self.create {
                return Err(KeepError::None);
            }
            rows = self.make(now).await?;
        }
        let (issuing, roots) = newest(&rows).ok_or(KeepError::None)?;
        let loaded = self.pki.current().ok();
        let changed = loaded.as_ref().is_none_or(|a| a.issuing_id != issuing.id || a.roots.len() != roots.len());
        if changed {
            let kek = Kek::read(&self.state_dir.join("kek")).map_err(KeepError::Pki)?;
            let authority = authority::load(&kek, issuing.id, &sealed(issuing), roots).map_err(KeepError::Pki)?;
            self.write("root.pem", server_tls::roots_pem(&authority).as_bytes(), 0o644)?;
            self.pki.set(authority);
        }
        let authority = self.pki.current().map_err(KeepError::Pki)?;
        let kept = leaf.as_ref().is_some_and(|l| {
            l.chain.get(1) == Some(&authority.issuing)
                && l.names == self.names
                && now < l.not_before + (l.not_after - l.not_before) / 2
        });
        if kept && !changed {
            return Ok(());
        }
        if !kept {
            let fresh =
                leaf::issue_server(&authority, &self.names, now, self.pki.lifetimes.server).map_err(KeepError::Pki)?;
            let path = self.state_dir.join(DOOR_FILE);
            server_tls::save(&path, &fresh).map_err(|source| KeepError::Write { path, source })?;
            tracing::info!(not_after = %fresh.not_after, "the doors have a new certificate");
            *leaf = Some(fresh);
        }
        if let Some(leaf) = leaf {
            self.tls.set(leaf, &authority.roots).map_err(KeepError::Pki)?;
        }
        Ok(())
    }

    /// One look for a command: writes root.pem and tells the pin.
    pub async fn load_and_write(&self) -> Result<redforge_shared::tls::CaPin, KeepError> {
        self.pass(&mut None).await?;
        self.pki.ca_pin().map_err(KeepError::Pki)
    }

    /// Makes what is missing, alone among all hubs.
    pub async fn make(&self, now: OffsetDateTime) -> Result<Vec<AuthorityRow>, KeepError> {
        let mut tx = self.store.lock_authorities().await.map_err(KeepError::Store)?;
        let rows = tx.all().await.map_err(KeepError::Store)?;
        if !wants(&rows, now) {
            return Ok(rows);
        }
        let path = self.state_dir.join("kek");
        // A new key file beside stored authorities could never open them.
        let kek = if rows.is_empty() { Kek::read_or_make(&path) } else { Kek::read(&path) }.map_err(KeepError::Pki)?;
        let root = match rows.iter().find(|r| r.role == "root" && r.not_after > now) {
            Some(row) => sealed(row),
            None => {
                let root = authority::make_root(&kek, now).map_err(KeepError::Pki)?;
                tx.insert(&row("root", &root), now).await.map_err(KeepError::Store)?;
                root
            }
        };
        let issuing = authority::make_issuing(&kek, &root, now).map_err(KeepError::Pki)?;
        tx.insert(&row("issuing", &issuing), now).await.map_err(KeepError::Store)?;
        let rows = tx.all().await.map_err(KeepError::Store)?;
        tx.commit().await.map_err(KeepError::Store)?;
        tracing::info!("a certificate authority was made");
        Ok(rows)
    }

    fn write(&self, name: &str, content: &[u8], mode: u32) -> Result<(), KeepError> {
        let path = self.state_dir.join(name);
        if std::fs::read(&path).is_ok_and(|old| old == content) {
            return Ok(());
        }
        server_tls::replace(&path, content, mode).map_err(|source| KeepError::Write { path, source })
    }
}

/// Is an authority missing, or the newest issuing one past half of its life?
fn wants(rows: &[AuthorityRow], now: OffsetDateTime) -> bool {
    match newest(rows) {
        Some((issuing, _)) => authority::past_half(&sealed(issuing), now),
        None => true,
    }
}

/// The newest issuing authority and the roots, the newest first.
fn newest(rows: &[AuthorityRow]) -> Option<(&AuthorityRow, Vec<Vec<u8>>)> {
    let issuing = rows.iter().filter(|r| r.role == "issuing").max_by_key(|r| r.id)?;
    let mut roots: Vec<&AuthorityRow> = rows.iter().filter(|r| r.role == "root").collect();
    roots.sort_by_key(|r| std::cmp::Reverse(r.id));
    Some((issuing, roots.into_iter().map(|r| r.certificate.clone()).collect()))
}

fn sealed(row: &AuthorityRow) -> SealedAuthority {
    SealedAuthority {
        certificate: row.certificate.clone(),
        sealed_key: row.sealed_key.clone(),
        not_before: row.not_before,
        not_after: row.not_after,
    }
}

fn row(role: &str, a: &SealedAuthority) -> AuthorityRow {
    AuthorityRow {
        id: 0,
        role: role.into(),
        certificate: a.certificate.clone(),
        sealed_key: a.sealed_key.clone(),
        not_before: a.not_before,
        not_after: a.not_after,
    }
}
