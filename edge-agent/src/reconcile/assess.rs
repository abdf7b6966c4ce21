//! Puts what was seen into the words of a report. Pure: the same glance gives the same status.
//!
//! Health says how well an instance works, sync how far it is from its spec; neither is derived from the other. Names come
//! from the spec or its flow set only, never from a container.
use super::{
    ReconcileError,
    jobs::Jobs,
    memory::{Failed, Remembered},
    observe::{AppSeen, FlowSets},
    plan::{self, Blueprint, GivenAt, Wanted, job_key},
    probes::{Probes, Word},
    reduce::last_given,
};
use crate::{
    runtime::{ContainerSeen, ContainerState, RuntimeError},
    workload::{Unmet, valkey::CacheSeen},
};
use inside::{flows_as_they_are, models, node_red};
use past::{age, before_of, crashes_of, exit_code, is_ended_by_us, is_looping, is_safe, lately_ended, settled, up_for};
pub use past::{settles_in, started};
use redforge_shared::{
    desired::{Drift, InstanceSpec, Workload},
    ids::{Digest, Name},
    report::{
        Health, Hold, InstanceStatus, MAX_NAME_BYTES, MAX_NAMES, Phase, Progress, Reason, Sync,
        preflight::{self, ChangeStep, Preflight},
    },
    scale::{Replicas, Scaled},
    standin,
};
use std::collections::{BTreeMap, BTreeSet};
use time::OffsetDateTime;

mod inside;
mod past;

/// Everything about one instance at one moment.
pub struct Glance<'a> {
    pub spec: &'a InstanceSpec,
    pub wanted: &'a plan::Wanted,
    /// Who wants it left as it is.
    pub hold: Option<&'a Hold>,
    pub unmet: Option<&'a Unmet>,
    pub container: Option<&'a ContainerSeen>,
    pub app: Option<&'a AppSeen>,
    /// Names that it needs and others bear.
    pub blocked: &'a [String],
    /// Why the spec that was asked for is not the one that runs.
    pub back: Option<&'a Failed>,
    /// It has had its time to come up, and nothing has worked before it.
    pub overdue: bool,
    /// A new version that goes on working is trusted then.
    pub trial_ends_at: Option<OffsetDateTime>,
    /// What was found before the last change of exactly this spec.
    pub preflight: Option<&'a Preflight>,
    pub now: OffsetDateTime,
    pub fault: Option<&'a ReconcileError>,
    pub memory: &'a Remembered,
    pub jobs: &'a Jobs,
    pub probes: &'a Probes,
    pub flow_sets: &'a FlowSets,
    /// Where each runtime keeps its flows.
    pub homes: &'a BTreeMap<Name, String>,
    /// Flow sets that had been given when the host was looked at.
    pub given: &'a BTreeMap<Name, GivenAt>,
    pub before: Option<&'a InstanceStatus>,
    /// Messages that a broker has thrown away; none while nobody listens to it.
    pub dropped: Option<u64>,
    pub scaled: Option<Scaled>,
    /// Containers that have never done what they are there for.
    pub unproven: &'a BTreeSet<String>,
}

/// Phase, health, sync, reason, and names that explain it.
struct Verdict(Phase, Health, Sync, Option<Reason>, Vec<String>);

fn plain(phase: Phase, health: Health, sync: Sync) -> Verdict {
    Verdict(phase, health, sync, None, vec![])
}

fn because(phase: Phase, health: Health, sync: Sync, reason: Reason) -> Verdict {
    Verdict(phase, health, sync, Some(reason), vec![])
}

