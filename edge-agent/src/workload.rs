//! What is special about each kind of workload: rendered files, environment, probe, hot change.
//!
//! Rendering is pure: the same spec, image and secrets give the same bytes. It knows nothing of plans, ledgers or the hub;
//! acting on a container's API happens in the kinds' own files, when `reconcile` says so.
use crate::runtime::{ContainerSpec, File, ImageSeen, MountSpec, SecretVar, names::Names};
use redforge_shared::{
    desired::{DesiredState, InstanceSpec, NodeRed, Workload},
    flows::FlowSet,
    ids::{Digest, Name},
};
use std::collections::{BTreeMap, BTreeSet};

pub mod container;
pub mod http;
pub mod mosquitto;
pub mod node_red;
pub mod ollama;
pub mod probe;
pub mod resp;
pub mod tika;
pub mod valkey;

/// Where rendered files that need a new container to change are mounted, unless the kind has a place of its own.
pub const CONFIG_PATH: &str = "/redforge/config";

/// What the host made for itself, by name; drawn once and kept in the ledger.
pub type Secrets = BTreeMap<String, Vec<u8>>;

/// What the site gave, by name: the value, and the number that stands for it in a container's identity.
pub type Given = BTreeMap<Name, (u64, String)>;

/// A secret's name and its length in bytes.
pub type SecretNeed = (String, usize);

/// Files of one volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    pub volume: String,
    /// Where the container sees them.
    pub path: String,
    pub files: Vec<File>,
}

impl Files {
    /// Identity of the files' names, owners, modes and bytes.
    pub fn hash(files: &[File]) -> Digest {
        let mut all = Vec::new();
        for f in files {
            for part in [f.name.as_bytes(), &f.uid.to_be_bytes(), &f.mode.to_be_bytes(), &f.bytes] {
                all.extend_from_slice(&(part.len() as u64).to_be_bytes());
                all.extend_from_slice(part);
            }
        }
        Digest::of(&all)
    }

    /// Identity of names and bytes: what can be read back out of a container.
    pub fn content_hash<'a>(files: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Digest {
        let mut all = Vec::new();
        for (name, bytes) in files {
            for part in [name.as_bytes(), bytes] {
                all.extend_from_slice(&(part.len() as u64).to_be_bytes());
                all.extend_from_slice(part);
            }
        }
        Digest::of(&all)
    }
}

/// One instance as it shall be on the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    pub container: ContainerSpec,
    pub config: Option<Files>,
    /// Are the rendered files read back at every pass?
    pub config_is_watched: bool,
    /// The volume of the modules that come with its flow set, and the hash of their files.
    pub modules: Option<(String, Digest)>,
    pub live: Option<Files>,
    /// Names of the volumes that hold data.
    pub data: BTreeSet<String>,
    /// Volumes that hold data of which each replica has one of its own: these are the first one's.
    pub own: BTreeSet<String>,
}

impl Rendered {
    /// The container with this number. What it alone has is in nobody's identity: another number of replicas replaces none
    /// of those that are there.
    pub fn of_replica(&self, instance: &Name, number: u32) -> ContainerSpec {
        let mut container = self.container.clone();
        for m in container.mounts.iter_mut().filter(|m| self.own.contains(&m.volume)) {
            m.volume = Names::replica_volume(&m.volume, number);
        }
        container.env.insert("REDFORGE_INSTANCE".into(), instance.to_string());
        container.env.insert("REDFORGE_REPLICA".into(), number.to_string());
        // Two clients of one id throw each other out of the broker.
        container.env.insert("REDFORGE_CLIENT_ID".into(), format!("{instance}-{number}"));
        container
    }

    /// Identity of the rendered files as they can be read back, of the kind that is looked at again.
    pub fn config_hash(&self) -> Option<Digest> {
        let config = self.config.as_ref().filter(|_| self.config_is_watched)?;
        let sorted: BTreeMap<_, _> = config.files.iter().map(|f| (f.name.as_str(), f.bytes.as_slice())).collect();
        Some(Files::content_hash(sorted))
    }

