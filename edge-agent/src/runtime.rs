//! What a container engine can do for us, in our words: the trait, the plain data it speaks, and its one error.
//!
//! Step of the flow down: `reconcile` observes and acts through this trait only. It knows nothing of desired states,
//! kinds or files' content; every object it makes carries the labels of [`labels`], and it never touches one without.
use crate::runtime::{login::Login, meter::Meter, names::Names};
use futures_util::stream::BoxStream;
use redforge_shared::{
    desired::Port,
    ids::{Digest, HostId, Name},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    future::Future,
    net::IpAddr,
    path::Path,
    pin::Pin,
};

pub mod docker;
pub mod fake;
pub mod login;
pub mod meter;
pub mod names;
mod sources;

pub use sources::{BrokerEndpoint, BrokersHeard, IngestDoor, LogLine, LogSource, LogStream, QueueHeard, QueuesHeard};

/// Labels of every object that is ours.
pub mod labels {
    /// The host id: an agent sees only objects that bear its own.
    pub const HOST: &str = "redforge.host";
    /// The instance an object belongs to.
    pub const INSTANCE: &str = "redforge.instance";
    /// Which of an instance's containers this is.
    pub const REPLICA: &str = "redforge.replica";
    /// Hash of what only a new container can change.
    pub const CONTAINER_HASH: &str = "redforge.container-hash";
    /// What a volume is for: `cfg`, `live` or `data`.
    pub const VOLUME: &str = "redforge.volume";
    /// Drawn when a volume is made: another volume of the same name has another. (The engine's own time of creation changes
    /// with what lies in the volume.)
    pub const BIRTH: &str = "redforge.birth";
    /// Marks containers that are made only to carry files into a volume.
    pub const HELPER: &str = "redforge.helper";
}

/// A future behind a pointer, so that the trait can be an object.
pub type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A container to be made. Everything in here needs a new container to change, so its hash is the container's identity.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerSpec {
    pub image_id: String,
    /// Replaces the image's command; empty = the image's own.
    pub command: Vec<String>,
    pub env: BTreeMap<String, String>,
    /// Variables whose values are secrets of the site.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secret_env: BTreeMap<String, SecretVar>,
    /// Nothing but the volumes and /tmp can be written.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub read_only_root: bool,
    /// `uid:gid`; none = the image's own user.
    pub user: Option<String>,
    pub mounts: Vec<MountSpec>,
    pub ports: Vec<Port>,
    /// Also joined to the network that reaches beyond the host.
    pub outside: bool,
    /// Capabilities kept; all others are dropped.
    pub capabilities: Vec<String>,
    pub memory_bytes: Option<u64>,
    pub cpu_millicores: Option<u32>,
    pub pids: Option<u32>,
    /// Seconds between SIGTERM and SIGKILL.
    pub stop_timeout_s: u32,
    /// Changes when a new container is wanted for no other reason.
    pub nonce: String,
}

impl ContainerSpec {
    /// Identity of the container: SHA-256 of the spec's canonical JSON.
    pub fn hash(&self) -> Digest {
        Digest::of(&serde_json_canonicalizer::to_vec(self).expect("a spec has no value that JSON cannot hold"))
    }
}

/// A secret as a variable. Its value is no part of the container's identity: that stands in a label that everybody reads.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretVar {
    pub secret: String,
    /// Another value has another.
    pub version: u64,
    #[serde(skip)]
    pub value: String,
}

impl fmt::Debug for SecretVar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretVar({}, version {})", self.secret, self.version)
    }
}

/// Which of an instance's containers one is.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    pub instance: &'a Name,
    pub replica: u32,
    /// Is it found under the instance's name? One that comes up beside another is not, until it takes over.
    pub named: bool,
    /// Identity that its label bears: the same for all of an instance's containers.
    pub hash: Digest,
}

/// A named volume at a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountSpec {
    pub volume: String,
    pub path: String,
    /// Read-only, and nothing of the image is copied into it.
    pub read_only: bool,
}

/// What a volume is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum VolumePurpose {
    /// Rendered files of one content, never rewritten with another.
    Config,
    /// Rendered files that the workload reads again on a signal.
    Live,
    /// The workload's own data.
    Data,
}

impl VolumePurpose {
    /// The word in the label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Config => "cfg",
            Self::Live => "live",
            Self::Data => "data",
        }
    }

    /// The purpose of this word.
    pub fn from_word(s: &str) -> Option<Self> {
        [Self::Config, Self::Live, Self::Data].into_iter().find(|p| p.as_str() == s)
    }
}

/// A file to be put into a volume.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct File {
    /// Relative to the volume.
    pub name: String,
    pub bytes: Vec<u8>,
    pub uid: u32,
    pub mode: u32,
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Rendered files hold secrets: never their bytes.
        write!(f, "File({}, {} bytes)", self.name, self.bytes.len())
    }
}

/// What an image says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageSeen {
    pub id: String,
    /// Paths that the image declares as volumes, sorted.
    pub volumes: Vec<String>,
    /// The user it runs as; empty = root.
    pub user: String,
    /// What it was made for, such as amd64; empty = not said.
    #[serde(default)]
    pub architecture: String,
    /// What it takes on the disk, what it shares with others too; 0 = not said.
    #[serde(default)]
    pub bytes: u64,
}

