//! A hub for the link's tests: real TLS, real HTTP/2, and answers that the test decides. It shares no code with the hub.
use redforge_shared::{
    ids::Digest,
    tls::{CaPin, HUB_NAME, pin_of},
    wire::{pb, timestamp},
};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};
use time::OffsetDateTime;
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::{Stream, StreamExt, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming};

/// Longest wait for something that must happen.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);
const BEGIN: OffsetDateTime = time::macros::datetime!(2026-11-01 00:00 UTC);

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// A session as the hub sees it.
pub(crate) struct HubSide {
    pub hello: pb::Hello,
    pub up: Streaming<pb::SessionRequest>,
    pub down: mpsc::Sender<Result<pb::SessionResponse, Status>>,
}

impl HubSide {
    pub(crate) async fn say(&self, message: pb::session_response::Message) {
        self.down.send(Ok(pb::SessionResponse { message: Some(message) })).await.expect("the agent listens");
    }

    pub(crate) async fn welcome(&self, hub_time: OffsetDateTime) {
        let welcome = pb::Welcome {
            nonce: vec![9; 16].into(),
            protocol: 1,
            hub_time: Some(timestamp(hub_time)),
            heartbeat_interval_ms: 100,
            hub_rpo_s: 60,
        };
        self.say(pb::session_response::Message::Welcome(welcome)).await;
    }

    pub(crate) async fn heard(&mut self) -> pb::session_request::Message {
        let next = tokio::time::timeout(DEADLINE, self.up.next()).await.expect("the agent speaks in time");
        next.expect("the session is open").expect("a message").message.expect("not empty")
    }

    /// The first report for which this holds.
    pub(crate) async fn report(&mut self, wanted: impl Fn(&pb::HostReport) -> bool) -> pb::HostReport {
        loop {
            if let pb::session_request::Message::Report(report) = self.heard().await
                && wanted(&report)
            {
                return report;
            }
        }
    }
}

/// What the hub answers, and what it was asked.
#[derive(Default)]
pub(crate) struct Script {
    /// Answers to enrollments: `None` = the answer is lost after the hub did its work.
    pub lose_enrollments: u32,
    pub enrollments: Vec<pb::EnrollRequest>,
    pub renewals: Vec<pb::RenewRequest>,
    pub blob: Vec<u8>,
    /// Bytes after which each fetch breaks off; empty = none does.
    pub breaks: VecDeque<usize>,
    pub offsets: Vec<u64>,
}

pub(crate) struct FakeHub {
    pub url: String,
    pub pin: CaPin,
    pub script: Arc<Mutex<Script>>,
    pub sessions: mpsc::Receiver<HubSide>,
    /// Ends the server when the test ends.
    _tasks: tokio::task::JoinSet<()>,
}

struct Ca {
    key: rcgen::KeyPair,
    params: rcgen::CertificateParams,
    der: Vec<u8>,
}

impl Ca {
    fn new() -> Self {
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut params = rcgen::CertificateParams::new(Vec::new()).expect("params");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let der = params.self_signed(&key).expect("signed").der().to_vec();
        Self { key, params, der }
    }

    fn issuer(&self) -> rcgen::Issuer<'_, &rcgen::KeyPair> {
        rcgen::Issuer::from_params(&self.params, &self.key)
    }

    fn sign(&self, csr: &[u8], life: time::Duration) -> Vec<u8> {
        let mut csr = rcgen::CertificateSigningRequestParams::from_der(&csr.into()).expect("a CSR");
        csr.params.not_before = BEGIN;
        csr.params.not_after = BEGIN + life;
        csr.signed_by(&self.issuer()).expect("signed").der().to_vec()
    }
}

struct Doors {
    ca: Ca,
    script: Arc<Mutex<Script>>,
    sessions: mpsc::Sender<HubSide>,
}

impl FakeHub {
    pub(crate) async fn start() -> Self {
        redforge_shared::daemon::install_crypto();
        let ca = Ca::new();
        let pin = pin_of(&ca.der.as_slice().into()).expect("a pin");
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut params = rcgen::CertificateParams::new(vec![HUB_NAME.to_owned()]).expect("params");
        params.not_before = BEGIN;
        params.not_after = BEGIN + time::Duration::days(3_000);
        let leaf = params.signed_by(&key, &ca.issuer()).expect("signed").der().clone();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let chain = vec![leaf, ca.der.clone().into()];
        let tls = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key);
        let mut tls = tls.expect("a certificate and its key");
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("https://{}", listener.local_addr().expect("bound"));
        let script = Arc::new(Mutex::new(Script::default()));
        let (heard, sessions) = mpsc::channel(16);
        let doors = Arc::new(Doors { ca, script: Arc::clone(&script), sessions: heard });
        let incoming = async_accept(listener, acceptor);
        let mut tasks = tokio::task::JoinSet::new();
        let server = tonic::transport::Server::builder()
            .add_service(pb::control_server::ControlServer::from_arc(Arc::clone(&doors)))
            .add_service(pb::artifacts_server::ArtifactsServer::from_arc(Arc::clone(&doors)))
            .add_service(pb::enrollment_server::EnrollmentServer::from_arc(doors));
        tasks.spawn(async move { server.serve_with_incoming(incoming).await.expect("the fake hub serves") });
        Self { url, pin, script, sessions, _tasks: tasks }
    }

    pub(crate) async fn session(&mut self) -> HubSide {
        let next = tokio::time::timeout(DEADLINE, self.sessions.recv()).await.expect("the agent comes in time");
        next.expect("the hub runs")
    }
}

