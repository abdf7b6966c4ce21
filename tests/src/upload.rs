//! An upload written by hand: the agents' door for records, with any host's certificate and no agent behind it.
use crate::{operator::channel, wait::eventually};
use redforge_shared::wire::pb::{self, upload_request, upload_response};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

/// An open upload.
pub struct Upload {
    pub out: mpsc::Sender<pb::UploadRequest>,
    pub answers: Streaming<pb::UploadResponse>,
}

impl Upload {
    /// Opened, and nothing said yet.
    pub async fn open(port: u16, config: rustls::ClientConfig) -> Result<Self, Status> {
        let channel = eventually("the agents' door answers", async || channel(port, config.clone()).await).await;
        let (out, queue) = mpsc::channel(8);
        let queue = tokio_stream::wrappers::ReceiverStream::new(queue);
        let answers = pb::telemetry_client::TelemetryClient::new(channel).upload(queue).await?.into_inner();
        Ok(Self { out, answers })
    }

    /// Opened and greeted.
    pub async fn greeted(port: u16, config: rustls::ClientConfig) -> Self {
        let mut upload = Self::open(port, config).await.expect("is let in");
        let answer = upload.say(hello()).await.expect("is answered");
        assert!(matches!(answer, Some(upload_response::Message::Welcome(_))), "{answer:?}");
        upload
    }

    /// Says one thing and hears one answer.
    pub async fn say(&mut self, message: upload_request::Message) -> Result<Option<upload_response::Message>, Status> {
        // A stream that has ended takes nothing; its status tells why.
        drop(self.out.send(pb::UploadRequest { message: Some(message) }).await);
        Ok(self.answers.message().await?.and_then(|r| r.message))
    }
}

/// The opening words of a host that has no streams yet.
pub fn hello() -> upload_request::Message {
    upload_request::Message::Hello(pb::UploadHello { run_id: vec![1; 16].into(), streams: Vec::new() })
}
