//! Batches that waited one behind the other: landed together, answered one by one, whatever is wrong with one of them.
use super::*;
use crate::{grpc::telemetry::decoded::decode, store::testing::TestDatabase};
use proptest::{
    strategy::{Strategy, ValueTree},
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use prost::Message as _;
use redforge_shared::{
    clock::SystemClock,
    record::{Body, Log, MAX_UNACKED_BATCHES, Record},
};
use std::collections::BTreeSet;

/// A batch as it is sent: its numbers, and which of them does not decode.
#[derive(Clone, Copy, Debug)]
struct Sent {
    first: u64,
    count: u64,
    bad: Option<u64>,
}

fn good(first: u64, count: u64) -> Sent {
    Sent { first, count, bad: None }
}

fn stream(epoch: u8) -> pb::StreamId {
    pb::StreamId { class: pb::RecordClass::Log.into(), epoch: vec![epoch; 16].into() }
}

fn decoded(host: HostId, epoch: u8, sent: Sent) -> Decoded {
    let line = |n: u64| {
        let body = Body::Log(Log { level: None, line: format!("{n}"), stream: "stdout".into(), truncated: false });
        let record = Record { at: time::OffsetDateTime::UNIX_EPOCH, instance: None, key: None, body };
        pb::SealedRecord::from(&record).encode_to_vec().into()
    };
    let record = |n| if sent.bad == Some(n) { bytes::Bytes::from_static(&[0xff; 9]) } else { line(n) };
    let records = (sent.first..sent.first + sent.count).map(record).collect();
    let batch = pb::Batch { stream: Some(stream(epoch)), first_seq: sent.first, records, live: false };
    decode(host, batch).expect("the stream has a name")
}

/// What waits, put together as the door does it.
fn runs(host: HostId, waiting: &[Sent]) -> Vec<Decoded> {
    let mut runs: Vec<Decoded> = Vec::new();
    for sent in waiting {
        let next = decoded(host, 1, *sent);
        let rest = match runs.last_mut() {
            Some(run) => run.join(next),
            None => Some(next),
        };
        runs.extend(rest);
    }
    runs
}

/// (first number, refused for which number).
fn told(answers: &[Answer]) -> Vec<(u64, Option<u64>)> {
    let one = |a: &Answer| match a {
        Answer::Ack(a) => (a.first_seq, None),
        Answer::Refused(r) => (r.first_seq, Some(r.seq)),
        Answer::Welcome(_) => panic!("nobody said hello"),
    };
    answers.iter().map(one).collect()
}

#[test]
fn only_what_follows_is_joined_and_no_more_than_may_be_unanswered() {
    let host = HostId(uuid::Uuid::nil());
    let mut run = decoded(host, 1, good(1, 3));
    assert!(run.join(decoded(host, 1, good(5, 1))).is_some(), "a gap lies between");
    assert!(run.join(decoded(host, 1, good(3, 1))).is_some(), "they overlap");
    assert!(run.join(decoded(host, 2, good(4, 1))).is_some(), "another stream");
    assert!(run.join(decoded(host, 1, good(MAX_SEQ + 1, 1))).is_some(), "no number of a stream");
    for n in 1..MAX_UNACKED_BATCHES as u64 {
        assert!(run.join(decoded(host, 1, good(3 + n, 1))).is_none(), "batch {n} follows");
    }
    assert!(run.join(decoded(host, 1, good(7, 1))).is_some(), "more than may be unanswered");
    assert_eq!(told(&run.acked()), [(1, None), (4, None), (5, None), (6, None)]);
    let parts: Vec<_> = run.split().into_iter().map(|p| p.batch.expect("within bounds")).collect();
    assert_eq!(parts.iter().map(|b| b.range.first()).collect::<Vec<_>>(), [1, 4, 5, 6]);
    assert_eq!(parts.iter().map(|b| b.records.len()).collect::<Vec<_>>(), [3, 1, 1, 1]);
}

#[tokio::test]
async fn a_refused_batch_holds_up_none_of_those_beside_it() {
    let db = TestDatabase::start().await;
    let host = db.host("hall", "press-4").await;
    let ingest = Ingest::new(db.store.clone(), Arc::new(SystemClock), Hints::new());
    let waiting = [good(1, 2), Sent { bad: Some(4), ..good(3, 3) }, good(6, 1)];
    let mut runs = runs(host, &waiting);
    assert_eq!(runs.len(), 1);
    let answers = ingest.land(host, runs.remove(0)).await.expect("a known host");
    assert_eq!(told(&answers), [(1, None), (3, Some(4)), (6, None)]);
    assert_eq!(db.number("SELECT count(*) FROM record_log").await, 3);
    assert_eq!(db.number("SELECT resent FROM stream").await, 0, "what was rolled back is no repeat");
    // Together means in one transaction: PostgreSQL's own count of rows written by it.
    let more = [good(10, 1), good(11, 1), good(12, 1), good(13, 1)];
    ingest.land(host, self::runs(host, &more).remove(0)).await.expect("a known host");
    assert_eq!(db.number("SELECT count(DISTINCT xmin::text) FROM record_log WHERE seq >= 10").await, 1);
}

#[tokio::test]
async fn without_a_database_every_batch_of_a_run_is_put_off() {
    let db = TestDatabase::start().await;
    let host = db.host("hall", "press-4").await;
    let ingest = Ingest::new(db.store.clone(), Arc::new(SystemClock), Hints::new());
    db.store.close().await;
    let run = runs(host, &[good(1, 2), good(3, 1)]).remove(0);
    let answers = ingest.land(host, run).await.expect("a stream goes on");
    assert_eq!(told(&answers), [(1, Some(0)), (3, Some(0))]);
    let busy = |a: &Answer| matches!(a, Answer::Refused(r) if r.reason() == pb::RefusedReason::Busy);
    assert!(answers.iter().all(busy), "{answers:?}");
}

/// What waits at once, and a number for which the database fails at the commit.
#[derive(Clone, Debug)]
struct Deed {
    waiting: Vec<Sent>,
    fails_at: Option<u64>,
}

fn deeds() -> impl Strategy<Value = Vec<Deed>> {
    use proptest::prelude::*;
    // Mostly one behind the other, now and then elsewhere.
    let sent = (1..8_u64, prop::option::weighted(0.15, 1..120_u64), prop::option::weighted(0.15, 0..8_u64));
    let waiting = (1..120_u64, prop::collection::vec(sent, 1..7)).prop_map(|(first, some)| {
        let mut next = first;
        let place = |(count, jump, bad): (u64, Option<u64>, Option<u64>)| {
            let first = jump.unwrap_or(next);
            next = first + count;
            Sent { first, count, bad: bad.filter(|b| *b < count).map(|b| first + b) }
        };
        some.into_iter().map(place).collect::<Vec<_>>()
    });
    let deed = (waiting, prop::option::weighted(0.4, 0..12_u64))
        .prop_map(|(waiting, at)| Deed { fails_at: at.map(|at| waiting[0].first + at), waiting });
    prop::collection::vec(deed, 1..12)
}

/// What a stream row is, said as a set: one batch after another, as if nothing were ever joined.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Model {
    committed: BTreeSet<u64>,
    resent: u64,
}

