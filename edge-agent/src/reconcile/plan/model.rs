//! The plain data that planning reads.
use super::room::{Capacity, Claim};
pub use super::step::{DEEDS, Step};
use redforge_shared::{
    desired::Drift,
    ids::{Digest, Name},
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use time::OffsetDateTime;

/// What shall be there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// The internal network's name.
    pub network: String,
    /// The name of the network that reaches beyond the host.
    pub outside: String,
    /// What people at the site hold, desired or not.
    pub held: Held,
    pub instances: Vec<Wanted>,
    /// What the host has; none = not known, and taken as enough.
    pub capacity: Option<Capacity>,
}

/// What is held at the site.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    pub host: bool,
    pub instances: BTreeSet<Name>,
}

impl Held {
    /// Is this instance to be left as it is?
    pub fn covers(&self, instance: &Name) -> bool {
        self.host || self.instances.contains(instance)
    }
}

/// One instance that shall be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub name: Name,
    /// Identity of its spec, restart nonces included.
    pub spec: Digest,
    /// Lower ones are brought up first.
    pub rank: u8,
    /// Held at the site.
    pub hold: bool,
    pub suspend: bool,
    /// Image reference as the operator wrote it.
    pub image: String,
    pub blueprint: Blueprint,
    pub flow_set: Option<Digest>,
    /// A runtime without a flow set: the empty one, which it gets in place of what it was given.
    pub clears: Option<Digest>,
    /// What happens to what somebody changed at the host.
    pub drift: Drift,
    /// The broker that has to hold the agent's session before this is started for the first time.
    pub waits: Option<Name>,
    /// A new container, or what it fetches, would not fit: nothing new is begun.
    pub refused: bool,
}

/// Can the instance be rendered?
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Blueprint {
    /// The image's id is not known yet.
    NoImage,
    /// Something it needs is not part of the desired state.
    Unmet,
    Ready(Box<Shape>),
}

/// What of a rendered instance planning must know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// Names that its containers may bear, by number; the last is for a container that comes up beside the others.
    pub slots: Vec<String>,
    /// How many containers.
    pub replicas: u32,
    /// Has more than one container, or may come to have.
    pub replicated: bool,
    /// What each of its containers may use.
    pub claim: Claim,
    /// Hash of what only a new container can change.
    pub hash: String,
    pub outside: bool,
    /// Holds a volume or a port that two containers cannot hold at once.
    pub exclusive: bool,
    pub data: BTreeSet<String>,
    /// Data volumes that each replica has for itself, by number.
    pub own: Vec<BTreeSet<String>>,
    pub config: Option<String>,
    /// Of a kind whose rendered files are looked at again: their hash as it can be read back.
    pub config_hash: Option<Digest>,
    /// The volume of the modules that come with its flow set, and the hash of their files as they can be read back.
    pub modules: Option<(String, Digest)>,
    pub live: Option<String>,
    pub live_hash: Option<Digest>,
    /// What was observed of its live files is what it has read: nothing about reading them is remembered.
    pub tells: bool,
}

impl Shape {
    /// The volumes that this replica has for itself.
    pub fn own_volumes(&self, number: u32) -> impl Iterator<Item = &String> {
        self.own.get(number as usize).into_iter().flatten()
    }

    /// Every volume that all of its containers mount.
    pub fn volumes(&self) -> impl Iterator<Item = &String> {
        self.data.iter().chain(&self.config).chain(self.modules.iter().map(|(v, _)| v)).chain(&self.live)
    }
}

/// What the agent remembers of earlier passes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Spec that was refused, by instance.
    pub failed: BTreeMap<Name, Digest>,
    /// Which start of the container has read which live files.
    pub applied: BTreeMap<Name, String>,
    /// Flow set given last, by where the runtime keeps its flows: each replica has a place of its own.
    pub deployed: BTreeMap<Name, GivenAt>,
}

/// Flow sets by the place that they were given to: another volume, or another container without one, was given nothing yet.
pub type GivenAt = BTreeMap<String, Given>;

/// A flow set that a runtime was given, or was found to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Given {
    pub digest: Digest,
    /// The revision that the runtime gave it; empty: begun to be given, and not known to have been taken.
    pub rev: String,
    /// Since when it has this flow set.
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub since: Option<OffsetDateTime>,
}

impl Given {
    /// Given now, or found.
    pub fn new(digest: Digest, rev: String) -> Self {
        Self { digest, rev, since: None }
    }

