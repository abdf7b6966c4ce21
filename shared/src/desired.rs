//! One host's desired state: the document that the hub renders, both sides store verbatim, and the agent makes true.
//!
//! Its canonical bytes (RFC 8785 JSON) are its identity. An unknown field refuses the whole document: an older agent must
//! not run half of what a newer hub meant. Deliberately absent: generations (they belong to the envelope), secrets' values,
//! where flow sets and models come from, and anything that is observed.
use crate::{
    ids::{Digest, HostId, Name},
    policy::Policy,
    scale::Autoscale,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

mod cache;
mod check;
mod developer;
mod probe;
pub mod rules;

pub use cache::{Cache, Eviction, Persistence};
pub use developer::{Developer, MAX_DEVELOPER_S, user_of};
pub use probe::{Check, Probe};

/// Largest canonical document, in bytes.
pub const MAX_SPEC_BYTES: usize = 256 * 1024;

/// Version of the document's shape.
pub const SCHEMA: u32 = 1;

/// Everything one host should run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DesiredState {
    /// Always [`SCHEMA`].
    pub schema: u32,
    /// The host this is for; an agent refuses another's.
    pub host: HostId,
    /// Its name, for texts.
    pub host_name: Name,
    /// Its site's name.
    pub site: Name,
    /// What may leave the site.
    pub policy: Policy,
    /// Sorted by name, names unique.
    pub instances: Vec<InstanceSpec>,
}

/// One named workload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstanceSpec {
    pub name: Name,
    /// Image reference as the operator wrote it.
    pub image: String,
    /// The image as the hub holds it; none = the engine has it, or a registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_artifact: Option<ImageArtifact>,
    pub workload: Workload,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Environment variables whose values are secrets of the site, by the secret's name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secret_env: BTreeMap<String, Name>,
    #[serde(default)]
    pub resources: Resources,
    /// How to tell that it works, beside what its kind asks anyway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<Check>,
    /// Is the container's own file system read-only (beside volumes and /tmp)? None = what suits the kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_only_root: Option<bool>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<Volume>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Port>,
    /// May the instance reach beyond the host's own network?
    #[serde(default)]
    pub egress: bool,
    /// A changed value means: make a new container.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub restart_nonce: String,
    /// Keep the volumes, run nothing.
    #[serde(default)]
    pub suspend: bool,
    /// Send the container's log lines up as records of class log.
    #[serde(default)]
    pub collect_logs: bool,
    /// How many containers it has, unless `autoscale` says so.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub replicas: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscale: Option<Autoscale>,
}

fn one() -> u32 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_one(n: &u32) -> bool {
    *n == 1
}

/// What is special about a kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Workload {
    NodeRed(NodeRed),
    Mosquitto(Mosquitto),
    Ollama(Ollama),
    Valkey(Cache),
    Redis(Cache),
    Tika(Tika),
    Container(Container),
}

impl Workload {
    /// The kind's name as manifests and reports write it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::NodeRed(_) => "node-red",
            Self::Mosquitto(_) => "mosquitto",
            Self::Ollama(_) => "ollama",
            Self::Valkey(_) => "valkey",
            Self::Redis(_) => "redis",
            Self::Tika(_) => "tika",
            Self::Container(_) => "container",
        }
    }
}

/// A Node-RED runtime and the flow set it runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeRed {
    /// Digest of the flow set's tar; none = an empty runtime.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flow_set: Option<Digest>,
    /// Instance of this host that is the broker for REDFORGE_MQTT_*; none = the only mosquitto there is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broker: Option<Name>,
    /// Instance of this host that answers OLLAMA_URL; none = the only ollama there is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ollama: Option<Name>,
    /// Instance of this host that answers REDIS_URL; none = the only valkey or redis there is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<Name>,
    /// Instance of this host that answers TIKA_URL; none = the only tika there is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tika: Option<Name>,
    /// Topic filters below `redforge/` or `$` that the instance may read beside the application's own topics.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reads: Vec<String>,
    /// What happens to what somebody changes at the host.
    #[serde(default, skip_serializing_if = "Drift::is_default")]
    pub drift: Drift,
    /// Until then flows may be edited at the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub developer: Option<Developer>,
}

