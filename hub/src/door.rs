//! A door: a listening port with its own TLS, limits and age, in front of a router that it knows nothing about.
//!
//! Every limit is set here, because the libraries' defaults are not fit for a port that anybody can reach. Deliberately
//! unknown: which services are behind, and who the caller is beyond its certificate.
use arc_swap::ArcSwapOption;
use axum::{
    Router,
    body::{Body, Bytes, HttpBody},
    http::{Request, Response},
};
use hyper::body::{Frame, SizeHint};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use redforge_shared::daemon::Tasks;
use rustls::ServerConfig;
use rustls_pki_types::CertificateDer;
use std::{
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

/// Limits of a door.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub max_connections: usize,
    pub connection_age: Duration,
}

/// Time for a TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// A connection without an open call ends after this long: it may have its place back by dialling again.
const IDLE: Duration = Duration::from_secs(60);
/// Streams a peer may have open on one connection.
const MAX_STREAMS: u32 = 100;
/// Bytes of all headers of a request.
const MAX_HEADER_LIST: u32 = 16 * 1024;
/// Our ping and how long its answer may take: a dead peer is noticed within 30 s.
const PING_EVERY: Duration = Duration::from_secs(20);
const PING_ANSWER: Duration = Duration::from_secs(10);
/// Open calls get this long after a connection was asked to end.
const GRACE: Duration = Duration::from_secs(30);
const GRACE_AT_STOP: Duration = Duration::from_secs(3);

/// What a handler may know of the connection a request came on.
#[derive(Clone, Debug)]
pub struct Connection {
    /// The client's certificate; its chain was verified.
    pub certificate: Option<CertificateDer<'static>>,
    pub remote: SocketAddr,
    /// Fires when the connection is about to be closed in good order.
    pub ending: CancellationToken,
}

/// One door.
pub struct Door {
    pub name: &'static str,
    pub listener: TcpListener,
    /// Asked anew for each handshake; without a value connections are closed.
    pub tls: TlsSource,
    pub router: Router,
    pub limits: Limits,
}

/// Where a door finds its TLS settings.
pub type TlsSource = Arc<dyn Fn() -> Option<Arc<ServerConfig>> + Send + Sync>;

/// A source that reads what was stored last.
pub fn tls_source<T: Send + Sync + 'static>(owner: Arc<T>, of: fn(&T) -> &ArcSwapOption<ServerConfig>) -> TlsSource {
    Arc::new(move || of(&owner).load_full())
}

impl Door {
    /// Takes connections until the stop.
    pub async fn run(self, tasks: Tasks) {
        let stop = tasks.stop_token();
        let door = Arc::new(self);
        let free = Arc::new(Semaphore::new(door.limits.max_connections));
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = door.listener.accept() => accepted,
            };
            let (tcp, remote) = match accepted {
                Ok(pair) => pair,
                Err(e) => {
                    // Out of file descriptors, mostly: the next accept may work again.
                    tracing::warn!(door = door.name, error = %e, "cannot take a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let Ok(permit) = Arc::clone(&free).try_acquire_owned() else {
                tracing::warn!(door = door.name, remote = %remote, "too many connections, one was turned away");
                continue;
            };
            let (door, stop) = (Arc::clone(&door), stop.clone());
            tasks.spawn_job(async move {
                door.serve(tcp, remote, stop).await;
                drop(permit);
            });
        }
    }

    async fn serve(&self, tcp: TcpStream, remote: SocketAddr, stop: CancellationToken) {
        let Some(config) = (self.tls)() else { return };
        let _ = tcp.set_nodelay(true);
        let tls = match tokio::time::timeout(HANDSHAKE, TlsAcceptor::from(config).accept(tcp)).await {
            Ok(Ok(tls)) => tls,
            Ok(Err(e)) => {
                tracing::debug!(door = self.name, remote = %remote, error = %e, "handshake failed");
                return;
            }
            Err(_) => return,
        };
        // Who agreed on HTTP/2 gets its first frame at once: an agent waits for it before it speaks.
        let agreed = tls.get_ref().1.alpn_protocol() == Some(b"h2");
        let certificate = tls.get_ref().1.peer_certificates().and_then(|c| c.first()).map(|c| c.clone().into_owned());
        let ending = stop.child_token();
        let connection = Connection { certificate, remote, ending: ending.clone() };
        let router = self.router.clone();
        let open_calls = Arc::new(watch::Sender::new(0_usize));
        let mut calls = open_calls.subscribe();
        let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(connection.clone());
            let call = Call::begin(&open_calls);
            let answer = router.clone().oneshot(request);
            async move { answer.await.map(|a: Response<Body>| a.map(|body| Body::new(Answer { body, _call: call }))) }
        });
        let builder = if agreed { protocol().http2_only() } else { protocol() };
        let mut running = pin!(builder.serve_connection(TokioIo::new(tls), service));
        tokio::select! {
            ended = running.as_mut() => {
                if let Err(e) = ended {
                    tracing::debug!(door = self.name, remote = %remote, error = %e, "connection broke");
                }
                return;
            }
            () = stop.cancelled() => {}
            () = tokio::time::sleep(self.age(remote)) => {}
            () = idle(&mut calls) => {}
        }
        ending.cancel();
        running.as_mut().graceful_shutdown();
        let grace = if stop.is_cancelled() { GRACE_AT_STOP } else { GRACE };
        let _ = tokio::time::timeout(grace, running).await;
    }

    /// The age at which a connection ends, spread by a tenth so that peers of one moment do not leave together.
    fn age(&self, remote: SocketAddr) -> Duration {
        let tenth = self.limits.connection_age / 10;
        self.limits.connection_age.saturating_sub(tenth * u32::from(remote.port() % 16) / 16)
    }
}

/// A call that is open: from its request until the last byte of its answer.
struct Call(Arc<watch::Sender<usize>>);

impl Call {
    fn begin(open: &Arc<watch::Sender<usize>>) -> Self {
        open.send_modify(|n| *n += 1);
        Self(Arc::clone(open))
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.0.send_modify(|n| *n -= 1);
    }
}

/// An answer that keeps its call open while it is sent.
struct Answer {
    body: Body,
    _call: Call,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }
    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Ends when no call was open for [`IDLE`].
async fn idle(calls: &mut watch::Receiver<usize>) {
    loop {
        if calls.wait_for(|n| *n == 0).await.is_err() {
            return std::future::pending().await;
        }
        if tokio::time::timeout(IDLE, calls.changed()).await.is_err() {
            return;
        }
    }
}

fn protocol() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(10))
        .max_headers(100)
        .max_buf_size(64 * 1024);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADER_LIST)
        .max_pending_accept_reset_streams(20)
        .max_local_error_reset_streams(128)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .max_send_buf_size(64 * 1024)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_ANSWER);
    builder
}
