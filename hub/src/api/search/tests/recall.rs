//! How many of the ten nearest a search through the index finds, beside all distances computed here. `make bench` measures
//! it on ten times as many.
use super::*;
use std::time::Instant;

const WIDTH: usize = 384;
const QUERIES: usize = 40;
const NEAREST: usize = 10;

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// `count` vectors around so many centres; without centres anywhere.
fn vectors(numbers: &mut Numbers, count: usize, centres: usize) -> Vec<Vec<f32>> {
    let centres: Vec<_> = (0..centres).map(|_| numbers.vector(WIDTH)).collect();
    let near = |numbers: &mut Numbers, i: usize| {
        let own = numbers.vector(WIDTH);
        match centres.get(i.checked_rem(centres.len()).unwrap_or(0)) {
            Some(centre) => own.iter().zip(centre).map(|(x, c)| c + 0.4 * x).collect(),
            None => own,
        }
    };
    (0..count).map(|i| near(numbers, i)).collect()
}

/// Share of the exact ten nearest that the index found, over all queries.
async fn recall(count: usize, centres: usize) -> f64 {
    let (b, stream) = with_pgvector().await;
    let mut numbers = Numbers(42);
    // Queries are of the same kind, and not among what is stored.
    let mut all = vectors(&mut numbers, count + QUERIES, centres);
    let queries = all.split_off(count);
    for (n, some) in all.chunks(500).enumerate() {
        let first = n * 500;
        let bodies = some.iter().enumerate().map(|(i, v)| Body::Vector(vector("all", (first + i) as u32, v)));
        b.land(stream, first as u64 + 1, bodies.collect()).await;
    }
    let began = Instant::now();
    index(&b).await;
    let indexed = began.elapsed().as_secs_f64();
    let (mut found_of_exact, mut searching) = (0, 0.0);
    for query in &queries {
        let mut exact: Vec<(f32, u32)> = all.iter().zip(0..).map(|(v, n)| (-cosine(v, query), n)).collect();
        exact.sort_by(|a, b| a.0.total_cmp(&b.0));
        let began = Instant::now();
        let said = b.search("notes", of(query)).await.expect("searches");
        searching += began.elapsed().as_secs_f64();
        assert_eq!((said.index.as_str(), said.hits.len()), ("hnsw", NEAREST));
        let hits: Vec<u32> = said.hits.iter().map(|h| h.ordinal).collect();
        found_of_exact += exact[..NEAREST].iter().filter(|(_, n)| hits.contains(n)).count();
    }
    let recall = found_of_exact as f64 / (NEAREST * QUERIES) as f64;
    let each = searching * 1e3 / QUERIES as f64;
    println!(
        "{count} vectors, {centres} centres: recall@{NEAREST} {recall:.3}, indexed in {indexed:.1} s, a search {each:.1} ms"
    );
    recall
}

#[tokio::test]
async fn the_index_finds_the_nearest_of_two_thousand() {
    let recall = recall(2_000, 40).await;
    assert!(recall >= 0.95, "only {recall} of the nearest are found");
}
