//! Which spec an instance runs: the one it is asked for or, where that one failed, the last that worked. Pure.
//!
//! A failed spec stays failed until it changes, its restart nonce included; then it is tried again. A restart that the site
//! asks for is one of what serves.
use super::memory::{Failed, LastGood, Remembered, image_key};
use crate::{db::ledger::Site, runtime::ImageSeen, workload::Given};
use redforge_shared::{
    desired::{DesiredState, Developer, Drift, InstanceSpec, Workload},
    ids::{Digest, Name},
};
use std::collections::{BTreeMap, BTreeSet};
use time::OffsetDateTime;

/// The specs that are made true.
#[derive(Clone, Debug)]
pub struct Chosen {
    pub state: DesiredState,
    /// Identity of what was asked for.
    pub asked: BTreeMap<Name, Digest>,
    /// Instances that went back, and why.
    pub back: BTreeMap<Name, Failed>,
    /// What image references mean for those that went back.
    pinned: BTreeMap<Name, ImageSeen>,
    /// Identity of what was asked for, without the restart that the site asked for.
    pub unrestarted: BTreeMap<Name, Digest>,
    /// Numbers of the secrets that the site gave.
    secrets: BTreeMap<Name, u64>,
    /// Instances whose flows may be edited at the moment.
    pub developing: BTreeSet<Name>,
}

/// Chooses for every instance.
pub fn choose(state: &DesiredState, site: &Site, given: &Given, memory: &Remembered, now: OffsetDateTime) -> Chosen {
    let mut chosen = Chosen {
        state: state.clone(),
        asked: BTreeMap::new(),
        unrestarted: BTreeMap::new(),
        back: BTreeMap::new(),
        pinned: BTreeMap::new(),
        secrets: given.iter().map(|(name, (version, _))| (name.clone(), *version)).collect(),
        developing: BTreeSet::new(),
    };
    for spec in &mut chosen.state.instances {
        let wish = editing(spec);
        let asked = identity(spec, site.nonces.get(&spec.name), &chosen.secrets);
        let unrestarted = identity(spec, None, &chosen.secrets);
        // The same spec with another nonce or secret is nothing to go back to: it would be the same container.
        let good =
            memory.last_good.get(&spec.name).filter(|g| plain(&g.spec) != plain(spec) && same_kind(&g.spec, spec));
        // Somebody at the site who restarts what went back means what serves; with nothing to go back to, they try again.
        let same = |f: &&Failed| f.spec == asked || (good.is_some() && f.unrestarted == Some(unrestarted));
        let failed = memory.failed.get(&spec.name).filter(same);
        chosen.asked.insert(spec.name.clone(), failed.map_or(asked, |f| f.spec));
        chosen.unrestarted.insert(spec.name.clone(), unrestarted);
        if let (Some(failed), Some(LastGood { spec: good, image, .. })) = (failed, good) {
            chosen.back.insert(spec.name.clone(), failed.clone());
            chosen.pinned.insert(spec.name.clone(), image.clone());
            // Whether it runs at all is asked for anew, not remembered.
            *spec = InstanceSpec { suspend: spec.suspend, ..good.clone() };
        }
        if let (Workload::NodeRed(n), Some((drift, developer))) = (&mut spec.workload, wish) {
            let open = developer.as_ref().is_some_and(|d| d.is_open(now));
            // In developer mode what is edited stays and goes up, whatever the policy is at other times.
            n.drift = if open { Drift::Adopt } else { drift };
            n.developer = developer;
            if open {
                chosen.developing.insert(spec.name.clone());
            }
        }
    }
    chosen
}

/// Data of one kind is of no use to another.
pub fn same_kind(a: &InstanceSpec, b: &InstanceSpec) -> bool {
    a.workload.kind() == b.workload.kind()
}

/// What is asked of edits at the host.
fn editing(spec: &InstanceSpec) -> Option<(Drift, Option<Developer>)> {
    match &spec.workload {
        Workload::NodeRed(n) => Some((n.drift, n.developer.clone())),
        _ => None,
    }
}

/// The spec without what is asked of edits, and whether it runs at all: no container and no flow works better or worse for
/// it.
pub fn plain(spec: &InstanceSpec) -> InstanceSpec {
    let mut plain = InstanceSpec { suspend: false, ..spec.clone() };
    if let Workload::NodeRed(n) = &mut plain.workload {
        (n.drift, n.developer) = (Drift::default(), None);
    }
    plain
}

/// A spec with the restart that the site asked for and the secrets that it gave: what `failed` remembers.
fn identity(spec: &InstanceSpec, nonce: Option<&String>, secrets: &BTreeMap<Name, u64>) -> Digest {
    let hash = plain(spec).hash();
    let mut all = hash.0.to_vec();
    all.extend(nonce.into_iter().flat_map(|n| n.bytes()));
    for name in spec.secret_env.values() {
        all.extend_from_slice(format!("\0{name} {:?}", secrets.get(name)).as_bytes());
    }
    if all.len() == hash.0.len() { hash } else { Digest::of(&all) }
}

impl Chosen {
    /// Identity of a chosen spec.
    pub fn identity(&self, spec: &InstanceSpec, site: &Site) -> Digest {
        identity(spec, site.nonces.get(&spec.name), &self.secrets)
    }

    /// The image that this spec's reference means.
    pub fn image<'a>(&'a self, spec: &InstanceSpec, memory: &'a Remembered) -> Option<&'a ImageSeen> {
        self.pinned.get(&spec.name).or_else(|| memory.images.get(&image_key(spec)))
    }
}
