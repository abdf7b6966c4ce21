//! Reads what a flow published: JSON with known fields only. PURE.
//!
//! It gives raw records; lengths and ranges are the gate's to check.
use crate::privacy::RawRecord;
use redforge_shared::{
    ids::{Digest, Name},
    record::{Body, Encoding, Event, Log, LogLevel, MAX_LINE_BYTES, Measurement, Metric, RecordClass, Vector},
};
use serde::Deserialize;
use time::OffsetDateTime;

/// Topics of records are this and the class's name.
pub const TOPIC: &str = "redforge/records/";

/// Why a message is not a record.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    #[error("the topic names no class of records")]
    Topic,
    #[error("the payload is not a record of this class")]
    Json { field: String, source: serde_json::Error },
    #[error("vector has {found} components, dim says {dim}")]
    Components { found: usize, dim: u32 },
    #[error("a tombstone has a vector")]
    Tombstone,
}

impl Unreadable {
    /// What is wrong, by its field.
    pub fn field(&self) -> &str {
        match self {
            Self::Topic => "topic",
            Self::Json { field, .. } => field,
            Self::Components { .. } => "vector",
            Self::Tombstone => "tombstone",
        }
    }
}

/// The class that a topic names.
pub fn class_of(topic: &str) -> Option<RecordClass> {
    RecordClass::from_word(topic.strip_prefix(TOPIC)?)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct VectorMessage {
    key: Option<String>,
    instance: Option<Name>,
    #[serde(default, with = "time::serde::rfc3339::option")]
    at: Option<OffsetDateTime>,
    collection: Name,
    source: String,
    ordinal: u32,
    model: String,
    model_digest: String,
    dim: u32,
    #[serde(default)]
    metric: Metric,
    #[serde(default)]
    document_prefix: String,
    #[serde(default)]
    query_prefix: String,
    #[serde(default)]
    vector: Vec<f32>,
    #[serde(default)]
    text: String,
    #[serde(default)]
    tombstone: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LogMessage {
    key: Option<String>,
    instance: Option<Name>,
    #[serde(default, with = "time::serde::rfc3339::option")]
    at: Option<OffsetDateTime>,
    level: Option<LogLevel>,
    line: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EventMessage {
    key: Option<String>,
    instance: Option<Name>,
    #[serde(default, with = "time::serde::rfc3339::option")]
    at: Option<OffsetDateTime>,
    name: String,
    payload: serde_json::Map<String, serde_json::Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MeasurementMessage {
    key: Option<String>,
    instance: Option<Name>,
    #[serde(default, with = "time::serde::rfc3339::option")]
    at: Option<OffsetDateTime>,
    name: String,
    value: f64,
    unit: String,
}

/// Reads a message. `repeated` says that the broker marked it as perhaps delivered before; then a message without a key is
/// known by its content.
pub fn read(topic: &str, payload: &[u8], repeated: bool, now: OffsetDateTime) -> Result<RawRecord, Unreadable> {
    let class = class_of(topic).ok_or(Unreadable::Topic)?;
    let (key, instance, at, body) = match class {
        RecordClass::Vector => {
            let m: VectorMessage = parse(payload)?;
            (m.key.clone(), m.instance.clone(), m.at, Body::Vector(vector(m)?))
        }
        RecordClass::Log => {
            let m: LogMessage = parse(payload)?;
            let (line, truncated) = cut(m.line);
            (m.key, m.instance, m.at, Body::Log(Log { level: m.level, line, stream: String::new(), truncated }))
        }
        RecordClass::Event => {
            let m: EventMessage = parse(payload)?;
            let json = |source| Unreadable::Json { field: "payload".into(), source };
            let payload_json = serde_json::to_string(&m.payload).map_err(json)?;
            (m.key, m.instance, m.at, Body::Event(Event { name: m.name, payload_json }))
        }
        RecordClass::Measurement => {
            let m: MeasurementMessage = parse(payload)?;
            let body = Measurement { name: m.name, value: m.value, unit: m.unit };
            (m.key, m.instance, m.at, Body::Measurement(body))
        }
    };
    let repeat_of = repeated.then(|| Digest::of(&[topic.as_bytes(), b"\0", payload].concat()));
    Ok(RawRecord { at: at.unwrap_or(now), instance, key, repeat_of, body })
}

fn parse<T: serde::de::DeserializeOwned>(payload: &[u8]) -> Result<T, Unreadable> {
    serde_json::from_slice(payload).map_err(|source| {
        // Following the path costs something, so only what is refused is read that way.
        let followed = serde_path_to_error::deserialize::<_, T>(&mut serde_json::Deserializer::from_slice(payload));
        let path = followed.err().map(|e| e.path().to_string()).unwrap_or_default();
        // What is not there has no path; its name stands in the parser's words.
        let missing = || source.to_string().strip_prefix("missing field `")?.split('`').next().map(str::to_owned);
        let field = if path == "." || path == "?" { missing().unwrap_or_default() } else { path };
        Unreadable::Json { field, source }
    })
}

/// A digest as records have it: hex alone, in small letters. What Ollama and people write may begin with the algorithm.
fn digest(written: &str) -> String {
    written.strip_prefix("sha256:").unwrap_or(written).to_ascii_lowercase()
}

fn vector(m: VectorMessage) -> Result<Vector, Unreadable> {
    if m.tombstone && !m.vector.is_empty() {
        return Err(Unreadable::Tombstone);
    }
    if !m.tombstone && m.vector.len() != m.dim as usize {
        return Err(Unreadable::Components { found: m.vector.len(), dim: m.dim });
    }
    Ok(Vector {
        collection: m.collection,
        source: m.source,
        ordinal: m.ordinal,
        encoding: Encoding::F32,
        dim: m.dim,
        scale: 1.0,
        data: m.vector.iter().flat_map(|c| c.to_le_bytes()).collect(),
        model: m.model,
        model_digest: digest(&m.model_digest),
        metric: m.metric,
        document_prefix: m.document_prefix,
        query_prefix: m.query_prefix,
        tombstone: m.tombstone,
        text: m.text,
    })
}

/// Cuts a line to what a record holds; says whether it did.
pub(super) fn cut(mut line: String) -> (String, bool) {
    if line.len() <= MAX_LINE_BYTES {
        return (line, false);
    }
    let mut end = MAX_LINE_BYTES;
    while !line.is_char_boundary(end) {
        end -= 1;
    }
    line.truncate(end);
    (line, true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(class: &str, json: &str) -> Result<RawRecord, Unreadable> {
        read(&format!("{TOPIC}{class}"), json.as_bytes(), false, OffsetDateTime::UNIX_EPOCH)
    }

    #[test]
    fn each_class_is_read_with_its_defaults() {
        let digest = "a".repeat(64);
        let v = of("vector", &format!(r#"{{"key":"d#0","collection":"notes","source":"d","ordinal":0,"model":"m","model_digest":"{digest}","dim":2,"vector":[1,-0.5]}}"#)).expect("is a vector");
        assert_eq!(v.key.as_deref(), Some("d#0"));
        let Body::Vector(body) = v.body else { panic!("not a vector") };
        assert_eq!((body.metric, body.encoding, body.scale), (Metric::Cosine, Encoding::F32, 1.0));
        assert_eq!(body.data, [1.0_f32.to_le_bytes(), (-0.5_f32).to_le_bytes()].concat());
        let l =
            of("log", r#"{"level":"warn","line":"x","at":"2026-01-02T03:04:05Z","instance":"nr"}"#).expect("is a log");
        assert_eq!((l.at.unix_timestamp(), l.instance.map(|n| n.to_string())), (1_767_323_045, Some("nr".into())));
        let e = of("event", r#"{"name":"door","payload":{"open":true}}"#).expect("is an event");
        assert_eq!((e.at, e.repeat_of), (OffsetDateTime::UNIX_EPOCH, None));
        of("measurement", r#"{"name":"t","value":1.5,"unit":"Cel"}"#).expect("is a measurement");
        let long = of("log", &format!(r#"{{"line":"{}"}}"#, "é".repeat(10_000))).expect("is cut");
        assert!(matches!(long.body, Body::Log(l) if l.truncated && l.line.len() <= MAX_LINE_BYTES));
    }

    #[test]
    fn what_is_not_a_record_is_refused() {
        let digest = "a".repeat(64);
        for (class, json) in [
            ("log", r#"{"line":"x","extra":1}"#),
            ("log", r#"{"line":"x","level":"loud"}"#),
            ("log", "not json"),
            ("event", r#"{"name":"x","payload":[]}"#),
            ("measurement", r#"{"name":"x","value":"1","unit":""}"#),
            ("nothing", "{}"),
            (
                "vector",
                &format!(
                    r#"{{"collection":"n","source":"d","ordinal":0,"model":"m","model_digest":"{digest}","dim":3,"vector":[1]}}"#
                ),
            ),
            (
                "vector",
                &format!(
                    r#"{{"collection":"n","source":"d","ordinal":0,"model":"m","model_digest":"{digest}","dim":1,"vector":[1],"tombstone":true}}"#
                ),
            ),
        ] {
            assert!(of(class, json).is_err(), "{class}: {json}");
        }
    }

    #[test]
    fn a_models_digest_is_the_same_with_and_without_its_algorithm() {
        let of_digest = |digest: &str| {
            let json = format!(
                r#"{{"collection":"n","source":"d","ordinal":0,"model":"m","model_digest":"{digest}","dim":1,"vector":[1]}}"#
            );
            match of("vector", &json).expect("is a vector").body {
                Body::Vector(v) => v.model_digest,
                _ => panic!("not a vector"),
            }
        };
        let bare = "ab".repeat(32);
        for written in [bare.clone(), format!("sha256:{bare}"), bare.to_uppercase()] {
            assert_eq!(of_digest(&written), bare);
        }
        assert_eq!(of_digest("md5:00"), "md5:00", "another algorithm is left for the gate to refuse");
    }

    #[test]
    fn what_is_wrong_is_named_by_its_field() {
        let field = |class: &str, json: &str| match of(class, json) {
            Err(Unreadable::Json { field, .. }) => field,
            other => panic!("{other:?}"),
        };
        assert_eq!(field("measurement", r#"{"name":"x","value":"1","unit":""}"#), "value");
        assert_eq!(field("log", r#"{"line":"x","level":"loud"}"#), "level");
        assert_eq!(field("event", r#"{"name":"x","payload":[]}"#), "payload");
        assert_eq!(field("log", r#"{"line":"x","extra":1}"#), "extra");
    }

    #[test]
    fn a_repeated_delivery_is_known_by_topic_and_content() {
        let at = OffsetDateTime::UNIX_EPOCH;
        let repeat = |topic: &str| read(topic, br#"{"line":"x"}"#, true, at).expect("is a log").repeat_of;
        assert!(repeat("redforge/records/log").is_some());
        assert_eq!(repeat("redforge/records/log"), repeat("redforge/records/log"));
    }

    proptest! {
        #[test]
        fn garbage_never_panics(class in "vector|log|event|measurement|x", bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&format!("{TOPIC}{class}"), &bytes, true, OffsetDateTime::UNIX_EPOCH);
        }
    }
}
