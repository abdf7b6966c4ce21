//! One session after its hello: sends what `fleet::delivery` decides, stores the latest report, ends in good order.
use super::{Down, HelloSaid, Service, next, report, send};
use crate::{
    fleet::delivery::{self, Delivery},
    grpc::{peer::PeerHost, store_status},
    sessions::Live,
    store::reports::{Report, Saved},
};
use redforge_shared::{error::Chain, ids::Digest, wire::pb};
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

/// Besides hints, the desired state and the right to speak are looked at this often.
const TICK: Duration = Duration::from_secs(15);
/// Reports are stored at most this often: the latest wins anyway.
const REPORT_EVERY: Duration = Duration::from_millis(200);
/// After the database failed, a report waits this long.
const REPORT_RETRY: Duration = Duration::from_secs(2);

pub(super) struct Conversation<'a> {
    service: &'a Service,
    peer: &'a PeerHost,
    down: &'a Down,
    hello: HelloSaid,
    /// What the agent holds, by its hello and its reports.
    agent: delivery::Agent,
    /// Generation and kind of what was sent last, so that nothing is sent twice.
    told: Option<(u64, Told)>,
    /// The spec that was sent last; its report may be on its way.
    sent: Option<Digest>,
    pending: Option<Report>,
    store_at: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Spec,
    Number,
    Behind,
}

impl<'a> Conversation<'a> {
    pub(super) fn new(service: &'a Service, peer: &'a PeerHost, down: &'a Down, hello: HelloSaid) -> Self {
        let agent = delivery::Agent { generation: hello.generation, sha256: hello.sha256 };
        Self { service, peer, down, hello, agent, told: None, sent: None, pending: None, store_at: Instant::now() }
    }

    /// Runs until either side ends it.
    pub(super) async fn run(
        mut self,
        mut live: Live,
        up: &mut Streaming<pb::SessionRequest>,
        ending: CancellationToken,
    ) -> Result<(), Status> {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let silence = self.service.config.heartbeat * 4 + Duration::from_secs(5);
        let mut heard = Instant::now();
        self.service.sessions.saw(self.peer.id, self.service.clock.now());
        loop {
            tokio::select! {
                () = ending.cancelled() => return self.goodbye().await,
                () = live.superseded.cancelled() => return Err(Status::aborted("another session of this host began")),
                // The first tick comes at once: current state on connect.
                _ = tick.tick() => {
                    self.check_right().await?;
                    self.deliver().await?;
                }
                changed = live.look_again.changed() => {
                    changed.map_err(|_| Status::aborted("another session of this host began"))?;
                    self.deliver().await?;
                }
                () = tokio::time::sleep_until(self.store_at), if self.pending.is_some() => self.store_report().await?,
                () = tokio::time::sleep_until(heard + silence) => {
                    return Err(Status::deadline_exceeded("the agent sent no heartbeat"));
                }
                message = next(up) => {
                    let Some(message) = message? else { return Ok(()) };
                    heard = Instant::now();
                    self.service.sessions.saw(self.peer.id, self.service.clock.now());
                    self.heard(message)?;
                }
            }
        }
    }

    fn heard(&mut self, message: pb::session_request::Message) -> Result<(), Status> {
        match message {
            pb::session_request::Message::Heartbeat(_) => Ok(()),
            pb::session_request::Message::Report(r) => {
                let report = report::check(r)?;
                self.agent =
                    delivery::Agent { generation: report.status.generation, sha256: report.status.spec_sha256 };
                self.pending = Some(report);
                Ok(())
            }
            pb::session_request::Message::Hello(_) | pb::session_request::Message::Confirm(_) => {
                Err(Status::invalid_argument("message: a session has one hello and one confirm"))
            }
        }
    }

