//! `redforge-edge status`: one sentence a technician can act on, then tables. The sentence is pure; asking the running
//! agent, or its files when it does not run, is the thin shell around it.
use crate::{
    config::Config,
    db::ledger::Ledger,
    identity::IdentityDir,
    page::{HostView, StatusView},
    run::lock::{self, Held},
};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use redforge_shared::{
    clock::Clock,
    report::{Health, HostFacts, HostStatus, InstanceStatus, Phase, Sync},
};
use std::{fmt::Write as _, path::Path, time::Duration};
use time::{OffsetDateTime, macros::format_description};
use tokio::net::UnixStream;

/// Exit code when the agent does not run.
pub const EXIT_NOT_RUNNING: u8 = 3;
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_ANSWER_BYTES: usize = 8 << 20;
const MINUTE: i64 = 60;
const HOUR: i64 = 3_600;
const DAY: i64 = 86_400;

/// Asks the running agent, or reads its files.
pub async fn gather(config: &Config, clock: &dyn Clock) -> anyhow::Result<StatusView> {
    match lock::holder(&config.state_dir) {
        Some(Held { pid, socket }) => match ask(&socket).await {
            Ok(view) => Ok(view),
            Err(e) => anyhow::bail!(
                "the agent runs (pid {pid}) but does not answer on {}: {e:#}. If this lasts, restart it",
                socket.display()
            ),
        },
        None => from_files(config, clock).await,
    }
}

async fn ask(socket: &Path) -> anyhow::Result<StatusView> {
    let asking = async {
        let stream = UnixStream::connect(socket).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let request = hyper::Request::get("/status").header("host", "agent").body(Empty::<bytes::Bytes>::new())?;
        let exchange = async {
            let response = sender.send_request(request).await?;
            let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
            body.map(|b| b.to_bytes()).map_err(|e| anyhow::anyhow!(e))
        };
        tokio::pin!(exchange, connection);
        loop {
            tokio::select! {
                body = &mut exchange => return Ok(serde_json::from_slice(&body?)?),
                ended = &mut connection => ended?,
            }
        }
    };
    tokio::time::timeout(ANSWER_TIMEOUT, asking).await?
}

async fn from_files(config: &Config, clock: &dyn Clock) -> anyhow::Result<StatusView> {
    let mut view = StatusView {
        at: clock.now(),
        agent_version: env!("CARGO_PKG_VERSION").into(),
        running: false,
        starting: None,
        host: None,
        link: None,
        status: None,
        outbox: Vec::new(),
        outbox_max_bytes: config.outbox.max_bytes,
        facts: HostFacts::default(),
    };
    if !config.state_dir.join("identity").exists() {
        return Ok(view);
    }
    view.host = HostView::read(&IdentityDir::open(&config.state_dir)?);
    view.facts = crate::facts::measure(&config.state_dir);
    let path = config.state_dir.join("ledger.db");
    if path.exists() {
        let ledger = Ledger::open(&path).await?;
        view.status = ledger.desired().map(|desired| HostStatus {
            generation: desired.generation,
            spec_sha256: Some(desired.sha256),
            health: Health::Unknown,
            sync: Sync::OutOfDate,
            reason: None,
            names: Vec::new(),
            instances: desired.state.instances.iter().map(|i| unknown(i, clock.now())).collect(),
        });
    }
    Ok(view)
}

/// An instance that nobody looked at.
fn unknown(spec: &redforge_shared::desired::InstanceSpec, at: OffsetDateTime) -> InstanceStatus {
    InstanceStatus {
        name: spec.name.clone(),
        kind: spec.workload.kind().into(),
        phase: Phase::Pending,
        health: Health::Unknown,
        sync: Sync::OutOfDate,
        reason: None,
        names: Vec::new(),
        container_id: None,
        restarts: 0,
        exit_code: None,
        changed_at: at,
        memory_limit_bytes: 0,
        cpu_limit_millicores: 0,
    }
}

