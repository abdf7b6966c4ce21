//! Writes when hosts were last heard, in one statement for all of them, and notes every change of a link as an event.
//!
//! Whether a link is Online is computed from its age (`fleet::liveness`) whenever somebody asks; what is stored here is
//! only the last word that an event told of, so that several hubs tell each change once.
use crate::{
    fleet::liveness,
    sessions::Sessions,
    store::{Store, StoreError, events::NewEvent},
};
use redforge_shared::{clock::SharedClock, error::Chain, ids::HostId, report::Link};
use std::time::Duration;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

/// The task.
pub struct Liveness {
    pub store: Store,
    pub sessions: Sessions,
    pub clock: SharedClock,
    /// How often agents must be heard.
    pub heartbeat: Duration,
}

impl Liveness {
    /// Runs until the stop.
    pub async fn run(self, stop: CancellationToken) {
        // Twice per heartbeat, at most once a second: a link's change is told half a heartbeat late at worst.
        let tick = (self.heartbeat / 2).clamp(Duration::from_millis(200), Duration::from_secs(1));
        loop {
            match self.pass().await {
                Err(e) if !e.is_unavailable() => tracing::error!(error = %Chain(&e), "links cannot be judged"),
                _ => {}
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(tick) => {}
            }
        }
    }

    /// Writes what was heard, then judges every link.
    pub async fn pass(&self) -> Result<(), StoreError> {
        let seen = self.sessions.take_seen();
        if !seen.is_empty()
            && let Err(e) = self.store.write_last_seen(&seen).await
        {
            // Not lost: the next pass writes it.
            for (host, at) in seen {
                self.sessions.saw(host, at);
            }
            return Err(e);
        }
        let now = self.clock.now();
        for row in self.store.links().await? {
            let to = liveness::link(row.last_seen_at, now, self.heartbeat);
            let from = row.link.as_deref().and_then(Link::from_word);
            if from != Some(to) {
                self.store.change_link(HostId(row.id), from, to, &event(&row.name, to, row.last_seen_at, now)).await?;
            }
        }
        Ok(())
    }
}

fn event(name: &str, to: Link, seen: Option<OffsetDateTime>, now: OffsetDateTime) -> NewEvent {
    let age = seen.map_or(0, |at| (now - at).whole_seconds().max(0));
    let (reason, message) = match to {
        Link::Online => ("HOST_ONLINE", "the host is connected".to_owned()),
        Link::Stale => ("HOST_STALE", format!("a heartbeat was missed; last heard {age} s ago")),
        Link::Offline => ("HOST_OFFLINE", format!("three heartbeats were missed; last heard {age} s ago")),
        Link::NeverSeen => ("HOST_NEVER_SEEN", "enrolled and not heard yet".to_owned()),
    };
    NewEvent {
        at: now,
        reason,
        warning: to == Link::Offline,
        resource: format!("hosts/{name}"),
        actor: "hub".into(),
        message,
    }
}
