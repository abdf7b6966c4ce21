//! The independent checker: reads lists made by feeders and publishers, and PostgreSQL by its own SQL; shares no code with
//! what it checks. Prints a table, writes JSON, names every difference, and exits 1 if there is one.
//!
//! Deliberately absent: repairing, guessing, and asking the hub.
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use clap::Parser;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use serde_json::{Value, json};
use sqlx::{PgPool, Row, postgres::PgPoolOptions};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

#[derive(Parser)]
#[command(name = "redforge-checker", about = "Compares what was fed with what PostgreSQL holds")]
struct Args {
    /// PostgreSQL of the hub, such as postgres://redforge@localhost/redforge?host=/run/folder
    #[arg(long)]
    database: String,
    /// Journal of redforge-feeder: {"id", "chunks"} a line; every chunk must be stored once under its key `id#ordinal`.
    #[arg(long)]
    documents: Option<PathBuf>,
    /// Journal of a publisher: {"key"} a line; every key must be stored exactly once.
    #[arg(long)]
    keyed: Option<PathBuf>,
    /// Lines 1 to N, printed by a container after the words of --lines-like, must be stored exactly once each.
    #[arg(long, requires = "lines_like")]
    lines: Option<u64>,
    #[arg(long)]
    lines_like: Option<String>,
    /// Ollama that makes every chunk's vector once more; the stored one must be alike, of its dim and its model's digest.
    #[arg(long)]
    embed_url: Option<String>,
    /// What the chunks say: {"key", "text"} a line; without it the stored text is believed.
    #[arg(long, requires = "embed_url")]
    texts: Option<PathBuf>,
    /// Accept lost ranges that the agent reported.
    #[arg(long)]
    allow_lost: bool,
    /// Where the result goes as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Most differences of one sort that are named one by one.
const NAMED: usize = 50;

#[derive(Default)]
struct Verdict {
    numbers: BTreeMap<&'static str, u64>,
    differences: Vec<String>,
}

impl Verdict {
    fn add(&mut self, what: &'static str, n: u64) {
        *self.numbers.entry(what).or_default() += n;
    }

