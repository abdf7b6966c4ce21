//! Operators' tokens: made once, shown once, kept as hashes, and looked up for every call.
use super::{Caller, Role};
use crate::store::{Store, StoreError};
use base64::Engine as _;
use redforge_shared::{clock::SharedClock, ids::Digest};
use std::time::Duration;

/// Looks callers up. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Callers {
    store: Store,
    clock: SharedClock,
}

/// Longest token text that is looked at.
const MAX_TOKEN_BYTES: usize = 256;

impl Callers {
    /// Looks up in this store.
    pub fn new(store: Store, clock: SharedClock) -> Self {
        Self { store, clock }
    }

    /// The caller of a token; none if it is not known or has ended.
    pub async fn by_token(&self, token: &str) -> Result<Option<Caller>, StoreError> {
        if token.is_empty() || token.len() > MAX_TOKEN_BYTES {
            return Ok(None);
        }
        let row = self.store.operator_by_hash(Digest::of(token.as_bytes()), self.clock.now()).await?;
        Ok(row.and_then(|r| Some(Caller { role: Role::from_word(&r.role)?, name: r.name })))
    }

    /// Makes a token good; a token that is good already stays as it is.
    pub async fn admit(&self, token: &str, name: &str, role: Role, life: Option<Duration>) -> Result<(), StoreError> {
        let now = self.clock.now();
        let ends = life.map(|l| now + l);
        self.store.insert_operator_token(Digest::of(token.as_bytes()), name, role.as_str(), now, ends).await
    }
}

/// A new token: `prefix` and 256 random bits.
pub fn new_token(prefix: &str) -> Result<String, aws_lc_rs::error::Unspecified> {
    let mut bits = [0_u8; 32];
    aws_lc_rs::rand::fill(&mut bits)?;
    Ok(format!("{prefix}{}", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bits)))
}
