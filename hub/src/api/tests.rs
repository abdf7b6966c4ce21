//! The verbs against a real PostgreSQL: what is changed, what is refused, what is read back.
use super::*;
use crate::{
    depot,
    pki::{Kek, Lifetimes, authority},
    store::{
        hosts::SessionClaim,
        records::Batch,
        reports::{OutboxNumbers, Report},
        streams::{SeqRange, StreamKey},
        testing::TestDatabase,
    },
};
use futures_util::{StreamExt as _, TryStreamExt as _};
use redforge_shared::{
    clock::{Clock, ManualClock},
    desired::DesiredState,
    flows::{Flows, pack},
    ids::{Digest, Epoch, HostId, RunId},
    record::{Body, Log, Record, RecordClass},
    report::{Health, HostFacts, HostStatus, InstanceStatus, Phase, Sync},
    wire::pb,
};
use time::{OffsetDateTime, macros::datetime};

const NOW: OffsetDateTime = datetime!(2026-11-23 10:00 UTC);

pub(super) struct Bench {
    pub(super) db: TestDatabase,
    pub(super) api: Arc<Api>,
    pub(super) clock: ManualClock,
    _dir: tempfile::TempDir,
}

fn caller(role: Role) -> Caller {
    Caller { name: "ops".into(), role }
}

pub(super) async fn bench(embed: Option<Embed>) -> Bench {
    bench_on(TestDatabase::start().await, embed)
}

pub(super) fn bench_on(db: TestDatabase, embed: Option<Embed>) -> Bench {
    let clock = ManualClock::new(NOW);
    let day = Duration::from_secs(86_400);
    let pki = Pki::new(Lifetimes { host: day, server: day });
    let dir = tempfile::tempdir().expect("a folder");
    let kek = Kek::read_or_make(&dir.path().join("kek")).expect("a key file");
    let root = authority::make_root(&kek, NOW).expect("a root");
    let issuing = authority::make_issuing(&kek, &root, NOW).expect("an issuing authority");
    pki.set(authority::load(&kek, 1, &issuing, vec![root.certificate]).expect("loads"));
    let api = Api::new(Parts {
        store: db.store.clone(),
        pki,
        clock: Arc::new(clock.clone()),
        public_url: "https://hub.example:7443".into(),
        heartbeat: Duration::from_secs(10),
        embed,
        depot: depot::Depot::new(dir.path().join("artifacts"), 1 << 24),
    });
    Bench { db, api, clock, _dir: dir }
}

impl Bench {
    async fn apply(&self, manifests: &str) -> Result<Vec<(String, i32, u64)>, ApiError> {
        let request = pb::ApplyRequest { manifests: manifests.into(), validate_only: false, ..Default::default() };
        let done = self.api.apply(&OPERATOR, request).await?;
        Ok(done.resources.into_iter().map(|r| (r.name, r.action, r.revision)).collect())
    }

    async fn push(&self, name: &str, tar: &[u8]) -> Result<pb::PushFlowSetResponse, ApiError> {
        let operator = caller(Role::Operator);
        let header = pb::PushFlowSetHeader {
            name: format!("flowsets/{name}"),
            digest: Digest::of(tar).0.to_vec().into(),
            size_bytes: tar.len() as u64,
            ..Default::default()
        };
        let mut upload = self.api.begin_push(&operator, &header)?;
        for chunk in tar.chunks(200) {
            upload.chunk(chunk)?;
        }
        self.api.finish_push(&operator, upload).await
    }

    pub(super) async fn search(
        &self,
        collection: &str,
        query: pb::search_request::Query,
    ) -> Result<pb::SearchResponse, ApiError> {
        let request = pb::SearchRequest { collection: collection.into(), query: Some(query), limit: 0 };
        self.api.search(&VIEWER, request).await
    }

    pub(super) async fn land(&self, stream: StreamKey, first: u64, bodies: Vec<Body>) {
        let range = SeqRange::new(first, first + bodies.len() as u64 - 1).expect("a range");
        let record = |body| Record { at: NOW, instance: Some("flows".parse().expect("a name")), key: None, body };
        let records = bodies.into_iter().map(|b| Ok(record(b))).collect();
        let done = self.db.store.commit_batch(&Batch { stream, range, records }, self.clock.now()).await;
        done.expect("the database works").expect("the batch is taken");
    }
}

fn tar(nodes: &str) -> Vec<u8> {
    let (flows, names) = Flows::parse(nodes.as_bytes()).expect("flows");
    pack(&flows, &names)
}