/// The first line.
pub fn sentence(view: &StatusView) -> String {
    let Some(host) = &view.host else {
        return "Not enrolled: on the hub run `redforgectl token create`, then the `redforge-edge enroll ...` line it \
                prints here."
            .into();
    };
    if !view.running {
        return format!(
            "The agent is not running; containers of '{}' go on by themselves. Start it: systemctl start redforge-edge, \
             or redforge-edge run.",
            host.name
        );
    }
    if let Some(why) = &view.starting {
        return format!("Starting: {why}.");
    }
    let waiting: u64 = view.outbox.iter().map(|n| n.waiting).sum();
    let Some(link) = &view.link else { return "Starting.".into() };
    let trouble = trouble(view);
    if link.online {
        let records = if waiting == 0 { String::new() } else { format!("; {} records on their way", grouped(waiting)) };
        let state = trouble.unwrap_or_else(|| "everything up to date".into());
        return format!("Connected to {} since {}; {state}{records}.", host.hub, short_time(link.since, view.at));
    }
    let records =
        if waiting == 0 { "no records waiting".into() } else { format!("{} records waiting", grouped(waiting)) };
    let mut text = format!("Working alone since {}; {records}", short_time(link.since, view.at));
    if let Some(seconds) = dark_seconds(view) {
        if seconds > 0 {
            let _ = write!(text, "; can stay dark {}", span(seconds));
        } else {
            text.push_str("; the certificate has run out, the host must be enrolled again");
        }
    }
    if let Some(trouble) = trouble {
        let _ = write!(text, "; {trouble}");
    }
    if let Some(error) = &link.last_error {
        let _ = write!(text, " ({error})");
    }
    text.push('.');
    text
}

/// What is wrong on the host, if anything.
fn trouble(view: &StatusView) -> Option<String> {
    let status = view.status.as_ref()?;
    if let Some(reason) = status.reason {
        let names = if status.names.is_empty() { String::new() } else { format!(" ({})", status.names.join(", ")) };
        return Some(format!("{} {}: {reason}{names}", status.health, status.sync));
    }
    let failing = |i: &&InstanceStatus| i.health == Health::Error || i.sync == Sync::Failed;
    let failing: Vec<&str> = status.instances.iter().filter(failing).map(|i| i.name.as_str()).collect();
    if !failing.is_empty() {
        return Some(format!("look at {}", failing.join(", ")));
    }
    match (status.health, status.sync) {
        (Health::Healthy, Sync::UpToDate) => None,
        (_, Sync::Updating) => Some("updating".into()),
        (health, sync) => Some(format!("{health}, {sync}")),
    }
}

/// For how long the host can go on without its hub: until its certificate ends, or its outbox is full at the rate at
/// which it filled since the link was lost.
fn dark_seconds(view: &StatusView) -> Option<i64> {
    let certificate = view.host.as_ref()?.certificate_not_after.map(|end| (end - view.at).whole_seconds());
    let bytes: u64 = view.outbox.iter().map(|n| n.waiting_bytes).sum();
    let alone = view.link.as_ref().map_or(0, |l| (view.at - l.since).whole_seconds());
    let room = view.outbox_max_bytes.saturating_sub(bytes);
    // Under a minute alone says nothing about the rate.
    let outbox = (alone >= MINUTE && bytes > 0).then(|| (room as f64 / (bytes as f64 / alone as f64)) as i64);
    [certificate, outbox].into_iter().flatten().min()
}

/// Everything, for a terminal.
pub fn render(view: &StatusView) -> String {
    let mut text = sentence(view);
    text.push('\n');
    if let Some(host) = &view.host {
        let _ = writeln!(text, "\nhost         {} ({}), site {}", host.name, host.id, host.site);
        if let Some(end) = host.certificate_not_after {
            let left = (end - view.at).whole_seconds();
            let left = if left > 0 { format!("for {}", span(left)) } else { "ENDED".into() };
            let _ = writeln!(text, "certificate  until {} ({left})", date(end));
        }
    }
    if let Some(status) = &view.status {
        let _ = writeln!(
            text,
            "desired      generation {}, {} instances, health {}, sync {}",
            status.generation,
            status.instances.len(),
            status.health,
            status.sync
        );
        if !status.instances.is_empty() {
            text.push('\n');
            text.push_str(&table(&instance_rows(status, view)));
        }
    }
    if !view.outbox.is_empty() {
        text.push('\n');
        let mut rows = vec![["CLASS", "WAITING", "BYTES", "REFUSED", "REPEATS", "LOST"].map(str::to_owned).to_vec()];
        rows.extend(view.outbox.iter().map(|n| {
            let numbers = [n.waiting, n.waiting_bytes, n.refused, n.absorbed, n.lost].map(grouped);
            std::iter::once(n.class.to_string()).chain(numbers).collect()
        }));
        text.push_str(&table(&rows));
    }
    if let Some(ahead) = view.link.as_ref().and_then(|l| l.clock_ahead_s).filter(|s| s.abs() > MINUTE) {
        let word = if ahead > 0 { "ahead of" } else { "behind" };
        let _ = writeln!(text, "\nThis host's clock is {} {word} the hub's.", span(ahead.abs()));
    }
    text
}

