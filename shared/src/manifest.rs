//! What operators write: YAML documents of kind Site, FlowSet and Instance, parsed into types and checked.
//!
//! One parser for hub and CLI. Every error names document, path, line and what is allowed; an unknown field is an error.
//! Parsing reads each document into a tree that remembers lines (`yaml`), then into the types below, then checks what
//! types cannot say (`check`). `InstanceSpec` is also what the hub stores as JSON. Deliberately absent: whether a host,
//! a site or a flow set exists (the hub's `api` knows), and reading files.
mod check;
mod guest;
mod parse;
mod probe;
mod render;
mod scale;
mod services;
mod yaml;

use crate::{
    desired::{Developer, Drift, Protocol, Volume},
    ids::{Digest, Name},
    policy::Policy,
    units::{Bytes, Millicores},
};
pub use scale::AutoscaleManifest;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr},
};

pub use parse::parse;
pub use probe::{FlowMessage, HttpProbe, ModelPrompt, MqttEcho, Probe, TcpProbe};
pub use services::{Cache, Tika};

/// The only version of the kinds there is.
pub const API_VERSION: &str = "redforge.io/v1";
/// Largest set of manifests in bytes.
pub const MAX_MANIFEST_BYTES: usize = 1 << 20;
/// Most documents in a set.
pub const MAX_DOCUMENTS: usize = 500;
/// Most errors that are reported at once.
pub const MAX_ERRORS: usize = 50;

/// One parsed and checked document.
#[expect(clippy::large_enum_variant, reason = "few exist at a time, and a box in each pattern costs more reading")]
#[derive(Clone, Debug, PartialEq)]
pub enum Manifest {
    Site(SiteManifest),
    FlowSet(FlowSetManifest),
    Instance(InstanceManifest),
}

/// A place and its data rules.
#[derive(Clone, Debug, PartialEq)]
pub struct SiteManifest {
    pub name: Name,
    pub labels: BTreeMap<String, String>,
    pub spec: SiteSpec,
}

/// A named flow set.
#[derive(Clone, Debug, PartialEq)]
pub struct FlowSetManifest {
    pub name: Name,
    pub spec: FlowSetSpec,
}

/// A named workload on a host.
#[derive(Clone, Debug, PartialEq)]
pub struct InstanceManifest {
    pub name: Name,
    pub labels: BTreeMap<String, String>,
    pub spec: InstanceSpec,
}

impl Manifest {
    /// Resource name: sites/x, flowsets/x, hosts/h/instances/i.
    pub fn resource_name(&self) -> String {
        match self {
            Self::Site(s) => format!("sites/{}", s.name),
            Self::FlowSet(f) => format!("flowsets/{}", f.name),
            Self::Instance(i) => format!("hosts/{}/instances/{}", i.spec.host, i.name),
        }
    }
}

/// What a site says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SiteSpec {
    /// IANA name, such as Europe/Berlin. Default UTC.
    #[serde(default = "utc")]
    pub time_zone: String,
    /// Data rules by name; `open` is the only one so far, and the default.
    #[serde(default)]
    pub policy: Policy,
}

fn utc() -> String {
    "UTC".into()
}

impl Default for SiteSpec {
    fn default() -> Self {
        Self { time_zone: utc(), policy: Policy::default() }
    }
}

/// What a flow set says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FlowSetSpec {
    /// Path of an editor export beside the manifest, which redforgectl reads and pushes; or the list of nodes itself.
    pub flows: FlowSource,
}

/// Where the flows are.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum FlowSource {
    /// A file, relative to the manifest. Only the CLI can read it; the hub refuses it.
    Path(String),
    /// The nodes themselves.
    Inline(Vec<Value>),
}

impl<'de> Deserialize<'de> for FlowSource {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        match Value::deserialize(d)? {
            Value::String(path) => Ok(Self::Path(path)),
            Value::Array(nodes) => Ok(Self::Inline(nodes)),
            _ => Err(serde::de::Error::custom("expected the path of a flow file, or a list of nodes")),
        }
    }
}

