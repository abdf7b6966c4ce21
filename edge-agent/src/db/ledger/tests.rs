//! The ledger on real files: what survives a reopen, what is refused.
use super::*;
use redforge_shared::{
    desired::SCHEMA as DOCUMENT,
    ids::{HostId, Name},
    policy::Policy,
    report::Hold,
};
use std::os::unix::fs::PermissionsExt as _;
use time::OffsetDateTime;

fn document(site: &str) -> (Bytes, Digest) {
    let state = DesiredState {
        schema: DOCUMENT,
        host: HostId(uuid::Uuid::from_u128(7)),
        host_name: "edge-1".parse().expect("a name"),
        site: site.parse().expect("a name"),
        policy: Policy::Open,
        instances: Vec::new(),
    };
    let canonical = state.canonical().expect("small");
    (canonical.bytes.into(), canonical.sha256)
}

#[tokio::test]
async fn edited_flows_are_kept_until_they_are_dropped_and_over_a_restart() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("ledger.db");
    let draft = |content: u8| KeptDraft {
        instance: "flows".parse().expect("a name"),
        base: Digest([1; 32]),
        content: Digest([content; 32]),
        tar: vec![content; 10].into(),
    };
    let ledger = Ledger::open(&path).await.expect("opens");
    let mut hint = ledger.subscribe_kept();
    hint.mark_unchanged();
    ledger.keep_draft(draft(1), None).await.expect("kept");
    assert!(hint.has_changed().expect("open"));
    // The next edit of the same developer mode takes the place of the one before.
    ledger.keep_draft(draft(2), Some(Digest([1; 32]))).await.expect("kept");
    assert_eq!(ledger.kept_drafts().await.expect("reads"), [draft(2)]);
    for content in 3..9 {
        ledger.keep_draft(draft(content), None).await.expect("kept");
    }
    drop(ledger);
    let ledger = Ledger::open(&path).await.expect("opens");
    let left: Vec<_> = (4..9).map(draft).collect();
    assert_eq!(ledger.kept_drafts().await.expect("reads"), left, "the oldest made room");
    let name = draft(4).instance;
    ledger.drop_kept_draft(&name, Digest::of(&draft(4).tar)).await.expect("dropped");
    ledger.drop_kept_draft(&name, Digest([9; 32])).await.expect("nothing to drop");
    assert_eq!(ledger.kept_drafts().await.expect("reads"), left[1..]);
}

#[tokio::test]
async fn what_failed_last_is_kept_over_a_restart_until_nobody_keeps_its_instance() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("ledger.db");
    let (a, b): (Name, Name) = ("a".parse().expect("a name"), "b".parse().expect("a name"));
    let at = OffsetDateTime::UNIX_EPOCH + time::Duration::milliseconds(1_764_000_000_123);
    let log = |text: &str| FailedLog {
        at,
        reason: redforge_shared::report::Reason::ContainerExited,
        exit_code: Some(3),
        detail: None,
        image: "a:1".into(),
        container: Some("c".into()),
        lines: vec![FailedLine { at_ns: 7, stream: "stderr".into(), text: text.into() }],
    };
    let ledger = Ledger::open(&path).await.expect("opens");
    for (name, text) in [(&a, "first"), (&a, "second"), (&b, "third")] {
        ledger.keep_failed_log(name, &log(text)).await.expect("commits");
    }
    drop(ledger);
    let ledger = Ledger::open(&path).await.expect("opens again");
    assert_eq!(ledger.failed_log(&a).await.expect("reads"), Some(log("second")));
    assert_eq!(ledger.failed_at().await.expect("reads"), [(a.clone(), at), (b.clone(), at)]);
    ledger.forget_failed_logs(|n| *n == b).await.expect("commits");
    assert_eq!(ledger.failed_log(&a).await.expect("reads"), None);
    assert_eq!(ledger.failed_log(&b).await.expect("reads"), Some(log("third")));
    let conn = Connection::open(&path).expect("opens");
    conn.execute("UPDATE failed_log SET body = x'00'", []).expect("writes");
    assert_eq!(ledger.failed_log(&b).await.expect("reads"), None, "what nobody understands is nothing");
}

