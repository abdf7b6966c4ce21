//! The collector against a real Mosquitto on a socket of its own. The machine must have `mosquitto`; nothing is skipped.
use super::*;
use crate::{
    db::outbox::{Limits, Outbox},
    privacy::Gate,
};
use redforge_shared::{clock::SystemClock, policy::Policy};
use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
};

const DEADLINE: Duration = Duration::from_secs(120);

struct Broker {
    child: Child,
    addr: SocketAddr,
    config: PathBuf,
}

impl Broker {
    async fn start(dir: &Path) -> Self {
        Self::start_with(dir, 0).await
    }

    /// With room for so many waiting messages per client; 0 = any number.
    async fn start_with(dir: &Path, queue: u32) -> Self {
        let addr = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port");
        let config = dir.join("mosquitto.conf");
        let text = format!(
            "listener {} 127.0.0.1\nallow_anonymous true\npersistence true\npersistence_location {}/\nmax_queued_messages {queue}\nmax_inflight_messages 200\nsys_interval 1\nuser root\n",
            addr.port(),
            dir.display()
        );
        std::fs::write(&config, text).expect("writes");
        let mut broker = Self { child: Self::spawn(&config), addr, config };
        broker.until_open().await;
        broker
    }

    fn spawn(config: &Path) -> Child {
        // Debian puts it where only root's PATH looks.
        let binary = ["/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto", "/usr/bin/mosquitto"];
        let binary = binary.into_iter().find(|p| Path::new(p).exists()).expect("mosquitto is installed");
        let mut command = Command::new(binary);
        command.arg("-c").arg(config).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().expect("mosquitto starts")
    }

