//! `redforge-edge status`: one sentence a technician can act on, then tables. Sentence and tables are pure; asking the
//! running agent, or its files when it does not run, is the thin shell around them.
use crate::site::span::words;
use crate::{
    config::Config,
    db::{ledger::Ledger, outbox},
    identity::IdentityDir,
    page::{FailedView, HoldView, HostView, StatusView, ask::exchange},
    run::lock::{self, Held},
};
use redforge_shared::{
    clock::Clock,
    error::Chain,
    report::{
        Health, HostFacts, HostStatus, InstanceStatus, Phase, Reason, Sync,
        clean_up::{CleanUp, Leftover},
        explained,
    },
};
use sentence::{MINUTE, grouped, span};
use std::{fmt::Write as _, path::Path};
use time::OffsetDateTime;

mod sentence;

pub(crate) use sentence::date;
pub use sentence::sentence;

/// Exit code when the agent does not run.
pub const EXIT_NOT_RUNNING: u8 = 3;

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
    let (_, body) = exchange(socket, "GET", "/status", Vec::new()).await?;
    Ok(serde_json::from_slice(&body)?)
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
        warnings: Vec::new(),
        holds: Vec::new(),
        failed: Vec::new(),
    };
    if !config.state_dir.join("identity").exists() {
        return Ok(view);
    }
    view.host = HostView::read(&IdentityDir::open(&config.state_dir)?);
    view.facts = crate::facts::measure(&config.state_dir);
    let path = config.state_dir.join("ledger.db");
    if path.exists() {
        let ledger = Ledger::open(&path).await?;
        view.holds = HoldView::read(&ledger, clock.now()).await;
        view.failed = FailedView::read(&ledger).await;
        view.status = ledger.desired().map(|desired| HostStatus {
            generation: desired.generation,
            spec_sha256: Some(desired.sha256),
            health: Health::Unknown,
            sync: Sync::OutOfDate,
            reason: None,
            names: Vec::new(),
            instances: desired.state.instances.iter().map(|i| InstanceStatus::unseen(i, clock.now())).collect(),
            clean_up: Default::default(),
        });
    }
    let path = config.state_dir.join("outbox.db");
    if path.exists() {
        match outbox::peek(&path) {
            Ok(classes) => view.outbox = classes.into_iter().map(Into::into).collect(),
            Err(e) => view.warnings.push(format!("the records that wait cannot be counted: {}", Chain(&e))),
        }
    }
    Ok(view)
}

/// Everything, for a terminal.
pub fn render(view: &StatusView) -> String {
    let mut text = sentence(view);
    text.push('\n');
    if let Some(host) = &view.host {
        let _ = writeln!(text, "\nhost         {} ({}), site {}", host.name, host.id, host.site);
    }
    if let Some(certificate) = certificate(view) {
        let _ = writeln!(text, "certificate  {certificate}");
    }
    if let Some(status) = &view.status {
        let _ = writeln!(text, "desired      {}", desired(status));
        if !status.instances.is_empty() {
            text.push('\n');
            text.push_str(&table(&instance_rows(status, view)));
        }
    }
    if !view.holds.is_empty() {
        text.push('\n');
        text.push_str(&table(&hold_rows(view)));
    }
    if !view.outbox.is_empty() {
        text.push('\n');
        text.push_str(&table(&outbox_rows(view)));
    }
    for warning in warnings(view) {
        let _ = writeln!(text, "\n{warning}");
    }
    text
}

fn certificate(view: &StatusView) -> Option<String> {
    let end = view.host.as_ref()?.certificate_not_after?;
    let left = (end - view.at).whole_seconds();
    let left = if left > 0 { format!("for {}", span(left)) } else { "ENDED".into() };
    Some(format!("until {} ({left})", date(end)))
}

fn desired(status: &HostStatus) -> String {
    format!(
        "generation {}, {} instances, health {}, sync {}",
        status.generation,
        status.instances.len(),
        status.health,
        status.sync
    )
}

/// What deserves a look, as sentences.
pub(crate) fn warnings(view: &StatusView) -> Vec<String> {
    let mut all = Vec::new();
    for (i, scaled) in view.status.iter().flat_map(|s| &s.instances).filter_map(|i| Some((i, i.scaled?))) {
        all.push(format!("{} {scaled}.", i.name));
    }
    for i in view.status.iter().flat_map(|s| &s.instances).filter(|i| i.messages_dropped > 0) {
        let dropped = grouped(i.messages_dropped);
        all.push(format!("Warning: {} has thrown {dropped} messages away for want of room.", i.name));
    }
    all.extend(view.status.iter().flat_map(|s| &s.instances).filter_map(|i| last_words(view, i)));
    all.extend(view.status.iter().flat_map(|s| leftovers(&s.clean_up, view.at)));
    all.extend(view.warnings.iter().map(|w| format!("Warning: {w}.")));
    if let Some(ahead) = view.link.as_ref().and_then(|l| l.clock_ahead_s).filter(|s| s.abs() > MINUTE) {
        let word = if ahead > 0 { "ahead of" } else { "behind" };
        all.push(format!("This host's clock is {} {word} the hub's.", span(ahead.abs())));
    }
    all
}

