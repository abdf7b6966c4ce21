//! The wire form: generated code as `pb`, and conversions between it and the domain whose errors name the field.
//!
//! No decisions, and no default that means a policy: an unknown enum in a report becomes `None` or `Unknown`, in desired
//! state it is refused.
mod clean_up;
mod preflight;
mod record;
mod report;
mod scale;

pub use preflight::preflight;

/// Generated from `proto/redforge/v1`.
#[expect(
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    reason = "generated code"
)]
pub mod pb {
    tonic::include_proto!("redforge.v1");
    /// Descriptor set for server reflection.
    pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/redforge.fds"));
}

/// Lowest and highest version of the agents' protocol that this build speaks.
pub const PROTOCOL_MIN: u32 = 1;
/// See [`PROTOCOL_MIN`].
pub const PROTOCOL_MAX: u32 = 1;

/// A message that breaks the contract; `field` is the path of the field at fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct InvalidMessage {
    pub field: String,
    pub problem: String,
}

impl InvalidMessage {
    /// A problem with a field.
    pub fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { field: field.into(), problem: problem.into() }
    }

    /// The same problem, with the field's path put below `parent`.
    #[must_use]
    pub fn within(self, parent: &str) -> Self {
        Self { field: format!("{parent}.{}", self.field), problem: self.problem }
    }
}

/// Wire time of a domain time.
pub fn timestamp(at: time::OffsetDateTime) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: at.unix_timestamp(), nanos: i32::try_from(at.nanosecond()).unwrap_or(0) }
}

/// Domain time of a wire time.
pub fn from_timestamp(field: &str, t: Option<&prost_types::Timestamp>) -> Result<time::OffsetDateTime, InvalidMessage> {
    let t = t.ok_or_else(|| InvalidMessage::new(field, "is missing"))?;
    time::OffsetDateTime::from_unix_timestamp(t.seconds)
        .ok()
        .and_then(|at| at.replace_nanosecond(u32::try_from(t.nanos).ok()?).ok())
        .ok_or_else(|| InvalidMessage::new(field, "is not a time"))
}
