//! The link to the hub, and the only room that knows a hub exists: dial, say hello, send reports and records up, take
//! desired state and blobs down, renew the certificate, and dial again for ever.
//!
//! One HTTP/2 connection carries everything; when any of its parts breaks, all of it is dialled anew. Nothing here
//! decides what runs on the host, and nothing waits for it: the rest of the agent works the same without a hub.
use crate::{
    db::{
        ledger::{Ledger, LedgerError},
        outbox::{ClassStatus, Outbox},
    },
    drafts::Draft,
    identity::{BUILD_FLOOR, Enrolled, IdentityDir, IdentityError},
};
use backoff::Backoff;
use dial::{DialError, HubUrl};
use redforge_shared::{
    clock::SharedClock,
    daemon::Pulse,
    error::Chain,
    ids::RunId,
    record::RecordClass,
    report::{Health, HostFacts, HostStatus, Reason, Sync},
    wire::pb,
};
use serde::{Deserialize, Serialize};
use session::{Session, SessionError};
use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub mod artifacts;
pub mod backoff;
pub mod dial;
pub mod drafts;
#[cfg(test)]
pub(crate) mod fake_hub;
pub mod offer;
pub mod renew;
pub mod session;
#[cfg(test)]
mod tests;
pub mod upload;

/// A connection that lived shorter than this counts as a failed attempt, however it ended.
const SETTLED: Duration = Duration::from_secs(10);
/// Less free disk than this is reported.
const DISK_LOW_BYTES: u64 = 16 << 20;
/// Row of the ledger with the latest hub time, seconds since 1970, big-endian.
pub(crate) const HUB_TIME: &str = "hub_time";

/// The outbox in numbers, per class.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutboxNumbers {
    pub class: RecordClass,
    pub waiting: u64,
    pub waiting_bytes: u64,
    pub refused: u64,
    pub absorbed: u64,
    pub lost: u64,
}

impl From<ClassStatus> for OutboxNumbers {
    fn from(c: ClassStatus) -> Self {
        Self {
            class: c.class,
            waiting: c.waiting,
            waiting_bytes: c.waiting_bytes,
            refused: c.refused,
            absorbed: c.absorbed,
            lost: c.lost,
        }
    }
}

/// The link as the status page and reports see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkView {
    pub online: bool,
    /// The hub that is or was dialled last.
    pub hub: Option<String>,
    /// When `online` last changed.
    #[serde(with = "time::serde::rfc3339")]
    pub since: OffsetDateTime,
    /// Why the last attempt or connection ended.
    pub last_error: Option<String>,
    /// What the link knows about desired state that the reconciler cannot know.
    pub overlay: Option<Overlay>,
    /// The agent's clock minus the hub's at the last hello, in seconds.
    pub clock_ahead_s: Option<i64>,
}

/// Replaces the reconciler's verdict on the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overlay {
    pub sync: Sync,
    pub reason: Reason,
    pub names: Vec<String>,
}

/// What the link works with.
#[derive(Clone, Debug)]
pub struct Deps {
    pub identity: IdentityDir,
    /// Hubs to dial, in order.
    pub hub_urls: Vec<HubUrl>,
    pub ledger: Ledger,
    pub outbox: Outbox,
    pub status: watch::Receiver<HostStatus>,
    pub facts: watch::Receiver<HostFacts>,
    pub outbox_numbers: watch::Receiver<Vec<OutboxNumbers>>,
    /// Edited flows that the gate released.
    pub drafts: watch::Receiver<Vec<Draft>>,
    pub clock: SharedClock,
    /// `blobs/sha256` of the state folder.
    pub blobs: PathBuf,
    pub run_id: RunId,
    pub start_no: u64,
}

