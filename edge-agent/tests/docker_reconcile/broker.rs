//! The broker's users: who reads what, and whose credentials come back.
use crate::host::*;
use redforge_shared::desired::{NodeRed, Workload};
use std::process::Command;

/// Publishes and listens at a broker as one user.
struct MqttUser {
    broker: String,
    /// Topics of every message so far; a retained one may come before its subscription is acked.
    topics: Vec<String>,
    client: rumqttc::AsyncClient,
    events: rumqttc::EventLoop,
}

impl MqttUser {
    async fn connect(host: &Host, broker: &str, user: &str) -> Self {
        let kept = format!("mosquitto/{broker}/{user}/password");
        let secret = host.ledger.local_secret(&kept, || panic!("no such user"));
        let password = hex::encode(secret.await.expect("the ledger answers"));
        let mut options = rumqttc::MqttOptions::new(
            format!("test-{user}-{}", uuid::Uuid::now_v7().simple()),
            host.address(broker).await.to_string(),
            1883,
        );
        options.set_credentials(user, password).set_clean_session(true);
        let (client, events) = rumqttc::AsyncClient::new(options, 100);
        let mut user = Self { broker: host.container(broker), topics: vec![], client, events };
        user.until(|p| matches!(p, rumqttc::Packet::ConnAck(a) if a.code == rumqttc::ConnectReturnCode::Success)).await;
        user
    }

    /// Handles packets until one is so.
    async fn until(&mut self, so: impl Fn(&rumqttc::Packet) -> bool) {
        let waiting = async {
            loop {
                let event = self.events.poll().await.unwrap_or_else(|e| {
                    let log = Command::new("docker").args(["logs", &self.broker]).output().expect("a log").stderr;
                    panic!("{e}; the broker says: {}", String::from_utf8_lossy(&log))
                });
                let rumqttc::Event::Incoming(packet) = event else { continue };
                if let rumqttc::Packet::Publish(p) = &packet {
                    self.topics.push(p.topic.clone());
                }
                if so(&packet) {
                    return;
                }
            }
        };
        tokio::time::timeout(DEADLINE, waiting).await.expect("in time");
    }

    async fn subscribe(&mut self, filters: &[&str]) {
        for filter in filters {
            self.client.subscribe(*filter, rumqttc::QoS::AtLeastOnce).await.expect("room for a request");
            self.until(|p| matches!(p, rumqttc::Packet::SubAck(_))).await;
        }
    }

    async fn publish(&mut self, topic: &str) {
        self.client.publish(topic, rumqttc::QoS::AtLeastOnce, false, "x").await.expect("room for a request");
        self.until(|p| matches!(p, rumqttc::Packet::PubAck(_))).await;
    }

    /// Publishes what the broker will deny: Mosquitto 2.0 acks it and closes the connection, and either may be seen.
    async fn publish_denied(mut self, topic: &str) {
        self.client.publish(topic, rumqttc::QoS::AtLeastOnce, false, "x").await.expect("room for a request");
        let over = async {
            while !matches!(self.events.poll().await, Err(_) | Ok(rumqttc::Event::Incoming(rumqttc::Packet::PubAck(_))))
            {
            }
        };
        tokio::time::timeout(DEADLINE, over).await.expect("in time");
    }

