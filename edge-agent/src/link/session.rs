//! The session: hello, the hub's welcome, our confirmation; then reports go up and desired states come down until one
//! side ends it. Step of both flows: `Desired` is committed to the ledger before anybody hears of it; `HostReport` is the
//! latest status, never a queue of them.
use super::{
    Link, Overlay,
    dial::explain,
    effective,
    offer::{self, Offer},
};
use crate::{
    db::ledger::{Accepted, LedgerError},
    identity::Enrolled,
};
use redforge_shared::{
    ids::{Digest, HostId},
    report::{HostFacts, HostStatus, Reason, Sync},
    wire::{InvalidMessage, PROTOCOL_MAX, PROTOCOL_MIN, from_timestamp, pb, timestamp},
};
use std::time::{Duration, Instant};
use time::OffsetDateTime;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming, transport::Channel};

/// Longest wait for the hub's welcome.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest message from the hub: a document and its frame.
const MAX_MESSAGE_BYTES: usize = 1 << 20;
/// Bounds for the hub's wish how often to hear from us.
const HEARTBEAT_MS: std::ops::RangeInclusive<u32> = 100..=60_000;

/// Why a session ended badly.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    #[error("the hub did not welcome this host within {} s", WELCOME_TIMEOUT.as_secs())]
    Silent,
    #[error("the hub ended the session: {}", explain(.0))]
    Rpc(Status),
    #[error("the hub closed the session")]
    Closed,
    #[error("the hub broke the protocol")]
    Protocol(#[from] InvalidMessage),
    #[error("the hub speaks protocol {0}, this agent {PROTOCOL_MIN} to {PROTOCOL_MAX}: upgrade the older one")]
    Version(u32),
    #[error("the desired state cannot be committed")]
    Commit(#[source] LedgerError),
}

/// What the hub said at the hello.
#[derive(Clone, Debug)]
pub struct Welcome {
    pub hub_time: OffsetDateTime,
    /// When it was said, for hub time later on.
    pub heard: Instant,
    pub heartbeat: Duration,
    pub hub_rpo_s: u32,
}

/// A session that counts: the hub's nonce was echoed.
#[derive(Debug)]
pub struct Session {
    up: mpsc::Sender<pb::SessionRequest>,
    down: Streaming<pb::SessionResponse>,
    welcome: Welcome,
}

fn request(message: pb::session_request::Message) -> pb::SessionRequest {
    pb::SessionRequest { message: Some(message) }
}

impl Session {
    /// Says hello and confirms the hub's nonce.
    pub async fn open(channel: Channel, hello: pb::Hello) -> Result<Self, SessionError> {
        let mut client = pb::control_client::ControlClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let (up, requests) = mpsc::channel(4);
        let hello = request(pb::session_request::Message::Hello(hello));
        up.try_send(hello).expect("an empty channel of four takes one");
        let opening = async {
            let mut down = client.session(ReceiverStream::new(requests)).await.map_err(SessionError::Rpc)?.into_inner();
            let first = down.message().await.map_err(SessionError::Rpc)?.ok_or(SessionError::Closed)?;
            Ok::<_, SessionError>((down, first))
        };
        let opened = tokio::time::timeout(WELCOME_TIMEOUT, opening).await;
        let (down, first) = opened.map_err(|_| SessionError::Silent)??;
        let Some(pb::session_response::Message::Welcome(welcome)) = first.message else {
            return Err(InvalidMessage::new("message", "is not a welcome").into());
        };
        if !(PROTOCOL_MIN..=PROTOCOL_MAX).contains(&welcome.protocol) {
            return Err(SessionError::Version(welcome.protocol));
        }
        if welcome.nonce.len() != 16 {
            return Err(InvalidMessage::new("welcome.nonce", "is not 16 bytes").into());
        }
        let hub_time = from_timestamp("welcome.hub_time", welcome.hub_time.as_ref())?;
        let beat = welcome.heartbeat_interval_ms.clamp(*HEARTBEAT_MS.start(), *HEARTBEAT_MS.end());
        let confirm = pb::session_request::Message::Confirm(pb::Confirm { nonce: welcome.nonce });
        up.send(request(confirm)).await.map_err(|_| SessionError::Closed)?;
        let welcome = Welcome {
            hub_time,
            heard: Instant::now(),
            heartbeat: Duration::from_millis(beat.into()),
            hub_rpo_s: welcome.hub_rpo_s,
        };
        Ok(Self { up, down, welcome })
    }

    /// What the hub said.
    pub fn welcome(&self) -> &Welcome {
        &self.welcome
    }

    /// Reports and listens. `Ok` is the hub's goodbye.
    pub(super) async fn run(&mut self, link: &mut Link) -> Result<(), SessionError> {
        let enrolled = link.deps.identity.enrolled().ok().flatten();
        let mut status = link.deps.status.clone();
        let mut beat = tokio::time::interval(self.welcome.heartbeat);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut dirty = true;
        let mut said: Option<Said> = None;
        loop {
            tokio::select! {
                message = self.down.message() => {
                    let message = message.map_err(SessionError::Rpc)?.ok_or(SessionError::Closed)?;
                    match message.message {
                        Some(pb::session_response::Message::Desired(desired)) => {
                            let host = enrolled.as_ref().map(|e| e.host_id);
                            link.take(&desired, host).await?;
                            dirty = true;
                        }
                        Some(pb::session_response::Message::Goodbye(_)) => return Ok(()),
                        Some(pb::session_response::Message::Welcome(_)) => {
                            return Err(InvalidMessage::new("message", "is a second welcome").into());
                        }
                        // A newer hub may say things that we need not know.
                        None => {}
                    }
                }
                permit = self.up.reserve(), if dirty => {
                    let now = link.say();
                    permit.map_err(|_| SessionError::Closed)?.send(link.report(&now, enrolled.as_ref()));
                    said = Some(now);
                    dirty = false;
                    beat.reset();
                }
                changed = status.changed() => {
                    if changed.is_err() {
                        // The reconciler is gone: the process is ending.
                        return Ok(());
                    }
                    dirty = true;
                }
                _ = beat.tick() => {
                    link.pulse.beat();
                    dirty = dirty || said.as_ref() != Some(&link.say());
                    if !dirty {
                        // A full channel holds something newer than a heartbeat.
                        drop(self.up.try_send(request(pb::session_request::Message::Heartbeat(pb::Heartbeat {}))));
                    }
                }
            }
        }
    }
}

/// Everything a report says beside its numbers.
#[derive(Clone, Debug, PartialEq)]
struct Said {
    status: HostStatus,
    facts: HostFacts,
    outbox: Vec<super::OutboxNumbers>,
}

impl Link {
    pub(super) fn hello(&self, _enrolled: &Enrolled) -> pb::Hello {
        let held = self.deps.ledger.accepted();
        pb::Hello {
            run_id: self.deps.run_id.0.to_vec().into(),
            start_no: self.deps.start_no,
            hello_no: self.hello_no,
            protocol_min: PROTOCOL_MIN,
            protocol_max: PROTOCOL_MAX,
            generation: held.map_or(0, |(generation, _)| generation),
            spec_sha256: held.map(|(_, sha)| sha.0.to_vec()).unwrap_or_default().into(),
            facts: Some((&*self.deps.facts.borrow()).into()),
        }
    }

    fn say(&self) -> Said {
        let facts = self.deps.facts.borrow().clone();
        let overlay = self.view.borrow().overlay.clone();
        let status = effective(&self.deps.status.borrow(), overlay.as_ref(), &facts);
        Said { status, facts, outbox: self.deps.outbox_numbers.borrow().clone() }
    }

    fn report(&mut self, said: &Said, enrolled: Option<&Enrolled>) -> pb::SessionRequest {
        self.report_no += 1;
        let status = &said.status;
        let outbox = said.outbox.iter().map(|n| pb::OutboxStatus {
            class: pb::RecordClass::from(n.class).into(),
            waiting: n.waiting,
            waiting_bytes: n.waiting_bytes,
            refused: n.refused,
            absorbed: n.absorbed,
            lost: n.lost,
        });
        let names = status.names.iter().take(redforge_shared::report::MAX_NAMES);
        request(pb::session_request::Message::Report(pb::HostReport {
            start_no: self.deps.start_no,
            report_no: self.report_no,
            generation: status.generation,
            spec_sha256: status.spec_sha256.map(|d| d.0.to_vec()).unwrap_or_default().into(),
            health: pb::Health::from(status.health).into(),
            sync: pb::Sync::from(status.sync).into(),
            reason: status.reason.map_or(0, |r| pb::StatusReason::from(r).into()),
            names: names.map(|n| n.chars().take(32).collect()).collect(),
            instances: status.instances.iter().map(Into::into).collect(),
            facts: Some((&said.facts).into()),
            outbox: outbox.collect(),
            certificate_not_after: enrolled.and_then(Enrolled::validity).map(|(_, end)| timestamp(end)),
            reported_at: Some(timestamp(self.deps.clock.now())),
            clean_up: Some((&status.clean_up).into()),
        }))
    }

    /// Judges a desired state and commits it. A refused one changes nothing but the report.
    async fn take(&self, desired: &pb::Desired, host: Option<HostId>) -> Result<(), SessionError> {
        let ledger = &self.deps.ledger;
        let held: Option<Digest> = ledger.accepted().map(|(_, sha)| sha);
        let Some(host) = host else { return Ok(()) };
        let overlay = match offer::judge(desired, host, held) {
            Ok(Offer::HubBehind) => {
                tracing::warn!("the hub is behind this host (restored from a backup?): keeping what runs");
                Some(Overlay { sync: Sync::Paused, reason: Reason::HubBehind, names: Vec::new() })
            }
            Ok(Offer::Raise { generation }) => {
                if let Some(current) = ledger.desired() {
                    let raised = ledger.accept(generation, current.bytes.clone(), current.sha256).await;
                    raised.map_err(SessionError::Commit)?;
                }
                None
            }
            Ok(Offer::Take { generation, sha256 }) => {
                let accepted = ledger.accept(generation, desired.spec.clone(), sha256).await;
                let accepted = accepted.map_err(SessionError::Commit)?;
                tracing::info!(generation, spec.sha256 = %sha256, ?accepted, "desired state arrived");
                match accepted {
                    Accepted::New | Accepted::Same | Accepted::Raised => None,
                    // Nothing is downgraded by itself.
                    Accepted::Older => {
                        Some(Overlay { sync: Sync::Paused, reason: Reason::HubBehind, names: Vec::new() })
                    }
                }
            }
            Err(refusal) => {
                tracing::error!(generation = desired.generation, error = %refusal, "desired state refused");
                Some(Overlay { sync: Sync::Failed, reason: Reason::SpecRefused, names: vec![refusal.name()] })
            }
        };
        self.view.send_modify(|view| view.overlay = overlay);
        Ok(())
    }
}
