//! Turns batches from the wire into committed records and an answer: the part of the door that needs no connection.
//!
//! Decodes and bounds what comes, hands it to `store::records`, and turns the outcome into an ack or a refusal.
//! Deliberately unknown here: what a record means, SQL, and streams of messages.
use crate::store::{
    Store,
    hints::Hints,
    records::{Batch, Refusal},
    streams::{Announced, HostRefusal, MAX_SEQ, SeqRange, StreamKey},
};
use redforge_shared::{
    clock::SharedClock,
    error::Chain,
    ids::{Epoch, HostId},
    record::{MAX_BATCH_BYTES, MAX_BATCH_RECORDS, MAX_RECORD_BYTES, Record, RecordClass},
    wire::{
        InvalidMessage,
        pb::{self, upload_response},
    },
};
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicI32, Ordering},
    },
};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// Most streams in a hello; an agent makes at most four a start.
const MAX_STREAMS: usize = 8_192;
/// Most lost ranges in one message.
const MAX_LOST_RANGES: usize = 50_000;

/// Lands what hosts send. The door uses it, and so can anything that has batches in memory.
#[derive(Clone, Debug)]
pub struct Ingest {
    store: Store,
    clock: SharedClock,
    /// Wakes this process's own loops; nothing is notified through the database in the ingest.
    hints: Hints,
    hosts: Arc<Mutex<HashMap<HostId, Weak<tokio::sync::Mutex<()>>>>>,
    /// Julian day up to which this process has seen partitions made.
    partitions_for: Arc<AtomicI32>,
}

/// What the host hears.
pub type Answer = upload_response::Message;

impl Ingest {
    /// An ingest into this store.
    pub fn new(store: Store, clock: SharedClock, hints: Hints) -> Self {
        Self { store, clock, hints, hosts: Arc::default(), partitions_for: Arc::new(AtomicI32::new(i32::MIN)) }
    }

    /// Lands one decoded batch and says what became of it. `Err` ends the stream.
    pub async fn land(&self, host: HostId, decoded: Decoded) -> Result<Answer, Status> {
        let Decoded { wire, first, last, batch } = decoded;
        let refused = |reason: pb::RefusedReason, seq: u64| {
            upload_response::Message::Refused(pb::Refused {
                stream: Some(wire.clone()),
                first_seq: first,
                last_seq: last,
                reason: reason.into(),
                seq,
            })
        };
        let batch = match batch {
            Ok(batch) => batch,
            Err(e) => {
                tracing::warn!(host.id = %host, error = %e, "batch refused");
                return Ok(refused(pb::RefusedReason::Malformed, 0));
            }
        };
        match self.commit(&batch).await {
            Ok(Ok(())) => {
                fail::fail_point!("ack.before");
                Ok(upload_response::Message::Ack(pb::Ack {
                    stream: Some(wire.clone()),
                    first_seq: first,
                    last_seq: last,
                }))
            }
            Ok(Err(Refusal::Host(why))) => Err(host_refused(why)),
            Ok(Err(why)) => {
                tracing::warn!(host.id = %host, stream.class = %batch.stream.class, error = %why, "record refused");
                Ok(match why {
                    Refusal::Collection { seq, .. } => refused(pb::RefusedReason::Collection, seq),
                    Refusal::Malformed { seq, .. } => refused(pb::RefusedReason::Malformed, seq),
                    Refusal::Host(why) => return Err(host_refused(why)),
                })
            }
            Err(e) => {
                if e.is_unavailable() {
                    tracing::warn!(host.id = %host, error = %Chain(&e), "database away or full, batch put off");
                } else {
                    tracing::error!(host.id = %host, error = %Chain(&e), "landing a batch failed, put off");
                }
                Ok(refused(pb::RefusedReason::Busy, 0))
            }
        }
    }

    /// One host's batches commit one after another, whatever streams they come on.
    async fn commit(&self, batch: &Batch) -> Result<Result<(), Refusal>, crate::store::StoreError> {
        let turn = self.turn_of(batch.stream.host);
        let _turn = turn.lock().await;
        let now = self.clock.now();
        let day = now.date().to_julian_day();
        if self.partitions_for.load(Ordering::Relaxed) < day {
            self.store.ensure_partitions(now.date(), 1).await?;
            self.partitions_for.store(day, Ordering::Relaxed);
        }
        let outcome = self.store.commit_batch(batch, now).await?;
        if batch.stream.class == RecordClass::Vector && outcome.is_ok() {
            self.hints.wake("record_vector");
        }
        Ok(outcome.map(|done| {
            let count = batch.records.len();
            tracing::debug!(host.id = %batch.stream.host, stream.class = %batch.stream.class, records = count,
                resent = done.resent, "batch committed");
        }))
    }

    fn turn_of(&self, host: HostId) -> Arc<tokio::sync::Mutex<()>> {
        let mut hosts = self.hosts.lock().expect("the lock is never held across a panic");
        if let Some(turn) = hosts.get(&host).and_then(Weak::upgrade) {
            return turn;
        }
        hosts.retain(|_, turn| turn.strong_count() > 0);
        let turn = Arc::default();
        hosts.insert(host, Arc::downgrade(&turn));
        turn
    }

