//! The outbox on real files: what an append, an ack, a cap, a crash and a damaged page do.
use super::*;
use crate::privacy::{Gate, RawRecord};
use redforge_shared::{
    clock::ManualClock,
    policy::Policy,
    record::{Body, Event, Log, MAX_BATCH_RECORDS},
};
use time::OffsetDateTime;

pub(super) fn clock() -> ManualClock {
    ManualClock::new(OffsetDateTime::from_unix_timestamp(1_800_000_000).expect("a time"))
}

pub(super) fn small() -> Limits {
    Limits { reserve_bytes: 4096, ..Limits::default() }
}

pub(super) fn record(class: RecordClass, key: Option<&str>, text: &str) -> Released {
    let body = match class {
        RecordClass::Log => Body::Log(Log { level: None, line: text.into(), stream: String::new(), truncated: false }),
        _ => Body::Event(Event { name: text.chars().take(100).collect(), payload_json: "{}".into() }),
    };
    let raw =
        RawRecord { at: OffsetDateTime::UNIX_EPOCH, instance: None, key: key.map(Into::into), repeat_of: None, body };
    Gate::new(Policy::Open).release(raw).expect("is within bounds")
}

fn log(text: &str) -> Released {
    record(RecordClass::Log, None, text)
}

#[tokio::test]
async fn a_batch_goes_out_in_order_and_is_kept_until_the_hubs_window_is_over() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("outbox.db");
    let clock = clock();
    let outbox = Outbox::open(&path, small(), Arc::new(clock.clone())).await.expect("opens");
    let cursor = CursorUpdate { key: "c".into(), value: b"7".to_vec() };
    let done = outbox.append(vec![log("a"), log("b")], Some(cursor)).await.expect("commits");
    assert_eq!(done, [Appended::New(1), Appended::New(2)]);
    let keyed = || record(RecordClass::Event, Some("k"), "e");
    assert_eq!(
        outbox.append(vec![keyed(), keyed()], None).await.expect("commits"),
        [Appended::New(1), Appended::Repeat]
    );
    assert_eq!(
        outbox.append(vec![record(RecordClass::Log, Some("k"), "e")], None).await.expect("commits"),
        [Appended::New(3)]
    );

    let mut session = outbox.session();
    let batch = session.next_batch(MAX_BATCH_RECORDS).await.expect("reads").expect("has a batch");
    assert_eq!((batch.stream.class, batch.first_seq, batch.records.len(), batch.live), (RecordClass::Log, 1, 3, false));
    assert_eq!(batch.records[0], log("a").sealed());
    let events = session.next_batch(MAX_BATCH_RECORDS).await.expect("reads").expect("has a batch");
    assert_eq!((events.stream.class, events.first_seq), (RecordClass::Event, 1));
    assert!(session.next_batch(MAX_BATCH_RECORDS).await.expect("reads").is_none(), "all in flight");
    outbox.ack(batch.stream, 1, 3).await.expect("commits");
    let status = outbox.status().await.expect("reads");
    let of = |class| status.iter().find(|s| s.class == class).expect("every class is told");
    assert_eq!((of(RecordClass::Log).waiting, of(RecordClass::Log).waiting_bytes), (0, 0));
    assert_eq!((of(RecordClass::Event).waiting, of(RecordClass::Event).absorbed), (1, 1));
    assert!(of(RecordClass::Event).oldest_at.is_some());
    assert_eq!(
        outbox.append(vec![record(RecordClass::Log, Some("k"), "e")], None).await.expect("commits"),
        [Appended::Repeat]
    );

    clock.advance(Duration::from_hours(25));
    outbox.ask(Work::Tidy, 0).await.expect("commits");
    assert_eq!(
        outbox.append(vec![record(RecordClass::Log, Some("k"), "e")], None).await.expect("commits"),
        [Appended::Repeat],
        "a hub that has been away for a day may come back from a backup"
    );
    outbox.note_heard().await.expect("commits");
    // The prune is due at the next tick; when it is done the key is free again.
    let waited = Instant::now();
    while outbox.append(vec![record(RecordClass::Log, Some("k"), "e")], None).await.expect("commits")
        == [Appended::Repeat]
    {
        assert!(waited.elapsed() < Duration::from_secs(60), "acked rows are never pruned");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    outbox.close().await;
    assert!(matches!(outbox.append(vec![log("late")], None).await, Err(OutboxError::Stopped)));
    let outbox = Outbox::open(&path, small(), Arc::new(clock)).await.expect("opens again");
    assert_eq!(outbox.cursor("c").await.expect("reads").as_deref(), Some(&b"7"[..]));
    outbox.append(vec![log("new")], None).await.expect("commits");
    let epochs: std::collections::BTreeSet<_> = outbox.open_streams().iter().map(|s| s.name.epoch).collect();
    assert_eq!(epochs.len(), 2, "a new epoch at the first append after each open");
}