/// The instance's status.
pub fn assess(g: &Glance<'_>) -> InstanceStatus {
    let verdict = overdue(g.overdue, gone_back(g, judge(g)));
    let Verdict(phase, health, sync, reason, names) = if g.hold.is_some() { paused(verdict) } else { verdict };
    let c = g.container;
    let same = |b: &&InstanceStatus| (b.phase, b.health, b.sync) == (phase, health, sync);
    let works = is_as_wanted(g.wanted, (phase, health, sync), reason);
    InstanceStatus {
        name: g.spec.name.clone(),
        kind: standin::kind(g.spec.workload.kind(), &g.spec.image),
        phase,
        health,
        sync,
        reason,
        names: names.into_iter().take(MAX_NAMES).map(bounded).collect(),
        container_id: c.map(|c| c.id.clone()),
        restarts: c.map_or(0, |c| c.restarts.max(crashes_of(g).map_or(0, |k| k.ends))),
        exit_code: exit_code(g),
        changed_at: g.before.filter(same).map_or(g.now, |b| b.changed_at),
        memory_limit_bytes: c.map_or(0, |c| c.memory_limit_bytes),
        cpu_limit_millicores: c.map_or(0, |c| c.cpu_limit_millicores),
        messages_dropped: g.dropped.or_else(|| Some(g.before?.messages_dropped)).unwrap_or(0),
        hold: g.hold.cloned(),
        preflight: g.preflight.cloned(),
        late: late(g),
        next_start_at: crashes_of(g).and_then(|k| k.rests_until),
        trial_ends_at: g.trial_ends_at.filter(|_| works).map(|at| trial_ends_at(g, at)),
        progress: progress(g),
        replicas: Replicas::default(),
        scaled: g.scaled,
        detail: detail(g).filter(|_| reason == Some(Reason::StartRefused)),
    }
}

/// Counted anew at each look, it differs by a little; what was said stays said.
fn trial_ends_at(g: &Glance<'_>, at: OffsetDateTime) -> OffsetDateTime {
    let said = g.before.and_then(|b| b.trial_ends_at);
    said.filter(|said| (*said - at).abs() < time::Duration::seconds(2)).unwrap_or(at)
}

/// The engine's words about the spec that it refused, be it at this moment or before.
fn detail(g: &Glance<'_>) -> Option<String> {
    let failed = g.back.or_else(|| g.memory.failed.get(&g.spec.name).filter(|f| f.spec == g.wanted.spec));
    failed.map_or_else(|| g.fault.and_then(ReconcileError::engines_words), |f| f.detail.clone())
}

/// What is being fetched for it, and how far that is.
fn progress(g: &Glance<'_>) -> Option<Progress> {
    let image = &g.spec.image;
    if let Some((done_bytes, total_bytes)) = g.jobs.progress(&job_key::image(image)) {
        return Some(Progress { what: bounded(image.clone()), done_bytes, total_bytes });
    }
    let Workload::Ollama(w) = &g.spec.workload else { return None };
    let mut running: Vec<(&str, (u64, u64))> = Vec::new();
    for model in &w.models {
        let read = g.jobs.progress(&job_key::model(&g.spec.name, &model.name));
        running.extend(read.map(|read| (model.name.as_str(), read)));
    }
    let what = running.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    let sum = |(d, t): (u64, u64), (_, (done, total)): &(&str, (u64, u64))| (d + done, t + total);
    let (done_bytes, total_bytes) = running.iter().fold((0, 0), sum);
    (!running.is_empty()).then(|| Progress { what: bounded(what), done_bytes, total_bytes })
}

/// With nothing to go back to it is left to try; that it should have come up by now is said.
fn overdue(is_overdue: bool, verdict: Verdict) -> Verdict {
    match verdict {
        Verdict(phase, Health::Unknown | Health::Error, Sync::Updating, reason, names) if is_overdue => {
            Verdict(phase, Health::Error, Sync::OutOfDate, reason.or(Some(Reason::DeadlineExceeded)), names)
        }
        other => other,
    }
}

/// Held at the site: how well it works is said as ever, how far it is from its spec does not count.
fn paused(verdict: Verdict) -> Verdict {
    let Verdict(phase, health, _, reason, names) = verdict;
    Verdict(phase, health, Sync::Paused, reason.or(Some(Reason::Held)), names)
}

