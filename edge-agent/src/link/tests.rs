//! The link against a hub that the test plays: the rules of hello, desired state, blobs, renewal and enrollment.
use super::{fake_hub::*, *};
use crate::enroll::{self, EnrollError, Outcome};
use redforge_shared::daemon::Pulse;
use redforge_shared::{
    clock::SystemClock,
    ids::Digest,
    wire::pb::{self, session_request::Message as Up, session_response::Message as Down},
};
use time::macros::datetime;

const HOST: &str = "018f0000-0000-7000-8000-000000000001";
/// Early in the certificate's life: no renewal is due.
const EARLY: OffsetDateTime = datetime!(2026-11-02 00:00 UTC);

struct Agent {
    state: tempfile::TempDir,
    ledger: Ledger,
    view: watch::Receiver<LinkView>,
    status: watch::Sender<HostStatus>,
    stop: CancellationToken,
    task: tokio::task::JoinSet<()>,
}

fn request(hub: &FakeHub, state: &std::path::Path, token: &str) -> enroll::Request {
    enroll::Request {
        hub: hub.url.parse().expect("a URL"),
        token: token.to_owned().into(),
        ca_pin: hub.pin,
        name: None,
        state_dir: state.to_owned(),
        now: datetime!(2026-11-01 00:00 UTC),
    }
}

fn idle() -> HostStatus {
    HostStatus {
        generation: 0,
        spec_sha256: None,
        health: Health::Healthy,
        sync: Sync::UpToDate,
        reason: None,
        names: vec![],
        instances: vec![],
        clean_up: Default::default(),
    }
}

/// An enrolled agent whose link runs.
async fn agent(hub: &FakeHub) -> Agent {
    let state = tempfile::tempdir().expect("a folder");
    enroll::enroll(&request(hub, state.path(), "good")).await.expect("enrolled");
    let ledger = Ledger::open(&state.path().join("ledger.db")).await.expect("a ledger");
    let outbox = Outbox::open(&state.path().join("outbox.db"), Default::default(), Arc::new(SystemClock)).await;
    let outbox = outbox.expect("an outbox");
    let (status, status_seen) = watch::channel(idle());
    let deps = Deps {
        identity: IdentityDir::open(state.path()).expect("an identity"),
        hub_urls: vec![hub.url.parse().expect("a URL")],
        ledger: ledger.clone(),
        outbox,
        status: status_seen,
        facts: watch::channel(HostFacts::default()).1,
        outbox_numbers: watch::channel(Vec::new()).1,
        drafts: watch::channel(Vec::new()).1,
        clock: Arc::new(SystemClock),
        blobs: state.path().join("blobs/sha256"),
        run_id: RunId([7; 16]),
        start_no: 3,
    };
    let (link, view) = Link::new(deps);
    let stop = CancellationToken::new();
    let mut task = tokio::task::JoinSet::new();
    task.spawn(link.run(Pulse::default(), stop.clone()));
    Agent { state, ledger, view, status, stop, task }
}

impl Agent {
    async fn end(mut self) {
        self.stop.cancel();
        self.task.join_next().await.expect("one task").expect("it did not panic");
    }
}

/// A session whose hello was answered and whose nonce came back.
async fn confirmed(hub: &mut FakeHub) -> HubSide {
    let mut side = hub.session().await;
    side.welcome(EARLY).await;
    let Up::Confirm(confirm) = side.heard().await else { panic!("the nonce must be echoed before anything else") };
    assert_eq!(&confirm.nonce[..], [9; 16]);
    side
}

