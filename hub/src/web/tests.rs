//! The page as a browser meets it: who is let in, what is sent with it, and that no text becomes markup.
use super::{
    overview::{Overview, Page, parts},
    rows::{DraftRow, EventRow, HostRow, InstanceRow, records},
    *,
};
use crate::{
    api::{Parts as ApiParts, Role},
    pki::{Lifetimes, Pki},
    store::testing::TestDatabase,
};
use askama::Template as _;
use axum::{body::Body, http::Request};
use futures_util::StreamExt as _;
use redforge_shared::{
    clock::ManualClock,
    wire::{pb, timestamp},
};
use std::time::Duration;
use time::macros::datetime;
use tower::ServiceExt as _;

const NOW: time::OffsetDateTime = datetime!(2026-11-23 10:00 UTC);

async fn web(db: &TestDatabase) -> Router {
    let clock: SharedClock = Arc::new(ManualClock::new(NOW));
    let day = Duration::from_secs(86_400);
    let callers = Callers::new(db.store.clone(), clock.clone());
    callers.admit("rfo_viewer", "desk", Role::Viewer, None).await.expect("a token");
    let api = Api::new(ApiParts {
        store: db.store.clone(),
        pki: Pki::new(Lifetimes { host: day, server: day }),
        clock: clock.clone(),
        public_url: "https://hub.example:7443".into(),
        heartbeat: Duration::from_secs(10),
        embed: None,
        depot: crate::depot::Depot::new("/nonexistent".into(), 1 << 20),
    });
    router(Parts { api, callers, clock, stop: CancellationToken::new() })
}

async fn call(web: &Router, path: &str, cookie: Option<&str>) -> Response {
    let mut request = Request::get(path);
    if let Some(cookie) = cookie {
        request = request.header(header::COOKIE, cookie);
    }
    web.clone().oneshot(request.body(Body::empty()).expect("a request")).await.expect("an answer")
}

async fn send_form(web: &Router, form: &str, from: &str) -> Response {
    let request = Request::post("/login")
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
        .header("sec-fetch-site", from)
        .body(Body::from(form.to_owned()));
    web.clone().oneshot(request.expect("a request")).await.expect("an answer")
}

async fn text(response: Response) -> String {
    let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await.expect("a body");
    String::from_utf8(bytes.to_vec()).expect("text")
}

#[tokio::test]
async fn only_a_good_token_sees_the_page_and_a_cut_shows() {
    let db = TestDatabase::start().await;
    let web = web(&db).await;
    for (path, cookie) in [("/", None), ("/", Some("redforge_session=wrong")), ("/login?link=wrong", None)] {
        let response = call(&web, path, cookie).await;
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{path}");
        assert!(text(response).await.contains("Operator token"), "{path}");
    }
    assert_eq!(call(&web, "/live", None).await.status(), StatusCode::UNAUTHORIZED);
    let response = send_form(&web, "token=rfo_viewer", "same-origin").await;
    assert_eq!(response.status(), StatusCode::SEE_OTHER);
    let cookie = response.headers()[header::SET_COOKIE].to_str().expect("text").to_owned();
    for word in ["HttpOnly", "Secure", "SameSite=Lax"] {
        assert!(cookie.contains(word), "{cookie}");
    }
    let cookie = cookie.split(';').next();
    let response = call(&web, "/", cookie).await;
    assert_eq!(response.headers()[header::CONTENT_SECURITY_POLICY], POLICY);
    assert!(text(response).await.contains("No host has enrolled yet"));
    let live = call(&web, "/live", cookie).await;
    let mut events = live.into_body().into_data_stream();
    let first = events.next().await.expect("an event").expect("bytes");
    assert!(first.starts_with(b"event: parts\ndata: {\"at\":\"10:00:00 UTC\""), "{first:?}");
    // The database goes away under an open page: the next look says so.
    db.store.close().await;
    loop {
        let next = events.next().await.expect("an event").expect("bytes");
        if String::from_utf8_lossy(&next).contains("cannot read its database") {
            break;
        }
    }
}

