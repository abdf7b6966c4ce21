//! A TCP proxy between an agent and its hub, or a publisher and its broker, that misbehaves on command: it cuts, resets,
//! delays, swallows what comes back, and delivers what was sent long after its sender has gone.
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{oneshot, watch},
};

/// What happens to bytes now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weather {
    /// Everything passes.
    Clear,
    /// Connections are closed, new ones too.
    Cut,
    /// Connections are reset, new ones too.
    Reset,
    /// Connections stay open and nothing passes.
    Blackhole,
    /// Each piece is held back so long.
    Delay(Duration),
    /// What is sent passes, what comes back does not.
    Deaf,
    /// What is sent is kept back. With the next weather the sender's connection is reset; what was kept reaches the other
    /// end at [`Proxy::release`], as packets that took the long way do.
    Held,
}

/// The proxy; it ends with the value.
pub struct Proxy {
    pub port: u16,
    weather: watch::Sender<Weather>,
    released: watch::Sender<()>,
    /// Bytes that are kept back, or were.
    held: Arc<AtomicU64>,
    open: Arc<AtomicU64>,
    brought: Arc<AtomicU64>,
    stop: Option<oneshot::Sender<()>>,
}

/// What every connection of a proxy works with.
#[derive(Clone)]
struct Path {
    target: SocketAddr,
    weather: watch::Receiver<Weather>,
    released: watch::Receiver<()>,
    held: Arc<AtomicU64>,
    open: Arc<AtomicU64>,
    brought: Arc<AtomicU64>,
}

impl Proxy {
    /// Listens on a free port of 127.0.0.1 and forwards to `target_port` there.
    pub async fn start(target_port: u16) -> Self {
        Self::to(SocketAddr::from(([127, 0, 0, 1], target_port))).await
    }

    /// Listens on a free port of 127.0.0.1 and forwards to `target`.
    pub async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        Self::between(listener.into_std().expect("just bound"), target)
    }

    /// Takes what comes here, and forwards it to `target_port` of 127.0.0.1.
    pub fn on(listener: std::net::TcpListener, target_port: u16) -> Self {
        listener.set_nonblocking(true).expect("just bound");
        Self::between(listener, SocketAddr::from(([127, 0, 0, 1], target_port)))
    }

    fn between(listener: std::net::TcpListener, target: SocketAddr) -> Self {
        let port = listener.local_addr().expect("bound").port();
        let (weather, seen) = watch::channel(Weather::Clear);
        let (released, release) = watch::channel(());
        let held = Arc::new(AtomicU64::new(0));
        let open = Arc::new(AtomicU64::new(0));
        let brought = Arc::new(AtomicU64::new(0));
        let path = Path {
            target,
            weather: seen,
            released: release,
            held: held.clone(),
            open: open.clone(),
            brought: brought.clone(),
        };
        // A thread of its own: a story may wait for a command that speaks through this proxy.
        let (stop, stopped) = oneshot::channel::<()>();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async move {
                let listener = TcpListener::from_std(listener).expect("just bound");
                let mut joined = tokio::task::JoinSet::new();
                let accepting = async {
                    while let Ok((client, _)) = listener.accept().await {
                        joined.spawn(connection(client, path.clone()));
                        while joined.try_join_next().is_some() {}
                    }
                };
                tokio::select! {
                    () = accepting => {}
                    _ = stopped => {}
                }
            });
        });
        Self { port, weather, released, held, open, brought, stop: Some(stop) }
    }

    pub fn set(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }

    /// Bytes that were kept back so far.
    pub fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    /// Connections that the near end has.
    pub fn open(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }

    /// Bytes that the far end sent and that were handed on.
    pub fn brought(&self) -> u64 {
        self.brought.load(Ordering::Relaxed)
    }

    /// Lets what was kept back reach the other end.
    pub fn release(&self) {
        self.released.send_replace(());
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// What agents dial.
    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            stop.send(()).ok();
        }
    }
}

fn end(client: &TcpStream, weather: Weather) {
    if weather == Weather::Reset {
        // Closing with zero linger sends RST.
        drop(client.set_zero_linger());
    }
}

