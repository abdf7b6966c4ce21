//! What every long-running process needs: signals, a stop token, tracked tasks, systemd's notifications, logs.
//!
//! A task that ends before the stop token fires stops the whole process: systemd starts it again, and nothing runs on
//! with a dead room.
use std::{future::Future, io::IsTerminal, time::Duration};
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

/// How often systemd wants to hear `notify_watchdog`: half of its limit, or none without a watchdog.
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| limit / 2)
}
