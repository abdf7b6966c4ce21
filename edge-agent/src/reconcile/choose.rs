//! Which spec an instance runs: the one it is asked for or, where that one failed, the last that worked. Pure.
//!
//! A failed spec stays failed until it changes, its restart nonces included; then it is tried again.
use super::{
    memory::{Failed, LastGood, Remembered},
    reduce::identity,
};
use crate::{db::ledger::Site, runtime::ImageSeen};
use redforge_shared::{
    desired::{DesiredState, InstanceSpec},
    ids::{Digest, Name},
};
use std::collections::BTreeMap;

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
}

/// Chooses for every instance.
pub fn choose(state: &DesiredState, site: &Site, memory: &Remembered) -> Chosen {
    let mut chosen =
        Chosen { state: state.clone(), asked: BTreeMap::new(), back: BTreeMap::new(), pinned: BTreeMap::new() };
    for spec in &mut chosen.state.instances {
        let asked = identity(spec, site.nonces.get(&spec.name));
        chosen.asked.insert(spec.name.clone(), asked);
        let failed = memory.failed.get(&spec.name).filter(|f| f.spec == asked);
        let good = memory.last_good.get(&spec.name).filter(|g| g.identity != asked && same_kind(&g.spec, spec));
        if let (Some(failed), Some(LastGood { spec: good, image, .. })) = (failed, good) {
            chosen.back.insert(spec.name.clone(), failed.clone());
            chosen.pinned.insert(spec.name.clone(), image.clone());
            // Whether it runs at all is asked for anew, not remembered.
            *spec = InstanceSpec { suspend: spec.suspend, ..good.clone() };
        }
    }
    chosen
}

/// Data of one kind is of no use to another.
fn same_kind(a: &InstanceSpec, b: &InstanceSpec) -> bool {
    a.workload.kind() == b.workload.kind()
}

impl Chosen {
    /// The image that this spec's reference means.
    pub fn image<'a>(&'a self, spec: &InstanceSpec, memory: &'a Remembered) -> Option<&'a ImageSeen> {
        self.pinned.get(&spec.name).or_else(|| memory.images.get(&spec.image))
    }
}
