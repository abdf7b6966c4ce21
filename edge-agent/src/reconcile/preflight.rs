//! Can a change be made at all? Asked before anything is fetched or touched, answered with the numbers. Pure.
//!
//! `survey` measures the host and says which instances are about to change; planning holds back what is refused here. Nothing
//! is remembered: what does not fit now may fit at the next pass.
use redforge_shared::{
    desired::Port,
    ids::Name,
    report::preflight::{Check, Finding, MAX_FINDINGS, Preflight, STATE, Verdict},
};
use std::{collections::BTreeMap, net::Ipv4Addr};

/// What stays free whatever is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the engine's disk.
    pub disk_headroom_bytes: u64,
    /// Bytes of the host's memory.
    pub memory_reserve_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { disk_headroom_bytes: 512 << 20, memory_reserve_bytes: 256 << 20 }
    }
}

/// What the host has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// Free bytes where the engine keeps images and volumes; none = it cannot be looked at.
    pub disk_free_bytes: Option<u64>,
    /// Free bytes where the agent keeps what comes from the hub until the engine has it; none = it cannot be looked at.
    pub state_free_bytes: Option<u64>,
    /// Both are one disk.
    pub one_disk: bool,
    /// Bytes that a clean-up would free.
    pub reclaimable_bytes: u64,
    pub memory_total_bytes: Option<u64>,
    /// As images name theirs; empty = not known.
    pub architecture: String,
    /// Ports of the asks that another program holds.
    pub taken: Vec<Port>,
    /// The internal network's subnet, while that network has yet to be made, and whether it overlaps another of the host.
    pub subnet: Option<(String, bool)>,
}

/// What has to be fetched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fetch {
    #[default]
    Nothing,
    Bytes(u64),
    /// Nobody says how much before it comes.
    Unknown,
}

/// One instance of the host, in the order in which they are brought up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ask {
    /// What it fetches, as far as others fetch the same.
    pub image: String,
    /// A container has to be made for it.
    pub creates: bool,
    pub fetch: Fetch,
    /// Bytes that come into the agent's own folder first.
    pub by_way_of_state: u64,
    /// Limit that it asks for, and the one that it has now; 0 = none.
    pub memory_bytes: u64,
    pub memory_now_bytes: u64,
    pub ports: Vec<Port>,
    /// The image's, where it is known.
    pub architecture: Option<String>,
    /// Secrets that it names and the host does not know.
    pub secrets: Vec<String>,
}

impl Ask {
    /// Is anything done to it?
    pub fn changes(&self) -> bool {
        self.creates || self.fetch != Fetch::Nothing || !self.secrets.is_empty()
    }
}

/// A verdict for every instance that is about to change. One that fits takes its share before the next is asked.
pub fn judge(asks: &[(Name, Ask)], room: &Room, limits: Limits) -> BTreeMap<Name, Preflight> {
    let mut memory: BTreeMap<&Name, u64> = asks.iter().map(|(n, a)| (n, a.memory_now_bytes)).collect();
    let mut fetched: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    let mut said = BTreeMap::new();
    for (name, ask) in asks.iter().filter(|(_, a)| a.changes()) {
        let mut findings = Vec::new();
        findings.extend(disk(ask, &fetched, room, limits));
        if ask.creates {
            let others: u64 = memory.iter().filter(|(n, _)| **n != name).map(|(_, m)| m).sum();
            findings.extend(memory_finding(ask, others, room, limits));
            findings.extend(ports(name, ask, asks, &said, room));
            findings.extend(room.subnet.as_ref().map(|(subnet, overlaps)| Finding {
                check: Check::Subnet,
                verdict: refused_if(*overlaps),
                needed: None,
                available: None,
                names: vec![subnet.clone()],
            }));
        }
        findings.extend(architecture(ask, room));
        findings.extend(ask.secrets.iter().map(|secret| Finding {
            check: Check::Secret,
            verdict: Verdict::Refused,
            needed: None,
            available: None,
            names: vec![secret.clone()],
        }));
        // What refuses must not be cut off.
        findings.sort_by_key(|f| f.verdict != Verdict::Refused);
        findings.truncate(MAX_FINDINGS);
        let preflight = Preflight::of(findings);
        if preflight.verdict == Verdict::Fits {
            // Both may run for a moment; then the new one does.
            memory.insert(name, ask.memory_bytes.max(ask.memory_now_bytes));
            if let Fetch::Bytes(bytes) = ask.fetch {
                fetched.insert(&ask.image, (bytes, ask.by_way_of_state));
            }
        }
        said.insert(name.clone(), preflight);
    }
    said
}

fn refused_if(refused: bool) -> Verdict {
    if refused { Verdict::Refused } else { Verdict::Fits }
}

fn disk(ask: &Ask, fetched: &BTreeMap<&str, (u64, u64)>, room: &Room, limits: Limits) -> Vec<Finding> {
    let others = fetched.iter().filter(|(image, _)| **image != ask.image).map(|(_, bytes)| *bytes);
    let others = others.fold((0, 0), |(a, b): (u64, u64), (c, d)| (a.saturating_add(c), b.saturating_add(d)));
    let first = ask.by_way_of_state.saturating_add(others.1);
    let needed = match ask.fetch {
        Fetch::Nothing => return vec![],
        Fetch::Bytes(b) => Some(b.saturating_add(others.0)),
        Fetch::Unknown => None,
    };
    if room.one_disk {
        return vec![on_disk(needed.map(|n| n.saturating_add(first)), room.disk_free_bytes, room, limits, &[])];
    }
    let mut all = vec![on_disk(needed, room.disk_free_bytes, room, limits, &[])];
    if ask.by_way_of_state > 0 {
        all.push(on_disk(Some(first), room.state_free_bytes, room, limits, &[STATE]));
    }
    all
}