#[tokio::test]
async fn a_full_outbox_drops_logs_oldest_first_and_pushes_events_back() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("outbox.db");
    let limits = Limits { max_bytes: 100_000, ..small() };
    let outbox = Outbox::open(&path, limits, Arc::new(clock())).await.expect("opens");
    for n in 0..20 {
        outbox
            .append((0..10).map(|i| log(&format!("{n}-{i} {}", "x".repeat(80)))).collect(), None)
            .await
            .expect("commits");
    }
    let logs = outbox.open_streams().into_iter().find(|s| s.name.class == RecordClass::Log).expect("is open");
    assert_eq!(logs.max_seq, 200);
    let lost: u64 = logs
        .lost
        .iter()
        .map(|(r, f, l)| {
            assert_eq!(*r, LostReason::Dropped);
            l - f + 1
        })
        .sum();
    assert!(lost > 0 && logs.lost[0].1 == 1, "oldest first: {:?}", logs.lost);
    let mut stored = 0;
    let refused = loop {
        match outbox.append(vec![record(RecordClass::Event, None, &"e".repeat(100))], None).await {
            Ok(_) => stored += 1,
            Err(e) => break e,
        }
    };
    assert!(matches!(refused, OutboxError::ClassFull(RecordClass::Event)), "{refused:?}");
    let status = outbox.status().await.expect("reads");
    assert_eq!(status[1].waiting, 0, "logs gave way to events");
    assert_eq!((status[1].lost, status[2].waiting, status[2].lost), (200, stored, 0));
    assert!(status[2].waiting_bytes <= 100_000);
}

#[tokio::test]
async fn a_hub_that_went_back_in_time_gets_again_what_is_still_here() {
    let dir = tempfile::tempdir().expect("a folder");
    let outbox = Outbox::open(&dir.path().join("outbox.db"), small(), Arc::new(clock())).await.expect("opens");
    outbox.append((0..30).map(|n| log(&n.to_string())).collect(), None).await.expect("commits");
    let named = outbox.open_streams().remove(0);
    let stream = named.name;
    outbox.ack(stream, 1, 30).await.expect("commits");
    assert!(outbox.session().next_batch(MAX_BATCH_RECORDS).await.expect("reads").is_none());
    outbox.reconcile_committed(&named, [(1, 10), (21, 25)].into_iter().collect()).await.expect("commits");
    let mut session = outbox.session();
    let runs = [
        session.next_batch(MAX_BATCH_RECORDS).await,
        session.next_batch(MAX_BATCH_RECORDS).await,
        session.next_batch(MAX_BATCH_RECORDS).await,
    ];
    let runs: Vec<_> =
        runs.into_iter().filter_map(|b| b.expect("reads")).map(|b| (b.first_seq, b.last_seq())).collect();
    assert_eq!(runs, [(11, 20), (26, 30)]);
    assert_eq!(outbox.status().await.expect("reads")[1].waiting, 15);
}

#[tokio::test]
async fn a_damaged_row_is_lost_by_name_and_the_rest_goes_on() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("outbox.db");
    let outbox = Outbox::open(&path, small(), Arc::new(clock())).await.expect("opens");
    outbox.append((0..5).map(|n| log(&n.to_string())).collect(), None).await.expect("commits");
    let other = Connection::open(&path).expect("opens");
    other
        .execute("UPDATE record SET data = zeroblob(length(data)) WHERE id = ?1", [rows::row_id(1, 2)])
        .expect("writes");
    other.execute("DELETE FROM record WHERE id = ?1", [rows::row_id(1, 4)]).expect("writes");
    let mut session = outbox.session();
    let mut runs = Vec::new();
    while let Some(b) = session.next_batch(MAX_BATCH_RECORDS).await.expect("reads") {
        runs.push((b.first_seq, b.last_seq()));
    }
    assert_eq!(runs, [(1, 1), (3, 3), (5, 5)]);
    assert_eq!(outbox.open_streams()[0].lost, [(LostReason::Salvage, 2, 2), (LostReason::Salvage, 4, 4)]);
}

