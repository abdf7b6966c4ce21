//! Each fail, provoked: on real sockets, files and TLS where they can be had, else from what was measured.
use super::*;
use crate::config::{Environment, Flags};
use redforge_shared::clock::SystemClock;
use std::path::Path;
use time::{Duration, OffsetDateTime, macros::datetime};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixListener,
};

fn config(dir: &Path) -> Config {
    let flags = Flags { state_dir: Some(dir.to_owned()), ..Flags::default() };
    let home = ("HOME".to_owned(), "/nonexistent".to_owned());
    let page = ("REDFORGE_EDGE__PAGE__LISTEN".to_owned(), "off".to_owned());
    let socket = ("REDFORGE_EDGE__RUNTIME__DOCKER_SOCKET".to_owned(), dir.join("docker.sock").display().to_string());
    Config::load(&flags, &Environment { vars: vec![home, page, socket], root: false }).expect("valid settings")
}

fn of<'a>(all: &'a [Finding], check: &str) -> &'a Finding {
    all.iter().find(|f| f.check == check).unwrap_or_else(|| panic!("{check} is missing: {all:?}"))
}

#[track_caller]
fn fails(found: &Finding, says: &str) {
    assert!(found.verdict == Verdict::Fail && found.text.contains(says) && found.next.is_some(), "{found:?}");
}

/// Something on a socket that answers like an engine with this version and information, while the value lives.
fn engine(path: &Path, api: &'static str, memory: bool) -> tokio::task::JoinSet<()> {
    let listener = UnixListener::bind(path).expect("a socket");
    let mut at_work = tokio::task::JoinSet::new();
    at_work.spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.expect("a connection");
            let mut request = vec![0; 4096];
            let n = socket.read(&mut request).await.expect("a request");
            let body = if request[..n].starts_with(b"GET /version") {
                format!(r#"{{"ApiVersion":"{api}","Version":"19.03"}}"#)
            } else {
                format!(
                    r#"{{"MemoryLimit":{memory},"CpuCfsQuota":true,"PidsLimit":true,"CgroupDriver":"cgroupfs","DockerRootDir":""}}"#
                )
            };
            let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close";
            let answer = format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            socket.write_all(answer.as_bytes()).await.expect("an answer");
        }
    });
    at_work
}

#[tokio::test]
async fn the_engine_missing_stopped_too_old_or_without_limits_is_told_apart() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("docker.sock");
    let look = || async { engine::examine(&path).await.0 };
    fails(of(&look().await, "docker.socket"), "there is no ");
    // What a stopped engine leaves: a socket behind which nobody is.
    drop(UnixListener::bind(&path).expect("a socket"));
    fails(of(&look().await, "docker.socket"), "the engine is stopped");
    std::fs::remove_file(&path).expect("own file");
    let _old = engine(&path, "1.40", false);
    let found = look().await;
    assert_eq!(of(&found, "docker.socket").verdict, Verdict::Ok);
    fails(of(&found, "docker.api"), "engine 19.03 speaks 1.40; 1.41 is needed");
    fails(of(&found, "docker.cgroup"), "no limit of memory holds");
    let other = dir.path().join("other.sock");
    let _good = engine(&other, "1.41", true);
    let found = engine::examine(&other).await.0;
    assert!(found.iter().all(|f| f.verdict == Verdict::Ok), "{found:?}");
}

