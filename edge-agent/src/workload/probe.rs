//! Asks from outside whether something listens or answers: one attempt, within the caller's patience.
use super::http::{self, HttpError};
use redforge_shared::desired::{Check, Probe};
use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};
use tokio::net::TcpStream;

mod mqtt;

const PATIENCE: Duration = Duration::from_secs(3);

/// Whom to ask, and what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    pub check: Check,
    pub address: IpAddr,
    /// The broker that an MQTT message goes by.
    pub broker: Option<Login>,
}

/// The agent's way into a broker.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    pub address: SocketAddr,
    pub user: String,
    pub password: String,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Login({} at {})", self.user, self.address)
    }
}

/// Does the instance do what its probe asks for, in the time that it may take?
pub async fn passes(ask: &Ask) -> bool {
    let patience = Duration::from_secs(ask.check.timeout_s.into());
    tokio::time::timeout(patience, answers(ask)).await.unwrap_or(false)
}

async fn answers(ask: &Ask) -> bool {
    let at = |port| SocketAddr::new(ask.address, port);
    match &ask.check.probe {
        Probe::Tcp { port } => TcpStream::connect(at(*port)).await.is_ok(),
        Probe::Http { port, path } => {
            let answer = http::exchange(at(*port), hyper::Method::GET, path, &[], bytes::Bytes::new()).await;
            answer.is_ok_and(|r| (200..400).contains(&r.status().as_u16()))
        }
        Probe::MqttEcho {} => match &ask.broker {
            Some(login) => mqtt::echoes(login).await,
            None => false,
        },
        Probe::FlowMqtt { topic, answer_topic, message, expect } => match &ask.broker {
            Some(login) => mqtt::answers(login, topic, answer_topic, message, expect).await,
            None => false,
        },
        Probe::FlowHttp { path, message, expect } => {
            let body = bytes::Bytes::from(message.clone());
            // What reads as JSON is meant as JSON.
            let json =
                serde_json::from_str::<serde::de::IgnoredAny>(message).is_ok() && message.starts_with(['{', '[']);
            let kind = if json { "application/json" } else { "text/plain" };
            let to = at(super::node_red::PORT);
            let said = post(to, path, kind, body).await;
            said.is_ok_and(|body| contains(&body, expect.as_bytes()))
        }
        Probe::ModelPrompt { model, prompt, embed } => prompted(at(super::ollama::PORT), model, prompt, *embed).await,
    }
}

async fn post(to: SocketAddr, path: &str, kind: &str, body: bytes::Bytes) -> Result<bytes::Bytes, HttpError> {
    let answer = http::exchange(to, hyper::Method::POST, path, &[("content-type", kind)], body).await?;
    http::read(path, answer).await
}

/// The shortest answer that shows that the model is loaded and works.
async fn prompted(to: SocketAddr, model: &str, prompt: &str, embed: bool) -> bool {
    let (path, body) = if embed {
        ("/api/embed", serde_json::json!({"model": model, "input": prompt}))
    } else {
        let options = serde_json::json!({"num_predict": 4});
        ("/api/generate", serde_json::json!({"model": model, "prompt": prompt, "stream": false, "options": options}))
    };
    let Ok(said) = post(to, path, "application/json", body.to_string().into()).await else { return false };
    let Ok(said) = serde_json::from_slice::<serde_json::Value>(&said) else { return false };
    if embed {
        let first = said.pointer("/embeddings/0").and_then(serde_json::Value::as_array);
        first.is_some_and(|v| !v.is_empty() && v.iter().all(serde_json::Value::is_number))
    } else {
        said.get("done") == Some(&true.into()) && said.get("response").is_some_and(serde_json::Value::is_string)
    }
}

fn contains(body: &[u8], text: &[u8]) -> bool {
    body.windows(text.len()).any(|w| w == text)
}

/// Does the port accept a connection?
pub async fn accepts(address: IpAddr, port: u16) -> bool {
    let connect = TcpStream::connect(SocketAddr::new(address, port));
    tokio::time::timeout(PATIENCE, connect).await.is_ok_and(|c| c.is_ok())
}
