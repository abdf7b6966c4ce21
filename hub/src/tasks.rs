//! Loops beside the doors. Every one looks the same: an idempotent pass, then wait for a hint, the tick or the stop.
//!
//! No retry inside a pass: the next pass is the retry. One file per deed; hints come from `store::hints` and carry no
//! decision.
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub mod index_vectors;
pub mod keep_certificates;
pub mod keep_database;
pub mod liveness;
pub mod partitions;
pub mod prune;
pub mod publish_desired;
pub mod sweep_artifacts;
pub mod wake_sessions;

/// Waits between two passes of a loop.
#[derive(Debug)]
pub struct Pace {
    hint: watch::Receiver<u64>,
    tick: Duration,
    stop: CancellationToken,
}

impl Pace {
    /// Wakes on a hint, and at the latest after `tick`.
    pub fn new(hint: watch::Receiver<u64>, tick: Duration, stop: CancellationToken) -> Self {
        Self { hint, tick, stop }
    }

    /// To be called before each pass: a hint that comes during the pass wakes the next one.
    pub fn begin(&mut self) {
        self.hint.mark_unchanged();
    }

    /// Waits; false when it is time to stop.
    pub async fn wait(&mut self) -> bool {
        tokio::select! {
            () = self.stop.cancelled() => return false,
            () = tokio::time::sleep(self.tick) => return true,
            changed = self.hint.changed() => if changed.is_ok() {
                return true;
            }
        }
        // A closed hint channel leaves the tick, which is always enough.
        tokio::select! {
            () = self.stop.cancelled() => false,
            () = tokio::time::sleep(self.tick) => true,
        }
    }
}
