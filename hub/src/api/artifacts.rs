//! Images and models that hosts get from the hub: blobs come first, in pieces that can be resumed; then a name for them.
use super::{Api, ApiError, Caller, Role};
use crate::{
    depot::Taken,
    store::pushed::{NewPushed, PushedRow},
};
use redforge_shared::{
    artifact::{MAX_MODEL_MANIFEST_BYTES, MAX_NAME_BYTES, UPLOAD_CHUNK_BYTES, model_blobs, reference_key},
    desired::Blob,
    ids::Digest,
    wire::{pb, timestamp},
};

/// Most instances that a list names for one artifact.
const MAX_USERS: usize = 100;

impl Api {
    /// Takes the next bytes of a blob, or says how much of it is there.
    pub async fn upload_blob(
        &self,
        caller: &Caller,
        request: pb::UploadBlobRequest,
    ) -> Result<pb::UploadBlobResponse, ApiError> {
        caller.needs(Role::Operator)?;
        let digest = digest(&request.digest)?;
        if request.data.len() > UPLOAD_CHUNK_BYTES {
            let problem = format!("has {} bytes, more than {UPLOAD_CHUNK_BYTES}", request.data.len());
            return Err(ApiError::invalid("data", problem));
        }
        if request.verify {
            self.depot.verify(digest).await?;
        }
        let size = request.size_bytes;
        Ok(match self.depot.take(digest, size, request.offset, request.data.to_vec()).await? {
            Taken::Part(received_bytes) => pb::UploadBlobResponse { received_bytes, complete: false },
            Taken::Whole => pb::UploadBlobResponse { received_bytes: size, complete: true },
        })
    }

    /// Makes an image or a model of blobs that are there.
    pub async fn create_artifact(
        &self,
        caller: &Caller,
        request: pb::CreateArtifactRequest,
    ) -> Result<pb::CreateArtifactResponse, ApiError> {
        caller.needs(Role::Operator)?;
        let digest = digest(&request.digest)?;
        let plain = |s: &str| !s.is_empty() && s.len() <= MAX_NAME_BYTES && s.chars().all(|c| c.is_ascii_graphic());
        if !plain(&request.reference) {
            return Err(ApiError::invalid("reference", "expected an image reference or a model's name"));
        }
        let (kind, reference, blobs) = match request.kind() {
            pb::ArtifactKind::Image => {
                if request.image_id.parse::<Digest>().is_err() || !request.image_id.starts_with("sha256:") {
                    return Err(ApiError::invalid("image_id", "expected `sha256:` and 64 hex digits"));
                }
                let bytes = self.uploaded(digest).await?;
                ("image", reference_key(&request.reference), vec![Blob { digest, bytes }])
            }
            pb::ArtifactKind::Model => ("model", request.reference.clone(), self.model(digest).await?),
            pb::ArtifactKind::Unspecified => return Err(ApiError::invalid("kind", "is neither image nor model")),
        };
        let image_id = if kind == "image" { request.image_id.as_str() } else { "" };
        let new = NewPushed { kind, reference: &reference, digest, image_id, blobs: &blobs };
        let mut changes = self.store.begin_changes(&caller.name, self.clock.now()).await?;
        let changed = changes.put_pushed(&new).await?;
        changes.commit().await?;
        let all = self.artifacts().await?;
        let name = format!("artifacts/{}", digest.hex());
        let artifact = all.into_iter().find(|a| a.name == name && a.reference == reference);
        Ok(pb::CreateArtifactResponse { artifact, changed })
    }

    /// Size of a blob that has to be there.
    async fn uploaded(&self, digest: Digest) -> Result<u64, ApiError> {
        self.depot.size(digest).await?.ok_or_else(|| ApiError::Precondition {
            reason: "BLOB_MISSING",
            message: format!("the artifact store does not have {digest}; upload it first"),
        })
    }

    /// The blobs of an uploaded model, each of the size that the manifest says.
    async fn model(&self, digest: Digest) -> Result<Vec<Blob>, ApiError> {
        self.uploaded(digest).await?;
        let manifest = self.depot.read(digest, MAX_MODEL_MANIFEST_BYTES).await?;
        let manifest = manifest.ok_or_else(|| ApiError::invalid("digest", "is too large for a model's manifest"))?;
        let blobs = model_blobs(&manifest).map_err(|e| ApiError::invalid("digest", e.to_string()))?;
        for blob in &blobs {
            let size = self.uploaded(blob.digest).await?;
            if size != blob.bytes {
                let problem = format!("{} has {size} bytes, the manifest says {}", blob.digest, blob.bytes);
                return Err(ApiError::invalid("digest", problem));
            }
        }
        Ok(blobs)
    }