impl Model {
    fn land(&mut self, sent: Sent, fails_at: Option<u64>) -> (u64, Option<u64>) {
        if sent.bad.is_some_and(|n| !self.committed.contains(&n)) {
            return (sent.first, sent.bad);
        }
        let numbers = sent.first..sent.first + sent.count;
        if fails_at.is_some_and(|n| numbers.contains(&n) && !self.committed.contains(&n)) {
            return (sent.first, Some(0));
        }
        self.resent += numbers.filter(|n| !self.committed.insert(*n)).count() as u64;
        (sent.first, None)
    }

    /// What is stored and remembered.
    async fn seen(db: &TestDatabase) -> Self {
        let mut tx = db.begin().await;
        let rows: Vec<i64> = sqlx::query_scalar("SELECT seq FROM record_log ORDER BY 1")
            .fetch_all(&mut *tx)
            .await
            .expect("the rows can be read");
        let committed: Vec<i64> = sqlx::query_scalar(
            "SELECT n FROM stream, unnest(committed) r, generate_series(lower(r), upper(r) - 1) n ORDER BY 1",
        )
        .fetch_all(&mut *tx)
        .await
        .expect("the ranges can be read");
        let resent: i64 = sqlx::query_scalar("SELECT coalesce(sum(resent), 0)::bigint FROM stream")
            .fetch_one(&mut *tx)
            .await
            .expect("the row can be read");
        assert_eq!(rows, committed, "stored and remembered are not the same, or a number is stored twice");
        Self { committed: committed.into_iter().map(i64::unsigned_abs).collect(), resent: resent.unsigned_abs() }
    }
}

async fn land_all(ingest: &Ingest, host: HostId, waiting: &[Sent]) -> Vec<(u64, Option<u64>)> {
    let mut said = Vec::new();
    for run in runs(host, waiting) {
        said.extend(told(&ingest.land(host, run).await.expect("a known host")));
    }
    said
}

#[tokio::test]
async fn runs_of_batches_agree_with_a_model_that_lands_them_one_by_one() {
    let db = TestDatabase::start().await;
    let host = db.host("hall", "press-4").await;
    let ingest = Ingest::new(db.store.clone(), Arc::new(SystemClock), Hints::new());
    let mut runner = TestRunner::new_with_rng(
        Config::default(),
        TestRng::from_seed(RngAlgorithm::ChaCha, b"redforge joined runs, fixed seed"),
    );
    // From outside, and only when the transaction ends: the last thing that can go wrong.
    db.tamper(
        "CREATE TABLE fails_at (n bigint);
         CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF EXISTS (SELECT 1 FROM fails_at WHERE NEW.committed @> n AND (TG_OP = 'INSERT' OR NOT OLD.committed @> n))
             THEN RAISE EXCEPTION 'the disk under this number is broken'; END IF;
             RETURN NULL; END $$;
         CREATE CONSTRAINT TRIGGER fail AFTER INSERT OR UPDATE ON stream DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION fail()",
    )
    .await;
    let (mut joined, mut failed) = (0, 0);
    for _ in 0..25 {
        db.tamper("DELETE FROM stream; DELETE FROM record_log").await;
        let story = deeds().new_tree(&mut runner).expect("a story").current();
        let mut model = Model::default();
        for deed in &story {
            let mut tx = db.begin().await;
            sqlx::query("DELETE FROM fails_at").execute(&mut *tx).await.expect("emptied");
            sqlx::query("INSERT INTO fails_at SELECT $1 WHERE $1 IS NOT NULL")
                .bind(deed.fails_at.map(|n| n as i64))
                .execute(&mut *tx)
                .await
                .expect("set");
            tx.commit().await.expect("commits");
            joined += deed.waiting.len() - runs(host, &deed.waiting).len();
            let said = land_all(&ingest, host, &deed.waiting).await;
            let want: Vec<_> = deed.waiting.iter().map(|s| model.land(*s, deed.fails_at)).collect();
            assert_eq!(said, want, "answers to {deed:?} of {story:?}");
            failed += said.iter().filter(|(_, why)| *why == Some(0)).count();
            assert_eq!(Model::seen(&db).await, model, "after {deed:?} of {story:?}");
        }
    }
    assert!(joined > 200 && failed > 10, "{joined} joined, {failed} failed: too few to prove anything");
}
