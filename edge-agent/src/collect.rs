//! Where records begin: what flows publish to a broker or hand in over HTTP, and what containers print. First step of the flow up.
//!
//! Collectors make raw records, ask the gate, and append to the outbox; a sender hears "taken" only after the commit or a
//! counted refusal. They know neither the hub nor why a broker or container is there.
mod broker;
pub mod http;
pub mod logs;
pub mod mqtt;
pub mod payload;
mod queues;
mod refusals;

use crate::{db::outbox::Outbox, privacy::Gate, runtime::QueuesHeard};
use redforge_shared::clock::SharedClock;
use std::time::Duration;
use tokio::sync::watch;

/// Pause before something that the outbox could not take is offered again.
const OFFER_AGAIN: Duration = Duration::from_millis(500);

/// What every collector works with.
#[derive(Clone, Debug)]
pub struct Tools {
    pub gate: Gate,
    pub outbox: Outbox,
    pub clock: SharedClock,
    refusals: refusals::Refusals,
    queues: watch::Sender<QueuesHeard>,
}

impl Tools {
    /// What collectors need to bring a record from its source to the outbox.
    pub fn new(gate: Gate, outbox: Outbox, clock: SharedClock) -> Self {
        let queues = watch::Sender::new(QueuesHeard::new());
        Self { gate, outbox, clock, refusals: refusals::Refusals::default(), queues }
    }

    /// The same, telling this channel what instances say of their queues.
    #[must_use]
    pub fn telling(self, queues: watch::Sender<QueuesHeard>) -> Self {
        Self { queues, ..self }
    }
}
