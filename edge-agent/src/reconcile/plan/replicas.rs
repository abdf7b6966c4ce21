//! Several containers of one instance: as many as are wanted, replaced one at a time, the highest number gone first. Pure.
//!
//! While an outdated one serves, never fewer serve than are wanted: where the host has room, one more of the new kind comes
//! up behind the last number, then the outdated ones make way one after another, and at the end the extra one goes. Where
//! it has none, one at a time ends before its successor begins. Outdated ones that never served make way together. Every replica is found under the instance's name from its
//! start: giving the name later would break its connections.
use super::{Actual, Budget, Found, Life, Memory, Shape, Step, Wanted, ensure_files, is_right, keep, start};
use super::{job_key, take_down};

/// One pass's view of an instance's containers.
struct Crew<'a> {
    shape: &'a Shape,
    right: Vec<&'a Found>,
    outdated: Vec<&'a Found>,
    actual: &'a Actual,
}

impl Crew<'_> {
    fn count(&self) -> u32 {
        self.shape.replicas
    }

    fn is_free(&self, number: u32) -> bool {
        self.right.iter().chain(&self.outdated).all(|c| c.replica != number)
    }

    fn is_ending(&self, c: &Found) -> bool {
        self.actual.busy.contains(&job_key::stop(&c.id))
    }

    /// Numbers that shall be there and are not.
    fn missing(&self) -> impl Iterator<Item = u32> {
        (0..self.count()).filter(|n| self.is_free(*n))
    }
}

/// Names that are needed now: those of the numbers that are missing.
pub fn needed_names<'a>(shape: &'a Shape, own: &[&Found]) -> Vec<&'a String> {
    let missing = (0..shape.replicas).filter(|n| own.iter().all(|c| c.replica != *n));
    let names = missing.flat_map(|n| shape.slots.get(n as usize).into_iter().chain(shape.own_volumes(n)));
    names.chain(shape.volumes()).collect()
}

/// The steps of one instance with replicas.
pub fn bring_up(
    wanted: &Wanted,
    shape: &Shape,
    own: &[&Found],
    (memory, actual): (&Memory, &Actual),
    budget: &mut Budget,
    steps: &mut Vec<Step>,
) {
    let (mut right, mut outdated): (Vec<_>, Vec<_>) = own.iter().copied().partition(|c| is_right(c, shape));
    // What has ended and is not to begin again only bears a name.
    outdated.retain(|c| c.life.may_run() || !take_down(c, actual, steps));
    right.retain(|c| c.life.may_run() || c.replica < shape.replicas || !take_down(c, actual, steps));
    let crew = Crew { shape, right, outdated, actual };
    let mut starved = false;
    let mut first = !crew.right.iter().chain(&crew.outdated).any(|c| c.life.may_run());
    for c in crew.right.iter().filter(|c| !crew.is_ending(c)) {
        // The first has room whatever the host has.
        if c.life.may_run() || std::mem::take(&mut first) || budget.take(shape.claim) {
            keep(wanted, shape, c, memory, actual, steps);
        } else {
            starved = true;
        }
        // It came up beside the only one there was.
        if !c.named && c.life == Life::Running {
            steps.push(Step::TakeName { instance: wanted.name.clone(), container: c.name.clone() });
        }
    }
    if crew.outdated.is_empty() {
        starved |= !fill(wanted, &crew, budget, steps);
        shrink(&crew, starved, steps);
    } else if wanted.waits.is_none() {
        // The new ones could not be started: what serves goes on.
        roll(wanted, &crew, (budget, starved), steps);
    }
}

/// Makes what is missing; the first one whatever the room. False: there was no room for all.
fn fill(wanted: &Wanted, crew: &Crew<'_>, budget: &mut Budget, steps: &mut Vec<Step>) -> bool {
    let mut all = true;
    let mut first = !crew.right.iter().any(|c| c.life.may_run() || c.replica < crew.count());
    for number in crew.missing() {
        if std::mem::take(&mut first) || budget.take(crew.shape.claim) {
            create(wanted, crew, number, steps);
        } else {
            all = false;
        }
    }
    all
}

/// Ends what is beyond the number, the highest first, as long as enough are left that serve. One that stands in the way
/// of a number that is wanted goes all the same.
fn shrink(crew: &Crew<'_>, mut starved: bool, steps: &mut Vec<Step>) {
    let mut left = crew.right.iter().filter(|c| c.life.may_run() && !crew.is_ending(c)).count();
    let mut ready = crew.right.iter().filter(|c| c.ready && !crew.is_ending(c)).count();
    let goal = (crew.count() as usize).min(crew.right.iter().filter(|c| c.ready).count());
    let mut beyond: Vec<_> = crew.right.iter().filter(|c| c.replica >= crew.count()).collect();
    beyond.sort_by_key(|c| std::cmp::Reverse(c.replica));
    for c in beyond.into_iter().filter(|c| !crew.is_ending(c)) {
        if ((c.ready && ready <= goal) || left <= 1) && !std::mem::take(&mut starved) {
            continue;
        }
        (ready, left) = (ready - usize::from(c.ready), left.saturating_sub(1));
        take_down(c, crew.actual, steps);
    }
}

/// One step towards none that is outdated. `starved`: one that is there could not be started for want of room.
fn roll(wanted: &Wanted, crew: &Crew<'_>, (budget, starved): (&mut Budget, bool), steps: &mut Vec<Step>) {
    // Between two runs it serves nobody; and for one that never did none of the others waits.
    let serves = |c: &&Found| c.life == Life::Running && !crew.actual.unproven.contains(&c.id);
    let (serving, idle): (Vec<&Found>, Vec<&Found>) = crew.outdated.iter().copied().partition(serves);
    for c in &idle {
        take_down(c, crew.actual, steps);
    }
    let ending = crew.outdated.iter().any(|c| crew.is_ending(c));
    let coming = crew.right.iter().any(|c| !c.ready && (c.life.may_run() || !starved));
    if ending || coming || !idle.is_empty() {
        return;
    }
    let next = serving.iter().filter(|c| c.replica >= crew.count()).max_by_key(|c| c.replica);
    let next = next.or_else(|| serving.iter().min_by_key(|c| c.replica));
    if starved || crew.right.len() + serving.len() > crew.count() as usize {
        if let Some(c) = next {
            take_down(c, crew.actual, steps);
        }
        return;
    }
    // Behind the last number, where none of its kind is yet.
    let is_ours = |n: &u32| crew.shape.slots.get(*n as usize).is_some_and(|s| !crew.actual.foreign.contains(s));
    let extra = Some(crew.count()).filter(|n| crew.is_free(*n) && is_ours(n));
    match crew.missing().next().or(extra) {
        Some(number) if budget.take(crew.shape.claim) => create(wanted, crew, number, steps),
        _ => {
            if let Some(c) = next {
                take_down(c, crew.actual, steps);
            }
        }
    }
}

fn create(wanted: &Wanted, crew: &Crew<'_>, number: u32, steps: &mut Vec<Step>) {
    let Some(container) = crew.shape.slots.get(number as usize) else { return };
    ensure_files(wanted, crew.shape, number, crew.actual, steps);
    let (instance, container) = (wanted.name.clone(), container.clone());
    steps.push(Step::Create { instance, container: container.clone(), replica: number, named: true });
    if wanted.waits.is_none() {
        start(wanted, crew.shape, &container, false, steps);
    }
}