    /// About to be given: it may be there from now on, whatever comes back.
    pub fn begun(digest: Digest) -> Self {
        Self::new(digest, String::new())
    }

    /// Is it known that the runtime took this one?
    pub fn is(&self, digest: Digest) -> bool {
        self.digest == digest && !self.rev.is_empty()
    }
}

/// What is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Actual {
    pub networks: BTreeSet<String>,
    pub containers: Vec<Found>,
    pub volumes: BTreeMap<String, VolumeFound>,
    /// Ids of containers that only carried files.
    pub helpers: Vec<String>,
    /// Names of ours that others bear.
    pub foreign: BTreeSet<String>,
    /// Hash of the live files as read back, by container.
    pub live: BTreeMap<String, Digest>,
    /// Hash of the rendered files as read back, by container.
    pub config: BTreeMap<String, Digest>,
    /// Containers whose flows end them again and again, with nothing to go back to.
    pub safe: BTreeSet<String>,
    /// Hash of the modules' files as read back, by container.
    pub modules: BTreeMap<String, Digest>,
    /// Flow sets on the host, with the hash of their flows.
    pub flow_sets: BTreeMap<Digest, Digest>,
    /// What answering runtimes run, by container.
    pub flows: BTreeMap<String, FlowsSeen>,
    /// Where each instance keeps its flows.
    pub homes: BTreeMap<Name, String>,
    /// Declared models that answering servers lack, or hold with another content, by container.
    pub models_lacking: BTreeMap<String, Vec<String>>,
    /// Models that shall be in memory and are not, by container.
    pub models_unloaded: BTreeMap<String, Vec<String>>,
    /// Jobs that run in the background, or failed too recently to be tried again.
    pub busy: BTreeSet<String>,
    /// Containers that ended again and again and stay down for a while.
    pub resting: BTreeSet<String>,
    /// Containers that are known never to have done what they are there for.
    pub unproven: BTreeSet<String>,
}

/// One of our containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub id: String,
    pub name: String,
    pub instance: Name,
    /// Its number among the instance's containers.
    pub replica: u32,
    pub claim: Claim,
    pub hash: String,
    pub life: Life,
    /// Empty: never.
    pub started_at: String,
    /// Joined to the network that reaches beyond the host.
    pub outside: bool,
    /// Found under the instance's name by the others.
    pub named: bool,
    /// Does what its spec asks for, and has for a while.
    pub ready: bool,
    pub volumes: BTreeSet<String>,
    /// Where a runtime keeps its flows; empty for other kinds.
    pub home: String,
}

/// What a container is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// Made and not started, or ended.
    Down,
    Running,
    /// Somebody paused it.
    Paused,
    /// Between two runs: the engine brings it back.
    Between,
    /// Cannot be used again.
    Dead,
}

impl Life {
    /// Must it be stopped before it can be removed?
    pub fn may_run(self) -> bool {
        matches!(self, Self::Running | Self::Paused | Self::Between)
    }
}

/// One of our volumes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeFound {
    pub instance: Name,
    pub purpose: Purpose,
}

/// What a volume is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    Config,
    Live,
    Data,
}

/// What a runtime says that it runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlowsSeen {
    pub hash: Option<Digest>,
    pub rev: String,
    /// Stopped without an error: somebody stopped them.
    pub stopped: bool,
    /// Nodes lack the credentials that were declared for them, or have others.
    pub credentials_wrong: bool,
    /// It holds every credential that is declared, for nodes that are not there yet too.
    pub credentials_held: bool,
    /// Where it keeps its flows.
    pub home: String,
}

/// Names of what is done in the background.
pub mod job_key {
    use redforge_shared::ids::Name;

    /// An image.
    pub fn image(reference: &str) -> String {
        format!("image {reference}")
    }

    /// A model of an instance.
    pub fn model(instance: &Name, model: &str) -> String {
        format!("model {instance} {model}")
    }

    /// Is it of something that is fetched?
    pub fn is_fetch(key: &str) -> bool {
        key.starts_with("image ") || key.starts_with("model ")
    }

    /// A model's way into the memory of the server in this container.
    pub fn load(container: &str, model: &str) -> String {
        format!("load {container} {model}")
    }

    /// The stop of a container.
    pub fn stop(id: &str) -> String {
        format!("stop {id}")
    }
}
