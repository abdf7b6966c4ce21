//! Ollama: its environment, which models it holds, and fetching one.
use super::{
    Rendered,
    http::{self, HttpError},
};
use crate::runtime::meter::Meter;
use http_body_util::BodyExt;
use redforge_shared::desired::{Model, Ollama};
use std::{collections::BTreeMap, net::IpAddr, time::Duration};

pub mod shelf;

/// Where Ollama listens.
pub const PORT: u16 = 11434;
/// A pull that says nothing for so long is given up; the next one resumes it.
const PULL_SILENCE: Duration = Duration::from_secs(120);
/// A large model is read from a slow disk for minutes.
const LOAD: Duration = Duration::from_secs(600);
/// Longest line of a pull's progress.
const LINE_LIMIT: usize = 64 * 1024;

pub(super) fn render(spec: &Ollama, rendered: &mut Rendered) {
    let env = &mut rendered.container.env;
    env.insert("OLLAMA_HOST".into(), format!("0.0.0.0:{PORT}"));
    // Nothing that a flow sends may leave the host through the server.
    env.insert("OLLAMA_NO_CLOUD".into(), "1".into());
    let settings = [
        ("OLLAMA_CONTEXT_LENGTH", spec.context_length.map(|n| n.to_string())),
        ("OLLAMA_KEEP_ALIVE", spec.keep_alive.clone()),
        ("OLLAMA_NUM_PARALLEL", spec.num_parallel.map(|n| n.to_string())),
        ("OLLAMA_MAX_LOADED_MODELS", spec.max_loaded_models.map(|n| n.to_string())),
    ];
    env.extend(settings.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
    rendered.container.stop_timeout_s = 30;
}

/// `name:tag`, as `/api/tags` writes it.
pub fn full_name(model: &str) -> String {
    let last = model.rsplit('/').next().unwrap_or(model);
    if last.contains(':') { model.into() } else { format!("{model}:latest") }
}

/// How a declared model is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelState {
    Right,
    Missing,
    /// Under this name lies another content.
    Other,
}

/// Is this model among the ones that the server holds (`name:tag` to hex digest)?
pub fn state(model: &Model, held: &BTreeMap<String, String>) -> ModelState {
    match held.get(&full_name(&model.name)) {
        None => ModelState::Missing,
        Some(digest) if *digest == model.digest.hex() => ModelState::Right,
        Some(_) => ModelState::Other,
    }
}

/// What a server says that it has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OllamaSeen {
    /// Models on disk: `name:tag` to hex digest.
    pub held: BTreeMap<String, String>,
    /// What each takes on the disk, what it shares with others too.
    pub bytes: BTreeMap<String, u64>,
    /// Models in memory, in the same words.
    pub loaded: BTreeMap<String, String>,
}

/// Models that shall be in memory, are on disk as declared, and are not in memory.
pub fn not_loaded<'a>(models: &'a [Model], seen: &'a OllamaSeen) -> impl Iterator<Item = &'a Model> {
    let preloaded = models.iter().filter(|m| m.preload && state(m, &seen.held) == ModelState::Right);
    preloaded.filter(|m| state(m, &seen.loaded) != ModelState::Right)
}

/// The models that the server holds, and those that it has in memory.
pub async fn observe(address: IpAddr) -> Result<OllamaSeen, HttpError> {
    let (mut held, mut bytes) = (BTreeMap::new(), BTreeMap::new());
    for tag in tags(address, "/api/tags").await? {
        bytes.insert(tag.name.clone(), tag.size);
        held.insert(tag.name, plain(&tag.digest));
    }
    let loaded = listed(address, "/api/ps").await?;
    Ok(OllamaSeen { held, bytes, loaded })
}

/// The models that the server holds.
pub async fn models(address: IpAddr) -> Result<BTreeMap<String, String>, HttpError> {
    listed(address, "/api/tags").await
}

async fn listed(address: IpAddr, path: &str) -> Result<BTreeMap<String, String>, HttpError> {
    Ok(tags(address, path).await?.into_iter().map(|t| (t.name, plain(&t.digest))).collect())
}

#[derive(serde::Deserialize)]
struct Tag {
    name: String,
    digest: String,
    #[serde(default)]
    size: u64,
}

async fn tags(address: IpAddr, path: &str) -> Result<Vec<Tag>, HttpError> {
    #[derive(serde::Deserialize)]
    struct Tags {
        #[serde(default)]
        models: Option<Vec<Tag>>,
    }
    let tags: Tags = http::get_json(address, PORT, path, &[]).await?;
    Ok(tags.models.unwrap_or_default())
}

