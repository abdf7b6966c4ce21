//! Turns the text of a search into a vector, through an Ollama API that the operator named (`[search] embed_url`).
//!
//! The model there must be the collection's own, by digest: a vector of another model would find anything. Answers are
//! bounded and timed; plain HTTP, because the server is the operator's own neighbour. Knows no collection and no store.
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Method, Request, Uri, header};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde::Deserialize;
use std::time::Duration;

/// Longest query text in bytes.
pub const MAX_QUERY_BYTES: usize = 8 * 1024;
const MAX_ANSWER_BYTES: usize = 4 << 20;
const LIST_WITHIN: Duration = Duration::from_secs(5);
/// The first query may have to load the model.
const EMBED_WITHIN: Duration = Duration::from_secs(60);

/// Why a text could not be embedded.
#[derive(Debug, thiserror::Error)]
pub enum EmbedError {
    #[error("this hub embeds no text: set [search] embed_url, or search with a vector or a stored record")]
    NotConfigured,
    #[error("[search] embed_url: '{0}' is not an address such as http://127.0.0.1:11434")]
    Address(String),
    #[error("the embedding server could not be asked")]
    Ask(#[source] hyper_util::client::legacy::Error),
    #[error("the embedding server did not answer within {0} s")]
    Slow(u64),
    #[error("the embedding server answered {0}")]
    Status(u16),
    #[error("the embedding server's answer is not understood: {0}")]
    Answer(String),
    #[error("the embedding server has no model {0}")]
    NoModel(String),
    #[error("the embedding server's model {model} has the digest {actual}, the collection was made with {expected}")]
    OtherModel { model: String, expected: String, actual: String },
}

/// A client of one embedding server.
#[derive(Clone, Debug)]
pub struct Embed {
    base: String,
    client: Client<HttpConnector, Full<Bytes>>,
    /// True where the server is a stand-in: every answer says so.
    pub standin: bool,
}

#[derive(Deserialize)]
struct Tags {
    #[serde(default)]
    models: Vec<Tag>,
}

#[derive(Deserialize)]
struct Tag {
    name: String,
    digest: String,
}

#[derive(Deserialize)]
struct Embeddings {
    embeddings: Vec<Vec<f32>>,
}

impl Embed {
    /// A client of the server at `url`. Nothing is asked yet.
    pub fn new(url: &str, standin: bool) -> Result<Self, EmbedError> {
        let bad = || EmbedError::Address(url.chars().take(80).collect());
        let parsed: Uri = url.parse().map_err(|_| bad())?;
        if parsed.scheme_str() != Some("http") || parsed.host().is_none_or(str::is_empty) {
            return Err(bad());
        }
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(LIST_WITHIN));
        let client = Client::builder(TokioExecutor::new()).build(connector);
        Ok(Self { base: url.trim_end_matches('/').to_owned(), client, standin })
    }

    /// The vector of `text`, which already has the collection's prefix, by the model with this digest.
    pub async fn embed(&self, model: &str, digest: &str, text: &str) -> Result<Vec<f32>, EmbedError> {
        self.check_model(model, digest).await?;
        let question = serde_json::json!({ "model": model, "input": text }).to_string();
        let answer = self.ask(Method::POST, "/api/embed", question.into(), EMBED_WITHIN).await?;
        let mut answer: Embeddings = serde_json::from_slice(&answer).map_err(|e| EmbedError::Answer(e.to_string()))?;
        match answer.embeddings.pop() {
            Some(vector) if answer.embeddings.is_empty() => Ok(vector),
            _ => Err(EmbedError::Answer("expected one vector".into())),
        }
    }

    async fn check_model(&self, model: &str, digest: &str) -> Result<(), EmbedError> {
        let answer = self.ask(Method::GET, "/api/tags", Bytes::new(), LIST_WITHIN).await?;
        let tags: Tags = serde_json::from_slice(&answer).map_err(|e| EmbedError::Answer(e.to_string()))?;
        let latest = format!("{model}:latest");
        let tag = tags.models.into_iter().find(|t| t.name == model || t.name == latest);
        let tag = tag.ok_or_else(|| EmbedError::NoModel(model.to_owned()))?;
        let actual = tag.digest.strip_prefix("sha256:").unwrap_or(&tag.digest);
        if actual.eq_ignore_ascii_case(digest) {
            return Ok(());
        }
        let actual = actual.chars().take(64).collect();
        Err(EmbedError::OtherModel { model: model.to_owned(), expected: digest.to_owned(), actual })
    }

    async fn ask(&self, method: Method, path: &str, body: Bytes, within: Duration) -> Result<Bytes, EmbedError> {
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base))
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|e| EmbedError::Address(e.to_string()))?;
        let exchange = async {
            let answer = self.client.request(request).await.map_err(EmbedError::Ask)?;
            if !answer.status().is_success() {
                return Err(EmbedError::Status(answer.status().as_u16()));
            }
            let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES).collect().await;
            Ok(body.map_err(|e| EmbedError::Answer(e.to_string()))?.to_bytes())
        };
        tokio::time::timeout(within, exchange).await.map_err(|_| EmbedError::Slow(within.as_secs()))?
    }
}

#[cfg(test)]
pub(crate) mod tests;