/// The last good spec runs in place of the one that was asked for; on the way there the status says so too.
fn gone_back(g: &Glance<'_>, verdict: Verdict) -> Verdict {
    let Some(Failed { reason, names, .. }) = g.back else { return verdict };
    let Verdict(phase, health, sync, own, own_names) = verdict;
    match sync {
        Sync::Drifted if is_as_wanted(g.wanted, (phase, health, sync), own) => {
            Verdict(phase, health, Sync::RolledBack, Some(*reason), names.clone())
        }
        Sync::UpToDate if own != Some(Reason::Suspended) => {
            Verdict(phase, health, Sync::RolledBack, Some(*reason), names.clone())
        }
        Sync::Updating => Verdict(phase, health, sync, Some(*reason), names.clone()),
        _ => Verdict(phase, health, sync, own, own_names),
    }
}

/// Does this container do what its spec asks for now?
pub fn does(g: &Glance<'_>) -> bool {
    let Some(c) = g.container else { return false };
    // Whoever ended lately serves all the same.
    let Verdict(phase, health, sync, reason, _) = probed(g, c, by_kind(g, c));
    is_as_wanted(g.wanted, (phase, health, sync), reason)
}

/// It works; what somebody edited at the host counts for nothing where it is to be left as it is.
pub fn is_as_wanted(wanted: &Wanted, said: (Phase, Health, Sync), reason: Option<Reason>) -> bool {
    let left = || reason == Some(Reason::Edited) && wanted.drift != Drift::Enforce;
    match said {
        (Phase::Running, Health::Healthy, Sync::UpToDate) => true,
        (Phase::Running, Health::Healthy, Sync::Drifted) => left(),
        _ => false,
    }
}

/// Does this container do what its spec asks for, and has it for long enough to be trusted?
pub fn is_ready(g: &Glance<'_>) -> bool {
    let Some(c) = g.container else { return false };
    let steady = || crashes_of(g).is_none_or(|k| k.is_steady(up_for(c, g.now)));
    does(g) && age(g, c).is_none_or(settled) && steady()
}

/// The step that ran out of time, where that is why the status is what it is.
fn late(g: &Glance<'_>) -> Option<ChangeStep> {
    let failed = g.back.or_else(|| g.memory.failed.get(&g.spec.name).filter(|f| f.spec == g.wanted.spec));
    let failure = || g.jobs.failure(&job_key::image(&g.spec.image));
    let pull = || failure().is_some_and(|(reason, _)| reason == Reason::DeadlineExceeded);
    let now = || g.fault.and_then(late_step).or_else(|| pull().then_some(ChangeStep::Pull));
    let overdue = || g.overdue.then_some(ChangeStep::Healthy);
    failed.map_or_else(|| now().or_else(overdue), |f| f.late)
}

/// The step that this fault says ran out of time.
pub fn late_step(fault: &ReconcileError) -> Option<ChangeStep> {
    if let ReconcileError::Late(step) = fault { Some(*step) } else { None }
}

fn bounded(name: String) -> String {
    let mut end = name.len().min(MAX_NAME_BYTES);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    name[..end].to_owned()
}

fn judge(g: &Glance<'_>) -> Verdict {
    if let Some(v) = hindered(g) {
        return v;
    }
    if g.spec.suspend {
        return match g.container.map(|c| c.state) {
            Some(ContainerState::Running | ContainerState::Restarting | ContainerState::Paused) => {
                because(Phase::Stopping, Health::Healthy, Sync::Updating, Reason::Suspended)
            }
            _ => because(Phase::Stopped, Health::Healthy, Sync::UpToDate, Reason::Suspended),
        };
    }
    let shape = match &g.wanted.blueprint {
        Blueprint::Ready(shape) => shape,
        Blueprint::NoImage => return without_image(g),
        Blueprint::Unmet => return unmet(g),
    };
    if let Some(v) = waiting(g, &shape.hash) {
        return v;
    }
    match g.container {
        None => plain(Phase::Pending, Health::Unknown, Sync::Updating),
        Some(c) if c.hash != shape.hash => {
            let health = serving(g).1;
            match g.wanted.flow_set.filter(|digest| !g.flow_sets.contains_key(digest)) {
                // What serves goes on until everything is here.
                Some(digest) => {
                    let names = vec![digest.to_string()];
                    Verdict(leaving(c), health, Sync::Updating, Some(Reason::BlobMissing), names)
                }
                None => plain(leaving(c), health, Sync::Updating),
            }
        }
        Some(c) => lived(g, c),
    }
}

