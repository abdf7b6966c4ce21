//! Drafts on their way up: edited flows of instances whose spec says that edits are adopted, checked like a push.
use super::{peer::Peers, store_status};
use crate::store::{Store, changes::NewFlowSet};
use redforge_shared::{
    clock::SharedClock,
    flows::{MAX_FLOW_SET_BYTES, unpack},
    ids::{Digest, Name},
    wire::pb,
};
use std::{sync::Arc, time::Duration};
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status, Streaming};

/// Largest piece in bytes.
const MAX_CHUNK_BYTES: usize = 256 * 1024;
/// Drafts that may be on their way in at once: each may take 16 MiB of memory.
const MAX_UPLOADS: usize = 4;
/// A sender that is silent for this long has given up.
const SILENCE: Duration = Duration::from_secs(20);

/// The service.
#[derive(Clone, Debug)]
pub struct Service {
    store: Store,
    peers: Peers,
    clock: SharedClock,
    uploads: Arc<Semaphore>,
}

impl Service {
    /// The service with its limits.
    pub fn server(store: Store, peers: Peers, clock: SharedClock) -> pb::drafts_server::DraftsServer<Self> {
        let service = Self { store, peers, clock, uploads: Arc::new(Semaphore::new(MAX_UPLOADS)) };
        pb::drafts_server::DraftsServer::new(service).max_decoding_message_size(MAX_CHUNK_BYTES + 1024)
    }
}

#[tonic::async_trait]
impl pb::drafts_server::Drafts for Service {
    async fn push(
        &self,
        request: Request<Streaming<pb::PushDraftRequest>>,
    ) -> Result<Response<pb::PushDraftResponse>, Status> {
        use pb::push_draft_request::Message;
        let peer = self.peers.check(&request).await?;
        let mut messages = request.into_inner();
        let Some(Message::Header(header)) = next(&mut messages).await? else {
            return Err(Status::invalid_argument("the first message must be the header"));
        };
        let instance: Name =
            header.instance.parse().map_err(|_| Status::invalid_argument("instance: is not a name"))?;
        let (base, digest) = (hash("base", &header.base)?, hash("digest", &header.digest)?);
        let size = usize::try_from(header.size_bytes).unwrap_or(usize::MAX);
        if size == 0 || size > MAX_FLOW_SET_BYTES {
            return Err(Status::invalid_argument(format!(
                "size_bytes: {size} is not within 1 to {MAX_FLOW_SET_BYTES}"
            )));
        }
        let editable = self.store.editable(peer.id, &instance, base).await.map_err(|e| store_status(&e))?;
        let adopts = editable.filter(|e| e.developed || e.drift.as_deref() == Some("adopt"));
        let (Some(name), Some(base_revision)) =
            adopts.map_or((None, None), |e| (e.flow_set.and_then(|n| n.parse::<Name>().ok()), e.base_revision))
        else {
            let text = format!("edits of instance '{instance}' are not adopted, or it runs another flow set by now");
            return Err(Status::permission_denied(text));
        };
        let place = self.uploads.clone().try_acquire_owned();
        let _place =
            place.map_err(|_| Status::resource_exhausted("too many drafts are on their way; send it later"))?;
        let mut bytes = Vec::new();
        while let Some(message) = next(&mut messages).await? {
            let Message::Chunk(data) = message else { return Err(Status::invalid_argument("the header came twice")) };
            if data.len() > MAX_CHUNK_BYTES || bytes.len() + data.len() > size {
                return Err(Status::invalid_argument("chunk: more bytes came than the header says"));
            }
            bytes.extend_from_slice(&data);
        }
        let unpacked = tokio::task::spawn_blocking(move || unpack(&bytes, Some(digest)).map(|set| (set, bytes)));
        let unpacked = unpacked.await.map_err(|_| Status::internal("the draft cannot be read"))?;
        let (set, bytes) = unpacked.map_err(|e| Status::invalid_argument(format!("chunk: {e}")))?;
        let (node_count, credential_names) = (set.manifest.node_count, set.manifest.credential_names);
        let set = NewFlowSet { name, digest, bytes, node_count, credential_names };
        let kept = async {
            let mut changes = self.store.begin_changes(&peer.name, self.clock.now()).await?;
            let number = changes.put_draft(peer.id, &instance, base_revision, &set).await?;
            changes.commit().await?;
            Ok(number)
        };
        let number = kept.await.map_err(|e| store_status(&e))?;
        Ok(Response::new(pb::PushDraftResponse { number: number as u64 }))
    }
}

fn hash(field: &str, bytes: &[u8]) -> Result<Digest, Status> {
    Digest::try_from(bytes).map_err(|_| Status::invalid_argument(format!("{field}: expected 32 bytes")))
}

/// The next message; one without content is skipped over as if it had not come.
async fn next(
    messages: &mut Streaming<pb::PushDraftRequest>,
) -> Result<Option<pb::push_draft_request::Message>, Status> {
    loop {
        let message = tokio::time::timeout(SILENCE, messages.message())
            .await
            .map_err(|_| Status::deadline_exceeded("no piece of the draft came for 20 seconds"))??;
        match message {
            None => return Ok(None),
            Some(pb::PushDraftRequest { message: None }) => {}
            Some(pb::PushDraftRequest { message: Some(message) }) => return Ok(Some(message)),
        }
    }
}
