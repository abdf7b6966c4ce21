//! Which steps lead from what is there to what shall be there. Pure: no clock, no I/O, no randomness, no logging.
//!
//! Middle of the flow down: `reconcile` reduces the desired state, the site's own rows, the memory and what it observed to
//! the plain data of [`model`], and `execute` carries the steps out without deciding anything. A step may fail; nothing is
//! retried inside a pass, the next pass plans again from what is there then. An instance's steps stand together and in
//! order: when one fails the rest of that instance waits for the next pass, the other instances go on.
use redforge_shared::{
    desired::Drift,
    ids::{Digest, Name},
};
use std::collections::BTreeSet;

pub mod model;
mod replicas;
pub mod room;
pub mod scale;
mod step;
#[cfg(test)]
mod tests;

pub use model::{
    Actual, Blueprint, Desired, FlowsSeen, Found, Given, GivenAt, Held, Life, Memory, Purpose, Shape, Step,
    VolumeFound, Wanted, job_key,
};
use room::Budget;

/// The steps, in the order in which they are to be taken.
pub fn plan(desired: &Desired, memory: &Memory, actual: &Actual) -> Vec<Step> {
    let mut steps = Vec::new();
    for helper in &actual.helpers {
        steps.push(Step::RemoveHelper { id: helper.clone() });
    }
    remove_undesired(desired, actual, &mut steps);
    let mut order: Vec<_> = desired.instances.iter().collect();
    // What others talk to comes first.
    order.sort_by(|a, b| (a.rank, &a.name).cmp(&(b.rank, &b.name)));
    let (mut own, mut budget) = (Vec::new(), Budget::of(desired, actual));
    for wanted in order {
        bring_up(wanted, memory, actual, &mut budget, &mut own);
    }
    ensure_networks(desired, actual, &own, &mut steps);
    steps.extend(own);
    steps
}

/// Instances that are no longer meant to run lose their containers and rendered files. Their data stays: what an operator
/// deletes by mistake must come back with its data when it is applied again; deleting data is a wish of its own.
fn remove_undesired(desired: &Desired, actual: &Actual, steps: &mut Vec<Step>) {
    let known: BTreeSet<&Name> = desired.instances.iter().map(|w| &w.name).collect();
    let free = |instance: &Name| !known.contains(instance) && !desired.held.covers(instance);
    for c in actual.containers.iter().filter(|c| free(&c.instance)) {
        take_down(c, actual, steps);
    }
    for (name, volume) in &actual.volumes {
        let rendered = matches!(volume.purpose, Purpose::Config | Purpose::Live);
        if rendered && free(&volume.instance) && !is_mounted(name, actual) {
            steps.push(Step::RemoveVolume { instance: volume.instance.clone(), volume: name.clone() });
        }
    }
}

fn is_mounted(volume: &str, actual: &Actual) -> bool {
    actual.containers.iter().any(|c| c.volumes.contains(volume))
}

/// Stops a container or, once it has ended, removes it. A stop may take a minute: it runs beside the passes, and the next
/// pass finds what came of it. True when the container is gone behind these steps.
fn take_down(c: &Found, actual: &Actual, steps: &mut Vec<Step>) -> bool {
    if c.life.may_run() {
        stop(c, actual, steps);
        return false;
    }
    steps.push(Step::Remove { instance: c.instance.clone(), container: c.name.clone(), id: c.id.clone() });
    true
}

fn stop(c: &Found, actual: &Actual, steps: &mut Vec<Step>) {
    if !actual.busy.contains(&job_key::stop(&c.id)) {
        steps.push(Step::Stop { instance: c.instance.clone(), container: c.name.clone(), id: c.id.clone() });
    }
}

/// Networks are made when the first container needs them.
fn ensure_networks(desired: &Desired, actual: &Actual, own: &[Step], steps: &mut Vec<Step>) {
    let creates = |s: &Step| matches!(s, Step::Create { .. } | Step::TakeName { .. });
    if own.iter().any(creates) && !actual.networks.contains(&desired.network) {
        steps.push(Step::EnsureNetwork { name: desired.network.clone(), internal: true });
    }
    let connects = |s: &Step| matches!(s, Step::ConnectOutside { .. });
    if own.iter().any(connects) && !actual.networks.contains(&desired.outside) {
        steps.push(Step::EnsureNetwork { name: desired.outside.clone(), internal: false });
    }
}

