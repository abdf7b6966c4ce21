//! Which agents this process talks to right now, and when it last heard them.
//!
//! Memory only: the truth about who speaks for a host is its row. Deliberately unknown: messages, SQL, TLS.
use redforge_shared::ids::{HostId, RunId};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// All live sessions. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Sessions {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    live: HashMap<HostId, Entry>,
    seen: HashMap<HostId, OffsetDateTime>,
    next: u64,
}

#[derive(Debug)]
struct Entry {
    ticket: u64,
    superseded: CancellationToken,
    look_again: watch::Sender<u64>,
}

/// One live session; leaving the scope ends it.
#[derive(Debug)]
pub struct Live {
    sessions: Sessions,
    pub host: HostId,
    pub run_id: RunId,
    ticket: u64,
    /// Fires when another session of the same host began.
    pub superseded: CancellationToken,
    /// Changes when the host's desired state may have changed.
    pub look_again: watch::Receiver<u64>,
}

impl Sessions {
    /// Begins a session; a live one of the same host is superseded.
    pub fn begin(&self, host: HostId, run_id: RunId) -> Live {
        let superseded = CancellationToken::new();
        let (look_again, rx) = watch::channel(0);
        let mut inner = self.inner.lock().expect("the lock is never held across a panic");
        inner.next += 1;
        let ticket = inner.next;
        let entry = Entry { ticket, superseded: superseded.clone(), look_again };
        if let Some(old) = inner.live.insert(host, entry) {
            old.superseded.cancel();
        }
        Live { sessions: self.clone(), host, run_id, ticket, superseded, look_again: rx }
    }

    /// Hosts with a live session.
    pub fn connected(&self) -> Vec<HostId> {
        self.inner.lock().expect("the lock is never held across a panic").live.keys().copied().collect()
    }

    /// Tells a host's session to look at its desired state.
    pub fn look_again(&self, host: HostId) {
        if let Some(entry) = self.inner.lock().expect("the lock is never held across a panic").live.get(&host) {
            entry.look_again.send_modify(|n| *n += 1);
        }
    }

    /// Notes that a host was heard.
    pub fn saw(&self, host: HostId, at: OffsetDateTime) {
        self.inner.lock().expect("the lock is never held across a panic").seen.insert(host, at);
    }

    /// Puts a note back that could not be written; a later one stays.
    pub fn saw_before(&self, host: HostId, at: OffsetDateTime) {
        self.inner.lock().expect("the lock is never held across a panic").seen.entry(host).or_insert(at);
    }

    /// Takes everything noted since the last time.
    pub fn take_seen(&self) -> Vec<(HostId, OffsetDateTime)> {
        self.inner.lock().expect("the lock is never held across a panic").seen.drain().collect()
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        if let Ok(mut inner) = self.sessions.inner.lock()
            && inner.live.get(&self.host).is_some_and(|e| e.ticket == self.ticket)
        {
            inner.live.remove(&self.host);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_session_supersedes_the_old_one_whose_end_does_not_remove_it() {
        let sessions = Sessions::default();
        let host: HostId = "0190f2a0-0000-7000-8000-000000000001".parse().expect("id");
        let old = sessions.begin(host, RunId([1; 16]));
        let new = sessions.begin(host, RunId([2; 16]));
        assert!(old.superseded.is_cancelled() && !new.superseded.is_cancelled());
        drop(old);
        assert_eq!(sessions.connected(), vec![host]);
        drop(new);
        assert!(sessions.connected().is_empty());
    }
}
