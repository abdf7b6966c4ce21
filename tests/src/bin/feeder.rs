//! Feeds documents to flows: POSTs each to the flow's own HTTP-in node, waits for its 200, and journals the id, fsynced.
//!
//! The journal is what the checker believes. Nothing here talks to Ollama, MQTT or the hub in the flow's place. A document
//! that is in the journal is not fed again, so an interrupted run can be repeated.
use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use clap::Parser;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, StatusCode};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

#[derive(Parser)]
#[command(name = "redforge-feeder", about = "Feeds text documents to document flows and journals what they took")]
struct Args {
    /// Folder with text files; each is one document, its id is the file's name without its ending.
    #[arg(long)]
    docs: PathBuf,
    /// JSON lines, appended: {"id", "chunks", "url"}.
    #[arg(long)]
    journal: PathBuf,
    /// Put before each id, so that the same folder can be fed twice.
    #[arg(long, default_value = "")]
    prefix: String,
    /// Give up on a document after this long.
    #[arg(long, default_value_t = 120)]
    patience_s: u64,
    /// Addresses of the Node-RED containers, http://address:1880; documents take turns.
    #[arg(required = true)]
    urls: Vec<String>,
}

type Http = Client<HttpConnector, Full<Bytes>>;

#[derive(serde::Deserialize)]
struct Taken {
    chunks: u64,
}

#[derive(serde::Deserialize)]
struct Counter {
    documents: u64,
}

async fn call(http: &Http, method: Method, url: &str, body: Vec<u8>) -> Result<(StatusCode, Bytes)> {
    let request = Request::builder()
        .method(method)
        .uri(url)
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body)))?;
    let answer = async {
        let response = http.request(request).await.with_context(|| format!("{url} does not answer"))?;
        let status = response.status();
        let body = response.into_body().collect().await.with_context(|| format!("{url} broke off"))?.to_bytes();
        anyhow::Ok((status, body))
    };
    tokio::time::timeout(Duration::from_secs(60), answer).await.with_context(|| format!("{url} took over 60 s"))?
}

/// Documents that the flows say they have taken since they were made.
async fn counted(http: &Http, urls: &[String]) -> Result<u64> {
    let mut sum = 0;
    for url in urls {
        let (status, body) = call(http, Method::GET, &format!("{url}/documents/count"), Vec::new()).await?;
        ensure!(status == StatusCode::OK, "{url}/documents/count answered {status}");
        sum += serde_json::from_slice::<Counter>(&body).context("the counter is not {\"documents\": N}")?.documents;
    }
    Ok(sum)
}

/// Feeds one document until it is taken; returns its chunks and how often it was sent.
async fn feed(http: &Http, url: &str, id: &str, text: &str, patience: Duration) -> Result<(u64, u64)> {
    let body = serde_json::to_vec(&serde_json::json!({"id": id, "text": text}))?;
    let began = Instant::now();
    let mut tries = 0;
    loop {
        tries += 1;
        let problem = match call(http, Method::POST, &format!("{url}/documents"), body.clone()).await {
            Ok((StatusCode::OK, body)) => {
                let taken: Taken = serde_json::from_slice(&body).context("the flow's answer is not {\"chunks\": N}")?;
                ensure!(taken.chunks > 0, "document '{id}' gave no chunk");
                return Ok((taken.chunks, tries));
            }
            Ok((status, body)) => format!("{status}: {}", String::from_utf8_lossy(&body[..body.len().min(200)])),
            Err(e) => format!("{e:#}"),
        };
        if began.elapsed() > patience {
            bail!("document '{id}' was not taken within {} s; last: {problem}", patience.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

fn journalled(path: &Path) -> Result<BTreeSet<String>> {
    let Ok(text) = fs::read_to_string(path) else { return Ok(BTreeSet::new()) };
    let mut ids = BTreeSet::new();
    for line in text.lines() {
        // A line that a crash cut off was never acknowledged by fsync.
        if let Ok(entry) = serde_json::from_str::<serde_json::Value>(line) {
            ids.extend(entry["id"].as_str().map(str::to_owned));
        }
    }
    Ok(ids)
}

fn open_journal(path: &Path) -> Result<File> {
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    let ends_open = fs::read(path)?.last().is_some_and(|b| *b != b'\n');
    if ends_open {
        file.write_all(b"\n")?;
    }
    Ok(file)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args = Args::parse();
    let http: Http = Client::builder(TokioExecutor::new()).build_http();
    let mut files: Vec<PathBuf> = fs::read_dir(&args.docs)
        .with_context(|| format!("{} cannot be read", args.docs.display()))?
        .filter_map(|e| e.ok().map(|e| e.path()).filter(|p| p.is_file()))
        .collect();
    files.sort();
    ensure!(!files.is_empty(), "{} holds no document", args.docs.display());
    let known = journalled(&args.journal)?;
    let mut journal = open_journal(&args.journal)?;
    let before = counted(&http, &args.urls).await?;
    let (mut fed, mut chunks, mut sent) = (0, 0, 0);
    for (index, path) in files.iter().enumerate() {
        let stem = path.file_stem().and_then(|s| s.to_str()).context("a document's name is not UTF-8")?;
        let id = format!("{}{stem}", args.prefix);
        if known.contains(&id) {
            continue;
        }
        let text = fs::read_to_string(path).with_context(|| format!("{} is not UTF-8 text", path.display()))?;
        let url = &args.urls[index % args.urls.len()];
        let (made, tries) = feed(&http, url, &id, &text, Duration::from_secs(args.patience_s)).await?;
        serde_json::to_writer(&mut journal, &serde_json::json!({"id": id, "chunks": made, "url": url}))?;
        journal.write_all(b"\n")?;
        journal.sync_data()?;
        fed += 1;
        chunks += made;
        sent += tries;
    }
    let counted = counted(&http, &args.urls).await?.saturating_sub(before);
    println!("fed {fed} documents, {chunks} chunks, in {sent} requests; the flows counted {counted}");
    // A request whose answer was lost may have been counted too, never more often than it was sent.
    ensure!(
        counted >= fed && counted <= sent,
        "the flows counted {counted} documents, fed were {fed} in {sent} requests"
    );
    Ok(())
}
