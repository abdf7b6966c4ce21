//! Days come to their end on a real PostgreSQL: dropped, told, counted, and held as long as the index lacks something.
use super::*;
use crate::{
    store::{
        changes::NewFlowSet,
        records::Batch,
        streams::{SeqRange, StreamKey},
        testing::{self, TestDatabase},
    },
    tasks::index_vectors,
};
use redforge_shared::{
    clock::ManualClock,
    ids::{Digest, Epoch, HostId},
    record::{Body, Log, Record},
};
use std::sync::Arc;
use time::macros::datetime;

const T0: OffsetDateTime = datetime!(2026-11-23 23:59:59 UTC);

fn line() -> Body {
    Body::Log(Log { level: None, line: "a line".into(), stream: "stdout".into(), truncated: false })
}

fn vector(source: &str) -> Body {
    Body::Vector(testing::vector("notes", source, 0, &[1.0, 0.0]))
}

async fn land(db: &TestDatabase, host: HostId, first: u64, bodies: Vec<Body>, at: OffsetDateTime) {
    db.store.ensure_partitions(at.date(), 1).await.expect("made");
    let stream = StreamKey { host, class: bodies[0].class(), epoch: Epoch([1; 16]) };
    let range = SeqRange::new(first, first + bodies.len() as u64 - 1).expect("a range");
    let record = |body| Record { at, instance: None, key: None, body };
    let records = bodies.into_iter().map(|b| Ok(record(b))).collect();
    let done = db.store.commit_batch(&Batch { stream, range, records }, at).await;
    done.expect("the database works").expect("the batch is taken");
}

async fn events(db: &TestDatabase) -> Vec<(String, String)> {
    let events = db.store.list_events(None, 50).await.expect("lists");
    events.into_iter().map(|e| (e.reason, e.message)).collect()
}

#[tokio::test]
async fn a_day_past_its_retention_is_dropped_once_and_told() {
    let db = TestDatabase::start().await;
    let host = db.host("hall", "press-4").await;
    land(&db, host, 1, vec![line(), line(), line()], T0).await;
    land(&db, host, 4, vec![line(), line()], T0 + time::Duration::days(1)).await;
    let retention = vec![(RecordClass::Log, 90)];
    let day = |n: i64| T0 + time::Duration::days(n);
    pass(&db.store, &retention, day(90)).await.expect("looks");
    assert_eq!(db.number("SELECT count(*) FROM record_log").await, 5, "the 90th day is not over");
    for _ in 0..2 {
        pass(&db.store, &retention, day(91)).await.expect("looks");
    }
    assert_eq!(db.number("SELECT count(*) FROM record_log").await, 2);
    assert_eq!(db.number("SELECT rows FROM landing_pruned WHERE class = 'log'").await, 3);
    let told = "the log records of 2026-11-23 were dropped at the end of their retention: 3 rows";
    assert_eq!(events(&db).await, [("LANDING_PRUNED".into(), told.into())]);
    // What was delivered stays delivered.
    let kept = "SELECT count(*) FROM stream WHERE committed = '{[1,6)}' AND max_seq = 5";
    assert_eq!(db.number(kept).await, 1);
    // Empty days go without a word, and a class without a retention stays.
    pass(&db.store, &retention, day(500)).await.expect("looks");
    assert_eq!(db.store.partition_days(RecordClass::Log).await.expect("lists"), []);
    assert_eq!(db.store.partition_days(RecordClass::Event).await.expect("lists").len(), 3);
    assert_eq!(events(&db).await.len(), 2);
}

#[tokio::test]
async fn a_day_that_somebody_writes_into_is_left_for_the_next_look() {
    let db = TestDatabase::start().await;
    let host = db.host("hall", "press-4").await;
    land(&db, host, 1, vec![line()], T0).await;
    let mut writer = db.begin().await;
    sqlx::query("UPDATE record_log SET line = 'changed'").execute(&mut *writer).await.expect("writes");
    let retention = vec![(RecordClass::Log, 1)];
    let later = T0 + time::Duration::days(9);
    pass(&db.store, &retention, later).await.expect("a busy day is no failure");
    assert_eq!(db.number("SELECT count(*) FROM record_log").await, 1);
    writer.rollback().await.expect("ends");
    pass(&db.store, &retention, later).await.expect("looks");
    assert_eq!(db.number("SELECT count(*) FROM record_log").await, 0);
}