/// Not started for the first time, or not replaced, before its broker holds the agent's session.
fn waiting(g: &Glance<'_>, hash: &str) -> Option<Verdict> {
    let broker = g.wanted.waits.as_ref()?;
    let (phase, health) = match g.container {
        Some(c) if c.hash != hash => serving(g),
        Some(c) if c.state != ContainerState::Created => return None,
        _ => (Phase::Pending, Health::Unknown),
    };
    Some(Verdict(phase, health, Sync::Updating, Some(Reason::WaitingForSession), vec![broker.to_string()]))
}

/// What stands in the way of the spec, whatever the container does.
fn hindered(g: &Glance<'_>) -> Option<Verdict> {
    let phase = g.container.map_or(Phase::Pending, phase_of);
    if let Some(Failed { reason, names, .. }) =
        g.memory.failed.get(&g.spec.name).filter(|f| f.spec == g.wanted.spec && !g.spec.suspend)
    {
        return Some(Verdict(phase, Health::Error, Sync::Failed, Some(*reason), names.clone()));
    }
    if let Some(p) = g.preflight.filter(|p| p.verdict == preflight::Verdict::Refused && g.unmet.is_none()) {
        let refused = p.findings.iter().filter(|f| f.verdict == preflight::Verdict::Refused);
        let names = refused.map(|f| f.check.to_string()).collect();
        let outdated = |c: &&ContainerSeen| !matches!(&g.wanted.blueprint, Blueprint::Ready(s) if s.hash == c.hash);
        let health =
            if g.container.filter(outdated).is_some_and(|c| serves(g, c)) { Health::Healthy } else { Health::Error };
        return Some(Verdict(phase, health, Sync::OutOfDate, Some(Reason::PreflightRefused), names));
    }
    if !g.blocked.is_empty() {
        return Some(Verdict(phase, Health::Error, Sync::Failed, Some(Reason::ForeignObject), g.blocked.to_vec()));
    }
    let (reason, names) = g.fault.and_then(fault_reason)?;
    Some(Verdict(phase, Health::Error, Sync::OutOfDate, Some(reason), names))
}

/// Why a step failed, as far as a report has a word for it.
pub fn fault_reason(fault: &ReconcileError) -> Option<(Reason, Vec<String>)> {
    let ReconcileError::Runtime(e) = fault else {
        return match fault {
            ReconcileError::Deploy(e) if e.is_refusal() => Some((Reason::DeployRefused, vec![])),
            ReconcileError::Late(_) => Some((Reason::DeadlineExceeded, vec![])),
            ReconcileError::MissingTypes(types) => Some((Reason::MissingTypes, types.clone())),
            _ => None,
        };
    };
    Some(match e {
        RuntimeError::Unreachable(_) => (Reason::RuntimeUnreachable, vec![]),
        RuntimeError::ImageMissing { reference, .. } => (Reason::ImageMissing, vec![reference.clone()]),
        RuntimeError::Denied { reference, registry, .. } => {
            (Reason::RegistryDenied, vec![reference.clone(), registry.clone()])
        }
        RuntimeError::Foreign { name } => (Reason::ForeignObject, vec![name.clone()]),
        RuntimeError::PortTaken { port, .. } => (Reason::PortTaken, port.iter().cloned().collect()),
        RuntimeError::DiskFull { .. } => (Reason::DiskFull, vec![]),
        RuntimeError::Refused { .. } => (Reason::StartRefused, vec![]),
        RuntimeError::SubnetTaken { subnet, .. } => (Reason::StartRefused, vec![subnet.clone()]),
        // Passing: the next pass tries again, and what it finds is said then.
        RuntimeError::NotFound { .. } | RuntimeError::Failed { .. } | RuntimeError::TooLarge { .. } => return None,
    })
}

