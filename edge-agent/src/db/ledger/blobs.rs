//! Blobs that the host needs: which are wanted and which are here are rows; why one does not come is only remembered while
//! the agent runs, for the next try finds it out again.
use super::{Ledger, LedgerError, bump};
use redforge_shared::ids::Digest;
use rusqlite::params;

/// Why a blob does not come, as far as trying again helps only after somebody acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlobFault {
    /// What the hub gave is not what the digest says.
    Damaged,
    /// The hub does not have it, or lost a part of it.
    Missing,
}

impl Ledger {
    /// Notes that a blob is needed; the link fetches it. A blob that had arrived and is gone may be wanted again.
    pub async fn want(&self, digest: Digest) -> Result<(), LedgerError> {
        let news = self
            .call("wanting a blob", move |c| {
                c.execute(
                    "INSERT INTO wanted (digest, here) VALUES (?1, 0)
                     ON CONFLICT (digest) DO UPDATE SET here = 0 WHERE here = 1",
                    [&digest.0[..]],
                )
            })
            .await?;
        if news > 0 {
            bump(&self.wanted);
        }
        Ok(())
    }

    /// Blobs that are needed and have not arrived.
    pub async fn wanted(&self) -> Result<Vec<Digest>, LedgerError> {
        self.call("reading the wanted blobs", |c| {
            c.prepare_cached("SELECT digest FROM wanted WHERE here = 0 ORDER BY rowid")?
                .query_map([], |r| r.get::<_, [u8; 32]>(0).map(Digest))?
                .collect()
        })
        .await
    }

    /// Notes that a blob lies in its place, whole and durable.
    pub async fn have(&self, digest: Digest) -> Result<(), LedgerError> {
        self.call("noting an arrived blob", move |c| {
            c.execute("INSERT OR REPLACE INTO wanted (digest, here) VALUES (?1, 1)", [&digest.0[..]]).map(|_| ())
        })
        .await?;
        self.faults.send_if_modified(|f| f.remove(&digest).is_some());
        bump(&self.changed);
        Ok(())
    }

    /// Notes that a blob is not needed any more: it was taken over, or nothing names it.
    pub async fn unwant(&self, digest: Digest) -> Result<(), LedgerError> {
        self.call("forgetting a blob", move |c| {
            c.execute("DELETE FROM wanted WHERE digest = ?1", params![&digest.0[..]]).map(|_| ())
        })
        .await?;
        self.faults.send_if_modified(|f| f.remove(&digest).is_some());
        Ok(())
    }

    /// Every blob that was ever wanted and not forgotten.
    pub async fn known_blobs(&self) -> Result<Vec<Digest>, LedgerError> {
        self.call("reading the known blobs", |c| {
            c.prepare_cached("SELECT digest FROM wanted")?
                .query_map([], |r| r.get::<_, [u8; 32]>(0).map(Digest))?
                .collect()
        })
        .await
    }

    /// Notes why a blob does not come.
    pub fn set_blob_fault(&self, digest: Digest, fault: BlobFault) {
        if self.faults.send_if_modified(|f| f.insert(digest, fault) != Some(fault)) {
            bump(&self.changed);
        }
    }

    /// Why a blob does not come.
    pub fn blob_fault(&self, digest: Digest) -> Option<BlobFault> {
        self.faults.borrow().get(&digest).copied()
    }
}
