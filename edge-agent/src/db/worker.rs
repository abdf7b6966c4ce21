//! One thread that owns one connection and runs closures on it in order: every write of the ledger goes this way.
//!
//! A fatal error (see `gravity`) breaks the worker: the thread ends, each later call fails, and `broken` resolves so that
//! the process can end. The outbox has a thread of its own, because it groups commits.
use super::{Gravity, OpenError, checkpoint, gravity};
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// Calls that may wait for the thread before a caller has to.
const QUEUE: usize = 256;
/// Commits between two checkpoints; a ledger commit is a few pages.
const CALLS_PER_CHECKPOINT: u32 = 200;

type Job = Box<dyn FnOnce(&mut Connection) -> Option<Gravity> + Send>;

/// A handle to the thread; the last one dropped ends it.
#[derive(Clone, Debug)]
pub(super) struct Worker {
    jobs: mpsc::Sender<Job>,
    broken: CancellationToken,
}

/// Why a call failed.
#[derive(Debug)]
pub(super) enum CallError {
    Sql(rusqlite::Error),
    /// The thread has ended.
    Stopped,
}

impl Worker {
    /// Starts the thread `name`, which opens the connection and makes a first value of it.
    pub(super) async fn start<T: Send + 'static>(
        name: &str,
        open: impl FnOnce() -> Result<(Connection, T), OpenError> + Send + 'static,
    ) -> Result<(Self, T), OpenError> {
        let (jobs, queue) = mpsc::channel(QUEUE);
        let (opened, opening) = oneshot::channel();
        let broken = CancellationToken::new();
        let guard = broken.clone();
        std::thread::Builder::new()
            .name(name.into())
            .spawn(move || match open() {
                Ok((conn, first)) => {
                    if opened.send(Ok(first)).is_ok() {
                        serve(conn, queue, &guard);
                    }
                }
                Err(e) => drop(opened.send(Err(e))),
            })
            .map_err(OpenError::Thread)?;
        let first = opening.await.map_err(|_| OpenError::Gone)??;
        Ok((Self { jobs, broken }, first))
    }

    /// Runs `f` on the thread. If it commits, the commit is durable when this resolves.
    pub(super) async fn call<T: Send + 'static>(
        &self,
        f: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, CallError> {
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |conn| {
            let result = f(conn);
            let grave = result.as_ref().err().map(gravity);
            drop(reply.send(result));
            grave
        });
        self.jobs.send(job).await.map_err(|_| CallError::Stopped)?;
        answer.await.map_err(|_| CallError::Stopped)?.map_err(CallError::Sql)
    }

    /// Resolves when the file can no longer be trusted: the process must end.
    pub(super) async fn broken(&self) {
        self.broken.cancelled().await;
    }
}

fn serve(mut conn: Connection, mut queue: mpsc::Receiver<Job>, broken: &CancellationToken) {
    let mut calls = 0;
    while let Some(job) = queue.blocking_recv() {
        if job(&mut conn) == Some(Gravity::Fatal) {
            broken.cancel();
            return;
        }
        calls += 1;
        if calls < CALLS_PER_CHECKPOINT {
            continue;
        }
        calls = 0;
        if let Err(e) = checkpoint(&conn)
            && gravity(&e) == Gravity::Fatal
        {
            tracing::error!(error = %e, "a checkpoint failed, the file can no longer be trusted");
            broken.cancel();
            return;
        }
    }
    // A clean end leaves no log behind; a failure here costs nothing, the log is read at the next start.
    drop(checkpoint(&conn));
}
