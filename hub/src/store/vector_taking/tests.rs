//! The index on a real PostgreSQL with pgvector: nothing that commits late is skipped, the newest wins, twice is as good as
//! once, and what somebody breaks is made again.
use super::*;
use crate::store::{
    records::{Batch, stage},
    streams::{SeqRange, StreamKey},
    testing::{self, TestDatabase},
};
use redforge_shared::{
    ids::{Epoch, HostId},
    record::{Body, Record, RecordClass, Vector},
};
use time::{Duration, macros::datetime};

const T0: OffsetDateTime = datetime!(2026-11-23 10:00 UTC);

fn vector(collection: &str, source: &str, components: &[f32]) -> Vector {
    let mut v = testing::vector(collection, source, 0, components);
    // Digests are compared whatever the case they were sent in.
    v.model_digest = v.model_digest.to_uppercase();
    v
}

fn stream(host: HostId, epoch: u8) -> StreamKey {
    StreamKey { host, class: RecordClass::Vector, epoch: Epoch([epoch; 16]) }
}

fn batch(stream: StreamKey, first: u64, vectors: Vec<Vector>) -> Batch {
    let range = SeqRange::new(first, first + vectors.len() as u64 - 1).expect("a range");
    let record = |v| Record { at: T0, instance: None, key: None, body: Body::Vector(v) };
    Batch { stream, range, records: vectors.into_iter().map(|v| Ok(record(v))).collect() }
}

async fn land(store: &Store, batch: &Batch, at: OffsetDateTime) {
    store.commit_batch(batch, at).await.expect("the database works").expect("the batch is taken");
}

/// Takes until nothing is left; how many rows.
async fn take_all(store: &Store) -> u64 {
    assert_eq!(
        store.ensure_vector_extension().await.expect("the database works"),
        crate::store::vector_tables::Extension::Ready
    );
    let mut all = 0;
    loop {
        match store.take_vectors(T0).await.expect("the database works") {
            Taken::Busy => tokio::task::yield_now().await,
            Taken::Nothing => return all,
            Taken::Rows(rows, problems) => {
                assert!(problems.is_empty(), "{problems:?}");
                all += rows;
            }
        }
    }
}

/// (source, its vector as text or none) of a collection's table.
async fn indexed(store: &Store, collection: &str) -> Vec<(String, Option<String>)> {
    let table = store.vector_tables().await.expect("reads").into_iter().find(|t| t.collection == collection);
    let sql = format!("SELECT source, embedding::text FROM {} ORDER BY 1", table.expect("a table").relation);
    sqlx::query_as(AssertSqlSafe(sql)).fetch_all(&store.pool).await.expect("reads")
}

#[tokio::test]
async fn a_row_that_commits_late_is_not_skipped() {
    let db = TestDatabase::start_with_pgvector().await;
    let store = &db.store;
    let (slow, quick) = (db.host("hall", "slow").await, db.host("hall", "quick").await);
    // Both streams and the collection are there before, so that nothing makes one wait for the other.
    land(store, &batch(stream(slow, 1), 1, vec![vector("notes", "s1", &[1.0, 0.0])]), T0).await;
    land(store, &batch(stream(quick, 1), 1, vec![vector("notes", "q1", &[1.0, 0.0])]), T0).await;
    assert_eq!(take_all(store).await, 2);

    let mut late = store.pool.begin().await.expect("a transaction");
    let early_time = T0 + Duration::seconds(1);
    let staged = batch(stream(slow, 1), 2, vec![vector("notes", "s2", &[0.0, 1.0])]);
    stage(&mut late, &staged, early_time).await.expect("staged");
    land(store, &batch(stream(quick, 1), 2, vec![vector("notes", "q2", &[0.0, 1.0])]), T0 + Duration::seconds(9)).await;
    assert_eq!(take_all(store).await, 1, "only what is committed");
    late.commit().await.expect("commits");
    // Whoever remembered the time of the last row taken would begin after it, and never see this one.
    let newest: OffsetDateTime = sqlx::query_scalar("SELECT max(received_at) FROM record_vector WHERE source = 'q2'")
        .fetch_one(&store.pool)
        .await
        .expect("reads");
    assert!(early_time < newest);
    assert_eq!(take_all(store).await, 1, "the late one is taken");
    let sources: Vec<String> = indexed(store, "notes").await.into_iter().map(|(s, _)| s).collect();
    assert_eq!(sources, ["q1", "q2", "s1", "s2"]);
}

