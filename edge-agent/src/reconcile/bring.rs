//! Brings images and models from where they are: on the host, at the hub, in a registry, in this order.
//!
//! What the hub holds is named by content, and then nothing else will do: a registry is asked only where the hub holds
//! nothing. The link fetches blobs into the shelf; here they are waited for, handed over and dropped.
use super::{jobs::JobError, sources::Registries};
use crate::{
    db::ledger::Ledger,
    runtime::{ImageSeen, Runtime, meter::Meter},
    workload::ollama::{self, ModelState, shelf},
};
use redforge_shared::{
    artifact::MAX_MODEL_MANIFEST_BYTES,
    desired::{Blob, ImageArtifact, Model},
    ids::Digest,
};
use std::{net::IpAddr, path::PathBuf, sync::Arc, time::Duration};
use tokio::time::Instant;

/// Fault points of deeds that are done beside the passes.
pub const DEEDS: [&str; 2] = ["load-image", "place-model"];

/// A job waits so long for blobs, then it ends without a fault: if they are still wanted the next pass begins another.
const WAIT: Duration = Duration::from_secs(20);
/// How often arriving bytes are counted.
const LOOK: Duration = Duration::from_millis(500);

/// Where the link lays blobs, and where the rest comes from.
#[derive(Clone, Debug)]
pub struct Shelf {
    pub ledger: Ledger,
    /// `blobs/sha256` of the state folder.
    pub folder: PathBuf,
    /// Where images come from that neither the host nor the hub has.
    pub registries: Arc<Registries>,
}

impl Shelf {
    fn path(&self, digest: Digest) -> PathBuf {
        self.folder.join(digest.hex())
    }

    /// Asks for blobs and waits a while until all of them are here.
    async fn arrive(&self, blobs: &[Blob], meter: &Meter) -> Result<(), JobError> {
        let mut news = self.ledger.subscribe();
        let until = Instant::now() + WAIT;
        loop {
            news.mark_unchanged();
            let mut here = true;
            for blob in blobs {
                let size = |path: PathBuf| async { tokio::fs::metadata(path).await.ok().map(|m| m.len()) };
                if size(self.path(blob.digest)).await == Some(blob.bytes) {
                    meter.part(&blob.digest.hex(), blob.bytes, blob.bytes);
                    continue;
                }
                here = false;
                self.ledger.want(blob.digest).await.map_err(JobError::Ledger)?;
                let part = size(self.folder.join(format!("{}.part", blob.digest.hex()))).await;
                meter.part(&blob.digest.hex(), part.unwrap_or(0), blob.bytes);
                if let Some(fault) = self.ledger.blob_fault(blob.digest) {
                    return Err(JobError::Blob { digest: blob.digest, fault });
                }
            }
            if here {
                return Ok(());
            }
            if Instant::now() >= until {
                return Err(JobError::Waiting);
            }
            tokio::select! {
                changed = news.changed() => if changed.is_err() { return Err(JobError::Waiting) },
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    /// What of a blob lies here.
    pub async fn bytes_of(&self, digest: Digest) -> u64 {
        let mut bytes = 0;
        for file in [self.path(digest), self.folder.join(format!("{}.part", digest.hex()))] {
            bytes += tokio::fs::metadata(file).await.map_or(0, |m| m.len());
        }
        bytes
    }

    /// A blob was taken over by the engine or a server: it need not lie here a second time.
    pub async fn drop_blob(&self, digest: Digest) -> Result<(), JobError> {
        self.ledger.unwant(digest).await.map_err(JobError::Ledger)?;
        for file in [self.path(digest), self.folder.join(format!("{}.part", digest.hex()))] {
            match tokio::fs::remove_file(file).await {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(JobError::File(e)),
                _ => {}
            }
        }
        Ok(())
    }
}

/// An image that the hub holds. False: it was on the host already, under another name.
pub async fn image(
    runtime: &dyn Runtime,
    shelf: &Shelf,
    reference: &str,
    artifact: &ImageArtifact,
    meter: &Meter,
) -> Result<(ImageSeen, bool), JobError> {
    // It may be on the host under another name.
    if let Some(found) = runtime.find_image(&artifact.image_id).await.map_err(JobError::Image)? {
        runtime.tag_image(&found.id, reference).await.map_err(JobError::Image)?;
        // It may have come out of this tar, by an agent that ended before it could say so.
        shelf.drop_blob(artifact.tar.digest).await?;
        return Ok((found, false));
    }
    shelf.arrive(&[artifact.tar], meter).await?;
    fail::fail_point!("reconcile.before.load-image");
    let loaded = runtime.load_image(&shelf.path(artifact.tar.digest), reference, meter).await;
    let image = loaded.map_err(JobError::Image)?;
    fail::fail_point!("reconcile.after.load-image");
    shelf.drop_blob(artifact.tar.digest).await?;
    Ok((image, true))
}

/// The server that a model is for.
#[derive(Clone)]
pub struct Server {
    pub runtime: Arc<dyn Runtime>,
    pub address: IpAddr,
    pub container: String,
    /// Where it keeps models.
    pub folder: String,
    pub image: ImageSeen,
}

/// A model, from wherever it is.
pub async fn model(server: &Server, shelf: &Shelf, model: &Model, meter: &Meter) -> Result<(), JobError> {
    let held = ollama::models(server.address).await.map_err(JobError::Server)?;
    let wanted = model.digest.hex();
    if let Some((other, _)) = held.iter().find(|(_, digest)| **digest == wanted) {
        let name = ollama::full_name(&model.name);
        ollama::copy(server.address, other, &name).await.map_err(JobError::Server)?;
    } else if model.blobs.is_empty() {
        ollama::pull(server.address, &model.name, meter).await.map_err(JobError::Model)?;
    } else {
        place(server, shelf, model, meter).await?;
    }
    let held = ollama::models(server.address).await.map_err(JobError::Server)?;
    match ollama::state(model, &held) {
        ModelState::Right => Ok(()),
        ModelState::Missing | ModelState::Other => Err(JobError::Digest),
    }
}

/// Layers first, the manifest last: the server finds a model whole or not at all.
async fn place(server: &Server, shelf: &Shelf, model: &Model, meter: &Meter) -> Result<(), JobError> {
    let Some((manifest, layers)) = model.blobs.split_first() else { return Ok(()) };
    let mut lacking = vec![*manifest];
    for layer in layers {
        if shelf::has_blob(server.address, layer.digest).await.map_err(JobError::Server)? {
            meter.part(&layer.digest.hex(), layer.bytes, layer.bytes);
        } else {
            lacking.push(*layer);
        }
    }
    shelf.arrive(&lacking, meter).await?;
    fail::fail_point!("reconcile.before.place-model");
    for layer in &lacking[1..] {
        let path = shelf.path(layer.digest);
        shelf::put_blob(server.address, layer.digest, &path).await.map_err(JobError::Server)?;
    }
    if manifest.bytes > MAX_MODEL_MANIFEST_BYTES {
        return Err(JobError::Digest);
    }
    let bytes = tokio::fs::read(shelf.path(manifest.digest)).await.map_err(JobError::File)?;
    let file = shelf::manifest_file(&model.name, bytes, &server.image);
    let put = server.runtime.put_below(&server.container, &server.folder, &[file]).await;
    put.map_err(JobError::Place)?;
    fail::fail_point!("reconcile.after.place-model");
    for blob in &model.blobs {
        shelf.drop_blob(blob.digest).await?;
    }
    Ok(())
}