/// A digest in lower-case hex.
fn plain(digest: &str) -> String {
    digest.strip_prefix("sha256:").unwrap_or(digest).to_ascii_lowercase()
}

/// Loads a model into memory for ever, which may take minutes.
pub async fn load(address: IpAddr, model: &str) -> Result<(), HttpError> {
    let body = serde_json::json!({ "model": model, "keep_alive": -1, "stream": false });
    match act(address, hyper::Method::POST, "/api/generate", &body, LOAD).await {
        // A model that only embeds cannot generate nothing; it can embed nothing.
        Err(HttpError::Status { status: 400, .. }) => {
            let body = serde_json::json!({ "model": model, "keep_alive": -1, "input": "" });
            act(address, hyper::Method::POST, "/api/embed", &body, LOAD).await
        }
        done => done,
    }
}

/// Removes a model by name; one that is gone is fine.
pub async fn remove(address: IpAddr, model: &str) -> Result<(), HttpError> {
    let body = serde_json::json!({ "model": model, "name": model });
    match act(address, hyper::Method::DELETE, "/api/delete", &body, http::PATIENCE).await {
        Err(HttpError::Status { status: 404, .. }) => Ok(()),
        done => done,
    }
}

/// Gives a model that is there a second name.
pub async fn copy(address: IpAddr, from: &str, to: &str) -> Result<(), HttpError> {
    let body = serde_json::json!({ "source": from, "destination": to });
    act(address, hyper::Method::POST, "/api/copy", &body, http::PATIENCE).await
}

async fn act(
    address: IpAddr,
    method: hyper::Method,
    path: &str,
    body: &serde_json::Value,
    patience: Duration,
) -> Result<(), HttpError> {
    let response = http::send_patiently(address, PORT, method, path, body, patience).await?;
    http::read(path, response).await.map(drop)
}

/// How a pull failed.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    #[error("asking for the model")]
    Http(#[from] HttpError),
    #[error("the server could not pull it: {0}")]
    Refused(String),
    #[error("the pull stopped before it was done")]
    Cut,
}

/// Has the server fetch a model, and waits until it says so.
/// The meter is told how far it is.
pub async fn pull(address: IpAddr, model: &str, meter: &Meter) -> Result<(), PullError> {
    #[derive(Default, serde::Deserialize)]
    #[serde(default)]
    struct Progress {
        status: String,
        error: Option<String>,
        digest: Option<String>,
        total: u64,
        completed: u64,
    }
    let body = serde_json::json!({ "model": model, "name": model, "stream": true });
    let response = http::send(address, PORT, hyper::Method::POST, "/api/pull", &[], Some(&body)).await?;
    let status = response.status();
    let mut body = response.into_body();
    let (mut line, mut last) = (Vec::new(), Progress::default());
    while let Ok(Some(frame)) = tokio::time::timeout(PULL_SILENCE, body.frame()).await {
        let Ok(data) = frame.map_err(|_| PullError::Cut)?.into_data() else { continue };
        for byte in data {
            if byte == b'\n' {
                last = serde_json::from_slice::<Progress>(&line).unwrap_or_default();
                if let Some(digest) = &last.digest {
                    meter.part(digest, last.completed, last.total);
                }
                line.clear();
            } else if line.len() < LINE_LIMIT {
                line.push(byte);
            }
        }
        if last.error.is_some() {
            break;
        }
    }
    if !line.is_empty() {
        last = serde_json::from_slice(&line).unwrap_or_default();
    }
    match last.error {
        Some(error) => Err(PullError::Refused(error.chars().take(200).collect())),
        None if !status.is_success() => Err(PullError::Refused(status.to_string())),
        None if last.status == "success" => Ok(()),
        None => Err(PullError::Cut),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_right_only_with_its_declared_digest() {
        let digest = "aa".repeat(32);
        let model =
            Model { name: "m".into(), digest: digest.parse().expect("a digest"), preload: false, blobs: vec![] };
        let held = |name: &str, digest: &str| BTreeMap::from([(name.to_owned(), digest.to_owned())]);
        assert_eq!(state(&model, &held("m:latest", &digest)), ModelState::Right);
        assert_eq!(state(&model, &held("m:latest", &"bb".repeat(32))), ModelState::Other);
        assert_eq!(state(&model, &held("m:7b", &digest)), ModelState::Missing);
        assert_eq!(full_name("host:5000/lib/m"), "host:5000/lib/m:latest");
    }
}
