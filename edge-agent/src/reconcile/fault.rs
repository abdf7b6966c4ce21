//! Why a pass or one of its steps failed, by what was tried. Knows which of them would fail the same way again.
use crate::{
    db::ledger::LedgerError,
    runtime::RuntimeError,
    workload::{http::HttpError, resp::RespError},
};
use redforge_shared::{
    ids::Name,
    report::{MAX_DETAIL_BYTES, one_line, preflight::ChangeStep},
};

/// What went wrong in a pass, by act.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    #[error("the container engine did not do it")]
    Runtime(#[source] RuntimeError),
    #[error("the ledger did not answer")]
    Ledger(#[source] LedgerError),
    #[error("the runtime did not take the flows")]
    Deploy(#[source] Box<HttpError>),
    #[error("the server did not take its settings")]
    Apply(#[source] RespError),
    #[error("the runtime knows no node of type {}", .0.join(", "))]
    MissingTypes(Vec<String>),
    #[error("instance '{0}' changed while the pass ran")]
    Vanished(Name),
    #[error("no subnet is configured")]
    NoSubnet,
    #[error("the step {0} took longer than it may")]
    Late(ChangeStep),
}

impl ReconcileError {
    /// What the engine said of a container that it refused, on one line.
    pub(super) fn engines_words(&self) -> Option<String> {
        let Self::Runtime(RuntimeError::Refused { source, .. }) = self else { return None };
        let said = source.to_string();
        // The client puts the answer's number before them.
        let said = said.split_once("status code ").and_then(|(_, s)| s.split_once(": ")).map_or(&*said, |(_, s)| s);
        Some(one_line(said, MAX_DETAIL_BYTES)).filter(|s| !s.is_empty())
    }

    /// Would the same spec be refused again?
    pub(super) fn is_final(&self) -> bool {
        match self {
            Self::Runtime(e) => !e.is_retryable(),
            Self::Deploy(e) => e.is_refusal(),
            Self::MissingTypes(_) => true,
            Self::Ledger(_) | Self::Apply(_) | Self::Vanished(_) | Self::NoSubnet | Self::Late(_) => false,
        }
    }
}
