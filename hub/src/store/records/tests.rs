//! The landing against a real PostgreSQL: exactly once whatever comes twice, crashes or is restored.
use super::*;
use crate::store::{streams::Announced, testing::TestDatabase};
use proptest::{
    strategy::{Strategy, ValueTree},
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use redforge_shared::{
    ids::{Epoch, HostId},
    record::{Event, Log, Measurement, Metric},
};
use std::collections::{BTreeMap, BTreeSet};
use time::{Duration, macros::datetime};

const T0: OffsetDateTime = datetime!(2026-11-23 10:00 UTC);

async fn host(store: &Store, n: u8) -> HostId {
    let (site, host) = (uuid::Uuid::from_bytes([1; 16]), uuid::Uuid::from_bytes([n; 16]));
    sqlx::query("INSERT INTO site (id, name, created_at) VALUES ($1, 'hall', now()) ON CONFLICT DO NOTHING")
        .bind(site)
        .execute(&store.pool)
        .await
        .expect("a site");
    sqlx::query(
        "INSERT INTO host (id, name, site_id, identity_key, sealing_key, enrolled_at, serial_current,
                           certificate_not_after) VALUES ($1, $2, $3, $4, $4, now(), '\\x01', now())",
    )
    .bind(host)
    .bind(format!("host-{n}"))
    .bind(site)
    .bind([n; 32].as_slice())
    .execute(&store.pool)
    .await
    .expect("a host");
    HostId(host)
}

fn record(body: Body) -> Record {
    Record { at: T0, instance: Some("flows".parse().expect("a name")), key: Some("k".into()), body }
}
fn line(text: &str) -> Record {
    record(Body::Log(Log { level: None, line: text.into(), stream: "stdout".into(), truncated: false }))
}
fn vector(collection: &str, components: &[f32]) -> Vector {
    Vector {
        collection: collection.parse().expect("a name"),
        source: "notes/1.txt".into(),
        ordinal: 3,
        encoding: Encoding::F32,
        dim: components.len() as u32,
        scale: 1.0,
        data: components.iter().flat_map(|c| c.to_le_bytes()).collect(),
        model: "redforge-standin-embed".into(),
        model_digest: "ab".repeat(32),
        metric: Metric::Cosine,
        document_prefix: "doc: ".into(),
        query_prefix: String::new(),
        tombstone: false,
        text: "a chunk".into(),
    }
}
fn stream(host: HostId, class: RecordClass, epoch: u8) -> StreamKey {
    StreamKey { host, class, epoch: Epoch([epoch; 16]) }
}
fn batch(stream: StreamKey, first: u64, records: Vec<Record>) -> Batch {
    let range = SeqRange::new(first, first + records.len() as u64 - 1).expect("a range");
    Batch { stream, range, records: records.into_iter().map(Ok).collect() }
}
fn lines(stream: StreamKey, first: u64, count: u64) -> Batch {
    batch(stream, first, (first..first + count).map(|n| line(&format!("line {n}"))).collect())
}
/// (seq, how often it is stored).
async fn stored(store: &Store, table: &str) -> BTreeMap<i64, i64> {
    let sql = format!("SELECT seq, count(*) FROM {table} GROUP BY seq");
    let rows: Vec<(i64, i64)> =
        sqlx::query_as(sqlx::AssertSqlSafe(sql)).fetch_all(&store.pool).await.expect("rows can be counted");
    rows.into_iter().collect()
}
async fn committed(store: &Store, key: StreamKey) -> (String, String, i64, i64) {
    sqlx::query_as("SELECT committed::text, lost::text, max_seq, resent FROM stream WHERE host_id = $1 AND epoch = $2")
        .bind(key.host.0)
        .bind(key.epoch.0.as_slice())
        .fetch_one(&store.pool)
        .await
        .expect("the stream has a row")
}
async fn commit(store: &Store, batch: &Batch, now: OffsetDateTime) -> Result<Committed, Refusal> {
    store.commit_batch(batch, now).await.expect("the database works")
}