#[tokio::test]
async fn a_folder_that_takes_no_file_and_damaged_databases_are_named() {
    let dir = tempfile::tempdir().expect("a folder");
    let absent = Config { state_dir: dir.path().join("absent"), ..config(dir.path()) };
    let found = files::disks(&absent, None);
    fails(of(&found, "disk"), "cannot be looked at");
    fails(of(&found, "disk.write"), "takes no file");
    assert!(files::databases(dir.path()).await.iter().all(|f| f.verdict == Verdict::Ok), "nothing is there yet");

    let ledger = crate::db::ledger::Ledger::open(&dir.path().join("ledger.db")).await.expect("opens");
    ledger.kv_set("key", vec![7; 60_000]).await.expect("commits");
    drop(ledger);
    let log = dir.path().join("ledger.db-wal");
    let begun = std::time::Instant::now();
    // Its thread ends behind the handle. It must be the last to close the file: one that only reads leaves the log there.
    while log.exists() {
        assert!(begun.elapsed() < std::time::Duration::from_secs(60), "the ledger was not closed");
        tokio::task::yield_now().await;
    }
    let found = files::databases(dir.path()).await;
    assert_eq!(of(&found, "sqlite.ledger").verdict, Verdict::Ok, "{found:?}");
    // A page in the middle is torn.
    let path = dir.path().join("ledger.db");
    let mut bytes = std::fs::read(&path).expect("own file");
    bytes[4096..].fill(0x5a);
    std::fs::write(&path, bytes).expect("own file");
    std::fs::write(dir.path().join("outbox.db"), vec![0x5a; 20_000]).expect("own file");
    let found = files::databases(dir.path()).await;
    fails(of(&found, "sqlite.ledger"), "damaged");
    fails(of(&found, "sqlite.outbox"), "damaged");
}

#[tokio::test]
async fn a_busy_port_is_named_and_a_free_one_is_fine() {
    let taken = std::net::TcpListener::bind("127.94.8.1:0").expect("a free port");
    let addr = taken.local_addr().expect("an address");
    let dir = tempfile::tempdir().expect("a folder");
    let config = Config { page_listen: Some(addr), ..config(dir.path()) };
    fails(of(&ports::examine(&config, None).await, "ports.page"), "is taken");
    drop(taken);
    assert_eq!(of(&ports::examine(&config, None).await, "ports.page").verdict, Verdict::Ok);
}

#[test]
fn measured_numbers_have_three_verdicts() {
    const GIB: u64 = 1 << 30;
    let disk = |free, inodes| judge::disk("disk", Path::new("/s"), free, 100 * GIB, inodes).verdict;
    let clock = |s| judge::clock(s).verdict;
    let api = |v| judge::api("x", v).verdict;
    let (ok, warn, fail) = (Verdict::Ok, Verdict::Warn, Verdict::Fail);
    for (found, wanted) in [
        (disk(50 * GIB, Some(9)), ok),
        (disk(GIB, Some(9)), warn),
        (disk(1 << 20, Some(9)), fail),
        (disk(50 * GIB, Some(0)), fail),
        (disk(50 * GIB, None), ok),
        (clock(0), ok),
        (clock(-59), ok),
        (clock(61), warn),
        (clock(-301), fail),
        (clock(i64::from(i32::MAX)), fail),
        (api("1.41"), ok),
        (api("2.0"), ok),
        (api("1.9"), fail),
        (api("x"), fail),
        (api(""), fail),
    ] {
        assert_eq!(found, wanted);
    }
    assert_eq!((ok.exit_code(), warn.exit_code(), fail.exit_code()), (0, 1, 2));
}

#[tokio::test]
async fn a_host_that_was_never_enrolled_or_whose_certificate_ended_is_told_what_to_do() {
    let dir = tempfile::tempdir().expect("a folder");
    let found = examine(&config(dir.path()), &SystemClock).await;
    fails(of(&found, "certificate"), "not enrolled");
    assert_eq!(worst(&found), Verdict::Fail);
    assert!(render(&found).contains("FAIL  certificate"), "{}", render(&found));
    let identity = IdentityDir::open(dir.path()).expect("opened");
    let enrolled = crate::identity::testing::enrolled(&identity.pending().expect("made"));
    let (_, end) = enrolled.validity().expect("it has one");
    let at = |now: OffsetDateTime| judge::certificate(&Ok(Some(enrolled.clone())), now);
    fails(&at(end + Duration::DAY), "it ended 1 d ago");
    assert_eq!(at(end - Duration::DAY).verdict, Verdict::Warn);
    assert_eq!(at(datetime!(2026-11-23 10:00 UTC)).verdict, Verdict::Ok);
}