fn node_red(name: &str, tail: &str) -> String {
    format!(
        "---\napiVersion: redforge.io/v1\nkind: Instance\nmetadata: {{name: {name}}}\nspec:\n  host: press-4\n  \
         kind: node-red\n  image: redforge.local/node-red:4\n{tail}"
    )
}

fn of_kind(name: &str, kind: &str) -> String {
    format!(
        "---\napiVersion: redforge.io/v1\nkind: Instance\nmetadata: {{name: {name}}}\nspec:\n  host: press-4\n  \
         kind: {kind}\n  image: a:1\n"
    )
}

const SITE: &str = "apiVersion: redforge.io/v1\nkind: Site\nmetadata: {name: hall}\nspec: {timeZone: Europe/Berlin}\n";
const FLOWS: &str = "---\napiVersion: redforge.io/v1\nkind: FlowSet\nmetadata: {name: notes}\nspec:\n  flows:\n  - {id: t1, type: tab}\n";

#[tokio::test]
async fn a_set_is_applied_whole_and_again_changes_nothing() {
    let b = bench(None).await;
    b.db.host("hall", "press-4").await;
    let set = format!(
        "{SITE}{FLOWS}{}{}",
        node_red("flows", "  nodeRed: {flowSet: notes, broker: broker}\n"),
        of_kind("broker", "mosquitto")
    );
    let (created, configured, unchanged) = (1, 2, 3);
    assert_eq!(
        b.apply(&set).await.expect("applies"),
        [
            ("sites/hall".into(), configured, 0),
            ("flowsets/notes".into(), created, 1),
            ("hosts/press-4/instances/flows".into(), created, 1),
            ("hosts/press-4/instances/broker".into(), created, 1),
        ]
    );
    assert!(b.apply(&set).await.expect("applies").iter().all(|(_, action, _)| *action == unchanged));
    let changed = set.replace("image: a:1", "image: a:2");
    assert_eq!(b.apply(&changed).await.expect("applies")[3], ("hosts/press-4/instances/broker".into(), configured, 2));

    let got = b.api.list_instances(&VIEWER, pb::ListInstancesRequest { page_size: 1, ..Default::default() });
    let first = got.await.expect("lists");
    assert_eq!((first.instances.len(), first.instances[0].name.as_str()), (1, "hosts/press-4/instances/broker"));
    let next =
        pb::ListInstancesRequest { page_size: 1, page_token: first.next_page_token, parent: "hosts/press-4".into() };
    let second = b.api.list_instances(&VIEWER, next).await.expect("lists");
    assert_eq!((second.instances[0].kind.as_str(), second.next_page_token.as_str()), ("node-red", ""));

    // Deleted and made again, it goes on counting.
    let name = pb::DeleteInstanceRequest { name: "hosts/press-4/instances/broker".into() };
    let e = b.apply(&node_red("flows", "  nodeRed: {broker: other}\n")).await.expect_err("no such broker").to_string();
    assert_eq!(
        e,
        "hosts/press-4/instances/flows spec.nodeRed.broker: the host has no instance other of kind mosquitto"
    );
    b.api.delete_instance(&OPERATOR, name.clone()).await.expect("deletes");
    assert!(matches!(b.api.delete_instance(&OPERATOR, name).await, Err(ApiError::NotFound(_))));
    assert_eq!(b.apply(&of_kind("broker", "mosquitto")).await.expect("applies")[0].2, 3);
    let events = b.api.list_events(&VIEWER, pb::ListEventsRequest { host: "hosts/press-4".into(), limit: 0 });
    let reasons: Vec<String> = events.await.expect("lists").events.into_iter().map(|e| e.reason).collect();
    assert_eq!(
        reasons,
        ["INSTANCE_CREATED", "INSTANCE_DELETED", "INSTANCE_CHANGED", "INSTANCE_CREATED", "INSTANCE_CREATED"]
    );
}

