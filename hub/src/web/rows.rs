//! Resources as the page's rows: chips of icon, word and colour. What is old is never shown as good.
use super::notes::{Looked, Note, draft_id, editor_open, notes};
use redforge_shared::{
    record::RecordClass,
    report::{Health, Link, Phase, Progress, Reason, Sync},
    standin,
    units::human_bytes,
    wire::{from_timestamp, pb},
};
use std::collections::BTreeMap;
use time::{OffsetDateTime, macros::format_description};

/// A status as icon, word and colour.
#[derive(Debug)]
pub struct Chip {
    pub tone: &'static str,
    pub icon: &'static str,
    pub word: String,
    /// What was known before, when it is not known now.
    pub was: String,
}

/// The icon of a tone: colour is never alone.
pub fn tile_tone(tone: &str) -> &'static str {
    match tone {
        "good" => "●",
        "warn" => "▲",
        "bad" => "✖",
        _ => "",
    }
}

impl Chip {
    fn new(word: &str) -> Self {
        let (tone, icon) = match word {
            "Online" | "Healthy" | "UpToDate" | "Running" => ("good", "●"),
            "Stale" | "Degraded" | "Drifted" | "OutOfDate" | "Paused" | "Safe" => ("warn", "▲"),
            "Updating" | "Pending" | "Pulling" | "Starting" | "Stopping" => ("busy", "◐"),
            "Offline" | "Error" | "Failed" | "RolledBack" | "Crashed" => ("bad", "✖"),
            _ => ("unknown", "◌"),
        };
        Self { tone, icon, word: word.into(), was: String::new() }
    }

    /// The word of a host that is online; for any other it is only what was last known.
    fn known(word: &str, link: Link) -> Self {
        if link == Link::Online || word.is_empty() {
            return Self::new(if word.is_empty() { "Unknown" } else { word });
        }
        let was = if word == "Unknown" { String::new() } else { format!("was {word}") };
        Self { was, ..Self::new("Unknown") }
    }
}

/// A host.
#[derive(Debug)]
pub struct HostRow {
    pub name: String,
    pub site: String,
    pub link: Chip,
    pub health: Chip,
    pub sync: Chip,
    pub seen: String,
    pub reported: String,
    pub running: String,
    pub waiting: u64,
    /// The host is online: its numbers are of now.
    pub fresh: bool,
    pub generation: String,
    pub reason: String,
}

/// The last name of a resource.
pub fn last(resource: &str) -> String {
    resource.rsplit('/').next().unwrap_or_default().to_owned()
}

fn reason(reason: i32, names: &[String]) -> String {
    let word = Reason::from_wire(reason).map(Reason::as_str).unwrap_or_default();
    if names.is_empty() { word.into() } else { format!("{word}: {}", names.join(", ")) }
}

/// The time in a message, if there is a good one.
pub fn at(t: Option<&prost_types::Timestamp>) -> Option<OffsetDateTime> {
    from_timestamp("at", t).ok()
}

/// How long ago, as people say it; less than nothing is never.
pub fn ago(seconds: i64) -> String {
    match seconds {
        ..0 => "never".into(),
        s @ 0..120 => format!("{s} s ago"),
        s @ 120..7_200 => format!("{} min ago", s / 60),
        s @ 7_200..172_800 => format!("{} h ago", s / 3_600),
        s => format!("{} d ago", s / 86_400),
    }
}

fn age(t: Option<&prost_types::Timestamp>, now: OffsetDateTime) -> String {
    at(t).map_or_else(|| "never".into(), |t| ago((now - t).whole_seconds().max(0)))
}

/// Time of day, UTC.
pub fn clock_time(t: OffsetDateTime) -> String {
    t.format(format_description!("[hour]:[minute]:[second] UTC")).unwrap_or_default()
}

impl HostRow {
    pub fn new(h: &pb::Host, now: OffsetDateTime) -> Self {
        let link = Link::from_wire(h.link).unwrap_or(Link::NeverSeen);
        let sync = Sync::from_wire(h.sync).map(Sync::as_str).unwrap_or_default();
        // A fence is the hub's own doing: it holds however long nothing was heard.
        let fenced = Reason::from_wire(h.reason) == Some(Reason::Fenced);
        Self {
            name: last(&h.name),
            site: last(&h.site),
            link: Chip::new(link.as_str()),
            health: Chip::known(Health::from_wire(h.health).map(Health::as_str).unwrap_or_default(), link),
            sync: Chip::known(sync, if fenced { Link::Online } else { link }),
            seen: age(h.last_seen_at.as_ref(), now),
            reported: ago(h.report_age_s),
            running: format!("{} of {}", h.instances_running, h.instance_count),
            waiting: h.outbox.iter().map(|o| o.waiting).sum(),
            fresh: link == Link::Online,
            generation: format!("{} of {}", h.observed_generation, h.generation),
            reason: reason(h.reason, &h.names),
        }
    }
}

