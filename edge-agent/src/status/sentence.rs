//! The first line of `redforge-edge status`, and numbers and spans as people read them. Pure.
use crate::page::StatusView;
use next::next;
use redforge_shared::report::{Health, InstanceStatus, Phase, Reason, Sync, explained, preflight::Preflight};
use std::fmt::Write as _;
use time::{OffsetDateTime, macros::format_description};

mod next;

pub const MINUTE: i64 = 60;
const HOUR: i64 = 3_600;
const DAY: i64 = 86_400;

/// The first line: what a technician at the machine can act on.
pub fn sentence(view: &StatusView) -> String {
    let Some(host) = &view.host else {
        return "Not enrolled: on the hub run `redforgectl token create`, then the `redforge-edge enroll ...` line it \
                prints here."
            .into();
    };
    let waiting: u64 = view.outbox.iter().map(|n| n.waiting).sum();
    if !view.running {
        let records = if waiting == 0 { String::new() } else { format!("; {}", records(waiting)) };
        return format!(
            "The agent is not running; containers of '{}' go on by themselves{records}. Start it: systemctl start \
             redforge-edge, or redforge-edge run.",
            host.name
        );
    }
    if let Some(why) = &view.starting {
        return format!("Starting: {why}.");
    }
    let Some(link) = &view.link else { return "Starting.".into() };
    let trouble = trouble(view);
    if link.online {
        let records = if waiting == 0 { String::new() } else { format!("; {} on their way", counted(waiting)) };
        let state = trouble.unwrap_or_else(|| "everything up to date".into());
        return format!("Connected to {} since {}; {state}{records}.", host.hub, short_time(link.since, view.at));
    }
    let fenced = link.last_error.as_deref().is_some_and(|e| e.contains("is fenced"));
    let mut text = if fenced {
        // Its state folder was seen on two machines: nothing that is done here decides which of them is the host.
        format!(
            "Fenced by the hub: another machine uses the identity of '{}'; stop the agent on the one that goes, then an \
             operator says `redforgectl resume {}`; containers go on; {}",
            host.name,
            host.name,
            records(waiting)
        )
    } else {
        format!("Working alone since {}; {}", short_time(link.since, view.at), records(waiting))
    };
    if let Some(seconds) = dark_seconds(view) {
        if seconds > 0 {
            let _ = write!(text, "; can stay dark {}", span(seconds));
        } else {
            let (site, name) = (&host.site, &host.name);
            let _ = write!(
                text,
                "; its certificate has run out: on the hub `redforgectl token create --site {site} --host-name {name}`, \
                 then the line it prints here"
            );
        }
    }
    if let Some(trouble) = trouble {
        let _ = write!(text, "; {trouble}");
    }
    if let Some(error) = link.last_error.as_ref().filter(|_| !fenced) {
        let _ = write!(text, " ({error})");
    }
    text.push('.');
    text
}

/// `1,204 records`.
fn counted(n: u64) -> String {
    format!("{} record{}", grouped(n), if n == 1 { "" } else { "s" })
}

fn records(waiting: u64) -> String {
    if waiting == 0 { "no records waiting".into() } else { format!("{} waiting", counted(waiting)) }
}

/// What is wrong on the host, if anything, and what to do about it where that can be done here.
fn trouble(view: &StatusView) -> Option<String> {
    let status = view.status.as_ref()?;
    let with = |told: String| if told.is_empty() { told } else { format!(" ({told})") };
    let names = || with(status.names.join(", "));
    match status.reason {
        Some(Reason::RuntimeUnreachable) => {
            return Some(
                "Docker does not answer, so nothing can be changed or watched: systemctl status docker".into(),
            );
        }
        Some(Reason::DiskFull) => {
            return Some(
                "the disk is full: free some space and all goes on by itself (df -h, docker system df)".into(),
            );
        }
        Some(Reason::HubBehind) => {
            return Some(format!(
                "the hub knows less than this host (restored from a backup?), which keeps what runs: an operator \
                 decides with `redforgectl resume hosts/{}`",
                view.host.as_ref().map_or("NAME", |h| h.name.as_str())
            ));
        }
        Some(Reason::Held) => {
            let first = view.holds.first();
            let until = |at| short_time(at, view.at);
            let others = match view.holds.len().saturating_sub(1) {
                0 => String::new(),
                n => format!(" and {n} more"),
            };
            return first.map(|h| {
                let what = h.instance.as_ref().map_or("the whole host", |n| n.as_str());
                format!("{what} is held by {} until {}{others}", h.hold.by, until(h.hold.until))
            });
        }
        Some(Reason::SpecRefused) if status.sync == Sync::Failed => {
            return Some(format!(
                "this agent does not understand what the hub wants{} and keeps what runs: upgrade the agent",
                names()
            ));
        }
        Some(reason) => {
            let worst = status.instances.iter().find(|i| i.reason == Some(reason) && i.names == status.names);
            let why = |i: &InstanceStatus| with(explained(i.reason, &i.names, i.detail.as_deref()));
            let said = match worst {
                Some(i) if i.sync == Sync::RolledBack => {
                    format!("{} went back to what worked before: {reason}{}", i.name, why(i))
                }
                Some(i) if reason == Reason::WaitingForSession => {
                    format!("{} waits for the agent's first session at broker {}", i.name, i.names.join(", "))
                }
                Some(i) if reason == Reason::PreflightRefused => {
                    let why = i.preflight.as_ref().map(Preflight::refusal).unwrap_or_default();
                    format!("{} cannot be changed as wished, what runs goes on: {why}", i.name)
                }
                Some(i) if i.phase == Phase::Crashed => {
                    let code = i.exit_code.map_or(String::new(), |c| format!(", exit code {c}"));
                    format!("{} has crashed: {reason}{code}", i.name)
                }
                Some(i) => format!("{} is {}, {}: {reason}{}", i.name, i.health, i.sync, why(i)),
                None => format!("{}, {}: {reason}{}", status.health, status.sync, names()),
            };
            let step = worst.and_then(|i| next(reason, i, view.failed.iter().any(|f| f.instance == i.name)));
            return Some(step.map_or(said.clone(), |step| format!("{said}; next: {step}")));
        }
        None => {}
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

/// `1204` as `1,204`.
pub(super) fn grouped(n: u64) -> String {
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
pub(super) fn span(seconds: i64) -> String {
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

pub(crate) fn date(at: OffsetDateTime) -> String {
    at.format(format_description!("[year]-[month]-[day] [hour]:[minute] UTC")).unwrap_or_default()
}

#[cfg(test)]
mod tests;
