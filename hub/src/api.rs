//! The operators' verbs: `(Caller, Request) -> Result<Response, ApiError>`, one file per noun.
//!
//! Doors (gRPC, REST, pages) translate and call these; they decide nothing. Deliberately unknown here: tonic's server,
//! axum, cookies and headers. Step two of the flow down: door -> `api` -> `store`.
use crate::{depot::Depot, embed::Embed, pki::Pki, store::Store};
use redforge_shared::clock::SharedClock;
use std::{sync::Arc, time::Duration};
use tokio::sync::Semaphore;

mod apply;
mod artifacts;
pub mod callers;
mod drafts;
mod error;
mod guests;
mod hosts;
mod names;
mod pull;
mod push;
mod records;
mod rollback;
mod score;
mod search;
mod sites;
mod tokens;

pub use error::{ApiError, Violation};
pub use pull::Download;
pub use push::Upload;

/// Flow sets that may be on their way in at once: each may take 16 MiB of memory.
const MAX_UPLOADS: usize = 4;

/// What the verbs work with.
#[derive(Clone, Debug)]
pub struct Parts {
    pub store: Store,
    pub pki: Pki,
    pub clock: SharedClock,
    /// Address that agents dial.
    pub public_url: String,
    /// How often agents say that they live.
    pub heartbeat: Duration,
    /// Embeds the text of searches, if there is one.
    pub embed: Option<Embed>,
    /// Where images and models lie.
    pub depot: Depot,
}

/// The verbs.
#[derive(Debug)]
pub struct Api {
    store: Store,
    pki: Pki,
    clock: SharedClock,
    public_url: String,
    heartbeat: Duration,
    embed: Option<Embed>,
    depot: Depot,
    uploads: Arc<Semaphore>,
}

impl Api {
    /// The verbs on these parts.
    pub fn new(parts: Parts) -> Arc<Self> {
        Arc::new(Self {
            store: parts.store,
            pki: parts.pki,
            clock: parts.clock,
            public_url: parts.public_url,
            heartbeat: parts.heartbeat,
            embed: parts.embed,
            depot: parts.depot,
            uploads: Arc::new(Semaphore::new(MAX_UPLOADS)),
        })
    }

    /// Is the disk of the database full? Whoever looks shall see it, though reading goes on.
    pub fn disk_is_full(&self) -> bool {
        self.store.disk_is_full()
    }
}

/// What an operator may do. Each role includes the ones below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    Viewer,
    Operator,
    Admin,
}

impl Role {
    /// The word in tables and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }

    /// The role of this word.
    pub fn from_word(s: &str) -> Option<Self> {
        [Self::Viewer, Self::Operator, Self::Admin].into_iter().find(|r| r.as_str() == s)
    }
}

/// Who asks: put into every request by the operators' door after it checked the token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Name of the token, for events and logs.
    pub name: String,
    pub role: Role,
}

impl Caller {
    /// Refuses a caller whose role is lower.
    pub(in crate::api) fn needs(&self, needed: Role) -> Result<(), ApiError> {
        if self.role >= needed {
            return Ok(());
        }
        Err(ApiError::Denied { caller: self.name.clone(), has: self.role, needed })
    }
}

#[cfg(test)]
mod tests;
