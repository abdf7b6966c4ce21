//! The names of a host's Docker objects, and the subnets its network may take.
//!
//! Two agents on one engine never meet: every name carries the first 8 hex digits of the SHA-256 of the host id. Two
//! objects of one host never meet either: instances' and volumes' names may contain hyphens, so that in volumes' names an
//! instance's hyphens are doubled (`my-flows` with volume `data` is `redforge-<h8>-my--flows-data`).
use redforge_shared::ids::{Digest, HostId, Name};
use std::net::Ipv4Addr;

/// The names of one host's objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    pub host: HostId,
    prefix: String,
}

impl Names {
    /// The names of this host.
    pub fn new(host: HostId) -> Self {
        let h8 = &Digest::of(host.to_string().as_bytes()).hex()[..8];
        Self { host, prefix: format!("redforge-{h8}") }
    }

    /// `redforge-<h8>`: also the name of the internal network.
    pub fn network(&self) -> &str {
        &self.prefix
    }

    /// The network that reaches beyond the host.
    pub fn outside(&self) -> String {
        format!("{}-out", self.prefix)
    }

    /// An instance's container.
    pub fn container(&self, instance: &Name, replica: u32) -> String {
        format!("{}-{instance}-{replica}", self.prefix)
    }

    /// A data volume that the spec names.
    pub fn volume(&self, instance: &Name, volume: &Name) -> String {
        let volume = volume.as_str();
        // Words that other volumes of the instance begin with.
        let taken = volume == "live" || ["cfg-", "vol-", "data-"].iter().any(|w| volume.starts_with(w));
        self.volume_of(instance, &if taken { format!("data-{volume}") } else { volume.to_owned() })
    }

    /// The data volume of a path that the image declares as one: readable, and two paths never share one.
    pub fn image_volume(&self, instance: &Name, path: &str) -> String {
        let words: String =
            path.trim_matches('/').chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(80).collect();
        let unique = &Digest::of(path.as_bytes()).hex()[..6];
        self.volume_of(instance, &format!("vol-{}-{unique}", words.to_ascii_lowercase()))
    }

    /// What a replica has in place of a data volume of its instance; the first has that volume itself.
    pub fn replica_volume(volume: &str, number: u32) -> String {
        if number == 0 { volume.to_owned() } else { format!("{volume}-r{number}") }
    }

    /// The volume of rendered files with this content.
    pub fn config_volume(&self, instance: &Name, content: Digest) -> String {
        self.volume_of(instance, &format!("cfg-{}", &content.hex()[..12]))
    }

    /// The volume of files that are reread on a signal.
    pub fn live_volume(&self, instance: &Name) -> String {
        self.volume_of(instance, "live")
    }

    /// No name begins or ends with a hyphen: the first run of hyphens that is not even ends the instance's name.
    fn volume_of(&self, instance: &Name, rest: &str) -> String {
        format!("{}-{}-{rest}", self.prefix, instance.as_str().replace('-', "--"))
    }

    /// The container that carries files into `volume`.
    pub fn helper(&self, volume: &str) -> String {
        let tail = volume.strip_prefix(&self.prefix).unwrap_or(volume);
        format!("{}-put{tail}", self.prefix)
    }

    /// Does an object of this name look like one of ours?
    pub fn owns(&self, name: &str) -> bool {
        name.strip_prefix(&self.prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    }
}

/// The first address of a subnet such as 10.231.64.0/24: the bridge itself, which is the host.
pub fn first_address(subnet: &str) -> Option<Ipv4Addr> {
    let base: Ipv4Addr = subnet.split_once('/')?.0.parse().ok()?;
    Some(Ipv4Addr::from(u32::from(base).checked_add(1)?))
}

/// Address range from which networks take their subnets, such as 10.231.64.0/18.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    base: u32,
    bits: u8,
}

/// What is wrong with a pool's text.
#[derive(Debug, thiserror::Error)]
#[error("'{0}' is not a range of IPv4 addresses such as 10.231.64.0/18 (at least a /24)")]
pub struct InvalidPool(pub String);

