//! The big one: keyed records and numbered lines across kills of agent and hub and cuts of the link.
use crate::words::{broker, instance, node_red};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use redforge_tests::{
    agent::TestAgent,
    engine::image,
    flowless::broker_of,
    hub::TestHub,
    place::text,
    proxy::{Proxy, Weather},
    publisher::Publisher,
    wait::{eventually_within, when},
};
use sqlx::PgPool;
use std::{
    cell::Cell,
    time::{Duration, Instant},
};

const KEYS: u64 = 10_000;
const KILLS: u64 = 20;
const LINES: u64 = 5_000;
const SEED: u64 = 20_261_123;

/// Prints its lines over about two minutes, then waits.
fn printer(host: &str) -> String {
    let script = format!(
        "i=0; while [ $i -lt {LINES} ]; do j=0; while [ $j -lt 50 ]; do i=$((i+1)); j=$((j+1)); echo \\\"line $i\\\"; \
         done; sleep 1; done; exec sleep 100000"
    );
    let more = format!("  collectLogs: true\n  container:\n    command: [sh, -c, \"{script}\"]\n");
    instance(host, "printer", "container", &image("busybox"), &more)
}

async fn count(pool: &PgPool, sql: &'static str) -> u64 {
    let n: i64 = sqlx::query_scalar(sql).fetch_one(pool).await.expect("the hub's tables are there");
    n.unsigned_abs()
}

/// What the publisher and the one who kills tell each other.
struct Board {
    /// Keys that may be published by now.
    allowed: Cell<u64>,
    acked: Cell<u64>,
    unacked: Cell<usize>,
}

async fn publish_all(mut publisher: Publisher, board: &Board) {
    let mut published = 0;
    while publisher.acked < KEYS {
        while published < board.allowed.get() && publisher.unacked() < 40 {
            published += 1;
            publisher.publish(&format!("part-{published:05}")).await;
        }
        drop(tokio::time::timeout(Duration::from_millis(50), publisher.turn()).await);
        board.acked.set(publisher.acked);
        board.unacked.set(publisher.unacked());
    }
}

struct Chaos<'a> {
    hub: &'a mut TestHub,
    agent: &'a mut TestAgent,
    proxy: &'a Proxy,
    pool: PgPool,
    board: &'a Board,
    in_flight_kills: u64,
}

impl Chaos<'_> {
    /// Acked by the broker and not committed at the hub yet, beside publishes without a PUBACK.
    async fn in_flight(&self) -> (u64, usize) {
        let stored = count(&self.pool, "SELECT count(*) FROM record_event").await;
        (self.board.acked.get().saturating_sub(stored), self.board.unacked.get())
    }

    async fn all(mut self) -> u64 {
        let mut random = StdRng::seed_from_u64(SEED);
        for kill in 0..KILLS {
            let weather = match kill % 4 {
                0 => Weather::Delay(Duration::from_millis(40)),
                1 => Weather::Blackhole,
                2 => Weather::Clear,
                _ => Weather::Reset,
            };
            self.proxy.set(weather);
            // A held stream row: the hub cannot commit, the link is cut meanwhile, the agent sends the batch again.
            let mut held = self.pool.begin().await.expect("PostgreSQL serves");
            if kill % 4 == 2 {
                let lock = sqlx::query("SELECT stream_id FROM stream FOR UPDATE").execute(&mut *held).await;
                lock.expect("the table is there");
            }
            let began = self.board.acked.get();
            self.board.allowed.set((kill + 1) * KEYS / KILLS);
            let target = began + random.random_range(60..400);
            while self.board.acked.get() < target {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            if kill % 4 == 2 {
                tokio::time::sleep(Duration::from_millis(random.random_range(200..600))).await;
                self.proxy.set(Weather::Reset);
                tokio::time::sleep(Duration::from_millis(300)).await;
                self.proxy.set(Weather::Clear);
                tokio::time::sleep(Duration::from_millis(1500)).await;
            }
            let (rows, publishes) = self.in_flight().await;
            self.in_flight_kills += u64::from(rows > 0 || publishes > 0);
            let who = if kill % 2 == 0 { "agent" } else { "hub" };
            println!(
                "kill {:>2} of {who:<5} in {weather:?}: {rows} rows unacked, {publishes} publishes without PUBACK",
                kill + 1
            );
            if kill % 2 == 0 {
                self.agent.kill9();
            } else {
                self.hub.kill9();
            }
            held.rollback().await.expect("PostgreSQL serves");
            tokio::time::sleep(Duration::from_millis(random.random_range(50..800))).await;
            self.proxy.set(Weather::Clear);
            if kill % 2 == 0 {
                self.agent.up().await;
            } else {
                self.hub.up().await;
            }
        }
        self.board.allowed.set(KEYS);
        self.in_flight_kills
    }
}

#[tokio::test]
async fn docker_ten_thousand_keyed_records_and_five_thousand_lines_survive_twenty_kills() {
    let mut hub = TestHub::start().await;
    let proxy = Proxy::start(hub.agents_port).await;
    let mut agent = TestAgent::prepare("press-1");
    let mut operator = hub.operator().await;
    operator.site("plant").await;
    let token = operator.enroll_token("plant").await;
    let output = agent.enroll_with(&proxy.url(), &token.token, &token.ca_pin);
    assert!(output.status.success(), "{}", text(&output));
    agent.host_id = operator.host("press-1").await.expect("registered").id;
    agent.up().await;
    operator.apply(&(broker("press-1") + &node_red("press-1", "flows", None) + &printer("press-1"))).await;
    let at = broker_of(&mut operator, &agent).await;
    let journal = agent.dir().join("acked.jsonl");
    let publisher = Publisher::new(&at, "rft-publisher", &journal);
    let board = Board { allowed: Cell::new(0), acked: Cell::new(0), unacked: Cell::new(0) };
    let pool = hub.postgres.pool().await;
    let began = Instant::now();
    let chaos = Chaos {
        hub: &mut hub,
        agent: &mut agent,
        proxy: &proxy,
        pool: pool.clone(),
        board: &board,
        in_flight_kills: 0,
    };
    let ((), in_flight_kills) = tokio::join!(publish_all(publisher, &board), chaos.all());
    println!("{KILLS} kills in {} s, {in_flight_kills} with something in flight", began.elapsed().as_secs());
    eventually_within(Duration::from_secs(240), "everything is committed", async || {
        let events = count(&pool, "SELECT count(DISTINCT key) FROM record_event").await;
        let lines = count(&pool, "SELECT count(DISTINCT line) FROM record_log WHERE starts_with(line, 'line ')").await;
        when(events >= KEYS && lines >= LINES, (events, lines))
    })
    .await;
    let lines = LINES.to_string();
    let keyed = journal.display().to_string();
    let checked = hub.checker(&["--keyed", &keyed, "--lines", &lines, "--lines-like", "line "]);
    println!("{}", checked.text);
    assert!(checked.good, "{}", checked.text);
    assert_eq!(checked.number("keys_expected"), KEYS);
    assert!(in_flight_kills >= 15, "only {in_flight_kills} kills fell while something was in flight");
    // Whether a batch is sent twice, or a publish repeated, in just these cuts is a race that the hello usually wins: the
    // hub says what it has before the agent sends. Printed, not asserted; docs/STATUS.md keeps the point open.
    println!("resent {}", checked.number("resent"));
    let mut operator = hub.operator().await;
    let host = operator.host_when("press-1", "the outbox is empty", |h| h.outbox.iter().all(|o| o.waiting == 0)).await;
    println!("absorbed {}", host.outbox.iter().map(|o| o.absorbed).sum::<u64>());
}