fn instance_rows(status: &HostStatus, view: &StatusView) -> Vec<Vec<String>> {
    let head = ["NAME", "KIND", "PHASE", "HEALTH", "SYNC", "REASON", "RESTARTS", "AGE"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for i in &status.instances {
        let mut reason = i.reason.map_or_else(|| "-".into(), |r| r.to_string());
        if !i.names.is_empty() {
            let _ = write!(reason, " ({})", i.names.join(", "));
        }
        let phase = if view.running { i.phase.to_string() } else { "-".into() };
        let age = if view.running { span((view.at - i.changed_at).whole_seconds().max(0)) } else { "-".into() };
        rows.push(vec![
            i.name.to_string(),
            i.kind.clone(),
            phase,
            i.health.to_string(),
            i.sync.to_string(),
            reason,
            i.restarts.to_string(),
            age,
        ]);
    }
    rows
}

fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| rows.iter().filter_map(|r| r.get(c)).map(|s| s.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let line: Vec<String> = row.iter().zip(&widths).map(|(cell, w)| format!("{cell:<w$}")).collect();
        let _ = writeln!(text, "{}", line.join("  ").trim_end());
    }
    text
}

/// `1204` as `1,204`.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(c);
    }
    text
}

/// The two largest parts of a time span would be noise: one is enough.
fn span(seconds: i64) -> String {
    let (n, unit) = match seconds {
        s if s >= 2 * DAY => (s / DAY, "days"),
        s if s >= 2 * HOUR => (s / HOUR, "hours"),
        s if s >= 2 * MINUTE => (s / MINUTE, "minutes"),
        s => (s, "s"),
    };
    format!("{n} {unit}")
}

/// The clock time if it was today, else the date too. UTC, and it says so.
fn short_time(at: OffsetDateTime, now: OffsetDateTime) -> String {
    if (now - at).whole_seconds().abs() < DAY && at.day() == now.day() {
        at.format(format_description!("[hour]:[minute] UTC")).unwrap_or_default()
    } else {
        date(at)
    }
}

fn date(at: OffsetDateTime) -> String {
    at.format(format_description!("[year]-[month]-[day] [hour]:[minute] UTC")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::{LinkView, OutboxNumbers};
    use redforge_shared::{ids::HostId, record::RecordClass, report::Reason};
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
            }),
            outbox: vec![],
            outbox_max_bytes: 8 << 30,
            facts: HostFacts::default(),
        }
    }

    fn waiting(records: u64, bytes: u64) -> Vec<OutboxNumbers> {
        let class = RecordClass::Vector;
        vec![OutboxNumbers { class, waiting: records, waiting_bytes: bytes, refused: 0, absorbed: 0, lost: 0 }]
    }

    #[test]
    fn a_connected_host_says_so() {
        assert_eq!(sentence(&view()), "Connected to https://hub:7443 since 14:02 UTC; everything up to date.");
    }

    #[test]
    fn a_host_that_works_alone_says_how_long_it_can() {
        let mut view = view();
        view.link.as_mut().expect("a link").online = false;
        view.outbox = waiting(1_204, 3_000_000);
        assert_eq!(sentence(&view), "Working alone since 14:02 UTC; 1,204 records waiting; can stay dark 6 days.");
        // 1 GiB in 58 minutes fills what is left of 8 GiB long before the certificate ends.
        view.outbox = waiting(1_204, 1 << 30);
        assert!(sentence(&view).contains("can stay dark 6 hours"), "{}", sentence(&view));
    }

    #[test]
    fn trouble_is_named() {
        let mut view = view();
        let status = view.status.as_mut().expect("a status");
        status.sync = Sync::Failed;
        status.reason = Some(Reason::SpecRefused);
        status.names = vec!["instances[0].flavour".into()];
        assert!(sentence(&view).contains("Failed: SpecRefused (instances[0].flavour)"), "{}", sentence(&view));
    }

    #[test]
    fn a_host_that_is_not_enrolled_or_not_running_says_what_to_do() {
        let mut view = view();
        view.running = false;
        assert!(sentence(&view).starts_with("The agent is not running"));
        view.host = None;
        assert!(sentence(&view).starts_with("Not enrolled: on the hub run `redforgectl token create`"));
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
}
