//! Search on a PostgreSQL with pgvector and on one without: how it was made, that both ways agree, and what is refused.
mod recall;

use super::*;
use crate::{
    api::{
        Parts,
        tests::{Bench, VIEWER, bench, bench_on},
    },
    embed::{Embed, tests::server},
    store::{
        streams::StreamKey,
        testing::{self, DIGEST, TestDatabase},
        vector_search::MAX_PENDING,
        vector_tables::Extension,
    },
    tasks::index_vectors,
};
use pb::search_request::Query as Asked;
use redforge_shared::{
    clock::SharedClock,
    ids::Epoch,
    record::{Body, Encoding, RecordClass, Vector},
};
use std::{sync::Arc, time::Duration};

const DIM: usize = 8;

fn vector(source: &str, ordinal: u32, components: &[f32]) -> Vector {
    testing::vector("notes", source, ordinal, components)
}

fn found(response: &pb::SearchResponse) -> Vec<(&str, u32)> {
    response.hits.iter().map(|h| (h.source.as_str(), h.ordinal)).collect()
}

async fn with_pgvector() -> (Bench, StreamKey) {
    let b = bench_on(TestDatabase::start_with_pgvector().await, None);
    let host = b.db.host("hall", "press-4").await;
    (b, StreamKey { host, class: RecordClass::Vector, epoch: Epoch([1; 16]) })
}

async fn index(b: &Bench) -> Extension {
    let clock: SharedClock = Arc::new(b.clock.clone());
    index_vectors::pass(&b.db.store, &clock).await.expect("the database works")
}

fn of(components: &[f32]) -> Asked {
    Asked::Vector(pb::QueryVector { components: components.to_vec() })
}

/// Numbers that look random and are the same every time.
struct Numbers(u64);
impl Numbers {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 40) as f32 / 8_388_608.0) - 1.0
    }
    fn vector(&mut self, dim: usize) -> Vec<f32> {
        (0..dim).map(|_| self.next()).collect()
    }
}

fn written(metric: Metric, encoding: Encoding, ordinal: u32, components: &[f32]) -> Vector {
    let mut v = vector("notes.txt", ordinal, components);
    v.collection = format!("{}-{}", metric.as_str(), encoding.as_str()).parse().expect("a name");
    (v.metric, v.encoding, v.dim) = (metric, encoding, components.len() as u32);
    match encoding {
        Encoding::F32 => {}
        Encoding::F16 => {
            v.data = components.iter().flat_map(|c| half::f16::from_f32(*c).to_le_bytes()).collect();
        }
        Encoding::I8 => {
            v.scale = 1.0 / 100.0;
            v.data = components.iter().map(|c| ((c * 100.0) as i8).cast_unsigned()).collect();
        }
    }
    v
}

#[tokio::test]
async fn the_index_and_exact_search_agree_in_every_metric_and_encoding() {
    let (b, stream) = with_pgvector().await;
    let mut numbers = Numbers(7);
    let mut names = Vec::new();
    let mut first = 1;
    for metric in [Metric::Cosine, Metric::L2, Metric::Dot] {
        for encoding in [Encoding::F32, Encoding::F16, Encoding::I8] {
            let all: Vec<Vector> = (0..60).map(|i| written(metric, encoding, i, &numbers.vector(DIM))).collect();
            names.push(all[0].collection.to_string());
            b.land(stream, first, all.into_iter().map(Body::Vector).collect()).await;
            first += 60;
        }
    }
    // Wide ones are halved in the index; what is shown is scored with what landed.
    let wide: Vec<Vector> =
        (0..20).map(|i| written(Metric::Cosine, Encoding::F32, i, &numbers.vector(2_500))).collect();
    let wide: Vec<Body> = wide
        .into_iter()
        .map(|mut v| {
            v.collection = "wide".parse().expect("a name");
            Body::Vector(v)
        })
        .collect();
    b.land(stream, first, wide).await;
    let queries: Vec<Vec<f32>> = (0..10).map(|_| numbers.vector(DIM)).collect();
    let wide_query = numbers.vector(2_500);
    let mut exact = Vec::new();
    for name in &names {
        for query in &queries {
            exact.push(b.search(name, of(query)).await.expect("searches"));
        }
    }
    exact.push(b.search("wide", of(&wide_query)).await.expect("searches"));
    assert!(exact.iter().all(|r| r.index == "exact" && r.hits.len() == 10));

    assert_eq!(index(&b).await, Extension::Ready);
    let mut exact = exact.into_iter();
    for name in names.iter().chain([&"wide".to_owned()]) {
        let queries = if name == "wide" { std::slice::from_ref(&wide_query) } else { &queries[..] };
        for query in queries {
            let (want, got) = (exact.next().expect("as many"), b.search(name, of(query)).await.expect("searches"));
            assert_eq!(got.index, "hnsw", "{name}");
            assert_eq!(got.hits[0], want.hits[0], "{name}: the best hit, its score, text, record and host");
            let same = want.hits.iter().filter(|h| got.hits.iter().any(|g| g.record == h.record)).count();
            assert!(same >= 9, "{name}: {same} of 10 nearest agree");
        }
    }
    let list = b.api.list_collections(&VIEWER, pb::ListCollectionsRequest {}).await.expect("lists");
    assert_eq!(list.collections.len(), 10);
    assert!(list.collections.iter().all(|c| c.index == "hnsw" && c.pending == 0 && !c.vectors_estimated));
    assert_eq!(list.collections.iter().map(|c| c.vectors).sum::<u64>(), 560);
}

