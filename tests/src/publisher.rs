//! Publishes keyed records as a flow would: MQTT 3.1.1, QoS 1, journalled and fsynced at PUBACK, repeated until acked.
//!
//! Runs inside a container on the host's own network where the broker is; from the test's side it dials the broker's
//! address directly, which the engine's bridge allows on the same machine.
use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Outgoing, Packet, QoS};
use std::{
    collections::{BTreeMap, VecDeque},
    fs::File,
    io::Write,
    path::Path,
    time::Duration,
};

/// Who publishes, and where.
#[derive(Clone, Debug)]
pub struct Broker {
    pub address: String,
    pub port: u16,
    pub user: String,
    pub password: String,
}

/// A publisher that survives restarts of the broker and journals what was acked.
pub struct Publisher {
    client: AsyncClient,
    events: EventLoop,
    journal: File,
    waiting: VecDeque<String>,
    in_flight: BTreeMap<u16, String>,
    pub acked: u64,
}

impl Publisher {
    /// Connects lazily as `id`; acked keys are appended to `journal`.
    pub fn new(broker: &Broker, id: &str, journal: &Path) -> Self {
        let mut options = MqttOptions::new(id, broker.address.clone(), broker.port);
        options
            .set_credentials(broker.user.clone(), broker.password.clone())
            .set_clean_session(false)
            .set_keep_alive(Duration::from_secs(5))
            .set_inflight(50);
        let (client, events) = AsyncClient::new(options, 100);
        let journal = File::options().create(true).append(true).open(journal).expect("own folder");
        Self { client, events, journal, waiting: VecDeque::new(), in_flight: BTreeMap::new(), acked: 0 }
    }

    /// Publishes one keyed event; it counts once [`Publisher::turn`] saw its PUBACK.
    pub async fn publish(&mut self, key: &str) {
        let payload = serde_json::json!({"key": key, "name": "cycle", "payload": {"part": key}});
        self.publish_record("event", key, &payload).await;
    }

    /// Publishes any record of a class under a key.
    pub async fn publish_record(&mut self, class: &str, key: &str, payload: &serde_json::Value) {
        self.waiting.push_back(key.to_owned());
        self.client
            .publish(format!("redforge/records/{class}"), QoS::AtLeastOnce, false, payload.to_string())
            .await
            .expect("the client lives as long as its loop");
    }

    /// Publishes without PUBACK yet.
    pub fn unacked(&self) -> usize {
        self.waiting.len() + self.in_flight.len()
    }

    /// Turns until everything published is acked.
    pub async fn all_acked(&mut self) {
        let deadline = std::time::Instant::now() + crate::wait::DEADLINE;
        while self.unacked() > 0 {
            assert!(std::time::Instant::now() < deadline, "{} publishes got no PUBACK", self.unacked());
            drop(tokio::time::timeout(Duration::from_secs(1), self.turn()).await);
        }
    }

    /// Handles one event of the connection; reconnects by itself.
    pub async fn turn(&mut self) {
        match self.events.poll().await {
            Ok(Event::Outgoing(Outgoing::Publish(id))) => {
                // A repeat after a reconnect keeps its packet id and its key.
                if !self.in_flight.contains_key(&id)
                    && let Some(key) = self.waiting.pop_front()
                {
                    self.in_flight.insert(id, key);
                }
            }
            Ok(Event::Incoming(Packet::PubAck(ack))) => {
                if let Some(key) = self.in_flight.remove(&ack.pkid) {
                    let line = serde_json::json!({"key": key}).to_string() + "\n";
                    self.journal.write_all(line.as_bytes()).expect("the journal is writable");
                    self.journal.sync_data().expect("the journal is on disk");
                    self.acked += 1;
                }
            }
            Ok(_) => {}
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}
