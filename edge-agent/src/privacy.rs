//! The gate: the only place where a raw record becomes something that may leave the site. Step "release" of the flow up.
//!
//! `Released` has no constructor outside this room, the outbox accepts nothing else, and a raw record has no wire form.
//! What is released has passed the very checks by which the hub decodes it, so the hub does not meet a malformed record of
//! ours. The room knows neither where records come from nor where they go.
mod draft;
mod policy;

use bytes::Bytes;
use prost::Message as _;
use redforge_shared::{
    ids::{Digest, Name},
    policy::Policy,
    record::{Body, MAX_RECORD_BYTES, Record, RecordClass},
    wire::{InvalidMessage, pb},
};
use std::sync::{Arc, RwLock};
use time::OffsetDateTime;

pub use draft::{RawDraft, ReleasedDraft};

/// A record as a collector found it. It never leaves the site in this form.
#[derive(Debug)]
pub struct RawRecord {
    pub at: OffsetDateTime,
    pub instance: Option<Name>,
    /// The sender's own key; a repeat of it is absorbed.
    pub key: Option<String>,
    /// Identity of a delivery that may be a repeat though the sender gave no key (MQTT's DUP flag).
    pub repeat_of: Option<Digest>,
    pub body: Body,
}

/// A record that may leave the site: class, key and sealed bytes.
#[derive(Clone, Debug)]
pub struct Released {
    class: RecordClass,
    key_hash: Option<Digest>,
    sealed: Bytes,
}

impl Released {
    /// The record's class.
    pub fn class(&self) -> RecordClass {
        self.class
    }

    /// What makes a repeat of this record known, within its class.
    pub fn key_hash(&self) -> Option<Digest> {
        self.key_hash
    }

    /// An encoded `SealedRecord`.
    pub fn sealed(&self) -> &Bytes {
        &self.sealed
    }
}

/// Why a record may not leave.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error("the site's policy lets no {0} leave")]
    Class(RecordClass),
    #[error("{0}")]
    Malformed(#[source] InvalidMessage),
    #[error("the record has {0} bytes, more than {MAX_RECORD_BYTES}")]
    TooLarge(usize),
}

/// Applies the site's policy. Clones share it.
#[derive(Clone, Debug)]
pub struct Gate(Arc<RwLock<Policy>>);

impl Gate {
    /// A gate with this policy.
    pub fn new(policy: Policy) -> Self {
        Self(Arc::new(RwLock::new(policy)))
    }

    /// Replaces the policy; records already released stay released. Says whether it is another than before.
    pub fn set(&self, policy: Policy) -> bool {
        let mut held = self.0.write().expect("no panic while the lock is held");
        std::mem::replace(&mut *held, policy) != policy
    }

    /// Lets a record through in the form the policy allows, or says why not.
    pub fn release(&self, raw: RawRecord) -> Result<Released, Refusal> {
        let policy = *self.0.read().expect("no panic while the lock is held");
        let class = raw.body.class();
        if !policy::may_leave(policy, class) {
            return Err(Refusal::Class(class));
        }
        let key = raw.key.filter(|k| !k.is_empty());
        let key_hash = key.as_ref().map(|k| Digest::of(k.as_bytes())).or(raw.repeat_of);
        let record = Record { at: raw.at, instance: raw.instance, key, body: raw.body };
        let wire = pb::SealedRecord::from(&record);
        let size = wire.encoded_len();
        if size > MAX_RECORD_BYTES {
            return Err(Refusal::TooLarge(size));
        }
        let sealed = Bytes::from(wire.encode_to_vec());
        Record::try_from(wire).map_err(Refusal::Malformed)?;
        Ok(Released { class, key_hash, sealed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use redforge_shared::record::{Event, Log, MAX_KEY_BYTES, Measurement};

    fn raw(key: Option<&str>, body: Body) -> RawRecord {
        RawRecord {
            at: OffsetDateTime::UNIX_EPOCH,
            instance: None,
            key: key.map(Into::into),
            repeat_of: Some(Digest::of(b"delivery")),
            body,
        }
    }

    fn log(line: &str) -> Body {
        Body::Log(Log { level: None, line: line.into(), stream: String::new(), truncated: false })
    }

    #[test]
    fn what_is_released_decodes_to_what_went_in() {
        let released = Gate::new(Policy::Open).release(raw(Some("k1"), log("hello"))).expect("is within bounds");
        assert_eq!(released.key_hash(), Some(Digest::of(b"k1")), "the sender's key comes before the delivery's");
        let wire = pb::SealedRecord::decode(released.sealed().clone()).expect("decodes");
        assert_eq!(Record::try_from(wire).expect("is within bounds").body, log("hello"));
        let released = Gate::new(Policy::Open).release(raw(Some(""), log("hello"))).expect("is within bounds");
        assert_eq!(released.key_hash(), Some(Digest::of(b"delivery")), "an empty key is no key");
    }

    #[test]
    fn what_breaks_a_bound_is_refused_by_the_fields_name() {
        let gate = Gate::new(Policy::Open);
        let long = "k".repeat(MAX_KEY_BYTES + 1);
        let event = |json: &str| Body::Event(Event { name: "e".into(), payload_json: json.into() });
        let number = |value| Body::Measurement(Measurement { name: "m".into(), value, unit: "ms".into() });
        for (key, body, field) in [
            (Some(long.as_str()), log("x"), "key"),
            (None, log(&"x".repeat(20_000)), "log.line"),
            (None, event("[1]"), "event.payload_json"),
            (None, number(f64::NAN), "measurement.value"),
        ] {
            match gate.release(raw(key, body)) {
                Err(Refusal::Malformed(e)) => assert_eq!(e.field, field),
                other => panic!("{field}: {other:?}"),
            }
        }
        let huge = event(&format!("{{\"a\":\"{}\"}}", "x".repeat(MAX_RECORD_BYTES)));
        assert!(matches!(gate.release(raw(None, huge)), Err(Refusal::TooLarge(_))));
    }
}