    async fn until_open(&mut self) {
        let began = Instant::now();
        while TcpStream::connect(self.addr).is_err() {
            assert!(began.elapsed() < DEADLINE, "mosquitto never listens");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn restart(&mut self) {
        self.child.kill().expect("is ours");
        self.child.wait().expect("is ours");
        self.child = Self::spawn(&self.config);
        self.until_open().await;
    }

    fn endpoint(&self) -> BrokerEndpoint {
        let (user, password) = ("agent".into(), "secret".into());
        BrokerEndpoint { instance: "mq".parse().expect("a name"), addr: self.addr, home: "mq 1".into(), user, password }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

async fn outbox(dir: &Path) -> Outbox {
    let limits = Limits { reserve_bytes: 4096, ..Limits::default() };
    Outbox::open(&dir.join("outbox.db"), limits, Arc::new(SystemClock)).await.expect("opens")
}

fn host() -> HostId {
    HostId(uuid::Uuid::from_u128(9))
}

/// Runs the collector while `body` runs.
async fn collecting(outbox: &Outbox, broker: &Broker, body: impl Future<Output = ()>) {
    collecting_heard(outbox, broker, watch::Sender::default(), body).await;
}

/// The same, with what it says of the broker.
async fn collecting_heard(
    outbox: &Outbox,
    broker: &Broker,
    heard: watch::Sender<BrokersHeard>,
    body: impl Future<Output = ()>,
) {
    let (_brokers, seen) = watch::channel(vec![broker.endpoint()]);
    let tools = Tools::new(Gate::new(Policy::Open), outbox.clone(), Arc::new(SystemClock));
    let stop = CancellationToken::new();
    tokio::select! {
        () = run(seen, tools, host(), heard, stop) => panic!("the collector ended"),
        () = body => {}
    }
}

/// Publishes and waits until the broker has taken each message.
async fn publish(broker: &Broker, messages: impl IntoIterator<Item = (&'static str, String)>) {
    let mut options = MqttOptions::new("publisher", broker.addr.ip().to_string(), broker.addr.port());
    options.set_inflight(1_000).set_max_packet_size(1 << 20, 1 << 20);
    let (client, mut events) = AsyncClient::new(options, 200_000);
    let mut count = 0;
    for (class, json) in messages {
        client.try_publish(format!("{}{class}", payload::TOPIC), QoS::AtLeastOnce, false, json).expect("has room");
        count += 1;
    }
    while count > 0 {
        let event = tokio::time::timeout(DEADLINE, events.poll()).await.expect("the broker answers");
        if let Event::Incoming(Packet::PubAck(_)) = event.expect("the broker stays") {
            count -= 1;
        }
    }
}

async fn until(outbox: &Outbox, what: &str, done: impl Fn(&[crate::db::outbox::ClassStatus]) -> bool) {
    let began = Instant::now();
    loop {
        let status = outbox.status().await.expect("reads");
        if done(&status) {
            return;
        }
        assert!(began.elapsed() < DEADLINE, "{what}: {status:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The broker holds records for the agent only once it knows the agent's session: one that was published now has come. A
/// broker that was killed may have forgotten the session, so what came before says nothing.
async fn settled(outbox: &Outbox, broker: &Broker) {
    let began = Instant::now();
    let come = async || {
        let m = outbox.status().await.expect("reads")[3].clone();
        m.waiting + m.absorbed
    };
    let before = come().await;
    loop {
        publish(broker, [("measurement", r#"{"name":"n","value":1,"unit":"1","key":"settled"}"#.into())]).await;
        if come().await > before {
            return;
        }
        assert!(began.elapsed() < DEADLINE, "the collector never subscribes");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_burst_of_60_000_arrives_whole_and_the_link_does_not_stall() {
    const COUNT: u64 = 60_000;
    let dir = tempfile::tempdir().expect("a folder");
    let (broker, outbox) = (Broker::start(dir.path()).await, outbox(dir.path()).await);
    collecting(&outbox, &broker, async {
        settled(&outbox, &broker).await;
        publish(&broker, (0..COUNT).map(|n| ("log", format!(r#"{{"key":"{n}","line":"line {n}"}}"#)))).await;
        until(&outbox, "every key once", |s| s[1].waiting == COUNT).await;
    })
    .await;
}

#[tokio::test]
async fn what_was_published_while_the_agent_was_away_comes_later_and_a_restarted_broker_is_found_again() {
    let dir = tempfile::tempdir().expect("a folder");
    let (mut broker, outbox) = (Broker::start(dir.path()).await, outbox(dir.path()).await);
    collecting(&outbox, &broker, settled(&outbox, &broker)).await;
    let events =
        |from: u64| (from..from + 50).map(|n| ("event", format!(r#"{{"key":"{n}","name":"e","payload":{{}}}}"#)));
    publish(&broker, events(0)).await;
    collecting(&outbox, &broker, until(&outbox, "the session kept them", |s| s[2].waiting == 50)).await;
    broker.restart().await;
    collecting(&outbox, &broker, async {
        settled(&outbox, &broker).await;
        // Some keys again: absorbed and counted, not stored.
        publish(&broker, events(40)).await;
        until(&outbox, "new ones after a restart", |s| s[2].waiting == 90 && s[2].absorbed >= 10).await;
    })
    .await;
}

#[tokio::test]
async fn a_message_that_is_no_record_is_counted_and_holds_up_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    let (broker, outbox) = (Broker::start(dir.path()).await, outbox(dir.path()).await);
    collecting(&outbox, &broker, async {
        settled(&outbox, &broker).await;
        let bad = [
            ("log", r#"{"line":"x","what":1}"#.to_owned()),
            ("log", "\u{0}garbage".to_owned()),
            ("event", format!(r#"{{"name":"e","payload":{{"a":"{}"}}}}"#, "x".repeat(100_000))),
            ("nonsense", "{}".to_owned()),
        ];
        publish(&broker, bad).await;
        publish(&broker, [("log", r#"{"line":"good"}"#.to_owned())]).await;
        until(&outbox, "two logs and two others refused", |s| (s[1].refused, s[1].waiting, s[2].refused) == (2, 1, 2))
            .await;
    })
    .await;
}

/// Waits until the collector says this of the only broker.
async fn until_heard(heard: &watch::Sender<BrokersHeard>, what: &str, so: impl Fn(u64) -> bool) -> u64 {
    let mut seen = heard.subscribe();
    let is_so = |all: &BrokersHeard| all.get("mq 1").is_some_and(|n| so(*n));
    let found = tokio::time::timeout(DEADLINE, seen.wait_for(is_so)).await;
    let found = found.unwrap_or_else(|_| panic!("{what}: {:?}", heard.borrow())).expect("the sender lives");
    found["mq 1"]
}

/// A client that went away and whose queue holds ten messages, and 500 more for it.
async fn overflow(broker: &Broker) {
    let mut options = MqttOptions::new("absent", broker.addr.ip().to_string(), broker.addr.port());
    options.set_clean_session(false);
    let (client, mut events) = AsyncClient::new(options, 10);
    client.try_subscribe("line/#", QoS::AtLeastOnce).expect("has room");
    loop {
        let event = tokio::time::timeout(DEADLINE, events.poll()).await.expect("the broker answers");
        if let Event::Incoming(Packet::SubAck(_)) = event.expect("the broker stays") {
            break;
        }
    }
    drop((client, events));
    let mut options = MqttOptions::new("line", broker.addr.ip().to_string(), broker.addr.port());
    options.set_inflight(100);
    let (client, mut events) = AsyncClient::new(options, 1_000);
    for n in 0..500 {
        client.try_publish("line/1", QoS::AtLeastOnce, false, n.to_string()).expect("has room");
    }
    let mut acked = 0;
    while acked < 500 {
        let event = tokio::time::timeout(DEADLINE, events.poll()).await.expect("the broker answers");
        acked += u32::from(matches!(event.expect("the broker stays"), Event::Incoming(Packet::PubAck(_))));
    }
}

#[tokio::test]
async fn what_a_broker_throws_away_is_told_and_kept_over_its_restarts_and_ours() {
    let dir = tempfile::tempdir().expect("a folder");
    let (mut broker, outbox) = (Broker::start_with(dir.path(), 10).await, outbox(dir.path()).await);
    let heard = watch::Sender::new(BrokersHeard::new());
    let mut first = 0;
    collecting_heard(&outbox, &broker, heard.clone(), async {
        assert_eq!(until_heard(&heard, "the session is there", |_| true).await, 0);
        overflow(&broker).await;
        first = until_heard(&heard, "the number is told", |n| n > 0).await;
    })
    .await;
    // The broker counts from nothing again, and another process collects.
    broker.restart().await;
    let heard = watch::Sender::new(BrokersHeard::new());
    collecting_heard(&outbox, &broker, heard.clone(), async {
        assert!(until_heard(&heard, "the session is there", |_| true).await >= first, "what was counted is forgotten");
        overflow(&broker).await;
        until_heard(&heard, "the sum grows", |n| n > first).await;
    })
    .await;
}
