//! What a person at the site may ask, and how each wrong wish is refused with its numbers.
use super::*;
use redforge_shared::ids::Digest;

const NOW: OffsetDateTime = time::macros::datetime!(2026-11-23 10:00 UTC);

fn asking() -> Asking {
    Asking { by: "anna".into(), now: NOW, max_hold: Duration::from_hours(24) }
}

fn name(s: &str) -> Name {
    s.parse().expect("a name")
}

async fn ledger(dir: &std::path::Path, instances: &[&str]) -> Ledger {
    let ledger = Ledger::open(&dir.join("ledger.db")).await.expect("opens");
    let instance =
        |n: &&str| serde_json::json!({"name": n, "image": "i:1", "workload": {"container": {}}, "resources": {}});
    let document = serde_json::json!({
        "schema": 1, "host": uuid::Uuid::nil(), "host_name": "h", "site": "s", "policy": "open",
        "instances": instances.iter().map(instance).collect::<Vec<_>>(),
    });
    let bytes = serde_json_canonicalizer::to_vec(&document).expect("canonical");
    ledger.accept(1, bytes.clone().into(), Digest::of(&bytes)).await.expect("valid");
    ledger
}

fn hold(names: &[&str], for_s: u64, reason: &str) -> Deed {
    Deed::Hold { of: Target::Instances(names.iter().map(|n| name(n)).collect()), for_s, reason: reason.into() }
}

#[tokio::test]
async fn a_hold_is_kept_with_who_until_when_and_why() {
    let dir = tempfile::tempdir().expect("a folder");
    let ledger = ledger(dir.path(), &["oven", "press"]).await;
    let done = take(&ledger, &asking(), &hold(&["press"], 7_200, " belt is open ")).await.expect("within the policy");
    assert_eq!(done.lines, ["press is held by anna until 2026-11-23 12:00 UTC (2 h), then goes on by itself."]);
    let site = ledger.site(NOW).await.expect("reads");
    let held = site.hold(&name("press")).expect("held");
    assert_eq!(
        (held.by.as_str(), held.reason.as_str(), held.until),
        ("anna", "belt is open", NOW + Duration::from_hours(2))
    );
    assert!(site.hold(&name("oven")).is_none());
    let done =
        take(&ledger, &asking(), &Deed::Release { of: Target::Instances(vec![name("press"), name("oven")]) }).await;
    assert_eq!(done.expect("allowed").lines, ["press is released.", "oven was not held."]);
}

#[tokio::test]
async fn what_the_policy_does_not_allow_is_refused_with_its_numbers_and_changes_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    let ledger = ledger(dir.path(), &["press"]).await;
    let long = "x".repeat(MAX_HOLD_REASON_BYTES + 1);
    for (deed, says) in [
        (hold(&["press"], 86_401, "r"), "86401 s were asked for and a hold may last 86400 s at most"),
        (hold(&["press"], u64::MAX, "r"), "a hold may last 86400 s at most"),
        (hold(&["press"], 0, "r"), "a hold of no time"),
        (hold(&["press"], 60, "  "), "the reason must be 1 to 200 bytes"),
        (hold(&["press"], 60, &long), "the reason must be 1 to 200 bytes"),
        (hold(&["press"], 60, "a\x1b[2Jb"), "printable"),
        (hold(&["press"], 60, "two\nlines"), "printable"),
        (hold(&["press"], 60, "\u{202e}turned"), "printable"),
        (hold(&["press", "oven"], 60, "r"), "no instance 'oven'; it has press"),
        (hold(&[], 60, "r"), "no instance is named"),
        (Deed::Restart { instances: vec![name("oven")] }, "no instance 'oven'"),
        (Deed::Restart { instances: vec![] }, "no instance is named"),
    ] {
        let refused = take(&ledger, &asking(), &deed).await.expect_err("refused").to_string();
        assert!(refused.contains(says), "{deed:?}: {refused}");
    }
    assert_eq!(ledger.site(NOW).await.expect("reads"), crate::db::ledger::Site::default());
    let never = Asking { max_hold: Duration::ZERO, ..asking() };
    assert!(matches!(take(&ledger, &never, &hold(&["press"], 1, "r")).await, Err(Refusal::Never)));
}

#[tokio::test]
async fn what_is_held_is_not_restarted_and_is_let_go_as_it_was_held() {
    let dir = tempfile::tempdir().expect("a folder");
    let ledger = ledger(dir.path(), &["press"]).await;
    let restart = Deed::Restart { instances: vec![name("press")] };
    let all = Deed::Hold { of: Target::Host, for_s: 60, reason: "maintenance".into() };
    take(&ledger, &asking(), &all).await.expect("within the policy");
    let refused = take(&ledger, &asking(), &restart).await.expect_err("held").to_string();
    assert!(refused.contains("held by anna until 2026-11-23 10:01 UTC"), "{refused}");
    let one = Deed::Release { of: Target::Instances(vec![name("press")]) };
    let refused = take(&ledger, &asking(), &one).await.expect_err("held with the host").to_string();
    assert!(refused.contains("redforge-edge release --all"), "{refused}");
    take(&ledger, &asking(), &Deed::Release { of: Target::Host }).await.expect("allowed");
    take(&ledger, &asking(), &restart).await.expect("allowed");
    let first = ledger.site(NOW).await.expect("reads").nonces;
    take(&ledger, &asking(), &restart).await.expect("allowed");
    assert_ne!(ledger.site(NOW).await.expect("reads").nonces, first, "every restart is another nonce");
}

#[test]
fn a_person_is_who_the_kernel_says_and_only_root_says_more() {
    let passwd = "root:x:0:0:root:/root:/bin/sh\nanna:x:1000:1000::/home/anna:/bin/sh\nbroken\n";
    assert_eq!(name_of(1000, Some("mallory"), passwd), "anna");
    assert_eq!(name_of(0, None, passwd), "root");
    assert_eq!(name_of(0, Some("anna"), passwd), "anna");
    assert_eq!(name_of(7, None, passwd), "uid 7");
    assert_eq!(name_of(0, Some("a\x1b[2J"), passwd), "a[2J");
}

#[tokio::test]
async fn what_is_held_and_no_longer_desired_can_be_released() {
    let dir = tempfile::tempdir().expect("a folder");
    let before = ledger(dir.path(), &["oven", "press"]).await;
    take(&before, &asking(), &hold(&["press"], 7_200, "belt is open")).await.expect("within the policy");
    let state = before.desired().expect("accepted").state.clone();
    let state = redforge_shared::desired::DesiredState { instances: vec![], ..state };
    let document = state.canonical().expect("a document");
    before.accept(2, document.bytes.into(), document.sha256).await.expect("valid");
    let release = |n: &str| Deed::Release { of: Target::Instances(vec![name(n)]) };
    assert!(matches!(take(&before, &asking(), &release("oven")).await, Err(Refusal::Unknown { .. })));
    let done = take(&before, &asking(), &release("press")).await.expect("it is held");
    assert_eq!(done.lines, ["press is released."]);
}
