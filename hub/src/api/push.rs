//! A flow set comes in pieces, is checked whole, and becomes a revision if its content is new.
use super::{Api, ApiError, Caller, Role, guests, names};
use crate::store::changes::NewFlowSet;
use redforge_shared::{
    flows::{MAX_FLOW_SET_BYTES, unpack},
    ids::{Digest, Name},
    wire::pb,
};
use tokio::sync::OwnedSemaphorePermit;

/// Largest piece in bytes.
const MAX_CHUNK_BYTES: usize = 256 * 1024;

/// A flow set on its way in. Holds one of the few places for uploads, so that memory stays bounded.
#[derive(Debug)]
pub struct Upload {
    name: Name,
    digest: Digest,
    size: usize,
    stage_only: bool,
    bytes: Vec<u8>,
    _place: OwnedSemaphorePermit,
}

impl Upload {
    /// Takes the next piece.
    pub fn chunk(&mut self, data: &[u8]) -> Result<(), ApiError> {
        if data.len() > MAX_CHUNK_BYTES {
            let problem = format!("has {} bytes, more than {MAX_CHUNK_BYTES}", data.len());
            return Err(ApiError::invalid("chunk", problem));
        }
        if self.bytes.len() + data.len() > self.size {
            return Err(ApiError::invalid("chunk", format!("more bytes came than the {} of the header", self.size)));
        }
        self.bytes.extend_from_slice(data);
        Ok(())
    }
}

impl Api {
    /// Checks the header before any byte is taken.
    pub fn begin_push(&self, caller: &Caller, header: &pb::PushFlowSetHeader) -> Result<Upload, ApiError> {
        caller.needs(Role::Operator)?;
        let name = names::single("header.name", "flowsets", &header.name)?;
        let digest = Digest::try_from(&header.digest[..])
            .map_err(|_| ApiError::invalid("header.digest", "is not a SHA-256 of 32 bytes"))?;
        let size = usize::try_from(header.size_bytes).unwrap_or(usize::MAX);
        if size == 0 || size > MAX_FLOW_SET_BYTES {
            let problem =
                format!("the flow set has {} bytes, allowed are 1 to {MAX_FLOW_SET_BYTES}", header.size_bytes);
            return Err(ApiError::invalid("header.size_bytes", problem));
        }
        let place = self.uploads.clone().try_acquire_owned().map_err(|_| ApiError::Busy {
            reason: "TOO_MANY_UPLOADS",
            message: "too many flow sets are being pushed at the moment; push again later".into(),
        })?;
        // Grows with what really comes, not with what was promised.
        let stage_only = header.stage_only;
        Ok(Upload { name, digest, size, stage_only, bytes: Vec::new(), _place: place })
    }

    /// Checks the whole and makes a revision of it, or only keeps its bytes for the apply that follows.
    pub async fn finish_push(&self, caller: &Caller, upload: Upload) -> Result<pb::PushFlowSetResponse, ApiError> {
        let Upload { name, digest, size, stage_only, bytes, _place } = upload;
        if bytes.len() != size {
            let problem = format!("{} bytes came, the header says {size}", bytes.len());
            return Err(ApiError::invalid("chunk", problem));
        }
        let checked =
            tokio::task::spawn_blocking(move || unpack(&bytes, Some(digest)).map(|set| (set.manifest, bytes)));
        let (manifest, bytes) = checked
            .await
            .map_err(|_| ApiError::invalid("chunk", "the flow set cannot be read"))?
            .map_err(|e| ApiError::invalid("chunk", e.to_string()))?;
        let set = NewFlowSet {
            name: name.clone(),
            digest,
            bytes,
            node_count: manifest.node_count,
            credential_names: manifest.credential_names,
        };
        let mut changes = self.store.begin_changes(&caller.name, self.clock.now()).await?;
        if stage_only {
            changes.stage(&set).await?;
            changes.commit().await?;
            return Ok(pb::PushFlowSetResponse::default());
        }
        let (changed, _) = changes.put_flow_set(&set).await?;
        guests::merge_where_run(&mut changes, &name).await?;
        changes.commit().await?;
        self.pushed(&name, changed).await
    }
}
