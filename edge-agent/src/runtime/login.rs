//! What a host is to a registry; the password is in no text.
use std::fmt;

/// What a host is to a registry.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    pub registry: String,
    pub username: String,
    pub password: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never the password.
        write!(f, "Login({} at {})", self.username, self.registry)
    }
}
