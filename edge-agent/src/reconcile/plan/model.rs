//! The plain data that planning reads, and the closed list of steps that it writes.
use super::room::{Capacity, Claim};
use redforge_shared::{
    desired::Drift,
    ids::{Digest, Name},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};
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

/// Everything that can be done. Each is idempotent, and knows the instance it is done for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    RemoveHelper {
        id: String,
    },
    EnsureNetwork {
        name: String,
        internal: bool,
    },
    WantBlob {
        instance: Name,
        digest: Digest,
    },
    ResolveImage {
        instance: Name,
        image: String,
    },
    EnsureVolume {
        instance: Name,
        volume: String,
        purpose: Purpose,
    },
    PutConfig {
        instance: Name,
        volume: String,
    },
    PutModules {
        instance: Name,
        volume: String,
        flow_set: Digest,
    },
    /// Its next start leaves its flows alone.
    SafeMode {
        instance: Name,
        id: String,
    },
    PutLive {
        instance: Name,
        volume: String,
    },
    Stop {
        instance: Name,
        container: String,
        id: String,
    },
    Remove {
        instance: Name,
        container: String,
        id: String,
    },
    Create {
        instance: Name,
        container: String,
        replica: u32,
        named: bool,
    },
    ConnectOutside {
        instance: Name,
        container: String,
    },
    Start {
        instance: Name,
        container: String,
    },
    TakeName {
        instance: Name,
        container: String,
    },
    Reload {
        instance: Name,
        id: String,
        applied: String,
    },
    DeployFlows {
        instance: Name,
        id: String,
        home: String,
        digest: Digest,
        full: bool,
        credentials: bool,
    },
    /// Into the volume of one that is down.
    PutFlows {
        instance: Name,
        id: String,
        home: String,
        digest: Digest,
    },
    StartFlows {
        instance: Name,
        id: String,
    },
    PullModel {
        instance: Name,
        id: String,
        model: String,
    },
    LoadModel {
        instance: Name,
        id: String,
        model: String,
    },
    RemoveVolume {
        instance: Name,
        volume: String,
    },
}

impl Step {
    /// The instance it belongs to; none = all of them need it.
    pub fn instance(&self) -> Option<&Name> {
        match self {
            Self::RemoveHelper { .. } | Self::EnsureNetwork { .. } => None,
            Self::WantBlob { instance, .. }
            | Self::ResolveImage { instance, .. }
            | Self::EnsureVolume { instance, .. }
            | Self::PutConfig { instance, .. }
            | Self::PutModules { instance, .. }
            | Self::SafeMode { instance, .. }
            | Self::PutLive { instance, .. }
            | Self::Stop { instance, .. }
            | Self::Remove { instance, .. }
            | Self::Create { instance, .. }
            | Self::ConnectOutside { instance, .. }
            | Self::Start { instance, .. }
            | Self::TakeName { instance, .. }
            | Self::Reload { instance, .. }
            | Self::DeployFlows { instance, .. }
            | Self::PutFlows { instance, .. }
            | Self::StartFlows { instance, .. }
            | Self::PullModel { instance, .. }
            | Self::LoadModel { instance, .. }
            | Self::RemoveVolume { instance, .. } => Some(instance),
        }
    }
}

/// Every deed of [`Step::deed`].
pub const DEEDS: [&str; 20] = [
    "remove-helper",
    "ensure-network",
    "want-blob",
    "resolve-image",
    "ensure-volume",
    "put-config",
    "put-modules",
    "put-live",
    "stop",
    "remove",
    "create",
    "connect-outside",
    "start",
    "take-name",
    "reload",
    "deploy-flows",
    "start-flows",
    "pull-model",
    "load-model",
    "remove-volume",
];

