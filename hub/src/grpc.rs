//! The gRPC doors: translate between the wire and the rooms behind, map errors outward, decide nothing.
//!
//! Agents come in through `enrollment`, `control`, `telemetry`, `artifacts` and `drafts`, checked per request by `peer`; operators
//! through `admin`. Listening, TLS and limits belong to `serve`.
use crate::store::StoreError;
use redforge_shared::error::Chain;
use tonic::{Code, Status};

pub mod admin;
pub mod artifacts;
pub mod control;
pub mod drafts;
pub mod enrollment;
pub mod operator;
pub mod peer;
pub mod status;
pub mod telemetry;

/// How a failed database act looks from outside. The cause goes to the log, once; the caller gets one clear sentence.
pub fn store_status(e: &StoreError) -> Status {
    if e.is_unavailable() {
        return Status::new(Code::Unavailable, unavailable(e).1);
    }
    tracing::error!(error = %Chain(e), "database act failed");
    Status::internal("the hub could not do this; its log says why")
}

/// What callers hear while the database is away or cannot write, and the reason's name.
fn unavailable(e: &StoreError) -> (&'static str, &'static str) {
    if e.is_full() {
        // `keep_database` says it aloud, once.
        tracing::debug!(error = %Chain(e), "the disk of the database is full");
        let said = "the disk of the hub's database is full: free some space; the hub keeps trying, ask again later";
        return ("DATABASE_FULL", said);
    }
    tracing::debug!(error = %Chain(e), "database away");
    ("DATABASE_UNAVAILABLE", UNAVAILABLE)
}

/// What callers hear while the database is away.
const UNAVAILABLE: &str = "the hub's database is not available at the moment; the hub keeps trying, ask again later";