#[tokio::test]
async fn a_refused_set_changes_nothing_and_every_fault_is_told() {
    let b = bench(None).await;
    b.db.host("hall", "press-4").await;
    let site = |name: &str| format!("---\napiVersion: redforge.io/v1\nkind: Site\nmetadata: {{name: {name}}}\n");
    let port = "  ports: [{container: 1880, host: 80, address: 0.0.0.0}]\n";
    let set = [
        site("new-site"),
        "---\napiVersion: redforge.io/v1\nkind: FlowSet\nmetadata: {name: filed}\nspec: {flows: flows.json}\n".into(),
        node_red("one", &format!("{port}  nodeRed: {{flowSet: unknown}}\n")),
        node_red("two", port),
        node_red("three", port),
        of_kind("lost", "container").replace("press-4", "press-5"),
        of_kind("b1", "mosquitto"),
        of_kind("b2", "mosquitto"),
    ];
    let Err(ApiError::Invalid { violations }) = b.apply(&set.concat()).await else { panic!("must be refused") };
    let told: Vec<String> = violations.iter().map(|v| format!("{}: {}", v.field, v.problem)).collect();
    insta::assert_snapshot!(told.join("\n"));
    let sites = b.api.list_sites(&VIEWER, pb::ListSitesRequest::default()).await.expect("lists").sites;
    assert_eq!(sites.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["sites/hall"]);

    let check = pb::ApplyRequest { manifests: site("only-checked"), validate_only: true, ..Default::default() };
    assert_eq!(b.api.apply(&OPERATOR, check).await.expect("checks").resources[0].action, 1);
    let get = pb::GetSiteRequest { name: "sites/only-checked".into() };
    assert!(matches!(b.api.get_site(&VIEWER, get).await, Err(ApiError::NotFound(_))));
    let e = b.api.apply(&VIEWER, pb::ApplyRequest::default()).await.expect_err("a viewer").to_string();
    assert_eq!(e, "this needs the role operator, the token 'ops' has the role viewer");
}