    /// Identity of the live files as they can be read back.
    pub fn live_hash(&self) -> Option<Digest> {
        let live = self.live.as_ref()?;
        let sorted: BTreeMap<_, _> = live.files.iter().map(|f| (f.name.as_str(), f.bytes.as_slice())).collect();
        Some(Files::content_hash(sorted))
    }
}

/// Why an instance cannot be rendered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unmet {
    /// Its flow set has not arrived; which modules the container needs is written there.
    FlowSet(Digest),
    /// It needs instances that the host is not meant to run.
    Instance(Vec<String>),
    /// The site has not given these secrets.
    Secret(Vec<String>),
    /// A value of its spec cannot be used; the path of the value.
    Spec(String),
}

/// What rendering may look at.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings<'a> {
    pub names: &'a Names,
    pub desired: &'a DesiredState,
    pub secrets: &'a Secrets,
    pub given: &'a Given,
    /// The instance's flow set, if it has arrived.
    pub flow_set: Option<&'a FlowSet>,
    /// Restart nonce given at the site.
    pub site_nonce: &'a str,
    /// Where the agent takes records on the internal bridge.
    pub gateway_port: u16,
}

/// Every secret that the host's instances need.
pub fn secrets_needed(desired: &DesiredState) -> Vec<SecretNeed> {
    let mut needs = Vec::new();
    for spec in &desired.instances {
        match &spec.workload {
            w if hands_in(w) => needs.push(ingest_secret(&spec.name)),
            _ => {}
        }
        match &spec.workload {
            Workload::NodeRed(_) => needs.extend(node_red::secrets(&spec.name)),
            Workload::Mosquitto(_) => needs.extend(mosquitto::secrets(&spec.name, desired)),
            Workload::Valkey(_) | Workload::Redis(_) => needs.push(valkey::secrets(&spec.name)),
            Workload::Ollama(_) | Workload::Tika(_) | Workload::Container(_) => {}
        }
    }
    needs
}

/// Secrets that the instance names and the site has not given.
pub fn secrets_missing(spec: &InstanceSpec, given: &Given) -> Option<Unmet> {
    let missing: BTreeSet<_> = spec.secret_env.values().filter(|n| !given.contains_key(*n)).collect();
    (!missing.is_empty()).then(|| Unmet::Secret(missing.into_iter().map(ToString::to_string).collect()))
}

fn secret_env(spec: &InstanceSpec, given: &Given) -> BTreeMap<String, SecretVar> {
    let var = |(variable, secret): (&String, &Name)| {
        let (version, value) = given.get(secret)?.clone();
        Some((variable.clone(), SecretVar { secret: secret.to_string(), version, value }))
    };
    spec.secret_env.iter().filter_map(var).collect()
}

/// Processes and threads of one container, unless its spec says otherwise: room for a busy server, an end to a fork bomb.
fn usual_pids(workload: &Workload) -> u32 {
    // A model is worked on by threads, of which big hosts have many.
    if matches!(workload, Workload::Ollama(_)) { 2048 } else { 512 }
}

/// Kinds whose images were seen to run with nothing but volumes and /tmp to write to. What an operator's own container
/// or a server that keeps models beside its volumes writes is not known.
fn usual_read_only(workload: &Workload) -> bool {
    matches!(workload, Workload::Mosquitto(_) | Workload::NodeRed(_) | Workload::Valkey(_) | Workload::Redis(_))
}

