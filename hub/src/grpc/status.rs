//! Refusals and failures of the operators' verbs as gRPC statuses: exactly one ErrorInfo each, and the fields at fault.
use super::unavailable;
use crate::{
    api::{ApiError, Violation},
    depot::DepotError,
    embed::EmbedError,
};
use redforge_shared::error::Chain;
use std::collections::HashMap;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt as _};

const DOMAIN: &str = "redforge.io";
/// Statuses travel in headers, which are small: fields beyond this many are left out.
const MAX_VIOLATIONS: usize = 20;
const MAX_TEXT: usize = 300;

/// The status of an error. What the caller cannot mend is logged here, once.
pub fn status(error: &ApiError) -> Status {
    match error {
        ApiError::Invalid { violations } => refused("INVALID_FIELD", error, violations),
        ApiError::Manifests { errors } => {
            let field = |e: &redforge_shared::manifest::ManifestError| {
                format!("document {}, line {}, {}", e.doc, e.line, e.path)
            };
            let violations: Vec<Violation> =
                errors.iter().map(|e| Violation { field: field(e), problem: e.problem.clone() }).collect();
            refused("INVALID_MANIFEST", error, &violations)
        }
        ApiError::NotFound(_) => plain(Code::NotFound, "NOT_FOUND", error.to_string()),
        ApiError::Denied { .. } => plain(Code::PermissionDenied, "ROLE_TOO_LOW", error.to_string()),
        ApiError::Precondition { reason, .. } => plain(Code::FailedPrecondition, reason, error.to_string()),
        ApiError::Busy { reason, .. } => plain(Code::ResourceExhausted, reason, error.to_string()),
        ApiError::Store(e) if e.is_unavailable() => {
            let (reason, said) = unavailable(e);
            plain(Code::Unavailable, reason, said.into())
        }
        ApiError::Embed(e @ (EmbedError::NotConfigured | EmbedError::NoModel(_) | EmbedError::OtherModel { .. })) => {
            plain(Code::FailedPrecondition, "EMBEDDING_NOT_POSSIBLE", e.to_string())
        }
        ApiError::Embed(e) => plain(Code::Unavailable, "EMBEDDING_FAILED", Chain(e).to_string()),
        ApiError::Depot(e @ (DepotError::Size { .. } | DepotError::Digest { .. })) => {
            plain(Code::InvalidArgument, "BLOB_REFUSED", e.to_string())
        }
        ApiError::Depot(e @ DepotError::Busy(_)) => plain(Code::ResourceExhausted, "UPLOAD_BUSY", e.to_string()),
        ApiError::Depot(e) if e.is_full() => {
            plain(Code::ResourceExhausted, "DISK_FULL", "the disk of the hub's artifact store is full".into())
        }
        ApiError::Depot(_) | ApiError::Store(_) | ApiError::Pki(_) | ApiError::Random => {
            tracing::error!(error = %Chain(error), "an operator's request failed");
            plain(Code::Internal, "INTERNAL", "the hub could not do this; its log says why".into())
        }
    }
}

/// A request without a checked caller: the door's interceptor did not run, or found no token.
pub fn no_caller() -> Status {
    plain(Code::Unauthenticated, "TOKEN_MISSING", "send an operator's token: authorization: Bearer TOKEN".into())
}

fn plain(code: Code, reason: &str, message: String) -> Status {
    Status::with_error_details(code, message, ErrorDetails::with_error_info(reason, DOMAIN, HashMap::new()))
}

fn refused(reason: &str, error: &ApiError, violations: &[Violation]) -> Status {
    let mut details = ErrorDetails::with_error_info(reason, DOMAIN, HashMap::new());
    let fields: Vec<FieldViolation> =
        violations.iter().take(MAX_VIOLATIONS).map(|v| FieldViolation::new(cut(&v.field), cut(&v.problem))).collect();
    details.set_bad_request(fields);
    Status::with_error_details(Code::InvalidArgument, cut(&error.to_string()), details)
}

fn cut(text: &str) -> String {
    text.chars().take(MAX_TEXT).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_manifest_names_every_field_and_bears_one_reason() {
        let errors = redforge_shared::manifest::parse("apiVersion: redforge.io/v1\nkind: Site\nmetadata: {nam: x}")
            .expect_err("a wrong field");
        let status = status(&ApiError::Manifests { errors });
        assert_eq!(status.code(), Code::InvalidArgument);
        let details = status.get_error_details();
        let info = details.error_info().expect("one ErrorInfo");
        assert_eq!((info.reason.as_str(), info.domain.as_str()), ("INVALID_MANIFEST", DOMAIN));
        let fields = &details.bad_request().expect("a BadRequest").field_violations;
        assert_eq!(fields[0].field, "document 1, line 3, metadata.nam");
        assert!(
            status.message().starts_with("document 1, line 3, metadata.nam: unknown field"),
            "{}",
            status.message()
        );
    }

    #[test]
    fn many_long_violations_still_fit_into_a_header() {
        let violations = vec![Violation { field: "f".repeat(500), problem: "ä".repeat(500) }; 200];
        let status = status(&ApiError::Invalid { violations });
        assert!(status.details().len() < 32 * 1024, "{}", status.details().len());
    }
}
