//! The data rules of a site: which classes of records may leave, and in what form.
//!
//! Deliberately absent: applying them (the agent's `privacy` room does, and nothing else can).
use serde::{Deserialize, Serialize};

/// A site's policy. `open` lets every class leave as it is; stricter ones come with the privacy rooms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    #[default]
    Open,
}

impl Policy {
    /// The name that manifests and pages use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
        }
    }
}
