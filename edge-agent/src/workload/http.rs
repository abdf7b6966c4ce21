//! Plain HTTP to a container of the host: short, bounded, without TLS (it never leaves the host's own bridge).
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, Response, body::Incoming};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use serde::de::DeserializeOwned;
use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

/// How long a workload may take until its headers are there.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// Largest answer that is read.
const LIMIT: usize = 24 << 20;

/// Why a workload's API gave no usable answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    #[error("{method} {path} cannot be asked")]
    Request { method: Method, path: String, source: hyper::http::Error },
    #[error("{method} {path} got no connection or no answer")]
    Send { method: Method, path: String, source: hyper_util::client::legacy::Error },
    #[error("{method} {path} was not answered in time")]
    Slow { method: Method, path: String },
    #[error("the answer of {path} ended early or is too long")]
    Body { path: String, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("{path} answered {status}")]
    Status { path: String, status: u16 },
    #[error("the answer of {path} is not what it should be")]
    Json { path: String, source: serde_json::Error },
}

impl HttpError {
    /// Did the workload itself say that this request is wrong?
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Status { status: 400 | 413 | 422, .. })
    }
}

/// Sends one request, with JSON if there is any, and gives back the response with its body unread.
pub async fn send(
    address: IpAddr,
    port: u16,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<&serde_json::Value>,
) -> Result<Response<Incoming>, HttpError> {
    let mut headers = headers.to_vec();
    if body.is_some() {
        headers.push(("content-type", "application/json"));
    }
    let bytes = body.map(|b| Bytes::from(b.to_string())).unwrap_or_default();
    let asked = exchange(SocketAddr::new(address, port), method.clone(), path, &headers, bytes);
    let slow = || HttpError::Slow { method, path: path.to_owned() };
    tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(|_| Err(slow()))
}

/// The same with any bytes, and for as long as the caller waits.
pub async fn exchange(
    to: SocketAddr,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    bytes: Bytes,
) -> Result<Response<Incoming>, HttpError> {
    let path = path.to_owned();
    let mut request = Request::builder().method(method.clone()).uri(format!("http://{to}{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = match request.body(Full::new(bytes)) {
        Ok(request) => request,
        Err(source) => return Err(HttpError::Request { method, path, source }),
    };
    // A client per request: addresses change at every start of a container, and a pooled connection would outlive it.
    let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build_http();
    client.request(request).await.map_err(|source| HttpError::Send { method, path, source })
}

/// The whole body of a successful answer.
pub async fn read(path: &str, response: Response<Incoming>) -> Result<Bytes, HttpError> {
    let status = response.status();
    if !status.is_success() {
        return Err(HttpError::Status { path: path.into(), status: status.as_u16() });
    }
    match tokio::time::timeout(PATIENCE, Limited::new(response.into_body(), LIMIT).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(source)) => Err(HttpError::Body { path: path.into(), source }),
        Err(_) => Err(HttpError::Slow { method: Method::GET, path: path.into() }),
    }
}

/// GETs JSON.
pub async fn get_json<T: DeserializeOwned>(
    address: IpAddr,
    port: u16,
    path: &str,
    headers: &[(&str, &str)],
) -> Result<T, HttpError> {
    let response = send(address, port, Method::GET, path, headers, None).await?;
    let body = read(path, response).await?;
    serde_json::from_slice(&body).map_err(|source| HttpError::Json { path: path.into(), source })
}
