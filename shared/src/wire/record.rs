//! Records on the wire. Whatever decodes here is within its bounds; everything else is refused with the field's name.
use super::{InvalidMessage, from_timestamp, pb, timestamp};
use crate::record::{
    Body, Encoding, Event, Log, LogLevel, MAX_DIM, MAX_KEY_BYTES, MAX_LINE_BYTES, MAX_PAYLOAD_BYTES, MAX_SOURCE_BYTES,
    MAX_TEXT_BYTES, Measurement, Metric, Record, RecordClass, Vector,
};

impl From<RecordClass> for pb::RecordClass {
    fn from(c: RecordClass) -> Self {
        match c {
            RecordClass::Vector => Self::Vector,
            RecordClass::Log => Self::Log,
            RecordClass::Event => Self::Event,
            RecordClass::Measurement => Self::Measurement,
        }
    }
}

impl RecordClass {
    /// The class of a wire value.
    pub fn from_wire(v: i32) -> Option<Self> {
        match pb::RecordClass::try_from(v).ok()? {
            pb::RecordClass::Unspecified => None,
            pb::RecordClass::Vector => Some(Self::Vector),
            pb::RecordClass::Log => Some(Self::Log),
            pb::RecordClass::Event => Some(Self::Event),
            pb::RecordClass::Measurement => Some(Self::Measurement),
        }
    }
}

impl From<&Record> for pb::SealedRecord {
    fn from(r: &Record) -> Self {
        Self {
            at: Some(timestamp(r.at)),
            instance: r.instance.as_ref().map(ToString::to_string).unwrap_or_default(),
            key: r.key.clone().unwrap_or_default(),
            body: Some(match &r.body {
                Body::Vector(v) => pb::sealed_record::Body::Vector(v.into()),
                Body::Log(l) => pb::sealed_record::Body::Log(pb::LogRecord {
                    level: l.level.map_or(0, |l| pb::LogLevel::from(l).into()),
                    line: l.line.clone(),
                    stream: l.stream.clone(),
                    truncated: l.truncated,
                }),
                Body::Event(e) => pb::sealed_record::Body::Event(pb::EventRecord {
                    name: e.name.clone(),
                    payload_json: e.payload_json.clone(),
                }),
                Body::Measurement(m) => pb::sealed_record::Body::Measurement(pb::MeasurementRecord {
                    name: m.name.clone(),
                    value: m.value,
                    unit: m.unit.clone(),
                }),
            }),
        }
    }
}

impl From<LogLevel> for pb::LogLevel {
    fn from(l: LogLevel) -> Self {
        match l {
            LogLevel::Debug => Self::Debug,
            LogLevel::Info => Self::Info,
            LogLevel::Warn => Self::Warn,
            LogLevel::Error => Self::Error,
        }
    }
}

impl From<&Vector> for pb::VectorRecord {
    fn from(v: &Vector) -> Self {
        let encoding = match v.encoding {
            Encoding::F32 => pb::VectorEncoding::F32,
            Encoding::F16 => pb::VectorEncoding::F16,
            Encoding::I8 => pb::VectorEncoding::I8,
        };
        Self {
            collection: v.collection.to_string(),
            source: v.source.clone(),
            ordinal: v.ordinal,
            encoding: encoding.into(),
            dim: v.dim,
            scale: v.scale,
            data: v.data.clone().into(),
            model: v.model.clone(),
            model_digest: v.model_digest.clone(),
            tombstone: v.tombstone,
            text: v.text.clone(),
            metric: v.metric.as_str().into(),
            document_prefix: v.document_prefix.clone(),
            query_prefix: v.query_prefix.clone(),
        }
    }
}

fn at_most(field: &str, len: usize, max: usize) -> Result<(), InvalidMessage> {
    if len > max {
        return Err(InvalidMessage::new(field, format!("has {len} bytes, more than {max}")));
    }
    Ok(())
}