#[tokio::test]
async fn every_class_lands_as_it_was_and_once() {
    let db = TestDatabase::start().await;
    let store = &db.store;
    let h = host(store, 7).await;
    let vectors = stream(h, RecordClass::Vector, 1);
    let mut gone = vector("notes", &[0.0; 3]);
    (gone.tombstone, gone.data) = (true, Vec::new());
    let bodies = vec![record(Body::Vector(vector("notes", &[0.5, -1.0, 2.0]))), record(Body::Vector(gone))];
    assert_eq!(commit(store, &batch(vectors, 1, bodies), T0).await, Ok(Committed { resent: 0 }));
    let events = stream(h, RecordClass::Event, 1);
    let event = Event { name: "door".into(), payload_json: r#"{"open": true, "n": [1, 2.5]}"#.into() };
    assert!(commit(store, &batch(events, 1, vec![record(Body::Event(event))]), T0).await.is_ok());
    let numbers = stream(h, RecordClass::Measurement, 1);
    let number = Measurement { name: "temperature".into(), value: 21.25, unit: "Cel".into() };
    assert!(commit(store, &batch(numbers, 1, vec![record(Body::Measurement(number))]), T0).await.is_ok());
    let logs = stream(h, RecordClass::Log, 1);
    let mut nul = line("before\0after");
    (nul.key, nul.instance) = (None, None);
    assert!(commit(store, &batch(logs, 1, vec![nul]), T0).await.is_ok());

    let v: Vec<(i64, OffsetDateTime, String, i32, f32, Vec<u8>, bool, String)> =
        sqlx::query_as("SELECT seq, at, source, dim, scale, data, tombstone, text FROM record_vector ORDER BY seq")
            .fetch_all(&store.pool)
            .await
            .expect("vectors");
    let data: Vec<u8> = [0.5f32, -1.0, 2.0].iter().flat_map(|c| c.to_le_bytes()).collect();
    assert_eq!(v[0], (1, T0, "notes/1.txt".into(), 3, 1.0, data, false, "a chunk".into()));
    assert_eq!((v[1].5.len(), v[1].6), (0, true));
    let e: (String, bool, Option<String>) =
        sqlx::query_as("SELECT name, payload = '{\"n\": [1, 2.5], \"open\": true}'::jsonb, instance FROM record_event")
            .fetch_one(&store.pool)
            .await
            .expect("the event");
    assert_eq!(e, ("door".into(), true, Some("flows".into())));
    let m: (String, f64, String) = sqlx::query_as("SELECT name, value, unit FROM record_measurement")
        .fetch_one(&store.pool)
        .await
        .expect("number");
    assert_eq!(m, ("temperature".into(), 21.25, "Cel".into()));
    let l: (String, Option<String>, Option<String>, OffsetDateTime) =
        sqlx::query_as("SELECT line, key, instance, received_at FROM record_log")
            .fetch_one(&store.pool)
            .await
            .expect("a line");
    assert_eq!(l, ("before\u{fffd}after".into(), None, None, T0));
}

#[tokio::test]
async fn refusals_name_the_record_and_land_nothing() {
    let db = TestDatabase::start().await;
    let store = &db.store;
    let h = host(store, 7).await;
    let key = stream(h, RecordClass::Vector, 1);
    let v = |f: fn(&mut Vector)| {
        let mut v = vector("notes", &[1.0, 2.0]);
        f(&mut v);
        record(Body::Vector(v))
    };
    assert!(commit(store, &batch(key, 1, vec![v(|_| {})]), T0).await.is_ok());
    let mut said = Vec::new();
    let other_digest = v(|v| v.model_digest = "cd".repeat(32));
    let other_dim = v(|v| (v.dim, v.data) = (1, vec![0; 4]));
    for bad in [other_digest, other_dim, v(|v| v.metric = Metric::L2), v(|v| v.document_prefix = "q: ".into())] {
        let refusal = commit(store, &batch(key, 2, vec![v(|_| {}), bad]), T0).await.expect_err("must be refused");
        said.push(refusal.to_string());
    }
    let nan = v(|v| v.data[..4].copy_from_slice(&f32::NAN.to_le_bytes()));
    let nul = v(|v| v.source = "a\0b".into());
    let mut old = v(|_| {});
    old.at = datetime!(-9000-01-01 00:00 UTC);
    // A byte vector whose scale is finite and whose components are not.
    let huge = v(|v| (v.encoding, v.scale, v.data) = (Encoding::I8, f32::MAX / 2.0, vec![127, 1]));
    for bad in [nan, huge, nul, old] {
        said.push(commit(store, &batch(key, 2, vec![bad]), T0).await.expect_err("must be refused").to_string());
    }
    let mut undecoded = batch(key, 1, vec![v(|_| {}), v(|_| {})]);
    undecoded.records[1] = Err("body: is missing".into());
    said.push(commit(store, &undecoded, T0).await.expect_err("must be refused").to_string());
    // What has landed already is not looked at again.
    let mut landed = batch(key, 1, vec![v(|_| {})]);
    landed.records[0] = Err("body: is missing".into());
    assert_eq!(commit(store, &landed, T0).await, Ok(Committed { resent: 1 }));
    let json = Event { name: "e".into(), payload_json: r#"{"a": "\u0000"}"#.into() };
    let events = batch(stream(h, RecordClass::Event, 1), 1, vec![record(Body::Event(json))]);
    said.push(commit(store, &events, T0).await.expect_err("must be refused").to_string());
    // jsonb's own bounds: found by PostgreSQL, named by us.
    let huge = Event { name: "e".into(), payload_json: format!("{{\"a\": 1{}}}", "0".repeat(200_000)) };
    let fine = Event { name: "e".into(), payload_json: "{}".into() };
    let bodies = vec![record(Body::Event(fine)), record(Body::Event(huge))];
    let refusal = commit(store, &batch(stream(h, RecordClass::Event, 1), 1, bodies), T0).await.expect_err("refused");
    assert!(matches!(refusal, Refusal::Malformed { seq: 2, .. }), "{refusal}");
    sqlx::query("UPDATE host SET fenced_at = now()").execute(&store.pool).await.expect("fenced");
    said.push(commit(store, &batch(key, 2, vec![v(|_| {})]), T0).await.expect_err("must be refused").to_string());
    let unknown = stream(HostId(uuid::Uuid::from_bytes([9; 16])), RecordClass::Log, 1);
    said.push(commit(store, &lines(unknown, 1, 1), T0).await.expect_err("must be refused").to_string());
    insta::assert_snapshot!(said.join("\n"));
    assert_eq!(stored(store, "record_vector").await, BTreeMap::from([(1, 1)]));
    assert!(stored(store, "record_event").await.is_empty());
}

#[tokio::test]
async fn two_copies_of_a_batch_at_once_land_one() {
    let db = TestDatabase::start().await;
    let h = host(&db.store, 7).await;
    let key = stream(h, RecordClass::Log, 1);
    for round in 0..20 {
        let copies = (0..4).map(|i| {
            let store = db.store.clone();
            let b = lines(key, 1 + round * 50, 50);
            async move { store.commit_batch(&b, T0 + Duration::milliseconds(i)).await.expect("the database works") }
        });
        let done = futures_util::future::join_all(copies).await;
        let resent: u64 = done.into_iter().map(|d| d.expect("taken").resent).sum();
        assert_eq!(resent, 150, "three of four copies are resent");
    }
    let rows = stored(&db.store, "record_log").await;
    assert_eq!((rows.len(), rows.values().max()), (1000, Some(&1)));
    assert_eq!(committed(&db.store, key).await, ("{[1,1001)}".into(), "{}".into(), 1000, 3000));
}

/// Takes the guard away: without `committed` the same batch lands twice, and whoever checks must find it.
#[tokio::test]
async fn without_committed_a_repeat_is_stored_twice() {
    let db = TestDatabase::start().await;
    let h = host(&db.store, 7).await;
    sqlx::raw_sql(
        "CREATE FUNCTION forget() RETURNS trigger LANGUAGE plpgsql AS
           $$ BEGIN NEW.committed := '{}'; RETURN NEW; END $$;
         CREATE TRIGGER forget BEFORE UPDATE ON stream FOR EACH ROW EXECUTE FUNCTION forget()",
    )
    .execute(&db.store.pool)
    .await
    .expect("the trigger");
    let key = stream(h, RecordClass::Log, 1);
    for s in 0..2 {
        assert!(commit(&db.store, &lines(key, 1, 3), T0 + Duration::seconds(s)).await.is_ok());
    }
    assert_eq!(stored(&db.store, "record_log").await, BTreeMap::from([(1, 2), (2, 2), (3, 2)]));
}

#[tokio::test]
async fn hello_tells_what_is_committed_and_unions_what_is_lost() {
    let db = TestDatabase::start().await;
    let store = &db.store;
    let h = host(store, 7).await;
    let key = stream(h, RecordClass::Log, 1);
    assert!(commit(store, &lines(key, 1, 3), T0).await.is_ok());
    assert!(commit(store, &lines(key, 11, 2), T0).await.is_ok());
    let range = |a, b| SeqRange::new(a, b).expect("a range");
    let new = stream(h, RecordClass::Log, 2);
    for _ in 0..2 {
        let said = [
            Announced { stream: new, max_seq: 4, lost: vec![range(2, 4), range(3, 3)] },
            Announced { stream: key, max_seq: 20, lost: vec![range(5, 6)] },
        ];
        let told = store.open_streams(h, &said, T0).await.expect("the database works").expect("a known host");
        assert_eq!(told, vec![vec![], vec![range(1, 3), range(11, 12)]]);
    }
    assert_eq!(committed(store, key).await, ("{[1,4),[11,13)}".into(), "{[5,7)}".into(), 20, 0));
    assert_eq!(committed(store, new).await, ("{}".into(), "{[2,5)}".into(), 4, 0));
    // A batch across what is there and what is not: the middle lands.
    assert_eq!(commit(store, &lines(key, 2, 10), T0).await, Ok(Committed { resent: 3 }));
    assert_eq!(committed(store, key).await.0, "{[1,13)}");
}

#[tokio::test]
async fn strayed_rows_move_to_the_partition_of_their_day() {
    let db = TestDatabase::start().await;
    let store = &db.store;
    let h = host(store, 7).await;
    let key = stream(h, RecordClass::Log, 1);
    assert!(commit(store, &lines(key, 1, 3), T0).await.is_ok());
    assert_eq!(store.default_rows().await.expect("counted")[0].rows, 3);
    let moved = store.ensure_partitions(T0.date(), 2).await.expect("made");
    assert_eq!(moved, vec![crate::store::partitions::Strayed { table: "record_log".into(), rows: 3 }]);
    assert!(store.ensure_partitions(T0.date(), 2).await.expect("made again").is_empty());
    assert!(store.default_rows().await.expect("counted").is_empty());
    assert!(commit(store, &lines(key, 4, 3), T0 + Duration::days(2)).await.is_ok());
    assert!(store.default_rows().await.expect("counted").is_empty());
    assert_eq!(stored(store, "record_log_20261123").await.len(), 3);
    assert_eq!(stored(store, "record_log").await.len(), 6);
    for _ in 0..2 {
        store.warn_of_landing("LANDING_DEFAULT_PARTITION", "record_log", "3 rows", T0).await.expect("written");
    }
    let n: i64 = sqlx::query_scalar("SELECT count(*) FROM event").fetch_one(&store.pool).await.expect("events");
    assert_eq!(n, 1, "a warning is not repeated within a day");
}

#[derive(Clone, Debug)]
enum Deed {
    Send(u64, u64),
    /// All but the commit, then the hub dies.
    Crash(u64, u64),
    Lose(u64, u64),
    /// The database is copied, and later put back.
    Backup,
    Restore,
}

fn deeds() -> impl Strategy<Value = Vec<Deed>> {
    use proptest::prelude::*;
    let range = || (1u64..60, 1u64..12);
    let deed = prop_oneof![
        6 => range().prop_map(|(f, n)| Deed::Send(f, n)),
        3 => range().prop_map(|(f, n)| Deed::Crash(f, n)),
        1 => range().prop_map(|(f, n)| Deed::Lose(f, n)),
        1 => Just(Deed::Backup),
        1 => Just(Deed::Restore),
    ];
    proptest::collection::vec(deed, 1..25)
}

/// What a stream row is, said as sets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Model {
    committed: BTreeSet<u64>,
    lost: BTreeSet<u64>,
    max_seq: u64,
    resent: u64,
}

async fn act(store: &Store, key: StreamKey, deed: &Deed, now: OffsetDateTime, m: &mut Model, backup: &mut Model) {
    let table =
        |sql: &'static str| async move { sqlx::raw_sql(sql).execute(&store.pool).await.expect("the copy works") };
    match *deed {
        Deed::Send(first, count) => {
            let done = commit(store, &lines(key, first, count), now).await.expect("taken");
            let resent = (first..first + count).filter(|n| !m.committed.insert(*n)).count() as u64;
            assert_eq!(done.resent, resent);
            m.resent += resent;
            m.max_seq = m.max_seq.max(first + count - 1);
        }
        Deed::Crash(first, count) => {
            let mut tx = store.pool.begin().await.expect("a transaction");
            stage(&mut tx, &lines(key, first, count), now).await.expect("staged");
        }
        Deed::Lose(first, count) => {
            let range = SeqRange::new(first, first + count - 1).expect("a range");
            let said = [Announced { stream: key, max_seq: first + count - 1, lost: vec![range] }];
            store.open_streams(key.host, &said, now).await.expect("the database works").expect("a known host");
            m.lost.extend(first..first + count);
            m.max_seq = m.max_seq.max(first + count - 1);
        }
        Deed::Backup => {
            table(
                "DELETE FROM kept_stream; INSERT INTO kept_stream SELECT * FROM stream;
                   DELETE FROM kept_log; INSERT INTO kept_log SELECT * FROM record_log",
            )
            .await;
            backup.clone_from(m);
        }
        Deed::Restore => {
            table(
                "DELETE FROM record_log; INSERT INTO record_log SELECT * FROM kept_log;
                   DELETE FROM stream; INSERT INTO stream OVERRIDING SYSTEM VALUE SELECT * FROM kept_stream",
            )
            .await;
            m.clone_from(backup);
        }
    }
}

#[tokio::test]
async fn stream_rows_agree_with_a_model_through_crashes_and_restores() {
    let db = TestDatabase::start().await;
    let store = &db.store;
    let h = host(store, 7).await;
    sqlx::raw_sql(
        "CREATE TABLE kept_stream (LIKE stream); CREATE TABLE kept_log (LIKE record_log);
         CREATE FUNCTION n(r int8multirange) RETURNS bigint LANGUAGE sql AS
           $$ SELECT coalesce(sum(upper(x) - lower(x)), 0)::bigint FROM unnest(r) AS x $$",
    )
    .execute(&store.pool)
    .await
    .expect("room for the backup");
    let mut runner = TestRunner::new_with_rng(
        Config::default(),
        TestRng::from_seed(RngAlgorithm::ChaCha, b"redforge stream rows, fixed seed"),
    );
    for _ in 0..60 {
        let story = deeds().new_tree(&mut runner).expect("a story").current();
        sqlx::raw_sql("DELETE FROM stream; DELETE FROM record_log; DELETE FROM kept_stream; DELETE FROM kept_log")
            .execute(&store.pool)
            .await
            .expect("a clean start");
        let key = stream(h, RecordClass::Log, 1);
        let (mut model, mut backup) = (Model::default(), Model::default());
        for (i, deed) in story.iter().enumerate() {
            act(store, key, deed, T0 + Duration::seconds(i as i64), &mut model, &mut backup).await;
            let rows = stored(store, "record_log").await;
            let once: BTreeMap<i64, i64> = model.committed.iter().map(|n| (*n as i64, 1)).collect();
            assert_eq!(rows, once, "rows after {deed:?} of {story:?}");
            let told: Option<(i64, i64, i64, i64, i64)> = sqlx::query_as(
                "SELECT max_seq, resent, n(committed), n(lost),
                        n(CASE WHEN max_seq = 0 THEN '{}' ELSE int8multirange(int8range(1, max_seq, '[]')) END
                          - committed - lost)
                   FROM stream",
            )
            .fetch_optional(&store.pool)
            .await
            .expect("the row can be read");
            let gaps = (1..=model.max_seq).filter(|n| !model.committed.contains(n) && !model.lost.contains(n)).count();
            let said = (
                model.max_seq as i64,
                model.resent as i64,
                model.committed.len() as i64,
                model.lost.len() as i64,
                gaps as i64,
            );
            assert_eq!(told.unwrap_or_default(), said, "row after {deed:?} of {story:?}");
        }
    }
}