#[tokio::test]
async fn what_landed_after_the_index_is_found_too() {
    let (b, stream) = with_pgvector().await;
    let one = |source: &str, c: &[f32]| Body::Vector(vector(source, 0, c));
    b.land(stream, 1, vec![one("a", &[1.0, 0.0]), one("b", &[0.9, 0.1]), one("c", &[0.0, 1.0])]).await;
    index(&b).await;
    let east = || of(&[1.0, 0.0]);
    let before = b.search("", east()).await.expect("searches");
    assert_eq!((before.index.as_str(), found(&before)), ("hnsw", vec![("a", 0), ("b", 0), ("c", 0)]));

    // One is replaced, one deleted, one new; an older record of a chunk that the index has comes late.
    b.clock.advance(Duration::from_secs(5));
    let late = StreamKey { epoch: Epoch([2; 16]), ..stream };
    b.land(late, 1, vec![one("a", &[-1.0, 0.0]), one("b", &[]), one("d", &[0.8, 0.2])]).await;
    b.land(stream, 4, vec![one("a", &[1.0, 0.0])]).await;
    let want = vec![("d", 0), ("c", 0), ("a", 0)];
    let pending = b.search("", east()).await.expect("searches");
    assert_eq!((pending.index.as_str(), found(&pending)), ("hnsw", want.clone()));
    let list = b.api.list_collections(&VIEWER, pb::ListCollectionsRequest {}).await.expect("lists");
    assert_eq!((list.collections[0].vectors, list.collections[0].pending), (3, 4));

    index(&b).await;
    let after = b.search("", east()).await.expect("searches");
    assert_eq!((after.index.as_str(), found(&after)), ("hnsw", want));
    assert_eq!(after.hits, pending.hits);
    let list = b.api.list_collections(&VIEWER, pb::ListCollectionsRequest {}).await.expect("lists");
    assert_eq!((list.collections[0].vectors, list.collections[0].pending), (3, 0));
    // Zeros have no direction: no index can be asked for them.
    assert_eq!(b.search("", of(&[0.0, 0.0])).await.expect("searches").index, "exact");
}

/// More vectors than are read one by one, beside the few that a test landed in order.
const MANY: &str = "INSERT INTO record_vector SELECT s.stream_id, 1000 + n, v.received_at, v.at, NULL, NULL, v.collection, \
     'bulk', n, v.encoding, v.dim, v.scale, v.data, v.model, v.model_digest, '', false \
     FROM generate_series(1, 200000) n, stream s, record_vector v WHERE v.source = 'c'; \
     UPDATE stream SET committed = committed + '{[1001,201001)}', max_seq = 201000";

