//! The exchange against a hub made of two channels, on a real outbox.
use super::*;
use crate::{
    db::outbox::Limits,
    privacy::{Gate, RawRecord},
};
use redforge_shared::{
    clock::SystemClock,
    policy::Policy,
    record::{Body, Log},
};
use std::sync::Arc;

struct Hub {
    requests: mpsc::Receiver<UploadRequest>,
    answers: mpsc::Sender<Result<UploadResponse, Status>>,
    ended: tokio::task::JoinHandle<Result<(), UploadError>>,
    stop: CancellationToken,
}

impl Hub {
    #[expect(clippy::disallowed_methods, reason = "the test joins the task itself")]
    async fn meet(outbox: &Outbox) -> Self {
        let (requests, outgoing) = mpsc::channel(16);
        let (answers, incoming) = mpsc::channel(16);
        let stop = CancellationToken::new();
        let named = greet(&requests, outbox, RunId([1; 16])).await.expect("queues");
        let upload = Upload::new(outbox.clone(), requests, named, Trouble::default());
        let incoming = tokio_stream::wrappers::ReceiverStream::new(incoming);
        let ended = tokio::spawn(upload.exchange(incoming, stop.clone()));
        Self { requests: outgoing, answers, ended, stop }
    }

    async fn hear(&mut self) -> upload_request::Message {
        let deadline = Duration::from_secs(60);
        let request = tokio::time::timeout(deadline, self.requests.recv()).await.expect("the agent says something");
        request.expect("the agent goes on").message.expect("is not empty")
    }

    async fn batch(&mut self) -> pb::Batch {
        match self.hear().await {
            upload_request::Message::Batch(b) => b,
            other => panic!("not a batch: {other:?}"),
        }
    }

    async fn say(&self, message: upload_response::Message) {
        self.answers.send(Ok(UploadResponse { message: Some(message) })).await.expect("the agent listens");
    }

    /// Answers the hello with nothing but these ranges of every stream.
    async fn welcome(&mut self, ranges: &[(u64, u64)]) -> pb::UploadHello {
        let upload_request::Message::Hello(hello) = self.hear().await else { panic!("the hello comes first") };
        let committed = hello.streams.iter().map(|s| pb::Committed {
            stream: s.stream.clone(),
            ranges: ranges.iter().map(|(first, last)| pb::SeqRange { first: *first, last: *last }).collect(),
        });
        let welcome = pb::UploadWelcome { committed: committed.collect() };
        self.say(upload_response::Message::Welcome(welcome)).await;
        hello
    }

    async fn ack(&self, b: &pb::Batch) {
        let last_seq = b.first_seq + b.records.len() as u64 - 1;
        self.say(upload_response::Message::Ack(pb::Ack { stream: b.stream.clone(), first_seq: b.first_seq, last_seq }))
            .await;
    }

    async fn refuse(&self, b: &pb::Batch, reason: RefusedReason, seq: u64) {
        let last_seq = b.first_seq + b.records.len() as u64 - 1;
        let (stream, first_seq, reason) = (b.stream.clone(), b.first_seq, reason.into());
        self.say(upload_response::Message::Refused(pb::Refused { stream, first_seq, last_seq, reason, seq })).await;
    }
}

async fn outbox(dir: &tempfile::TempDir) -> Outbox {
    let limits = Limits { reserve_bytes: 4096, ..Limits::default() };
    Outbox::open(&dir.path().join("outbox.db"), limits, Arc::new(SystemClock)).await.expect("opens")
}

async fn append(outbox: &Outbox, count: usize) {
    let gate = Gate::new(Policy::Open);
    let log = |n: usize| Body::Log(Log { level: None, line: n.to_string(), stream: String::new(), truncated: false });
    let raw = |n| RawRecord {
        at: time::OffsetDateTime::UNIX_EPOCH,
        instance: None,
        key: None,
        repeat_of: None,
        body: log(n),
    };
    let records = (0..count).map(|n| gate.release(raw(n)).expect("is within bounds")).collect();
    outbox.append(records, None).await.expect("commits");
}

