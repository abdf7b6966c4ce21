//! What images and models are as artifacts: references that mean the same, and the blobs of a model. Pure.
//!
//! Deliberately absent: where blobs lie, and who moves them.
use crate::{desired::Blob, ids::Digest};
use serde::Deserialize;

/// Largest manifest of a model in bytes; real ones have one or two thousand.
pub const MAX_MODEL_MANIFEST_BYTES: u64 = 1 << 20;
/// Most blobs of a model, its manifest included.
pub const MAX_MODEL_BLOBS: usize = 64;
/// Longest image reference or model name in bytes.
pub const MAX_NAME_BYTES: usize = 512;
/// Most bytes of a blob that one upload message carries.
pub const UPLOAD_CHUNK_BYTES: usize = 1 << 20;

/// One spelling for references that an engine takes for the same: `redis` and `docker.io/library/redis:latest`.
pub fn reference_key(reference: &str) -> String {
    let short = ["docker.io/", "index.docker.io/", "registry-1.docker.io/"]
        .iter()
        .find_map(|hub| reference.strip_prefix(hub))
        .unwrap_or(reference);
    let short = short.strip_prefix("library/").filter(|rest| !rest.contains('/')).unwrap_or(short);
    let last = short.rsplit('/').next().unwrap_or(short);
    if last.contains(':') || short.contains('@') { short.into() } else { format!("{short}:latest") }
}

/// Why bytes are no manifest of a model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidModel {
    #[error("the manifest has {0} bytes, more than {MAX_MODEL_MANIFEST_BYTES}")]
    TooLarge(usize),
    #[error("the manifest is not understood: {0}")]
    Json(String),
    #[error("the manifest names {0} blobs, allowed are 1 to {MAX_MODEL_BLOBS}")]
    Blobs(usize),
}

/// The blobs of a model: its manifest first, then everything that the manifest names, each once.
pub fn model_blobs(manifest: &[u8]) -> Result<Vec<Blob>, InvalidModel> {
    #[derive(Deserialize)]
    struct Manifest {
        config: Layer,
        layers: Vec<Layer>,
    }
    #[derive(Deserialize)]
    struct Layer {
        digest: Digest,
        size: u64,
    }
    if manifest.len() as u64 > MAX_MODEL_MANIFEST_BYTES {
        return Err(InvalidModel::TooLarge(manifest.len()));
    }
    let read: Manifest = serde_json::from_slice(manifest).map_err(|e| InvalidModel::Json(e.to_string()))?;
    let mut blobs = vec![Blob { digest: Digest::of(manifest), bytes: manifest.len() as u64 }];
    for layer in std::iter::once(read.config).chain(read.layers) {
        if blobs.iter().all(|b| b.digest != layer.digest) {
            blobs.push(Blob { digest: layer.digest, bytes: layer.size });
        }
    }
    match blobs.len() {
        2..=MAX_MODEL_BLOBS => Ok(blobs),
        n => Err(InvalidModel::Blobs(n)),
    }
}

/// Where a model's manifest lies below the folder of models: host, namespace, model and tag, as Ollama completes a name.
pub fn manifest_path(model: &str) -> String {
    let last = model.rsplit('/').next().unwrap_or(model);
    let (name, tag) = match last.rsplit_once(':') {
        Some((_, tag)) => (&model[..model.len() - tag.len() - 1], tag),
        None => (model, "latest"),
    };
    match name.split('/').count() {
        1 => format!("manifests/registry.ollama.ai/library/{name}/{tag}"),
        2 => format!("manifests/registry.ollama.ai/{name}/{tag}"),
        _ => format!("manifests/{name}/{tag}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_that_mean_the_same_have_one_key() {
        for same in ["redis", "redis:latest", "library/redis", "docker.io/redis", "docker.io/library/redis:latest"] {
            assert_eq!(reference_key(same), "redis:latest", "{same}");
        }
        assert_eq!(reference_key("redforge.local/node-red:4.1"), "redforge.local/node-red:4.1");
        assert_eq!(reference_key("host:5000/library/redis"), "host:5000/library/redis:latest");
        assert_eq!(reference_key("library/a/b"), "library/a/b:latest");
        assert_eq!(reference_key("a@sha256:00"), "a@sha256:00");
    }

    #[test]
    fn a_models_manifest_lies_where_ollama_looks() {
        assert_eq!(manifest_path("nomic-embed-text"), "manifests/registry.ollama.ai/library/nomic-embed-text/latest");
        assert_eq!(manifest_path("llama3.2:1b"), "manifests/registry.ollama.ai/library/llama3.2/1b");
        assert_eq!(manifest_path("me/mine:v1"), "manifests/registry.ollama.ai/me/mine/v1");
        assert_eq!(manifest_path("host:5000/lib/m"), "manifests/host:5000/lib/m/latest");
    }

    #[test]
    fn a_models_blobs_are_its_manifest_and_what_that_names() {
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        let text = format!(
            r#"{{"schemaVersion":2,"config":{{"digest":"{a}","size":3}},
                "layers":[{{"digest":"{b}","size":9,"mediaType":"x"}},{{"digest":"{a}","size":3}}]}}"#
        );
        let blobs = model_blobs(text.as_bytes()).expect("a manifest");
        let all: Vec<_> = blobs.iter().map(|b| (b.digest, b.bytes)).collect();
        assert_eq!(all, [(Digest::of(text.as_bytes()), text.len() as u64), (a, 3), (b, 9)]);
    }

    #[test]
    fn what_is_no_manifest_is_refused() {
        let layer = |n: usize| format!(r#"{{"digest":"{}","size":1}}"#, Digest::of(&n.to_be_bytes()));
        let many: Vec<_> = (0..MAX_MODEL_BLOBS).map(layer).collect();
        let many = format!(r#"{{"config":{},"layers":[{}]}}"#, layer(0), many.join(","));
        assert_eq!(model_blobs(many.as_bytes()), Err(InvalidModel::Blobs(MAX_MODEL_BLOBS + 1)));
        let path = format!(r#"{{"config":{{"digest":"../../x","size":1}},"layers":[{}]}}"#, layer(1));
        let negative = format!(r#"{{"config":{},"layers":[{{"digest":"{}","size":-1}}]}}"#, layer(0), Digest::of(b""));
        for bad in ["", "[]", "{}", "{\"config\":{},\"layers\":[]}", &path, &negative] {
            assert!(matches!(model_blobs(bad.as_bytes()), Err(InvalidModel::Json(_))), "{bad}");
        }
        let large = vec![b' '; MAX_MODEL_MANIFEST_BYTES as usize + 1];
        assert!(matches!(model_blobs(&large), Err(InvalidModel::TooLarge(_))));
    }
}
