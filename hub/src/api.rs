//! The operators' verbs: `(Caller, Request) -> Result<Response, ApiError>`, one file per noun.
//!
//! Doors (gRPC, REST, pages) translate and call these; they decide nothing. Deliberately unknown here: tonic's server,
//! axum, cookies and headers. Step two of the flow down: door -> `api` -> `store`.

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