#[tokio::test]
async fn a_pushed_flow_set_gets_a_revision_only_when_it_differs() {
    let b = bench(None).await;
    b.db.host("hall", "press-4").await;
    let one =
        tar(r#"[{"id":"t1","type":"tab"},{"id":"b","type":"mqtt-broker","name":"site","credentials":{"user":"u"}}]"#);
    let first = b.push("notes", &one).await.expect("pushes");
    let set = first.flow_set.expect("a flow set");
    assert_eq!((set.revision, set.node_count, set.digest), (1, 2, Digest::of(&one).hex()));
    assert_eq!(set.credential_names, ["site (b): user"]);
    b.apply(&node_red("flows", "  nodeRed: {flowSet: notes}\n")).await.expect("applies");
    let again = b.push("notes", &one).await.expect("pushes");
    assert!(!again.changed);
    // Larger than one stored chunk.
    let wide = "x".repeat(300 * 1024);
    let two = tar(&format!(r#"[{{"id":"t1","type":"tab","info":"{wide}"}}]"#));
    let second = b.push("notes", &two).await.expect("pushes");
    assert!(second.changed);
    assert_eq!(second.instances, ["hosts/press-4/instances/flows"]);
    assert_eq!(second.flow_set.expect("a flow set").revision, 2);
    let store = &b.db.store;
    let mut back = Vec::new();
    while let Some(chunk) =
        store.artifact_chunk(Digest::of(&two), (back.len() / (256 * 1024)) as u32).await.expect("reads")
    {
        back.extend(chunk);
        if back.len() == two.len() {
            break;
        }
    }
    assert_eq!(Digest::of(&back), Digest::of(&two));

    let operator = caller(Role::Operator);
    let (name, digest) = ("flowsets/notes".to_owned(), vec![0; 32].into());
    let notes = pb::PushFlowSetHeader { name, digest, ..Default::default() };
    let header = |size_bytes| pb::PushFlowSetHeader { size_bytes, ..notes.clone() };
    let e = b.api.begin_push(&operator, &header(100 << 20)).expect_err("too large").to_string();
    assert_eq!(e, "header.size_bytes: the flow set has 104857600 bytes, allowed are 1 to 16777216");
    let mut upload = b.api.begin_push(&operator, &header(4)).expect("begins");
    assert!(upload.chunk(b"12345").is_err());
    upload.chunk(b"1234").expect("fits");
    let e = b.api.finish_push(&operator, upload).await.expect_err("another digest").to_string();
    assert!(e.starts_with("chunk: the flow set's digest is sha256:"), "{e}");
    let _held: Vec<_> = (0..MAX_UPLOADS).map(|_| b.api.begin_push(&operator, &header(4)).expect("begins")).collect();
    assert!(matches!(b.api.begin_push(&operator, &header(4)), Err(ApiError::Busy { .. })));
}

#[tokio::test]
async fn a_host_is_shown_as_it_is_wanted_and_as_it_was_last_heard() {
    let b = bench(None).await;
    let id = b.db.host("hall", "press-4").await;
    let get = || b.api.get_host(&VIEWER, pb::GetHostRequest { name: "hosts/press-4".into() });
    let fresh = get().await.expect("reads");
    assert_eq!((fresh.link(), fresh.health(), fresh.report_age_s), (pb::Link::NeverSeen, pb::Health::Unknown, -1));

    b.apply(&of_kind("worker", "container")).await.expect("applies");
    let publish = b.db.store.begin_publish(id).await.expect("locks").expect("the host");
    let name = |n: &str| n.parse().expect("a name");
    let state = DesiredState {
        schema: 1,
        host: id,
        host_name: name("press-4"),
        site: name("hall"),
        policy: redforge_shared::policy::Policy::Open,
        instances: vec![],
    };
    let document = state.canonical().expect("canonical");
    assert_eq!(publish.commit(&document, NOW).await.expect("commits"), Some(1));
    report(&b, id, 1, document.sha256).await;
    let seen = get().await.expect("reads");
    assert_eq!((seen.link(), seen.health(), seen.sync()), (pb::Link::Online, pb::Health::Healthy, pb::Sync::UpToDate));
    assert_eq!((seen.generation, seen.observed_generation, seen.instances_running, seen.instance_count), (1, 1, 1, 1));
    assert_eq!((seen.outbox[0].waiting, seen.outbox[0].class()), (17, pb::RecordClass::Log));
    assert_eq!(seen.facts.expect("facts").hostname, "press");
    let instance = pb::GetInstanceRequest { name: "hosts/press-4/instances/worker".into() };
    let instance = b.api.get_instance(&VIEWER, instance).await.expect("reads");
    assert_eq!(instance.status.expect("a status").phase(), pb::Phase::Running);

    // A newer generation that the host has not taken yet is no UpToDate, whatever the host said.
    let mut other = state.clone();
    other.host_name = name("press-5");
    let publish = b.db.store.begin_publish(id).await.expect("locks").expect("the host");
    publish.commit(&other.canonical().expect("canonical"), NOW).await.expect("commits");
    assert_eq!(get().await.expect("reads").sync(), pb::Sync::Updating);
    b.clock.advance(Duration::from_secs(60));
    let dark = get().await.expect("reads");
    assert_eq!(
        (dark.link(), dark.health(), dark.sync(), dark.report_age_s),
        (pb::Link::Offline, pb::Health::Unknown, pb::Sync::OutOfDate, 60)
    );

    let resume = pb::ResumeHostRequest { name: "hosts/press-4".into() };
    let refused = b.api.resume_host(&OPERATOR, resume.clone()).await;
    assert!(matches!(refused, Err(ApiError::Precondition { reason: "HOST_NOT_PAUSED", .. })));
    b.db.store.pause_behind(id, 9, NOW).await.expect("pauses");
    let paused = get().await.expect("reads");
    assert_eq!((paused.sync(), paused.reason()), (pb::Sync::Paused, pb::StatusReason::HubBehind));
    assert_eq!(b.api.resume_host(&OPERATOR, resume).await.expect("resumes").generation, 10);
}

pub(super) static VIEWER: std::sync::LazyLock<Caller> = std::sync::LazyLock::new(|| caller(Role::Viewer));

async fn report(b: &Bench, host: HostId, generation: u64, sha256: Digest) {
    let facts = HostFacts { hostname: "press".into(), ..Default::default() };
    let run_id = RunId([3; 16]);
    let claim = SessionClaim { host, run_id, start_no: 1, hello_no: 1, facts: facts.clone() };
    b.db.store.claim_session(&claim, NOW).await.expect("claims");
    let worker = InstanceStatus {
        name: "worker".parse().expect("a name"),
        kind: "container".into(),
        phase: Phase::Running,
        health: Health::Healthy,
        sync: Sync::UpToDate,
        reason: None,
        names: vec![],
        container_id: Some("ab".repeat(32)),
        restarts: 0,
        exit_code: None,
        changed_at: NOW,
        memory_limit_bytes: 0,
        cpu_limit_millicores: 0,
        messages_dropped: 0,
        hold: None,
        preflight: None,
        late: None,
        next_start_at: None,
        trial_ends_at: None,
        progress: None,
        replicas: Default::default(),
        scaled: None,
        detail: None,
    };
    let status = HostStatus {
        generation,
        spec_sha256: Some(sha256),
        health: Health::Healthy,
        sync: Sync::UpToDate,
        reason: None,
        names: vec![],
        instances: vec![worker],
        clean_up: Default::default(),
    };
    let outbox =
        OutboxNumbers { class: RecordClass::Log, waiting: 17, waiting_bytes: 170, refused: 0, absorbed: 0, lost: 0 };
    let report = Report { start_no: 1, report_no: 1, status, facts, outbox: vec![outbox], reported_at: NOW };
    b.db.store.save_report(host, run_id, &report, b.clock.now()).await.expect("saves");
}

#[tokio::test]
async fn a_token_comes_with_the_whole_command_and_is_kept_as_a_hash() {
    let b = bench(None).await;
    b.db.host("hall", "press-4").await;
    let ask = |request| b.api.create_token(&OPERATOR, request);
    let request =
        pb::CreateTokenRequest { site: "sites/hall".into(), host_name: "press-9".into(), ..Default::default() };
    let made = ask(request).await.expect("makes");
    let want = format!(
        "redforge-edge enroll --hub https://hub.example:7443 --token {} --ca-pin {} --name press-9",
        made.token, made.ca_pin
    );
    assert_eq!(made.command, want);
    let stored = b.db.store.begin_enroll(Digest::of(made.token.as_bytes())).await.expect("reads").expect("the token");
    assert_eq!((stored.token.uses, stored.token.expires_at), (1, NOW + time::Duration::HOUR));
    let bad = pb::CreateTokenRequest { site: "sites/hall".into(), ttl_s: 5, ..Default::default() };
    assert_eq!(ask(bad).await.expect_err("too short").to_string(), "ttl_s: 5 is not within 60 to 2592000");
    let nowhere = pb::CreateTokenRequest { site: "sites/nowhere".into(), ..Default::default() };
    assert!(matches!(ask(nowhere).await, Err(ApiError::NotFound(_))));
}

static OPERATOR: std::sync::LazyLock<Caller> = std::sync::LazyLock::new(|| caller(Role::Operator));

fn line(n: u64) -> Body {
    Body::Log(Log { level: None, line: format!("line {n}"), stream: "stdout".into(), truncated: false })
}

#[tokio::test]
async fn records_are_listed_newest_first_and_followed() {
    let b = bench(None).await;
    let host = b.db.host("hall", "press-4").await;
    let stream = StreamKey { host, class: RecordClass::Log, epoch: Epoch([1; 16]) };
    b.land(stream, 1, (1..=250).map(line).collect()).await;
    b.clock.advance(Duration::from_secs(1));
    b.land(stream, 301, (301..=350).map(line).collect()).await;
    let ask = |limit, follow, host: &str| {
        let class = pb::RecordClass::Log.into();
        let request = pb::ListRecordsRequest { host: host.into(), class, limit, follow, ..Default::default() };
        b.api.list_records(&VIEWER, request).expect("lists").boxed()
    };
    let all: Vec<pb::Record> = ask(10_000, false, "").try_collect().await.expect("reads");
    assert_eq!(all.len(), 300);
    assert_eq!((all[0].seq, all[299].seq, all[0].host.as_str()), (350, 1, "hosts/press-4"));
    let body: serde_json::Value = serde_json::from_str(&all[0].body_json).expect("JSON");
    assert_eq!(body, serde_json::json!({"line": "line 350", "level": null, "stream": "stdout", "truncated": false}));
    let some: Vec<pb::Record> = ask(3, false, "hosts/press-4").try_collect().await.expect("reads");
    assert_eq!(some.iter().map(|r| r.seq).collect::<Vec<_>>(), [350, 349, 348]);
    assert!(ask(3, false, "hosts/other").try_collect::<Vec<_>>().await.expect("reads").is_empty());

    let mut following = ask(2, true, "");
    let mut next = async || following.next().await.expect("goes on").expect("reads").seq;
    assert_eq!([next().await, next().await], [349, 350]);
    // These were received before what was already given, and committed after it.
    b.land(stream, 251, (251..=253).map(line).collect()).await;
    assert_eq!([next().await, next().await, next().await], [251, 252, 253]);

    let streams =
        b.api.list_streams(&VIEWER, pb::ListStreamsRequest { host: "hosts/press-4".into() }).await.expect("lists");
    let s = &streams.streams[0];
    assert_eq!((s.committed, s.max_seq, s.gaps, s.lost, s.ranges), (303, 350, 47, 0, 2));
}
