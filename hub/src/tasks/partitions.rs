//! Keeps partitions of the landing tables made ahead, and raises its voice when rows had no partition or a stream row
//! has become too torn to be cheap.
use crate::store::{Store, StoreError};
use redforge_shared::{clock::SharedClock, error::Chain};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How many days ahead of today have their partition.
pub const DAYS_AHEAD: u16 = 14;

/// A stream row of so many ranges costs about 2 ms a batch; beyond it the cost grows with every range.
const MAX_RANGES: i64 = 1_000;

/// Runs until the stop.
pub async fn run(store: Store, clock: SharedClock, stop: CancellationToken) {
    loop {
        let tick = match pass(&store, &clock).await {
            Ok(()) => Duration::from_secs(900),
            Err(e) if e.is_unavailable() => Duration::from_secs(10),
            Err(e) => {
                tracing::error!(error = %Chain(&e), "partitions could not be made");
                Duration::from_secs(60)
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(tick) => {}
        }
    }
}

/// One look: idempotent.
pub async fn pass(store: &Store, clock: &SharedClock) -> Result<(), StoreError> {
    let now = clock.now();
    let moved = store.ensure_partitions(now.date(), DAYS_AHEAD).await?;
    for s in moved.into_iter().chain(store.default_rows().await?) {
        tracing::warn!(table = s.table, rows = s.rows, "rows landed in a default partition");
        let message = format!("{} rows landed in the default partition: no partition was made for their day", s.rows);
        store.warn_of_landing("LANDING_DEFAULT_PARTITION", &s.table, &message, now).await?;
    }
    for (host, class, ranges) in store.crowded_streams(MAX_RANGES).await? {
        let message = format!("a {class} stream is committed in {ranges} separate ranges: its ingest has become slow");
        store.warn_of_landing("STREAM_TORN", &format!("hosts/{host}"), &message, now).await?;
    }
    Ok(())
}
