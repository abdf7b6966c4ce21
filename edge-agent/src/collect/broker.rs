//! What is known of one broker: that it holds the agent's session, and how many messages it has thrown away.
//!
//! A broker counts from its own start; the sum over its starts is kept in the outbox's file, under the broker's home. What
//! is heard goes to the reconciler, which holds flows back until then and reports the number.
use super::Tools;
use crate::{
    db::outbox::{CursorUpdate, Outbox, OutboxError},
    runtime::{BrokerEndpoint, BrokersHeard},
};
use redforge_shared::{error::Chain, ids::Name};
use serde::{Deserialize, Serialize};
use std::{convert::Infallible, sync::Mutex};
use tokio::sync::watch;

/// Messages thrown away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Tally {
    /// Before the broker's last start that was noticed.
    earlier: u64,
    /// Since then, as the broker counts.
    latest: u64,
}

impl Tally {
    fn note(self, latest: u64) -> Self {
        let restarted = latest < self.latest;
        let earlier = if restarted { self.earlier.saturating_add(self.latest) } else { self.earlier };
        Self { earlier, latest }
    }

    fn sum(self) -> u64 {
        self.earlier.saturating_add(self.latest)
    }
}

/// A broker that records are collected from, through one connection.
#[derive(Debug)]
pub struct Broker {
    instance: Name,
    home: String,
    outbox: Outbox,
    heard: watch::Sender<BrokersHeard>,
    /// None: it never held our session.
    tally: Mutex<Option<Tally>>,
    counter: watch::Sender<u64>,
}

impl Broker {
    /// What is known from earlier connections.
    pub async fn open(
        endpoint: &BrokerEndpoint,
        tools: &Tools,
        heard: watch::Sender<BrokersHeard>,
    ) -> Result<Self, OutboxError> {
        let stored = tools.outbox.cursor(&key(&endpoint.home)).await?;
        let tally: Option<Tally> = stored.and_then(|t| serde_json::from_slice(&t).ok());
        Ok(Self {
            instance: endpoint.instance.clone(),
            home: endpoint.home.clone(),
            outbox: tools.outbox.clone(),
            heard,
            tally: Mutex::new(tally),
            counter: watch::Sender::new(tally.map_or(0, |t| t.latest)),
        })
    }

    fn tally(&self) -> Option<Tally> {
        *self.tally.lock().expect("no panic while the lock is held")
    }

    /// The broker took our name. A session that it has forgotten is nothing we can mend, but it must be seen.
    pub fn connected(&self, session_present: bool) {
        if !session_present && self.tally().is_some() {
            tracing::warn!(instance.name = %self.instance, "broker: it has lost what waited in the agent's session");
        }
    }

    /// The broker keeps from now on what is published for us.
    pub fn subscribed(&self) {
        tracing::info!(instance.name = %self.instance, "broker: collecting records");
        let sum = self.tally().unwrap_or_default().sum();
        self.tell(sum);
        // Also the first tally of all is to be written.
        self.counter.send_modify(|_| {});
    }

    fn tell(&self, sum: u64) {
        self.heard.send_if_modified(|all| all.insert(self.home.clone(), sum) != Some(sum));
    }

    /// What a broker throws away was never promised to us, but it must be seen.
    pub fn said(&self, payload: &[u8]) {
        if let Some(now) = std::str::from_utf8(payload).ok().and_then(|s| s.trim().parse::<u64>().ok()) {
            self.counter.send_replace(now);
        }
    }

    /// Writes down what the broker says, beside the loop that reads from it.
    pub async fn count(&self) -> Result<Infallible, OutboxError> {
        let mut counter = self.counter.subscribe();
        loop {
            // The sender is in `self`.
            drop(counter.changed().await);
            let latest = *counter.borrow_and_update();
            let before = self.tally();
            let tally = before.unwrap_or_default().note(latest);
            if before == Some(tally) {
                continue;
            }
            let more = tally.sum() - before.unwrap_or_default().sum();
            if more > 0 {
                tracing::warn!(instance.name = %self.instance, messages.dropped = tally.sum(), more,
                    "broker: it has thrown messages away");
            }
            let value = serde_json::to_vec(&tally).expect("numbers are JSON");
            match self.outbox.append(vec![], Some(CursorUpdate { key: key(&self.home), value })).await {
                Err(e @ (OutboxError::Stopped | OutboxError::Open(_))) => return Err(e),
                // The next number writes the sum.
                Err(e) => tracing::warn!(error = %Chain(&e), "what the broker threw away is not written down yet"),
                Ok(_) => {}
            }
            *self.tally.lock().expect("no panic while the lock is held") = Some(tally);
            self.tell(tally.sum());
        }
    }
}

fn key(home: &str) -> String {
    format!("broker/{home}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_that_counts_anew_loses_nothing_from_the_sum() {
        let mut tally = Tally::default();
        let sums = [0, 3, 3, 7, 2, 2, 0, 4].map(|latest| {
            tally = tally.note(latest);
            tally.sum()
        });
        assert_eq!(sums, [0, 3, 3, 7, 9, 9, 9, 13]);
    }
}
