//! Blobs on their way down: only those that the caller's desired state names, in chunks that can be resumed.
use super::{peer::Peers, store_status};
use crate::{
    depot::{self, Depot},
    store::{Store, artifacts::CHUNK_BYTES},
};
use redforge_shared::{daemon::Tasks, desired::DesiredState, error::Chain, ids::Digest, wire::pb};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

/// The service.
#[derive(Clone, Debug)]
pub struct Service {
    store: Store,
    depot: Depot,
    peers: Peers,
    tasks: Tasks,
}

impl Service {
    /// The service with its limits.
    pub fn server(
        store: Store,
        depot: Depot,
        peers: Peers,
        tasks: Tasks,
    ) -> pb::artifacts_server::ArtifactsServer<Self> {
        pb::artifacts_server::ArtifactsServer::new(Self { store, depot, peers, tasks }).max_decoding_message_size(4096)
    }
}

impl Service {
    /// Size of a blob, and the blob from this offset on.
    async fn find(&self, digest: Digest, offset: u64) -> Result<(u64, Source), Status> {
        if let Some(total) = self.store.artifact_size(digest).await.map_err(|e| store_status(&e))? {
            return Ok((total, Source::Chunks(Box::new(self.store.clone()))));
        }
        let lost = |e: depot::DepotError| {
            tracing::error!(blob = %digest, error = %Chain(&e), "a blob cannot be read");
            Status::internal("the hub cannot read its artifact store; its log says why")
        };
        let missing = || Status::not_found(format!("the hub does not have {digest}"));
        let total = self.depot.size(digest).await.map_err(lost)?.ok_or_else(missing)?;
        let file = self.depot.open(digest, offset).await.map_err(lost)?.ok_or_else(missing)?;
        Ok((total, Source::File(file)))
    }
}

/// Where a blob lies.
enum Source {
    /// A flow set, in the database.
    Chunks(Box<Store>),
    /// An image or a part of a model, open at the offset.
    File(tokio::fs::File),
}

impl Source {
    /// What comes at this offset; empty where it should not end.
    async fn next(&mut self, digest: Digest, offset: u64) -> Result<bytes::Bytes, Status> {
        match self {
            Self::Chunks(store) => {
                let idx = (offset / CHUNK_BYTES as u64) as u32;
                let skip = (offset % CHUNK_BYTES as u64) as usize;
                let chunk = store.artifact_chunk(digest, idx).await.map_err(|e| store_status(&e))?.unwrap_or_default();
                Ok(if chunk.len() > skip { bytes::Bytes::from(chunk).slice(skip..) } else { bytes::Bytes::new() })
            }
            Self::File(file) => {
                let piece = depot::piece(file, CHUNK_BYTES).await;
                piece.map(Into::into).map_err(|e| {
                    tracing::error!(blob = %digest, error = %e, "a blob cannot be read");
                    Status::internal("the hub cannot read its artifact store; its log says why")
                })
            }
        }
    }
}

async fn stream(
    mut source: Source,
    digest: Digest,
    total: u64,
    mut offset: u64,
    tx: mpsc::Sender<Result<pb::FetchResponse, Status>>,
) {
    while offset < total {
        let data = match source.next(digest, offset).await {
            Ok(data) if data.is_empty() || offset + data.len() as u64 > total => {
                let _ = tx.send(Err(Status::data_loss(format!("the hub's copy of {digest} has a hole")))).await;
                return;
            }
            Ok(data) => data,
            Err(e) => {
                let _ = tx.send(Err(e)).await;
                return;
            }
        };
        let next = offset + data.len() as u64;
        if tx.send(Ok(pb::FetchResponse { total_bytes: total, offset, data })).await.is_err() {
            return;
        }
        offset = next;
    }
}

#[tonic::async_trait]
impl pb::artifacts_server::Artifacts for Service {
    type FetchStream = ReceiverStream<Result<pb::FetchResponse, Status>>;

    async fn fetch(&self, request: Request<pb::FetchRequest>) -> Result<Response<Self::FetchStream>, Status> {
        let peer = self.peers.check(&request).await?;
        let request = request.into_inner();
        let digest =
            Digest::try_from(&request.digest[..]).map_err(|_| Status::invalid_argument("digest: expected 32 bytes"))?;
        let desired = self.store.desired(peer.id).await.map_err(|e| store_status(&e))?;
        let named = desired
            .and_then(|d| DesiredState::parse(&d.spec).ok())
            .is_some_and(|d| d.instances.iter().any(|i| i.blobs().any(|b| b == digest)));
        if !named {
            return Err(Status::permission_denied(format!("{digest} does not occur in this host's desired state")));
        }
        let (total, source) = self.find(digest, request.offset).await?;
        if request.offset > total {
            return Err(Status::out_of_range(format!("offset: {} is beyond {total} bytes", request.offset)));
        }
        let (tx, rx) = mpsc::channel(2);
        if request.offset == total {
            // Nothing is left, but the caller learns the size.
            let last = pb::FetchResponse { total_bytes: total, offset: total, data: bytes::Bytes::new() };
            let _ = tx.send(Ok(last)).await;
        }
        self.tasks.spawn_job(stream(source, digest, total, request.offset, tx));
        Ok(Response::new(ReceiverStream::new(rx)))
    }
}