    /// What arrived until the message that ends the test.
    async fn heard(&mut self) -> Vec<String> {
        self.until(|p| matches!(p, rumqttc::Packet::Publish(p) if p.topic == "line/end")).await;
        std::mem::take(&mut self.topics)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_instances_read_the_applications_topics_and_neither_records_nor_the_brokers_own() {
    let mut host = Host::start().await;
    // Users exist for instances that are suspended too; nothing but the broker has to run.
    let user = |instance: &str, reads: &[&str]| {
        let reads = reads.iter().map(|r| (*r).to_owned()).collect();
        let mut spec = spec(instance, image("node-red"), Workload::NodeRed(NodeRed { reads, ..NodeRed::default() }));
        spec.suspend = true;
        spec
    };
    host.want(vec![broker("broker"), user("one", &[]), user("two", &[])]).await;
    host.until_running("broker").await;
    let before = host.run_of("broker");
    // A third comes while the broker runs, with rights that are declared.
    let declared = ["redforge/records/event", "$SYS/broker/version"];
    host.want(vec![broker("broker"), user("one", &[]), user("three", &declared), user("two", &[])]).await;
    host.until_running("broker").await;

    let mut one = MqttUser::connect(&host, "broker", "one").await;
    let mut three = MqttUser::connect(&host, "broker", "three").await;
    let mut agent = MqttUser::connect(&host, "broker", "_redforge").await;
    for reader in [&mut one, &mut three, &mut agent] {
        reader.subscribe(&["#", "redforge/#", "$SYS/#", "$CONTROL/#"]).await;
    }
    let mut two = MqttUser::connect(&host, "broker", "two").await;
    for topic in ["line/1", "redforge/records/event", "redforge/records/log"] {
        two.publish(topic).await;
    }
    for topic in ["redforge/other", "redforge/desired", "$SYS/broker/version", "$CONTROL/x"] {
        MqttUser::connect(&host, "broker", "three").await.publish_denied(topic).await;
    }
    two.publish("line/end").await;
    assert_eq!(one.heard().await, ["line/1", "line/end"], "an instance read what is not for it");
    let unique = |topics: Vec<String>| topics.into_iter().collect::<std::collections::BTreeSet<_>>();
    let wanted = |topics: &[&str]| unique(topics.iter().map(|t| (*t).to_owned()).collect());
    assert_eq!(
        unique(three.heard().await),
        wanted(&["$SYS/broker/version", "line/1", "line/end", "redforge/records/event"]),
        "what is declared can be read, and nothing else"
    );
    let collected = unique(agent.heard().await);
    assert!(
        collected.contains("redforge/records/event") && collected.contains("redforge/records/log"),
        "{collected:?}"
    );
    assert!(!collected.contains("redforge/other"), "the broker took what nobody may write: {collected:?}");
    assert_eq!(host.run_of("broker"), before, "a new user restarted the broker");
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_broker_credentials_lie_beside_the_flows_and_come_back_when_they_are_gone() {
    let mut host = Host::start().await;
    let flows = host.bring(saying("one")).await;
    host.want(vec![broker("broker"), node_red("flows", flows)]).await;
    host.until_running("flows").await;
    let connects = |host: &Host| {
        let log = Command::new("docker").args(["logs", &host.container("broker")]).output().expect("a log").stderr;
        String::from_utf8_lossy(&log).matches("u'flows'").count()
    };
    eventually("the flows connect", || connects(&host) >= 1).await;
    let inside = |command: &str| docker(&["exec", &host.container("flows"), "sh", "-c", command]);
    assert!(!inside("cat /data/flows.json").contains("REDFORGE_MQTT_PASSWORD"), "credentials are in the flows");
    assert_eq!(inside("ls /data/flows_cred.json"), "/data/flows_cred.json");
    let before = (host.run_of("broker"), host.inspect("flows", "{{.Id}}"));
    inside("rm /data/flows_cred.json");
    let (times, run) = (connects(&host), host.run_of("flows"));
    docker(&["restart", &host.container("flows")]);
    assert_ne!(host.run_of("flows"), run);
    // It comes up with empty credentials, and the broker refuses it until they are there again.
    host.until_running("flows").await;
    eventually("the flows connect again", || connects(&host) > times).await;
    let inside = |command: &str| docker(&["exec", &host.container("flows"), "sh", "-c", command]);
    assert_eq!(inside("ls /data/flows_cred.json"), "/data/flows_cred.json");
    assert_eq!((host.run_of("broker"), host.inspect("flows", "{{.Id}}")), before, "a container was made anew");
}
