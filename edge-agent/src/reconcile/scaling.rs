//! How many containers each instance has in this pass: as its spec says, as far as the host has room.
use super::{Reconciler, memory::Remembered, plan::room::Ask, plan::room::allot, reduce::claim};
use crate::runtime::HostSeen;
use redforge_shared::{
    desired::{DesiredState, InstanceSpec},
    ids::Name,
    scale::Scaled,
};
use std::collections::BTreeMap;

/// Numbers of containers.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    given: BTreeMap<Name, u32>,
    /// Instances that asked for more than there is room for.
    pub short: BTreeMap<Name, u32>,
    pub scaled: BTreeMap<Name, Scaled>,
}

impl Counts {
    /// How many containers of it there shall be.
    pub fn of(&self, spec: &InstanceSpec) -> u32 {
        self.given.get(&spec.name).copied().unwrap_or(spec.replicas)
    }
}

impl Reconciler {
    pub(super) fn counts(&self, state: &DesiredState, _seen: &HostSeen, _memory: &Remembered) -> Counts {
        let running = state.instances.iter().filter(|i| !i.suspend);
        let ask = |i: &InstanceSpec| {
            let wish = i.autoscale.as_ref().map_or(i.replicas, |a| a.min);
            (i.name.clone(), Ask { claim: claim(i), least: wish, wish })
        };
        let asks: BTreeMap<_, _> = running.map(ask).collect();
        let given = allot(self.deps.capacity, &asks);
        let short = asks.iter().filter(|(n, a)| given[*n] < a.wish).map(|(n, a)| (n.clone(), a.wish)).collect();
        Counts { given, short, scaled: BTreeMap::new() }
    }
}
