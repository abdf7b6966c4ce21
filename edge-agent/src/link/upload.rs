//! Sends what the outbox holds and marks what the hub has. Steps "upload" and "ack" of the flow up.
//!
//! It says which streams are open, learns what the hub has of them, then keeps at most four batches unacked: that is the
//! whole flow control. It never looks into a record. Any break ends it with an error; the link dials again, and what was
//! not acked is sent again, which the hub subtracts.
use crate::db::outbox::{LostReason, OpenStream, Outbox, OutboxError, Ranges, SealedBatch, Session, StreamName};
use futures_util::{Stream, StreamExt as _};
use redforge_shared::{
    ids::{Epoch, RunId},
    record::{MAX_BATCH_RECORDS, MAX_UNACKED_BATCHES, RecordClass},
    wire::{
        pb::{
            self, RefusedReason, UploadRequest, UploadResponse, telemetry_client::TelemetryClient, upload_request,
            upload_response,
        },
        timestamp,
    },
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tonic::{Status, transport::Channel};

/// How often the same record may be refused before it is set aside.
const MAX_STRIKES: u32 = 5;
/// Pause after a refusal; doubles up to the longest, and an ack ends it.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A hub that has batches and says nothing for so long has lost them.
const SILENCE: Duration = Duration::from_secs(120);
/// Most streams a hello names; the oldest come first, the others are named by their batches.
const MAX_STREAMS: usize = 8_000;

/// Why the upload ended.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    #[error("the hub ended the upload")]
    Hub(#[source] Box<Status>),
    #[error("the hub closed the upload")]
    Closed,
    #[error("the hub broke the protocol: {0}")]
    Protocol(String),
    #[error("the hub has not answered a batch for {} s", SILENCE.as_secs())]
    Silent,
    #[error(transparent)]
    Outbox(#[from] OutboxError),
}

/// What is wrong with the sending, so that each trouble is said when it begins, and once that it is over.
#[derive(Clone, Debug, Default)]
pub struct Trouble(Arc<Mutex<BTreeSet<String>>>);

/// Troubles told apart; what comes beyond is not said.
const MAX_TROUBLES: usize = 16;

impl Trouble {
    /// Notes a trouble; true if it is news.
    pub fn begins(&self, what: &str) -> bool {
        let mut said = self.0.lock().expect("no panic while the lock is held");
        let news = said.len() < MAX_TROUBLES && said.insert(what.to_owned());
        if news {
            tracing::warn!(reason = what, "records are not being sent");
        }
        news
    }

    /// Records arrive; true if that is news.
    pub fn is_over(&self) -> bool {
        let mut said = self.0.lock().expect("no panic while the lock is held");
        let news = !std::mem::take(&mut *said).is_empty();
        if news {
            tracing::info!("records are being sent again");
        }
        news
    }
}

/// Sends until stopped or until the stream breaks.
pub async fn run(
    mut client: TelemetryClient<Channel>,
    outbox: Outbox,
    run_id: RunId,
    trouble: Trouble,
    stop: CancellationToken,
) -> Result<(), UploadError> {
    let (requests, outgoing) = mpsc::channel(MAX_UNACKED_BATCHES + 4);
    let hello = requests.clone();
    let named = greet(&hello, &outbox, run_id).await?;
    let answers = tokio::select! {
        answers = client.upload(tokio_stream::wrappers::ReceiverStream::new(outgoing)) => {
            answers.map_err(|e| UploadError::Hub(Box::new(e)))?.into_inner()
        }
        () = stop.cancelled() => return Ok(()),
    };
    drop(hello);
    Upload::new(outbox, requests, named, trouble).exchange(answers, stop).await
}

/// Queues the hello; returns the streams it names.
async fn greet(
    requests: &mpsc::Sender<UploadRequest>,
    outbox: &Outbox,
    run_id: RunId,
) -> Result<Vec<OpenStream>, UploadError> {
    let mut named = outbox.open_streams();
    named.truncate(MAX_STREAMS);
    let hello = pb::UploadHello {
        run_id: run_id.0.to_vec().into(),
        streams: named
            .iter()
            .map(|s| pb::OpenStream {
                stream: Some(wire_name(s.name)),
                max_seq: s.max_seq,
                lost: lost_ranges(s),
                opened_at: Some(timestamp(s.opened_at)),
            })
            .collect(),
    };
    send(requests, upload_request::Message::Hello(hello)).await?;
    Ok(named)
}

/// One upload stream.
struct Upload {
    outbox: Outbox,
    requests: mpsc::Sender<UploadRequest>,
    named: Vec<OpenStream>,
    session: Session,
    /// Sent, not answered: stream, first and last number.
    unacked: Vec<(StreamName, u64, u64)>,
    /// Lost ranges the hub has heard of.
    told: BTreeMap<StreamName, u64>,
    strikes: BTreeMap<(StreamName, u64), (i32, u32)>,
    /// Most records of the next batch: small while a batch is refused as a whole, to find the record at fault.
    most: usize,
    pause: Duration,
    resume_at: Instant,
    heard: Instant,
    trouble: Trouble,
}

impl Upload {
    fn new(outbox: Outbox, requests: mpsc::Sender<UploadRequest>, named: Vec<OpenStream>, trouble: Trouble) -> Self {
        Self {
            trouble,
            session: outbox.session(),
            told: named.iter().map(|s| (s.name, s.lost_revision)).collect(),
            outbox,
            requests,
            named,
            unacked: Vec::new(),
            strikes: BTreeMap::new(),
            most: MAX_BATCH_RECORDS,
            pause: FIRST_PAUSE,
            resume_at: Instant::now(),
            heard: Instant::now(),
        }
    }

    async fn exchange(
        mut self,
        answers: impl Stream<Item = Result<UploadResponse, Status>> + Unpin,
        stop: CancellationToken,
    ) -> Result<(), UploadError> {
        let mut answers = answers;
        let mut hint = self.outbox.subscribe();
        let welcome = tokio::select! {
            answer = answers.next() => hear(answer)?,
            () = tokio::time::sleep(SILENCE) => return Err(UploadError::Silent),
            () = stop.cancelled() => return Ok(()),
        };
        self.welcome(welcome).await?;
        loop {
            // Seen before looking, so that what is appended while we look wakes us.
            hint.borrow_and_update();
            self.tell_lost().await?;
            self.fill().await?;
            let paused = Instant::now() < self.resume_at;
            tokio::select! {
                answer = answers.next() => self.answer(hear(answer)?).await?,
                changed = hint.changed() => changed.map_err(|_| OutboxError::Stopped)?,
                () = sleep_until(self.resume_at), if paused => {}
                () = sleep_until(self.heard + SILENCE), if !self.unacked.is_empty() => return Err(UploadError::Silent),
                () = stop.cancelled() => return Ok(()),
            }
        }
    }

    /// Takes the hub's word for what it has of each stream.
    async fn welcome(&mut self, message: upload_response::Message) -> Result<(), UploadError> {
        let upload_response::Message::Welcome(welcome) = message else {
            return Err(UploadError::Protocol("the first message is not a welcome".into()));
        };
        if welcome.committed.len() != self.named.len() {
            return Err(UploadError::Protocol("the welcome does not name the hello's streams".into()));
        }
        for (committed, open) in welcome.committed.iter().zip(&self.named) {
            if stream_name(committed.stream.as_ref())? != open.name {
                return Err(UploadError::Protocol("the welcome names other streams than the hello".into()));
            }
            let ranges: Ranges = committed.ranges.iter().map(|r| (r.first, r.last)).collect();
            self.outbox.reconcile_committed(open, ranges).await?;
        }
        self.outbox.note_heard().await?;
        self.named.clear();
        Ok(())
    }

    async fn tell_lost(&mut self) -> Result<(), UploadError> {
        for s in self.outbox.lost_news(&self.told) {
            let lost = pb::Lost { stream: Some(wire_name(s.name)), max_seq: s.max_seq, ranges: lost_ranges(&s) };
            send(&self.requests, upload_request::Message::Lost(lost)).await?;
            self.told.insert(s.name, s.lost_revision);
        }
        Ok(())
    }

    /// Sends while fewer than four batches are unacked.
    async fn fill(&mut self) -> Result<(), UploadError> {
        while self.unacked.len() < MAX_UNACKED_BATCHES && Instant::now() >= self.resume_at {
            let Some(batch) = self.session.next_batch(self.most).await? else { return Ok(()) };
            fail::fail_point!("upload.before-send");
            if self.unacked.is_empty() {
                self.heard = Instant::now();
            }
            self.unacked.push((batch.stream, batch.first_seq, batch.last_seq()));
            send(&self.requests, upload_request::Message::Batch(wire_batch(batch))).await?;
        }
        Ok(())
    }

    async fn answer(&mut self, message: upload_response::Message) -> Result<(), UploadError> {
        self.heard = Instant::now();
        match message {
            upload_response::Message::Ack(a) => {
                let (stream, first, last) = self.answered(a.stream.as_ref(), a.first_seq, a.last_seq)?;
                fail::fail_point!("upload.before-mark");
                self.outbox.ack(stream, first, last).await?;
                self.session.settle(stream, first, last);
                self.trouble.is_over();
                self.pause = FIRST_PAUSE;
                self.most = (self.most * 2).min(MAX_BATCH_RECORDS);
                self.strikes.retain(|(s, seq), _| *s != stream || *seq < first || *seq > last);
                Ok(())
            }
            upload_response::Message::Refused(r) => {
                let (stream, first, last) = self.answered(r.stream.as_ref(), r.first_seq, r.last_seq)?;
                self.session.settle(stream, first, last);
                self.resume_at = Instant::now() + self.pause;
                self.pause = (self.pause * 2).min(LONGEST_PAUSE);
                self.refused(&r, stream, first, last).await
            }
            upload_response::Message::Welcome(_) => Err(UploadError::Protocol("a second welcome".into())),
        }
    }

    /// The batch that this answer is about.
    fn answered(
        &mut self,
        stream: Option<&pb::StreamId>,
        first: u64,
        last: u64,
    ) -> Result<(StreamName, u64, u64), UploadError> {
        let about = (stream_name(stream)?, first, last);
        let at = self.unacked.iter().position(|sent| *sent == about);
        let at = at.ok_or_else(|| UploadError::Protocol("an answer to a batch that was not sent".into()))?;
        Ok(self.unacked.remove(at))
    }

    async fn refused(
        &mut self,
        refused: &pb::Refused,
        stream: StreamName,
        first: u64,
        last: u64,
    ) -> Result<(), UploadError> {
        let blames_a_record =
            matches!(RefusedReason::try_from(refused.reason), Ok(RefusedReason::Malformed | RefusedReason::Collection));
        if !blames_a_record {
            self.trouble.begins("the hub cannot take records now");
            return Ok(());
        }
        let seq = match refused.seq {
            0 if last > first => {
                // One of them is at fault; smaller batches find it.
                self.most = ((last - first) as usize).div_ceil(2).max(1);
                return Ok(());
            }
            0 => first,
            seq if (first..=last).contains(&seq) => seq,
            _ => return Err(UploadError::Protocol("a refusal of a record that was not sent".into())),
        };
        let (reason, strikes) = self.strikes.entry((stream, seq)).or_insert((refused.reason, 0));
        *strikes = if *reason == refused.reason { *strikes + 1 } else { 1 };
        *reason = refused.reason;
        if *strikes >= MAX_STRIKES {
            tracing::warn!(%stream, seq, reason = ?refused.reason(), "the hub refuses this record, it is set aside as lost");
            self.outbox.lose(stream, seq, seq, LostReason::Quarantined).await?;
            self.strikes.remove(&(stream, seq));
            self.pause = FIRST_PAUSE;
            self.resume_at = Instant::now();
        }
        Ok(())
    }
}

fn hear(answer: Option<Result<UploadResponse, Status>>) -> Result<upload_response::Message, UploadError> {
    let answer = answer.ok_or(UploadError::Closed)?.map_err(|e| UploadError::Hub(Box::new(e)))?;
    answer.message.ok_or_else(|| UploadError::Protocol("an empty message".into()))
}

async fn send(to: &mpsc::Sender<UploadRequest>, message: upload_request::Message) -> Result<(), UploadError> {
    to.send(UploadRequest { message: Some(message) }).await.map_err(|_| UploadError::Closed)
}

fn wire_name(name: StreamName) -> pb::StreamId {
    pb::StreamId { class: pb::RecordClass::from(name.class).into(), epoch: name.epoch.0.to_vec().into() }
}

fn stream_name(id: Option<&pb::StreamId>) -> Result<StreamName, UploadError> {
    let name = id.and_then(|id| {
        Some(StreamName { class: RecordClass::from_wire(id.class)?, epoch: Epoch::try_from(&id.epoch[..]).ok()? })
    });
    name.ok_or_else(|| UploadError::Protocol("a stream without a name".into()))
}

fn lost_ranges(s: &OpenStream) -> Vec<pb::LostRange> {
    let wire = |(reason, first, last): &(LostReason, u64, u64)| pb::LostRange {
        range: Some(pb::SeqRange { first: *first, last: *last }),
        reason: match reason {
            LostReason::Dropped => pb::LostReason::Dropped,
            LostReason::Quarantined => pb::LostReason::Quarantined,
            LostReason::Salvage => pb::LostReason::Salvage,
        }
        .into(),
    };
    s.lost.iter().map(wire).collect()
}

fn wire_batch(batch: SealedBatch) -> pb::Batch {
    pb::Batch {
        stream: Some(wire_name(batch.stream)),
        first_seq: batch.first_seq,
        records: batch.records,
        live: batch.live,
    }
}

#[cfg(test)]
mod tests;
