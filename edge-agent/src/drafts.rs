//! Edited flows on their way up: what the reconciler found goes through the gate and waits here for the link.
//!
//! Nothing is stored: an edit lies in its runtime, is found again at every pass, and is offered as long as it is there. The
//! link takes [`Draft`]s only, and nothing but a released one becomes one.
use crate::privacy::{Gate, RawDraft, ReleasedDraft};
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
    gate: Gate,
    out: watch::Sender<Vec<Draft>>,
    stop: CancellationToken,
) {
    loop {
        let found = edited.borrow_and_update().clone();
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
            () = stop.cancelled() => return,
        }
    }
}