#[tokio::test]
async fn a_damaged_file_is_salvaged_and_what_is_gone_is_counted() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("outbox.db");
    let outbox = Outbox::open(&path, small(), Arc::new(clock())).await.expect("opens");
    for _ in 0..20 {
        outbox
            .append((0..100).map(|n| log(&format!("{n} {}", "y".repeat(200)))).collect(), None)
            .await
            .expect("commits");
    }
    let stream = outbox.open_streams()[0].name;
    outbox.ack(stream, 1, 100).await.expect("commits");
    outbox.close().await;
    drop(outbox);
    // Pages of the log would cover what is damaged below. The last to close the file takes the log away, but the writer's
    // and the reader's threads may close it at one moment, each seeing the other: then nobody was last, so we are.
    let waited = Instant::now();
    while path.with_extension("db-wal").exists() {
        assert!(waited.elapsed() < Duration::from_secs(60), "the log stays");
        let last = crate::db::connect(&path).expect("opens");
        last.query_row("SELECT count(*) FROM record", [], |r| r.get::<_, i64>(0)).expect("reads");
        drop(last);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // One page that holds rows is overwritten, and the mark that a check would leave is set. An index page would lose
    // nothing: its keys are drawn, so which page is which differs from run to run.
    let whole = std::fs::read(&path).expect("reads");
    let full_of_rows = |page: &&[u8]| page.windows(200).any(|w| w.iter().all(|b| *b == b'y'));
    let rows: Vec<usize> = whole.chunks(4096).enumerate().filter(|(_, p)| full_of_rows(p)).map(|(i, _)| i).collect();
    let page = rows[rows.len() / 2];
    let file = std::fs::OpenOptions::new().write(true).open(&path).expect("opens");
    std::os::unix::fs::FileExt::write_all_at(&file, &[0xAA; 4096], page as u64 * 4096).expect("writes");
    std::fs::write(path.with_extension("damaged"), b"").expect("writes");
    let outbox = Outbox::open(&path, small(), Arc::new(clock())).await.expect("opens again");
    let s = outbox.open_streams()[0].clone();
    assert_eq!((s.name, s.max_seq), (stream, 2_000), "rows keep their names");
    let lost: u64 = s.lost.iter().map(|(_, f, l)| l - f + 1).sum();
    assert!(lost > 0 && lost < 200, "a page's rows are lost, not more: {lost}");
    let mut session = outbox.session();
    let mut sent = 0;
    while let Some(b) = session.next_batch(MAX_BATCH_RECORDS).await.expect("reads") {
        sent += b.records.len() as u64;
    }
    assert_eq!(sent + lost, 1_900, "acked rows stay acked, every other one is sent or lost");
    outbox.append(vec![log("new")], None).await.expect("commits");
    assert_eq!(outbox.open_streams().len(), 2, "new records are born in a new epoch");
}

#[tokio::test]
async fn a_peek_tells_what_the_status_tells_and_leaves_the_file_alone() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("outbox.db");
    assert!(matches!(peek(&path), Err(OutboxError::Open(_))) && !path.exists(), "no file is made");
    let outbox = Outbox::open(&path, small(), Arc::new(clock())).await.expect("opens");
    let keyed = || record(RecordClass::Event, Some("k"), "e");
    outbox.append(vec![log("a"), log("b"), keyed(), keyed()], None).await.expect("commits");
    let stream = outbox.open_streams()[0].name;
    outbox.ack(stream, 1, 1).await.expect("commits");
    outbox.count_refused(RecordClass::Vector, 3).await.expect("commits");
    let told = outbox.status().await.expect("reads");
    assert_eq!((told[1].waiting, told[2].absorbed, told[0].refused), (1, 1, 3));
    assert_eq!(peek(&path).expect("beside the running writer"), told);
    outbox.close().await;
    drop(outbox);
    let before = std::fs::read(&path).expect("reads");
    assert_eq!(peek(&path).expect("of a stopped agent"), told);
    assert_eq!(std::fs::read(&path).expect("reads"), before);
    std::fs::write(&path, b"something else").expect("writes");
    assert!(peek(&path).is_err());
}
