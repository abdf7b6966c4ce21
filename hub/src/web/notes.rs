//! What stands beside an instance's chips, a line each: why it is as it is, how it crashes, who holds it, what somebody
//! edited, what is fetched, why there are so many replicas, what preflight found, and which draft waits. Words and tones
//! only; markup is the template's.
use super::rows::{at, last};
use redforge_shared::{
    desired::Developer,
    report::{
        Phase, Progress, Reason, Sync, explained,
        preflight::{ChangeStep, Finding, Verdict},
    },
    scale::Scaled,
    wire::{self, pb},
};
use time::{OffsetDateTime, macros::format_description};

/// One line: a word to look for, and the rest of the sentence.
#[derive(Debug, PartialEq, Eq)]
pub struct Note {
    pub tone: &'static str,
    pub icon: &'static str,
    pub label: String,
    pub text: String,
    /// What an operator would type next.
    pub command: String,
}

impl Note {
    fn new(tone: &'static str, label: &str, text: String) -> Self {
        Self { tone, icon: super::rows::tile_tone(tone), label: label.into(), text, command: String::new() }
    }
}

/// What was looked at before anything was fetched: the verdict, and every finding with its numbers.
#[derive(Debug)]
pub struct Looked {
    pub tone: &'static str,
    pub icon: &'static str,
    pub verdict: &'static str,
    pub findings: Vec<String>,
}

impl Looked {
    pub fn new(s: &pb::InstanceStatus) -> Option<Self> {
        let preflight = wire::preflight(s.preflight.as_ref()?)?;
        let tone = match preflight.verdict {
            Verdict::Fits => "plain",
            Verdict::FitsAfterCleanUp => "warn",
            Verdict::Refused => "bad",
        };
        let findings = preflight.findings.iter().map(finding).collect();
        Some(Self { tone, icon: super::rows::tile_tone(tone), verdict: preflight.verdict.as_str(), findings })
    }
}

fn finding(f: &Finding) -> String {
    match f.verdict {
        Verdict::Fits => f.sentence(),
        worse => format!("{} ({worse})", f.sentence()),
    }
}

/// Date and time of day, UTC: a hold or a rest may end on another day.
pub fn moment(t: OffsetDateTime) -> String {
    t.format(format_description!("[year]-[month]-[day] [hour]:[minute]:[second] UTC")).unwrap_or_default()
}

/// All that is to be said of an instance; drafts are those of its own flows that nobody has adopted.
pub fn notes(s: &pb::InstanceStatus, drafts: &[&pb::FlowSetDraft]) -> Vec<Note> {
    let mut notes: Vec<Note> = why(s).into_iter().chain(crashing(s)).chain(held(s)).collect();
    notes.extend(s.progress.clone().map(Progress::from).map(|p| {
        let text = format!("{}: {p}", p.what);
        Note::new("plain", "Fetching", text)
    }));
    notes.extend(at(s.trial_ends_at.as_ref()).map(|end| {
        let text = format!("until {}; the version before comes back by itself if it breaks", moment(end));
        Note::new("plain", "On trial", text)
    }));
    notes.extend(s.scaled.as_ref().and_then(Scaled::from_wire).map(|s| Note::new("plain", "Replicas", s.to_string())));
    notes.extend(drafts.iter().map(|d| {
        let id = draft_id(d);
        Note {
            command: format!("redforgectl flowset adopt {id}"),
            ..Note::new("warn", "Draft", format!("{id} waits to be adopted:"))
        }
    }));
    notes
}

/// Developer mode: somebody may edit flows at the host, as the manifest says.
pub fn editor_open(i: &pb::Instance, now: OffsetDateTime) -> Option<Note> {
    let spec: serde_json::Value = serde_json::from_str(&i.spec_json).ok()?;
    let developer: Developer = serde_json::from_value(spec["nodeRed"]["developer"].clone()).ok()?;
    let until = format!("open until {}: flows may be edited at the host", moment(developer.until));
    developer.is_open(now).then(|| Note::new("warn", "Editor", until))
}

/// As `flowset adopt` takes it: flow set and number.
pub fn draft_id(d: &pb::FlowSetDraft) -> String {
    format!("{}/{}", d.name.split('/').nth(1).unwrap_or_default(), last(&d.name))
}

/// The reason of its status, with what ran out of time and the numbers of what did not fit.
fn why(s: &pb::InstanceStatus) -> Option<Note> {
    let reason = Reason::from_wire(s.reason);
    let late = ChangeStep::from_wire(s.late).map(|step| format!("out of time: {step}"));
    let names = explained(reason, &s.names, Some(&*s.detail).filter(|d| !d.is_empty()));
    let sync = Sync::from_wire(s.sync);
    if sync == Some(Sync::RolledBack) {
        let word = reason.map(|r| r.to_string());
        let parts = [word, Some(names).filter(|n| !n.is_empty()), late, Some("what worked last serves".into())];
        return Some(Note::new("bad", "Rolled back", parts.into_iter().flatten().collect::<Vec<_>>().join("; ")));
    }
    let tone = match (s.health(), sync) {
        (pb::Health::Error, _) | (_, Some(Sync::Failed)) => "bad",
        (pb::Health::Degraded, _) | (_, Some(Sync::Drifted | Sync::Paused)) => "warn",
        _ => "plain",
    };
    match (reason, late) {
        // The hold has a line of its own.
        (Some(Reason::Held), None) => None,
        (Some(Reason::Edited), _) => Some(Note::new("warn", "Edited at the host", names)),
        (Some(Reason::PreflightRefused), _) => {
            let refusal = s.preflight.as_ref().and_then(wire::preflight).map(|p| p.refusal());
            Some(Note::new("bad", Reason::PreflightRefused.as_str(), refusal.unwrap_or_default()))
        }
        (None, None) if names.is_empty() => None,
        (reason, late) => {
            let text = [Some(names).filter(|n| !n.is_empty()), late].into_iter().flatten().collect::<Vec<_>>();
            Some(Note::new(tone, reason.map_or("Reason", Reason::as_str), text.join("; ")))
        }
    }
}