#[tokio::test]
async fn a_newer_generation_is_kept_across_a_reopen_and_an_older_one_is_not_taken() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("ledger.db");
    let ledger = Ledger::open(&path).await.expect("opens");
    assert_eq!(std::fs::metadata(&path).expect("exists").permissions().mode() & 0o777, 0o600);
    assert!(ledger.desired().is_none());
    let hint = ledger.subscribe();
    let ((one, one_sha), (two, two_sha)) = (document("alpha"), document("beta"));
    assert_eq!(ledger.accept(3, one.clone(), one_sha).await.expect("commits"), Accepted::New);
    assert!(hint.has_changed().expect("open"));
    assert_eq!(ledger.accept(3, one.clone(), one_sha).await.expect("reads"), Accepted::Same);
    assert_eq!(ledger.accept(5, one.clone(), one_sha).await.expect("commits"), Accepted::Raised);
    assert_eq!(ledger.accept(4, two.clone(), two_sha).await.expect("reads"), Accepted::Older);
    assert_eq!(ledger.accept(5, two.clone(), two_sha).await.expect("reads"), Accepted::Older);
    assert!(matches!(ledger.accept(6, two, one_sha).await, Err(LedgerError::Refused(InvalidDesired::HashMismatch))));
    drop(ledger);
    let ledger = Ledger::open(&path).await.expect("opens again");
    let kept = ledger.desired().expect("kept");
    assert_eq!((kept.generation, kept.sha256, &kept.bytes), (5, one_sha, &one));
    assert_eq!(kept.state.site.as_str(), "alpha");
}

#[tokio::test]
async fn small_rows_are_kept_and_a_secret_is_drawn_once() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("ledger.db");
    let name: Name = "nr".parse().expect("a name");
    let digest = Digest::of(b"blob");
    let ledger = Ledger::open(&path).await.expect("opens");
    assert_eq!(ledger.next_start_no().await.expect("counts"), 1);
    let (now, hour) = (OffsetDateTime::UNIX_EPOCH + time::Duration::DAY, time::Duration::HOUR);
    let hold = Hold { by: "anna".into(), reason: "open".into(), since: now, until: now + hour, whole_host: false };
    ledger.hold(&Scope::Instance(name.clone()), &hold).await.expect("commits");
    ledger.set_nonce(&name, "n1").await.expect("commits");
    ledger.memory_set("failed", "nr", Some(b"why")).await.expect("commits");
    ledger.memory_set("failed", "gone", Some(b"x")).await.expect("commits");
    ledger.memory_set("failed", "gone", None).await.expect("commits");
    ledger.kv_set("subnet", "10.231.64.0/24").await.expect("commits");
    ledger.want(digest).await.expect("commits");
    assert_eq!(ledger.wanted().await.expect("reads"), [digest]);
    assert_eq!(ledger.local_secret("broker", || vec![1]).await.expect("draws"), [1]);
    drop(ledger);
    let ledger = Ledger::open(&path).await.expect("opens again");
    assert_eq!(ledger.next_start_no().await.expect("counts"), 2);
    assert_eq!(ledger.local_secret("broker", || vec![2]).await.expect("reads"), [1]);
    let site = ledger.site(now).await.expect("reads");
    assert!(site.hold(&name) == Some(&hold) && site.nonces[&name] == "n1" && !site.unsettled);
    assert_eq!(ledger.memory_all("failed").await.expect("reads"), [("nr".to_owned(), b"why".to_vec())]);
    assert_eq!(ledger.kv_get("subnet").await.expect("reads").as_deref(), Some(&b"10.231.64.0/24"[..]));
    ledger.have(digest).await.expect("commits");
    assert!(ledger.wanted().await.expect("reads").is_empty());
    ledger.want(digest).await.expect("commits");
    assert_eq!(ledger.wanted().await.expect("reads"), [digest], "a blob that vanished is wanted again");
}

