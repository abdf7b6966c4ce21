//! What every long-running process needs: signals, a stop token, tracked tasks, systemd's notifications, logs.
//!
//! A task that ends before the stop token fires stops the whole process: systemd starts it again, and nothing runs on
//! with a dead room.
use std::{
    future::Future,
    io::IsTerminal,
    sync::{Arc, Mutex, Weak},
    time::{Duration, Instant},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing_subscriber::{EnvFilter, layer::SubscriberExt, util::SubscriberInitExt};

/// Exit code for a configuration that cannot be used (`EX_USAGE` of sysexits.h).
pub const EXIT_CONFIG: u8 = 64;

/// Installs the one crypto provider; must run before any TLS is set up.
pub fn install_crypto() {
    // A second call finds it installed, which is all that matters.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
}

/// How logs look. Under systemd they go to the journal with their fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text for people on a terminal, JSON otherwise.
    Auto,
    Text,
    Json,
}

/// Says what is wrong with a log filter.
pub fn check_filter(filter: &str) -> Result<(), String> {
    EnvFilter::try_new(filter).map(drop).map_err(|e| format!("'{filter}' is not a filter such as info: {e}"))
}

/// Sets up logging. `filter` is a tracing filter such as `info` or `info,redforge_hub=debug`; `journal` says that
/// standard error is connected to systemd's journal.
pub fn init_tracing(filter: &str, format: LogFormat, journal: bool) {
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let registry = tracing_subscriber::registry().with(filter);
    if journal && let Ok(layer) = tracing_journald::layer() {
        registry.with(layer).init();
        return;
    }
    let text = match format {
        LogFormat::Text => true,
        LogFormat::Json => false,
        LogFormat::Auto => std::io::stderr().is_terminal(),
    };
    if text {
        registry.with(tracing_subscriber::fmt::layer().with_writer(std::io::stderr)).init();
    } else {
        registry.with(tracing_subscriber::fmt::layer().json().with_writer(std::io::stderr)).init();
    }
}

/// The tasks of a process and the token that ends them.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
    pulses: Arc<Mutex<Vec<Watched>>>,
}

/// What a loop shows to prove that it turns; one that nobody watches proves nothing.
#[derive(Debug, Default)]
pub struct Pulse(Arc<Mutex<Option<Instant>>>);

impl Pulse {
    /// The loop has come round.
    pub fn beat(&self) {
        *self.0.lock().expect("nobody panics while holding a pulse") = Some(Instant::now());
    }
}

#[derive(Debug)]
struct Watched {
    name: &'static str,
    limit: Duration,
    last: Weak<Mutex<Option<Instant>>>,
}

impl Watched {
    /// A loop that has ended is no longer watched: its end is its task's to tell.
    fn hangs(&self) -> bool {
        let last = self.last.upgrade().and_then(|l| *l.lock().expect("nobody panics while holding a pulse"));
        last.is_some_and(|last| last.elapsed() > self.limit)
    }
}

impl Tasks {
    /// No task yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Fires when the process should end.
    pub fn stop_token(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// A pulse that counts as stopped when it has not beaten for `limit`.
    pub fn pulse(&self, name: &'static str, limit: Duration) -> Pulse {
        let pulse = Pulse::default();
        pulse.beat();
        let watched = Watched { name, limit, last: Arc::downgrade(&pulse.0) };
        self.pulses.lock().expect("nobody panics while holding the pulses").push(watched);
        pulse
    }

    /// A loop that should have come round long ago.
    pub fn hanging(&self) -> Option<&'static str> {
        let pulses = self.pulses.lock().expect("nobody panics while holding the pulses");
        pulses.iter().find(|w| w.hangs()).map(|w| w.name)
    }

