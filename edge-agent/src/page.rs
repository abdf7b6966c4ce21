//! The agent's own status as JSON, on a unix socket in the run folder and, if wanted, on a loopback port. It reads what
//! the other rooms publish and decides nothing; `redforge-edge status` turns it into sentences.
use crate::{
    identity::IdentityDir,
    link::{LinkView, OutboxNumbers, effective},
};
use http_body_util::Full;
use hyper::{Request, Response, StatusCode, body::Incoming, header, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use redforge_shared::{
    clock::SharedClock,
    daemon::Tasks,
    ids::{HostId, Name},
    report::{HostFacts, HostStatus},
};
use serde::{Deserialize, Serialize};
use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use time::OffsetDateTime;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::{Semaphore, watch},
};

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
    /// Why the loopback port is not open, while it is not.
    pub port: watch::Receiver<Option<String>>,
    pub outbox_max_bytes: u64,
    pub state_dir: PathBuf,
}

impl Page {
    fn view(&self) -> StatusView {
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
            warnings: self.port.borrow().iter().cloned().collect(),
        };
        match stage {
            Stage::Starting(why) => view.starting = Some(why),
            Stage::Working(sources) => {
                let link = sources.link.borrow().clone();
                view.facts = sources.facts.borrow().clone();
                view.status = Some(effective(&sources.status.borrow(), link.overlay.as_ref(), &view.facts));
                view.link = Some(link);
                view.outbox.clone_from(&sources.outbox.borrow());
            }
        }
        view
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Full<bytes::Bytes>> {
        let (code, body) = match (request.method().as_str(), request.uri().path()) {
            ("GET", "/status") => {
                (StatusCode::OK, serde_json::to_vec(&self.view()).expect("a view has no value that JSON cannot hold"))
            }
            _ => (StatusCode::NOT_FOUND, b"{\"error\":\"only GET /status is here\"}".to_vec()),
        };
        let mut response = Response::new(Full::new(body.into()));
        *response.status_mut() = code;
        response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
        response
    }
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
            Ok((stream, _)) => visit(&page, stream, &seats, &tasks),
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
            Ok((stream, _)) => visit(&page, stream, &seats, &tasks),
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
    seats: &Arc<Semaphore>,
    tasks: &Tasks,
) {
    let Ok(seat) = Arc::clone(seats).try_acquire_owned() else { return };
    let (page, stop) = (page.clone(), tasks.stop_token());
    tasks.spawn_job(async move {
        let service = service_fn(move |request| {
            let response = page.answer(&request);
            async move { Ok::<_, Infallible>(response) }
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