#[tokio::test]
async fn a_session_is_no_token_ends_by_itself_and_ends_with_its_token() {
    let db = TestDatabase::start().await;
    let clock = Arc::new(ManualClock::new(NOW));
    let callers = Callers::new(db.store.clone(), clock.clone());
    callers.admit("rfo_short", "desk", Role::Viewer, Some(Duration::from_secs(3600))).await.expect("a token");
    callers.admit("rfo_long", "desk", Role::Admin, None).await.expect("a token");
    let long = callers.session_of("rfo_long").await.expect("reads").expect("known").text;
    let short = callers.session_of("rfo_short").await.expect("reads").expect("known").text;
    let good = async |s: &str| callers.by_session(s).await.expect("reads").is_some();
    assert!(good(&long).await && good(&short).await);
    assert!(callers.by_token(&long).await.expect("reads").is_none(), "a session is good for the page alone");
    // Another end, another token's signature, a cut text: none of them is good.
    let mut bytes = base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, &long).expect("base64");
    bytes[23] ^= 1;
    let forged = base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, &bytes);
    assert!(!good(&forged).await && !good(&long[..74]).await && !good(&format!("{long}A")).await && !good("").await);
    assert!(!good(&format!("{}{}", &long[..32], &short[32..])).await);
    clock.advance(Duration::from_secs(3601));
    assert!(good(&long).await && !good(&short).await, "a session outlived its token");
    clock.advance(Duration::from_secs(11 * 3600));
    assert!(!good(&long).await, "a session has no end");
    assert!(callers.session_of("rfo_nobody").await.expect("reads").is_none());
}

#[tokio::test]
async fn nobody_is_logged_in_from_another_page_and_large_forms_are_not_read() {
    let db = TestDatabase::start().await;
    let web = web(&db).await;
    assert_eq!(send_form(&web, "token=rfo_viewer", "cross-site").await.status(), StatusCode::FORBIDDEN);
    let large = format!("token={}", "x".repeat(10_000));
    assert_eq!(send_form(&web, &large, "same-origin").await.status(), StatusCode::PAYLOAD_TOO_LARGE);
}

