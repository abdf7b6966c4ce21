//! Every state that a technician may meet, in its own words.
use super::*;
use crate::{
    link::{LinkView, OutboxNumbers},
    page::{FailedView, HoldView, HostView},
    status::{render, warnings},
};
use redforge_shared::{
    ids::HostId,
    record::RecordClass,
    report::{Hold, HostFacts, HostStatus, Progress},
};
use time::macros::datetime;

fn view() -> StatusView {
    let at = datetime!(2026-11-23 15:00 UTC);
    StatusView {
        at,
        agent_version: "0.1.0".into(),
        running: true,
        starting: None,
        host: Some(HostView {
            id: HostId(uuid::Uuid::nil()),
            name: "edge-1".parse().expect("a name"),
            site: "plant".parse().expect("a name"),
            hub: "https://hub:7443".into(),
            certificate_not_after: Some(at + time::Duration::days(6) + time::Duration::HOUR),
        }),
        link: Some(LinkView {
            online: true,
            hub: Some("https://hub:7443".into()),
            since: datetime!(2026-11-23 14:02 UTC),
            last_error: None,
            overlay: None,
            clock_ahead_s: Some(0),
        }),
        status: Some(HostStatus {
            generation: 4,
            spec_sha256: None,
            health: Health::Healthy,
            sync: Sync::UpToDate,
            reason: None,
            names: vec![],
            instances: vec![],
            clean_up: Default::default(),
        }),
        outbox: vec![],
        outbox_max_bytes: 8 << 30,
        facts: HostFacts::default(),
        warnings: vec![],
        holds: vec![],
        failed: vec![],
    }
}

fn waiting(records: u64, bytes: u64) -> Vec<OutboxNumbers> {
    let class = RecordClass::Vector;
    vec![OutboxNumbers { class, waiting: records, waiting_bytes: bytes, refused: 0, absorbed: 0, lost: 0 }]
}

pub(super) fn instance(name: &str) -> InstanceStatus {
    InstanceStatus {
        name: name.parse().expect("a name"),
        kind: "container".into(),
        phase: Phase::Running,
        health: Health::Healthy,
        sync: Sync::UpToDate,
        reason: None,
        names: vec![],
        container_id: Some("c".into()),
        restarts: 0,
        exit_code: None,
        changed_at: datetime!(2026-11-23 14:30 UTC),
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
    }
}

fn alone(mut view: StatusView) -> StatusView {
    view.link.as_mut().expect("a link").online = false;
    view.outbox = waiting(1_204, 3_000_000);
    view
}

fn with(mut view: StatusView, health: Health, sync: Sync, reason: Reason, names: &[&str]) -> StatusView {
    let status = view.status.as_mut().expect("a status");
    (status.health, status.sync, status.reason) = (health, sync, Some(reason));
    status.names = names.iter().map(|n| (*n).to_owned()).collect();
    view
}

/// The host's trouble is that of one instance.
fn of(mut view: StatusView) -> StatusView {
    let status = view.status.as_mut().expect("a status");
    let (health, sync, reason, names) = (status.health, status.sync, status.reason, status.names.clone());
    status.instances = vec![instance("a"), InstanceStatus { health, sync, reason, names, ..instance("press") }];
    view
}