#[tokio::test]
async fn a_large_collection_is_searched_by_its_index_only() {
    let (b, stream) = with_pgvector().await;
    let one = |source: &str, c: &[f32]| Body::Vector(vector(source, 0, c));
    b.land(stream, 1, vec![one("a", &[1.0, 0.0]), one("b", &[0.9, 0.1]), one("c", &[0.0, 1.0])]).await;
    index(&b).await;
    b.db.tamper(MANY).await;
    let Err(ApiError::Precondition { reason, message }) = b.search("", of(&[1.0, 0.0])).await else {
        panic!("an index that lacks 200000 must not answer")
    };
    assert_eq!(reason, "COLLECTION_TOO_LARGE");
    assert!(
        message.contains("'notes' holds more than 200000") && message.contains(&MAX_PENDING.to_string()),
        "{message}"
    );
    // As if they had been taken, which takes a minute: the index alone decides.
    b.db.tamper("UPDATE vector_taken SET taken = (SELECT committed FROM stream)").await;
    let right = b.search("", of(&[1.0, 0.0])).await.expect("searches");
    assert_eq!((right.index.as_str(), found(&right)[0]), ("hnsw", ("a", 0)));
    b.db.tamper("UPDATE vector_table SET problem = 'records/1/7 is odd'").await;
    let e = b.search("", of(&[1.0, 0.0])).await.expect_err("exact").to_string();
    assert!(e.contains("its index is not whole: records/1/7 is odd"), "{e}");
}

#[tokio::test]
async fn without_pgvector_search_is_exact_up_to_a_bound() {
    let b = bench_on(TestDatabase::start().await, None);
    let host = b.db.host("hall", "press-4").await;
    let stream = StreamKey { host, class: RecordClass::Vector, epoch: Epoch([1; 16]) };
    let one = |source: &str, c: &[f32]| Body::Vector(vector(source, 0, c));
    b.land(stream, 1, vec![one("a", &[1.0, 0.0]), one("b", &[0.9, 0.1]), one("c", &[0.0, 1.0])]).await;
    let Extension::Missing(why) = index(&b).await else { panic!("Debian 12 has no pgvector") };
    assert!(why.contains("pgvector"), "{why}");
    let right = b.search("", of(&[1.0, 0.0])).await.expect("searches");
    assert_eq!((right.index.as_str(), found(&right)[0]), ("exact", ("a", 0)));
    b.db.tamper(MANY).await;
    let Err(ApiError::Precondition { reason, message }) = b.search("", of(&[1.0, 0.0])).await else {
        panic!("200003 vectors are too many to be read")
    };
    assert_eq!(
        (reason, message.as_str()),
        (
            "COLLECTION_TOO_LARGE",
            "collection 'notes' holds more than 200000 stored vectors and it has no index, because PostgreSQL's extension \
             pgvector is not installed: exact search would read them all"
        )
    );
    let list = b.api.list_collections(&VIEWER, pb::ListCollectionsRequest {}).await.expect("lists");
    let c = &list.collections[0];
    assert_eq!((c.index.as_str(), c.vectors, c.vectors_estimated, c.pending), ("exact", 200_001, true, 0));
}

#[tokio::test]
async fn a_vector_of_another_model_takes_the_index_out_of_use_and_is_named() {
    let (b, stream) = with_pgvector().await;
    b.land(stream, 1, vec![Body::Vector(vector("a", 0, &[1.0, 0.0])), Body::Vector(vector("b", 0, &[0.0, 1.0]))]).await;
    b.db.tamper("UPDATE record_vector SET model_digest = repeat('0', 64) WHERE source = 'b'").await;
    index(&b).await;
    let e = b.search("", of(&[1.0, 0.0])).await.expect_err("mixed");
    assert!(matches!(e, ApiError::Precondition { reason: "COLLECTION_MIXED", .. }), "{e}");
}

