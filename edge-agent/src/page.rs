//! The agent's own status, on a unix socket in the run folder and, if wanted, as a read-only page on a loopback port. It
//! reads what the other rooms publish and decides nothing; `redforge-edge status` turns it into sentences.
//!
//! On the socket, whose other end the kernel names, it also takes what a person asks of the site's own hand (`site`); on
//! the port nothing can be asked but to look.
use crate::{
    db::ledger::Ledger,
    identity::IdentityDir,
    link::{LinkView, OutboxNumbers, effective},
    site::{self, Asked, Asking, Refusal},
};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Request, Response, StatusCode, body::Incoming, header, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use redforge_shared::{
    clock::SharedClock,
    daemon::Tasks,
    error::Chain,
    ids::{HostId, Name},
    report::{Hold, HostFacts, HostStatus},
};
use serde::{Deserialize, Serialize};
use std::{
    convert::Infallible, io, net::SocketAddr, os::unix::fs::PermissionsExt, path::Path, sync::Arc, time::Duration,
};
use time::OffsetDateTime;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::{Semaphore, watch},
};

pub mod ask;
mod html;

/// Longest question, and how long it may take to arrive.
const MAX_QUESTION_BYTES: usize = 64 << 10;
const QUESTION_TIMEOUT: Duration = Duration::from_secs(5);
/// Visitors at the same time.
const MAX_VISITORS: usize = 16;
/// How often a taken port is tried again.
const BIND_AGAIN: Duration = Duration::from_secs(5);

/// Everything `status` can say.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StatusView {
    /// When this was put together, by the agent's clock.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    pub agent_version: String,
    /// Does the agent run? If not, this is what its files say.
    pub running: bool,
    /// Why the agent is not at work yet, while it starts.
    pub starting: Option<String>,
    /// None: not enrolled.
    pub host: Option<HostView>,
    pub link: Option<LinkView>,
    pub status: Option<HostStatus>,
    pub outbox: Vec<OutboxNumbers>,
    /// Bytes that the outbox may hold.
    pub outbox_max_bytes: u64,
    pub facts: HostFacts,
    /// What does not work and stops nothing, such as a port that is taken.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// What is held at the site, the whole host first.
    #[serde(default)]
    pub holds: Vec<HoldView>,
    /// Instances of which the last lines of what failed are kept.
    #[serde(default)]
    pub failed: Vec<FailedView>,
}

/// What an instance printed last when it failed is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FailedView {
    pub instance: Name,
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
}

impl FailedView {
    /// Everything that is kept.
    pub async fn read(ledger: &Ledger) -> Vec<Self> {
        let kept = ledger.failed_at().await.unwrap_or_default();
        kept.into_iter().map(|(instance, at)| Self { instance, at }).collect()
    }
}

/// What is held at the site.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HoldView {
    /// None: the whole host.
    pub instance: Option<Name>,
    pub hold: Hold,
}

impl HoldView {
    /// Every hold that counts now.
    pub async fn read(ledger: &Ledger, now: OffsetDateTime) -> Vec<Self> {
        let Ok(site) = ledger.site(now).await else { return Vec::new() };
        let host = site.host.into_iter().map(|hold| Self { instance: None, hold });
        host.chain(site.holds.into_iter().map(|(name, hold)| Self { instance: Some(name), hold })).collect()
    }
}

/// Who the host is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HostView {
    pub id: HostId,
    pub name: Name,
    pub site: Name,
    pub hub: String,
    #[serde(with = "time::serde::rfc3339::option")]
    pub certificate_not_after: Option<OffsetDateTime>,
}

impl HostView {
    /// The enrolled host of this identity folder.
    pub fn read(identity: &IdentityDir) -> Option<Self> {
        let enrolled = identity.enrolled().ok().flatten()?;
        Some(Self {
            id: enrolled.host_id,
            certificate_not_after: enrolled.validity().map(|(_, end)| end),
            name: enrolled.name,
            site: enrolled.site,
            hub: enrolled.hub_url,
        })
    }
}