/// Names that the instance needs now and that objects of others bear: nothing is done until they are free.
pub fn blocked_by(wanted: &Wanted, actual: &Actual) -> Vec<String> {
    let Blueprint::Ready(shape) = &wanted.blueprint else { return vec![] };
    let own = own_of(wanted, actual);
    if shape.replicated {
        let names = replicas::needed_names(shape, &own).into_iter();
        return names.filter(|n| actual.foreign.contains(*n)).cloned().collect();
    }
    let slots: &[String] = match own.as_slice() {
        [] => &shape.slots[..1],
        // The right one is there: no name is needed.
        own if own.iter().any(|c| is_right(c, shape)) => &[],
        _ if shape.exclusive => &shape.slots[..1],
        _ => &shape.slots,
    };
    slots.iter().chain(shape.volumes()).filter(|n| actual.foreign.contains(*n)).cloned().collect()
}

fn own_of<'a>(wanted: &Wanted, actual: &'a Actual) -> Vec<&'a Found> {
    actual.containers.iter().filter(|c| c.instance == wanted.name).collect()
}

fn is_right(c: &Found, shape: &Shape) -> bool {
    let its = shape.data.iter().chain(shape.own_volumes(c.replica));
    // A replica that is left alone has volumes of its own in place of the instance's.
    c.hash == shape.hash && c.life != Life::Dead && its.into_iter().all(|v| c.volumes.contains(v))
}

/// What it published before anybody listens would be acknowledged and gone.
fn is_held_back(wanted: &Wanted, c: &Found) -> bool {
    wanted.waits.is_some() && c.started_at.is_empty()
}

fn bring_up(wanted: &Wanted, memory: &Memory, actual: &Actual, budget: &mut Budget, steps: &mut Vec<Step>) {
    // Held at the site: nobody touches it. Failed with exactly this spec: it would only fail again.
    let failed = || memory.failed.get(&wanted.name) == Some(&wanted.spec);
    // What failed may be ended all the same.
    if wanted.hold || !wanted.suspend && failed() {
        return;
    }
    let own = own_of(wanted, actual);
    if wanted.suspend {
        own.iter().filter(|c| c.life.may_run()).for_each(|c| stop(c, actual, steps));
        return;
    }
    let right = |c: &&Found| matches!(&wanted.blueprint, Blueprint::Ready(shape) if is_right(c, shape));
    // It would not fit: nothing is fetched, and what serves goes on.
    if wanted.refused && !own.iter().any(right) {
        return;
    }
    fetch_flows(wanted, actual, steps);
    let shape = match &wanted.blueprint {
        Blueprint::Ready(shape) => shape,
        Blueprint::NoImage => {
            if !actual.busy.contains(&job_key::image(&wanted.image)) {
                steps.push(Step::ResolveImage { instance: wanted.name.clone(), image: wanted.image.clone() });
            }
            return;
        }
        Blueprint::Unmet => return,
    };
    if !blocked_by(wanted, actual).is_empty() {
        return;
    }
    if shape.replicated {
        replicas::bring_up(wanted, shape, &own, (memory, actual), budget, steps);
    } else {
        bring_up_one(wanted, shape, &own, (memory, actual), budget, steps);
    }
    for (name, volume) in &actual.volumes {
        let old = volume.purpose == Purpose::Config && !shape.volumes().any(|v| v == name);
        if old && volume.instance == wanted.name && !is_mounted(name, actual) {
            steps.push(Step::RemoveVolume { instance: wanted.name.clone(), volume: name.clone() });
        }
    }
}

