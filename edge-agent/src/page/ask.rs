//! One question to the running agent through its socket, and its answer. The client's side of the page.
use anyhow::Context;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use std::{path::Path, time::Duration};
use tokio::net::UnixStream;

const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_ANSWER_BYTES: usize = 8 << 20;

/// Asks; gives back the answer's status and body.
pub async fn exchange(socket: &Path, method: &str, path: &str, body: Vec<u8>) -> anyhow::Result<(u16, bytes::Bytes)> {
    let asking = async {
        let stream = UnixStream::connect(socket).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let request = hyper::Request::builder().method(method).uri(path).header("host", "agent");
        let request = request.body(Full::new(bytes::Bytes::from(body)))?;
        let exchange = async {
            let response = sender.send_request(request).await?;
            let status = response.status().as_u16();
            let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
            body.map(|b| (status, b.to_bytes())).map_err(|e| anyhow::anyhow!(e))
        };
        tokio::pin!(exchange, connection);
        loop {
            tokio::select! {
                answer = &mut exchange => return answer,
                ended = &mut connection => ended?,
            }
        }
    };
    tokio::time::timeout(ANSWER_TIMEOUT, asking).await.context("no answer in time")?
}
