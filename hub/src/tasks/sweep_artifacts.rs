//! Throws away blobs of the artifact store whose push never came to its end: nobody named them for days.
//!
//! Needs no leader: a file that another hub has removed is gone.
use crate::{
    depot::{Depot, DepotError},
    store::{Store, StoreError},
};
use redforge_shared::{clock::SharedClock, error::Chain};
use std::time::{Duration, SystemTime};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

const TICK: Duration = Duration::from_secs(3600);
/// A push that was broken off may go on for as long.
const UNNAMED_FOR: time::Duration = time::Duration::days(7);

/// Why a look was not made.
#[derive(Debug, thiserror::Error)]
enum SweepError {
    #[error("reading what was pushed")]
    Store(#[from] StoreError),
    #[error("sweeping the artifact store")]
    Depot(#[from] DepotError),
}

/// Runs until the stop.
pub async fn run(store: Store, depot: Depot, clock: SharedClock, stop: CancellationToken) {
    loop {
        match pass(&store, &depot, clock.now()).await {
            Ok(0) => {}
            Ok(blobs) => tracing::info!(blobs, "blobs that nobody named were thrown away"),
            Err(SweepError::Store(e)) if e.is_unavailable() => {}
            Err(e) => tracing::error!(error = %Chain(&e), "the artifact store was not swept"),
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(TICK) => {}
        }
    }
}

async fn pass(store: &Store, depot: &Depot, now: OffsetDateTime) -> Result<u64, SweepError> {
    let known = store.pushed_blobs().await?;
    Ok(depot.sweep(known, SystemTime::from(now - UNNAMED_FOR)).await?)
}