/// The only container of an instance.
fn bring_up_one(
    wanted: &Wanted,
    shape: &Shape,
    own: &[&Found],
    (memory, actual): (&Memory, &Actual),
    budget: &mut Budget,
    steps: &mut Vec<Step>,
) {
    // Several right ones are what is left of replicas: the first that the others find under the name stays.
    let right = own.iter().copied().filter(|c| is_right(c, shape));
    let current = right.min_by_key(|c| (!c.named, c.life != Life::Running, c.replica));
    match current {
        Some(c) => {
            keep(wanted, shape, c, memory, actual, steps);
            hand_over(wanted, shape, c, own, actual, steps);
        }
        None => replace(wanted, shape, own, (memory, actual), budget, steps),
    }
}

/// The right container gets the instance's name, and then the others go: once it is ready, or at once where none of them
/// serves.
fn hand_over(wanted: &Wanted, shape: &Shape, current: &Found, own: &[&Found], actual: &Actual, steps: &mut Vec<Step>) {
    let others: Vec<_> = own.iter().filter(|c| c.id != current.id).collect();
    if is_held_back(wanted, current) {
        return;
    }
    let serving = !shape.exclusive && others.iter().any(|c| c.named && c.life == Life::Running);
    if serving && !current.ready {
        return;
    }
    if !current.named {
        let (instance, container) = (wanted.name.clone(), current.name.clone());
        steps.push(Step::TakeName { instance, container });
        // Its connections broke with the change of its address: the others serve until it is ready again.
        return;
    }
    for other in others {
        take_down(other, actual, steps);
    }
}

/// A flow set that has not arrived is asked for; the container need not wait for it.
fn fetch_flows(wanted: &Wanted, actual: &Actual, steps: &mut Vec<Step>) {
    if let Some(digest) = wanted.flow_set
        && !actual.flow_sets.contains_key(&digest)
    {
        steps.push(Step::WantBlob { instance: wanted.name.clone(), digest });
    }
}

/// The container is the right one: it runs, its live files are right, and what it runs inside is right.
fn keep(wanted: &Wanted, shape: &Shape, c: &Found, memory: &Memory, actual: &Actual, steps: &mut Vec<Step>) {
    let instance = || wanted.name.clone();
    if actual.resting.contains(&c.id) {
        if c.life.may_run() {
            stop(c, actual, steps);
        }
        // Other flows than those that ended it need not wait until it has rested.
        if c.life.may_run() || other_flows(wanted, (&c.id, &c.home), memory, actual).is_none() {
            return;
        }
    }
    if c.life == Life::Paused {
        steps.push(Step::Start { instance: instance(), container: c.name.clone() });
        return;
    }
    let live_is_right = shape.live_hash.is_none() || shape.live_hash.as_ref() == actual.live.get(&c.id);
    if !live_is_right && let Some(volume) = &shape.live {
        if !actual.volumes.contains_key(volume) {
            let (volume, purpose) = (volume.clone(), Purpose::Live);
            steps.push(Step::EnsureVolume { instance: instance(), volume, purpose });
        }
        steps.push(Step::PutLive { instance: instance(), volume: volume.clone() });
    }
    if !c.life.may_run() {
        if !is_held_back(wanted, c) {
            if let (Some(volume), true) = (&shape.config, shape.config_hash.is_some()) {
                steps.push(Step::PutConfig { instance: instance(), volume: volume.clone() });
            }
            put_modules(wanted, shape, steps);
            match other_flows(wanted, (&c.id, &c.home), memory, actual) {
                // What it finds there now has not ended it.
                Some(put) => steps.push(put),
                None if actual.safe.contains(&c.id) => {
                    steps.push(Step::SafeMode { instance: instance(), id: c.id.clone() });
                }
                None => {}
            }
            start(wanted, shape, &c.name, c.outside, steps);
        }
        return;
    }
    if put_back(wanted, shape, c, actual, steps) {
        return;
    }
    if let Some(hash) = shape.live_hash
        && c.life == Life::Running
    {
        // Right files on disk say nothing about what was read: remembered is which start of the container has read which.
        let applied = format!("{} {}", c.started_at, hash.hex());
        let has_read = shape.tells || memory.applied.get(&wanted.name) == Some(&applied);
        if !live_is_right || !has_read {
            steps.push(Step::Reload { instance: instance(), id: c.id.clone(), applied });
        }
    }
    hot_deploy(wanted, c, memory, actual, steps);
    for model in actual.models_lacking.get(&c.id).into_iter().flatten() {
        if !wanted.refused && !actual.busy.contains(&job_key::model(&wanted.name, model)) {
            steps.push(Step::PullModel { instance: instance(), id: c.id.clone(), model: model.clone() });
        }
    }
    for model in actual.models_unloaded.get(&c.id).into_iter().flatten() {
        if !actual.busy.contains(&job_key::load(&c.id, model)) {
            steps.push(Step::LoadModel { instance: instance(), id: c.id.clone(), model: model.clone() });
        }
    }
}