fn document(host: &str, extra: Option<&str>) -> pb::Desired {
    let mut json = serde_json::json!({
        "schema": 1, "host": host, "host_name": "edge-1", "site": "plant", "policy": "open",
        "instances": [{"name": "a", "image": "i:1", "workload": {"container": {}}, "resources": {}}],
    });
    if let Some(extra) = extra {
        json["instances"][0][extra] = true.into();
    }
    let spec = serde_json_canonicalizer::to_vec(&json).expect("canonical");
    let spec_sha256 = Digest::of(&spec).0.to_vec().into();
    pb::Desired { spec: spec.into(), spec_sha256, generation: 5, ..pb::Desired::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hello_comes_first_then_the_nonce_then_reports() {
    let mut hub = FakeHub::start().await;
    let agent = agent(&hub).await;
    let mut side = confirmed(&mut hub).await;
    assert_eq!((&side.hello.run_id[..], side.hello.start_no, side.hello.hello_no), (&[7; 16][..], 3, 1));
    assert_eq!(side.hello.generation, 0);
    let first = side.report(|_| true).await;
    assert_eq!((first.start_no, first.report_no), (3, 1));
    assert!(first.certificate_not_after.is_some());
    agent.status.send_modify(|s| s.sync = Sync::Drifted);
    let drifted = side.report(|r| r.sync == i32::from(pb::Sync::Drifted)).await;
    assert!(drifted.report_no > 1);
    assert!(agent.view.borrow().online);
    agent.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_desired_state_is_committed_and_said_at_the_next_hello() {
    let mut hub = FakeHub::start().await;
    let agent = agent(&hub).await;
    let side = confirmed(&mut hub).await;
    let mut committed = agent.ledger.subscribe();
    let desired = document(HOST, None);
    side.say(Down::Desired(desired.clone())).await;
    tokio::time::timeout(DEADLINE, committed.changed()).await.expect("in time").expect("the ledger lives");
    let held = agent.ledger.desired().expect("accepted");
    assert_eq!((held.generation, &held.bytes), (5, &desired.spec));
    side.say(Down::Goodbye(pb::Goodbye {})).await;
    let side = confirmed(&mut hub).await;
    assert_eq!((side.hello.hello_no, side.hello.generation), (2, 5));
    assert_eq!(side.hello.spec_sha256, desired.spec_sha256);
    agent.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_whole_not_ours_or_not_understood_changes_nothing_but_the_report() {
    let mut hub = FakeHub::start().await;
    let agent = agent(&hub).await;
    let mut side = confirmed(&mut hub).await;
    let torn = pb::Desired { spec_sha256: vec![1; 32].into(), ..document(HOST, None) };
    let foreign = document("018f0000-0000-7000-8000-000000000002", None);
    let newer = document(HOST, Some("flavour"));
    for (desired, name) in [(torn, "spec_sha256"), (foreign, "host"), (newer, "instances[0].flavour")] {
        side.say(Down::Desired(desired)).await;
        let report = side.report(|r| r.names == [name]).await;
        assert_eq!(report.sync, i32::from(pb::Sync::Failed));
        assert_eq!(report.reason, i32::from(pb::StatusReason::SpecRefused));
        assert_eq!(agent.ledger.accepted(), None);
    }
    side.say(Down::Desired(pb::Desired { hub_behind: true, ..pb::Desired::default() })).await;
    let report = side.report(|r| r.sync == i32::from(pb::Sync::Paused)).await;
    assert_eq!(report.reason, i32::from(pb::StatusReason::HubBehind));
    // A good one heals the verdict.
    side.say(Down::Desired(document(HOST, None))).await;
    side.report(|r| r.sync == i32::from(pb::Sync::UpToDate)).await;
    agent.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_generation_is_not_taken_and_a_higher_number_is() {
    let mut hub = FakeHub::start().await;
    let agent = agent(&hub).await;
    let mut side = confirmed(&mut hub).await;
    let held = document(HOST, None);
    side.say(Down::Desired(held.clone())).await;
    let mut other = document(HOST, None);
    other.spec = String::from_utf8_lossy(&other.spec).replace("i:1", "i:2").into();
    other.spec_sha256 = Digest::of(&other.spec).0.to_vec().into();
    other.generation = 4;
    side.say(Down::Desired(other)).await;
    side.report(|r| r.reason == i32::from(pb::StatusReason::HubBehind)).await;
    assert_eq!(agent.ledger.accepted().map(|(g, _)| g), Some(5));
    let raise = pb::Desired { spec: bytes::Bytes::new(), raise_only: true, generation: 9, ..held };
    side.say(Down::Desired(raise)).await;
    side.report(|r| r.sync == i32::from(pb::Sync::UpToDate) && r.reason == 0).await;
    assert_eq!(agent.ledger.accepted().map(|(g, _)| g), Some(9));
    agent.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_the_hub_ends_is_opened_again_with_a_higher_number() {
    let mut hub = FakeHub::start().await;
    let agent = agent(&hub).await;
    let side = confirmed(&mut hub).await;
    side.down.send(Err(tonic::Status::aborted("superseded"))).await.expect("the agent listens");
    drop(side);
    let side = confirmed(&mut hub).await;
    assert_eq!((side.hello.hello_no, &side.hello.run_id[..]), (2, &[7; 16][..]));
    agent.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_is_fetched_on_from_where_it_broke() {
    let mut hub = FakeHub::start().await;
    let blob: Vec<u8> = (0..5_500_u32).map(|n| (n % 251) as u8).collect();
    let digest = Digest::of(&blob);
    {
        let mut script = hub.script.lock().expect("no panic");
        script.blob.clone_from(&blob);
        script.breaks = [2_000].into();
    }
    let agent = agent(&hub).await;
    let _side = confirmed(&mut hub).await;
    agent.ledger.want(digest).await.expect("noted");
    let mut arrived = agent.ledger.subscribe();
    tokio::time::timeout(DEADLINE, arrived.changed()).await.expect("in time").expect("the ledger lives");
    let path = agent.state.path().join("blobs/sha256").join(digest.hex());
    assert_eq!(std::fs::read(path).expect("it is there"), blob);
    assert_eq!(hub.script.lock().expect("no panic").offsets, [0, 2_000]);
    assert!(agent.ledger.wanted().await.expect("read").is_empty());
    agent.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_past_half_of_its_life_is_renewed_and_used() {
    let mut hub = FakeHub::start().await;
    let agent = agent(&hub).await;
    let before = IdentityDir::open(agent.state.path()).expect("opened").enrolled().expect("read").expect("there");
    let side = hub.session().await;
    // Hub time, not the machine's, says that five of the seven days are over.
    side.welcome(datetime!(2026-11-06 00:00 UTC)).await;
    let again = hub.session().await;
    assert_eq!(again.hello.hello_no, 2);
    let after = IdentityDir::open(agent.state.path()).expect("opened").enrolled().expect("read").expect("there");
    assert_ne!(after.certificate_digest(), before.certificate_digest());
    assert_eq!(hub.script.lock().expect("no panic").renewals.len(), 1);
    agent.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_enrollment_whose_answer_was_lost_is_repeated_unchanged() {
    let hub = FakeHub::start().await;
    hub.script.lock().expect("no panic").lose_enrollments = 1;
    let state = tempfile::tempdir().expect("a folder");
    let request = request(&hub, state.path(), "good");
    let lost = enroll::enroll(&request).await.expect_err("the answer was lost");
    assert_eq!(lost.exit_code(), 8);
    assert!(matches!(enroll::enroll(&request).await.expect("enrolled"), Outcome::Enrolled(_)));
    assert!(matches!(enroll::enroll(&request).await.expect("known"), Outcome::Already(_)));
    let asked = hub.script.lock().expect("no panic").enrollments.clone();
    assert_eq!(asked.len(), 2, "a host that is enrolled does not ask again");
    assert_eq!(asked[0].csr, asked[1].csr);
    assert_eq!(asked[0].identity_public_key, asked[1].identity_public_key);
    assert_eq!(asked[0].sealing_public_key, asked[1].sealing_public_key);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_enrollment_says_why() {
    let hub = FakeHub::start().await;
    let state = tempfile::tempdir().expect("a folder");
    for (token, text) in [("expired", "expired at 12:00"), ("used", "used by another host")] {
        let error = enroll::enroll(&request(&hub, state.path(), token)).await.expect_err("refused");
        assert_eq!(error.exit_code(), 3);
        assert!(error.to_string().contains(text), "{error}");
    }
    let wrong =
        enroll::Request { ca_pin: redforge_shared::tls::CaPin(Digest([1; 32])), ..request(&hub, state.path(), "good") };
    let error = enroll::enroll(&wrong).await.expect_err("refused");
    assert!(matches!(error, EnrollError::Dial(DialError::Pin { .. })), "{error:?}");
    assert_eq!(error.exit_code(), 4);
    assert_eq!(hub.script.lock().expect("no panic").enrollments.len(), 2, "no token goes to a hub that is not ours");
}

#[tokio::test]
async fn a_port_that_talks_garbage_is_an_error_and_no_more() {
    use tokio::io::AsyncWriteExt;
    redforge_shared::daemon::install_crypto();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url: HubUrl = format!("https://{}", listener.local_addr().expect("bound")).parse().expect("a URL");
    let garbage = async {
        let (mut tcp, _) = listener.accept().await.expect("accepted");
        // The client may hang up in the middle.
        drop(tcp.write_all(&[0xff; 4_096]).await);
    };
    let pin = redforge_shared::tls::CaPin(Digest([1; 32]));
    let tls = redforge_shared::tls::client_config(redforge_shared::tls::Trust::Pin(pin), None, BUILD_FLOOR);
    let (dialled, ()) = tokio::join!(dial::dial(&url, Arc::new(tls.expect("TLS"))), garbage);
    assert!(matches!(dialled, Err(DialError::Tls { .. })), "{dialled:?}");
}
