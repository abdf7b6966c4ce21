//! Drops landed records at the end of their retention, a day at a time, and staged blobs whose apply never came. Decides
//! nothing but which days are over.
//!
//! Needs no leader: a day that another hub has dropped is not listed any more.
use crate::store::{Store, StoreError, prune::Dropped};
use redforge_shared::{clock::SharedClock, error::Chain, record::RecordClass};
use std::time::Duration;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

/// Days come to an end once a day; a lock that was not to be had is tried for again sooner.
const TICK: Duration = Duration::from_secs(600);

/// An apply follows its staged flow sets within moments.
const STAGED_FOR: time::Duration = time::Duration::DAY;

/// For how many days landed records are kept; a class that is not in it is kept for ever.
pub type Retention = Vec<(RecordClass, u32)>;

/// Runs until the stop.
pub async fn run(store: Store, clock: SharedClock, retention: Retention, stop: CancellationToken) {
    loop {
        let tick = match pass(&store, &retention, clock.now()).await {
            Ok(()) => TICK,
            Err(e) if e.is_unavailable() => Duration::from_secs(10),
            Err(e) => {
                tracing::error!(error = %Chain(&e), "old records could not be dropped");
                TICK
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(tick) => {}
        }
    }
}

/// One look: idempotent.
pub async fn pass(store: &Store, retention: &Retention, now: OffsetDateTime) -> Result<(), StoreError> {
    for (class, days) in retention {
        let Some(first_kept) = now.date().checked_sub(time::Duration::days(i64::from(*days))) else { continue };
        for day in store.partition_days(*class).await?.into_iter().filter(|d| *d < first_kept) {
            match store.drop_day(*class, day, now).await? {
                Dropped::Rows(rows) => {
                    tracing::info!(record.class = %class, %day, rows, "a day of records was dropped");
                }
                Dropped::Busy => tracing::debug!(record.class = %class, %day, "a day is in use and stays for now"),
                Dropped::Held(why) => {
                    let message = format!("the {class} records of {day} are past their retention and stay: {why}");
                    store.warn_of_landing("LANDING_HELD", &format!("record_{class}"), &message, now).await?;
                }
            }
        }
    }
    store.drop_merged(now - STAGED_FOR).await?;
    let staged = store.drop_staged(now - STAGED_FOR).await?;
    if staged > 0 {
        tracing::info!(blobs = staged, "staged flow sets that no apply named were dropped");
    }
    Ok(())
}

#[cfg(test)]
mod tests;