/// The instance as it shall be on the engine.
pub fn render(spec: &InstanceSpec, image: &ImageSeen, around: Surroundings<'_>) -> Result<Rendered, Unmet> {
    if let Some(unmet) = secrets_missing(spec, around.given) {
        return Err(unmet);
    }
    // Applying it refuses that with the reason; a hub that did not know better is not followed into damaged data.
    let single = matches!(
        spec.workload,
        Workload::Mosquitto(_) | Workload::Ollama(_) | Workload::Valkey(_) | Workload::Redis(_)
    );
    if spec.is_replicated() && (single || !spec.volumes.is_empty() || !spec.ports.is_empty()) {
        return Err(Unmet::Spec(format!("instances[{}].replicas", spec.name)));
    }
    let mut mounts = Vec::new();
    let mut data = BTreeSet::new();
    for (index, volume) in spec.volumes.iter().enumerate() {
        if !plausible_path(&volume.path) {
            return Err(Unmet::Spec(format!("instances[{}].volumes[{index}].path", spec.name)));
        }
        let name = around.names.volume(&spec.name, &volume.name);
        data.insert(name.clone());
        mounts.push(MountSpec { volume: name, path: volume.path.clone(), read_only: false });
    }
    let mut rendered = Rendered {
        container: ContainerSpec {
            image_id: image.id.clone(),
            env: spec.env.clone(),
            ports: spec.ports.clone(),
            outside: spec.egress || !spec.ports.is_empty(),
            memory_bytes: spec.resources.memory_bytes,
            cpu_millicores: spec.resources.cpu_millicores,
            pids: spec.resources.pids.or_else(|| Some(usual_pids(&spec.workload))),
            secret_env: secret_env(spec, around.given),
            read_only_root: spec.read_only_root.unwrap_or_else(|| usual_read_only(&spec.workload)),
            stop_timeout_s: 20,
            nonce: format!("{}/{}", spec.restart_nonce, around.site_nonce),
            ..Default::default()
        },
        config: None,
        config_is_watched: false,
        modules: None,
        live: None,
        data,
        own: BTreeSet::new(),
    };
    match &spec.workload {
        Workload::NodeRed(w) => node_red::render(spec, w, around, &mut rendered)?,
        Workload::Mosquitto(w) => mosquitto::render(spec, w, around, &mut rendered),
        Workload::Ollama(w) => ollama::render(w, &mut rendered),
        Workload::Container(w) => container::render(spec, w, image, around, &mut rendered)?,
        Workload::Valkey(w) | Workload::Redis(w) => valkey::render(spec, w, around, &mut rendered),
        Workload::Tika(w) => tika::render(spec, w, around, &mut rendered),
    }
    if hands_in(&spec.workload) {
        let url = format!("http://redforge-gateway:{}/v1/records", around.gateway_port);
        rendered.container.env.insert("REDFORGE_INGEST_URL".into(), url);
        rendered.container.env.insert("REDFORGE_INGEST_TOKEN".into(), ingest_token(around.secrets, &spec.name));
    }
    for files in rendered.config.iter().chain(&rendered.live) {
        mounts.push(MountSpec { volume: files.volume.clone(), path: files.path.clone(), read_only: true });
    }
    if let Some((volume, _)) = &rendered.modules {
        mounts.push(MountSpec { volume: volume.clone(), path: node_red::MODULES_PATH.into(), read_only: true });
    }
    // What the image declares as a volume would become a volume without a name, lost with its container.
    for path in &image.volumes {
        if mounts.iter().all(|m| m.path.trim_end_matches('/') != path.trim_end_matches('/')) {
            let name = around.names.image_volume(&spec.name, path);
            let of = if spec.is_replicated() { &mut rendered.own } else { &mut rendered.data };
            of.insert(name.clone());
            mounts.push(MountSpec { volume: name, path: path.clone(), read_only: false });
        }
    }
    if matches!(spec.workload, Workload::Valkey(_) | Workload::Redis(_)) {
        let data = valkey::data_mount(spec, around);
        if mounts.iter().all(|m| m.path.trim_end_matches('/') != data.path) {
            rendered.data.insert(data.volume.clone());
            mounts.push(data);
        }
    }
    rendered.container.mounts = mounts;
    Ok(rendered)
}