/// Everything that a technician may meet, as the first line has it.
#[test]
fn the_first_line_says_what_can_be_done_in_every_state() {
    let mut not_running = view();
    not_running.running = false;
    let mut not_running_with_records = not_running.clone();
    not_running_with_records.outbox = waiting(1_204, 3_000_000);
    let mut not_enrolled = not_running.clone();
    not_enrolled.host = None;
    let mut starting = view();
    starting.starting = Some("ledger.db cannot be opened yet: no space is left".into());
    let mut sending = view();
    sending.outbox = waiting(1, 100);
    let error = |text: &str| {
        let mut view = alone(view());
        view.link.as_mut().expect("a link").last_error = Some(text.into());
        view
    };
    let fenced = "the hub ended the session: this host is fenced: its state folder was seen on two machines; \
                  stop the agent on one of them, then an operator says `redforgectl resume press-4` (PermissionDenied)";
    let mut ended = alone(view());
    ended.host.as_mut().expect("a host").certificate_not_after = Some(datetime!(2026-11-22 14:00 UTC));
    let mut filling = alone(view());
    // 1 GiB in 58 minutes fills what is left of 8 GiB long before the certificate ends.
    filling.outbox = waiting(1_204, 1 << 30);
    let mut crashed = with(view(), Health::Error, Sync::UpToDate, Reason::ContainerExited, &[]);
    let loops = InstanceStatus {
        phase: Phase::Crashed,
        health: Health::Error,
        reason: Some(Reason::ContainerExited),
        exit_code: Some(7),
        ..instance("press")
    };
    crashed.status.as_mut().expect("a status").instances = vec![instance("a"), loops];
    let (e, h) = (Health::Error, Health::Healthy);
    let hold = Hold {
        by: "anna".into(),
        reason: "belt is open".into(),
        since: datetime!(2026-11-23 14:40 UTC),
        until: datetime!(2026-11-23 16:40 UTC),
        whole_host: false,
    };
    let mut held = of(with(view(), h, Sync::Paused, Reason::Held, &[]));
    held.holds = ["press", "oven"].map(|n| HoldView { instance: n.parse().ok(), hold: hold.clone() }).into();
    let away = |v| with(v, e, Sync::OutOfDate, Reason::RuntimeUnreachable, &[]);
    let states = [
        ("connected", view()),
        ("sending", sending),
        ("alone", alone(view())),
        ("alone, filling up", filling),
        ("alone, hub refuses TCP", error("https://hub:7443 cannot be reached: Connection refused (os error 111)")),
        ("alone, certificate ended", ended),
        ("fenced", error(fenced)),
        ("hub behind", with(view(), h, Sync::Paused, Reason::HubBehind, &[])),
        ("docker away", away(view())),
        ("docker away and alone", away(alone(view()))),
        ("disk full", with(view(), e, Sync::UpToDate, Reason::DiskFull, &[])),
        ("not understood", with(view(), h, Sync::Failed, Reason::SpecRefused, &["instances[0].flavour"])),
        ("went back", of(with(view(), h, Sync::RolledBack, Reason::ProbeFailed, &["web:2"]))),
        ("missing type", of(with(view(), e, Sync::Failed, Reason::MissingTypes, &["warp-drive"]))),
        ("held", held),
        ("crashed", crashed.clone()),
        ("starting", starting),
        ("not running", not_running),
        ("not running, records", not_running_with_records),
        ("not enrolled", not_enrolled),
    ];
    let lines: Vec<_> = states.iter().map(|(state, view)| format!("{state}\n  {}", sentence(view))).collect();
    insta::assert_snapshot!(lines.join("\n"));
    crashed.warnings = vec!["the status page is not on 127.0.0.1:7460: it is taken".into()];
    insta::assert_snapshot!(render(&crashed));
}

/// What failed has a log, a port that is taken a holder, and a refusal the engine's words.
#[test]
fn what_failed_is_told_with_what_there_is_to_read() {
    let (e, h) = (Health::Error, Health::Healthy);
    let mut went_back = of(with(view(), h, Sync::RolledBack, Reason::ProbeFailed, &["web:2"]));
    went_back.failed = vec![FailedView { instance: "press".parse().expect("a name"), at: view().at }];
    let mut refused = of(with(view(), e, Sync::Failed, Reason::StartRefused, &[]));
    refused.status.as_mut().expect("a status").instances[1].detail = Some("exec: \"no\": not found".into());
    refused.failed.clone_from(&went_back.failed);
    let states = [
        sentence(&went_back),
        sentence(&of(with(view(), e, Sync::OutOfDate, Reason::PortTaken, &["8080/tcp"]))),
        sentence(&of(with(view(), e, Sync::OutOfDate, Reason::PortTaken, &["8080/tcp", "web"]))),
        render(&refused),
    ];
    insta::assert_snapshot!(states.join("\n"));
    assert!(warnings(&went_back)[0].contains("redforge-edge logs press --failed"));
    // What works again has nothing to be read, and of an agent that is down nobody knows.
    went_back.status.as_mut().expect("a status").instances = vec![instance("press")];
    assert_eq!(warnings(&went_back), Vec::<String>::new());
    went_back.running = false;
    assert_eq!(warnings(&went_back).len(), 1);
}

#[test]
fn what_is_being_fetched_and_how_far_stands_in_the_table() {
    let mut pulling = view();
    let progress = |total_bytes| Some(Progress { what: "redis:7".into(), done_bytes: 812 << 20, total_bytes });
    let cache = |name, total| InstanceStatus { phase: Phase::Pulling, progress: progress(total), ..instance(name) };
    pulling.status.as_mut().expect("a status").instances = vec![cache("cache", 1945 << 20), cache("other", 0)];
    let rows = render(&pulling);
    let row = |name: &str| rows.lines().find(|l| l.starts_with(name)).map(str::to_owned).unwrap_or_default();
    assert!(
        row("cache").contains("Pulling 41% (812.0 MiB of 1.9 GiB)") && row("cache").contains("(redis:7)"),
        "{rows}"
    );
    assert!(row("other").contains("Pulling 812.0 MiB "), "{rows}");
}

#[test]
fn numbers_and_spans_read_well() {
    assert_eq!(grouped(0), "0");
    assert_eq!(grouped(999), "999");
    assert_eq!(grouped(1_234_567), "1,234,567");
    assert_eq!(
        (span(59), span(120), span(7_200), span(2 * DAY)),
        ("59 s".into(), "2 minutes".into(), "2 hours".into(), "2 days".into())
    );
}