/// What a container is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContainerState {
    Created,
    Running,
    Restarting,
    Paused,
    Exited,
    Removing,
    Dead,
}

/// One of our containers as the engine shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerSeen {
    pub id: String,
    pub name: String,
    pub instance: Name,
    pub replica: u32,
    /// The label, whatever it says.
    pub hash: String,
    pub state: ContainerState,
    /// As the engine writes it; changes at every start.
    pub started_at: String,
    pub exit_code: i32,
    pub oom_killed: bool,
    /// How it ended last, where the engine was heard saying so: what it has of a container that runs again is nothing.
    pub ended: Option<Ended>,
    pub restarts: u32,
    /// On our internal network.
    pub address: Option<IpAddr>,
    /// Do the others on the internal network find it under its instance's name?
    pub named: bool,
    /// Is it joined to the network that reaches beyond the host?
    pub outside: bool,
    pub memory_limit_bytes: u64,
    pub cpu_limit_millicores: u32,
    pub pids_limit: u32,
    /// Names of the volumes it mounts.
    pub volumes: BTreeSet<String>,
    /// What it publishes while it runs.
    pub ports: Vec<Port>,
}

/// How a container ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    pub exit_code: i32,
    pub out_of_memory: bool,
}

/// One of our volumes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeSeen {
    /// Another volume of the same name has another.
    pub birth: String,
    pub instance: Name,
    pub purpose: VolumePurpose,
}

/// Everything on the engine that is ours, and what stands in our way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostSeen {
    /// Sorted by name.
    pub containers: Vec<ContainerSeen>,
    /// Ids of containers that carried files and were left behind.
    pub helpers: Vec<String>,
    /// By name, with the subnet.
    pub networks: BTreeMap<String, String>,
    pub volumes: BTreeMap<String, VolumeSeen>,
    /// Names of our pattern that objects without our label bear.
    pub foreign: BTreeSet<String>,
}

/// Signals that we send beside SIGTERM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    Hangup,
}

/// The engine's own words about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EngineVersion {
    pub engine: String,
    /// The API version in use after negotiation.
    pub api: String,
}

/// What the engine says of the machine it runs on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EngineSeen {
    /// Where it keeps images and volumes.
    pub root_dir: String,
    /// In the kernel's words, such as x86_64.
    pub architecture: String,
    /// 0 = not said.
    pub memory_total_bytes: u64,
    /// The kernel's table of routes, as it writes it.
    pub routes: String,
}