/// Does this kind run an application that may have records to hand in?
pub fn hands_in(workload: &Workload) -> bool {
    matches!(workload, Workload::NodeRed(_) | Workload::Container(_))
}

fn ingest_secret(instance: &Name) -> SecretNeed {
    (format!("gateway/{instance}/token"), 24)
}

/// An instance's own token at the gateway.
pub fn ingest_token(secrets: &Secrets, instance: &Name) -> String {
    secret_text(secrets, &ingest_secret(instance).0)
}

fn plausible_path(path: &str) -> bool {
    path.starts_with('/') && path.len() > 1 && path.len() < 4096 && !path.split('/').any(|p| p == "..")
}

/// Order in which instances are brought up: what others talk to comes first.
pub fn rank(workload: &Workload) -> u8 {
    match workload {
        Workload::Mosquitto(_) | Workload::Valkey(_) | Workload::Redis(_) => 0,
        Workload::Ollama(_) | Workload::Tika(_) => 1,
        Workload::Container(_) => 2,
        Workload::NodeRed(_) => 3,
    }
}

/// The broker that this instance is to use, if it is to use one.
pub fn broker_of<'a>(spec: &'a InstanceSpec, desired: &'a DesiredState) -> Option<&'a Name> {
    let named = match &spec.workload {
        Workload::NodeRed(n) => n.broker.as_ref(),
        // A container that names none is to use none.
        Workload::Container(c) => Some(c.broker.as_ref()?),
        Workload::Mosquitto(_) | Workload::Ollama(_) | Workload::Valkey(_) | Workload::Redis(_) | Workload::Tika(_) => {
            return None;
        }
    };
    serving(desired, named, |w| matches!(w, Workload::Mosquitto(_))).ok().flatten()
}

/// Where a workload finds its broker, and as whom.
fn broker_env(spec: &InstanceSpec, broker: &Name, secrets: &Secrets) -> [(String, String); 4] {
    [
        ("REDFORGE_MQTT_HOST", broker.to_string()),
        ("REDFORGE_MQTT_PORT", mosquitto::PORT.to_string()),
        ("REDFORGE_MQTT_USER", spec.name.to_string()),
        ("REDFORGE_MQTT_PASSWORD", mosquitto::password(secrets, broker, spec.name.as_str())),
    ]
    .map(|(name, value)| (name.to_owned(), value))
}

/// The instance that serves `wanted`, or the only one of the kind when nothing is wanted by name.
fn serving<'a>(
    desired: &'a DesiredState,
    wanted: Option<&'a Name>,
    is_kind: impl Fn(&Workload) -> bool,
) -> Result<Option<&'a Name>, Unmet> {
    let mut of_kind = desired.instances.iter().filter(|i| is_kind(&i.workload)).map(|i| &i.name);
    match wanted {
        Some(name) if of_kind.any(|n| n == name) => Ok(Some(name)),
        Some(name) => Err(Unmet::Instance(vec![name.to_string()])),
        None => {
            let only = of_kind.next();
            Ok(only.filter(|_| of_kind.next().is_none()))
        }
    }
}

/// Variables by which a flow reaches the services of its host that need no file of their own.
fn service_env(n: &NodeRed, around: Surroundings<'_>) -> Result<Vec<(String, String)>, Unmet> {
    let cache = |w: &Workload| matches!(w, Workload::Valkey(_) | Workload::Redis(_));
    let cache = serving(around.desired, n.cache.as_ref(), cache)?;
    let tika = serving(around.desired, n.tika.as_ref(), |w| matches!(w, Workload::Tika(_)))?;
    let cache = cache.into_iter().flat_map(|name| valkey::env(name, around.secrets));
    Ok(cache.chain(tika.map(tika::env)).collect())
}

/// A secret as text for files and headers.
fn secret_text(secrets: &Secrets, name: &str) -> String {
    hex::encode(secrets.get(name).expect("`secrets_needed` names every secret that rendering reads"))
}

#[cfg(test)]
pub(crate) mod tests;
