//! Which steps lead from what is there to what shall be there. Pure: no clock, no I/O, no randomness, no logging.
//!
//! Middle of the flow down: `reconcile` reduces the desired state, the site's own rows, the memory and what it observed to
//! the plain data of [`model`], and `execute` carries the steps out without deciding anything. A step may fail; nothing is
//! retried inside a pass, the next pass plans again from what is there then. An instance's steps stand together and in
//! order: when one fails the rest of that instance waits for the next pass, the other instances go on.
use redforge_shared::ids::Name;
use std::collections::BTreeSet;

pub mod model;
#[cfg(test)]
mod tests;

pub use model::{
    Actual, Blueprint, Desired, FlowsSeen, Found, Life, Memory, Purpose, Shape, Step, VolumeFound, Wanted, fetch_key,
};

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
    let mut own = Vec::new();
    for wanted in order {
        bring_up(wanted, memory, actual, &mut own);
    }
    ensure_networks(desired, actual, &own, &mut steps);
    steps.extend(own);
    steps
}

/// Instances that are no longer meant to run lose their containers and rendered files. Their data stays: what an operator
/// deletes by mistake must come back with its data when it is applied again; deleting data is a wish of its own.
fn remove_undesired(desired: &Desired, actual: &Actual, steps: &mut Vec<Step>) {
    let known: BTreeSet<&Name> = desired.instances.iter().map(|w| &w.name).collect();
    for c in actual.containers.iter().filter(|c| !known.contains(&c.instance)) {
        take_down(c, steps);
    }
    for (name, volume) in &actual.volumes {
        let rendered = matches!(volume.purpose, Purpose::Config | Purpose::Live);
        if rendered && !known.contains(&volume.instance) && !is_mounted(name, actual) {
            steps.push(Step::RemoveVolume { instance: volume.instance.clone(), volume: name.clone() });
        }
    }
}

fn is_mounted(volume: &str, actual: &Actual) -> bool {
    actual.containers.iter().any(|c| c.volumes.contains(volume))
}

fn take_down(c: &Found, steps: &mut Vec<Step>) {
    if c.life.may_run() {
        steps.push(Step::Stop { instance: c.instance.clone(), container: c.name.clone(), id: c.id.clone() });
    }
    steps.push(Step::Remove { instance: c.instance.clone(), container: c.name.clone(), id: c.id.clone() });
}

/// Networks are made when the first container needs them.
fn ensure_networks(desired: &Desired, actual: &Actual, own: &[Step], steps: &mut Vec<Step>) {
    let creates = |s: &Step| matches!(s, Step::Create { .. });
    if own.iter().any(creates) && !actual.networks.contains(&desired.network) {
        steps.push(Step::EnsureNetwork { name: desired.network.clone(), internal: true });
    }
    let connects = |s: &Step| matches!(s, Step::ConnectOutside { .. });
    if own.iter().any(connects) && !actual.networks.contains(&desired.outside) {
        steps.push(Step::EnsureNetwork { name: desired.outside.clone(), internal: false });
    }
}