/// An instance.
#[derive(Debug)]
pub struct InstanceRow {
    pub host: String,
    pub name: String,
    pub kind: String,
    /// Its host's, and when the hub last heard of that host: an instance has no line of its own.
    pub link: Chip,
    pub seen: String,
    pub phase: Chip,
    pub health: Chip,
    pub sync: Chip,
    pub reported: String,
    /// Something is fetched: per cent for the bar, none while the total is not known.
    pub fetching: bool,
    pub percent: Option<u64>,
    pub restarts: u32,
    /// How many containers do what they shall, where there may be several.
    pub replicas: String,
    /// Its host is online: what stands beside the chips is of now.
    pub fresh: bool,
    pub notes: Vec<Note>,
    pub looked: Option<Looked>,
}

impl InstanceRow {
    pub fn new(i: &pb::Instance, hosts: &[HostRow], drafts: &[pb::FlowSetDraft], now: OffsetDateTime) -> Self {
        let link = Link::from_wire(i.host_link).unwrap_or(Link::NeverSeen);
        let s = i.status.clone().unwrap_or_default();
        let host = i.name.split('/').nth(1).unwrap_or_default().to_owned();
        // What was fetched before the host went away says nothing of now, nor does what it was scaled to.
        let s = if link == Link::Online { s } else { pb::InstanceStatus { progress: None, scaled: None, ..s } };
        let own: Vec<_> = drafts.iter().filter(|d| d.instance == i.name).collect();
        let seen = hosts.iter().find(|h| h.name == host).map(|h| h.seen.clone()).unwrap_or_default();
        Self {
            host,
            name: last(&i.name),
            kind: standin::kind(&i.kind, &image(i)),
            link: Chip::new(link.as_str()),
            seen,
            phase: Chip::known(Phase::from_wire(s.phase).map(Phase::as_str).unwrap_or_default(), link),
            health: Chip::known(Health::from_wire(s.health).map(Health::as_str).unwrap_or_default(), link),
            sync: Chip::known(Sync::from_wire(s.sync).map(Sync::as_str).unwrap_or_default(), link),
            reported: ago(i.report_age_s),
            restarts: s.restarts,
            replicas: if link == Link::Online { replicas(&s) } else { String::new() },
            fresh: link == Link::Online,
            notes: editor_open(i, now).into_iter().chain(notes(&s, &own)).collect(),
            looked: Looked::new(&s),
            fetching: s.progress.is_some(),
            percent: s.progress.map(Progress::from).and_then(|p| p.percent()),
        }
    }
}

/// One container is what an instance has, and not worth a word.
fn replicas(s: &pb::InstanceStatus) -> String {
    let several = s.scaled.is_some() || s.replicas_desired > 1 || s.replicas_total > 1;
    if several { format!("{} of {} ready", s.replicas_ready, s.replicas_desired) } else { String::new() }
}

/// The image as its manifest names it.
fn image(i: &pb::Instance) -> String {
    let spec: serde_json::Value = serde_json::from_str(&i.spec_json).unwrap_or_default();
    spec["image"].as_str().unwrap_or_default().to_owned()
}

/// Flows that somebody edited at a host, and that nobody has adopted.
#[derive(Debug)]
pub struct DraftRow {
    pub id: String,
    pub instance: String,
    pub host: String,
    pub base: u64,
    pub nodes: u32,
    pub size: String,
    pub age: String,
}

impl DraftRow {
    pub fn new(d: &pb::FlowSetDraft, now: OffsetDateTime) -> Self {
        Self {
            id: draft_id(d),
            instance: last(&d.instance),
            host: d.instance.split('/').nth(1).unwrap_or_default().to_owned(),
            base: d.base_revision,
            nodes: d.node_count,
            size: human_bytes(d.size_bytes),
            age: age(d.created_at.as_ref(), now),
        }
    }
}

/// Records of one host and class, over all epochs.
#[derive(Debug, Default)]
pub struct RecordRow {
    pub host: String,
    pub class: String,
    pub committed: u64,
    /// What the edge still holds, as of its last report.
    pub waiting: u64,
    /// Repeats that the edge dropped, and messages that it refused, as of its last report.
    pub absorbed: u64,
    pub refused: u64,
    /// The host is online: its numbers are of now.
    pub fresh: bool,
    pub gaps: u64,
    pub lost: u64,
    pub resent: u64,
    /// All that is known of: the bar's full length.
    pub known: u64,
    pub last: String,
}