#[tokio::test]
async fn search_finds_the_nearest_of_what_counts() {
    let embed = Embed::new(&server(DIGEST).await, true).expect("an address");
    let b = bench(Some(embed)).await;
    let host = b.db.host("hall", "press-4").await;
    let early = StreamKey { host, class: RecordClass::Vector, epoch: Epoch([1; 16]) };
    let late = StreamKey { host, class: RecordClass::Vector, epoch: Epoch([2; 16]) };
    assert!(matches!(b.search("", of(&[1.0, 0.0])).await, Err(ApiError::NotFound(_))));

    let mut half = vector("b", 0, &[0.0, 1.0]);
    half.encoding = Encoding::F16;
    half.data = [0.0_f32, 1.0].iter().flat_map(|c| half::f16::from_f32(*c).to_le_bytes()).collect();
    let first = [vector("a", 0, &[1.0, 0.0]), vector("a", 1, &[0.9, 0.1]), half, vector("gone", 0, &[1.0, 0.0])];
    b.land(early, 1, first.map(Body::Vector).to_vec()).await;
    b.clock.advance(Duration::from_secs(5));
    // A later stream replaces one chunk and deletes another.
    let tombstone = vector("gone", 0, &[]);
    b.land(late, 1, vec![Body::Vector(vector("a", 0, &[0.0, -1.0])), Body::Vector(tombstone)]).await;
    b.clock.advance(Duration::from_secs(5));
    // What the earlier stream still had to send is older, though it arrives last.
    b.land(early, 5, vec![Body::Vector(vector("a", 0, &[1.0, 0.0]))]).await;

    let right = b.search("", of(&[1.0, 0.0])).await.expect("searches");
    assert_eq!(found(&right), [("a", 1), ("a", 0), ("b", 0)]);
    assert_eq!((right.index.as_str(), right.collection.as_str()), ("exact", "notes"));
    assert_eq!((right.hits[0].text.as_str(), right.hits[0].host.as_str()), ("a 1", "hosts/press-4"));
    let like = b.search("notes", Asked::Like(right.hits[2].record.clone())).await.expect("searches");
    assert_eq!(found(&like)[0], ("b", 0));
    assert!((like.hits[0].score - 1.0).abs() < 1e-6);
    // "q: " and the text are 4 bytes: the vector (4, 1).
    let text = b.search("notes", Asked::Text("x".into())).await.expect("searches");
    assert_eq!((found(&text)[0], text.standin), (("a", 1), true));

    let list = b.api.list_collections(&VIEWER, pb::ListCollectionsRequest {}).await.expect("lists");
    assert_eq!((list.collections[0].vectors, list.collections[0].dim), (3, 2));
    let e = b.search("other", of(&[1.0, 0.0])).await.expect_err("unknown").to_string();
    assert_eq!(e, "collection 'other' does not exist");
    let e = b.search("notes", of(&[1.0])).await.expect_err("one component").to_string();
    assert_eq!(e, "vector: has 1 components, collection 'notes' has 2");
    assert!(b.search("notes", of(&[f32::NAN, 0.0])).await.is_err());
    b.db.tamper("UPDATE record_vector SET model_digest = repeat('0', 64) WHERE source = 'b'").await;
    let e = b.search("notes", of(&[1.0, 0.0])).await.expect_err("mixed");
    assert!(matches!(e, ApiError::Precondition { reason: "COLLECTION_MIXED", .. }));
    assert!(e.to_string().starts_with("collection 'notes' is mixed"), "{e}");
}

#[tokio::test]
async fn a_text_is_refused_where_it_cannot_be_embedded() {
    let other = "00000000000000000000000000000000000000000000000000000000000000aa";
    let b = bench(Some(Embed::new(&server(other).await, false).expect("an address"))).await;
    let host = b.db.host("hall", "press-4").await;
    let stream = StreamKey { host, class: RecordClass::Vector, epoch: Epoch([1; 16]) };
    b.land(stream, 1, vec![Body::Vector(vector("a", 0, &[1.0, 0.0]))]).await;
    let e = b.search("", Asked::Text("x".into())).await.expect_err("another model");
    assert!(matches!(e, ApiError::Embed(crate::embed::EmbedError::OtherModel { .. })), "{e:?}");
    assert!(b.search("", Asked::Text(" ".into())).await.is_err());
    let without = Api::new(Parts {
        store: b.db.store.clone(),
        pki: b.api.pki.clone(),
        clock: b.api.clock.clone(),
        public_url: String::new(),
        heartbeat: Duration::from_secs(1),
        embed: None,
        depot: crate::depot::Depot::new("/nonexistent".into(), 1 << 20),
    });
    let request = pb::SearchRequest { query: Some(Asked::Text("x".into())), ..Default::default() };
    let e = without.search(&VIEWER, request).await.expect_err("no server");
    assert!(matches!(e, ApiError::Embed(crate::embed::EmbedError::NotConfigured)));
}