/// What happens to a runtime's flows, credentials, settings and modules that somebody changed at the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Drift {
    /// All of it is put back.
    #[default]
    Enforce,
    /// It is only told.
    Report,
    /// Edited flows stay and go up as a draft of their flow set; everything else is put back.
    Adopt,
}

impl Drift {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Most topic filters that an instance may name.
pub const MAX_READS: usize = 16;

/// Is this a topic filter that can stand on a line of its own in a broker's list of rights?
pub fn is_topic_filter(s: &str) -> bool {
    let levels_ok = |(i, level): (usize, &str)| match level {
        "+" => true,
        "#" => i + 1 == s.split('/').count(),
        _ => !level.contains(['+', '#']),
    };
    !s.is_empty()
        && s.len() <= 256
        && s.chars().all(|c| c.is_ascii_graphic())
        && s.split('/').enumerate().all(levels_ok)
}

/// An MQTT broker for the host's instances.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mosquitto {
    /// Messages queued per client before the broker drops; 0 = no limit beside the bytes.
    pub max_queued_messages: u32,
    /// Bytes queued per client before the broker drops.
    pub max_queued_bytes: u64,
    /// Unacked messages per client.
    pub max_inflight_messages: u16,
    /// Largest payload in bytes.
    pub message_size_limit: u32,
}

impl Default for Mosquitto {
    fn default() -> Self {
        // 256 MiB of queue rides out hours of an absent subscriber; 2 MB is what Mosquitto 2.1 allows per packet by
        // default; 200 in flight gave 46,000 acked messages a second where the stock 20 was the bottleneck.
        Self {
            max_queued_messages: 0,
            max_queued_bytes: 256 << 20,
            max_inflight_messages: 200,
            message_size_limit: 2_000_000,
        }
    }
}

/// An image that the hub can hand out: a tar as `docker save` writes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageArtifact {
    /// Of the tar.
    pub tar: Blob,
    /// What the engine calls the image once it is loaded: `sha256:` and 64 hex digits.
    pub image_id: String,
}

/// A blob that the hub can hand out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Blob {
    pub digest: Digest,
    pub bytes: u64,
}

/// An Ollama server and the models it must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ollama {
    pub models: Vec<Model>,
    /// Tokens of context; none = the server's own choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_length: Option<u32>,
    /// How long a model stays in memory after its last use, as Ollama writes it; none = the server's own choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_alive: Option<String>,
    /// Requests that a model answers at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_parallel: Option<u16>,
    /// Models in memory at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_loaded_models: Option<u16>,
    /// Remove every model that is not declared, also those that a person put there.
    #[serde(default, skip_serializing_if = "is_false")]
    pub prune: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(b: &bool) -> bool {
    !b
}

/// A model by name and content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// Ollama's name, with or without a tag (`latest`).
    pub name: String,
    /// What `/api/tags` must say.
    pub digest: Digest,
    /// Load it into memory, and keep it there.
    #[serde(default, skip_serializing_if = "is_false")]
    pub preload: bool,
    /// The model as the hub holds it, its manifest first; empty = the server pulls it by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blobs: Vec<Blob>,
}

/// An Apache Tika server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tika {
    /// Seconds that one document may take before the server gives it up.
    pub task_timeout_s: u32,
}

impl Default for Tika {
    fn default() -> Self {
        // The server's own default is 300 s: a flow that waits has long given up by then.
        Self { task_timeout_s: 120 }
    }
}

/// Any container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Container {
    /// Replaces the image's command; empty = the image's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// How to tell that it works, as hubs said it before `InstanceSpec::probe`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<Probe>,
    /// Instance of this host that is the broker for REDFORGE_MQTT_*; none = it uses none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broker: Option<Name>,
}

/// Limits; none = no limit of ours.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resources {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_millicores: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids: Option<u32>,
}

/// A named volume that outlives its container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Volume {
    pub name: Name,
    /// Absolute path inside the container.
    pub path: String,
}

/// A port published on the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Port {
    pub container: u16,
    pub host: u16,
    /// Address to listen on, such as 127.0.0.1 or 0.0.0.0.
    pub address: std::net::IpAddr,
    #[serde(default)]
    pub protocol: Protocol,
}

/// Transport of a published port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    #[default]
    Tcp,
    Udp,
}

impl Protocol {
    /// As the engine and people write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// A document's canonical bytes and what they hash to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Canonical {
    pub bytes: Vec<u8>,
    pub sha256: Digest,
}

