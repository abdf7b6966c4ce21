//! Puts a model into a server out of its blobs: blobs over the server's own API, which checks them; the manifest as a file,
//! because every manifest that the API makes has another digest.
use super::{
    super::http::{self, HttpError},
    PORT,
};
use crate::runtime::{File, ImageSeen};
use futures_util::stream;
use http_body_util::StreamBody;
use hyper::{Method, body::Frame};
use redforge_shared::{artifact::manifest_path, desired::InstanceSpec, ids::Digest};
use std::{io, net::IpAddr, path::Path, time::Duration};
use tokio::io::AsyncReadExt as _;

/// A blob of gigabytes, onto a slow disk.
const PATIENCE: Duration = Duration::from_secs(3600);
/// Where Ollama's image keeps its models.
const FOLDER: &str = "/root/.ollama/models";

/// Where the server of this instance keeps its models.
pub fn folder(spec: &InstanceSpec) -> &str {
    spec.env.get("OLLAMA_MODELS").map_or(FOLDER, String::as_str)
}

/// The manifest as a file below the folder, owned by whom the image runs as.
pub fn manifest_file(model: &str, bytes: Vec<u8>, image: &ImageSeen) -> File {
    let uid = image.user.split(':').next().and_then(|u| u.parse().ok()).unwrap_or(0);
    File { name: manifest_path(model), bytes, uid, mode: 0o644 }
}

fn path_of(digest: Digest) -> String {
    format!("/api/blobs/{digest}")
}

/// Does the server have this blob?
pub async fn has_blob(address: IpAddr, digest: Digest) -> Result<bool, HttpError> {
    let path = path_of(digest);
    let response = http::send(address, PORT, Method::HEAD, &path, &[], None).await?;
    match response.status().as_u16() {
        200 => Ok(true),
        404 => Ok(false),
        status => Err(HttpError::Status { path, status }),
    }
}

/// Hands a blob to the server.
pub async fn put_blob(address: IpAddr, digest: Digest, file: &Path) -> Result<(), HttpError> {
    let path = path_of(digest);
    let unreadable = |e: io::Error| HttpError::Body { path: path.clone(), source: Box::new(e) };
    let file = tokio::fs::File::open(file).await.map_err(unreadable)?;
    let bytes = file.metadata().await.map_err(unreadable)?.len();
    let pieces = stream::try_unfold(file, |mut file| async move {
        let mut piece = bytes::BytesMut::with_capacity(256 << 10);
        let n = file.read_buf(&mut piece).await?;
        Ok::<_, io::Error>((n > 0).then(|| (Frame::data(piece.freeze()), file)))
    });
    let response = http::send_stream(address, PORT, &path, bytes, StreamBody::new(pieces), PATIENCE).await?;
    http::read(&path, response).await.map(drop)
}
