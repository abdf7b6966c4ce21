//! The agents' door for records, with the certificate of an enrolled host and no agent behind it.
use prost::Message as _;
use redforge_shared::wire::pb::{self, upload_request, upload_response};
use redforge_tests::{
    agent::TestAgent,
    hub::TestHub,
    operator::Operator,
    place::{Process, Tmpfs, binary, command, folder, free_port, is_root},
    upload::{Upload, hello},
    wait::{eventually, eventually_within},
};
use std::{fs, path::Path, time::Duration};
use tonic::Code;

/// What the agent's own certificate opens the door with.
fn config(agent: &TestAgent) -> rustls::ClientConfig {
    redforge_shared::daemon::install_crypto();
    let identity = redforge_edge::identity::IdentityDir::open(agent.state()).expect("a folder of keys");
    let enrolled = identity.enrolled().expect("can be read").expect("is enrolled");
    enrolled.client_config(time::OffsetDateTime::UNIX_EPOCH).expect("good")
}

fn stream() -> pb::StreamId {
    pb::StreamId { class: pb::RecordClass::Log.into(), epoch: vec![7; 16].into() }
}

fn line(bytes: usize) -> bytes::Bytes {
    let log = pb::LogRecord { line: "x".repeat(bytes), ..Default::default() };
    let at = Some(redforge_shared::wire::timestamp(time::OffsetDateTime::UNIX_EPOCH));
    let body = Some(pb::sealed_record::Body::Log(log));
    pb::SealedRecord { at, body, ..Default::default() }.encode_to_vec().into()
}

fn batch(first_seq: u64, records: Vec<bytes::Bytes>) -> upload_request::Message {
    upload_request::Message::Batch(pb::Batch { stream: Some(stream()), first_seq, records, live: true })
}

fn is_ack(answer: &Option<upload_response::Message>, first: u64, last: u64) -> bool {
    let want = pb::Ack { stream: Some(stream()), first_seq: first, last_seq: last };
    matches!(answer, Some(upload_response::Message::Ack(ack)) if *ack == want)
}

fn refusal(answer: &Option<upload_response::Message>) -> Option<pb::RefusedReason> {
    match answer {
        Some(upload_response::Message::Refused(refused)) => Some(refused.reason()),
        _ => None,
    }
}

async fn number(hub: &TestHub, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(&hub.postgres.pool().await).await.expect("the hub's tables are there")
}

async fn enrolled(hub: &TestHub, name: &str) -> TestAgent {
    let mut agent = TestAgent::prepare(name);
    agent.enroll_at(hub).await;
    agent
}

const LINES: &str = "SELECT count(*) FROM record_log";

#[tokio::test]
async fn an_upload_out_of_turn_is_ended_by_name() {
    let hub = TestHub::start().await;
    let agent = enrolled(&hub, "press-1").await;
    let mut early = Upload::open(hub.agents_port, config(&agent)).await.expect("is let in");
    let status = early.say(batch(1, vec![line(5)])).await.expect_err("no hello came");
    assert_eq!((status.code(), status.message()), (Code::FailedPrecondition, "the hello must come first"));

    let mut twice = Upload::greeted(hub.agents_port, config(&agent)).await;
    let status = twice.say(hello()).await.expect_err("a second hello");
    assert_eq!((status.code(), status.message()), (Code::FailedPrecondition, "a second hello"));

    let mut empty = Upload::greeted(hub.agents_port, config(&agent)).await;
    empty.out.send(pb::UploadRequest { message: None }).await.expect("is taken");
    let status = empty.answers.message().await.expect_err("nothing was said");
    assert_eq!((status.code(), status.message()), (Code::InvalidArgument, "the upload message is empty"));

    let mut nameless = Upload::greeted(hub.agents_port, config(&agent)).await;
    let batch = pb::Batch { stream: None, first_seq: 1, records: vec![line(5)], live: true };
    let status = nameless.say(upload_request::Message::Batch(batch)).await.expect_err("no stream is named");
    assert_eq!((status.code(), status.message()), (Code::InvalidArgument, "batch.stream: is missing"));
    assert_eq!(number(&hub, LINES).await, 0);
}

