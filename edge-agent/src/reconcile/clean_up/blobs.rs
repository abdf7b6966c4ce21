//! Blobs that nothing names: flow sets, and what an image or a model is made of while it comes.
//!
//! They can be fetched again; what is no longer named is no longer fetched from that moment on.
use super::super::{
    ReconcileError, Reconciler, View,
    memory::{Remembered, UnnamedSince},
};
use redforge_shared::{
    error::Chain,
    ids::Digest,
    report::clean_up::{Leftover, Unneeded},
};
use std::collections::BTreeSet;
use time::OffsetDateTime;

impl Reconciler {
    /// Blobs that neither the accepted state nor what last worked names: no longer fetched at once, removed when they are old.
    pub(super) async fn sweep_blobs(
        &mut self,
        view: &View,
        memory: &mut Remembered,
        now: OffsetDateTime,
    ) -> Result<Vec<Unneeded>, ReconcileError> {
        let ledger = self.deps.ledger.clone();
        let specs = view.accepted.state.instances.iter().chain(memory.last_good.values().map(|g| &g.spec));
        let named: BTreeSet<Digest> = specs.flat_map(|s| s.blobs()).collect();
        if self.swept.as_ref() != Some(&named) {
            for digest in ledger.wanted().await.map_err(ReconcileError::Ledger)? {
                if !named.contains(&digest) {
                    ledger.unwant(digest).await.map_err(ReconcileError::Ledger)?;
                }
            }
            let mut there = self.blobs_on_disk().await;
            there.extend(ledger.known_blobs().await.map_err(ReconcileError::Ledger)?);
            let left: BTreeSet<String> = there.difference(&named).map(Digest::hex).collect();
            for blob in memory.unnamed_blobs.keys().filter(|b| !left.contains(*b)).cloned().collect::<Vec<_>>() {
                memory.set_unnamed(&ledger, &blob, None).await?;
            }
            for blob in left {
                let since = memory.unnamed_blobs.get(&blob).copied().unwrap_or(UnnamedSince(now));
                memory.set_unnamed(&ledger, &blob, Some(since)).await?;
            }
            self.swept = Some(named);
        }
        let mut unneeded = Vec::new();
        for (blob, UnnamedSince(since)) in memory.unnamed_blobs.clone() {
            // A clock that was set back begins anew.
            let since = since.min(now);
            memory.set_unnamed(&ledger, &blob, Some(UnnamedSince(since))).await?;
            let Ok(digest) = blob.parse::<Digest>() else {
                memory.set_unnamed(&ledger, &blob, None).await?;
                continue;
            };
            if self.is_due(since, now) {
                match self.shelf.drop_blob(digest).await {
                    Ok(()) => {
                        tracing::info!(blob = %digest, "unneeded blob removed");
                        memory.set_unnamed(&ledger, &blob, None).await?;
                        memory.count_removed(&ledger, Leftover::Blob).await?;
                        continue;
                    }
                    Err(e) => tracing::warn!(blob = %digest, error = %Chain(&e), "unneeded blob not removed"),
                }
            }
            let bytes = self.shelf.bytes_of(digest).await;
            unneeded.push(self.listed(Leftover::Blob, blob, bytes, since));
        }
        Ok(unneeded)
    }

    /// Blobs that lie here, whole or in part.
    async fn blobs_on_disk(&self) -> BTreeSet<Digest> {
        let mut there = BTreeSet::new();
        let Ok(mut entries) = tokio::fs::read_dir(self.deps.blobs.join("sha256")).await else { return there };
        while let Ok(Some(entry)) = entries.next_entry().await {
            let name = entry.file_name().to_string_lossy().into_owned();
            there.extend(name.strip_suffix(".part").unwrap_or(&name).parse::<Digest>());
        }
        there
    }
}
