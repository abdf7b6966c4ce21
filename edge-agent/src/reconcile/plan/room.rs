//! What the host has room for, by the limits that its instances were given. Pure.
//!
//! Every instance has its first container whatever the host has: refusing it is preflight's. Every further one, and one
//! that comes up beside another for a while, needs room. An instance without limits claims nothing.
use super::model::{Actual, Blueprint, Desired, Found};
use redforge_shared::ids::Name;
use std::collections::BTreeMap;

/// What one container may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Claim {
    pub cpu_millicores: u32,
    pub memory_bytes: u64,
}

/// What the host has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    pub cpu_millicores: u64,
    pub memory_bytes: u64,
}

impl Capacity {
    /// What is left beside a claim; nothing of a kind is the least.
    fn less(self, claim: Claim) -> Self {
        Self {
            cpu_millicores: self.cpu_millicores.saturating_sub(claim.cpu_millicores.into()),
            memory_bytes: self.memory_bytes.saturating_sub(claim.memory_bytes),
        }
    }

    fn fits(self, claim: Claim) -> bool {
        self.cpu_millicores >= u64::from(claim.cpu_millicores) && self.memory_bytes >= claim.memory_bytes
    }
}

/// How many containers an instance asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    pub claim: Claim,
    /// Fewest; before anybody gets more than that.
    pub least: u32,
    pub wish: u32,
}

/// How many each gets: one first, then everybody's least, then what is left in turn, by name.
pub fn allot(capacity: Option<Capacity>, asks: &BTreeMap<Name, Ask>) -> BTreeMap<Name, u32> {
    let mut given: BTreeMap<Name, u32> = asks.iter().map(|(n, a)| (n.clone(), a.wish.min(1))).collect();
    let Some(capacity) = capacity else {
        return asks.iter().map(|(n, a)| (n.clone(), a.wish)).collect();
    };
    let mut left = asks.values().filter(|a| a.wish > 0).fold(capacity, |left, a| left.less(a.claim));
    for goal in [|a: &Ask| a.least.min(a.wish), |a: &Ask| a.wish] {
        loop {
            let mut more = false;
            for (name, ask) in asks {
                let count = given.get_mut(name).expect("everybody was given something");
                if *count < goal(ask) && left.fits(ask.claim) {
                    *count += 1;
                    left = left.less(ask.claim);
                    more = true;
                }
            }
            if !more {
                break;
            }
        }
    }
    given
}

/// What may still be started in this pass.
#[derive(Clone, Debug)]
pub struct Budget {
    left: Option<Capacity>,
}

impl Budget {
    /// What running containers, and the first ones of instances that have none yet, leave over.
    pub fn of(desired: &Desired, actual: &Actual) -> Self {
        let Some(mut left) = desired.capacity else { return Self { left: None } };
        for c in actual.containers.iter().filter(|c| c.life.may_run()) {
            left = left.less(c.claim);
        }
        for w in desired.instances.iter().filter(|w| !w.suspend) {
            let runs = |c: &Found| c.instance == w.name && c.life.may_run();
            if let (Blueprint::Ready(shape), false) = (&w.blueprint, actual.containers.iter().any(runs)) {
                left = left.less(shape.claim);
            }
        }
        Self { left: Some(left) }
    }

    /// Takes room for one more; false when there is none.
    pub fn take(&mut self, claim: Claim) -> bool {
        let Some(left) = self.left else { return true };
        let fits = left.fits(claim);
        if fits {
            self.left = Some(left.less(claim));
        }
        fits
    }

    /// The same for one that stands beside another for moments only: CPU limits may overlap for so long, memory may not.
    pub fn take_for_moments(&mut self, claim: Claim) -> bool {
        self.take(Claim { cpu_millicores: 0, ..claim })
    }
}