#[tokio::test]
async fn a_batch_over_its_bounds_is_refused_and_the_upload_goes_on() {
    let hub = TestHub::start().await;
    let agent = enrolled(&hub, "press-1").await;
    let mut upload = Upload::greeted(hub.agents_port, config(&agent)).await;
    let too_many = batch(1, vec![line(1); 1_001]);
    // Each within its own bound, together above 1 MiB.
    let too_large = batch(1, vec![line(15_000); 71]);
    let too_long = batch(1, vec![line(600 * 1024)]);
    let nonsense = batch(1, vec![line(5), bytes::Bytes::from_static(&[0xff; 40])]);
    for bad in [
        too_many,
        too_large,
        too_long,
        nonsense,
        batch(1, vec![]),
        batch(0, vec![line(1)]),
        batch(u64::MAX, vec![line(1); 2]),
    ] {
        let answer = upload.say(bad).await.expect("the upload goes on");
        assert_eq!(refusal(&answer), Some(pb::RefusedReason::Malformed), "{answer:?}");
    }
    let whole = upload.say(batch(1, vec![line(1); 1_000])).await.expect("is answered");
    assert!(is_ack(&whole, 1, 1_000), "{whole:?}");
    assert_eq!(number(&hub, LINES).await, 1_000);
    // Beyond the largest message the upload itself is ended: by name, unless the end overtakes its reason on the way. The
    // host may come again.
    match upload.say(batch(1_001, vec![line(500 * 1024); 5])).await {
        Err(status) => assert_eq!(status.code(), Code::OutOfRange, "{status:?}"),
        Ok(answer) => assert!(answer.is_none(), "2.5 MB in a message were answered: {answer:?}"),
    }
    let mut again = Upload::greeted(hub.agents_port, config(&agent)).await;
    let answer = again.say(batch(1_001, vec![line(1)])).await.expect("is answered");
    assert!(is_ack(&answer, 1_001, 1_001), "{answer:?}");
}

#[tokio::test]
async fn a_host_reaches_its_own_streams_only() {
    let hub = TestHub::start().await;
    let (first, second) = (enrolled(&hub, "press-1").await, enrolled(&hub, "press-2").await);
    let mut one = Upload::greeted(hub.agents_port, config(&first)).await;
    assert!(is_ack(&one.say(batch(1, vec![line(1); 5])).await.expect("is answered"), 1, 5));
    // The same class and epoch said by another host: a stream of its own, whatever it claims to have.
    let mut other = Upload::open(hub.agents_port, config(&second)).await.expect("is let in");
    let claimed = pb::OpenStream {
        stream: Some(stream()),
        max_seq: 5,
        lost: vec![pb::LostRange {
            range: Some(pb::SeqRange { first: 1, last: 5 }),
            reason: pb::LostReason::Dropped.into(),
        }],
        opened_at: None,
    };
    let hello = pb::UploadHello { run_id: vec![2; 16].into(), streams: vec![claimed] };
    let answer = other.say(upload_request::Message::Hello(hello)).await.expect("is answered");
    let Some(upload_response::Message::Welcome(welcome)) = answer else { panic!("{answer:?}") };
    assert!(welcome.committed[0].ranges.is_empty(), "it was told of another host's records: {welcome:?}");
    assert!(is_ack(&other.say(batch(3, vec![line(2)])).await.expect("is answered"), 3, 3));
    let untouched = "SELECT count(*) FROM stream s JOIN host h ON h.id = s.host_id WHERE h.name = 'press-1' \
                     AND committed = '{[1,6)}' AND lost = '{}' AND resent = 0";
    assert_eq!(number(&hub, untouched).await, 1);
    assert_eq!(number(&hub, LINES).await, 6);
}

#[tokio::test]
async fn a_fenced_host_lands_nothing_more_on_a_live_upload() {
    let hub = TestHub::start().await;
    let agent = enrolled(&hub, "press-1").await;
    let mut upload = Upload::greeted(hub.agents_port, config(&agent)).await;
    assert!(is_ack(&upload.say(batch(1, vec![line(1)])).await.expect("is answered"), 1, 1));
    let pool = hub.postgres.pool().await;
    let fence = |sql: &'static str| {
        let pool = pool.clone();
        async move { sqlx::query(sql).execute(&pool).await.expect("the table is there") }
    };
    fence("UPDATE host SET fenced_at = now()").await;
    let status = upload.say(batch(2, vec![line(1)])).await.expect_err("is fenced");
    assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
    assert!(status.message().contains("fenced until an operator decides"), "{status:?}");
    let Err(status) = Upload::open(hub.agents_port, config(&agent)).await else { panic!("a fenced host was let in") };
    assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
    assert_eq!(number(&hub, LINES).await, 1);
    fence("UPDATE host SET fenced_at = NULL").await;
    let mut again = Upload::greeted(hub.agents_port, config(&agent)).await;
    assert!(is_ack(&again.say(batch(2, vec![line(1)])).await.expect("is answered"), 2, 2));
}

