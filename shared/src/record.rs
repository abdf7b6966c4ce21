//! One vector, log line, event or measurement on its way up, in the form that leaves the site.
//!
//! Deliberately absent: raw records (they have no wire form and live in the agent's `privacy` room), sequence numbers (the
//! outbox gives them) and where a record lands (the hub's `store`).
use crate::ids::Name;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

/// What kind of data a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RecordClass {
    Vector,
    Log,
    Event,
    Measurement,
}

impl RecordClass {
    /// Every class.
    pub const ALL: [Self; 4] = [Self::Vector, Self::Log, Self::Event, Self::Measurement];

    /// The class's name in topics, tables and SQL.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Vector => "vector",
            Self::Log => "log",
            Self::Event => "event",
            Self::Measurement => "measurement",
        }
    }

    /// The class of this name.
    pub fn from_word(s: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|c| c.as_str() == s)
    }
}

impl std::fmt::Display for RecordClass {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// Most records in a batch.
pub const MAX_BATCH_RECORDS: usize = 1_000;
/// Most bytes of records in a batch.
pub const MAX_BATCH_BYTES: usize = 1 << 20;
/// Batches of one host that may be unacked: the whole flow control.
pub const MAX_UNACKED_BATCHES: usize = 4;
/// Largest encoded record; larger ones are refused at the gate. Leaves room for the batch's frame.
pub const MAX_RECORD_BYTES: usize = 512 * 1024;
/// Longest key in bytes.
pub const MAX_KEY_BYTES: usize = 128;
/// Longest log line in bytes; longer ones are cut.
pub const MAX_LINE_BYTES: usize = 16 * 1024;
/// Longest event payload in bytes.
pub const MAX_PAYLOAD_BYTES: usize = 64 * 1024;
/// Longest source name in bytes.
pub const MAX_SOURCE_BYTES: usize = 512;
/// Longest chunk text in bytes.
pub const MAX_TEXT_BYTES: usize = 64 * 1024;
/// Most components of a vector.
pub const MAX_DIM: u32 = 16_000;

/// A record in the form that leaves the site.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// When it was made, by the agent's clock.
    pub at: OffsetDateTime,
    /// Instance it came from, if known.
    pub instance: Option<Name>,
    /// Sender's key.
    pub key: Option<String>,
    pub body: Body,
}

/// What a record says.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    Vector(Vector),
    Log(Log),
    Event(Event),
    Measurement(Measurement),
}

impl Body {
    /// The class of this body.
    pub fn class(&self) -> RecordClass {
        match self {
            Self::Vector(_) => RecordClass::Vector,
            Self::Log(_) => RecordClass::Log,
            Self::Event(_) => RecordClass::Event,
            Self::Measurement(_) => RecordClass::Measurement,
        }
    }
}

/// How a vector's components are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    F32,
    F16,
    I8,
}

impl Encoding {
    /// Bytes of one component.
    pub fn width(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
            Self::I8 => 1,
        }
    }
    /// The encoding's name in SQL and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::I8 => "i8",
        }
    }
}

/// Distance measure of a collection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Metric {
    #[default]
    Cosine,
    L2,
    Dot,
}

impl Metric {
    /// The metric's name in SQL and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cosine => "cosine",
            Self::L2 => "l2",
            Self::Dot => "dot",
        }
    }
    /// The metric of this name.
    pub fn from_word(s: &str) -> Option<Self> {
        [Self::Cosine, Self::L2, Self::Dot].into_iter().find(|m| m.as_str() == s)
    }
}

/// A chunk of a document as a vector, or its removal.
#[derive(Clone, Debug, PartialEq)]
pub struct Vector {
    pub collection: Name,
    pub source: String,
    pub ordinal: u32,
    pub encoding: Encoding,
    pub dim: u32,
    pub scale: f32,
    /// Little-endian components, `dim * encoding.width()` bytes; empty for a tombstone.
    pub data: Vec<u8>,
    pub model: String,
    /// 64 hex digits, as Ollama names it.
    pub model_digest: String,
    pub metric: Metric,
    pub document_prefix: String,
    pub query_prefix: String,
    pub tombstone: bool,
    /// The chunk's text where the policy lets it leave.
    pub text: String,
}

/// How grave a log line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    Debug,
    Info,
    Warn,
    Error,
}

impl LogLevel {
    /// The level's name in SQL and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}

/// A log line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    pub level: Option<LogLevel>,
    pub line: String,
    /// stdout, stderr, or empty for a line that a flow published.
    pub stream: String,
    pub truncated: bool,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub name: String,
    /// A JSON object.
    pub payload_json: String,
}

/// A number that was measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Measurement {
    pub name: String,
    pub value: f64,
    pub unit: String,
}