/// What the page reads from, once the agent is at work.
#[derive(Clone, Debug)]
pub struct Sources {
    pub link: watch::Receiver<LinkView>,
    pub status: watch::Receiver<HostStatus>,
    pub outbox: watch::Receiver<Vec<OutboxNumbers>>,
    pub facts: watch::Receiver<HostFacts>,
    pub ledger: Ledger,
}

/// How far the agent has come.
#[derive(Clone, Debug)]
pub enum Stage {
    /// Waits for something, said in words.
    Starting(String),
    Working(Box<Sources>),
}

/// The page.
#[derive(Clone, Debug)]
pub struct Page {
    pub clock: SharedClock,
    pub identity: IdentityDir,
    pub stage: watch::Receiver<Stage>,
    /// Why a port is not open, while it is not.
    pub troubles: Vec<watch::Receiver<Option<String>>>,
    pub outbox_max_bytes: u64,
    /// How long a hold may last at most.
    pub max_hold: Duration,
    /// And how long all of them together, without a release.
    pub max_hold_total: Duration,
}

/// Who asks: the user at the other end of the socket. On the port nobody is known.
type Visitor = Option<u32>;

impl Page {
    async fn view(&self) -> StatusView {
        let stage = self.stage.borrow().clone();
        let host = HostView::read(&self.identity);
        let mut view = StatusView {
            at: self.clock.now(),
            agent_version: env!("CARGO_PKG_VERSION").into(),
            running: true,
            starting: None,
            host,
            link: None,
            status: None,
            outbox: Vec::new(),
            outbox_max_bytes: self.outbox_max_bytes,
            facts: HostFacts::default(),
            warnings: self.troubles.iter().filter_map(|t| t.borrow().clone()).collect(),
            holds: Vec::new(),
            failed: Vec::new(),
        };
        match stage {
            Stage::Starting(why) => view.starting = Some(why),
            Stage::Working(sources) => {
                let link = sources.link.borrow().clone();
                view.facts = sources.facts.borrow().clone();
                view.status = Some(effective(&sources.status.borrow(), link.overlay.as_ref(), &view.facts));
                view.link = Some(link);
                view.outbox.clone_from(&sources.outbox.borrow());
                view.holds = HoldView::read(&sources.ledger, view.at).await;
                view.failed = FailedView::read(&sources.ledger).await;
            }
        }
        view
    }

    async fn answer(&self, request: Request<Incoming>, visitor: Visitor) -> Response<Full<Bytes>> {
        if visitor.is_none() && !is_local(&request) {
            return problem(
                StatusCode::MISDIRECTED_REQUEST,
                "this page answers to loopback addresses and localhost only",
            );
        }
        match (request.method().as_str(), request.uri().path(), visitor) {
            ("GET", "/status", _) => json(StatusCode::OK, &self.view().await),
            ("GET", "/", _) => html::response(&self.view().await),
            ("POST", "/site", Some(uid)) => self.take(request, uid).await,
            _ => problem(StatusCode::NOT_FOUND, "GET / is the page, GET /status the same as JSON"),
        }
    }

    /// What a person at the machine asks.
    async fn take(&self, request: Request<Incoming>, uid: u32) -> Response<Full<Bytes>> {
        let Stage::Working(sources) = self.stage.borrow().clone() else {
            return problem(StatusCode::SERVICE_UNAVAILABLE, "the agent starts");
        };
        let reading = Limited::new(request.into_body(), MAX_QUESTION_BYTES).collect();
        let Ok(Ok(body)) = tokio::time::timeout(QUESTION_TIMEOUT, reading).await else {
            return problem(StatusCode::BAD_REQUEST, "the question did not arrive, or is too long");
        };
        let asked: Asked = match serde_json::from_slice(&body.to_bytes()) {
            Ok(asked) => asked,
            Err(e) => return problem(StatusCode::BAD_REQUEST, &format!("the question is not understood: {e}")),
        };
        let by = site::who(uid, asked.sudo_user.as_deref());
        let asking = Asking { by, now: self.clock.now(), max_hold: self.max_hold, max_total: self.max_hold_total };
        match site::take(&sources.ledger, &asking, &asked.deed).await {
            Ok(done) => json(StatusCode::OK, &done),
            Err(e @ Refusal::Ledger(_)) => problem(StatusCode::INTERNAL_SERVER_ERROR, &Chain(&e).to_string()),
            Err(e) => problem(StatusCode::UNPROCESSABLE_ENTITY, &e.to_string()),
        }
    }
}

