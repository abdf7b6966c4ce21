//! Writes when hosts were last heard, in batches, and tells of links that changed.
use crate::{
    fleet::liveness,
    sessions::Sessions,
    store::{Store, StoreError, events::NewEvent, hosts::LinkRow},
};
use redforge_shared::{clock::SharedClock, error::Chain, ids::HostId, report::Link};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Runs until the stop. A pass comes a few times per heartbeat, at least every second.
pub async fn run(store: Store, sessions: Sessions, clock: SharedClock, heartbeat: Duration, stop: CancellationToken) {
    let tick = (heartbeat / 4).clamp(Duration::from_millis(100), Duration::from_secs(1));
    loop {
        if let Err(e) = pass(&store, &sessions, &clock, heartbeat).await {
            tracing::debug!(error = %Chain(&e), "links not judged");
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(tick) => {}
        }
    }
}

/// One look: idempotent.
pub async fn pass(
    store: &Store,
    sessions: &Sessions,
    clock: &SharedClock,
    heartbeat: Duration,
) -> Result<(), StoreError> {
    let seen = sessions.take_seen();
    if !seen.is_empty()
        && let Err(e) = store.write_last_seen(&seen).await
    {
        for (host, at) in seen {
            sessions.saw_before(host, at);
        }
        return Err(e);
    }
    let now = clock.now();
    for row in store.links().await? {
        let from = row.link.as_deref().and_then(Link::from_word);
        let to = liveness::link(row.last_seen_at, now, heartbeat);
        if from == Some(to) || (from.is_none() && to == Link::NeverSeen) {
            continue;
        }
        let event = told(&row, from, to, now);
        if store.change_link(HostId(row.id), from, to, &event).await? {
            tracing::info!(host.name = row.name, link = %to, "link changed");
        }
    }
    Ok(())
}

fn told(row: &LinkRow, from: Option<Link>, to: Link, at: time::OffsetDateTime) -> NewEvent {
    let (reason, warning, message) = match to {
        Link::Online => ("HOST_ONLINE", false, "the agent is connected".to_owned()),
        Link::Stale => ("HOST_STALE", true, "one heartbeat was missed".to_owned()),
        Link::Offline => ("HOST_OFFLINE", true, "three heartbeats were missed; the site works alone".to_owned()),
        Link::NeverSeen => ("HOST_UNSEEN", true, "the host has not been heard of".to_owned()),
    };
    let before = from.map_or("new", Link::as_str);
    NewEvent {
        at,
        reason,
        warning,
        resource: format!("hosts/{}", row.name),
        actor: "hub".into(),
        message: format!("{message} (was {before})"),
    }
}