impl Step {
    /// What it does, in a word: the name of its fault points.
    pub fn deed(&self) -> &'static str {
        match self {
            Self::RemoveHelper { .. } => "remove-helper",
            Self::EnsureNetwork { .. } => "ensure-network",
            Self::WantBlob { .. } => "want-blob",
            Self::ResolveImage { .. } => "resolve-image",
            Self::EnsureVolume { .. } => "ensure-volume",
            // What it finds when it starts.
            Self::PutConfig { .. } | Self::SafeMode { .. } => "put-config",
            Self::PutModules { .. } => "put-modules",
            Self::PutLive { .. } => "put-live",
            Self::Stop { .. } => "stop",
            Self::Remove { .. } => "remove",
            Self::Create { .. } => "create",
            Self::ConnectOutside { .. } => "connect-outside",
            Self::Start { .. } => "start",
            Self::TakeName { .. } => "take-name",
            Self::Reload { .. } => "reload",
            // Into a runtime that answers, or into the volume of one that is down.
            Self::DeployFlows { .. } | Self::PutFlows { .. } => "deploy-flows",
            Self::StartFlows { .. } => "start-flows",
            Self::PullModel { .. } => "pull-model",
            Self::LoadModel { .. } => "load-model",
            Self::RemoveVolume { .. } => "remove-volume",
        }
    }

    /// Is the host another one behind it, so that the next look should come soon?
    pub fn moves(&self) -> bool {
        matches!(
            self,
            Self::ResolveImage { .. }
                | Self::Remove { .. }
                | Self::Create { .. }
                | Self::Start { .. }
                | Self::TakeName { .. }
                | Self::Reload { .. }
                | Self::DeployFlows { .. }
        )
    }
}

/// One line per step, for logs and for reviewers of snapshots.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RemoveHelper { id } => write!(f, "remove helper {id}"),
            Self::EnsureNetwork { name, internal: true } => write!(f, "ensure internal network {name}"),
            Self::EnsureNetwork { name, internal: false } => write!(f, "ensure network {name}"),
            Self::WantBlob { instance, digest } => write!(f, "{instance}: want blob {}", &digest.hex()[..12]),
            Self::ResolveImage { instance, image } => write!(f, "{instance}: resolve image {image}"),
            Self::EnsureVolume { instance, volume, purpose } => {
                write!(f, "{instance}: ensure {purpose:?} volume {volume}")
            }
            Self::PutConfig { instance, volume } => write!(f, "{instance}: put config into {volume}"),
            Self::PutModules { instance, volume, .. } => write!(f, "{instance}: put modules into {volume}"),
            Self::SafeMode { instance, .. } => write!(f, "{instance}: begin the next start in safe mode"),
            Self::PutLive { instance, volume } => write!(f, "{instance}: put live files into {volume}"),
            Self::Stop { instance, container, .. } => write!(f, "{instance}: stop {container}"),
            Self::Remove { instance, container, .. } => write!(f, "{instance}: remove {container}"),
            Self::Create { instance, container, named: true, .. } => write!(f, "{instance}: create {container}"),
            Self::Create { instance, container, named: false, .. } => {
                write!(f, "{instance}: create {container} beside the one that serves")
            }
            Self::ConnectOutside { instance, container } => write!(f, "{instance}: connect {container} to the outside"),
            Self::Start { instance, container } => write!(f, "{instance}: start {container}"),
            Self::TakeName { instance, container } => write!(f, "{instance}: give {container} the instance's name"),
            Self::Reload { instance, id, .. } => write!(f, "{instance}: reload live files in {id}"),
            Self::DeployFlows { instance, digest, full, .. } => {
                write!(f, "{instance}: deploy {} {}", if *full { "full" } else { "flows" }, &digest.hex()[..12])
            }
            Self::PutFlows { instance, digest, .. } => {
                write!(f, "{instance}: put flows {} where it finds them", &digest.hex()[..12])
            }
            Self::StartFlows { instance, .. } => write!(f, "{instance}: start flows"),
            Self::PullModel { instance, model, .. } => write!(f, "{instance}: pull model {model}"),
            Self::LoadModel { instance, model, .. } => write!(f, "{instance}: load model {model} into memory"),
            Self::RemoveVolume { instance, volume } => write!(f, "{instance}: remove volume {volume}"),
        }
    }
}
