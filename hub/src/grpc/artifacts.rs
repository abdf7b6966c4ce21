//! Blobs on their way down: only those that the caller's desired state names, in chunks that can be resumed.
use super::{peer::Peers, store_status};
use crate::store::{Store, artifacts::CHUNK_BYTES};
use redforge_shared::{daemon::Tasks, desired::DesiredState, ids::Digest, wire::pb};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

/// The service.
#[derive(Clone, Debug)]
pub struct Service {
    store: Store,
    peers: Peers,
    tasks: Tasks,
}

impl Service {
    /// The service with its limits.
    pub fn server(store: Store, peers: Peers, tasks: Tasks) -> pb::artifacts_server::ArtifactsServer<Self> {
        pb::artifacts_server::ArtifactsServer::new(Self { store, peers, tasks }).max_decoding_message_size(4096)
    }
}

async fn stream(
    store: Store,
    digest: Digest,
    total: u64,
    mut offset: u64,
    tx: mpsc::Sender<Result<pb::FetchResponse, Status>>,
) {
    while offset < total {
        let idx = (offset / CHUNK_BYTES as u64) as u32;
        let skip = (offset % CHUNK_BYTES as u64) as usize;
        let chunk = match store.artifact_chunk(digest, idx).await {
            Ok(Some(chunk)) if chunk.len() > skip => chunk,
            Ok(_) => {
                let _ = tx.send(Err(Status::data_loss(format!("the hub's copy of {digest} has a hole")))).await;
                return;
            }
            Err(e) => {
                let _ = tx.send(Err(store_status(&e))).await;
                return;
            }
        };
        let data = bytes::Bytes::from(chunk).slice(skip..);
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
        let total = self.store.artifact_size(digest).await.map_err(|e| store_status(&e))?;
        let total = total.ok_or_else(|| Status::not_found(format!("the hub does not have {digest}")))?;
        if request.offset > total {
            return Err(Status::out_of_range(format!("offset: {} is beyond {total} bytes", request.offset)));
        }
        let (tx, rx) = mpsc::channel(2);
        if request.offset == total {
            // Nothing is left, but the caller learns the size.
            let last = pb::FetchResponse { total_bytes: total, offset: total, data: bytes::Bytes::new() };
            let _ = tx.send(Ok(last)).await;
        }
        self.tasks.spawn_job(stream(self.store.clone(), digest, total, request.offset, tx));
        Ok(Response::new(ReceiverStream::new(rx)))
    }
}