impl TryFrom<pb::SealedRecord> for Record {
    type Error = InvalidMessage;
    fn try_from(r: pb::SealedRecord) -> Result<Self, InvalidMessage> {
        at_most("key", r.key.len(), MAX_KEY_BYTES)?;
        let instance = match r.instance.as_str() {
            "" => None,
            name => Some(name.parse().map_err(|e| InvalidMessage::new("instance", format!("{e}")))?),
        };
        let body = match r.body.ok_or_else(|| InvalidMessage::new("body", "is missing"))? {
            pb::sealed_record::Body::Vector(v) => {
                Body::Vector(v.try_into().map_err(|e: InvalidMessage| e.within("vector"))?)
            }
            pb::sealed_record::Body::Log(l) => {
                at_most("log.line", l.line.len(), MAX_LINE_BYTES)?;
                at_most("log.stream", l.stream.len(), 16)?;
                let level = match pb::LogLevel::try_from(l.level) {
                    Ok(pb::LogLevel::Debug) => Some(LogLevel::Debug),
                    Ok(pb::LogLevel::Info) => Some(LogLevel::Info),
                    Ok(pb::LogLevel::Warn) => Some(LogLevel::Warn),
                    Ok(pb::LogLevel::Error) => Some(LogLevel::Error),
                    _ => None,
                };
                Body::Log(Log { level, line: l.line, stream: l.stream, truncated: l.truncated })
            }
            pb::sealed_record::Body::Event(e) => {
                at_most("event.name", e.name.len(), 128)?;
                at_most("event.payload_json", e.payload_json.len(), MAX_PAYLOAD_BYTES)?;
                let json: serde_json::Value = serde_json::from_str(&e.payload_json)
                    .map_err(|e| InvalidMessage::new("event.payload_json", format!("is not JSON: {e}")))?;
                if !json.is_object() {
                    return Err(InvalidMessage::new("event.payload_json", "is not a JSON object"));
                }
                Body::Event(Event { name: e.name, payload_json: e.payload_json })
            }
            pb::sealed_record::Body::Measurement(m) => {
                at_most("measurement.name", m.name.len(), 128)?;
                at_most("measurement.unit", m.unit.len(), 32)?;
                if !m.value.is_finite() {
                    return Err(InvalidMessage::new("measurement.value", "is not a finite number"));
                }
                Body::Measurement(Measurement { name: m.name, value: m.value, unit: m.unit })
            }
        };
        let at = from_timestamp("at", r.at.as_ref())?;
        Ok(Self { at, instance, key: (!r.key.is_empty()).then_some(r.key), body })
    }
}

impl TryFrom<pb::VectorRecord> for Vector {
    type Error = InvalidMessage;
    fn try_from(v: pb::VectorRecord) -> Result<Self, InvalidMessage> {
        at_most("source", v.source.len(), MAX_SOURCE_BYTES)?;
        at_most("text", v.text.len(), MAX_TEXT_BYTES)?;
        at_most("model", v.model.len(), 128)?;
        at_most("document_prefix", v.document_prefix.len(), 128)?;
        at_most("query_prefix", v.query_prefix.len(), 128)?;
        let encoding = match pb::VectorEncoding::try_from(v.encoding) {
            Ok(pb::VectorEncoding::F32) => Encoding::F32,
            Ok(pb::VectorEncoding::F16) => Encoding::F16,
            Ok(pb::VectorEncoding::I8) => Encoding::I8,
            _ => return Err(InvalidMessage::new("encoding", "is not known")),
        };
        if v.dim == 0 || v.dim > MAX_DIM {
            return Err(InvalidMessage::new("dim", format!("{} is not within 1 to {MAX_DIM}", v.dim)));
        }
        let want = if v.tombstone { 0 } else { v.dim as usize * encoding.width() };
        if v.data.len() != want {
            return Err(InvalidMessage::new("data", format!("has {} bytes, expected {want}", v.data.len())));
        }
        if v.source.is_empty() {
            return Err(InvalidMessage::new("source", "is empty"));
        }
        if v.model_digest.len() != 64 || !v.model_digest.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(InvalidMessage::new("model_digest", "is not 64 hex digits"));
        }
        let metric =
            Metric::from_word(&v.metric).ok_or_else(|| InvalidMessage::new("metric", "is not cosine, l2 or dot"))?;
        Ok(Self {
            collection: v.collection.parse().map_err(|e| InvalidMessage::new("collection", format!("{e}")))?,
            source: v.source,
            ordinal: v.ordinal,
            encoding,
            dim: v.dim,
            scale: v.scale,
            data: v.data.into(),
            model: v.model,
            model_digest: v.model_digest,
            metric,
            document_prefix: v.document_prefix,
            query_prefix: v.query_prefix,
            tombstone: v.tombstone,
            text: v.text,
        })
    }
}
