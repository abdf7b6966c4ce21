//! Loops beside the doors. Every one looks the same: an idempotent pass, then wait for a hint, the tick or the stop.
//!
//! No retry inside a pass: the next pass is the retry. One file per deed; hints come from `store::hints` and carry no
//! decision.
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub mod liveness;
pub mod partitions;
pub mod publish_desired;
pub mod wake_sessions;

/// Runs `pass` until the stop: at once, on every hint, and at the latest after `tick`.
pub async fn run_passes(
    stop: CancellationToken,
    mut hint: watch::Receiver<u64>,
    tick: Duration,
    mut pass: impl AsyncFnMut(),
) {
    loop {
        hint.mark_unchanged();
        pass().await;
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(tick) => {}
            // A closed hint channel leaves the tick, which is always enough.
            changed = hint.changed() => if changed.is_err() {
                tokio::select! { () = stop.cancelled() => return, () = tokio::time::sleep(tick) => {} }
            }
        }
    }
}
