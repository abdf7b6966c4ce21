//! The big one: keyed records and numbered lines across kills of agent and hub and cuts of the link.
//!
//! Half of the kills are aimed with fault points: at the moment between a commit and its answer, where a repeat must follow.
//! The cuts are aimed too: packets that arrive after their sender has sent them again, and PUBACKs that never arrive.
use crate::words::{broker, instance, node_red};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use redforge_tests::{
    agent::TestAgent,
    engine::image,
    flowless::broker_of,
    hub::TestHub,
    place::text,
    proxy::{Proxy, Weather},
    publisher::{Broker, Publisher},
    wait::{eventually, eventually_within, when},
};
use sqlx::PgPool;
use std::{
    cell::Cell,
    time::{Duration, Instant},
};

const KEYS: u64 = 10_000;
const LINES: u64 = 5_000;
const SEED: u64 = 20_261_123;
/// Keys that may be published for one kill, and for one cut.
const KEYS_A_KILL: u64 = 430;
const KEYS_A_CUT: u64 = 230;
const SLOW: Weather = Weather::Delay(Duration::from_millis(40));
const PATIENCE: Duration = Duration::from_secs(90);

/// What happens to whom.
#[derive(Clone, Copy, Debug)]
enum Act {
    /// The agent is killed at a fault point, or somewhere in a weather.
    AgentAt(&'static str),
    AgentIn(Weather),
    HubAt(&'static str),
    HubIn(Weather),
    /// The link is reset, and what was under way arrives when all of it has been sent again.
    LateLink,
    /// The publisher's PUBACKs do not arrive, then its connection is reset.
    DeafPublisher,
}

const ACTS: [Act; 26] = [
    Act::AgentAt("puback.before"),
    Act::HubAt("ack.before"),
    Act::AgentIn(SLOW),
    Act::LateLink,
    Act::HubIn(Weather::Clear),
    Act::AgentAt("upload.before-mark"),
    Act::HubAt("ack.before"),
    Act::DeafPublisher,
    Act::AgentAt("puback.before"),
    Act::HubIn(Weather::Blackhole),
    Act::AgentAt("upload.before-send"),
    Act::HubAt("ack.before"),
    Act::LateLink,
    Act::AgentIn(Weather::Reset),
    Act::HubIn(Weather::Reset),
    Act::DeafPublisher,
    Act::AgentAt("puback.before"),
    Act::HubAt("ack.before"),
    Act::AgentAt("upload.before-mark"),
    Act::HubIn(SLOW),
    Act::LateLink,
    Act::AgentAt("upload.before-send"),
    Act::HubAt("ack.before"),
    Act::DeafPublisher,
    Act::AgentAt("puback.before"),
    Act::HubIn(Weather::Clear),
];

/// Prints its lines over some fifty seconds, then waits.
fn printer(host: &str) -> String {
    let script = format!(
        "i=0; while [ $i -lt {LINES} ]; do j=0; while [ $j -lt 100 ]; do i=$((i+1)); j=$((j+1)); echo \\\"line $i\\\"; \
         done; sleep 1; done; exec sleep 100000"
    );
    let more = format!("  collectLogs: true\n  container:\n    command: [sh, -c, \"{script}\"]\n");
    instance(host, "printer", "container", &image("busybox"), &more)
}

async fn number(pool: &PgPool, sql: &'static str) -> u64 {
    let n: i64 = sqlx::query_scalar(sql).fetch_one(pool).await.expect("the hub's tables are there");
    n.unsigned_abs()
}

/// What the publisher and the one who kills tell each other.
#[derive(Default)]
struct Board {
    /// Keys that may be published by now.
    allowed: Cell<u64>,
    acked: Cell<u64>,
    unacked: Cell<usize>,
}

impl Board {
    fn allow(&self, more: u64) {
        self.allowed.set((self.allowed.get() + more).min(KEYS));
    }
}

async fn publish_all(mut publisher: Publisher, board: &Board) {
    let mut published = 0;
    while publisher.acked < KEYS {
        while published < board.allowed.get() && publisher.unacked() < 40 {
            published += 1;
            publisher.publish(&format!("part-{published:05}")).await;
        }
        drop(tokio::time::timeout(Duration::from_millis(20), publisher.turn()).await);
        board.acked.set(publisher.acked);
        board.unacked.set(publisher.unacked());
    }
}

struct Chaos<'a> {
    hub: &'a mut TestHub,
    agent: &'a mut TestAgent,
    link: &'a Proxy,
    to_broker: &'a Proxy,
    pool: PgPool,
    board: &'a Board,
    random: StdRng,
    kills: u64,
    in_flight_kills: u64,
}

impl Chaos<'_> {
    async fn all(mut self) -> (u64, u64) {
        for act in ACTS {
            match act {
                Act::AgentAt(_) | Act::AgentIn(_) | Act::HubAt(_) | Act::HubIn(_) => self.kill(act).await,
                Act::LateLink => self.late_link().await,
                Act::DeafPublisher => self.deaf_publisher().await,
            }
        }
        self.board.allow(KEYS);
        (self.kills, self.in_flight_kills)
    }

