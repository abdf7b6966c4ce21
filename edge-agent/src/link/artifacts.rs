//! Fetches the blobs that the ledger wants into `blobs/sha256/<hex>`, going on where a broken fetch ended. A blob counts
//! only when its digest was computed over the whole file and the file is durable. Step of the flow down: reconcile writes
//! a `wanted` row and waits; this room marks it.
use super::dial::explain;
use crate::db::ledger::{BlobFault, Ledger, LedgerError};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use redforge_shared::{error::Chain, ids::Digest, wire::pb};
use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    io,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt},
    time::Instant,
};
use tonic::{Code, Status, transport::Channel};

/// A blob that failed is tried again after this long.
const RETRY: Duration = Duration::from_secs(5);
/// A blob that is damaged or missing at the hub is tried again after this long, then after twice as long, up to the most.
const REST: Duration = Duration::from_secs(15);
const MAX_REST: Duration = Duration::from_secs(3600);
/// Blobs that are fetched at once: a flow set does not wait for a model.
const LANES: usize = 4;
/// Largest blob.
const MAX_BLOB_BYTES: u64 = 1 << 40;
/// Largest message: one chunk and its frame.
const MAX_MESSAGE_BYTES: usize = 512 << 10;

/// Why a blob has not arrived.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("the hub does not give it: {}", explain(.0))]
    Rpc(Status),
    #[error("the hub sent offset {got} where {want} was due")]
    Offset { want: u64, got: u64 },
    #[error("the hub says it has {0} bytes, more than {MAX_BLOB_BYTES}")]
    TooLarge(u64),
    #[error("the hub stopped after {have} of {total} bytes")]
    Short { have: u64, total: u64 },
    #[error("what arrived has digest {0}")]
    Digest(Digest),
    #[error("{} cannot be written", path.display())]
    File { path: PathBuf, source: io::Error },
}

impl FetchError {
    /// What only somebody at the hub can mend.
    fn fault(&self) -> Option<BlobFault> {
        match self {
            Self::Digest(_) | Self::TooLarge(_) => Some(BlobFault::Damaged),
            Self::Rpc(s) if matches!(s.code(), Code::NotFound | Code::DataLoss) => Some(BlobFault::Missing),
            _ => None,
        }
    }
}

type Client = pb::artifacts_client::ArtifactsClient<Channel>;

/// Fetches whatever is wanted, until the connection ends or the ledger fails.
pub async fn run(channel: Channel, ledger: &Ledger, blobs: &Path) -> Result<Infallible, LedgerError> {
    let client = Client::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let mut news = ledger.subscribe_wanted();
    let mut lanes = FuturesUnordered::new();
    let mut fetching = BTreeSet::new();
    // Until when, and how long the next rest is.
    let mut resting: BTreeMap<Digest, (Instant, Duration)> = BTreeMap::new();
    loop {
        news.mark_unchanged();
        let wanted = ledger.wanted().await?;
        resting.retain(|digest, _| wanted.contains(digest));
        for digest in wanted {
            let rests = resting.get(&digest).is_some_and(|(until, _)| *until > Instant::now());
            if lanes.len() < LANES && !rests && fetching.insert(digest) {
                let client = client.clone();
                lanes.push(async move { (digest, fetch(client, digest, blobs).await) });
            }
        }
        tokio::select! {
            Some((digest, result)) = lanes.next() => {
                fetching.remove(&digest);
                match result {
                    Ok(()) => {
                        tracing::info!(blob.digest = %digest, "blob arrived");
                        resting.remove(&digest);
                        ledger.have(digest).await?;
                    }
                    Err(e) => {
                        tracing::warn!(blob.digest = %digest, error = %Chain(&e), "blob not fetched");
                        let rest = match e.fault() {
                            Some(fault) => {
                                ledger.set_blob_fault(digest, fault);
                                resting.get(&digest).map_or(REST, |(_, last)| (*last * 2).min(MAX_REST))
                            }
                            None => RETRY,
                        };
                        resting.insert(digest, (Instant::now() + rest, rest));
                    }
                }
            }
            changed = news.changed() => if changed.is_err() { tokio::time::sleep(RETRY).await },
            () = tokio::time::sleep(RETRY) => {}
        }
    }
}

async fn fetch(mut client: Client, digest: Digest, blobs: &Path) -> Result<(), FetchError> {
    let done = blobs.join(digest.hex());
    let part = blobs.join(format!("{}.part", digest.hex()));
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| FetchError::File { path, source }
    };
    tokio::fs::create_dir_all(blobs).await.map_err(failed(blobs))?;
    // It may lie there already: a crash after the rename and before the row.
    if done.exists() && digest_of(&done).await.map_err(failed(&done))? == digest {
        return Ok(());
    }
    let mut file = tokio::fs::OpenOptions::new().create(true).append(true).open(&part).await.map_err(failed(&part))?;
    let mut at = file.seek(io::SeekFrom::End(0)).await.map_err(failed(&part))?;
    tracing::info!(blob.digest = %digest, blob.offset = at, "fetching blob");
    let request = pb::FetchRequest { digest: digest.0.to_vec().into(), offset: at };
    let mut chunks = client.fetch(request).await.map_err(FetchError::Rpc)?.into_inner();
    let mut total = None;
    while let Some(chunk) = chunks.message().await.map_err(FetchError::Rpc)? {
        if chunk.total_bytes > MAX_BLOB_BYTES {
            return Err(FetchError::TooLarge(chunk.total_bytes));
        }
        if chunk.offset != at {
            return Err(FetchError::Offset { want: at, got: chunk.offset });
        }
        at += chunk.data.len() as u64;
        if at > chunk.total_bytes {
            return Err(FetchError::TooLarge(at));
        }
        total = Some(chunk.total_bytes);
        file.write_all(&chunk.data).await.map_err(failed(&part))?;
        // In the file, not in this process: what is told of it, and what a kill leaves, is what arrived.
        file.flush().await.map_err(failed(&part))?;
    }
    if let Some(total) = total.filter(|t| at < *t) {
        return Err(FetchError::Short { have: at, total });
    }
    let arrived = digest_of(&part).await.map_err(failed(&part))?;
    if arrived != digest {
        // Nothing of it can be trusted; the next try begins at 0.
        tokio::fs::remove_file(&part).await.map_err(failed(&part))?;
        return Err(FetchError::Digest(arrived));
    }
    file.sync_all().await.map_err(failed(&part))?;
    tokio::fs::rename(&part, &done).await.map_err(failed(&done))?;
    let folder = tokio::fs::File::open(blobs).await.map_err(failed(blobs))?;
    folder.sync_all().await.map_err(failed(blobs))
}

async fn digest_of(path: &Path) -> io::Result<Digest> {
    use sha2::Digest as _;
    let mut file = tokio::fs::File::open(path).await?;
    let mut sha = sha2::Sha256::new();
    let mut chunk = vec![0; 64 << 10];
    loop {
        let n = file.read(&mut chunk).await?;
        if n == 0 {
            return Ok(Digest(sha.finalize().into()));
        }
        sha.update(&chunk[..n]);
    }
}