#[tokio::test]
async fn the_newest_record_of_a_chunk_wins_in_whatever_order_they_come() {
    let db = TestDatabase::start_with_pgvector().await;
    let store = &db.store;
    let h = db.host("hall", "press-4").await;
    let old = |first, vs| batch(stream(h, 1), first, vs);
    let new = |first, vs| batch(stream(h, 2), first, vs);
    let v = |source, c: &[f32]| vector("notes", source, c);
    land(store, &old(1, vec![v("a", &[1.0, 0.0]), v("b", &[1.0, 0.0])]), T0).await;
    land(store, &new(1, vec![v("a", &[2.0, 0.0]), v("b", &[]), v("c", &[3.0, 0.0])]), T0 + Duration::HOUR).await;
    take_all(store).await;
    // The outbox of the older start had these still: they are older, though they come last.
    land(store, &old(3, vec![v("a", &[9.0, 0.0]), v("b", &[9.0, 0.0]), v("d", &[4.0, 0.0])]), T0 + Duration::DAY).await;
    take_all(store).await;
    let some = |s: &str, c: &str| (s.to_owned(), Some(c.to_owned()));
    let want = vec![some("a", "[2,0]"), ("b".into(), None), some("c", "[3,0]"), some("d", "[4,0]")];
    assert_eq!(indexed(store, "notes").await, want);
    assert_eq!(db.number("SELECT live FROM vector_table").await, 3);
    // Deleted and written again by the newer one.
    land(store, &new(4, vec![v("c", &[]), v("b", &[5.0, 0.0]), v("c", &[6.0, 0.0]), v("d", &[])]), T0 + Duration::DAY)
        .await;
    take_all(store).await;
    let want = vec![some("a", "[2,0]"), some("b", "[5,0]"), some("c", "[6,0]"), ("d".into(), None)];
    assert_eq!(indexed(store, "notes").await, want);
    assert_eq!(db.number("SELECT live FROM vector_table").await, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_hubs_at_once_take_everything_once() {
    let db = TestDatabase::start_with_pgvector().await;
    let h = db.host("hall", "press-4").await;
    for n in 0..4_u64 {
        let collection = if n % 2 == 0 { "even" } else { "odd" };
        let some = (0..400).map(|i| vector(collection, &format!("{n}-{i}"), &[1.0, i as f32])).collect();
        land(&db.store, &batch(stream(h, 1), 1 + n * 400, some), T0).await;
    }
    db.store.ensure_vector_extension().await.expect("made");
    let hubs = (0..4).map(|_| {
        let store = db.store.clone();
        async move { take_all(&store).await }
    });
    let taken: u64 = futures_util::future::join_all(hubs).await.into_iter().sum();
    assert_eq!(taken, 1_600);
    assert_eq!(indexed(&db.store, "even").await.len(), 800);
    assert_eq!(db.number("SELECT sum(live)::bigint FROM vector_table").await, 1_600);
    // Everything again changes nothing.
    db.tamper("DELETE FROM vector_taken").await;
    assert_eq!(take_all(&db.store).await, 1_600);
    assert_eq!(indexed(&db.store, "odd").await.len(), 800);
    assert_eq!(db.number("SELECT sum(live)::bigint FROM vector_table").await, 1_600);
}

#[tokio::test]
async fn a_table_that_somebody_broke_is_made_anew() {
    let db = TestDatabase::start_with_pgvector().await;
    let store = &db.store;
    let h = db.host("hall", "press-4").await;
    let all = vec![vector("notes", "a", &[1.0, 0.0]), vector("other", "b", &[1.0, 0.0])];
    land(store, &batch(stream(h, 1), 1, all), T0).await;
    take_all(store).await;
    assert!(store.mend_vector_tables().await.expect("looks").is_empty());
    let relation = store.vector_tables().await.expect("reads")[0].relation.clone();
    for breaking in ["DROP EXTENSION vector CASCADE".to_owned(), format!("DROP TABLE {relation}")] {
        sqlx::raw_sql(AssertSqlSafe(breaking.clone())).execute(&store.pool).await.expect("is broken");
        store.ensure_vector_extension().await.expect("made");
        assert!(store.mend_vector_tables().await.expect("mends").contains(&"notes".to_owned()), "{breaking}");
        assert_eq!(take_all(store).await, 2);
        assert_eq!(indexed(store, "notes").await.len(), 1);
        assert_eq!(indexed(store, "other").await.len(), 1);
        assert_eq!(db.number("SELECT sum(live)::bigint FROM vector_table").await, 2);
    }
}

#[tokio::test]
async fn a_search_goes_through_the_hnsw_index() {
    let db = TestDatabase::start_with_pgvector().await;
    let store = &db.store;
    let h = db.host("hall", "press-4").await;
    land(store, &batch(stream(h, 1), 1, vec![vector("notes", "a", &[1.0, 0.0])]), T0).await;
    take_all(store).await;
    let table = store.vector_tables().await.expect("reads").remove(0);
    assert!(!table.indexed && !table.serves());
    assert!(store.build_vector_index(&table).await.expect("builds"));
    assert!(store.build_vector_index(&table).await.expect("is built already"));
    let table = store.vector_tables().await.expect("reads").remove(0);
    assert!(table.serves());
    let sql = crate::store::vector_search::nearest_sql(&table.relation, Shape::of(2, "cosine").expect("a shape"));
    let mut tx = store.pool.begin().await.expect("a transaction");
    sqlx::raw_sql("SET LOCAL enable_seqscan = off").execute(&mut *tx).await.expect("set");
    let plan: Vec<String> = sqlx::query_scalar(AssertSqlSafe(format!("EXPLAIN {sql}")))
        .bind(vec![1.0_f32, 0.0])
        .bind(10_i64)
        .fetch_all(&mut *tx)
        .await
        .expect("a plan");
    let plan = plan.join("\n");
    assert!(plan.contains(&format!("Index Scan using {}_hnsw", table.relation)), "{plan}");
}