    async fn kill(&mut self, act: Act) {
        let began = self.board.acked.get();
        let (a_few, some) = (self.random.random_range(0..3), self.random.random_range(60..300));
        let agent = matches!(act, Act::AgentAt(_) | Act::AgentIn(_));
        let process = if agent { &mut self.agent.process } else { &mut self.hub.process };
        let process = process.as_mut().expect("it was started again");
        match act {
            Act::AgentAt(point) | Act::HubAt(point) => {
                process.arm(&format!("{point}={a_few}*off->panic")).await;
                self.board.allow(KEYS_A_KILL);
                process.killed(PATIENCE).await;
            }
            Act::AgentIn(weather) | Act::HubIn(weather) => {
                self.link.set(weather);
                self.board.allow(KEYS_A_KILL);
                let board = self.board;
                eventually(&format!("{some} more are published"), async || {
                    let acked = board.acked.get();
                    when(acked >= began + some, acked)
                })
                .await;
                process.kill9();
            }
            Act::LateLink | Act::DeafPublisher => {}
        }
        let (rows, publishes) = (self.waiting_rows(), self.board.unacked.get());
        self.kills += 1;
        self.in_flight_kills += u64::from(rows > 0 || publishes > 0);
        println!("kill {:>2}: {act:?}: {rows} rows unacked, {publishes} publishes without PUBACK", self.kills);
        tokio::time::sleep(Duration::from_millis(self.random.random_range(50..500))).await;
        self.link.set(Weather::Clear);
        if agent {
            self.agent.up().await;
        } else {
            self.hub.up().await;
        }
    }

    /// Rows of the agent's outbox that it does not know to be at the hub.
    fn waiting_rows(&self) -> i64 {
        let outbox = self.agent.outbox();
        outbox.query_row("SELECT coalesce(sum(waiting), 0) FROM stream", [], |r| r.get(0)).expect("the agent's table")
    }

    async fn all_stored(&self, what: &str) {
        eventually(what, async || {
            let (acked, stored) =
                (self.board.acked.get(), number(&self.pool, "SELECT count(*) FROM record_event").await);
            when(stored >= acked && acked == self.board.allowed.get(), (acked, stored))
        })
        .await;
    }

    async fn late_link(&mut self) {
        const RESENT: &str = "SELECT coalesce(sum(resent), 0)::bigint FROM stream";
        self.all_stored("the link stands").await;
        let (before, held) = (number(&self.pool, RESENT).await, self.link.held());
        self.link.set(Weather::Held);
        self.board.allow(KEYS_A_CUT);
        eventually("batches are under way", async || {
            let (rows, held) = (self.waiting_rows(), self.link.held() - held);
            when(rows > 100 && held > 1_000, (rows, held))
        })
        .await;
        self.link.set(Weather::Clear);
        self.all_stored("all of it is sent again on a new connection").await;
        self.link.release();
        let resent = eventually("what arrives late is known to be there", async || {
            let resent = number(&self.pool, RESENT).await;
            if resent > before { Ok(resent) } else { Err(resent) }
        })
        .await;
        println!("cut: LateLink: {} records came twice", resent - before);
    }