type Tls = tokio_rustls::server::TlsStream<tokio::net::TcpStream>;

fn async_accept(
    listener: TcpListener,
    acceptor: tokio_rustls::TlsAcceptor,
) -> impl Stream<Item = std::io::Result<Tls>> {
    futures_util::stream::unfold((listener, acceptor), |(listener, acceptor)| async {
        loop {
            let (tcp, _) = listener.accept().await.expect("accepts");
            // A client that turns away at the handshake is what some tests are about.
            if let Ok(stream) = acceptor.accept(tcp).await {
                return Some((Ok(stream), (listener, acceptor)));
            }
        }
    })
}

#[tonic::async_trait]
impl pb::control_server::Control for Doors {
    type SessionStream = Answers<pb::SessionResponse>;

    async fn session(
        &self,
        request: Request<Streaming<pb::SessionRequest>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let mut up = request.into_inner();
        let first = up.next().await.expect("a first message").expect("readable");
        let Some(pb::session_request::Message::Hello(hello)) = first.message else {
            return Err(Status::invalid_argument("hello must come first"));
        };
        let (down, answers) = mpsc::channel(16);
        self.sessions.send(HubSide { hello, up, down }).await.expect("the test listens");
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }
}

#[tonic::async_trait]
impl pb::enrollment_server::Enrollment for Doors {
    async fn enroll(&self, request: Request<pb::EnrollRequest>) -> Result<Response<pb::EnrollResponse>, Status> {
        let request = request.into_inner();
        let mut script = self.script.lock().expect("no panic");
        script.enrollments.push(request.clone());
        match request.token.as_str() {
            "expired" => return Err(Status::permission_denied("the token expired at 12:00")),
            "used" => return Err(Status::already_exists("the token was used by another host")),
            _ => {}
        }
        if script.lose_enrollments > 0 {
            script.lose_enrollments -= 1;
            return Err(Status::unavailable("connection lost"));
        }
        Ok(Response::new(pb::EnrollResponse {
            host_id: "018f0000-0000-7000-8000-000000000001".into(),
            name: "edge-1".into(),
            site: "plant".into(),
            certificate: self.ca.sign(&request.csr, time::Duration::days(7)).into(),
            chain: vec![],
            roots: vec![self.ca.der.clone().into()],
            hub_time: Some(timestamp(BEGIN)),
        }))
    }

    async fn renew(&self, request: Request<pb::RenewRequest>) -> Result<Response<pb::RenewResponse>, Status> {
        let request = request.into_inner();
        self.script.lock().expect("no panic").renewals.push(request.clone());
        Ok(Response::new(pb::RenewResponse {
            certificate: self.ca.sign(&request.csr, time::Duration::days(700)).into(),
            chain: vec![],
            roots: vec![self.ca.der.clone().into()],
            hub_time: Some(timestamp(BEGIN)),
        }))
    }
}

#[tonic::async_trait]
impl pb::artifacts_server::Artifacts for Doors {
    type FetchStream = Answers<pb::FetchResponse>;

    async fn fetch(&self, request: Request<pb::FetchRequest>) -> Result<Response<Self::FetchStream>, Status> {
        let request = request.into_inner();
        let mut script = self.script.lock().expect("no panic");
        script.offsets.push(request.offset);
        if Digest::of(&script.blob).0[..] != request.digest[..] && !script.breaks.is_empty() {
            return Err(Status::not_found("no such blob"));
        }
        let blob = script.blob.clone();
        let begin = (request.offset as usize).min(blob.len());
        let broken = script.breaks.pop_front();
        let end = broken.map_or(blob.len(), |n| (begin + n).min(blob.len()));
        let total_bytes = blob.len() as u64;
        let mut answers: Vec<Result<pb::FetchResponse, Status>> = Vec::new();
        for (i, chunk) in blob[begin..end].chunks(1_000).enumerate() {
            let offset = (begin + i * 1_000) as u64;
            answers.push(Ok(pb::FetchResponse { total_bytes, offset, data: chunk.to_vec().into() }));
        }
        if broken.is_some() {
            answers.push(Err(Status::unavailable("cut")));
        }
        Ok(Response::new(Box::pin(tokio_stream::iter(answers))))
    }
}
