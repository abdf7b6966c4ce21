//! Operators' tokens: made once, shown once, kept as hashes, and looked up for every call. And the page's sessions, which
//! are signed with the token's hash: they need no table, outlive a restart of the hub, end by themselves, and end with the
//! token.
use super::{Caller, Role};
use crate::store::{Store, StoreError};
use aws_lc_rs::hmac;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use redforge_shared::{clock::SharedClock, ids::Digest};
use std::time::Duration;

/// Looks callers up. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Callers {
    store: Store,
    clock: SharedClock,
}

/// How long a login to the page lasts.
const SESSION: Duration = Duration::from_secs(12 * 3600);
/// What sessions are signed for, and nothing else.
const PURPOSE: &[u8] = b"redforge page session 1";

/// A login to the page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// What the browser keeps.
    pub text: String,
    /// How long it is still good.
    pub left: Duration,
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

    /// A session for the holder of this token; none if it is not known or has ended.
    pub async fn session_of(&self, token: &str) -> Result<Option<Session>, StoreError> {
        if token.is_empty() || token.len() > MAX_TOKEN_BYTES {
            return Ok(None);
        }
        let now = self.clock.now();
        let row = self.store.operator_by_hash(Digest::of(token.as_bytes()), now).await?;
        Ok(row.map(|row| {
            let ends = (now + SESSION).unix_timestamp();
            let mut bytes = row.id.as_bytes().to_vec();
            bytes.extend(ends.to_be_bytes());
            bytes.extend(sign(&row.hash, &bytes).as_ref());
            Session { text: URL_SAFE_NO_PAD.encode(bytes), left: SESSION }
        }))
    }

    /// The caller of a session, and how long it is still good; none if it has ended, or its token has.
    pub async fn by_session(&self, text: &str) -> Result<Option<(Caller, Duration)>, StoreError> {
        let bytes = URL_SAFE_NO_PAD.decode(text.get(..SESSION_TEXT).unwrap_or_default()).unwrap_or_default();
        let (Some((id, rest)), true) = (bytes.split_first_chunk::<16>(), text.len() == SESSION_TEXT) else {
            return Ok(None);
        };
        let Some((ends, signature)) = rest.split_first_chunk::<8>() else { return Ok(None) };
        let now = self.clock.now();
        let left = i64::from_be_bytes(*ends).saturating_sub(now.unix_timestamp());
        let Some(left) = u64::try_from(left).ok().filter(|l| *l > 0).map(Duration::from_secs) else { return Ok(None) };
        let row = self.store.operator_by_id(uuid::Uuid::from_bytes(*id), now).await?;
        let signed = &bytes[..24];
        let row = row.filter(|r| hmac::verify(&key(&r.hash), &[PURPOSE, signed].concat(), signature).is_ok());
        Ok(row.and_then(|r| Some((Caller { role: Role::from_word(&r.role)?, name: r.name }, left))))
    }

    /// Makes a token good; a token that is good already stays as it is.
    pub async fn admit(&self, token: &str, name: &str, role: Role, life: Option<Duration>) -> Result<(), StoreError> {
        let now = self.clock.now();
        let ends = life.map(|l| now + l);
        self.store.insert_operator_token(Digest::of(token.as_bytes()), name, role.as_str(), now, ends).await
    }
}

/// Characters of a session: 16 bytes of id, 8 of end, 32 of signature.
const SESSION_TEXT: usize = 75;

fn key(hash: &[u8]) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, hash)
}

fn sign(hash: &[u8], text: &[u8]) -> hmac::Tag {
    hmac::sign(&key(hash), &[PURPOSE, text].concat())
}

/// A new token: `prefix` and 256 random bits.
pub fn new_token(prefix: &str) -> Result<String, aws_lc_rs::error::Unspecified> {
    let mut bits = [0_u8; 32];
    aws_lc_rs::rand::fill(&mut bits)?;
    Ok(format!("{prefix}{}", URL_SAFE_NO_PAD.encode(bits)))
}