#[tokio::test]
async fn newer_foreign_and_damaged_files_are_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("ledger.db");
    drop(Ledger::open(&path).await.expect("opens"));
    let conn = Connection::open(&path).expect("opens");
    conn.pragma_update(None, "user_version", 9).expect("writes");
    drop(conn);
    let e = Ledger::open(&path).await.expect_err("is newer");
    assert!(matches!(e, LedgerError::Open(OpenError::Newer { found: 9, .. })), "{e:?}");

    let other = dir.path().join("other.db");
    Connection::open(&other).expect("opens").execute_batch("CREATE TABLE t (a)").expect("writes");
    let e = Ledger::open(&other).await.expect_err("is foreign");
    assert!(matches!(e, LedgerError::Open(OpenError::Foreign { found: 0, .. })), "{e:?}");

    let garbage = dir.path().join("garbage.db");
    std::fs::write(&garbage, vec![0x5a; 20_000]).expect("writes");
    let LedgerError::Open(e) = Ledger::open(&garbage).await.expect_err("is garbage") else { panic!("another error") };
    assert!(e.is_damage(), "{e:?}");
}

#[tokio::test]
async fn a_hold_ends_by_itself_and_no_clock_makes_it_last_longer() {
    let dir = tempfile::tempdir().expect("a folder");
    let ledger = Ledger::open(&dir.path().join("ledger.db")).await.expect("opens");
    let (a, b): (Name, Name) = ("a".parse().expect("a name"), "b".parse().expect("a name"));
    let now = OffsetDateTime::UNIX_EPOCH + time::Duration::days(20_000);
    let (minute, hour) = (time::Duration::MINUTE, time::Duration::HOUR);
    let hold = |until, whole_host| Hold { by: "u".into(), reason: "r".into(), since: now, until, whole_host };
    ledger.hold(&Scope::Instance(a.clone()), &hold(now + 2 * hour, false)).await.expect("commits");
    ledger.hold(&Scope::Host, &hold(now + hour, true)).await.expect("commits");
    let site = ledger.site(now + minute).await.expect("reads");
    assert!(site.hold(&a).is_some_and(|h| !h.whole_host), "the longer one counts");
    assert!(site.hold(&b).is_some_and(|h| h.whole_host));
    let site = ledger.site(now + hour).await.expect("reads");
    assert!(site.hold(&a).is_some() && site.hold(&b).is_none() && site.unsettled, "{site:?}");
    assert_eq!(ledger.settle_holds(now + hour).await.expect("commits"), ["*"]);
    assert!(!ledger.site(now + hour).await.expect("reads").unsettled);

    // The clock goes back by years: the hold lasts as long as it was given, from now.
    let back = OffsetDateTime::UNIX_EPOCH;
    let site = ledger.site(back).await.expect("reads");
    assert!(site.unsettled && site.hold(&a).is_some_and(|h| h.until == back + 2 * hour), "{site:?}");
    assert_eq!(ledger.settle_holds(back).await.expect("commits"), Vec::<String>::new());
    assert!(ledger.site(back + 2 * hour).await.expect("reads").hold(&a).is_none());

    ledger.hold(&Scope::Host, &hold(now + hour, true)).await.expect("commits");
    assert!(ledger.release(&Scope::Host).await.expect("commits"));
    assert_eq!(ledger.site(now).await.expect("reads"), Site::default(), "all of them went");
}

#[tokio::test]
async fn another_value_of_a_secret_never_bears_the_number_of_an_earlier_one() {
    use secrecy::ExposeSecret as _;
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("ledger.db");
    let ledger = Ledger::open(&path).await.expect("opens");
    let key: Name = "api-key".parse().expect("a name");
    let give = async |value: &str| ledger.give_secret(&key, value.into(), 5).await.expect("commits");
    assert_eq!(give("one").await, 1);
    assert_eq!(give("one").await, 1, "the same value is no change");
    assert_eq!(give("two").await, 2);
    // Another process, as the command line is beside the agent.
    let other = Ledger::open(&path).await.expect("opens");
    assert_eq!(other.given_secrets().await.expect("reads")[&key].value.expose_secret(), "two");
    assert!(other.delete_secret(&key).await.expect("commits"));
    assert!(!other.delete_secret(&key).await.expect("commits"));
    assert!(ledger.given_secrets().await.expect("reads").is_empty());
    assert_eq!(give("one").await, 3, "deleted and given again");
    let seen = format!("{:?}", ledger.given_secrets().await.expect("reads"));
    assert!(!seen.contains("one"), "{seen}");
}