fn hot_deploy(wanted: &Wanted, c: &Found, memory: &Memory, actual: &Actual, steps: &mut Vec<Step>) {
    let Some(seen) = actual.flows.get(&c.id) else { return };
    let (instance, id) = (wanted.name.clone(), c.id.clone());
    let given = memory.deployed.get(&wanted.name).and_then(|at| at.get(&seen.home));
    // Without a flow set only what was given is taken out; what somebody made there is theirs.
    let clears = wanted.clears.filter(|nothing| given.is_some_and(|g| !g.is(*nothing)));
    let Some(digest) = wanted.flow_set.or(clears) else {
        if wanted.clears.is_some() && seen.stopped {
            steps.push(Step::StartFlows { instance, id });
        }
        return;
    };
    let Some(content) = actual.flow_sets.get(&digest) else { return };
    let given = given.filter(|g| g.is(digest));
    // The runtime still has what it was given, and shows it in another form: giving it again changes nothing. Or somebody
    // edited it, and whoever wrote the spec wants to be told, or to have the edit.
    let leave = given.is_some_and(|g| g.rev == seen.rev || wanted.drift != Drift::Enforce);
    let leave_credentials = given.is_some() && (wanted.drift == Drift::Report || seen.hash != Some(*content) && leave);
    let credentials = seen.credentials_wrong && !leave_credentials;
    if seen.hash != Some(*content) && !leave || credentials {
        // Other credentials alone restart no node: a partial deploy would leave the broker's node without them.
        let at = memory.deployed.get(&wanted.name);
        let first = at.is_none_or(|at| at.values().all(|g| g.rev.is_empty()));
        let full = credentials || clears.is_some() || first;
        let (home, credentials) = (seen.home.clone(), credentials || !seen.credentials_held);
        steps.push(Step::DeployFlows { instance, id, home, digest, full, credentials });
    } else if seen.stopped {
        steps.push(Step::StartFlows { instance, id });
    }
}

fn put_modules(wanted: &Wanted, shape: &Shape, steps: &mut Vec<Step>) {
    if let (Some((volume, _)), Some(flow_set)) = (&shape.modules, wanted.flow_set) {
        steps.push(Step::PutModules { instance: wanted.name.clone(), volume: volume.clone(), flow_set });
    }
}

/// Flows that end their runtime would end it again before it could be given others: where others were given last, those
/// that it shall have are put where it finds them at its start.
fn other_flows(wanted: &Wanted, (id, home): (&str, &str), memory: &Memory, actual: &Actual) -> Option<Step> {
    let given = memory.deployed.get(&wanted.name).and_then(|at| at.get(home));
    let digest = wanted.flow_set.or(wanted.clears).filter(|digest| actual.flow_sets.contains_key(digest))?;
    let (instance, id, home) = (wanted.name.clone(), id.to_owned(), home.to_owned());
    given.is_some_and(|g| g.digest != digest).then_some(Step::PutFlows { instance, id, home, digest })
}

/// Rendered files that somebody changed. They are read when the container starts, so it ends, and gets them anew before it
/// starts again. True when that is on its way.
fn put_back(wanted: &Wanted, shape: &Shape, c: &Found, actual: &Actual, steps: &mut Vec<Step>) -> bool {
    let differs = |wanted: Option<&Digest>, seen: Option<&Digest>| wanted.is_some() && seen.is_some() && seen != wanted;
    let changed = differs(shape.config_hash.as_ref(), actual.config.get(&c.id))
        || differs(shape.modules.as_ref().map(|(_, hash)| hash), actual.modules.get(&c.id));
    if !changed || wanted.drift == Drift::Report || c.life != Life::Running {
        return false;
    }
    stop(c, actual, steps);
    true
}