fn bring_up(wanted: &Wanted, memory: &Memory, actual: &Actual, steps: &mut Vec<Step>) {
    // Held at the site: nobody touches it. Failed with exactly this spec: it would only fail again.
    if wanted.hold || memory.failed.get(&wanted.name) == Some(&wanted.spec) {
        return;
    }
    let mut containers = actual.containers.iter().filter(|c| c.instance == wanted.name);
    if wanted.suspend {
        for c in containers.filter(|c| c.life.may_run()) {
            steps.push(Step::Stop { instance: c.instance.clone(), container: c.name.clone(), id: c.id.clone() });
        }
        return;
    }
    fetch_flows(wanted, actual, steps);
    let shape = match &wanted.blueprint {
        Blueprint::Ready(shape) => shape,
        Blueprint::NoImage => {
            if !actual.busy.contains(&fetch_key::image(&wanted.image)) {
                steps.push(Step::ResolveImage { instance: wanted.name.clone(), image: wanted.image.clone() });
            }
            return;
        }
        Blueprint::Unmet => return,
    };
    if shape.names().any(|n| actual.foreign.contains(n)) {
        return;
    }
    let current = containers.find(|c| c.name == shape.container);
    // More than one is left only by a hand that renamed or copied; ours is the one with the right name.
    for extra in actual.containers.iter().filter(|c| c.instance == wanted.name && c.name != shape.container) {
        take_down(extra, steps);
    }
    match current {
        Some(c) if c.hash == shape.hash && c.life != Life::Dead => keep(wanted, shape, c, memory, actual, steps),
        other => replace(wanted, shape, other, actual, steps),
    }
    for (name, volume) in &actual.volumes {
        let old = volume.purpose == Purpose::Config && shape.config.as_ref() != Some(name);
        if old && volume.instance == wanted.name && !is_mounted(name, actual) {
            steps.push(Step::RemoveVolume { instance: wanted.name.clone(), volume: name.clone() });
        }
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
    let live_is_right = shape.live_hash.is_none() || shape.live_hash.as_ref() == actual.live.get(&wanted.name);
    if !live_is_right && let Some(volume) = &shape.live {
        if !actual.volumes.contains_key(volume) {
            let (volume, purpose) = (volume.clone(), Purpose::Live);
            steps.push(Step::EnsureVolume { instance: instance(), volume, purpose });
        }
        steps.push(Step::PutLive { instance: instance(), volume: volume.clone() });
    }
    if !c.life.may_run() {
        start(wanted, shape, c.outside, steps);
        return;
    }
    if let Some(hash) = shape.live_hash
        && c.life == Life::Running
    {
        // Right files on disk say nothing about what was read: remembered is which start of the container has read which.
        let applied = format!("{} {}", c.started_at, hash.hex());
        if !live_is_right || memory.applied.get(&wanted.name) != Some(&applied) {
            steps.push(Step::Reload { instance: instance(), id: c.id.clone(), applied });
        }
    }
    hot_deploy(wanted, memory, actual, steps);
    for model in actual.models_lacking.get(&wanted.name).into_iter().flatten() {
        if !actual.busy.contains(&fetch_key::model(&wanted.name, model)) {
            steps.push(Step::PullModel { instance: instance(), model: model.clone() });
        }
    }
}

fn hot_deploy(wanted: &Wanted, memory: &Memory, actual: &Actual, steps: &mut Vec<Step>) {
    let (Some(digest), Some(seen)) = (wanted.flow_set, actual.flows.get(&wanted.name)) else { return };
    let Some(content) = actual.flow_sets.get(&digest) else { return };
    let instance = wanted.name.clone();
    if seen.hash != Some(*content) || seen.credentials_missing {
        // The runtime still has what it was given, and shows it in another form: giving it again changes nothing.
        let given = memory.deployed.get(&wanted.name).is_some_and(|(d, rev)| *d == digest && *rev == seen.rev);
        if !given || seen.credentials_missing {
            let full = !memory.deployed.contains_key(&wanted.name);
            steps.push(Step::DeployFlows { instance, digest, full });
        }
    } else if seen.stopped {
        steps.push(Step::StartFlows { instance });
    }
}

/// A new container. Its volumes and files are there before the old one ends; the old one ends before the new one is made,
/// since they share data volumes, a name and ports.
fn replace(wanted: &Wanted, shape: &Shape, old: Option<&Found>, actual: &Actual, steps: &mut Vec<Step>) {
    let instance = || wanted.name.clone();
    let volumes = shape.data.iter().map(|v| (v, Purpose::Data));
    let rendered =
        shape.config.iter().map(|v| (v, Purpose::Config)).chain(shape.live.iter().map(|v| (v, Purpose::Live)));
    for (volume, purpose) in volumes.chain(rendered) {
        if !actual.volumes.contains_key(volume) {
            steps.push(Step::EnsureVolume { instance: instance(), volume: volume.clone(), purpose });
        }
    }
    // Written even if the volume is there: an earlier pass may have ended between making and filling it.
    if let Some(volume) = &shape.config {
        steps.push(Step::PutConfig { instance: instance(), volume: volume.clone() });
    }
    if let Some(volume) = &shape.live {
        steps.push(Step::PutLive { instance: instance(), volume: volume.clone() });
    }
    if let Some(old) = old {
        take_down(old, steps);
    }
    steps.push(Step::Create { instance: instance(), container: shape.container.clone() });
    start(wanted, shape, false, steps);
}

fn start(wanted: &Wanted, shape: &Shape, connected: bool, steps: &mut Vec<Step>) {
    let (instance, container) = (|| wanted.name.clone(), || shape.container.clone());
    if shape.outside && !connected {
        steps.push(Step::ConnectOutside { instance: instance(), container: container() });
    }
    steps.push(Step::Start { instance: instance(), container: container() });
}
