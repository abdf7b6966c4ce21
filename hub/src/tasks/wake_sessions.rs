//! Finds the connected hosts whose desired state moved and tells their sessions to look again.
use crate::{
    sessions::Sessions,
    store::{Store, hints::Hints},
    tasks::Pace,
};
use redforge_shared::{error::Chain, ids::HostId};
use std::{collections::HashMap, time::Duration};
use tokio_util::sync::CancellationToken;

/// A lost hint costs at most this.
const TICK: Duration = Duration::from_secs(10);

/// Runs until the stop.
pub async fn run(store: Store, hints: Hints, sessions: Sessions, stop: CancellationToken) {
    let mut known: HashMap<HostId, (u64, bool)> = HashMap::new();
    let mut pace = Pace::new(hints.subscribe(&["host_desired"]), TICK, stop);
    loop {
        pace.begin();
        match store.generations(&sessions.connected()).await {
            Ok(now) => {
                for (host, generation, paused) in &now {
                    if known.get(host) != Some(&(*generation, *paused)) {
                        sessions.look_again(*host);
                    }
                }
                known = now.into_iter().map(|(host, generation, paused)| (host, (generation, paused))).collect();
            }
            Err(e) => tracing::debug!(error = %Chain(&e), "generations not read"),
        }
        if !pace.wait().await {
            return;
        }
    }
}
