//! A TCP proxy between an agent and its hub that cuts, blackholes, resets and delays on command.
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
}

/// The proxy; it ends with the value.
pub struct Proxy {
    pub port: u16,
    weather: watch::Sender<Weather>,
    /// Bytes that passed upward.
    pub up_bytes: Arc<AtomicU64>,
    stop: Option<oneshot::Sender<()>>,
}

impl Proxy {
    /// Listens on a free port of 127.0.0.1 and forwards to `target_port`.
    pub async fn start(target_port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let port = listener.local_addr().expect("bound").port();
        let (weather, seen) = watch::channel(Weather::Clear);
        let up_bytes = Arc::new(AtomicU64::new(0));
        let target = SocketAddr::from(([127, 0, 0, 1], target_port));
        let passed = up_bytes.clone();
        // A thread of its own: a story may wait for a command that speaks through this proxy.
        let (stop, stopped) = oneshot::channel::<()>();
        let listener = listener.into_std().expect("just bound");
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async move {
                let listener = TcpListener::from_std(listener).expect("just bound");
                let mut joined = tokio::task::JoinSet::new();
                let accepting = async {
                    while let Ok((client, _)) = listener.accept().await {
                        joined.spawn(connection(client, target, seen.clone(), passed.clone()));
                        while joined.try_join_next().is_some() {}
                    }
                };
                tokio::select! {
                    () = accepting => {}
                    _ = stopped => {}
                }
            });
        });
        Self { port, weather, up_bytes, stop: Some(stop) }
    }

    pub fn set(&self, weather: Weather) {
        self.weather.send_replace(weather);
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

async fn connection(client: TcpStream, target: SocketAddr, weather: watch::Receiver<Weather>, passed: Arc<AtomicU64>) {
    let now = *weather.borrow();
    if matches!(now, Weather::Cut | Weather::Reset) {
        return end(&client, now);
    }
    let Ok(server) = TcpStream::connect(target).await else { return };
    let mut watched = weather.clone();
    let (mut client, mut server) = (client, server);
    let ended = {
        let (mut from_client, mut to_client) = client.split();
        let (mut from_server, mut to_server) = server.split();
        tokio::select! {
            () = pump(&mut from_client, &mut to_server, weather.clone(), Some(passed)) => None,
            () = pump(&mut from_server, &mut to_client, weather.clone(), None) => None,
            now = ending(&mut watched) => Some(now),
        }
    };
    if let Some(now) = ended {
        end(&client, now);
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

async fn pump(
    from: &mut (impl AsyncReadExt + Unpin),
    to: &mut (impl AsyncWriteExt + Unpin),
    mut weather: watch::Receiver<Weather>,
    passed: Option<Arc<AtomicU64>>,
) {
    let mut piece = vec![0; 16 * 1024];
    loop {
        let Ok(n @ 1..) = from.read(&mut piece).await else { return };
        loop {
            let now = *weather.borrow_and_update();
            match now {
                Weather::Blackhole => {
                    if weather.changed().await.is_err() {
                        return;
                    }
                }
                Weather::Delay(by) => {
                    tokio::time::sleep(by).await;
                    break;
                }
                _ => break,
            }
        }
        if to.write_all(&piece[..n]).await.is_err() {
            return;
        }
        if let Some(passed) = &passed {
            passed.fetch_add(n as u64, Ordering::Relaxed);
        }
    }
}