/// A new container. Its volumes and files are there before an old one ends. Where two can stand side by side the new one
/// comes up beside the old one and [`hand_over`] follows; where they share a volume or a port the old one ends first.
fn replace(
    wanted: &Wanted,
    shape: &Shape,
    own: &[&Found],
    (memory, actual): (&Memory, &Actual),
    budget: &mut Budget,
    steps: &mut Vec<Step>,
) {
    let ending = |c: &&&Found| actual.busy.contains(&job_key::stop(&c.id));
    if shape.exclusive && own.iter().any(|c| ending(&c)) {
        return;
    }
    // The new one could not be started, or would have nothing to run yet: what serves goes on.
    let fetching = wanted.flow_set.is_some_and(|digest| !actual.flow_sets.contains_key(&digest));
    if (wanted.waits.is_some() || fetching) && own.iter().any(|c| c.life.may_run()) {
        return;
    }
    let serving = own.iter().any(|c| c.life == Life::Running);
    let beside = serving && !shape.exclusive && budget.take_for_moments(shape.claim);
    let free = |slot: &&String| own.iter().all(|c| c.name != **slot || (c.life == Life::Down || c.life == Life::Dead));
    let replica = if beside { shape.slots.iter().position(|s| free(&s)) } else { Some(0) };
    // Both names are borne by running containers that nobody wants any more: the first of them makes room.
    let Some(replica) = replica else {
        if let Some(spare) = own.iter().min_by_key(|c| c.named) {
            take_down(spare, actual, steps);
        }
        return;
    };
    ensure_files(wanted, shape, 0, actual, steps);
    let mut gone = true;
    for old in own.iter().filter(|c| !beside || !c.life.may_run()) {
        gone &= take_down(old, actual, steps);
    }
    if gone {
        let (instance, container) = (wanted.name.clone(), shape.slots[replica].clone());
        let step = Step::Create { instance, container: container.clone(), replica: replica as u32, named: !beside };
        steps.push(step);
        // In the volume of those before it lie their flows.
        let kept = |home: &&String| home.split(' ').next().is_some_and(|volume| shape.data.contains(volume));
        if let Some(home) = actual.homes.get(&wanted.name).filter(kept) {
            steps.extend(other_flows(wanted, (&container, home), memory, actual));
        }
        if wanted.waits.is_none() {
            start(wanted, shape, &container, false, steps);
        }
    }
}

/// The volumes and files of its container with this number.
fn ensure_files(wanted: &Wanted, shape: &Shape, number: u32, actual: &Actual, steps: &mut Vec<Step>) {
    let instance = || wanted.name.clone();
    let volumes = shape.data.iter().chain(shape.own_volumes(number)).map(|v| (v, Purpose::Data));
    let rendered = shape
        .config
        .iter()
        .chain(shape.modules.iter().map(|(v, _)| v))
        .map(|v| (v, Purpose::Config))
        .chain(shape.live.iter().map(|v| (v, Purpose::Live)));
    for (volume, purpose) in volumes.chain(rendered) {
        if !actual.volumes.contains_key(volume) {
            steps.push(Step::EnsureVolume { instance: instance(), volume: volume.clone(), purpose });
        }
    }
    // Written even if the volume is there: an earlier pass may have ended between making and filling it.
    if let Some(volume) = &shape.config {
        steps.push(Step::PutConfig { instance: instance(), volume: volume.clone() });
    }
    put_modules(wanted, shape, steps);
    if let Some(volume) = &shape.live {
        steps.push(Step::PutLive { instance: instance(), volume: volume.clone() });
    }
}

fn start(wanted: &Wanted, shape: &Shape, container: &str, connected: bool, steps: &mut Vec<Step>) {
    let (instance, container) = (|| wanted.name.clone(), || container.to_owned());
    if shape.outside && !connected {
        steps.push(Step::ConnectOutside { instance: instance(), container: container() });
    }
    steps.push(Step::Start { instance: instance(), container: container() });
}