impl std::str::FromStr for Pool {
    type Err = InvalidPool;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidPool(s.chars().take(80).collect());
        let (address, bits) = s.split_once('/').ok_or_else(invalid)?;
        let address: Ipv4Addr = address.parse().map_err(|_| invalid())?;
        let bits: u8 = bits.parse().map_err(|_| invalid())?;
        if !(8..=24).contains(&bits) {
            return Err(invalid());
        }
        let base = u32::from(address);
        if base & (u32::MAX >> bits) != 0 {
            return Err(invalid());
        }
        Ok(Self { base, bits })
    }
}

impl Pool {
    /// The /24 subnets of the pool, in order; at most 256 of them.
    pub fn subnets(&self) -> impl Iterator<Item = String> + use<> {
        let (base, count) = (self.base, 1_u32 << (24 - self.bits));
        (0..count.min(256)).map(move |n| format!("{}/24", Ipv4Addr::from(base + (n << 8))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const WORDS: [&str; 9] = ["a", "a-b", "a--b", "b", "b-c", "live", "cfg-0123456789ab", "data-live", "vol-x"];

    fn label() -> impl Strategy<Value = Name> {
        let made = "[a-b]{1,2}(-{1,3}[a-b0]{1,2}){0,2}";
        let text = prop_oneof![made, proptest::sample::select(&WORDS[..]).prop_map(str::to_owned)];
        text.prop_map(|s| s.parse().expect("a name"))
    }

    proptest! {
        /// Whatever instances and volumes are called: two different volumes never bear one name.
        #[test]
        fn no_two_volumes_of_a_host_bear_one_name(
            pairs in proptest::collection::btree_set((label(), label()), 1..12),
            contents in proptest::collection::btree_set(any::<u8>(), 0..3),
        ) {
            let names = Names::new(HostId(uuid::Uuid::nil()));
            let mut all: Vec<String> = pairs.iter().map(|(instance, volume)| names.volume(instance, volume)).collect();
            for instance in pairs.iter().map(|(i, _)| i).collect::<BTreeSet<_>>() {
                all.push(names.live_volume(instance));
                all.push(names.image_volume(instance, "/data"));
                all.push(names.image_volume(instance, "/Data"));
                all.extend((1..3).map(|n| Names::replica_volume(&names.image_volume(instance, "/data"), n)));
                all.extend(contents.iter().map(|c| names.config_volume(instance, Digest::of(&[*c]))));
            }
            let unique: BTreeSet<_> = all.iter().collect();
            prop_assert_eq!(unique.len(), all.len(), "{:?}", all);
        }
    }

    #[test]
    fn a_hyphen_in_the_instance_is_told_from_one_in_the_volume() {
        let names = Names::new(HostId(uuid::Uuid::nil()));
        let name = |s: &str| s.parse::<Name>().expect("a name");
        let tail = |s: String| s.strip_prefix(names.network()).map(str::to_owned).expect("ours");
        assert_eq!(tail(names.volume(&name("a"), &name("b-c"))), "-a-b-c");
        assert_eq!(tail(names.volume(&name("a-b"), &name("c"))), "-a--b-c");
        assert_eq!(tail(names.volume(&name("a"), &name("live"))), "-a-data-live");
        assert_eq!(tail(names.live_volume(&name("a"))), "-a-live");
    }

    #[test]
    fn names_of_two_hosts_never_meet() {
        let host = |n: u8| HostId(uuid::Uuid::from_bytes([n; 16]));
        let (a, b) = (Names::new(host(1)), Names::new(host(2)));
        let name: Name = "broker".parse().expect("a name");
        assert_ne!(a.network(), b.network());
        assert!(a.owns(&a.container(&name, 0)) && !b.owns(&a.container(&name, 0)));
        assert!(!a.owns(&format!("{}x", a.network())), "a longer prefix is another's");
    }

    #[test]
    fn pools_are_cut_into_subnets() {
        let pool: Pool = "10.231.64.0/18".parse().expect("the default pool");
        let all: Vec<_> = pool.subnets().collect();
        assert_eq!((all.len(), all[0].as_str(), all[63].as_str()), (64, "10.231.64.0/24", "10.231.127.0/24"));
        for bad in ["", "10.0.0.0", "10.0.0.0/25", "10.0.0.1/24", "10.231.64.0/x", "::/8"] {
            assert!(bad.parse::<Pool>().is_err(), "{bad}");
        }
    }
}