fn on_disk(needed: Option<u64>, free: Option<u64>, room: &Room, limits: Limits, names: &[&str]) -> Finding {
    let available = free.map(|free| free.saturating_sub(limits.disk_headroom_bytes));
    // Of unknown size is at least something.
    let least = needed.unwrap_or(1);
    let verdict = match (free, available) {
        (Some(free), Some(available)) if least > available => {
            let cleaned = free.saturating_add(room.reclaimable_bytes).saturating_sub(limits.disk_headroom_bytes);
            if least <= cleaned { Verdict::FitsAfterCleanUp } else { Verdict::Refused }
        }
        _ => Verdict::Fits,
    };
    let names = names.iter().map(|n| (*n).to_owned()).collect();
    Finding { check: Check::Disk, verdict, needed, available, names }
}

/// Nothing is said of an instance without a limit: what it will take is not known.
fn memory_finding(ask: &Ask, others: u64, room: &Room, limits: Limits) -> Option<Finding> {
    let total = room.memory_total_bytes?;
    let available = total.saturating_sub(limits.memory_reserve_bytes);
    let needed = others.saturating_add(ask.memory_bytes);
    let grows = ask.memory_bytes > ask.memory_now_bytes;
    (ask.memory_bytes > 0).then(|| Finding {
        check: Check::Memory,
        // One that asks for no more than it has makes nothing worse.
        verdict: refused_if(grows && needed > available),
        needed: Some(needed),
        available: Some(available),
        names: vec![],
    })
}

fn ports(name: &Name, ask: &Ask, asks: &[(Name, Ask)], said: &BTreeMap<Name, Preflight>, room: &Room) -> Vec<Finding> {
    let finding = |port: &Port| {
        // Those that stay as they are and those that were let through before hold what they ask for.
        let holds = |(n, a): &&(Name, Ask)| {
            let stays = !a.changes() || said.get(n).is_some_and(|p| p.verdict == Verdict::Fits);
            n != name && stays && a.ports.iter().any(|p| collide(p, port))
        };
        let holder = asks.iter().find(holds).map(|(n, _)| n.to_string());
        let taken = room.taken.iter().any(|t| t == port);
        let protocol = port.protocol.as_str();
        Finding {
            check: Check::Port,
            verdict: refused_if(holder.is_some() || taken),
            needed: Some(port.host.into()),
            available: None,
            names: std::iter::once(protocol.to_owned()).chain(holder).collect(),
        }
    };
    ask.ports.iter().map(finding).collect()
}

/// Can the two not be published at once?
fn collide(a: &Port, b: &Port) -> bool {
    let overlap = a.address == b.address || a.address.is_unspecified() || b.address.is_unspecified();
    a.host == b.host && a.protocol == b.protocol && overlap
}

fn architecture(ask: &Ask, room: &Room) -> Option<Finding> {
    let image = ask.architecture.as_ref().filter(|a| !a.is_empty() && !room.architecture.is_empty())?;
    let host = &room.architecture;
    Some(Finding {
        check: Check::Architecture,
        verdict: refused_if(!runs_on(image, host)),
        needed: None,
        available: None,
        names: vec![image.clone(), host.clone()],
    })
}

/// A host of 64 bits runs what was made for its 32 bits; no image says anything of emulators.
fn runs_on(image: &str, host: &str) -> bool {
    image == host || matches!((image, host), ("386", "amd64") | ("arm", "arm64"))
}

/// What an image is for, when none of what its registry offers runs on a host of this architecture.
pub fn for_others(offered: &[String], host: &str) -> Option<String> {
    let host = as_images_name_it(host);
    let none_runs = !host.is_empty() && !offered.is_empty() && !offered.iter().any(|o| runs_on(o, host));
    none_runs.then(|| offered.join(", "))
}

/// The engine's word for its architecture as images write theirs.
pub fn as_images_name_it(architecture: &str) -> &str {
    match architecture {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "i386" | "i686" => "386",
        arm if arm.starts_with("armv") => "arm",
        other => other,
    }
}

/// An IPv4 network: address and length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block(pub u32, pub u8);

impl Block {
    /// `10.0.0.0/24`.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, bits) = text.split_once('/')?;
        let bits: u8 = bits.parse().ok().filter(|b| *b <= 32)?;
        Some(Self(address.parse::<Ipv4Addr>().ok()?.into(), bits))
    }

    /// Do the two share an address? A route to everything says nothing.
    pub fn overlaps(self, other: Self) -> bool {
        let bits = self.1.min(other.1);
        bits > 0 && (self.0 ^ other.0) >> (32 - u32::from(bits)) == 0
    }
}

/// Networks that the kernel's table of routes names, but the way to everywhere else.
pub fn routes(table: &str) -> Vec<Block> {
    let route = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        // Written in the byte order of the machine.
        let hex = |n: usize| Some(u32::from_be_bytes(u32::from_str_radix(fields.get(n)?, 16).ok()?.to_ne_bytes()));
        let (network, mask) = (hex(1)?, hex(7)?);
        (mask != 0).then(|| Block(network, mask.count_ones() as u8))
    };
    table.lines().skip(1).filter_map(route).collect()
}

#[cfg(test)]
mod tests;
