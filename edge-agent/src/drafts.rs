//! Edited flows on their way up: what the reconciler found goes through the gate and waits here for the link.
//!
//! An edit that lies in its runtime is found again at every pass, and is offered as long as it is there. What was put back
//! there at the end of developer mode is offered out of the ledger, until the hub has it. The link takes [`Draft`]s only, and
//! nothing but a released one becomes one.
use crate::{
    db::ledger::{KeptDraft, Ledger},
    privacy::{Gate, RawDraft, ReleasedDraft},
};
use bytes::Bytes;
use redforge_shared::{
    error::Chain,
    ids::{Digest, Name},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// A draft that may be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft(ReleasedDraft);

impl Draft {
    /// Whose flows they are.
    pub fn instance(&self) -> &Name {
        self.0.instance()
    }

    /// The flow set that was edited.
    pub fn base(&self) -> Digest {
        self.0.base()
    }

    /// Digest of the bytes.
    pub fn digest(&self) -> Digest {
        self.0.digest()
    }

    /// The edited flow set.
    pub fn bytes(&self) -> &Bytes {
        self.0.tar()
    }
}

/// Offers what the gate lets through, until stopped.
pub async fn run(
    mut edited: watch::Receiver<Vec<RawDraft>>,
    ledger: Ledger,
    gate: Gate,
    out: watch::Sender<Vec<Draft>>,
    stop: CancellationToken,
) {
    let mut kept = ledger.subscribe_kept();
    loop {
        kept.mark_unchanged();
        let mut found = edited.borrow_and_update().clone();
        add_kept(&ledger, &mut found).await;
        let mut drafts = Vec::with_capacity(found.len());
        for raw in found {
            let instance = raw.instance.clone();
            match gate.release_draft(raw) {
                Ok(released) => drafts.push(Draft(released)),
                Err(e) => tracing::warn!(instance.name = %instance, error = %Chain(&e), "edited flows stay here"),
            }
        }
        out.send_if_modified(|d| std::mem::replace(d, drafts.clone()) != drafts);
        tokio::select! {
            news = edited.changed() => if news.is_err() { return },
            news = kept.changed() => if news.is_err() { return },
            () = stop.cancelled() => return,
        }
    }
}

/// What is in no runtime any more. That of an instance which is gone is nobody's: the hub would not take it.
async fn add_kept(ledger: &Ledger, found: &mut Vec<RawDraft>) {
    let kept = match ledger.kept_drafts().await {
        Ok(kept) => kept,
        Err(e) => return tracing::warn!(error = %Chain(&e), "kept flows cannot be read"),
    };
    let desired = ledger.desired();
    for KeptDraft { instance, base, content, tar } in kept {
        let is_gone = desired.as_ref().is_some_and(|d| d.state.instance(instance.as_str()).is_none());
        if is_gone {
            if let Err(e) = ledger.drop_kept_draft(&instance, Digest::of(&tar)).await {
                tracing::warn!(error = %Chain(&e), "kept flows of a deleted instance cannot be dropped");
            }
        } else if found.iter().all(|d| d.instance != instance || d.tar != tar) {
            found.push(RawDraft { instance, base, content, tar });
        }
    }
}