/// The kinds of workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    NodeRed,
    Mosquitto,
    Ollama,
    Valkey,
    Redis,
    Tika,
    Container,
}

impl Kind {
    /// The kind as manifests and reports write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NodeRed => "node-red",
            Self::Mosquitto => "mosquitto",
            Self::Ollama => "ollama",
            Self::Valkey => "valkey",
            Self::Redis => "redis",
            Self::Tika => "tika",
            Self::Container => "container",
        }
    }
}

/// What an instance says. Exactly the section of its kind may be present.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct InstanceSpec {
    /// Host it runs on, by name.
    pub host: Name,
    /// `node-red`, `mosquitto`, `ollama`, `valkey`, `redis`, `tika` or `container`. Only the section of its kind may be there.
    pub kind: Kind,
    /// Image reference, taken as it is. Left out where `nodeRed.runtime` names the runtime.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub image: String,
    /// Environment variables. Names that begin with REDFORGE_ are set by the agent.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Environment variables whose values are secrets of the site, by the secret's name: `redforge-edge secret set NAME`
    /// gives it its value there. A changed value makes a new container.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secret_env: BTreeMap<String, Name>,
    /// Limits.
    #[serde(default, skip_serializing_if = "Resources::is_empty")]
    pub resources: Resources,
    /// Named volumes, kept when the instance is deleted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<Volume>,
    /// Ports published on the host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Port>,
    /// May it reach beyond the host's own network? Default false.
    #[serde(default, skip_serializing_if = "is_false")]
    pub egress: bool,
    /// A changed value means: make a new container.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub restart_nonce: String,
    /// Keep the volumes, run nothing. Default false.
    #[serde(default, skip_serializing_if = "is_false")]
    pub suspend: bool,
    /// Send the container's lines up as records of class log. Default false.
    #[serde(default, skip_serializing_if = "is_false")]
    pub collect_logs: bool,
    /// How many containers it has, 1 to 32; each finds its number in REDFORGE_REPLICA. Default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u32>,
    /// Instead of `replicas`: the host chooses the number by load.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscale: Option<AutoscaleManifest>,
    /// How to tell that it works, beside what its kind asks anyway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<Probe>,
    /// Is everything but volumes and /tmp read-only? Default true for mosquitto, node-red, valkey and redis, else false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_only_root: Option<bool>,
    /// For kind node-red.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_red: Option<NodeRed>,
    /// For kind mosquitto.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mosquitto: Option<Mosquitto>,
    /// For kind ollama.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ollama: Option<Ollama>,
    /// For kind valkey.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valkey: Option<Cache>,
    /// For kind redis.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redis: Option<Cache>,
    /// For kind tika.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tika: Option<Tika>,
    /// For kind container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<Container>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(b: &bool) -> bool {
    !b
}

/// Limits; none = no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Resources {
    /// Processors: 0.5 or 500m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Millicores>,
    /// Memory: 256Mi or 256MB; at least 6Mi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Bytes>,
    /// Processes and threads. Default 512; 2048 for ollama.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids: Option<u32>,
}