    /// Counts a sort of difference and names its first cases.
    fn differ(&mut self, what: &'static str, cases: &[String]) {
        self.add(what, cases.len() as u64);
        self.differences.extend(cases.iter().take(NAMED).map(|c| format!("{what}: {c}")));
        if cases.len() > NAMED {
            self.differences.push(format!("{what}: and {} more", cases.len() - NAMED));
        }
    }
}

const ALL_KEYS: &str = "
    SELECT 'vector' AS class, s.host_id::text AS host, r.key FROM record_vector r JOIN stream s USING (stream_id)
    UNION ALL SELECT 'log', s.host_id::text, r.key FROM record_log r JOIN stream s USING (stream_id)
    UNION ALL SELECT 'event', s.host_id::text, r.key FROM record_event r JOIN stream s USING (stream_id)
    UNION ALL SELECT 'measurement', s.host_id::text, r.key FROM record_measurement r JOIN stream s USING (stream_id)";

/// Every key and how many rows bear it.
async fn keys(pool: &PgPool) -> Result<BTreeMap<String, u64>> {
    let sql = format!("SELECT key, count(*) AS n FROM ({ALL_KEYS}) k WHERE key IS NOT NULL GROUP BY key");
    let rows = sqlx::query(sqlx::AssertSqlSafe(sql)).fetch_all(pool).await.context("reading keys")?;
    rows.into_iter().map(|r| Ok((r.try_get("key")?, r.try_get::<i64, _>("n")?.unsigned_abs()))).collect()
}

/// Keys and (stream, seq) pairs that are stored more than once.
async fn duplicates(pool: &PgPool, verdict: &mut Verdict) -> Result<()> {
    let sql = format!(
        "SELECT class, host, key, count(*) AS n FROM ({ALL_KEYS}) k WHERE key IS NOT NULL
         GROUP BY class, host, key HAVING count(*) > 1 ORDER BY key"
    );
    let mut twice = Vec::new();
    for r in sqlx::query(sqlx::AssertSqlSafe(sql)).fetch_all(pool).await.context("looking for repeated keys")? {
        let (class, key, n): (String, String, i64) = (r.try_get("class")?, r.try_get("key")?, r.try_get("n")?);
        twice.push(format!("{class} key '{key}' is stored {n} times"));
    }
    verdict.differ("stored_twice", &twice);
    let mut numbers = Vec::new();
    for table in ["record_vector", "record_log", "record_event", "record_measurement"] {
        let sql = format!(
            "SELECT stream_id, seq, count(*) AS n FROM {table} GROUP BY 1, 2 HAVING count(*) > 1 ORDER BY 1, 2"
        );
        for r in sqlx::query(sqlx::AssertSqlSafe(sql)).fetch_all(pool).await.context("looking for repeated numbers")? {
            let (stream, seq, n): (i64, i64, i64) = (r.try_get("stream_id")?, r.try_get("seq")?, r.try_get("n")?);
            numbers.push(format!("{table}: stream {stream} seq {seq} is stored {n} times"));
        }
    }
    verdict.differ("number_stored_twice", &numbers);
    Ok(())
}

const STREAMS: &str = "
    SELECT s.stream_id, s.class, s.resent, h.name AS host,
        coalesce((SELECT sum(upper(r) - lower(r)) FROM unnest(s.committed) r), 0)::bigint AS committed,
        coalesce((SELECT sum(upper(r) - lower(r)) FROM unnest(s.lost) r), 0)::bigint AS lost,
        (int8multirange(int8range(1, top.seq + 1)) - s.committed - s.lost)::text AS gap_ranges,
        coalesce((SELECT sum(upper(r) - lower(r))
            FROM unnest(int8multirange(int8range(1, top.seq + 1)) - s.committed - s.lost) r), 0)::bigint AS gaps,
        CASE s.class
            WHEN 'vector' THEN (SELECT count(DISTINCT seq) FROM record_vector r WHERE r.stream_id = s.stream_id)
            WHEN 'log' THEN (SELECT count(DISTINCT seq) FROM record_log r WHERE r.stream_id = s.stream_id)
            WHEN 'event' THEN (SELECT count(DISTINCT seq) FROM record_event r WHERE r.stream_id = s.stream_id)
            ELSE (SELECT count(DISTINCT seq) FROM record_measurement r WHERE r.stream_id = s.stream_id)
        END AS stored
    FROM stream s JOIN host h ON h.id = s.host_id,
        LATERAL (SELECT greatest(s.max_seq, coalesce(upper(s.committed) - 1, 0), coalesce(upper(s.lost) - 1, 0)) AS seq) top
    ORDER BY s.stream_id";

/// Gaps, losses and repeats of every stream, and whether what it calls committed is really there.
async fn streams(pool: &PgPool, allow_lost: bool, verdict: &mut Verdict) -> Result<Vec<Value>> {
    let (mut gaps, mut lost, mut missing, mut table) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    println!(
        "{:<24} {:<12} {:>10} {:>8} {:>8} {:>8} {:>10}",
        "HOST", "CLASS", "COMMITTED", "GAPS", "LOST", "RESENT", "STORED"
    );
    for r in sqlx::query(STREAMS).fetch_all(pool).await.context("reading streams")? {
        let number = |name: &str| r.try_get::<i64, _>(name).map(i64::unsigned_abs);
        let (id, host): (i64, String) = (r.try_get("stream_id")?, r.try_get("host")?);
        let class: String = r.try_get("class")?;
        let ranges: String = r.try_get("gap_ranges")?;
        let (committed, stored) = (number("committed")?, number("stored")?);
        let (n_gaps, n_lost, resent) = (number("gaps")?, number("lost")?, number("resent")?);
        println!("{host:<24} {class:<12} {committed:>10} {n_gaps:>8} {n_lost:>8} {resent:>8} {stored:>10}");
        let name = format!("stream {id} ({host}, {class})");
        if n_gaps > 0 {
            gaps.push(format!("{name} lacks {ranges}"));
        }
        if n_lost > 0 {
            lost.push(format!("{name} reports {n_lost} lost"));
        }
        if committed != stored {
            missing.push(format!("{name} says {committed} committed and holds {stored}"));
        }
        verdict.add("committed", committed);
        verdict.add("stored", stored);
        verdict.add("resent", resent);
        verdict.add("lost", n_lost);
        verdict.add("gap_numbers", n_gaps);
        table.push(json!({"stream": id, "host": host, "class": class, "committed": committed, "gaps": n_gaps,
            "lost": n_lost, "resent": resent, "stored": stored}));
    }
    verdict.differ("gaps", &gaps);
    verdict.differ("committed_not_stored", &missing);
    if !allow_lost {
        verdict.differ("lost_ranges", &lost);
    }
    Ok(table)
}

fn journal(path: &Path) -> Result<Vec<Value>> {
    let text = fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
    // A last line that a crash cut off was never fsynced: its sender was told nothing.
    let lines = text.lines().filter_map(|l| serde_json::from_str(l).ok()).collect::<Vec<Value>>();
    ensure!(!lines.is_empty(), "{} names nothing to check", path.display());
    Ok(lines)
}

/// Every expected key exactly once.
fn expect_once(expected: &BTreeSet<String>, stored: &BTreeMap<String, u64>, what: &'static str, verdict: &mut Verdict) {
    let missing: Vec<String> =
        expected.iter().filter(|k| !stored.contains_key(*k)).map(|k| format!("key '{k}' is not stored")).collect();
    verdict.differ(what, &missing);
}

async fn documents(pool: &PgPool, path: &Path, stored: &BTreeMap<String, u64>, verdict: &mut Verdict) -> Result<()> {
    let mut expected = BTreeSet::new();
    let mut documents = BTreeMap::new();
    for entry in journal(path)? {
        let id = entry["id"].as_str().context("a journal line lacks 'id'")?.to_owned();
        let chunks = entry["chunks"].as_u64().context("a journal line lacks 'chunks'")?;
        expected.extend((0..chunks).map(|ordinal| format!("{id}#{ordinal}")));
        documents.insert(id, chunks);
    }
    expect_once(&expected, stored, "missing_chunks", verdict);
    verdict.add("documents", documents.len() as u64);
    verdict.add("vectors_expected", expected.len() as u64);
    let rows = sqlx::query(
        "SELECT source, count(DISTINCT ordinal) AS chunks, max(ordinal) AS last,
            count(*) FILTER (WHERE NOT tombstone AND octet_length(data) <>
                dim * CASE encoding WHEN 'f32' THEN 4 WHEN 'f16' THEN 2 ELSE 1 END) AS bad
         FROM record_vector GROUP BY source",
    );
    let mut wrong = Vec::new();
    let mut seen = BTreeSet::new();
    for r in rows.fetch_all(pool).await.context("reading vectors")? {
        let (source, last): (String, i32) = (r.try_get("source")?, r.try_get("last")?);
        let (chunks, bad): (i64, i64) = (r.try_get("chunks")?, r.try_get("bad")?);
        if bad > 0 {
            wrong.push(format!("document '{source}' has {bad} vectors whose bytes do not fit their dim"));
        }
        let Some(expected) = documents.get(&source) else { continue };
        if chunks.unsigned_abs() != *expected || i64::from(last) + 1 != chunks {
            wrong.push(format!("document '{source}' has {chunks} chunks up to {last}, expected {expected}"));
        }
        seen.insert(source);
    }
    let absent = documents.keys().filter(|d| !seen.contains(*d)).map(|d| format!("document '{d}' is absent"));
    verdict.differ("missing_documents", &absent.collect::<Vec<_>>());
    verdict.differ("wrong_documents", &wrong);
    Ok(())
}

/// Likeness below which a stored vector is not that of its chunk.
const ALIKE: f64 = 0.999;

async fn ask(url: &str, body: Option<Value>) -> Result<Value> {
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let request = Request::builder().method(if body.is_some() { "POST" } else { "GET" }).uri(url);
    let body = body.map(|b| b.to_string()).unwrap_or_default();
    let answer =
        client.request(request.body(Full::new(body.into()))?).await.with_context(|| format!("asking {url}"))?;
    let status = answer.status();
    let body = answer.into_body().collect().await?.to_bytes();
    ensure!(status.is_success(), "{url} answered {status}: {}", String::from_utf8_lossy(&body));
    serde_json::from_slice(&body).with_context(|| format!("{url} answered what is not JSON"))
}

/// The models that the embedder has, by name, with their digests as hex.
async fn digests(url: &str) -> Result<BTreeMap<String, String>> {
    let tags = ask(&format!("{url}/api/tags"), None).await?;
    let models = tags["models"].as_array().cloned().unwrap_or_default();
    let pair = |m: &Value| {
        let (name, digest) = (m["name"].as_str()?, m["digest"].as_str()?);
        Some((name.trim_end_matches(":latest").to_owned(), digest.trim_start_matches("sha256:").to_owned()))
    };
    Ok(models.iter().filter_map(pair).collect())
}

fn likeness(a: &[f64], b: &[f64]) -> f64 {
    let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// Every stored vector against one made here and now.
async fn vectors(pool: &PgPool, url: &str, texts: Option<&Path>, verdict: &mut Verdict) -> Result<()> {
    let text_of = |l: &Value| Some((l["key"].as_str()?.to_owned(), l["text"].as_str()?.to_owned()));
    let texts: Option<BTreeMap<String, String>> =
        texts.map(journal).transpose()?.map(|lines| lines.iter().filter_map(text_of).collect());
    let digests = digests(url).await?;
    let rows = sqlx::query(
        "SELECT coalesce(r.key, r.source || '#' || r.ordinal) AS name, r.text, r.data, r.dim, r.encoding, r.model,
                r.model_digest, c.document_prefix
         FROM record_vector r JOIN collection c ON c.name = r.collection WHERE NOT r.tombstone ORDER BY 1",
    );
    let mut unlike = Vec::new();
    for r in rows.fetch_all(pool).await.context("reading vectors")? {
        let (name, model): (String, String) = (r.try_get("name")?, r.try_get("model")?);
        let (digest, encoding): (String, String) = (r.try_get("model_digest")?, r.try_get("encoding")?);
        let (prefix, stored): (String, Vec<u8>) = (r.try_get("document_prefix")?, r.try_get("data")?);
        let text = match &texts {
            Some(texts) => texts.get(&name).cloned(),
            None => Some(r.try_get::<String, _>("text")?).filter(|t| !t.is_empty()),
        };
        verdict.add("vectors_embedded", 1);
        let Some(text) = text else {
            unlike.push(format!("vector '{name}' has no text to compare with"));
            continue;
        };
        if digests.get(model.trim_end_matches(":latest")) != Some(&digest) {
            unlike.push(format!(
                "vector '{name}' names digest {digest} for model {model}, which has another or is absent"
            ));
            continue;
        }
        let asked = ask(&format!("{url}/api/embed"), Some(json!({"model": model, "input": [prefix + &text]}))).await?;
        let own: Vec<f64> = asked["embeddings"][0].as_array().into_iter().flatten().filter_map(Value::as_f64).collect();
        let stored: Vec<f64> = stored.as_chunks::<4>().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect();
        let dim = r.try_get::<i32, _>("dim")?.unsigned_abs() as usize;
        if encoding != "f32" || own.len() != dim || stored.len() != dim {
            unlike.push(format!("vector '{name}' has dim {dim} in {encoding}, its model makes {} numbers", own.len()));
        } else if likeness(&stored, &own).is_nan() || likeness(&stored, &own) < ALIKE {
            unlike.push(format!("vector '{name}' is not that of its chunk: cosine {:.4}", likeness(&stored, &own)));
        }
    }
    verdict.differ("vectors_unlike", &unlike);
    Ok(())
}

/// Numbered lines: each of 1 to N stored once.
async fn lines(pool: &PgPool, n: u64, words: &str, verdict: &mut Verdict) -> Result<()> {
    let rows = sqlx::query("SELECT line FROM record_log WHERE starts_with(line, $1)").bind(words).fetch_all(pool);
    let mut seen: BTreeMap<u64, u64> = BTreeMap::new();
    for r in rows.await.context("reading log lines")? {
        let line: String = r.try_get("line")?;
        let number = line[words.len()..].trim().parse().with_context(|| format!("'{line}' ends in no number"))?;
        *seen.entry(number).or_default() += 1;
    }
    let missing: Vec<String> = (1..=n).filter(|i| !seen.contains_key(i)).map(|i| format!("line {i}")).collect();
    let twice = seen.iter().filter(|(_, n)| **n > 1).map(|(i, n)| format!("line {i} is stored {n} times"));
    let twice: Vec<String> = twice.collect();
    verdict.add("lines_expected", n);
    verdict.differ("missing_lines", &missing);
    verdict.differ("lines_twice", &twice);
    Ok(())
}

async fn check(args: &Args) -> Result<(Verdict, Vec<Value>)> {
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .connect(&args.database)
        .await
        .context("PostgreSQL cannot be reached")?;
    let mut verdict = Verdict::default();
    let table = streams(&pool, args.allow_lost, &mut verdict).await?;
    duplicates(&pool, &mut verdict).await?;
    let stored = keys(&pool).await?;
    if let Some(path) = &args.documents {
        documents(&pool, path, &stored, &mut verdict).await?;
    }
    if let Some(path) = &args.keyed {
        let keys = journal(path)?.iter().filter_map(|l| l["key"].as_str().map(str::to_owned)).collect::<BTreeSet<_>>();
        verdict.add("keys_expected", keys.len() as u64);
        expect_once(&keys, &stored, "missing_keys", &mut verdict);
    }
    if let (Some(n), Some(words)) = (args.lines, &args.lines_like) {
        lines(&pool, n, words, &mut verdict).await?;
    }
    if let Some(url) = &args.embed_url {
        vectors(&pool, url.trim_end_matches('/'), args.texts.as_deref(), &mut verdict).await?;
    }
    Ok((verdict, table))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode> {
    let args = Args::parse();
    let (verdict, table) = check(&args).await?;
    println!();
    for (what, n) in &verdict.numbers {
        println!("{what:<24} {n:>10}");
    }
    let good = verdict.differences.is_empty();
    for difference in &verdict.differences {
        println!("DIFFERENCE {difference}");
    }
    println!("{}", if good { "no difference" } else { "the data differs from what was fed" });
    if let Some(path) = &args.json {
        let result =
            json!({"good": good, "numbers": verdict.numbers, "differences": verdict.differences, "streams": table});
        fs::write(path, serde_json::to_vec_pretty(&result)?)
            .with_context(|| format!("{} cannot be written", path.display()))?;
    }
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
