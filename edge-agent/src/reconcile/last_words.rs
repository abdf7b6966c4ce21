//! Keeps what a container printed last when it fails: before it makes way nobody could read it any more.
//!
//! A version fails when it is taken back, when the engine or the runtime refuses it, when its time to come up is over, and
//! whenever its container ends by itself. Kept is the newest of that, bounded, in the ledger; what cannot be kept holds up no
//! change.
use super::{ReconcileError, Reconciler, View, memory::Failed, plan::Blueprint};
use crate::{
    db::ledger::{AcceptedDesired, FailedLine, FailedLog},
    runtime::{ContainerSeen, LogLine, Runtime, RuntimeError},
};
use futures_util::StreamExt as _;
use redforge_shared::{error::Chain, ids::Name, report::Reason};
use std::{collections::VecDeque, time::Duration};

/// Most lines that are kept of an instance, and most bytes of them together.
const MAX_LINES: u32 = 200;
const MAX_BYTES: usize = 64 << 10;
/// An engine that gives a log this slowly gives the rest of it to nobody.
const PATIENCE: Duration = Duration::from_secs(5);

/// How something failed.
pub struct Failure {
    pub reason: Reason,
    pub exit_code: Option<i32>,
    pub detail: Option<String>,
}

impl From<&Failed> for Failure {
    fn from(f: &Failed) -> Self {
        Self { reason: f.reason, exit_code: None, detail: f.detail.clone() }
    }
}

impl Reconciler {
    /// Keeps the last lines of this container of an instance.
    pub(super) async fn keep_last_words(
        &self,
        view: &View,
        instance: &Name,
        container: Option<&ContainerSeen>,
        failure: Failure,
    ) {
        let Some(spec) = view.chosen.state.instance(instance.as_str()) else { return };
        let lines = match container {
            None => vec![],
            Some(c) => match last_lines(&*self.deps.runtime, &c.id).await {
                Ok(lines) => lines,
                Err(e) => {
                    tracing::warn!(instance.name = %instance, error = %Chain(&e), "the log of what failed cannot be read");
                    return;
                }
            },
        };
        let Failure { reason, exit_code, detail } = failure;
        let (at, container) = (self.deps.clock.now(), container.map(|c| c.id.clone()));
        let log = FailedLog { at, reason, exit_code, detail, image: spec.image.clone(), container, lines };
        if let Err(e) = self.deps.ledger.keep_failed_log(instance, &log).await {
            tracing::warn!(instance.name = %instance, error = %Chain(&e), "the log of what failed is not kept");
        }
    }

    /// Forgets what failed of instances that are no longer desired: a later one of the same name begins anew.
    pub(super) async fn forget_logs(&mut self, accepted: &AcceptedDesired) -> Result<(), ReconcileError> {
        if self.lives.logs_of.replace(accepted.generation) != Some(accepted.generation) {
            let keep = |n: &Name| accepted.state.instance(n.as_str()).is_some();
            self.deps.ledger.forget_failed_logs(keep).await.map_err(ReconcileError::Ledger)?;
        }
        Ok(())
    }

    /// Keeps the last lines of what the engine or the runtime refused: the container of its version, if there is one.
    pub(super) async fn keep_refused(&self, view: &View, instance: &Name, failed: &Failed) {
        let wanted = view.desired.instances.iter().find(|w| w.name == *instance);
        let its = |c: &&ContainerSeen| match wanted.map(|w| &w.blueprint) {
            Some(Blueprint::Ready(shape)) => c.instance == *instance && c.hash == shape.hash,
            _ => false,
        };
        let container = view.seen.containers.iter().find(its);
        self.keep_last_words(view, instance, container, failed.into()).await;
    }
}

/// What it printed last; what came in time, where not all did.
async fn last_lines(runtime: &dyn Runtime, container: &str) -> Result<Vec<FailedLine>, RuntimeError> {
    let mut log = runtime.last_lines(container, MAX_LINES, false);
    let mut kept = Kept::default();
    let reading = async {
        while let Some(line) = log.next().await {
            kept.push(&line?);
        }
        Ok(())
    };
    match tokio::time::timeout(PATIENCE, reading).await {
        Ok(Err(e)) if kept.lines.is_empty() => Err(e),
        _ => Ok(kept.lines.into()),
    }
}

/// The newest lines that there is room for.
#[derive(Default)]
struct Kept {
    lines: VecDeque<FailedLine>,
    bytes: usize,
}

impl Kept {
    fn push(&mut self, line: &LogLine) {
        let text = String::from_utf8_lossy(&line.bytes).into_owned();
        self.bytes += text.len();
        self.lines.push_back(FailedLine { at_ns: line.at_ns, stream: line.stream.as_str().to_owned(), text });
        while self.bytes > MAX_BYTES || self.lines.len() > MAX_LINES as usize {
            self.bytes -= self.lines.pop_front().map_or(0, |l| l.text.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::LogStream;

    fn line(n: i64, bytes: impl Into<bytes::Bytes>) -> LogLine {
        LogLine { at_ns: n, stream: LogStream::Stderr, bytes: bytes.into(), partial: false }
    }

    #[test]
    fn the_newest_lines_are_kept_and_no_more_than_there_is_room_for() {
        for (bytes, most) in [(1, 200), (1_000, 65), (16 << 10, 4)] {
            let mut kept = Kept::default();
            for n in 0..1_000 {
                kept.push(&line(n, vec![b'x'; bytes]));
                assert!(
                    kept.bytes <= MAX_BYTES && kept.bytes == kept.lines.iter().map(|l| l.text.len()).sum::<usize>()
                );
            }
            assert_eq!((kept.lines.len(), kept.lines.back().map(|l| l.at_ns)), (most, Some(999)), "lines of {bytes}");
        }
    }

    #[test]
    fn what_is_no_text_takes_no_more_room_than_there_is() {
        let mut kept = Kept::default();
        // Each byte becomes a mark of three.
        kept.push(&line(1, vec![0xff; 60 << 10]));
        assert_eq!((kept.lines.len(), kept.bytes), (0, 0));
        kept.push(&line(2, &b"\xff\x00ok"[..]));
        assert_eq!(kept.lines[0].text, "\u{fffd}\0ok");
    }
}