/// What went wrong, by what was tried.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    #[error("the container engine cannot be reached")]
    Unreachable(#[source] Cause),
    #[error("image '{reference}' is neither on the host nor in a registry it can reach")]
    ImageMissing {
        reference: String,
        #[source]
        source: Cause,
    },
    #[error("registry {registry} does not give '{reference}' to this host")]
    Denied {
        reference: String,
        /// As references name it.
        registry: String,
        #[source]
        source: Cause,
    },
    #[error("'{name}' exists and is not ours")]
    Foreign { name: String },
    #[error("the subnet {subnet} of network '{name}' is taken")]
    SubnetTaken { name: String, subnet: String },
    #[error("a published port of '{name}' is taken{}", .port.as_ref().map_or(String::new(), |p| format!(": {p}")))]
    PortTaken {
        name: String,
        /// `8080/tcp`, where the engine says which.
        port: Option<String>,
    },
    #[error("no space is left for {act} '{name}'")]
    DiskFull { act: &'static str, name: String },
    #[error("the engine does not know '{name}'")]
    NotFound { name: String },
    /// The request itself was not accepted: the same request will be refused again.
    #[error("the engine refused to {act} '{name}'")]
    Refused {
        act: &'static str,
        name: String,
        #[source]
        source: Cause,
    },
    #[error("the engine failed to {act} '{name}'")]
    Failed {
        act: &'static str,
        name: String,
        #[source]
        source: Cause,
    },
    #[error("'{name}' holds more than {limit} bytes")]
    TooLarge { name: String, limit: usize },
}

/// The engine's side of an error.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

impl RuntimeError {
    /// May the same request succeed later without anybody changing it?
    pub fn is_retryable(&self) -> bool {
        !matches!(self, Self::Refused { .. } | Self::TooLarge { .. })
    }
}

/// Result of talking to the engine.
pub type Done<T> = Result<T, RuntimeError>;

/// A container engine. `names` says whose objects are meant; every `ensure_*` is idempotent.
pub trait Runtime: Send + Sync {
    /// The engine's version and the API version in use.
    fn version(&self) -> Boxed<'_, Done<EngineVersion>>;
    /// The machine that the engine runs on.
    fn survey(&self) -> Boxed<'_, Done<EngineSeen>>;
    /// Architectures for which the image's registry has it, asked without fetching it; empty = it does not say.
    fn architectures<'a>(&'a self, reference: &'a str, login: Option<&'a Login>) -> Boxed<'a, Done<Vec<String>>>;
    /// Everything of this host, and what bears our names without being ours.
    fn observe<'a>(&'a self, names: &'a Names) -> Boxed<'a, Done<HostSeen>>;
    /// Makes the network unless it is there; [`RuntimeError::SubnetTaken`] asks for another subnet.
    fn ensure_network<'a>(
        &'a self,
        names: &'a Names,
        name: &'a str,
        subnet: Option<&'a str>,
        internal: bool,
    ) -> Boxed<'a, Done<()>>;
    /// Makes the volume unless it is there; the host label is read back.
    fn ensure_volume<'a>(
        &'a self,
        names: &'a Names,
        name: &'a str,
        instance: &'a Name,
        purpose: VolumePurpose,
    ) -> Boxed<'a, Done<()>>;
    /// Removes a volume that is ours; one that is gone is fine.
    fn remove_volume<'a>(&'a self, names: &'a Names, name: &'a str) -> Boxed<'a, Done<()>>;
    /// Puts files into a volume through a container of `image` that is created and never started.
    fn put_files<'a>(
        &'a self,
        names: &'a Names,
        image: &'a str,
        volume: &'a str,
        files: &'a [File],
    ) -> Boxed<'a, Done<()>>;
    /// Creates the container on the internal network. Ours of that name already there: fine.
    fn create_container<'a>(
        &'a self,
        names: &'a Names,
        place: Place<'a>,
        spec: &'a ContainerSpec,
    ) -> Boxed<'a, Done<()>>;
    /// Lets the others on the internal network find the container under the instance's name. Its address may change.
    fn name_container<'a>(&'a self, names: &'a Names, instance: &'a Name, container: &'a str) -> Boxed<'a, Done<()>>;
    /// Joins a container to the network that reaches beyond the host.
    fn connect_outside<'a>(&'a self, names: &'a Names, container: &'a str) -> Boxed<'a, Done<()>>;
    fn start_container<'a>(&'a self, container: &'a str) -> Boxed<'a, Done<()>>;
    /// SIGTERM, then SIGKILL after the time the container was created with, which it keeps when its instance is no longer
    /// desired; returns when it has ended. One that is gone is fine.
    fn stop_container<'a>(&'a self, container: &'a str) -> Boxed<'a, Done<()>>;
    /// Removes a stopped container with its anonymous volumes. One that is gone is fine.
    fn remove_container<'a>(&'a self, container: &'a str) -> Boxed<'a, Done<()>>;
    fn signal<'a>(&'a self, container: &'a str, signal: Signal) -> Boxed<'a, Done<()>>;
    /// CPU time that the container has used since its start, in nanoseconds.
    fn cpu_time_ns<'a>(&'a self, container: &'a str) -> Boxed<'a, Done<u64>>;
    /// The regular files of one folder of a container, by name; at most 4 MiB together.
    fn read_files<'a>(&'a self, container: &'a str, folder: &'a str) -> Boxed<'a, Done<BTreeMap<String, Vec<u8>>>>;
    /// Digests of the regular files below a folder of a container, by their path in it.
    fn digest_files<'a>(&'a self, container: &'a str, folder: &'a str) -> Boxed<'a, Done<BTreeMap<String, Digest>>>;
    /// The image if it is on the host.
    fn find_image<'a>(&'a self, reference: &'a str) -> Boxed<'a, Done<Option<ImageSeen>>>;
    /// The image; fetched from its registry when it is not on the host. The meter is told how far that is.
    fn resolve_image<'a>(
        &'a self,
        reference: &'a str,
        login: Option<&'a Login>,
        meter: &'a Meter,
    ) -> Boxed<'a, Done<ImageSeen>>;
    /// Gives the engine an image out of a tar of `docker save`, under this reference. The meter is told how far that is.
    fn load_image<'a>(&'a self, tar: &'a Path, reference: &'a str, meter: &'a Meter) -> Boxed<'a, Done<ImageSeen>>;
    /// Lets a reference mean this image.
    fn tag_image<'a>(&'a self, image: &'a str, reference: &'a str) -> Boxed<'a, Done<()>>;
    /// Takes this name from an image, and removes the image where that was its last. False: something uses it, and it
    /// stays. One that is gone, or has only other names, is fine.
    fn remove_image<'a>(&'a self, image: &'a str, reference: &'a str) -> Boxed<'a, Done<bool>>;
    /// Puts files, and the folders they need, below a folder of a container that may run.
    fn put_below<'a>(&'a self, container: &'a str, folder: &'a str, files: &'a [File]) -> Boxed<'a, Done<()>>;
    /// The last `tail` lines of a container's output, and with `follow` what comes after them until it ends.
    fn last_lines(&self, container: &str, tail: u32, follow: bool) -> BoxStream<'static, Done<LogLine>>;
    /// A container's output from the whole second `since_s` (since 1970) on, and on; ends with the container.
    fn logs(&self, container: &str, since_s: i64) -> BoxStream<'static, Done<LogLine>>;
    /// Fires when something of this host may have changed. A hint: it carries nothing and may be lost.
    fn events(&self, host: HostId) -> BoxStream<'static, ()>;
}
