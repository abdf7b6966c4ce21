//! What a container has been through: since when it runs, how often and how it ended, and who ended it.
use super::{super::crashes::Crashes, super::observe::AppSeen, super::reduce::last_given, Glance, Verdict, because};
use crate::runtime::{ContainerSeen, ContainerState};
use redforge_shared::report::{Health, InstanceStatus, Phase};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// How it last ended: of a container that is down, or that came back so lately that it counts as crashing.
pub fn exit_code(g: &Glance<'_>) -> Option<i32> {
    let c = g.container?;
    if let Some(k) = crashes_of(g).filter(|_| is_looping(g, c) || is_safe(g)) {
        return k.exit_code.or_else(|| before_of(g, c).and_then(|b| b.exit_code));
    }
    if c.state == ContainerState::Running {
        return crashes_of(g).filter(|k| !k.is_steady(up_for(c, g.now))).and_then(|k| k.exit_code);
    }
    // How it took the agent's own stop tells nobody anything.
    if is_ended_by_us(g, c) && !g.spec.suspend {
        return None;
    }
    (!c.started_at.is_empty() && c.state != ContainerState::Created).then_some(c.exit_code)
}

/// How long it has had its present flows, or has run; none: nobody knows.
pub fn age(g: &Glance<'_>, c: &ContainerSeen) -> Option<time::Duration> {
    let since = last_given(g.given, c, g.homes).and_then(|given| given.since);
    // A clock that was set back says nothing.
    let given = since.map(|since| g.now - since).filter(|age| !age.is_negative());
    up_for(c, g.now).into_iter().chain(given).min()
}

/// A container that ended this soon after its start may be one that never comes up.
const SETTLED: time::Duration = time::Duration::seconds(10);

pub fn settled(up: time::Duration) -> bool {
    up >= SETTLED
}

/// How long until this one, which runs, has run for long enough, or had the flows that it was given then; none when it has.
pub fn settles_in(
    c: &ContainerSeen,
    given: Option<OffsetDateTime>,
    now: OffsetDateTime,
) -> Option<std::time::Duration> {
    let age = up_for(c, now).into_iter().chain(given.map(|since| now - since)).min();
    let left = SETTLED - age.filter(|_| c.state == ContainerState::Running)?;
    left.try_into().ok().filter(|left: &std::time::Duration| !left.is_zero() && *left <= SETTLED.unsigned_abs())
}

/// Since when it runs, or ran last; none: the engine does not say.
pub fn started(c: &ContainerSeen) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(&c.started_at, &Rfc3339).ok()
}

/// None: nobody knows.
pub fn up_for(c: &ContainerSeen, now: OffsetDateTime) -> Option<time::Duration> {
    let up = now - started(c)?;
    (!up.is_negative()).then_some(up)
}

/// What was said of this same container in the last pass.
pub fn before_of<'a>(g: &'a Glance<'_>, c: &ContainerSeen) -> Option<&'a InstanceStatus> {
    g.before.filter(|b| b.container_id.as_deref() == Some(&c.id))
}

/// It ended by itself, and rests or was brought back and has not run for long enough to say that it stays up.
pub fn is_looping(g: &Glance<'_>, c: &ContainerSeen) -> bool {
    let up = || c.state == ContainerState::Running && up_for(c, g.now).is_none_or(settled);
    crashes_of(g).is_some_and(|k| k.rests_until.is_some() || !up())
}

/// It runs, and leaves its flows alone.
pub fn is_safe(g: &Glance<'_>) -> bool {
    matches!(g.app, Some(AppSeen::NodeRed(seen)) if seen.is_safe())
}

/// The agent has ended it, or found it down on its way to where it shall be.
pub fn is_ended_by_us(g: &Glance<'_>, c: &ContainerSeen) -> bool {
    let was = before_of(g, c).map(|b| b.phase);
    c.state == ContainerState::Exited
        && (g.jobs.has_stopped(&c.id) || matches!(was, Some(Phase::Stopping | Phase::Stopped)))
}

/// How often this container has ended by itself.
pub fn crashes_of<'a>(g: &'a Glance<'_>) -> Option<&'a Crashes> {
    let c = g.container?;
    g.memory.crashes.get(&c.id).filter(|k| k.ends > 0)
}

/// What works now and ended by itself a short while ago may do so again: that is not hidden.
pub fn lately_ended(g: &Glance<'_>, c: &ContainerSeen, verdict: Verdict) -> Verdict {
    let lately = crashes_of(g).filter(|k| !k.is_steady(up_for(c, g.now)));
    match (verdict, lately) {
        (Verdict(Phase::Running, Health::Healthy, sync, None, _), Some(k)) => {
            because(Phase::Running, Health::Degraded, sync, k.reason())
        }
        (verdict, _) => verdict,
    }
}
