//! The session with an agent: hello, welcome, confirm; then intent goes down and reports come up.
//!
//! What to send is decided by the pure `fleet::delivery`; who speaks for the host by the store. A report that cannot be
//! stored waits, and the next one replaces it. Last step of the flow down, first of the reports' way up.
use super::{
    peer::{PeerHost, Peers, fenced},
    store_status,
};
use crate::{
    config::SessionConfig,
    door::Connection,
    sessions::Sessions,
    store::{
        Store,
        hosts::{Claimed, SessionClaim},
    },
};
use redforge_shared::{
    clock::SharedClock,
    daemon::Tasks,
    ids::RunId,
    wire::{PROTOCOL_MAX, PROTOCOL_MIN, pb, timestamp},
};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

mod conversation;
mod report;

/// An agent that opened a session says hello and echoes the nonce within this time.
const HELLO_TIME: Duration = Duration::from_secs(10);

/// The service.
#[derive(Clone, Debug)]
pub struct Service {
    store: Store,
    peers: Peers,
    sessions: Sessions,
    clock: SharedClock,
    config: SessionConfig,
    tasks: Tasks,
}

/// What the agent gets, in order.
type Down = mpsc::Sender<Result<pb::SessionResponse, Status>>;

impl Service {
    /// The service with its limits.
    pub fn server(
        store: Store,
        peers: Peers,
        sessions: Sessions,
        clock: SharedClock,
        config: SessionConfig,
        tasks: Tasks,
    ) -> pb::control_server::ControlServer<Self> {
        pb::control_server::ControlServer::new(Self { store, peers, sessions, clock, config, tasks })
            .max_decoding_message_size(1 << 20)
            .max_encoding_message_size(1 << 20)
    }

    async fn converse(
        self,
        peer: PeerHost,
        mut up: Streaming<pb::SessionRequest>,
        down: Down,
        ending: CancellationToken,
    ) {
        let begun = tokio::select! {
            begun = tokio::time::timeout(HELLO_TIME, self.begin(&peer, &mut up, &down)) => begun,
            () = ending.cancelled() => return,
        };
        let hello = match begun {
            Ok(Ok(hello)) => hello,
            Ok(Err(status)) => {
                tracing::info!(host.name = peer.name, reason = status.message(), "session refused");
                let _ = down.send(Err(status)).await;
                return;
            }
            Err(_) => {
                let _ = down.send(Err(Status::deadline_exceeded("no hello within 10 s"))).await;
                return;
            }
        };
        tracing::info!(host.id = %peer.id, host.name = peer.name, generation = hello.generation, "session begins");
        let live = self.sessions.begin(peer.id, hello.run_id);
        let conversation = conversation::Conversation::new(&self, &peer, &down, hello);
        let ended = conversation.run(live, &mut up, ending).await;
        tracing::info!(host.id = %peer.id, host.name = peer.name, "session ends");
        if let Err(status) = ended {
            let _ = down.send(Err(status)).await;
        }
    }

    /// Hello, welcome, confirm; the session counts from here on.
    async fn begin(
        &self,
        peer: &PeerHost,
        up: &mut Streaming<pb::SessionRequest>,
        down: &Down,
    ) -> Result<HelloSaid, Status> {
        let Some(pb::session_request::Message::Hello(hello)) = next(up).await? else {
            return Err(Status::invalid_argument("message: the first one must be a hello"));
        };
        let protocol = agree(hello.protocol_min, hello.protocol_max)?;
        let said = HelloSaid::try_from(&hello)?;
        let mut nonce = [0_u8; 16];
        aws_lc_rs::rand::fill(&mut nonce).map_err(|_| Status::internal("no random bytes"))?;
        let welcome = pb::Welcome {
            nonce: nonce.to_vec().into(),
            protocol,
            hub_time: Some(timestamp(self.clock.now())),
            heartbeat_interval_ms: self.config.heartbeat.as_millis() as u32,
            hub_rpo_s: self.config.hub_rpo_s,
        };
        send(down, pb::session_response::Message::Welcome(welcome)).await?;
        match next(up).await? {
            Some(pb::session_request::Message::Confirm(c)) if c.nonce[..] == nonce => {}
            _ => return Err(Status::invalid_argument("confirm.nonce: must echo the welcome")),
        }
        let claim = SessionClaim {
            host: peer.id,
            run_id: said.run_id,
            start_no: hello.start_no,
            hello_no: hello.hello_no,
            facts: hello.facts.unwrap_or_default().into(),
        };
        match self.store.claim_session(&claim, self.clock.now()).await.map_err(|e| store_status(&e))? {
            Claimed::Yes => Ok(said),
            Claimed::Older => Err(Status::aborted("a later session of this agent is open already")),
            Claimed::Clone | Claimed::Fenced => Err(fenced(&peer.name)),
            Claimed::Unknown => Err(Status::unauthenticated("this host is not known to the hub")),
        }
    }
}

