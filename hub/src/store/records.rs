//! Landing records: the one transaction that is the exactly-once.
//!
//! Lock and extend the stream row, drop what it already had, COPY the rest, commit; only then may anybody ack. Two
//! copies of a batch, two hubs, a repeat after a lost ack: the row's lock puts them one after another and the second finds
//! its numbers committed. Deliberately unknown here: wire messages and acks (`grpc/telemetry`).
use super::{
    Act, Store, StoreError, collections,
    pgcopy::CopyBuffer,
    streams::{self, HostRefusal, SeqRange, StreamKey},
};
use redforge_shared::{
    ids::Name,
    record::{Body, Encoding, Record, RecordClass, Vector},
};
use sqlx::{PgConnection, Postgres, Transaction};
use std::borrow::Cow;
use time::OffsetDateTime;

/// One contiguous run of a stream. A record that did not decode is there as its problem, so that its number is known.
#[derive(Debug)]
pub struct Batch {
    pub stream: StreamKey,
    pub range: SeqRange,
    /// As many as `range` has numbers.
    pub records: Vec<Result<Record, String>>,
}

/// What became of a batch.
#[derive(Debug, PartialEq, Eq)]
pub struct Committed {
    /// Records that were there already.
    pub resent: u64,
}

/// Why a batch was not taken. Nothing of it has landed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error(transparent)]
    Host(#[from] HostRefusal),
    #[error("record {seq}: {problem}")]
    Malformed { seq: u64, problem: String },
    #[error("record {seq} does not match collection '{collection}': {problem}")]
    Collection { seq: u64, collection: Name, problem: String },
}

/// How much of a COPY is sent at once.
const PIECE_BYTES: usize = 64 << 10;

/// Ends an act with a refusal or a failure.
#[derive(Debug)]
pub(in crate::store) enum Stop {
    Refused(Refusal),
    Failed(StoreError),
}
impl From<StoreError> for Stop {
    fn from(e: StoreError) -> Self {
        Self::Failed(e)
    }
}
impl From<Refusal> for Stop {
    fn from(r: Refusal) -> Self {
        Self::Refused(r)
    }
}

impl Store {
    /// Lands a batch. `Ok(Ok(_))` means committed: the ack may go out.
    pub async fn commit_batch(
        &self,
        batch: &Batch,
        now: OffsetDateTime,
    ) -> Result<Result<Committed, Refusal>, StoreError> {
        let mut tx = self.pool.begin().await.act("landing records")?;
        match stage(&mut tx, batch, now).await {
            Ok(committed) => {
                tx.commit().await.act("committing records")?;
                Ok(Ok(committed))
            }
            Err(Stop::Refused(refusal)) => {
                // The answer stands whether or not the rollback can be said aloud.
                drop(tx.rollback().await);
                Ok(Err(refusal))
            }
            Err(Stop::Failed(e)) => Err(e),
        }
    }
}

/// Everything but the commit.
pub(in crate::store) async fn stage(
    tx: &mut Transaction<'_, Postgres>,
    batch: &Batch,
    now: OffsetDateTime,
) -> Result<Committed, Stop> {
    let claimed = streams::claim(tx, &batch.stream, batch.range, now).await?.map_err(Refusal::from)?;
    let mut fresh = Vec::with_capacity(batch.records.len());
    for (seq, record) in (batch.range.first()..=batch.range.last()).zip(&batch.records) {
        if claimed.committed.iter().any(|r| r.contains(seq)) {
            continue;
        }
        let malformed = |problem: String| Refusal::Malformed { seq, problem };
        let record = record.as_ref().map_err(|problem| malformed(problem.clone()))?;
        storable(record).map_err(|problem| malformed(problem.into()))?;
        fresh.push((seq, record));
    }
    if batch.stream.class == RecordClass::Vector {
        let vectors = fresh.iter().filter_map(|(seq, r)| match &r.body {
            Body::Vector(v) => Some((*seq, v)),
            _ => None,
        });
        collections::ensure(tx, vectors, now).await?;
    }
    if !fresh.is_empty() {
        copy(tx, batch.stream.class, claimed.stream_id, &fresh, now).await?;
    }
    Ok(Committed { resent: (batch.records.len() - fresh.len()) as u64 })
}

/// Bounds of the database that the wire does not know.
fn storable(record: &Record) -> Result<(), &'static str> {
    // PostgreSQL's calendar begins in 4713 BC.
    if record.at.year() < -4000 {
        return Err("its time is before what the database can hold");
    }
    let nul = |s: &str| s.contains('\0');
    let bad = record.key.as_deref().is_some_and(nul)
        || match &record.body {
            Body::Vector(v) => {
                if !finite(v) {
                    return Err("a component of the vector is not a finite number");
                }
                [&v.source, &v.model, &v.document_prefix, &v.query_prefix].into_iter().any(|s| nul(s))
            }
            Body::Log(l) => nul(&l.stream),
            // The escape is the only way in: JSON forbids the bare byte. Refusing a doubled backslash too is the price of
            // not walking the document again.
            Body::Event(e) => nul(&e.name) || e.payload_json.contains("\\u0000"),
            Body::Measurement(m) => nul(&m.name) || nul(&m.unit),
        };
    if bad { Err("a name or payload holds the character U+0000") } else { Ok(()) }
}