impl Resources {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A port published on the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Port {
    /// Port inside.
    pub container: u16,
    /// Port of the host.
    pub host: u16,
    /// Address of the host. Default 127.0.0.1; 0.0.0.0 is every one.
    #[serde(default = "loopback")]
    pub address: IpAddr,
    /// `tcp` or `udp`. Default tcp.
    #[serde(default)]
    pub protocol: Protocol,
}

fn loopback() -> IpAddr {
    Ipv4Addr::LOCALHOST.into()
}

impl Port {
    /// True if both cannot be published on one host.
    pub fn collides(&self, other: &Self) -> bool {
        let overlap = self.address == other.address || self.address.is_unspecified() || other.address.is_unspecified();
        self.host == other.host && self.protocol == other.protocol && overlap
    }
}

/// A Node-RED runtime.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeRed {
    /// Flow set by name; its newest revision runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flow_set: Option<Name>,
    /// Instance of kind node-red on the same host in whose runtime the flows run, beside its own: no container of their own,
    /// and image, limits, ports and everything else are those of the runtime.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<Name>,
    /// Broker instance of the same host; none = the only one there is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broker: Option<Name>,
    /// Ollama instance of the same host; none = the only one there is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ollama: Option<Name>,
    /// Valkey or redis instance of the same host, for REDIS_URL; none = the only one there is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<Name>,
    /// Tika instance of the same host, for TIKA_URL; none = the only one there is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tika: Option<Name>,
    /// MQTT topic filters that it may read beside the application's own topics, such as `redforge/records/event` or
    /// `$SYS/broker/clients/#`. Without a word here an instance reads nothing below `redforge/` and `$`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reads: Vec<String>,
    /// What happens to what somebody changes at the host: `enforce` puts it back, `report` only tells, `adopt` leaves edited
    /// flows and sends them up as a draft of the flow set. Default enforce.
    #[serde(default, skip_serializing_if = "Drift::is_default")]
    pub drift: Drift,
    /// Developer mode: until a time the flows may be edited at the host, and whatever is edited is kept as a draft. Written by
    /// `redforgectl editor`. Without it (fleet mode) nobody can log in to the editor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub developer: Option<Developer>,
}

/// A broker's queue limits; what is absent has its default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mosquitto {
    /// Messages queued for a client that is away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_queued_messages: Option<u32>,
    /// Bytes queued for a client that is away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_queued_bytes: Option<Bytes>,
    /// Messages to one client without its acknowledgement, 1 to 65535.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_inflight_messages: Option<u16>,
    /// Largest message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_size_limit: Option<Bytes>,
}

/// An Ollama server's models.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Ollama {
    /// Models that must be there, each by name and digest.
    #[serde(default)]
    pub models: Vec<Model>,
    /// Tokens of context that every model is loaded with, 256 to 1048576. Default: Ollama's own choice, which depends on
    /// the memory of the graphics card.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_length: Option<u32>,
    /// How long a model stays in memory after its last use: 90s, 5m, 24h, 0 (not at all) or -1 (for ever). Default:
    /// Ollama's own, 5m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_alive: Option<String>,
    /// Requests that a model answers at once, 1 to 64; each takes the memory of one context. Default: Ollama's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_parallel: Option<u16>,
    /// Models in memory at once, 1 to 64. Default: Ollama's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_loaded_models: Option<u16>,
    /// Remove every model that is not declared, also those that a person put there. Default false: only models that this
    /// host's agent brought are removed once nothing declares them.
    #[serde(default, skip_serializing_if = "is_false")]
    pub prune: bool,
}

/// A model by name and content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Model {
    /// Ollama's name, with or without a tag (`latest`).
    pub name: String,
    /// Digest of the model as `ollama list` and `/api/tags` show it, all 64 hex digits: what the name must mean.
    pub digest: Digest,
    /// Load it into memory once it is there, and keep it there. Default false.
    #[serde(default, skip_serializing_if = "is_false")]
    pub preload: bool,
}

/// Any container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Container {
    /// Command instead of the image's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// The instance's `probe`, as it may also be written. Without one it is healthy while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<Probe>,
    /// Broker instance of the same host that it may use, as REDFORGE_MQTT_* says; none = none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broker: Option<Name>,
}

/// One thing that is wrong with a set of manifests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestError {
    /// Number of the document from 1; 0 = the whole text.
    pub doc: usize,
    /// Path of the field, such as `spec.ports[1].host`; empty = the document.
    pub path: String,
    /// Line in the text from 1; 0 = not known.
    pub line: u64,
    pub problem: String,
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.doc > 0 {
            write!(f, "document {}, ", self.doc)?;
        }
        if self.line > 0 {
            write!(f, "line {}", self.line)?;
        } else {
            f.write_str("manifests")?;
        }
        if !self.path.is_empty() {
            write!(f, ", {}", self.path)?;
        }
        write!(f, ": {}", self.problem)
    }
}

impl std::error::Error for ManifestError {}

#[cfg(test)]
mod tests;
