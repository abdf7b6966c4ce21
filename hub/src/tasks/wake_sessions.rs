//! Tells the session of a host that its desired state changed. Third step of the way down.
//!
//! Only "look again": the session reads the row itself. A lost hint costs one tick.
use crate::{
    sessions::Sessions,
    store::{Store, hints::Hints},
};
use redforge_shared::{error::Chain, ids::HostId};
use std::{collections::HashMap, time::Duration};
use tokio_util::sync::CancellationToken;

/// Makes up for lost hints.
const TICK: Duration = Duration::from_secs(5);

/// Runs until the stop.
pub async fn run(store: Store, sessions: Sessions, hints: Hints, stop: CancellationToken) {
    let mut known: HashMap<HostId, (u64, bool)> = HashMap::new();
    let pass = async || {
        let connected = sessions.connected();
        match store.generations(&connected).await {
            Ok(rows) => {
                known.retain(|host, _| connected.contains(host));
                for (host, generation, paused) in rows {
                    if known.insert(host, (generation, paused)) != Some((generation, paused)) {
                        sessions.look_again(host);
                    }
                }
            }
            Err(e) if e.is_unavailable() => {}
            Err(e) => tracing::error!(error = %Chain(&e), "generations cannot be read"),
        }
    };
    super::run_passes(stop, hints.subscribe(&["host_desired"]), TICK, pass).await;
}
