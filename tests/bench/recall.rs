//! RECALL: how many of the ten nearest a search through the hub's own index finds, beside all distances computed here.
//!
//! A dev hub on the fetched PostgreSQL with pgvector takes and indexes by itself; its operators' door is asked. Clustered
//! vectors are what texts of one plant give; random ones, about equally far from each other, are the hardest there are.
use crate::{
    ground::Ground,
    ingest::host,
    report::{Goal, Report, Subject},
    rounds::Rounds,
};
use anyhow::{Context as _, ensure};
use redforge_hub::store::{
    DatabaseConfig, Store,
    records::Batch,
    streams::{SeqRange, StreamKey},
};
use redforge_shared::{
    clock::{Clock as _, SystemClock},
    ids::{Epoch, HostId},
    record::{Body, Encoding, Metric, Record, RecordClass, Vector},
    wire::pb,
};
use redforge_tests::{
    operator::Operator,
    place::{Process, binary, command, folder, free_port},
    wait::{eventually_within, when},
};
use std::{
    fs,
    time::{Duration, Instant},
};

const DIM: usize = 384;
const COUNT: usize = 20_000;
const QUERIES: usize = 40;
const NEAREST: usize = 10;
/// (collection, how many centres its vectors lie around; without centres anywhere).
const KINDS: [(&str, usize); 2] = [("clustered", 200), ("random", 0)];

/// Numbers that look random and are the same every time.
struct Numbers(u64);

impl Numbers {
    fn vector(&mut self) -> Vec<f32> {
        let mut next = || {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((self.0 >> 40) as f32 / 8_388_608.0) - 1.0
        };
        (0..DIM).map(|_| next()).collect()
    }

    fn vectors(&mut self, count: usize, centres: usize) -> Vec<Vec<f32>> {
        let centres: Vec<_> = (0..centres).map(|_| self.vector()).collect();
        let place = |i: usize| {
            let own = self.vector();
            match centres.get(i.checked_rem(centres.len()).unwrap_or(0)) {
                Some(centre) => own.iter().zip(centre).map(|(x, c)| c + 0.4 * x).collect(),
                None => own,
            }
        };
        (0..count).map(place).collect()
    }
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

fn record(collection: &str, ordinal: usize, components: &[f32]) -> anyhow::Result<Record> {
    let body = Body::Vector(Vector {
        collection: collection.parse()?,
        source: "all".into(),
        ordinal: ordinal as u32,
        encoding: Encoding::F32,
        dim: DIM as u32,
        scale: 1.0,
        data: components.iter().flat_map(|c| c.to_le_bytes()).collect(),
        model: "bench".into(),
        model_digest: "a".repeat(64),
        metric: Metric::Cosine,
        document_prefix: String::new(),
        query_prefix: String::new(),
        tombstone: false,
        text: String::new(),
    });
    Ok(Record { at: SystemClock.now(), instance: None, key: None, body })
}

/// Vectors of one kind as the hub has them, and queries like them that it does not have.
struct Kind {
    collection: &'static str,
    all: Vec<Vec<f32>>,
    queries: Vec<Vec<f32>>,
}

impl Kind {
    async fn land(&self, store: &Store, host: HostId, epoch: u8) -> anyhow::Result<()> {
        let stream = StreamKey { host, class: RecordClass::Vector, epoch: Epoch([epoch; 16]) };
        for (n, some) in self.all.chunks(500).enumerate() {
            let first = n * 500;
            let range = SeqRange::new(first as u64 + 1, (first + some.len()) as u64).context("a range")?;
            let records = some.iter().enumerate().map(|(i, v)| record(self.collection, first + i, v).map(Ok));
            let records = records.collect::<anyhow::Result<_>>()?;
            store.commit_batch(&Batch { stream, range, records }, SystemClock.now()).await??;
        }
        Ok(())
    }