    /// Everything that was pushed, with who needs it.
    pub async fn list_artifacts(
        &self,
        caller: &Caller,
        _: pb::ListArtifactsRequest,
    ) -> Result<pb::ListArtifactsResponse, ApiError> {
        caller.needs(Role::Viewer)?;
        Ok(pb::ListArtifactsResponse { artifacts: self.artifacts().await? })
    }

    async fn artifacts(&self) -> Result<Vec<pb::Artifact>, ApiError> {
        let needs = self.store.artifact_needs().await?;
        let mut users: std::collections::BTreeMap<String, Vec<String>> = std::collections::BTreeMap::new();
        for n in &needs {
            let name = format!("hosts/{}/instances/{}", n.host, n.instance);
            users.entry(format!("image {}", reference_key(&n.image))).or_default().push(name.clone());
            let models = n.ollama.as_ref().and_then(|o| o["models"].as_array()).into_iter().flatten();
            for digest in models.filter_map(|m| m["digest"].as_str()?.parse::<Digest>().ok()) {
                users.entry(format!("model {}", digest.hex())).or_default().push(name.clone());
            }
        }
        let artifact = |row: PushedRow| {
            let hex = Digest::try_from(&row.digest[..]).map(|d| d.hex()).unwrap_or_default();
            let key = if row.kind == "image" { format!("image {}", row.reference) } else { format!("model {hex}") };
            // Hosts get the newest image of a reference: nobody needs the older ones.
            let used = users.get(&key).filter(|_| row.kind == "model" || row.newest);
            pb::Artifact {
                name: format!("artifacts/{hex}"),
                kind: match row.kind.as_str() {
                    "image" => pb::ArtifactKind::Image.into(),
                    _ => pb::ArtifactKind::Model.into(),
                },
                reference: row.reference,
                size_bytes: row.blobs.iter().map(|b| b.bytes).sum(),
                created_at: Some(timestamp(row.created_at)),
                created_by: row.created_by,
                used_by: used.map(|u| u.iter().take(MAX_USERS).cloned().collect()).unwrap_or_default(),
                newest: row.newest,
            }
        };
        Ok(self.store.list_pushed().await?.into_iter().map(artifact).collect())
    }

    /// Deletes what was pushed under a digest, unless an instance needs it.
    pub async fn delete_artifact(
        &self,
        caller: &Caller,
        request: pb::DeleteArtifactRequest,
    ) -> Result<pb::DeleteArtifactResponse, ApiError> {
        caller.needs(Role::Operator)?;
        let hex = request.name.strip_prefix("artifacts/").filter(|h| h.len() == 64);
        let digest: Digest = hex
            .and_then(|h| h.parse().ok())
            .ok_or_else(|| ApiError::invalid("name", "is not artifacts/ and 64 hex digits"))?;
        // Holds off other changes: nobody comes to need it meanwhile.
        let mut changes = self.store.begin_changes(&caller.name, self.clock.now()).await?;
        let all = self.artifacts().await?;
        let users: Vec<&String> = all.iter().filter(|a| a.name == request.name).flat_map(|a| &a.used_by).collect();
        if let Some(first) = users.first() {
            let more = if users.len() > 1 { format!(" and {} more", users.len() - 1) } else { String::new() };
            return Err(ApiError::Precondition {
                reason: "ARTIFACT_NEEDED",
                message: format!("{first}{more} needs it; delete or change the instance first"),
            });
        }
        let blobs = changes.forget_pushed(digest).await?.ok_or_else(|| ApiError::NotFound(request.name.clone()))?;
        changes.commit().await?;
        let mut freed_bytes = 0;
        for blob in blobs {
            self.depot.remove(blob.digest).await?;
            freed_bytes += blob.bytes;
        }
        Ok(pb::DeleteArtifactResponse { freed_bytes })
    }
}

fn digest(bytes: &[u8]) -> Result<Digest, ApiError> {
    Digest::try_from(bytes).map_err(|_| ApiError::invalid("digest", "is not a SHA-256 of 32 bytes"))
}

#[cfg(test)]
mod tests;
