//! A flow set goes out again: a revision of it, or a draft, byte for byte as it came in.
use super::{Api, ApiError, Caller, names};
use crate::store::artifacts::CHUNK_BYTES;
use redforge_shared::{
    ids::Digest,
    wire::{pb, timestamp},
};
use tokio::sync::OwnedSemaphorePermit;

/// A flow set on its way out. Holds one of the few places for uploads, so that memory stays bounded.
#[derive(Debug)]
pub struct Download {
    pub header: pb::FlowSet,
    pub tar: Vec<u8>,
    _place: OwnedSemaphorePermit,
}

impl Api {
    /// The flow set with its bytes.
    pub async fn pull_flow_set(&self, _: &Caller, request: pb::PullFlowSetRequest) -> Result<Download, ApiError> {
        let (name, version) = names::version("name", &request.name)?;
        let header = match version {
            names::Version::Newest => self.store.flow_set(name.as_str()).await?.map(super::sites::flow_set),
            names::Version::Revision(number) => {
                self.store.flow_set_revision(name.as_str(), number).await?.map(super::sites::flow_set)
            }
            names::Version::Draft(number) => self.store.draft(&name, number).await?.map(|row| pb::FlowSet {
                name: request.name.clone(),
                digest: hex::encode(&row.digest),
                revision: row.base_revision as u64,
                size_bytes: row.size_bytes as u64,
                node_count: row.node_count as u32,
                credential_names: row.credential_names.0,
                created_at: Some(timestamp(row.created_at)),
                draft_count: 0,
            }),
        };
        let missing = || ApiError::NotFound(request.name.clone());
        let header = header.ok_or_else(missing)?;
        let digest: Digest = header.digest.parse().map_err(|_| missing())?;
        let place = self.uploads.clone().try_acquire_owned().map_err(|_| ApiError::Busy {
            reason: "TOO_MANY_UPLOADS",
            message: "too many flow sets are on their way at the moment; pull again later".into(),
        })?;
        let mut tar = Vec::new();
        while let Some(chunk) = self.store.artifact_chunk(digest, (tar.len() / CHUNK_BYTES) as u32).await? {
            let last = chunk.len() < CHUNK_BYTES;
            tar.extend(chunk);
            if last {
                break;
            }
        }
        // The bytes are looked at before they are given away under this name.
        if Digest::of(&tar) != digest {
            return Err(missing());
        }
        Ok(Download { header, tar, _place: place })
    }
}
