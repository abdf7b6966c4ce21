//! A full disk: the state folder is a small tmpfs that the story fills until a write fails, and frees again.
use crate::words::{broker, node_red};
use redforge_shared::wire::pb;
use redforge_tests::{
    agent::TestAgent,
    flowless::broker_of,
    hub::TestHub,
    place::{Process, Tmpfs, binary, command, folder, free_port, is_root, text},
    publisher::Publisher,
    wait::{eventually, eventually_within, when},
};
use std::{fs, path::Path, time::Duration};

#[tokio::test]
async fn engine_an_agent_with_a_full_disk_stays_up_says_so_and_loses_no_acked_record() {
    assert!(is_root(), "this story mounts a tmpfs");
    let hub = TestHub::start().await;
    let place = folder();
    let disk = Tmpfs::mount(&place.path().join("edge"), "64m");
    let mut agent = TestAgent::prepare("press-1").with_state(disk.path());
    agent.enroll_at(&hub).await;
    agent.up().await;
    let mut operator = hub.operator().await;
    operator.apply(&(broker("press-1") + &node_red("press-1", "flows", None))).await;
    let at = broker_of(&mut operator, &agent).await;
    let journal = agent.dir().join("acked.jsonl");
    let mut publisher = Publisher::new(&at, "rft-publisher", &journal);
    for i in 0..50 {
        publisher.publish(&format!("before-{i}")).await;
    }
    publisher.all_acked().await;
    let filler = disk.fill();
    for i in 0..2_000 {
        publisher.publish(&format!("full-{i}")).await;
        while publisher.unacked() > 40 {
            publisher.turn().await;
        }
    }
    publisher.all_acked().await;
    eventually("the agent says that its disk is full", async || {
        let said = agent.process.as_ref().expect("it runs").said().join("\n").to_lowercase();
        when(said.contains("full") || said.contains("no space"), "not said")
    })
    .await;
    assert!(agent.process.as_mut().is_some_and(Process::is_running), "the agent died of a full disk");
    eventually("the hub and `status` name the full disk", async || {
        let host = operator.host("press-1").await.map_err(|s| s.to_string())?;
        let said = text(&agent.status(&[]));
        let named = host.reason() == pb::StatusReason::DiskFull && said.contains("the disk is full: free some space");
        when(named, (host.reason(), said))
    })
    .await;
    fs::remove_file(filler).expect("own file");
    operator.host_when("press-1", "the host is well again", |h| h.reason() != pb::StatusReason::DiskFull).await;
    let pool = hub.postgres.pool().await;
    eventually("everything acked arrives after the disk is freed", async || {
        let n: i64 = sqlx::query_scalar("SELECT count(*) FROM record_event").fetch_one(&pool).await.expect("there");
        when(n == 2_050, n)
    })
    .await;
    let checked = hub.checker(&["--keyed", &journal.display().to_string()]);
    assert!(checked.good, "{}", checked.text);
}

/// What PostgreSQL says of itself in its state folder: process, moment of its start, folder of its socket.
fn postmaster(state: &Path) -> Option<(u32, u64, String)> {
    let said = fs::read_to_string(state.join("postgres/data/postmaster.pid")).ok()?;
    let lines: Vec<&str> = said.lines().map(str::trim).collect();
    Some((lines.first()?.parse().ok()?, lines.get(2)?.parse().ok()?, (*lines.get(4)?).to_owned()))
}

/// A connection past the hub, as any program on the machine could have one.
async fn beside(state: &Path) -> Result<sqlx::PgConnection, String> {
    let (_, _, socket) = postmaster(state).ok_or("PostgreSQL is down")?;
    let url = format!("postgres://redforge@localhost/redforge?host={socket}");
    <sqlx::PgConnection as sqlx::Connection>::connect(&url).await.map_err(|e| e.to_string())
}

fn labelled_site(n: u32) -> String {
    let label = "x".repeat(60);
    let labels = (0..40).map(|i| format!("    l{i}: {label}\n")).collect::<Vec<_>>().concat();
    format!("apiVersion: redforge.io/v1\nkind: Site\nmetadata:\n  name: s{n}\n  labels:\n{labels}spec: {{}}\n")
}

