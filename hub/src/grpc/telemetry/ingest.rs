//! Turns decoded batches into committed records and an answer: the part of the door that needs no connection.
//!
//! Hands what came to `store::records`, and turns the outcome into acks or refusals. Deliberately unknown here: what a
//! record means, SQL, and streams of messages.
use super::decoded::{Decoded, invalid, stream_key};
use crate::store::{
    Store,
    hints::Hints,
    records::{Batch, Refusal},
    streams::{Announced, HostRefusal, MAX_SEQ, SeqRange},
};
use redforge_shared::{
    clock::SharedClock,
    error::Chain,
    ids::HostId,
    record::RecordClass,
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

    /// Lands what follows one another in one transaction, and says of each batch what became of it. `Err` ends the stream.
    pub async fn land(&self, host: HostId, run: Decoded) -> Result<Vec<Answer>, Status> {
        let batch = match &run.batch {
            Ok(batch) => batch,
            Err(e) => {
                tracing::warn!(host.id = %host, error = %e, "batch refused");
                return Ok(run.refused(pb::RefusedReason::Malformed, 0));
            }
        };
        match self.commit(batch).await {
            Ok(Ok(())) => {
                fail::fail_point!("ack.before");
                Ok(run.acked())
            }
            Err(e) if e.is_unavailable() => {
                tracing::warn!(host.id = %host, error = %Chain(&e), "database away or full, batch put off");
                Ok(run.refused(pb::RefusedReason::Busy, 0))
            }
            // What one batch is refused for must not hold up those beside it.
            Ok(Err(Refusal::Collection { .. } | Refusal::Malformed { .. })) | Err(_) if run.batches() > 1 => {
                let mut answers = Vec::with_capacity(run.batches());
                for one in run.split() {
                    answers.extend(Box::pin(self.land(host, one)).await?);
                }
                Ok(answers)
            }
            Ok(Err(why)) => {
                tracing::warn!(host.id = %host, stream.class = %batch.stream.class, error = %why, "record refused");
                match why {
                    Refusal::Collection { seq, .. } => Ok(run.refused(pb::RefusedReason::Collection, seq)),
                    Refusal::Malformed { seq, .. } => Ok(run.refused(pb::RefusedReason::Malformed, seq)),
                    Refusal::Host(why) => Err(host_refused(why)),
                }
            }
            Err(e) => {
                tracing::error!(host.id = %host, error = %Chain(&e), "landing a batch failed, put off");
                Ok(run.refused(pb::RefusedReason::Busy, 0))
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

fn host_refused(why: HostRefusal) -> Status {
    let reason = match why {
        HostRefusal::Fenced => "HOST_FENCED",
        HostRefusal::Unknown => "HOST_UNKNOWN",
    };
    let details = ErrorDetails::with_error_info(reason, "redforge", HashMap::<String, String>::new());
    Status::with_error_details(Code::PermissionDenied, why.to_string(), details)
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

#[cfg(test)]
mod tests;