/// A page of the net that has made its name mean this machine must not read ours: only names of this machine are answered.
fn is_local(request: &Request<Incoming>) -> bool {
    let host = request.headers().get(header::HOST).and_then(|h| h.to_str().ok()).unwrap_or_default();
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost" || bare.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn json(code: StatusCode, value: &impl Serialize) -> Response<Full<Bytes>> {
    let body = serde_json::to_vec(value).expect("a view has no value that JSON cannot hold");
    response(code, "application/json", body)
}

fn problem(code: StatusCode, text: &str) -> Response<Full<Bytes>> {
    json(code, &serde_json::json!({ "error": text }))
}

fn response(code: StatusCode, kind: &'static str, body: Vec<u8>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = code;
    for (name, value) in [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CONTENT_SECURITY_POLICY, html::POLICY),
    ] {
        response.headers_mut().insert(name, header::HeaderValue::from_static(value));
    }
    response
}

/// Binds the unix socket; a socket that a dead agent left is replaced (the state folder's lock says it is dead).
pub fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}

/// Serves the page on the unix socket.
pub async fn serve_unix(page: Page, listener: UnixListener, tasks: Tasks) {
    let (stop, seats) = (tasks.stop_token(), Arc::new(Semaphore::new(MAX_VISITORS)));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        match accepted {
            Ok((stream, _)) => {
                // A peer that has gone already is nobody.
                let visitor = stream.peer_cred().ok().map(|p| p.uid());
                visit(&page, stream, visitor, &seats, &tasks);
            }
            Err(e) => pause(&e).await,
        }
    }
}

/// Serves the page on a loopback port. One that is taken is tried again: the page is a convenience, and the agent works
/// without it.
pub async fn serve_port(page: Page, addr: SocketAddr, trouble: watch::Sender<Option<String>>, tasks: Tasks) {
    let stop = tasks.stop_token();
    let listener = loop {
        let why = match TcpListener::bind(addr).await {
            Ok(listener) => break listener,
            Err(e) => format!("the status page is not on {addr}: {e}; another agent or program has it? (page.listen)"),
        };
        let news = trouble.send_if_modified(|t| t.replace(why.clone()).as_ref() != Some(&why));
        if news {
            tracing::warn!(reason = why, "status page");
        }
        tokio::select! {
            () = tokio::time::sleep(BIND_AGAIN) => {}
            () = stop.cancelled() => return,
        }
    };
    trouble.send_replace(None);
    let seats = Arc::new(Semaphore::new(MAX_VISITORS));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        match accepted {
            Ok((stream, _)) => visit(&page, stream, None, &seats, &tasks),
            Err(e) => pause(&e).await,
        }
    }
}

async fn pause(error: &io::Error) {
    // Out of file descriptors, most likely: the next accept would fail at once.
    tracing::warn!(%error, "status page: a visitor was not let in");
    tokio::time::sleep(Duration::from_millis(200)).await;
}

fn visit(
    page: &Page,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    visitor: Visitor,
    seats: &Arc<Semaphore>,
    tasks: &Tasks,
) {
    let Ok(seat) = Arc::clone(seats).try_acquire_owned() else { return };
    let (page, stop) = (page.clone(), tasks.stop_token());
    tasks.spawn_job(async move {
        let service = service_fn(move |request| {
            let page = page.clone();
            async move { Ok::<_, Infallible>(page.answer(request, visitor).await) }
        });
        let mut http = hyper::server::conn::http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(Duration::from_secs(5))
            .max_buf_size(16 << 10)
            .keep_alive(false);
        tokio::select! {
            // A visitor that breaks off is no event.
            ended = http.serve_connection(TokioIo::new(stream), service) => drop(ended),
            () = stop.cancelled() => {}
        }
        drop(seat);
    });
}
