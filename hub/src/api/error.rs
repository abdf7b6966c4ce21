//! Why a verb was refused or failed: what every door maps outward.
use super::Role;
use crate::{depot::DepotError, embed::EmbedError, pki::PkiError, store::StoreError};
use redforge_shared::manifest::ManifestError;

/// A field of a request that cannot be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Path of the field in the request or manifest.
    pub field: String,
    pub problem: String,
}

/// Why a verb did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    #[error("{}", first(.violations))]
    Invalid { violations: Vec<Violation> },
    #[error("{}", first_manifest(.errors))]
    Manifests { errors: Vec<ManifestError> },
    #[error("{0} does not exist")]
    NotFound(String),
    #[error("this needs the role {}, the token '{caller}' has the role {}", .needed.as_str(), .has.as_str())]
    Denied { caller: String, has: Role, needed: Role },
    /// The system is not in a state in which this can be done; `reason` is UPPER_SNAKE.
    #[error("{message}")]
    Precondition { reason: &'static str, message: String },
    #[error("{message}")]
    Busy { reason: &'static str, message: String },
    #[error("the store did not answer as it should")]
    Store(#[from] StoreError),
    #[error("the query could not be embedded")]
    Embed(#[from] EmbedError),
    #[error("the certificate authority is not ready")]
    Pki(#[from] PkiError),
    #[error("the artifact store did not take or give it: {0}")]
    Depot(#[from] DepotError),
    #[error("drawing random bytes failed")]
    Random,
}

impl ApiError {
    /// One field at fault.
    pub fn invalid(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Invalid { violations: vec![Violation { field: field.into(), problem: problem.into() }] }
    }
}

fn first(violations: &[Violation]) -> String {
    match violations {
        [] => "the request cannot be taken".into(),
        [v] => format!("{}: {}", v.field, v.problem),
        [v, rest @ ..] => format!("{}: {} (and {} more)", v.field, v.problem, rest.len()),
    }
}

fn first_manifest(errors: &[ManifestError]) -> String {
    match errors {
        [] => "the manifests cannot be taken".into(),
        [e] => e.to_string(),
        [e, rest @ ..] => format!("{e} (and {} more)", rest.len()),
    }
}
