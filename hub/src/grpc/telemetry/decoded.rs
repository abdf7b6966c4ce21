//! Batches as they are read from the wire: decoded, bounded, and put together where they wait one behind the other.
//!
//! Needs no database: the door decodes the next batch while the last one is being committed, and what has queued up
//! meanwhile becomes one run, hence one transaction and one sync. Step of the flow up: `telemetry` -> here -> `ingest`.
use super::ingest::Answer;
use crate::store::{
    records::Batch,
    streams::{SeqRange, StreamKey},
};
use redforge_shared::{
    ids::{Epoch, HostId},
    record::{MAX_BATCH_BYTES, MAX_BATCH_RECORDS, MAX_RECORD_BYTES, MAX_UNACKED_BATCHES, Record, RecordClass},
    wire::{
        InvalidMessage,
        pb::{self, upload_response},
    },
};
use tonic::Status;

pub(super) fn invalid(e: InvalidMessage) -> Status {
    Status::invalid_argument(e.to_string())
}

pub(super) fn stream_key(host: HostId, id: Option<&pb::StreamId>) -> Result<StreamKey, InvalidMessage> {
    let id = id.ok_or_else(|| InvalidMessage::new("stream", "is missing"))?;
    let class =
        RecordClass::from_wire(id.class).ok_or_else(|| InvalidMessage::new("stream.class", "is not a known class"))?;
    let epoch =
        Epoch::try_from(&id.epoch[..]).map_err(|_| InvalidMessage::new("stream.epoch", "does not have 16 bytes"))?;
    Ok(StreamKey { host, class, epoch })
}

/// What has been read and not yet landed: one batch, or several of which each begins where the one before it ends.
#[derive(Debug)]
pub struct Decoded {
    wire: pb::StreamId,
    /// First and last number of each batch as it was sent, and as it is answered.
    sent: Vec<(u64, u64)>,
    /// The records of all of them. An error is a batch that breaks its own bounds: refused whole.
    pub(super) batch: Result<Batch, InvalidMessage>,
}

impl Decoded {
    /// How many batches these are.
    pub fn batches(&self) -> usize {
        self.sent.len()
    }

    /// Takes `next` in if it goes on where this one ends; else gives it back: it is of another stream or place, or these
    /// are as many as a host may have unanswered.
    pub fn join(&mut self, next: Self) -> Option<Self> {
        let (Ok(run), Ok(more)) = (&mut self.batch, &next.batch) else { return Some(next) };
        let follows = run.stream == more.stream && run.range.last() + 1 == more.range.first();
        let joined = SeqRange::new(run.range.first(), more.range.last());
        let Some(range) = joined.filter(|_| follows && self.sent.len() + next.sent.len() <= MAX_UNACKED_BATCHES) else {
            return Some(next);
        };
        run.range = range;
        run.records.extend(next.batch.into_iter().flat_map(|b| b.records));
        self.sent.extend(next.sent);
        None
    }

    /// The batches one by one, as they came.
    pub(super) fn split(self) -> Vec<Self> {
        let Ok(Batch { stream, records, .. }) = self.batch else { return vec![self] };
        let mut records = records.into_iter();
        let one = |(first, last): (u64, u64)| {
            let range = SeqRange::new(first, last)?;
            let records = records.by_ref().take((last - first + 1) as usize).collect();
            let batch = Ok(Batch { stream, range, records });
            Some(Self { wire: self.wire.clone(), sent: vec![(first, last)], batch })
        };
        self.sent.into_iter().filter_map(one).collect()
    }

    /// The answer that all of it is committed, batch by batch.
    pub(super) fn acked(&self) -> Vec<Answer> {
        let ack = |(first_seq, last_seq)| {
            upload_response::Message::Ack(pb::Ack { stream: Some(self.wire.clone()), first_seq, last_seq })
        };
        self.sent.iter().copied().map(ack).collect()
    }

    /// The answer that nothing of it was taken, batch by batch.
    pub(super) fn refused(&self, reason: pb::RefusedReason, seq: u64) -> Vec<Answer> {
        let refuse = |(first_seq, last_seq)| {
            let stream = Some(self.wire.clone());
            upload_response::Message::Refused(pb::Refused { stream, first_seq, last_seq, reason: reason.into(), seq })
        };
        self.sent.iter().copied().map(refuse).collect()
    }
}

/// Reads what a host sent. `Err` when not even the stream can be named: then there is nothing to refuse by name.
pub fn decode(host: HostId, batch: pb::Batch) -> Result<Decoded, Status> {
    let stream = stream_key(host, batch.stream.as_ref()).map_err(|e| invalid(e.within("batch")))?;
    let wire = batch.stream.clone().unwrap_or_default();
    let (first, count) = (batch.first_seq, batch.records.len());
    let last = first.saturating_add((count as u64).saturating_sub(1));
    Ok(Decoded { wire, sent: vec![(first, last)], batch: bounded(stream, first, last, batch) })
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