/// Why an attempt or a connection ended.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error("the identity cannot be used")]
    Identity(#[from] IdentityError),
    #[error("this host is not enrolled any more")]
    NotEnrolled,
    #[error("TLS cannot be set up")]
    Tls(#[from] redforge_shared::tls::TlsError),
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error("the ledger cannot be used")]
    Ledger(#[from] LedgerError),
}

/// How a connection ended in good order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// The hub asked to dial again.
    Goodbye,
    /// There is a new certificate to dial with.
    Renewed,
    Stopped,
}

/// The loop that keeps the host connected.
#[derive(Debug)]
pub struct Link {
    deps: Deps,
    view: watch::Sender<LinkView>,
    hello_no: u64,
    report_no: u64,
    next_url: usize,
    pulse: Pulse,
}

impl Link {
    /// A link that has not dialled yet, and the view of it.
    pub fn new(deps: Deps) -> (Self, watch::Receiver<LinkView>) {
        let view = LinkView {
            online: false,
            hub: deps.hub_urls.first().map(ToString::to_string),
            since: deps.clock.now(),
            last_error: None,
            overlay: None,
            clock_ahead_s: None,
        };
        let (view, seen) = watch::channel(view);
        (Self { deps, view, hello_no: 0, report_no: 0, next_url: 0, pulse: Pulse::default() }, seen)
    }