#[tokio::test]
async fn vectors_stay_where_nothing_indexes_them() {
    let db = TestDatabase::start().await;
    let host = db.host("hall", "press-4").await;
    land(&db, host, 1, vec![vector("a")], T0).await;
    for _ in 0..2 {
        pass(&db.store, &vec![(RecordClass::Vector, 1)], T0 + time::Duration::days(9)).await.expect("looks");
    }
    assert_eq!(db.number("SELECT count(*) FROM record_vector").await, 1);
    let why = "the vector records of 2026-11-23 are past their retention and stay: the index has not taken all of its vectors";
    assert_eq!(events(&db).await, [("LANDING_HELD".into(), why.into())]);
}

#[tokio::test]
async fn vectors_that_the_index_has_are_dropped_and_found_all_the_same() {
    let db = TestDatabase::start_with_pgvector().await;
    let host = db.host("hall", "press-4").await;
    let clock: SharedClock = Arc::new(ManualClock::new(T0));
    land(&db, host, 1, vec![vector("a"), vector("b")], T0).await;
    index_vectors::pass(&db.store, &clock).await.expect("indexes");
    // One more of that day, which the index has not seen.
    land(&db, host, 3, vec![vector("c")], T0).await;
    let (retention, later) = (vec![(RecordClass::Vector, 1)], T0 + time::Duration::days(9));
    pass(&db.store, &retention, later).await.expect("looks");
    assert_eq!(db.number("SELECT count(*) FROM record_vector").await, 3, "one is not in the index");
    index_vectors::pass(&db.store, &clock).await.expect("indexes");
    db.tamper("UPDATE vector_table SET problem = 'something is odd'").await;
    pass(&db.store, &retention, later).await.expect("looks");
    assert_eq!(db.number("SELECT count(*) FROM record_vector").await, 3, "the index is not whole");
    assert!(!db.store.vectors_pruned().await.expect("reads"));
    db.tamper("UPDATE vector_table SET problem = NULL").await;
    pass(&db.store, &retention, later).await.expect("looks");
    assert_eq!(db.number("SELECT count(*) FROM record_vector").await, 0);
    assert!(db.store.vectors_pruned().await.expect("reads"));
    let collection = db.store.list_collections().await.expect("lists").remove(0);
    let found = db.store.nearest_indexed(&collection, &[1.0, 0.0], 10).await.expect("searches").expect("has an index");
    let mut texts: Vec<String> = found.into_iter().map(|c| c.text).collect();
    texts.sort();
    assert_eq!(texts, ["a 0", "b 0", "c 0"]);
}

#[tokio::test]
async fn what_was_staged_and_never_applied_is_dropped_after_a_day() {
    let db = TestDatabase::start().await;
    let set = |name: &str, bytes: &[u8]| NewFlowSet {
        name: name.parse().expect("a name"),
        digest: Digest::of(bytes),
        bytes: bytes.to_vec(),
        node_count: 1,
        credential_names: vec![],
    };
    let mut changes = db.store.begin_changes("ops", T0).await.expect("begins");
    changes.stage(&set("lost", b"never applied")).await.expect("is staged");
    changes.stage(&set("again", b"staged twice")).await.expect("is staged");
    changes.put_flow_set(&set("kept", b"a flow set")).await.expect("is put");
    changes.commit().await.expect("commits");
    let mut changes = db.store.begin_changes("ops", T0 + time::Duration::HOUR).await.expect("begins");
    changes.stage(&set("again", b"staged twice")).await.expect("is staged");
    changes.commit().await.expect("commits");
    pass(&db.store, &vec![], T0 + time::Duration::DAY).await.expect("looks");
    assert_eq!(db.number("SELECT count(*) FROM artifact").await, 3);
    pass(&db.store, &vec![], T0 + time::Duration::DAY + time::Duration::MINUTE).await.expect("looks");
    assert_eq!(db.number("SELECT count(*) FROM artifact").await, 2);
    assert_eq!(db.number("SELECT count(*) FROM artifact_chunk").await, 2);
    assert!(db.store.artifact_size(Digest::of(b"never applied")).await.expect("reads").is_none());
    pass(&db.store, &vec![], T0 + time::Duration::days(9)).await.expect("looks");
    assert!(db.store.artifact_size(Digest::of(b"a flow set")).await.expect("reads").is_some());
    assert_eq!(db.number("SELECT count(*) FROM artifact").await, 1);
}