    async fn deaf_publisher(&mut self) {
        self.to_broker.set(Weather::Deaf);
        self.board.allow(KEYS_A_CUT);
        eventually("publishes wait for their PUBACK", async || {
            let n = self.board.unacked.get();
            when(n >= 40, n)
        })
        .await;
        println!("cut: DeafPublisher: {} publishes without PUBACK", self.board.unacked.get());
        self.to_broker.set(Weather::Reset);
        eventually("the publisher is cut off", async || {
            let open = self.to_broker.open();
            when(open == 0, open)
        })
        .await;
        self.to_broker.set(Weather::Clear);
    }
}

/// Hub and agent with fault points, the agent enrolled through `link`.
async fn enrolled(hub: &TestHub, link: &Proxy) -> (TestAgent, Broker) {
    let mut agent = TestAgent::prepare("press-1");
    agent.faults = true;
    let mut operator = hub.operator().await;
    operator.site("plant").await;
    let token = operator.enroll_token("plant").await;
    let output = agent.enroll_with(&link.url(), &token.token, &token.ca_pin);
    assert!(output.status.success(), "{}", text(&output));
    agent.host_id = operator.host("press-1").await.expect("registered").id;
    agent.up().await;
    operator.apply(&(broker("press-1") + &node_red("press-1", "flows", None) + &printer("press-1"))).await;
    let broker = broker_of(&mut operator, &agent).await;
    (agent, broker)
}

#[tokio::test]
async fn docker_ten_thousand_keyed_records_and_five_thousand_lines_survive_twenty_kills() {
    let mut hub = TestHub::start().await;
    hub.stop().await;
    hub.faults = true;
    hub.up().await;
    let link = Proxy::start(hub.agents_port).await;
    let (mut agent, at) = enrolled(&hub, &link).await;
    let to_broker = Proxy::to(format!("{}:{}", at.address, at.port).parse().expect("an address")).await;
    let at = Broker { address: "127.0.0.1".into(), port: to_broker.port, ..at };
    let journal = agent.dir().join("acked.jsonl");
    let publisher = Publisher::new(&at, "rft-publisher", &journal);
    let (board, pool) = (Board::default(), hub.postgres.pool().await);
    let began = Instant::now();
    let chaos = Chaos {
        hub: &mut hub,
        agent: &mut agent,
        link: &link,
        to_broker: &to_broker,
        pool: pool.clone(),
        board: &board,
        random: StdRng::seed_from_u64(SEED),
        kills: 0,
        in_flight_kills: 0,
    };
    let ((), (kills, in_flight_kills)) = tokio::join!(publish_all(publisher, &board), chaos.all());
    println!("{kills} kills in {} s, {in_flight_kills} with something in flight", began.elapsed().as_secs());
    eventually_within(Duration::from_secs(240), "everything is committed", async || {
        let events = number(&pool, "SELECT count(DISTINCT key) FROM record_event").await;
        let lines = number(&pool, "SELECT count(DISTINCT line) FROM record_log WHERE starts_with(line, 'line ')").await;
        when(events >= KEYS && lines >= LINES, (events, lines))
    })
    .await;
    let lines = LINES.to_string();
    let keyed = journal.display().to_string();
    let checked = hub.checker(&["--keyed", &keyed, "--lines", &lines, "--lines-like", "line "]);
    println!("{}", checked.text);
    assert!(checked.good, "{}", checked.text);
    assert_eq!(checked.number("keys_expected"), KEYS);
    assert_eq!(kills, 20);
    assert!(in_flight_kills >= 15, "only {in_flight_kills} kills fell while something was in flight");
    let mut operator = hub.operator().await;
    let host = operator.host_when("press-1", "the outbox is empty", |h| h.outbox.iter().all(|o| o.waiting == 0)).await;
    let (resent, absorbed) = (checked.number("resent"), host.outbox.iter().map(|o| o.absorbed).sum::<u64>());
    println!("resent {resent}, absorbed {absorbed}");
    assert!(resent > 0, "nothing was sent twice: no cut fell between a commit and its ack");
    assert!(absorbed > 0, "no key was repeated: no kill fell between a commit and its PUBACK");
}