fn finite(v: &Vector) -> bool {
    match v.encoding {
        Encoding::F32 => v.data.as_chunks::<4>().0.iter().all(|c| f32::from_le_bytes(*c).is_finite()),
        Encoding::F16 => v.data.as_chunks::<2>().0.iter().all(|c| half::f16::from_le_bytes(*c).is_finite()),
        // The largest component there can be: a byte times the scale.
        Encoding::I8 => (v.scale * 128.0).is_finite(),
    }
}

fn statement(class: RecordClass) -> &'static str {
    match class {
        RecordClass::Vector => {
            "COPY record_vector (stream_id, seq, received_at, at, instance, key, collection, source, ordinal, encoding, \
             dim, scale, data, model, model_digest, text, tombstone) FROM STDIN (FORMAT binary)"
        }
        RecordClass::Log => {
            "COPY record_log (stream_id, seq, received_at, at, instance, key, level, line, stream, truncated) \
             FROM STDIN (FORMAT binary)"
        }
        RecordClass::Event => {
            "COPY record_event (stream_id, seq, received_at, at, instance, key, name, payload) \
             FROM STDIN (FORMAT binary)"
        }
        RecordClass::Measurement => {
            "COPY record_measurement (stream_id, seq, received_at, at, instance, key, name, value, unit) \
             FROM STDIN (FORMAT binary)"
        }
    }
}

async fn copy(
    tx: &mut PgConnection,
    class: RecordClass,
    stream_id: i64,
    rows: &[(u64, &Record)],
    now: OffsetDateTime,
) -> Result<(), Stop> {
    let act = "copying records";
    let mut copy = tx.copy_in_raw(statement(class)).await.act(act)?;
    let mut buffer = CopyBuffer::with_capacity(PIECE_BYTES);
    for (seq, record) in rows {
        encode(&mut buffer, stream_id, *seq, record, now);
        if buffer.len() >= PIECE_BYTES {
            // The server takes these rows in while the next are written.
            copy.send(buffer.filled()).await.act(act)?;
            buffer.clear();
        }
    }
    buffer.finish();
    copy.send(buffer.filled()).await.act(act)?;
    match copy.finish().await {
        Ok(landed) if landed == rows.len() as u64 => Ok(()),
        Ok(landed) => Err(Stop::Failed(StoreError::Corrupt {
            act,
            what: "rows",
            problem: format!("{landed} landed of {}", rows.len()),
        })),
        Err(e) => Err(data_refusal(&e, rows).map_or_else(|| StoreError::Act { act, source: e }.into(), Stop::Refused)),
    }
}

/// PostgreSQL found fault with a value (class 22): the record is refused by number, or it would be sent for ever.
fn data_refusal(e: &sqlx::Error, rows: &[(u64, &Record)]) -> Option<Refusal> {
    let e = e.as_database_error().filter(|e| e.code().is_some_and(|c| c.starts_with("22")))?;
    let place = e.try_downcast_ref::<sqlx::postgres::PgDatabaseError>().and_then(|e| e.r#where());
    let line: Option<usize> = place
        .and_then(|p| p.split("line ").nth(1))
        .and_then(|p| p.split(|c: char| !c.is_ascii_digit()).next())
        .and_then(|n| n.parse().ok());
    let seq = line.and_then(|n| rows.get(n.checked_sub(1)?)).map_or(0, |(seq, _)| *seq);
    Some(Refusal::Malformed { seq, problem: e.message().chars().take(200).collect() })
}

/// What people wrote may hold U+0000, which PostgreSQL cannot: the line is worth more than the character.
fn without_nul(s: &str) -> Cow<'_, str> {
    if s.contains('\0') { s.replace('\0', "\u{fffd}").into() } else { s.into() }
}

fn encode(b: &mut CopyBuffer, stream_id: i64, seq: u64, r: &Record, now: OffsetDateTime) {
    let own = match &r.body {
        Body::Vector(_) => 11,
        Body::Log(_) => 4,
        Body::Event(_) => 2,
        Body::Measurement(_) => 3,
    };
    b.row(6 + own);
    b.bigint(stream_id);
    b.bigint(seq as i64);
    b.time(now);
    b.time(r.at);
    b.opt_text(r.instance.as_ref().map(Name::as_str));
    b.opt_text(r.key.as_deref());
    match &r.body {
        Body::Vector(v) => {
            b.bytes(v.collection.as_str().as_bytes());
            b.bytes(v.source.as_bytes());
            // The wire's ordinal is unsigned; 2^31 chunks of one document do not exist.
            b.int(i32::try_from(v.ordinal).unwrap_or(i32::MAX));
            b.bytes(v.encoding.as_str().as_bytes());
            b.int(v.dim as i32);
            b.real(v.scale);
            b.bytes(&v.data);
            b.bytes(v.model.as_bytes());
            // As the collection keeps it, so that equal digests are equal texts.
            b.bytes(v.model_digest.to_ascii_lowercase().as_bytes());
            b.bytes(without_nul(&v.text).as_bytes());
            b.bool(v.tombstone);
        }
        Body::Log(l) => {
            b.opt_text(l.level.map(redforge_shared::record::LogLevel::as_str));
            b.bytes(without_nul(&l.line).as_bytes());
            b.bytes(l.stream.as_bytes());
            b.bool(l.truncated);
        }
        Body::Event(e) => {
            b.bytes(e.name.as_bytes());
            b.jsonb(&e.payload_json);
        }
        Body::Measurement(m) => {
            b.bytes(m.name.as_bytes());
            b.double(m.value);
            b.bytes(m.unit.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests;