#[tokio::test]
async fn engine_a_dev_hub_with_a_full_disk_stays_up_and_restarts_its_postgresql() {
    assert!(is_root(), "this story mounts a tmpfs");
    let place = folder();
    let disk = Tmpfs::mount(&place.path().join("hub"), "192m");
    let base = free_port();
    let mut c = command(&binary("redforge-hub"));
    c.args(["dev", "--state"]).arg(disk.path()).args(["--port-base", &base.to_string()]);
    let mut hub = Process::start("dev hub", c, &place.path().join("hub.log"));
    hub.line("ready ", Duration::from_secs(90)).await;
    let token = fs::read_to_string(disk.path().join("operator.token")).expect("written").trim().to_owned();
    let root = disk.path().join("root.pem");
    let mut operator = redforge_tests::operator::Operator::connect(base + 1, &root, &token).await;
    operator.site("before").await;
    let (first_pid, first_start, _) = postmaster(disk.path()).expect("PostgreSQL runs");
    let filler = disk.fill();

    // Sites with long labels until PostgreSQL cannot write any more. Each that is answered must be there at the end.
    let mut acked = vec!["before".to_owned()];
    let mut n = 0;
    let refusal = eventually_within(Duration::from_secs(120), "a write is refused", async || {
        for _ in 0..50 {
            n += 1;
            match operator.try_apply(&labelled_site(n)).await {
                Ok(_) => acked.push(format!("s{n}")),
                Err(refusal) => return Ok(refusal),
            }
        }
        Err("still writable")
    })
    .await;
    let words = "the disk of the hub's database is full: free some space";
    assert!(refusal.code() == tonic::Code::Unavailable && refusal.message().starts_with(words), "{refusal:?}");
    eventually("the hub's log says it too", async || {
        let said = hub.said();
        when(said.iter().any(|l| l.contains("the disk of the database is full: nothing is written until")), said)
    })
    .await;

    // No table needs room for this, only the write-ahead log: without room for the next segment PostgreSQL itself ends, and
    // cannot start either.
    eventually_within(Duration::from_secs(120), "PostgreSQL ends for want of room", async || {
        let mut c = match beside(disk.path()).await {
            Ok(c) => c,
            Err(e) => return when(!Path::new(&format!("/proc/{first_pid}")).exists(), e),
        };
        for _ in 0..64 {
            let note = sqlx::query("SELECT pg_logical_emit_message(false, 'rft', repeat('x', 1000000))");
            if let Err(e) = note.execute(&mut c).await {
                return Err(e.to_string());
            }
        }
        Err("it still writes".to_owned())
    })
    .await;
    eventually_within(Duration::from_secs(120), "the hub has tried to start it and says why it does not", async || {
        let said = hub.said();
        let tried: Vec<_> =
            said.iter().filter(|l| l.contains("private PostgreSQL does not run, trying again")).collect();
        when(tried.len() >= 3 && tried[2].contains("is full"), format!("{tried:?}"))
    })
    .await;
    let refusal = operator.try_apply(&labelled_site(0)).await.expect_err("there is no database");
    let words = "the hub's database is not available at the moment";
    assert!(refusal.code() == tonic::Code::Unavailable && refusal.message().starts_with(words), "{refusal:?}");
    assert!(hub.is_running(), "the hub died of a full disk");

    fs::remove_file(filler).expect("own file");
    eventually("the hub writes again", async || {
        let site = "apiVersion: redforge.io/v1\nkind: Site\nmetadata:\n  name: after\nspec: {}\n";
        operator.try_apply(site).await.map_err(|s| s.to_string())
    })
    .await;
    acked.push("after".into());
    eventually("the hub's log says that there is room again", async || {
        let said = hub.said();
        when(said.iter().any(|l| l.contains("the disk of the database has room again")), said)
    })
    .await;
    let (pid, start, _) = postmaster(disk.path()).expect("PostgreSQL runs");
    assert!(pid != first_pid && start > first_start, "it is the PostgreSQL of before: {pid}, {start}");
    let mut c = beside(disk.path()).await.expect("PostgreSQL answers");
    let there: Vec<String> =
        sqlx::query_scalar("SELECT name FROM site").fetch_all(&mut c).await.expect("sites can be read");
    let missing: Vec<_> = acked.iter().filter(|name| !there.contains(name)).collect();
    assert!(missing.is_empty(), "acked writes were lost: {missing:?} of {}", acked.len());
    drop(c);
    hub.stop(Duration::from_secs(60)).await;
}
