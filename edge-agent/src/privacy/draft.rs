//! Flows that were edited at the host, on their way up as a draft: nothing but flows, and only where the policy lets them.
//!
//! An operator asked for them with `drift: adopt`; that is not enough. Credentials were taken out when they were read.
use super::{Gate, policy};
use bytes::Bytes;
use redforge_shared::ids::{Digest, Name};

/// An edited flow set as the reconciler found it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawDraft {
    pub instance: Name,
    /// The flow set that was edited.
    pub base: Digest,
    /// Hash of the flows as they are now.
    pub content: Digest,
    /// The edited flow set.
    pub tar: Bytes,
}

/// Why a draft stays.
#[derive(Debug, thiserror::Error)]
#[error("the site's policy lets no flows leave")]
pub struct DraftRefused;

/// A draft that may leave the site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReleasedDraft {
    raw: RawDraft,
    digest: Digest,
}

impl ReleasedDraft {
    /// Whose flows they are.
    pub fn instance(&self) -> &Name {
        &self.raw.instance
    }

    /// The flow set that was edited.
    pub fn base(&self) -> Digest {
        self.raw.base
    }

    /// Digest of the tar.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The edited flow set.
    pub fn tar(&self) -> &Bytes {
        &self.raw.tar
    }
}

impl Gate {
    /// Lets a draft through, or says why not.
    pub fn release_draft(&self, raw: RawDraft) -> Result<ReleasedDraft, DraftRefused> {
        if !policy::drafts_may_leave(*self.0.read().expect("no panic while the lock is held")) {
            return Err(DraftRefused);
        }
        let digest = Digest::of(&raw.tar);
        Ok(ReleasedDraft { raw, digest })
    }
}