/// Sums streams and adds what the hosts say is waiting.
pub fn records(hosts: &[pb::Host], streams: &[pb::Stream], now: OffsetDateTime) -> Vec<RecordRow> {
    let mut rows: BTreeMap<(String, i32), (RecordRow, Option<OffsetDateTime>)> = BTreeMap::new();
    for s in streams {
        let (row, latest) = rows.entry((last(&s.host), s.class)).or_default();
        row.committed += s.committed;
        row.gaps += s.gaps;
        row.lost += s.lost;
        row.resent += s.resent;
        *latest = (*latest).max(at(s.last_commit_at.as_ref()));
    }
    for h in hosts {
        for o in h.outbox.iter().filter(|o| o.waiting + o.absorbed + o.refused > 0) {
            let row = &mut rows.entry((last(&h.name), o.class)).or_default().0;
            (row.waiting, row.absorbed, row.refused) = (o.waiting, o.absorbed, o.refused);
        }
        let online = Link::from_wire(h.link) == Some(Link::Online);
        for ((name, _), (row, _)) in &mut rows {
            row.fresh |= online && *name == last(&h.name);
        }
    }
    let finish = |((host, class), (row, latest)): ((String, i32), (RecordRow, Option<OffsetDateTime>))| RecordRow {
        host,
        class: RecordClass::from_wire(class).map_or("unknown", RecordClass::as_str).into(),
        // A gap is usually a record that waits: the larger of both is what is still to come.
        known: row.committed + row.waiting.max(row.gaps),
        last: latest.map_or_else(|| "never".into(), |t| ago((now - t).whole_seconds().max(0))),
        ..row
    };
    rows.into_iter().map(finish).collect()
}

/// An event.
#[derive(Debug)]
pub struct EventRow {
    pub age: String,
    pub at: String,
    pub warning: bool,
    pub reason: String,
    pub resource: String,
    pub message: String,
}

impl EventRow {
    pub fn new(e: &pb::Event, now: OffsetDateTime) -> Self {
        Self {
            age: age(e.at.as_ref(), now),
            at: at(e.at.as_ref()).map(clock_time).unwrap_or_default(),
            warning: e.warning,
            reason: e.reason.clone(),
            resource: e.resource.clone(),
            message: e.message.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_old_is_never_good() {
        for link in Link::ALL.iter().copied().filter(|l| *l != Link::Online) {
            for word in ["Healthy", "UpToDate", "Running", "Error"] {
                let chip = Chip::known(word, link);
                assert_eq!((chip.tone, chip.word.as_str()), ("unknown", "Unknown"), "{word} behind {link}");
                assert_eq!(chip.was, format!("was {word}"));
            }
            assert_ne!(Chip::new(link.as_str()).tone, "good", "{link}");
        }
        assert_eq!(Chip::known("Healthy", Link::Online).tone, "good");
        assert_eq!(Chip::known("", Link::Online).word, "Unknown");
    }

    #[test]
    fn a_fence_is_of_now_however_long_the_host_was_not_heard() {
        let now = time::macros::datetime!(2026-11-23 10:00 UTC);
        let host = |reason: pb::StatusReason| pb::Host {
            link: pb::Link::Offline.into(),
            sync: pb::Sync::Paused.into(),
            reason: reason.into(),
            ..Default::default()
        };
        let row = HostRow::new(&host(pb::StatusReason::Fenced), now);
        assert_eq!((row.sync.word.as_str(), row.sync.was.as_str(), row.reason.as_str()), ("Paused", "", "Fenced"));
        let row = HostRow::new(&host(pb::StatusReason::DiskFull), now);
        assert_eq!((row.sync.word.as_str(), row.sync.was.as_str()), ("Unknown", "was Paused"));
    }

    #[test]
    fn records_add_up_over_epochs_and_waiting() {
        let now = time::macros::datetime!(2026-11-23 10:00 UTC);
        let stream = |n| pb::Stream {
            host: "hosts/press-4".into(),
            class: pb::RecordClass::Log.into(),
            committed: n,
            gaps: 2,
            resent: 1,
            last_commit_at: Some(redforge_shared::wire::timestamp(now - time::Duration::seconds(n as i64))),
            ..Default::default()
        };
        let outbox = vec![pb::OutboxStatus { class: pb::RecordClass::Log.into(), waiting: 30, ..Default::default() }];
        let host = pb::Host { name: "hosts/press-4".into(), outbox, ..Default::default() };
        let rows = records(&[host], &[stream(50), stream(7)], now);
        let r = &rows[0];
        assert_eq!((r.committed, r.waiting, r.gaps, r.resent, r.known, r.last.as_str()), (57, 30, 4, 2, 87, "7 s ago"));
    }
}