async fn until_waiting(outbox: &Outbox, count: u64) {
    let began = std::time::Instant::now();
    while outbox.status().await.expect("reads")[1].waiting != count {
        assert!(began.elapsed() < Duration::from_secs(60), "waiting never became {count}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn four_batches_fly_at_most_and_acks_mark() {
    let dir = tempfile::tempdir().expect("a folder");
    let outbox = outbox(&dir).await;
    append(&outbox, 6_500).await;
    let mut hub = Hub::meet(&outbox).await;
    let hello = hub.welcome(&[(1, 500)]).await;
    assert_eq!(hello.streams[0].max_seq, 6_500);
    let mut flying = Vec::new();
    for n in 0..4 {
        let b = hub.batch().await;
        assert_eq!(
            (b.first_seq, b.records.len(), b.live),
            (501 + n * 1_000, 1_000, false),
            "the hub has the first 500"
        );
        flying.push(b);
    }
    until_waiting(&outbox, 6_000).await;
    assert!(hub.requests.try_recv().is_err(), "a fifth batch flew");
    // What comes now is live and goes before the rest of the backlog.
    append(&outbox, 3).await;
    hub.ack(&flying[0]).await;
    let live = hub.batch().await;
    assert_eq!((live.first_seq, live.records.len(), live.live), (6_501, 3, true));
    hub.ack(&flying[1]).await;
    assert_eq!(hub.batch().await.first_seq, 4_501);
    until_waiting(&outbox, 4_003).await;
    hub.stop.cancel();
    hub.ended.await.expect("no panic").expect("stopped in good order");
}

#[tokio::test]
async fn a_busy_hub_gets_the_same_batch_again_and_a_poison_record_is_set_aside() {
    let dir = tempfile::tempdir().expect("a folder");
    let outbox = outbox(&dir).await;
    append(&outbox, 10).await;
    let mut hub = Hub::meet(&outbox).await;
    hub.welcome(&[]).await;
    let b = hub.batch().await;
    hub.refuse(&b, RefusedReason::Busy, 0).await;
    let mut b = hub.batch().await;
    assert_eq!((b.first_seq, b.records.len()), (1, 10), "busy: the same again");
    for _ in 0..4 {
        hub.refuse(&b, RefusedReason::Malformed, 4).await;
        b = hub.batch().await;
        assert_eq!((b.first_seq, b.records.len()), (1, 10));
    }
    hub.refuse(&b, RefusedReason::Malformed, 4).await;
    let upload_request::Message::Lost(lost) = hub.hear().await else { panic!("the hub is told what is lost") };
    assert_eq!(lost.ranges[0].range, Some(pb::SeqRange { first: 4, last: 4 }));
    assert_eq!(lost.ranges[0].reason, pb::LostReason::Quarantined as i32);
    for (first, count) in [(1, 3), (5, 6)] {
        let b = hub.batch().await;
        assert_eq!((b.first_seq, b.records.len()), (first, count));
        hub.ack(&b).await;
    }
    until_waiting(&outbox, 0).await;
}

#[tokio::test]
async fn a_batch_refused_as_a_whole_is_cut_until_the_record_at_fault_is_alone() {
    let dir = tempfile::tempdir().expect("a folder");
    let outbox = outbox(&dir).await;
    append(&outbox, 8).await;
    let mut hub = Hub::meet(&outbox).await;
    hub.welcome(&[]).await;
    let (mut taken, mut told) = (Vec::new(), false);
    while taken.len() < 7 || !told {
        let b = match hub.hear().await {
            upload_request::Message::Batch(b) => b,
            other => {
                assert!(matches!(other, upload_request::Message::Lost(_)));
                told = true;
                continue;
            }
        };
        let last = b.first_seq + b.records.len() as u64 - 1;
        if (b.first_seq..=last).contains(&6) {
            hub.refuse(&b, RefusedReason::Malformed, 0).await;
        } else {
            taken.extend(b.first_seq..=last);
            hub.ack(&b).await;
        }
    }
    until_waiting(&outbox, 0).await;
    assert_eq!(outbox.open_streams()[0].lost, [(LostReason::Quarantined, 6, 6)]);
}

#[tokio::test]
async fn an_ack_of_what_was_not_sent_ends_the_upload() {
    let dir = tempfile::tempdir().expect("a folder");
    let outbox = outbox(&dir).await;
    append(&outbox, 5).await;
    let mut hub = Hub::meet(&outbox).await;
    hub.welcome(&[]).await;
    let mut b = hub.batch().await;
    b.first_seq = 2;
    hub.ack(&b).await;
    let e = hub.ended.await.expect("no panic").expect_err("broke the protocol");
    assert!(matches!(e, UploadError::Protocol(_)), "{e:?}");
    assert_eq!(outbox.status().await.expect("reads")[1].waiting, 5);
}

#[test]
fn a_trouble_is_said_when_it_begins_and_when_it_is_over() {
    let trouble = Trouble::default();
    assert!(!trouble.is_over(), "nothing was wrong");
    let said = (0..1_000).filter(|n| trouble.begins(if n % 2 == 0 { "busy" } else { "closed" })).count();
    assert_eq!(said, 2, "each once, however they take turns");
    assert!(trouble.is_over() && !trouble.is_over());
    assert!(trouble.begins("busy"), "a new outage is news again");
}