/// Why a document is not a desired state.
#[derive(Debug, thiserror::Error)]
pub enum InvalidDesired {
    #[error("the document has {0} bytes, more than {MAX_SPEC_BYTES}")]
    TooLarge(usize),
    #[error("the document does not match its hash")]
    HashMismatch,
    #[error("the document is not understood: {0}")]
    Json(String),
    #[error("schema {0} is not {SCHEMA}")]
    Schema(u32),
    #[error("instances: '{0}' occurs twice")]
    DuplicateInstance(Name),
    #[error("{path}: {problem}")]
    Value { path: String, problem: String },
}

impl DesiredState {
    /// Serialises once; the bytes are what is stored, hashed and sent.
    pub fn canonical(&self) -> Result<Canonical, InvalidDesired> {
        let bytes = serde_json_canonicalizer::to_vec(self).map_err(|e| InvalidDesired::Json(e.to_string()))?;
        if bytes.len() > MAX_SPEC_BYTES {
            return Err(InvalidDesired::TooLarge(bytes.len()));
        }
        let sha256 = Digest::of(&bytes);
        Ok(Canonical { bytes, sha256 })
    }

    /// Reads bytes that came from outside or from disk. Refused whole on any unknown field, and on any value that no
    /// manifest could have had.
    pub fn parse(bytes: &[u8]) -> Result<Self, InvalidDesired> {
        if bytes.len() > MAX_SPEC_BYTES {
            return Err(InvalidDesired::TooLarge(bytes.len()));
        }
        let state: Self = serde_json::from_slice(bytes).map_err(|e| InvalidDesired::Json(e.to_string()))?;
        if state.schema != SCHEMA {
            return Err(InvalidDesired::Schema(state.schema));
        }
        for pair in state.instances.windows(2) {
            if pair[0].name >= pair[1].name {
                return Err(InvalidDesired::DuplicateInstance(pair[1].name.clone()));
            }
        }
        check::acceptable(&state).map_err(|(path, problem)| InvalidDesired::Value { path, problem })?;
        Ok(state)
    }

    /// The instance of this name.
    pub fn instance(&self, name: &str) -> Option<&InstanceSpec> {
        self.instances.iter().find(|i| i.name.as_str() == name)
    }
}

impl InstanceSpec {
    /// A spec that asks for nothing beside its workload.
    pub fn bare(name: Name, image: impl Into<String>, workload: Workload) -> Self {
        Self {
            name,
            image: image.into(),
            image_artifact: None,
            workload,
            env: BTreeMap::new(),
            secret_env: BTreeMap::new(),
            probe: None,
            read_only_root: None,
            resources: Resources::default(),
            volumes: vec![],
            ports: vec![],
            egress: false,
            restart_nonce: String::new(),
            suspend: false,
            collect_logs: false,
            replicas: 1,
            autoscale: None,
        }
    }

    /// Identity of one instance's spec: what `memory.failed` remembers.
    pub fn hash(&self) -> Digest {
        let bytes = serde_json_canonicalizer::to_vec(self).expect("a spec has no value that JSON cannot hold");
        Digest::of(&bytes)
    }

    /// May it have more than one container?
    pub fn is_replicated(&self) -> bool {
        self.replicas > 1 || self.autoscale.as_ref().is_some_and(|a| a.max > 1)
    }

    /// How to tell that it works, wherever it is said.
    pub fn check(&self) -> Option<Check> {
        let section = match &self.workload {
            Workload::Container(c) => c.probe.clone().map(Check::usual),
            _ => None,
        };
        self.probe.clone().or(section)
    }

    /// The flow set that must be on the host before the instance can run as desired.
    pub fn flow_set(&self) -> Option<Digest> {
        match &self.workload {
            Workload::NodeRed(n) => n.flow_set,
            _ => None,
        }
    }

    /// Digests of everything that the hub may hand out for this instance.
    pub fn blobs(&self) -> impl Iterator<Item = Digest> {
        let models = match &self.workload {
            Workload::Ollama(o) => o.models.as_slice(),
            _ => &[],
        };
        let image = self.image_artifact.iter().map(|i| i.tar.digest);
        self.flow_set().into_iter().chain(image).chain(models.iter().flat_map(|m| &m.blobs).map(|b| b.digest))
    }
}