    /// Takes a hello or a message about lost ranges; answers with what is committed, in the order of `streams`.
    pub async fn announce(&self, host: HostId, streams: Vec<pb::OpenStream>) -> Result<Vec<pb::Committed>, Status> {
        if streams.len() > MAX_STREAMS {
            return Err(Status::invalid_argument(format!("hello.streams: more than {MAX_STREAMS}")));
        }
        let announced = streams.iter().map(|s| announced(host, s)).collect::<Result<Vec<_>, _>>().map_err(invalid)?;
        // Rows are made in the order in which the streams began: readers order by it.
        let mut order: Vec<usize> = (0..streams.len()).collect();
        let opened = |i: &usize| streams[*i].opened_at.as_ref().map(|t| (t.seconds, t.nanos));
        order.sort_by_key(opened);
        let sorted: Vec<_> = order.iter().map(|i| announced[*i].clone()).collect();
        let opened = self.store.open_streams(host, &sorted, self.clock.now()).await;
        let ranges = opened.map_err(|e| crate::grpc::store_status(&e))?.map_err(host_refused)?;
        let mut committed = vec![pb::Committed::default(); streams.len()];
        for (i, ranges) in order.into_iter().zip(ranges) {
            committed[i] = pb::Committed {
                stream: streams[i].stream.clone(),
                ranges: ranges.into_iter().map(|r| pb::SeqRange { first: r.first(), last: r.last() }).collect(),
            };
        }
        Ok(committed)
    }
}

fn invalid(e: InvalidMessage) -> Status {
    Status::invalid_argument(e.to_string())
}

fn host_refused(why: HostRefusal) -> Status {
    let reason = match why {
        HostRefusal::Fenced => "HOST_FENCED",
        HostRefusal::Unknown => "HOST_UNKNOWN",
    };
    let details = ErrorDetails::with_error_info(reason, "redforge", HashMap::<String, String>::new());
    Status::with_error_details(Code::PermissionDenied, why.to_string(), details)
}

fn stream_key(host: HostId, id: Option<&pb::StreamId>) -> Result<StreamKey, InvalidMessage> {
    let id = id.ok_or_else(|| InvalidMessage::new("stream", "is missing"))?;
    let class =
        RecordClass::from_wire(id.class).ok_or_else(|| InvalidMessage::new("stream.class", "is not a known class"))?;
    let epoch =
        Epoch::try_from(&id.epoch[..]).map_err(|_| InvalidMessage::new("stream.epoch", "does not have 16 bytes"))?;
    Ok(StreamKey { host, class, epoch })
}

fn announced(host: HostId, s: &pb::OpenStream) -> Result<Announced, InvalidMessage> {
    if s.max_seq > MAX_SEQ {
        return Err(InvalidMessage::new("max_seq", "is out of range"));
    }
    if s.lost.len() > MAX_LOST_RANGES {
        return Err(InvalidMessage::new("lost", format!("has more than {MAX_LOST_RANGES} ranges")));
    }
    let range = |l: &pb::LostRange| {
        let r = l.range.as_ref()?;
        SeqRange::new(r.first, r.last).filter(|r| r.last() <= s.max_seq)
    };
    let bad = || InvalidMessage::new("lost.range", "is not a range within 1 to max_seq");
    let lost = s.lost.iter().map(|l| range(l).ok_or_else(bad)).collect::<Result<_, _>>()?;
    Ok(Announced { stream: stream_key(host, s.stream.as_ref())?, max_seq: s.max_seq, lost })
}

/// A batch that has been read and not yet landed. Decoding needs no database: the door decodes the next batch while the
/// last one is being committed.
#[derive(Debug)]
pub struct Decoded {
    wire: pb::StreamId,
    first: u64,
    last: u64,
    /// An error is a batch that breaks its own bounds: refused whole.
    batch: Result<Batch, InvalidMessage>,
}

/// Reads what a host sent. `Err` when not even the stream can be named: then there is nothing to refuse by name.
pub fn decode(host: HostId, batch: pb::Batch) -> Result<Decoded, Status> {
    let stream = stream_key(host, batch.stream.as_ref()).map_err(|e| invalid(e.within("batch")))?;
    let wire = batch.stream.clone().unwrap_or_default();
    let (first, count) = (batch.first_seq, batch.records.len());
    let last = first.saturating_add((count as u64).saturating_sub(1));
    Ok(Decoded { wire, first, last, batch: bounded(stream, first, last, batch) })
}

fn bounded(stream: StreamKey, first: u64, last: u64, batch: pb::Batch) -> Result<Batch, InvalidMessage> {
    let bad = |problem: String| Err(InvalidMessage::new("batch.records", problem));
    let count = batch.records.len();
    if count == 0 || count > MAX_BATCH_RECORDS {
        return bad(format!("are {count}, not 1 to {MAX_BATCH_RECORDS}"));
    }
    let bytes: usize = batch.records.iter().map(bytes::Bytes::len).sum();
    if bytes > MAX_BATCH_BYTES {
        return bad(format!("have {bytes} bytes, more than {MAX_BATCH_BYTES}"));
    }
    let range = SeqRange::new(first, last)
        .ok_or_else(|| InvalidMessage::new("batch.first_seq", "is not a sequence number from 1 on"))?;
    let records = batch.records.into_iter().map(|bytes| record(stream.class, bytes)).collect();
    Ok(Batch { stream, range, records })
}

fn record(class: RecordClass, bytes: bytes::Bytes) -> Result<Record, String> {
    use prost::Message as _;
    if bytes.len() > MAX_RECORD_BYTES {
        return Err(format!("has {} bytes, more than {MAX_RECORD_BYTES}", bytes.len()));
    }
    let sealed = pb::SealedRecord::decode(bytes).map_err(|e| format!("does not decode: {e}"))?;
    let record = Record::try_from(sealed).map_err(|e| e.to_string())?;
    if record.body.class() != class {
        return Err(format!("is a {} in a stream of class {class}", record.body.class()));
    }
    Ok(record)
}