async fn connection(client: TcpStream, mut path: Path) {
    let now = *path.weather.borrow();
    if matches!(now, Weather::Cut | Weather::Reset) {
        return end(&client, now);
    }
    let Ok(server) = TcpStream::connect(path.target).await else { return };
    path.open.fetch_add(1, Ordering::Relaxed);
    // An earlier release was for others.
    path.released.mark_unchanged();
    let mut watched = path.weather.clone();
    let (mut client, mut server) = (client, server);
    let (ended, kept) = {
        let (mut from_client, mut to_client) = client.split();
        let (mut from_server, mut to_server) = server.split();
        tokio::select! {
            kept = up(&mut from_client, &mut to_server, path.weather.clone(), &path.held) => {
                (if kept.is_empty() { None } else { Some(Weather::Reset) }, kept)
            }
            () = down(&mut from_server, &mut to_client, path.weather.clone(), &path.brought) => (None, Vec::new()),
            now = ending(&mut watched) => (Some(now), Vec::new()),
        }
    };
    if let Some(now) = ended {
        end(&client, now);
    }
    drop(client);
    path.open.fetch_sub(1, Ordering::Relaxed);
    if !kept.is_empty() && path.released.changed().await.is_ok() && server.write_all(&kept).await.is_ok() {
        // The far end may answer into the void for a while.
        let answers = async { while matches!(server.read(&mut [0; 4096]).await, Ok(1..)) {} };
        drop(tokio::time::timeout(Duration::from_secs(30), answers).await);
    }
}

async fn ending(weather: &mut watch::Receiver<Weather>) -> Weather {
    loop {
        let now = *weather.borrow_and_update();
        if matches!(now, Weather::Cut | Weather::Reset) || weather.changed().await.is_err() {
            return now;
        }
    }
}

/// Passes what the near end sends; returns what it kept back when the weather that keeps is over.
async fn up(
    from: &mut (impl AsyncReadExt + Unpin),
    to: &mut (impl AsyncWriteExt + Unpin),
    mut weather: watch::Receiver<Weather>,
    held: &AtomicU64,
) -> Vec<u8> {
    let mut piece = vec![0; 16 * 1024];
    let mut kept = Vec::new();
    loop {
        let now = *weather.borrow_and_update();
        if now != Weather::Held && !kept.is_empty() {
            return kept;
        }
        let n = tokio::select! {
            n = from.read(&mut piece) => n,
            changed = weather.changed() => if changed.is_ok() { continue } else { return kept },
        };
        let Ok(n @ 1..) = n else { return kept };
        if *weather.borrow() == Weather::Held {
            kept.extend_from_slice(&piece[..n]);
            held.fetch_add(n as u64, Ordering::Relaxed);
            continue;
        }
        pass(&mut weather, |w| w == Weather::Blackhole).await;
        if to.write_all(&piece[..n]).await.is_err() {
            return kept;
        }
    }
}

/// Passes what the far end answers.
async fn down(
    from: &mut (impl AsyncReadExt + Unpin),
    to: &mut (impl AsyncWriteExt + Unpin),
    mut weather: watch::Receiver<Weather>,
    brought: &AtomicU64,
) {
    let mut piece = vec![0; 16 * 1024];
    loop {
        let Ok(n @ 1..) = from.read(&mut piece).await else { return };
        pass(&mut weather, |w| matches!(w, Weather::Blackhole | Weather::Deaf)).await;
        if to.write_all(&piece[..n]).await.is_err() {
            return;
        }
        brought.fetch_add(n as u64, Ordering::Relaxed);
    }
}

/// Returns when a piece may pass.
async fn pass(weather: &mut watch::Receiver<Weather>, stops: impl Fn(Weather) -> bool) {
    loop {
        let now = *weather.borrow_and_update();
        if !stops(now) {
            if let Weather::Delay(by) = now {
                tokio::time::sleep(by).await;
            }
            return;
        }
        if weather.changed().await.is_err() {
            return;
        }
    }
}