    /// Runs until stopped; `pulse` beats while it turns.
    pub async fn run(mut self, pulse: Pulse, stop: CancellationToken) {
        self.pulse = pulse;
        let mut backoff = Backoff::default();
        let mut reached = Instant::now();
        while !stop.is_cancelled() {
            self.pulse.beat();
            let started = Instant::now();
            let ended = self.connection(&stop).await;
            let was_online = self.view.borrow().online;
            let settled = was_online && started.elapsed() >= SETTLED;
            if settled {
                backoff = Backoff::default();
            }
            if was_online {
                reached = Instant::now();
            }
            match ended {
                Ok(Ended::Stopped) => return,
                Ok(ended) => {
                    tracing::info!(?ended, "connection ended in good order, dialling again");
                    if settled || ended == Ended::Renewed {
                        continue;
                    }
                }
                Err(e) => self.broke(&e),
            }
            let wait = backoff.next(reached.elapsed(), fraction());
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    fn broke(&mut self, error: &LinkError) {
        // Another hub of the list may still be there.
        self.next_url += 1;
        let text = Chain(error).to_string();
        let now = self.deps.clock.now();
        let mut news = false;
        self.view.send_modify(|view| {
            news = view.online || view.last_error.as_deref() != Some(&text);
            if view.online {
                view.online = false;
                view.since = now;
            }
            view.last_error = Some(text.clone());
        });
        // A long outage says the same every half minute: it is logged when it changes.
        if news {
            tracing::warn!(error = text, "no connection to the hub");
        }
    }

    /// One connection from dialling to its end.
    async fn connection(&mut self, stop: &CancellationToken) -> Result<Ended, LinkError> {
        let enrolled = self.deps.identity.enrolled()?.ok_or(LinkError::NotEnrolled)?;
        let opened = tokio::select! {
            opened = self.open(&enrolled) => opened?,
            () = stop.cancelled() => return Ok(Ended::Stopped),
        };
        let (channel, mut session) = opened;
        let welcome = session.welcome().clone();
        let deps = self.deps.clone();
        let artifacts = artifacts::run(channel.clone(), &deps.ledger, &deps.blobs);
        let drafts = drafts::run(channel.clone(), deps.drafts.clone(), deps.ledger.clone());
        let sending = send_records(channel.clone(), &deps, welcome.hub_rpo_s, stop);
        let renewal = renew::run(channel, &deps.identity, enrolled, welcome);
        let reporting = session.run(self);
        tokio::select! {
            ended = Box::pin(reporting) => Ok(ended.map(|()| Ended::Goodbye)?),
            ended = Box::pin(artifacts) => match ended? {},
            never = Box::pin(drafts) => match never {},
            () = Box::pin(sending) => Ok(Ended::Stopped),
            ended = Box::pin(renewal) => Ok(ended.map(|()| Ended::Renewed)?),
            () = stop.cancelled() => Ok(Ended::Stopped),
        }
    }

    async fn open(&mut self, enrolled: &Enrolled) -> Result<(tonic::transport::Channel, Session), LinkError> {
        let floor = self.floor().await?;
        let tls = Arc::new(enrolled.client_config(floor)?);
        let url = self.deps.hub_urls[self.next_url % self.deps.hub_urls.len()].clone();
        let channel = dial::dial(&url, tls).await?;
        self.hello_no += 1;
        let session = Session::open(channel.clone(), self.hello(enrolled)).await?;
        let hub_time = session.welcome().hub_time;
        if hub_time > floor {
            self.deps.ledger.kv_set(HUB_TIME, hub_time.unix_timestamp().to_be_bytes().to_vec()).await?;
        }
        let now = self.deps.clock.now();
        tracing::info!(hub.url = %url, "connected to the hub");
        self.view.send_modify(|view| {
            view.clock_ahead_s = Some((now - hub_time).whole_seconds());
            view.hub = Some(url.to_string());
            view.last_error = None;
            if !view.online {
                view.online = true;
                view.since = now;
            }
        });
        Ok((channel, session))
    }

    /// The latest time that this host can be sure has passed.
    async fn floor(&self) -> Result<OffsetDateTime, LedgerError> {
        let stored = self.deps.ledger.kv_get(HUB_TIME).await?;
        let seconds = stored.and_then(|b| b.try_into().ok()).map(i64::from_be_bytes);
        let stored = seconds.and_then(|s| OffsetDateTime::from_unix_timestamp(s).ok());
        Ok(stored.map_or(BUILD_FLOOR, |s| s.max(BUILD_FLOOR)))
    }
}

/// Sends records while the connection lasts. A hub that cannot take records now may still send desired state: the upload
/// alone is opened again.
async fn send_records(channel: tonic::transport::Channel, deps: &Deps, hub_rpo_s: u32, stop: &CancellationToken) {
    if hub_rpo_s > 0
        && let Err(e) = deps.outbox.set_hub_rpo(Duration::from_secs(hub_rpo_s.into())).await
    {
        tracing::warn!(error = %Chain(&e), "the hub's recovery window was not noted");
    }
    let mut backoff = Backoff::default();
    let mut since: Option<Instant> = None;
    let trouble = upload::Trouble::default();
    loop {
        let begun = Instant::now();
        let client = pb::telemetry_client::TelemetryClient::new(channel.clone());
        match upload::run(client, deps.outbox.clone(), deps.run_id, trouble.clone(), stop.clone()).await {
            Ok(()) => return,
            Err(e) => {
                if begun.elapsed() >= SETTLED {
                    (backoff, since) = (Backoff::default(), None);
                }
                trouble.begins(&Chain(&e).to_string());
                let outage = since.get_or_insert(begun).elapsed();
                tokio::time::sleep(backoff.next(outage, fraction())).await;
            }
        }
    }
}

/// The host's status as it is reported: what the reconciler found, with what the link and the disk add.
pub fn effective(status: &HostStatus, overlay: Option<&Overlay>, facts: &HostFacts) -> HostStatus {
    let mut status = status.clone();
    if let Some(overlay) = overlay {
        status.sync = overlay.sync;
        status.reason = Some(overlay.reason);
        status.names.clone_from(&overlay.names);
    }
    if facts.disk_total_bytes > 0 && facts.disk_free_bytes < DISK_LOW_BYTES {
        status.health = Health::Error;
        status.reason = Some(Reason::DiskFull);
        status.names = Vec::new();
    }
    status
}

/// Uniform within 0 to 1.
fn fraction() -> f64 {
    let mut bytes = [0; 4];
    // Without randomness the whole ceiling is waited: slower, never wrong.
    if aws_lc_rs::rand::fill(&mut bytes).is_err() {
        return 1.0;
    }
    f64::from(u32::from_be_bytes(bytes)) / f64::from(u32::MAX)
}