fn unmet(g: &Glance<'_>) -> Verdict {
    let (phase, health) = serving(g);
    match g.unmet {
        Some(Unmet::Instance(names)) => {
            Verdict(phase, Health::Error, Sync::OutOfDate, Some(Reason::WaitingForInstance), names.clone())
        }
        Some(Unmet::Secret(names)) => {
            let health = if health == Health::Healthy { Health::Degraded } else { Health::Error };
            Verdict(phase, health, Sync::OutOfDate, Some(Reason::SecretMissing), names.clone())
        }
        Some(Unmet::FlowSet(digest)) => {
            Verdict(phase, health, Sync::Updating, Some(Reason::BlobMissing), vec![digest.to_string()])
        }
        Some(Unmet::Spec(path)) => {
            Verdict(phase, Health::Error, Sync::Failed, Some(Reason::SpecRefused), vec![path.clone()])
        }
        None => plain(phase, Health::Unknown, Sync::Updating),
    }
}

fn without_image(g: &Glance<'_>) -> Verdict {
    let (phase, health) = serving(g);
    let key = job_key::image(&g.spec.image);
    // The next try gets further than the last: its bytes come.
    let comes = g.jobs.progress(&key).is_some();
    match g.jobs.failure(&key).filter(|_| !comes) {
        Some((reason, more)) => {
            let health = if health == Health::Healthy { Health::Degraded } else { Health::Error };
            let names = std::iter::once(&g.spec.image).chain(more).cloned().collect();
            Verdict(phase, health, Sync::OutOfDate, Some(reason), names)
        }
        None if g.jobs.is_running(&key) => plain(Phase::Pulling, health, Sync::Updating),
        None => plain(phase, health, Sync::Updating),
    }
}

/// What serves while something stands in the way of what shall: that its container runs is not all.
fn serving(g: &Glance<'_>) -> (Phase, Health) {
    let Some(c) = g.container else { return (Phase::Pending, Health::Unknown) };
    let inside = || flows_as_they_are(g).filter(|_| serves(g, c));
    match by_kind(g, c) {
        Verdict(phase, Health::Error, ..) => (phase, Health::Error),
        _ => match inside() {
            Some(Verdict(phase, Health::Error, ..)) => (phase, Health::Error),
            _ if serves(g, c) => (phase_of(c), Health::Healthy),
            _ => (leaving(c), Health::Unknown),
        },
    }
}

/// It runs, and is not known never to have done what it is there for.
pub fn serves(g: &Glance<'_>, c: &ContainerSeen) -> bool {
    c.state == ContainerState::Running && !g.unproven.contains(&c.id)
}

fn phase_of(c: &ContainerSeen) -> Phase {
    match c.state {
        ContainerState::Running | ContainerState::Paused => Phase::Running,
        ContainerState::Created => Phase::Starting,
        ContainerState::Restarting | ContainerState::Exited | ContainerState::Dead => Phase::Crashed,
        ContainerState::Removing => Phase::Stopping,
    }
}

/// The phase of one that another shall take the place of.
fn leaving(c: &ContainerSeen) -> Phase {
    if c.state == ContainerState::Exited { Phase::Stopping } else { phase_of(c) }
}

/// The right container: what does it do, and what runs inside?
fn lived(g: &Glance<'_>, c: &ContainerSeen) -> Verdict {
    lately_ended(g, c, probed(g, c, by_kind(g, c)))
}

