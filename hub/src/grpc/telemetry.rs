//! The agents' door for records: hello, then batches, each answered only after its commit.
//!
//! A batch that is being committed is never abandoned because its sender went away: a connection to the database that is
//! dropped in the middle of a COPY would be lost. Step of the flow up: `link/upload` -> here -> `store/records`.
use super::peer::Peers;
use crate::{
    door::Connection,
    store::{Store, hints::Hints},
};
use decoded::{Decoded, decode};
use futures_util::{Stream, StreamExt as _};
use ingest::{Answer, Ingest};
use redforge_shared::{
    clock::SharedClock,
    daemon::Tasks,
    ids::HostId,
    record::MAX_UNACKED_BATCHES,
    wire::pb::{self, telemetry_server, upload_request, upload_response},
};
use std::pin::Pin;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

pub mod decoded;
pub mod ingest;

/// Largest message of the stream: a full batch, its frame, and a hello with many ranges.
const MAX_MESSAGE_BYTES: usize = 2 << 20;

/// The gRPC service.
#[derive(Clone, Debug)]
pub struct Service {
    ingest: Ingest,
    peers: Peers,
    tasks: Tasks,
}

impl Service {
    /// The service as a tonic server, with its limits set.
    pub fn server(
        store: Store,
        peers: Peers,
        clock: SharedClock,
        hints: Hints,
        tasks: Tasks,
    ) -> telemetry_server::TelemetryServer<Self> {
        telemetry_server::TelemetryServer::new(Self { ingest: Ingest::new(store, clock, hints), peers, tasks })
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(16 << 20)
    }
}

type Responses = Pin<Box<dyn Stream<Item = Result<pb::UploadResponse, Status>> + Send>>;

#[tonic::async_trait]
impl telemetry_server::Telemetry for Service {
    type UploadStream = Responses;

    async fn upload(&self, request: Request<Streaming<pb::UploadRequest>>) -> Result<Response<Responses>, Status> {
        let (metadata, extensions, inbound) = request.into_parts();
        // The check must not hold the stream: it waits for the database.
        let head = Request::from_parts(metadata, extensions, ());
        let host = self.peers.check(&head).await?.id;
        // Before the connection ends in good order, what was read is committed and answered.
        let ending = head.extensions().get::<Connection>().map_or_else(CancellationToken::new, |c| c.ending.clone());
        let (answers, out) = mpsc::channel(MAX_UNACKED_BATCHES * 2);
        let (ingest, stop) = (self.ingest.clone(), self.tasks.stop_token());
        // Two jobs, so that one batch is decoded while another is committed.
        let (queue, queued) = mpsc::channel(MAX_UNACKED_BATCHES);
        self.tasks.spawn_job(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = ending.cancelled() => {}
                () = read(host, inbound, queue) => {}
            }
        });
        // What was read is committed even when the sender is gone; only reading ends with the stop.
        self.tasks.spawn_job(answer(ingest, host, queued, answers));
        Ok(Response::new(tokio_stream::wrappers::ReceiverStream::new(out).boxed()))
    }
}

/// A message as far as it can be understood without the database.
enum Read {
    Hello(pb::UploadHello),
    Batch(Decoded),
    Lost(pb::Lost),
}

type Inbound = Result<Read, Status>;

fn understand(host: HostId, request: pb::UploadRequest) -> Inbound {
    match request.message {
        Some(upload_request::Message::Hello(hello)) => Ok(Read::Hello(hello)),
        Some(upload_request::Message::Batch(batch)) => decode(host, batch).map(Read::Batch),
        Some(upload_request::Message::Lost(lost)) => Ok(Read::Lost(lost)),
        None => Err(Status::invalid_argument("the upload message is empty")),
    }
}

/// Reads at most [`MAX_UNACKED_BATCHES`] ahead: beyond that the sender feels HTTP/2's flow control.
async fn read(host: HostId, mut inbound: Streaming<pb::UploadRequest>, queue: mpsc::Sender<Inbound>) {
    loop {
        let message = match inbound.message().await {
            Ok(Some(m)) => understand(host, m),
            Ok(None) => return,
            // Too large or not understood: the sender hears it, if there still is one.
            Err(e) => {
                tracing::debug!(error = %e, "upload stream broke");
                Err(e)
            }
        };
        let last = message.is_err();
        if queue.send(message).await.is_err() || last {
            return;
        }
    }
}

async fn answer(
    ingest: Ingest,
    host: HostId,
    mut queued: mpsc::Receiver<Inbound>,
    answers: mpsc::Sender<Result<pb::UploadResponse, Status>>,
) {
    let (mut greeted, mut put_back) = (false, None);
    loop {
        let next = match put_back.take() {
            Some(message) => Some(message),
            None => queued.recv().await,
        };
        let outcome = match next {
            Some(Ok(Read::Batch(first))) => {
                let (run, other) = gather(first, &mut queued);
                put_back = other;
                handle(&ingest, host, Read::Batch(run), &mut greeted).await
            }
            Some(Ok(message)) => handle(&ingest, host, message, &mut greeted).await,
            Some(Err(status)) => Err(status),
            None => return,
        };
        let (said, ended) = match outcome {
            Ok(said) => (said.into_iter().map(|m| Ok(pb::UploadResponse { message: Some(m) })).collect(), false),
            Err(status) => (vec![Err(status)], true),
        };
        for response in said {
            if answers.send(response).await.is_err() {
                return;
            }
        }
        if ended {
            return;
        }
    }
}

/// Puts to `first` what queued up behind it while something else was committed: whoever is behind pays for fewer commits.
/// Nothing is waited for. Also given: the first message that does not belong to it.
fn gather(first: Decoded, queued: &mut mpsc::Receiver<Inbound>) -> (Decoded, Option<Inbound>) {
    let mut run = first;
    while let Ok(message) = queued.try_recv() {
        let rest = match message {
            Ok(Read::Batch(next)) => run.join(next).map(|next| Ok(Read::Batch(next))),
            other => Some(other),
        };
        if rest.is_some() {
            return (run, rest);
        }
    }
    (run, None)
}

async fn handle(ingest: &Ingest, host: HostId, message: Read, greeted: &mut bool) -> Result<Vec<Answer>, Status> {
    match message {
        Read::Hello(_) if *greeted => Err(Status::failed_precondition("a second hello")),
        Read::Hello(hello) => {
            let committed = ingest.announce(host, hello.streams).await?;
            *greeted = true;
            Ok(vec![upload_response::Message::Welcome(pb::UploadWelcome { committed })])
        }
        _ if !*greeted => Err(Status::failed_precondition("the hello must come first")),
        Read::Batch(run) => ingest.land(host, run).await,
        Read::Lost(lost) => {
            let stream =
                pb::OpenStream { stream: lost.stream, max_seq: lost.max_seq, lost: lost.ranges, opened_at: None };
            ingest.announce(host, vec![stream]).await?;
            Ok(Vec::new())
        }
    }
}
