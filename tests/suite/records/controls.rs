//! Negative controls, made from outside: with a guard taken out, the checker must name a key that is stored twice.
use crate::words::{broker, node_red};
use redforge_tests::{
    agent::TestAgent,
    flowless::broker_of,
    hub::TestHub,
    operator::Operator,
    publisher::Publisher,
    wait::{eventually, when},
};

async fn host_with_broker(hub: &TestHub) -> (TestAgent, Operator, Publisher) {
    let agent = TestAgent::start(hub, "press-1").await;
    let mut operator = hub.operator().await;
    operator.apply(&(broker("press-1") + &node_red("press-1", "flows", None))).await;
    let at = broker_of(&mut operator, &agent).await;
    let publisher = Publisher::new(&at, "rft-publisher", &agent.dir().join("acked.jsonl"));
    (agent, operator, publisher)
}

async fn rows(hub: &TestHub) -> i64 {
    let pool = hub.postgres.pool().await;
    sqlx::query_scalar("SELECT count(*) FROM record_event").fetch_one(&pool).await.expect("the hub's tables are there")
}

#[tokio::test]
async fn docker_a_repeated_key_is_stored_once() {
    let hub = TestHub::start().await;
    let (_agent, _operator, mut publisher) = host_with_broker(&hub).await;
    for key in ["one", "again", "again", "two"] {
        publisher.publish(key).await;
    }
    publisher.all_acked().await;
    eventually("three rows are committed", async || {
        let n = rows(&hub).await;
        when(n == 3, n)
    })
    .await;
    assert!(hub.checker(&[]).good);
}

#[tokio::test]
async fn docker_without_the_outbox_index_the_checker_names_a_key_stored_twice() {
    let hub = TestHub::start().await;
    let (mut agent, _operator, mut publisher) = host_with_broker(&hub).await;
    publisher.publish("first").await;
    publisher.all_acked().await;
    eventually("the first row is committed", async || when(rows(&hub).await == 1, "not yet")).await;
    agent.stop().await;
    let outbox = rusqlite::Connection::open(agent.state().join("outbox.db")).expect("the agent made it");
    outbox.execute_batch("DROP INDEX record_key").expect("the index is named so");
    drop(outbox);
    agent.up().await;
    for _ in 0..2 {
        publisher.publish("again").await;
        publisher.all_acked().await;
    }
    eventually("both rows are committed", async || {
        let n = rows(&hub).await;
        when(n == 3, n)
    })
    .await;
    let checked = hub.checker(&[]);
    assert!(!checked.good, "the checker saw nothing:\n{}", checked.text);
    assert_eq!(checked.differences(), ["stored_twice: event key 'again' is stored 2 times"]);
}

#[tokio::test]
async fn docker_with_committed_emptied_by_a_trigger_the_checker_names_a_key_stored_twice() {
    let hub = TestHub::start().await;
    let (mut agent, _operator, mut publisher) = host_with_broker(&hub).await;
    let pool = hub.postgres.pool().await;
    for statement in [
        "CREATE FUNCTION forget() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.committed := '{}'; RETURN NEW; END $$",
        "CREATE TRIGGER forget BEFORE INSERT OR UPDATE ON stream FOR EACH ROW EXECUTE FUNCTION forget()",
    ] {
        sqlx::query(statement).execute(&pool).await.expect("the story may change its own database");
    }
    publisher.publish("only").await;
    publisher.all_acked().await;
    eventually("the row is committed", async || when(rows(&hub).await >= 1, "not yet")).await;
    // At the next hello the hub says that it has nothing, and the agent sends it all again.
    agent.kill9();
    agent.up().await;
    eventually("the row is stored again", async || {
        let n = rows(&hub).await;
        when(n >= 2, n)
    })
    .await;
    let checked = hub.checker(&[]);
    assert!(!checked.good, "the checker saw nothing:\n{}", checked.text);
    let named = checked.differences();
    assert!(named.iter().any(|d| d.starts_with("stored_twice: event key 'only' is stored")), "{named:?}");
    // The same planted fault shows in the numbers and in the emptied row itself; anything else would be another failure.
    let consequences = ["stored_twice: event key 'only'", "number_stored_twice: ", "committed_not_stored: ", "gaps: "];
    let other: Vec<_> = named.iter().filter(|d| !consequences.iter().any(|c| d.starts_with(c))).collect();
    assert!(other.is_empty(), "{other:?}");
}