    async fn store_report(&mut self) -> Result<(), Status> {
        let Some(report) = self.pending.take() else { return Ok(()) };
        let now = self.service.clock.now();
        let saved = self.service.store.save_report(self.peer.id, self.hello.run_id, &report, now).await;
        self.store_at = Instant::now() + REPORT_EVERY;
        match saved {
            Ok(Saved::Yes) => Ok(()),
            Ok(Saved::Older) => {
                tracing::debug!(host.name = self.peer.name, report.report_no, "an older report was refused");
                Ok(())
            }
            Ok(Saved::NotSpeaking) => Err(Status::aborted("another session speaks for this host")),
            Err(e) if e.is_unavailable() => {
                self.pending = Some(report);
                self.store_at = Instant::now() + REPORT_RETRY;
                Ok(())
            }
            Err(e) => Err(store_status(&e)),
        }
    }

    /// Ends the session when its right ended, by a takeover seen by another hub or by a fence.
    async fn check_right(&self) -> Result<(), Status> {
        let store = &self.service.store;
        match store.speaks(self.peer.id, self.hello.run_id, self.hello.hello_no).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(Status::aborted("another session speaks for this host")),
            Err(e) if e.is_unavailable() => Ok(()),
            Err(e) => Err(store_status(&e)),
        }
    }

    /// Looks at the desired state and sends what is due.
    async fn deliver(&mut self) -> Result<(), Status> {
        let host = self.peer.id;
        let desired = match self.service.store.desired(host).await {
            Ok(desired) => desired.filter(|d| d.generation > 0),
            Err(e) => {
                tracing::debug!(host.name = self.peer.name, error = %Chain(&e), "desired state not read");
                return Ok(());
            }
        };
        let hub = desired.as_ref().map(|d| delivery::Hub {
            generation: d.generation,
            sha256: d.sha256,
            paused: d.agent_ahead,
        });
        let number = hub.map_or(0, |h| h.generation);
        let mut due = delivery::decide(hub, self.agent);
        // What the agent said may be older than what it was sent since: a number alone would be that of another spec.
        if due == Delivery::RaiseAgent && self.sent.is_some_and(|sent| hub.is_some_and(|h| h.sha256 != sent)) {
            due = Delivery::Send;
        }
        let (told, message) = match (due, desired) {
            (Delivery::Nothing, _) | (Delivery::Send | Delivery::RaiseAgent, None) => return Ok(()),
            (Delivery::Send, Some(d)) => (
                Told::Spec,
                pb::Desired {
                    spec: d.spec.into(),
                    spec_sha256: d.sha256.0.to_vec().into(),
                    generation: d.generation,
                    raise_only: false,
                    hub_behind: false,
                },
            ),
            (Delivery::RaiseAgent, Some(d)) => (
                Told::Number,
                pb::Desired {
                    spec: bytes::Bytes::new(),
                    spec_sha256: d.sha256.0.to_vec().into(),
                    generation: d.generation,
                    raise_only: true,
                    hub_behind: false,
                },
            ),
            (Delivery::RaiseHub(to), d) => {
                if let Some(d) = d {
                    let raised = self.service.store.raise_generation(host, d.sha256, to).await;
                    raised.map_err(|e| store_status(&e))?;
                }
                return Ok(());
            }
            (Delivery::HubBehind, _) => {
                let now = self.service.clock.now();
                let paused = self.service.store.pause_behind(host, self.agent.generation, now).await;
                paused.map_err(|e| store_status(&e))?;
                (Told::Behind, pb::Desired { hub_behind: true, ..pb::Desired::default() })
            }
        };
        if self.told == Some((number, told)) {
            return Ok(());
        }
        send(self.down, pb::session_response::Message::Desired(message)).await?;
        tracing::debug!(host.name = self.peer.name, generation = number, what = ?told, "desired state sent");
        self.told = Some((number, told));
        if told == Told::Spec {
            self.sent = hub.map(|h| h.sha256);
        }
        Ok(())
    }

    async fn goodbye(mut self) -> Result<(), Status> {
        // What the agent said last is not lost with the connection.
        let _ = self.store_report().await;
        send(self.down, pb::session_response::Message::Goodbye(pb::Goodbye {})).await
    }
}