fn by_kind(g: &Glance<'_>, c: &ContainerSeen) -> Verdict {
    if let Some(k) = crashes_of(g).filter(|_| is_looping(g, c) && !is_safe(g)) {
        return because(Phase::Crashed, Health::Error, Sync::UpToDate, k.reason());
    }
    match c.state {
        ContainerState::Created => plain(Phase::Starting, Health::Unknown, Sync::Updating),
        ContainerState::Paused => because(Phase::Running, Health::Error, Sync::Drifted, Reason::ProbeFailed),
        ContainerState::Removing => plain(Phase::Stopping, Health::Unknown, Sync::Updating),
        // It was ended to be started again with the settings that it shall have.
        ContainerState::Exited if before_of(g, c).is_some_and(|b| b.reason == Some(Reason::Edited)) => {
            let names = before_of(g, c).map(|b| b.names.clone()).unwrap_or_default();
            Verdict(Phase::Starting, Health::Unknown, Sync::Drifted, Some(Reason::Edited), names)
        }
        ContainerState::Exited if is_ended_by_us(g, c) => plain(Phase::Starting, Health::Unknown, Sync::Updating),
        ContainerState::Restarting | ContainerState::Exited | ContainerState::Dead => {
            let reason = if c.oom_killed { Reason::OutOfMemory } else { Reason::ContainerExited };
            because(Phase::Crashed, Health::Error, Sync::UpToDate, reason)
        }

        ContainerState::Running => match (&g.spec.workload, g.app) {
            (Workload::NodeRed(w), Some(AppSeen::NodeRed(seen))) => node_red(g, w, seen),
            (Workload::Ollama(w), Some(AppSeen::Ollama(Some(seen)))) => models(g, w, seen),
            (Workload::Mosquitto(_), Some(AppSeen::Mosquitto { accepts: true, live })) => with_live(g, *live),
            (Workload::Valkey(_) | Workload::Redis(_), Some(AppSeen::Cache(CacheSeen { answers: true, live }))) => {
                with_live(g, *live)
            }
            (Workload::Tika(_), Some(AppSeen::Tika { answers: true })) | (Workload::Container(_), _) => {
                plain(Phase::Running, Health::Healthy, Sync::UpToDate)
            }
            _ => silent(g, c),
        },
    }
}

/// It works; is what it was told what it should be told?
fn with_live(g: &Glance<'_>, live: Option<Digest>) -> Verdict {
    let wanted = match &g.wanted.blueprint {
        Blueprint::Ready(shape) => shape.live_hash,
        _ => None,
    };
    plain(Phase::Running, Health::Healthy, if live == wanted { Sync::UpToDate } else { Sync::Updating })
}

/// What works for its kind must also pass its own probe.
fn probed(g: &Glance<'_>, c: &ContainerSeen, verdict: Verdict) -> Verdict {
    let Some(check) = g.spec.check() else { return verdict };
    let Verdict(Phase::Running, Health::Healthy, sync, None, _) = verdict else { return verdict };
    let failed = |phase, health, sync| {
        Verdict(phase, health, sync, Some(Reason::ProbeFailed), vec![check.probe.kind().to_owned()])
    };
    match g.probes.word(c, last_given(g.given, c, g.homes).map(|given| given.digest)) {
        Word::Starting => plain(Phase::Starting, Health::Unknown, Sync::Updating),
        Word::Late => failed(Phase::Starting, Health::Error, Sync::Updating),
        Word::Passes => verdict,
        Word::Falters => failed(Phase::Running, Health::Degraded, sync),
        Word::Fails => failed(Phase::Running, Health::Error, sync),
    }
}

/// It runs and does not answer: on its way up, unless it had answered before.
fn silent(g: &Glance<'_>, c: &ContainerSeen) -> Verdict {
    let had = g.before.is_some_and(|b| {
        let same_run = b.container_id.as_deref() == Some(&c.id) && b.restarts == c.restarts;
        same_run && b.phase == Phase::Running
    });
    if had {
        because(Phase::Running, Health::Error, Sync::UpToDate, Reason::ProbeFailed)
    } else {
        plain(Phase::Starting, Health::Unknown, Sync::Updating)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn past_its_time_it_is_out_of_date_whether_it_is_silent_or_fails_its_probe() {
        let probe = Some(Reason::ProbeFailed);
        for (health, reason, then) in
            [(Health::Unknown, None, Some(Reason::DeadlineExceeded)), (Health::Error, probe, probe)]
        {
            let coming = || Verdict(Phase::Starting, health, Sync::Updating, reason, vec![]);
            let said = overdue(true, coming());
            assert_eq!((said.1, said.2, said.3), (Health::Error, Sync::OutOfDate, then));
            assert_eq!(overdue(false, coming()).2, Sync::Updating);
        }
        let works = plain(Phase::Running, Health::Healthy, Sync::Updating);
        assert_eq!(overdue(true, works).2, Sync::Updating, "another change is on its way");
    }
}
