//! Records that instances hand in over HTTP, on the internal bridge's first address (`redforge-gateway`). Only the host's own
//! containers reach it; each has a token of its own, so that a record's instance is known and not claimed.
//!
//! An answer of 202 means committed. The listener follows the bridge: it waits for it, binds again when its address is
//! another, and what is wrong meanwhile is said on the status page. What is answered is decided in `door`.
use super::Tools;
use crate::{editor::Desk, runtime::IngestDoor};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use redforge_shared::daemon::Tasks;
use std::{
    collections::HashMap,
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};

mod door;
mod editor;
#[cfg(test)]
mod tests;

/// Connections at the same time, of all instances and of one: a greedy one leaves room for the others.
const MAX_VISITORS: usize = 256;
const MAX_VISITORS_OF_ONE: usize = 32;
/// How often an address that cannot be had is tried again.
const BIND_AGAIN: Duration = Duration::from_secs(2);
/// Longest wait for a request's head; an idle connection is closed after it too.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
const MAX_HEAD_BYTES: usize = 16 << 10;

/// What the listener works with.
pub struct Deps {
    /// Where the door is, and whose token is whose.
    pub door: watch::Receiver<Option<IngestDoor>>,
    /// None while the outbox is not open yet.
    pub tools: watch::Receiver<Option<Tools>>,
    /// Says who may use a runtime's editor.
    pub desk: Desk,
    /// Why nobody can hand in anything.
    pub trouble: watch::Sender<Option<String>>,
    pub port: u16,
}

/// Listens wherever the door is, until stopped.
pub async fn run(deps: Deps, tasks: Tasks) {
    let (stop, seats) = (tasks.stop_token(), Seats::default());
    let Deps { mut door, tools, desk, trouble, port } = deps;
    let answering = door::Door::new(door.clone(), tools, desk);
    loop {
        let addr = door.borrow_and_update().as_ref().map(|d| SocketAddr::new(d.addr, port));
        let listener = match addr {
            Some(addr) => match TcpListener::bind(addr).await {
                Ok(listener) => Some(listener),
                Err(e) => {
                    say(&trouble, &format!("the gateway is not on {addr}, so nothing is handed in over HTTP: {e}"));
                    None
                }
            },
            None => None,
        };
        if let (Some(listener), Some(addr)) = (&listener, addr) {
            trouble.send_replace(None);
            tracing::info!(%addr, "gateway: instances hand in records here");
            serve(listener, addr.ip(), &mut door, &answering, &seats, &tasks).await;
        } else {
            tokio::select! {
                changed = door.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(BIND_AGAIN), if addr.is_some() => {}
                () = stop.cancelled() => {}
            }
        }
        if stop.is_cancelled() {
            return;
        }
    }
}

fn say(trouble: &watch::Sender<Option<String>>, why: &str) {
    if trouble.send_if_modified(|t| t.replace(why.to_owned()).as_deref() != Some(why)) {
        tracing::warn!(reason = why, "gateway");
    }
}

/// Until stopped, or until the door is somewhere else.
async fn serve(
    listener: &TcpListener,
    here: IpAddr,
    door: &mut watch::Receiver<Option<IngestDoor>>,
    answering: &door::Door,
    seats: &Seats,
    tasks: &Tasks,
) {
    let stop = tasks.stop_token();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            changed = door.changed() => {
                if changed.is_err() || door.borrow_and_update().as_ref().is_none_or(|d| d.addr != here) {
                    return;
                }
                continue;
            }
            () = stop.cancelled() => return,
        };
        match accepted {
            Ok((stream, peer)) => match seats.take(peer.ip()) {
                Some(seat) => visit(stream, seat, answering.clone(), tasks),
                // Closed at once: the sender tries again.
                None => tracing::debug!(%peer, "gateway: too many connections"),
            },
            Err(e) => pause(&e).await,
        }
    }
}

async fn pause(error: &io::Error) {
    // Out of file descriptors, most likely: the next accept would fail at once.
    tracing::warn!(%error, "gateway: an instance was not let in");
    tokio::time::sleep(Duration::from_millis(200)).await;
}

fn visit(stream: TcpStream, seat: Seat, door: door::Door, tasks: &Tasks) {
    let stop = tasks.stop_token();
    tasks.spawn_job(async move {
        let service = service_fn(move |request| {
            let door = door.clone();
            async move { Ok::<_, Infallible>(door.answer(request).await) }
        });
        let mut http = hyper::server::conn::http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(MAX_HEAD_BYTES).max_headers(64);
        let connection = http.serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        tokio::select! {
            // A visitor that breaks off is no event.
            ended = &mut connection => drop(ended),
            () = stop.cancelled() => {
                // What is being committed is answered.
                connection.as_mut().graceful_shutdown();
                drop(tokio::time::timeout(Duration::from_secs(2), connection).await);
            }
        }
        drop(seat);
    });
}

/// Who is connected, by address.
#[derive(Clone, Debug, Default)]
struct Seats(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// A place that is free again when it is dropped.
#[derive(Debug)]
struct Seat(Seats, IpAddr);

impl Seats {
    fn take(&self, peer: IpAddr) -> Option<Seat> {
        let mut all = self.0.lock().expect("no panic while the lock is held");
        if all.values().sum::<usize>() >= MAX_VISITORS {
            return None;
        }
        let own = all.entry(peer).or_default();
        (*own < MAX_VISITORS_OF_ONE).then(|| {
            *own += 1;
            Seat(self.clone(), peer)
        })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut all = self.0.0.lock().expect("no panic while the lock is held");
        if let Some(n) = all.get_mut(&self.1) {
            *n -= 1;
            if *n == 0 {
                all.remove(&self.1);
            }
        }
    }
}