/// How it ended last, and when it is started again.
fn crashing(s: &pb::InstanceStatus) -> Option<Note> {
    if !matches!(Phase::from_wire(s.phase), Some(Phase::Crashed | Phase::Safe)) {
        return None;
    }
    let mut text = format!("exit code {}", s.exit_code);
    if let Some(next) = at(s.next_start_at.as_ref()) {
        text = format!("{text}, next start {}", moment(next));
    }
    Some(Note::new("bad", "Crashed", text))
}

/// Who holds it at its site, why, and until when.
fn held(s: &pb::InstanceStatus) -> Option<Note> {
    let hold = s.hold.as_ref()?;
    let until = at(hold.until.as_ref()).map(moment).unwrap_or_default();
    let what = if hold.whole_host { "with the whole host, " } else { "" };
    Some(Note::new("warn", "Held", format!("{what}by {} until {until}: {}", hold.by, hold.reason)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use redforge_shared::wire::timestamp;
    use time::macros::datetime;

    fn said(s: &pb::InstanceStatus) -> String {
        notes(s, &[]).iter().map(|n| format!("{} {}: {}", n.tone, n.label, n.text)).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn a_hold_says_who_until_when_and_why_beside_what_is_wrong() {
        let hold = pb::Hold {
            by: "anna".into(),
            reason: "press is open".into(),
            until: Some(timestamp(datetime!(2026-11-24 14:00 UTC))),
            ..Default::default()
        };
        let held = pb::InstanceStatus {
            reason: pb::StatusReason::Held.into(),
            hold: Some(hold.clone()),
            ..Default::default()
        };
        assert_eq!(said(&held), "warn Held: by anna until 2026-11-24 14:00:00 UTC: press is open");
        let whole = pb::InstanceStatus { hold: Some(pb::Hold { whole_host: true, ..hold }), ..held };
        let crashed = pb::InstanceStatus {
            phase: pb::Phase::Crashed.into(),
            health: pb::Health::Error.into(),
            reason: pb::StatusReason::OutOfMemory.into(),
            exit_code: 137,
            next_start_at: Some(timestamp(datetime!(2026-11-23 10:00:30 UTC))),
            ..whole
        };
        assert_eq!(
            said(&crashed),
            "bad OutOfMemory: \nbad Crashed: exit code 137, next start 2026-11-23 10:00:30 UTC\n\
             warn Held: with the whole host, by anna until 2026-11-24 14:00:00 UTC: press is open"
        );
    }

    #[test]
    fn an_editor_is_open_until_its_time() {
        let spec = serde_json::json!({"nodeRed": {"developer": {"until": "2026-11-23T16:00:00Z"}}}).to_string();
        let i = pb::Instance { spec_json: spec, ..Default::default() };
        let said = |now| editor_open(&i, now).map(|n| format!("{} {}: {}", n.tone, n.label, n.text));
        let open = "warn Editor: open until 2026-11-23 16:00:00 UTC: flows may be edited at the host";
        assert_eq!(said(datetime!(2026-11-23 15:59:59 UTC)).as_deref(), Some(open));
        assert_eq!(said(datetime!(2026-11-23 16:00 UTC)), None);
        assert_eq!(editor_open(&pb::Instance::default(), datetime!(2026-11-23 15:00 UTC)), None);
    }

    #[test]
    fn what_went_back_says_why_and_that_something_serves() {
        let back = pb::InstanceStatus {
            health: pb::Health::Healthy.into(),
            sync: pb::Sync::RolledBack.into(),
            reason: pb::StatusReason::DeadlineExceeded.into(),
            names: vec!["redforge.local/web:2".into()],
            late: pb::ChangeStep::Healthy.into(),
            ..Default::default()
        };
        let text = "DeadlineExceeded; redforge.local/web:2; out of time: Healthy; what worked last serves";
        assert_eq!(said(&back), format!("bad Rolled back: {text}"));
        let edited = pb::InstanceStatus {
            sync: pb::Sync::Drifted.into(),
            reason: pb::StatusReason::Edited.into(),
            names: vec!["flows".into(), "settings".into()],
            ..Default::default()
        };
        assert_eq!(said(&edited), "warn Edited at the host: flows, settings");
        assert_eq!(said(&pb::InstanceStatus::default()), "");
    }
}