    /// Share of the exact ten nearest that the hub names, and milliseconds a search.
    async fn ask(&self, operator: &mut Operator) -> anyhow::Result<(f64, f64)> {
        let (mut found, mut searching) = (0, Duration::ZERO);
        for query in &self.queries {
            let mut exact: Vec<(f32, u32)> = self.all.iter().zip(0..).map(|(v, n)| (-cosine(v, query), n)).collect();
            exact.sort_by(|a, b| a.0.total_cmp(&b.0));
            let asked = pb::search_request::Query::Vector(pb::QueryVector { components: query.clone() });
            let request =
                pb::SearchRequest { collection: self.collection.into(), query: Some(asked), limit: NEAREST as u32 };
            let begun = Instant::now();
            let said = operator.admin.search(request).await?.into_inner();
            searching += begun.elapsed();
            ensure!(said.index == "hnsw", "the index of {} is not used: {}", self.collection, said.index);
            found += exact[..NEAREST].iter().filter(|(_, n)| said.hits.iter().any(|h| h.ordinal == *n)).count();
        }
        let asked = self.queries.len() as f64;
        Ok((found as f64 / (asked * NEAREST as f64), searching.as_secs_f64() * 1e3 / asked))
    }
}

/// Measures RECALL.
pub async fn measure(ground: &mut Ground, report: &mut Report) -> anyhow::Result<()> {
    let place = folder();
    let (state, base) = (place.path().join("hub"), free_port());
    let mut c = command(&binary("redforge-hub"));
    c.args(["dev", "--state"]).arg(&state).args(["--port-base", &base.to_string()]);
    let mut hub = Process::start("dev hub", c, &place.path().join("hub.log"));
    hub.line("ready ", Duration::from_secs(90)).await;
    let url = fs::read_to_string(state.join("database.url"))?.trim().to_owned();
    let store = Store::open(&DatabaseConfig { url: url.clone(), direct_url: url.clone(), max_connections: 2 })?;
    let pool = sqlx::PgPool::connect(&url).await?;
    let host = host(&pool).await?;
    let token = fs::read_to_string(state.join("operator.token"))?.trim().to_owned();
    let mut operator = Operator::connect(base + 1, &state.join("root.pem"), &token).await;

    let mut kinds = Vec::new();
    for (n, (collection, centres)) in KINDS.into_iter().enumerate() {
        let mut all = Numbers(42).vectors(COUNT + QUERIES, centres);
        let queries = all.split_off(COUNT);
        let kind = Kind { collection, all, queries };
        kind.land(&store, host, n as u8 + 1).await?;
        kinds.push(kind);
    }
    let begun = Instant::now();
    eventually_within(Duration::from_secs(300), "the hub has indexed all of it", async || {
        let list = operator.admin.list_collections(pb::ListCollectionsRequest {}).await.map_err(|s| s.to_string())?;
        let list = list.into_inner().collections;
        let whole = |c: &pb::Collection| c.index == "hnsw" && c.pending == 0 && c.vectors == COUNT as u64;
        when(list.len() == KINDS.len() && list.iter().all(whole), list)
    })
    .await;
    eprintln!("   {} vectors were indexed {:.0} s after they had landed", 2 * COUNT, begun.elapsed().as_secs_f64());
    let rounds = Rounds::take(ground, false, async |_, _| {
        let (clustered, clustered_ms) = kinds[0].ask(&mut operator).await?;
        let (random, random_ms) = kinds[1].ask(&mut operator).await?;
        Ok(vec![
            ("exact", 1.0),
            ("clustered", clustered),
            ("random", random),
            ("clustered_ms", clustered_ms),
            ("random_ms", random_ms),
        ])
    })
    .await?;
    let subject = |id, what, unit, value, limit, goal| Subject {
        id,
        what,
        unit,
        value,
        limit,
        goal,
        sync_bound: false,
        profile: "release",
        peer: "",
    };
    for s in [
        subject(
            "RECALL",
            "of 20,000 clustered vectors, the 10 nearest; exact",
            "share",
            "clustered",
            "exact",
            Goal::RatioAtLeast(0.95),
        ),
        subject("RECALL-rnd", "the same with random vectors", "share", "random", "exact", Goal::Told),
        subject("RECALL-ms", "a search of the clustered ones", "ms", "clustered_ms", "", Goal::Told),
        subject("RECALL-rms", "a search of the random ones", "ms", "random_ms", "", Goal::Told),
    ] {
        report.add(&s, &rounds);
    }
    pool.close().await;
    store.close().await;
    hub.stop(Duration::from_secs(60)).await;
    Ok(())
}
