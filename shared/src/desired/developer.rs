//! Developer mode: flows may be edited at the host, by one person, until a time.
//!
//! Only a hash of the password is here, and the name that goes with it: whoever reads the document cannot log in with it.
use crate::ids::Digest;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

/// Longest that an editor is opened for, in seconds.
pub const MAX_DEVELOPER_S: i64 = 7 * 86_400;

/// Who may edit, and for how long.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Developer {
    /// When it ends, such as 2026-11-24T16:00:00Z; at most seven days ahead.
    #[serde(with = "time::serde::rfc3339")]
    pub until: OffsetDateTime,
    /// SHA-256 of the password that opens the editor, once; `redforgectl editor` draws one. Never of a password that a person
    /// thought up: whoever reads the manifest could find it. Without it the flows may change and nobody can log in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_sha256: Option<Digest>,
}

impl Developer {
    /// May flows be edited now?
    pub fn is_open(&self, now: OffsetDateTime) -> bool {
        now < self.until
    }

    /// The editor's user. Another password is another user: what one of them was given never serves the next.
    pub fn user(&self) -> Option<String> {
        self.password_sha256.map(user_of)
    }
}

/// The user that goes with a password's hash.
pub fn user_of(password_sha256: Digest) -> String {
    format!("developer-{}", &password_sha256.hex()[..8])
}