/// Where to read what failed of an instance, while that is why it is as it is, or nobody knows how it is.
fn last_words(view: &StatusView, i: &InstanceStatus) -> Option<String> {
    let failed = view.failed.iter().find(|f| f.instance == i.name)?;
    let is_why = i.sync == Sync::RolledBack || i.phase == Phase::Crashed || i.health == Health::Error || !view.running;
    let text =
        || format!("{0} failed at {1}; what it printed last: redforge-edge logs {0} --failed", i.name, date(failed.at));
    is_why.then(text)
}

/// What nothing needs any more, and what becomes of it.
fn leftovers(said: &CleanUp, now: OffsetDateTime) -> Vec<String> {
    let mut all = Vec::new();
    if said.short {
        all.push(
            "Room is short: images, models and blobs that nothing needs are removed before their time.".to_owned(),
        );
    }
    for u in &said.unneeded {
        let when = match u.removed_at {
            Some(at) if at <= now => "is removed as soon as nothing uses it".to_owned(),
            Some(at) => format!("is removed in {}", span((at - now).whole_seconds())),
            None if u.kind == Leftover::Volume => "stays: [clean_up] keeps data".to_owned(),
            None => "stays: clean-up is switched off".to_owned(),
        };
        all.push(format!("Unneeded: {} {} {when}.", u.kind.as_str().to_lowercase(), u.name));
    }
    let more = (said.count as usize).saturating_sub(said.unneeded.len());
    if more > 0 {
        all.push(format!("Unneeded: {more} more."));
    }
    all
}

/// Who the host is and what it is on, for the page.
pub(crate) fn host_rows(view: &StatusView) -> Vec<Vec<String>> {
    let mut rows = vec![vec!["What".to_owned(), "Now".to_owned()]];
    let mut say = |what: &str, now: String| rows.push(vec![what.to_owned(), now]);
    if let Some(host) = &view.host {
        say("Site", host.site.to_string());
        say("Hub", host.hub.clone());
        say("Id", host.id.to_string());
    }
    if let Some(certificate) = certificate(view) {
        say("Certificate", certificate);
    }
    if let Some(status) = &view.status {
        say("Desired", desired(status));
    }
    let facts = &view.facts;
    say("Agent", view.agent_version.clone());
    if !facts.docker_version.is_empty() {
        say("Docker", format!("{} (API {})", facts.docker_version, facts.docker_api_version));
    }
    if facts.disk_total_bytes > 0 {
        let gib = |b: u64| format!("{:.1} GiB", b as f64 / f64::from(1 << 30));
        say("Disk", format!("{} free of {}", gib(facts.disk_free_bytes), gib(facts.disk_total_bytes)));
    }
    rows
}

pub(crate) fn outbox_rows(view: &StatusView) -> Vec<Vec<String>> {
    let mut rows = vec![["CLASS", "WAITING", "BYTES", "REFUSED", "REPEATS", "LOST"].map(str::to_owned).to_vec()];
    rows.extend(view.outbox.iter().map(|n| {
        let numbers = [n.waiting, n.waiting_bytes, n.refused, n.absorbed, n.lost].map(grouped);
        std::iter::once(n.class.to_string()).chain(numbers).collect()
    }));
    rows
}

pub(crate) fn hold_rows(view: &StatusView) -> Vec<Vec<String>> {
    let mut rows = vec![["HELD", "BY", "UNTIL", "STILL", "WHY"].map(str::to_owned).to_vec()];
    rows.extend(view.holds.iter().map(|h| {
        let left = (h.hold.until - view.at).whole_seconds().max(0).unsigned_abs();
        let what = h.instance.as_ref().map_or_else(|| "the whole host".into(), ToString::to_string);
        vec![what, h.hold.by.clone(), date(h.hold.until), words(left), h.hold.reason.clone()]
    }));
    rows
}

pub(crate) fn instance_rows(status: &HostStatus, view: &StatusView) -> Vec<Vec<String>> {
    let head = ["NAME", "KIND", "READY", "PHASE", "HEALTH", "SYNC", "REASON", "RESTARTS", "AGE"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for i in &status.instances {
        let mut reason = i.reason.map_or_else(|| "-".into(), |r| r.to_string());
        if let Some(code) = i.exit_code.filter(|_| matches!(i.phase, Phase::Crashed | Phase::Safe)) {
            let _ = write!(reason, " {code}");
        }
        if let Some(p) = i.preflight.as_ref().filter(|_| i.reason == Some(Reason::PreflightRefused)) {
            let _ = write!(reason, " ({})", p.refusal());
        } else {
            let told = explained(i.reason, &i.names, i.detail.as_deref());
            if !told.is_empty() {
                let _ = write!(reason, " ({told})");
            }
        }
        if let Some(step) = i.late {
            let _ = write!(reason, " (out of time: {step})");
        }
        let phase = match &i.progress {
            _ if !view.running => "-".into(),
            Some(p) => format!("{} {p}", i.phase),
            None => i.phase.to_string(),
        };
        if let Some(p) = i.progress.as_ref().filter(|_| i.names.is_empty()) {
            let _ = write!(reason, " ({})", p.what);
        }
        if let Some(until) = i.trial_ends_at.filter(|_| i.reason.is_none() && view.running) {
            reason = format!("on trial until {}", date(until));
        }
        let age = if view.running { span((view.at - i.changed_at).whole_seconds().max(0)) } else { "-".into() };
        let ready = if view.running { i.replicas.to_string() } else { "-".into() };
        rows.push(vec![
            i.name.to_string(),
            i.kind.clone(),
            ready,
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