#[tokio::test]
async fn while_the_database_is_away_batches_are_put_off_and_none_is_acked() {
    let hub = TestHub::start().await;
    let agent = enrolled(&hub, "press-1").await;
    let mut upload = Upload::greeted(hub.agents_port, config(&agent)).await;
    assert!(is_ack(&upload.say(batch(1, vec![line(1); 10])).await.expect("is answered"), 1, 10));
    hub.postgres.down();
    for _ in 0..3 {
        let answer = upload.say(batch(11, vec![line(1); 10])).await.expect("the upload stays open");
        assert_eq!(refusal(&answer), Some(pb::RefusedReason::Busy), "{answer:?}");
    }
    hub.postgres.up();
    eventually("the same batch is acked", async || {
        let answer = upload.say(batch(11, vec![line(1); 10])).await.map_err(|s| s.to_string())?;
        if is_ack(&answer, 11, 20) { Ok(()) } else { Err(format!("{answer:?}")) }
    })
    .await;
    assert_eq!(number(&hub, LINES).await, 20);
    assert_eq!(number(&hub, "SELECT resent FROM stream").await, 0, "what was put off had not landed");
}

#[tokio::test]
async fn engine_a_full_disk_puts_batches_off_and_loses_no_acked_one() {
    assert!(is_root(), "this story mounts a tmpfs");
    let place = folder();
    let disk = Tmpfs::mount(&place.path().join("hub"), "192m");
    let base = free_port();
    let mut c = command(&binary("redforge-hub"));
    c.args(["dev", "--state"]).arg(disk.path()).args(["--port-base", &base.to_string()]);
    let mut hub = Process::start("dev hub", c, &place.path().join("hub.log"));
    hub.line("ready ", Duration::from_secs(90)).await;
    let agent = enrolled_at_dev(base, disk.path()).await;
    let mut upload = Upload::greeted(base, config(&agent)).await;
    let records = || vec![line(10_000); 100];
    let filler = disk.fill();
    let mut acked = 0_u64;
    eventually_within(Duration::from_secs(120), "a batch is put off", async || {
        loop {
            let answer = upload.say(batch(acked + 1, records())).await;
            match &answer {
                Ok(answer) if is_ack(answer, acked + 1, acked + 100) => acked += 100,
                Ok(answer) if refusal(answer) == Some(pb::RefusedReason::Busy) => return Ok(()),
                other => return Err(format!("neither acked nor put off: {other:?}")),
            }
        }
    })
    .await;
    assert!(hub.is_running(), "the hub died of a full disk");
    fs::remove_file(filler).expect("own file");
    // PostgreSQL may have to be started again, and the hub's door may have closed the upload meanwhile.
    eventually_within(Duration::from_secs(120), "the same batch is acked once there is room", async || {
        match upload.say(batch(acked + 1, records())).await {
            Ok(answer) if is_ack(&answer, acked + 1, acked + 100) => Ok(()),
            Ok(answer) => Err(format!("{answer:?}")),
            Err(status) => Err(status.to_string()),
        }
    })
    .await;
    acked += 100;
    let url = fs::read_to_string(disk.path().join("database.url")).expect("dev writes its address");
    let pool = sqlx::PgPool::connect(url.trim()).await.expect("the hub's PostgreSQL serves");
    let found: (i64, i64) = sqlx::query_as("SELECT count(*), count(DISTINCT seq) FROM record_log WHERE seq <= $1")
        .bind(acked as i64)
        .fetch_one(&pool)
        .await
        .expect("there");
    assert_eq!(found, (acked as i64, acked as i64), "every acked record is there, once");
    pool.close().await;
    hub.stop(Duration::from_secs(60)).await;
}

async fn enrolled_at_dev(base: u16, state: &Path) -> TestAgent {
    let token = fs::read_to_string(state.join("operator.token")).expect("written").trim().to_owned();
    let mut operator = Operator::connect(base + 1, &state.join("root.pem"), &token).await;
    operator.site("plant").await;
    let agent = TestAgent::prepare("press-1");
    let output = agent.enroll(&operator.enroll_token("plant").await);
    assert!(output.status.success(), "{}", redforge_tests::place::text(&output));
    agent
}