    /// Runs `task` until it ends. If it ends, or panics, before the stop token fired, the process stops.
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        #[expect(clippy::disallowed_methods, reason = "this is the tracked spawn that the others must use")]
        let running = tokio::spawn(task);
        self.tracker.spawn(async move {
            let ended = running.await;
            if stop.is_cancelled() {
                return;
            }
            match ended {
                Ok(()) => tracing::error!(task.name = name, "task ended by itself, stopping the process"),
                Err(e) => tracing::error!(task.name = name, error = %e, "task died, stopping the process"),
            }
            stop.cancel();
        });
    }

    /// Runs a short-lived job that may end when it likes, such as one connection.
    pub fn spawn_job(&self, job: impl Future<Output = ()> + Send + 'static) {
        self.tracker.spawn(job);
    }

    /// Waits for SIGTERM, SIGINT or the stop token, then ends every task, for at most `grace`.
    pub async fn run_until_stopped(&self, grace: Duration) {
        tokio::select! {
            () = signalled() => {}
            () = self.stop.cancelled() => {}
        }
        notify_stopping();
        self.stop.cancel();
        self.tracker.close();
        if tokio::time::timeout(grace, self.tracker.wait()).await.is_err() {
            tracing::warn!(grace_ms = grace.as_millis() as u64, "some tasks did not end in time");
        }
    }
}

/// Resolves on SIGTERM or SIGINT.
pub async fn signalled() {
    use tokio::signal::unix::{SignalKind, signal};
    let mut term = signal(SignalKind::terminate()).expect("the process may handle SIGTERM");
    let mut int = signal(SignalKind::interrupt()).expect("the process may handle SIGINT");
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}

/// Tells systemd that the process serves; nothing happens without systemd.
pub fn notify_ready(status: &str) {
    drop(sd_notify::notify(&[sd_notify::NotifyState::Ready, sd_notify::NotifyState::Status(status)]));
}

/// Tells systemd what the process is doing.
pub fn notify_status(status: &str) {
    drop(sd_notify::notify(&[sd_notify::NotifyState::Status(status)]));
}

/// Tells systemd that the process still works.
pub fn notify_watchdog() {
    drop(sd_notify::notify(&[sd_notify::NotifyState::Watchdog]));
}

fn notify_stopping() {
    drop(sd_notify::notify(&[sd_notify::NotifyState::Stopping]));
}

/// Calls `alive` every so often while every watched loop turns, until the stop. That this runs at all shows that the
/// runtime turns.
pub async fn watch(tasks: Tasks, every: Duration, alive: impl Fn() + Send + 'static) {
    let stop = tasks.stop_token();
    let mut tick = tokio::time::interval(every);
    let mut said = None;
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = stop.cancelled() => return,
        }
        let hanging = tasks.hanging();
        match hanging {
            None => alive(),
            Some(name) if said != hanging => {
                tracing::error!(task.name = name, "loop hangs, the watchdog is left to bite");
            }
            Some(_) => {}
        }
        said = hanging;
    }
}

/// How often systemd wants to hear `notify_watchdog`: half of its limit, or none without a watchdog.
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| limit / 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::mpsc;

    #[tokio::test]
    async fn the_watchdog_hears_nothing_while_a_loop_hangs_and_again_when_it_turns() {
        let tasks = Tasks::new();
        let pulse = tasks.pulse("loop", Duration::from_millis(300));
        let (out, mut heard) = mpsc::unbounded_channel();
        tasks.spawn_job(watch(tasks.clone(), Duration::from_millis(10), move || {
            // The test has heard enough.
            let _ = out.send(());
        }));
        let deadline = Duration::from_secs(60);
        tokio::time::timeout(deadline, heard.recv()).await.expect("in time").expect("it turns");
        // It does not beat any more.
        tokio::time::timeout(deadline, async {
            while tasks.hanging().is_none() {
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("in time");
        assert_eq!(tasks.hanging(), Some("loop"));
        // One may have been under way.
        while heard.try_recv().is_ok() {}
        assert!(
            tokio::time::timeout(Duration::from_millis(200), heard.recv()).await.is_err(),
            "a hanging loop was reported as alive"
        );
        pulse.beat();
        tokio::time::timeout(deadline, heard.recv()).await.expect("in time").expect("it turns again");
        // A loop that ended is its task's to tell.
        drop(pulse);
        assert_eq!(tasks.hanging(), None);
        tasks.stop_token().cancel();
    }
}
