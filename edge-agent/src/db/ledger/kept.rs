//! Edited flows that are put back at the host before the hub may have them: kept here until it does.
use super::{Ledger, LedgerError, bump};
use bytes::Bytes;
use redforge_shared::ids::{Digest, Name};
use rusqlite::params;
use tokio::sync::watch;

pub(super) const SCHEMA: &str = "
CREATE TABLE kept_draft (instance TEXT NOT NULL, digest BLOB NOT NULL, base BLOB NOT NULL, content BLOB NOT NULL,
                         tar BLOB NOT NULL, PRIMARY KEY (instance, digest)) STRICT;
";

/// Most of one instance; the oldest make room.
const MOST: i64 = 5;

/// An edited flow set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptDraft {
    pub instance: Name,
    /// The flow set that was edited.
    pub base: Digest,
    /// Hash of the flows.
    pub content: Digest,
    pub tar: Bytes,
}

impl Ledger {
    /// A hint after each change of what is kept.
    pub fn subscribe_kept(&self) -> watch::Receiver<u64> {
        self.kept.subscribe()
    }

    /// Keeps a draft, in place of the one of this content where there is one.
    pub async fn keep_draft(&self, draft: KeptDraft, instead_of: Option<Digest>) -> Result<(), LedgerError> {
        let digest = Digest::of(&draft.tar);
        self.call("keeping edited flows", move |c| {
            let tx = c.transaction()?;
            let name = draft.instance.as_str();
            if let Some(old) = instead_of {
                tx.execute("DELETE FROM kept_draft WHERE instance = ?1 AND content = ?2", params![name, &old.0[..]])?;
            }
            tx.execute(
                "INSERT OR REPLACE INTO kept_draft (instance, digest, base, content, tar) VALUES (?1, ?2, ?3, ?4, ?5)",
                params![name, &digest.0[..], &draft.base.0[..], &draft.content.0[..], &draft.tar[..]],
            )?;
            tx.execute(
                "DELETE FROM kept_draft WHERE instance = ?1 AND rowid NOT IN \
                 (SELECT rowid FROM kept_draft WHERE instance = ?1 ORDER BY rowid DESC LIMIT ?2)",
                params![name, MOST],
            )?;
            tx.commit()
        })
        .await?;
        bump(&self.kept);
        Ok(())
    }

    /// Everything that is kept, the oldest first.
    pub async fn kept_drafts(&self) -> Result<Vec<KeptDraft>, LedgerError> {
        self.call("reading kept flows", |c| {
            let mut rows = c.prepare_cached("SELECT instance, base, content, tar FROM kept_draft ORDER BY rowid")?;
            let row = |r: &rusqlite::Row<'_>| {
                let (name, base, content): (String, [u8; 32], [u8; 32]) = (r.get(0)?, r.get(1)?, r.get(2)?);
                Ok((name, Digest(base), Digest(content), r.get::<_, Vec<u8>>(3)?))
            };
            let mut kept = Vec::new();
            for one in rows.query_map([], row)? {
                let (name, base, content, tar) = one?;
                kept.extend(name.parse().map(|instance| KeptDraft { instance, base, content, tar: tar.into() }));
            }
            Ok(kept)
        })
        .await
    }

    /// The hub has it, or nobody will want it.
    pub async fn drop_kept_draft(&self, instance: &Name, digest: Digest) -> Result<(), LedgerError> {
        let name = instance.to_string();
        let gone = self.call("forgetting kept flows", move |c| {
            c.execute("DELETE FROM kept_draft WHERE instance = ?1 AND digest = ?2", params![name, &digest.0[..]])
        });
        if gone.await? > 0 {
            bump(&self.kept);
        }
        Ok(())
    }
}