/// Reading goes on then, and the page would look as if all were well.
#[tokio::test]
async fn a_full_disk_is_told_on_the_page_until_there_is_room() {
    let db = TestDatabase::start().await;
    let web = web(&db).await;
    let response = send_form(&web, "token=rfo_viewer", "same-origin").await;
    let cookie = response.headers()[header::SET_COOKIE].to_str().expect("text").to_owned();
    let page = async || text(call(&web, "/", cookie.split(';').next()).await).await;
    let words = "full: nothing new is stored until some space is freed";
    assert!(!page().await.contains(words));
    db.tamper(
        "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS
           $$ BEGIN RAISE EXCEPTION 'no space left on device' USING ERRCODE = 'disk_full'; END $$;
         CREATE TRIGGER fail BEFORE INSERT ON operator_token FOR EACH ROW EXECUTE FUNCTION fail()",
    )
    .await;
    let callers = Callers::new(db.store.clone(), Arc::new(ManualClock::new(NOW)));
    assert!(callers.admit("rfo_other", "other", Role::Viewer, None).await.is_err());
    // One look serves for a second.
    let becomes = async |told: bool| {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        while page().await.contains(words) != told {
            assert!(tokio::time::Instant::now() < deadline, "the page never comes to tell {told}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    becomes(true).await;
    db.store.look_for_room().await.expect("there is room");
    becomes(false).await;
}

fn being_pulled(i: &mut pb::Instance) {
    let pulled = pb::Progress { what: "nomic-embed-text".into(), done_bytes: 117 << 20, total_bytes: 274 << 20 };
    i.status.as_mut().expect("reported").progress = Some(pulled);
}

fn crashing(i: &mut pb::Instance, held_because: &str) {
    let s = i.status.as_mut().expect("reported");
    (s.reason, s.exit_code, s.restarts) = (pb::StatusReason::ContainerExited.into(), 137, 4);
    s.next_start_at = Some(timestamp(NOW + time::Duration::seconds(40)));
    let until = Some(timestamp(NOW + time::Duration::DAY));
    s.hold = Some(pb::Hold { by: "anna".into(), reason: held_because.into(), until, ..Default::default() });
}

fn draft() -> pb::FlowSetDraft {
    pb::FlowSetDraft {
        name: "flowsets/mixing/drafts/3".into(),
        instance: "hosts/oven-1/instances/flows".into(),
        base_revision: 7,
        node_count: 12,
        size_bytes: 4096,
        created_at: Some(timestamp(NOW - time::Duration::seconds(90))),
        ..Default::default()
    }
}

fn streams() -> [pb::Stream; 3] {
    let stream = |host: &str, class: pb::RecordClass, committed, gaps, resent| pb::Stream {
        host: format!("hosts/{host}"),
        class: class.into(),
        committed,
        gaps,
        resent,
        last_commit_at: Some(timestamp(NOW - time::Duration::seconds(5))),
        ..Default::default()
    };
    [
        stream("press-1", pb::RecordClass::Vector, 4_212, 0, 17),
        stream("press-1", pb::RecordClass::Log, 18_093, 3, 0),
        stream("oven-1", pb::RecordClass::Log, 3_310, 0, 0),
    ]
}

fn sample() -> Overview {
    let ago = |s| Some(timestamp(NOW - time::Duration::seconds(s)));
    let evil = "<script>alert(1)</script>\r\n\"'&";
    let host = |name: &str, link: pb::Link, seen, waiting| pb::Host {
        name: format!("hosts/{name}"),
        site: "sites/hall-2".into(),
        link: link.into(),
        health: pb::Health::Healthy.into(),
        sync: pb::Sync::UpToDate.into(),
        last_seen_at: ago(seen),
        report_age_s: seen,
        generation: 7,
        observed_generation: 7,
        instance_count: 3,
        instances_running: 3,
        names: vec![evil.into()],
        outbox: vec![pb::OutboxStatus { class: pb::RecordClass::Log.into(), waiting, ..Default::default() }],
        ..Default::default()
    };
    let hosts = [
        host("press-1", pb::Link::Online, 3, 0),
        host("press-2", pb::Link::Stale, 15, 12),
        host("oven-1", pb::Link::Offline, 4_000, 1204),
    ];
    let instance =
        |host: &str, name: &str, link: pb::Link, phase: pb::Phase, health: pb::Health, sync: pb::Sync| pb::Instance {
            name: format!("hosts/{host}/instances/{name}"),
            kind: "node-red".into(),
            status: Some(pb::InstanceStatus {
                phase: phase.into(),
                health: health.into(),
                sync: sync.into(),
                ..Default::default()
            }),
            host_link: link.into(),
            report_age_s: 4,
            ..Default::default()
        };
    let mut instances = [
        instance("press-1", "flows", pb::Link::Online, pb::Phase::Running, pb::Health::Healthy, pb::Sync::UpToDate),
        instance("press-1", "models", pb::Link::Online, pb::Phase::Pulling, pb::Health::Unknown, pb::Sync::Updating),
        instance("press-1", "legacy", pb::Link::Online, pb::Phase::Crashed, pb::Health::Error, pb::Sync::Failed),
        instance("oven-1", "flows", pb::Link::Offline, pb::Phase::Running, pb::Health::Healthy, pb::Sync::UpToDate),
    ];
    being_pulled(&mut instances[1]);
    being_pulled(&mut instances[3]);
    crashing(&mut instances[2], evil);
    let refused = instances[1].status.as_mut().expect("reported");
    refused.preflight =
        Some(pb::Preflight { verdict: pb::PreflightVerdict::FitsAfterCleanUp.into(), findings: vec![] });
    let drafts = [draft()];
    let event = |warning, reason: &str, message: &str| pb::Event {
        at: ago(90),
        reason: reason.into(),
        warning,
        resource: "hosts/oven-1".into(),
        actor: "hub".into(),
        message: message.into(),
    };
    let events = [event(true, "HOST_OFFLINE", evil), event(false, "HOST_ENROLLED", "enrolled with token desk")];
    let records = records(&hosts, &streams(), NOW);
    let hosts: Vec<HostRow> = hosts.iter().map(|h| HostRow::new(h, NOW)).collect();
    let overview = Overview {
        at: "10:00:00 UTC".into(),
        instances: instances.iter().map(|i| InstanceRow::new(i, &hosts, &drafts, NOW)).collect(),
        hosts,
        drafts: drafts.iter().map(|d| DraftRow::new(d, NOW)).collect(),
        records,
        events: events.iter().map(|e| EventRow::new(e, NOW)).collect(),
        ..Overview::default()
    };
    Overview { tiles: overview.tiles(), ..overview }
}

#[test]
fn texts_never_become_markup_and_nothing_is_fetched_elsewhere() {
    let o = sample();
    let page = Page { o: &o }.render().expect("renders");
    assert!(!page.contains("<script>") && page.contains("&#60;script&#62;"), "{page}");
    assert!(!parts(&o).contains(['\n', '\r']), "an event must be one line");
    for text in [page.as_str(), include_str!("../../static/page.css"), include_str!("../../static/page.js")] {
        for elsewhere in ["http:", "https:", "url(", "@import", "=\"//", "style=\"", "onclick"] {
            assert!(!text.contains(elsewhere), "{elsewhere}");
        }
    }
    assert!(include_str!("../../static/page.js").lines().count() < 150);
    // The offline host's instance runs for all we know; it is not shown so.
    let row = page.split("<tr>").find(|r| r.contains("oven-1") && r.contains("flows")).expect("the row");
    assert!(!row.contains("chip good") && row.contains("was Healthy"), "{row}");
}

#[test]
fn an_instance_that_runs_the_stand_in_says_so_on_the_page() {
    let kind_of = |image: &str| {
        let spec_json = serde_json::json!({"kind": "ollama", "image": image}).to_string();
        InstanceRow::new(&pb::Instance { kind: "ollama".into(), spec_json, ..Default::default() }, &[], &[], NOW).kind
    };
    assert_eq!(kind_of("redforge.local/ollama-standin:1"), "ollama (Ollama stand-in)");
    assert_eq!(kind_of("ollama/ollama:0.32.15"), "ollama");
}

#[test]
fn a_pull_shows_how_far_it_is_while_its_host_is_heard() {
    let page = Page { o: &sample() }.render().expect("renders");
    let said = "Fetching</strong> nomic-embed-text: 42% (117.0 MiB of 274.0 MiB)";
    let rows: Vec<&str> = page.split("<tr>").filter(|r| r.contains(said)).collect();
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert!(
        rows[0].contains("press-1")
            && rows[0].contains(r#"<progress aria-label="models on press-1, fetched" max="100" value="42""#),
        "{}",
        rows[0]
    );
}

/// A person reads the two tables as text: link, health and sync of each row, and how old they are.
#[test]
fn hosts_and_instances_show_link_health_and_sync_with_their_age() {
    let parts: serde_json::Value = serde_json::from_str(&parts(&sample())).expect("JSON");
    let mut said = String::new();
    for table in ["hosts", "instances", "drafts"] {
        for row in parts[table].as_str().expect("HTML").split("<tr>").skip(1) {
            let cells = row.split("<td").map(|cell| {
                let texts = cell.split('<').filter_map(|piece| Some(piece.split_once('>')?.1.trim()));
                texts.filter(|t| !t.is_empty()).collect::<Vec<_>>().join(" ")
            });
            said += &format!("{table}: {}\n", cells.collect::<Vec<_>>().join(" | "));
        }
    }
    insta::assert_snapshot!(said);
}