/// What a hello said of the agent's own state.
#[derive(Clone, Copy, Debug)]
struct HelloSaid {
    run_id: RunId,
    hello_no: u64,
    generation: u64,
    sha256: Option<redforge_shared::ids::Digest>,
}

impl TryFrom<&pb::Hello> for HelloSaid {
    type Error = Status;
    fn try_from(h: &pb::Hello) -> Result<Self, Status> {
        let run_id =
            RunId::try_from(&h.run_id[..]).map_err(|_| Status::invalid_argument("hello.run_id: expected 16 bytes"))?;
        for (field, n) in [("start_no", h.start_no), ("hello_no", h.hello_no), ("generation", h.generation)] {
            if i64::try_from(n).is_err() {
                return Err(Status::invalid_argument(format!("hello.{field}: too large")));
            }
        }
        Ok(Self {
            run_id,
            hello_no: h.hello_no,
            generation: h.generation,
            sha256: report::digest("hello.spec_sha256", &h.spec_sha256)?,
        })
    }
}

/// The highest version both sides speak.
fn agree(min: u32, max: u32) -> Result<u32, Status> {
    let highest = max.min(PROTOCOL_MAX);
    if min > max || highest < min.max(PROTOCOL_MIN) {
        return Err(Status::failed_precondition(format!(
            "this hub speaks agent protocol {PROTOCOL_MIN} to {PROTOCOL_MAX}, the agent {min} to {max}: \
             update the {} first",
            if min > PROTOCOL_MAX { "hub" } else { "agent" }
        )));
    }
    Ok(highest)
}

async fn next(up: &mut Streaming<pb::SessionRequest>) -> Result<Option<pb::session_request::Message>, Status> {
    Ok(up.message().await?.and_then(|m| m.message))
}

async fn send(down: &Down, message: pb::session_response::Message) -> Result<(), Status> {
    let response = pb::SessionResponse { message: Some(message) };
    down.send(Ok(response)).await.map_err(|_| Status::cancelled("the agent left"))
}

#[tonic::async_trait]
impl pb::control_server::Control for Service {
    type SessionStream = ReceiverStream<Result<pb::SessionResponse, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<pb::SessionRequest>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let peer = self.peers.check(&request).await?;
        let ending = match request.extensions().get::<Connection>() {
            Some(connection) => connection.ending.clone(),
            None => self.tasks.stop_token(),
        };
        let (down, rx) = mpsc::channel(4);
        let service = self.clone();
        self.tasks.spawn_job(service.converse(peer, request.into_inner(), down, ending));
        Ok(Response::new(ReceiverStream::new(rx)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_protocol_outside_the_range_is_refused_with_both_ranges() {
        assert_eq!(agree(1, 3).expect("overlap"), 1);
        for (min, max, who) in [(2, 3, "hub"), (0, 0, "agent"), (3, 2, "hub")] {
            let e = agree(min, max).expect_err("none in common");
            assert_eq!(e.code(), tonic::Code::FailedPrecondition);
            assert!(e.message().contains("1 to 1") && e.message().contains(who), "{}", e.message());
        }
    }
}
