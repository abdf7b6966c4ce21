//! The agent's settings: one TOML file, `conf.d/*.toml` beside it, then the environment, then flags. Read and checked
//! once; nothing else in the agent asks the environment.
//!
//! Deliberately absent: what the hub wants (the ledger holds that) and who this host is (`identity` does).
use crate::{
    link::dial::HubUrl,
    reconcile::{
        clean_up::CleanUp,
        deadlines::Deadlines,
        preflight::Limits,
        sources::{self, Registries},
    },
};
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

mod blocks;
mod files;
mod parts;

use blocks::loopback;
use files::{conf_d, merge, overriding, read_table};

/// Prefix of the environment variables that override settings: `REDFORGE_EDGE__RUNTIME__POOL` is `[runtime] pool`.
pub const ENV_PREFIX: &str = "REDFORGE_EDGE__";
/// Longest path of a unix socket; the kernel takes 108 bytes with the closing zero.
const MAX_SOCKET_PATH: usize = 107;

/// Port of the status page.
const PAGE_PORT: u16 = 7460;
/// Port of the gateway on the internal bridge.
const GATEWAY_PORT: u16 = 7462;

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{path} cannot be read")]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{path}: {problem}")]
    Parse { path: PathBuf, problem: String },
    #[error("{0}")]
    Value(String),
}

/// Settings as written. Every section may be missing.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Written {
    /// Hubs to dial, one `https://HOST:PORT` or a list in order of preference; default: the hub the host enrolled with.
    hub_url: Option<OneOrMany>,
    /// First port of this agent, 1 to 65535: the status page listens there unless `page.listen` says otherwise; default: 7460.
    port_base: Option<u16>,
    /// Where the agent keeps its files.
    state: WrittenState,
    /// The container engine and the addresses it may use.
    runtime: WrittenRuntime,
    /// The local status page.
    page: WrittenPage,
    /// Records that wait for the hub.
    outbox: WrittenOutbox,
    /// What people at the site may do.
    site: WrittenSite,
    /// Where instances hand in records.
    gateway: WrittenGateway,
    /// What nothing needs any more.
    clean_up: WrittenCleanUp,
    /// Where images come from that neither the host nor the hub has; by registry, as in `[registry."docker.io"]`.
    registry: BTreeMap<String, WrittenRegistry>,
    /// Logging.
    log: WrittenLog,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    fn all(self) -> Vec<String> {
        match self {
            Self::One(text) => vec![text],
            Self::Many(all) => all,
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct WrittenState {
    /// State folder, an absolute path; default: `/var/lib/redforge-edge` for root, else `~/.local/state/redforge-edge`.
    dir: Option<PathBuf>,
    /// Folder of the status socket, an absolute and short path; default: `/run/redforge-edge` for root, else
    /// `$XDG_RUNTIME_DIR/redforge-edge`, else the state folder.
    run_dir: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct WrittenRuntime {
    /// Socket of the Docker engine, a path; default: `/var/run/docker.sock`.
    docker_socket: Option<PathBuf>,
    /// IPv4 block, /8 to /24, from which the host's network takes the first free /24; default: `10.231.64.0/18`.
    pool: Option<String>,
    /// IPv4 block, /8 to /29, for the host's network, in place of a free one of the pool; default: none.
    subnet: Option<String>,
    /// Seconds, 10 to 86400, that a new container may take until it works; then the last one that worked comes back;
    /// default: 120.
    start_deadline_s: Option<u32>,
    /// Seconds, 10 to 604800, that fetching an image may take; then it is tried again later; default: 3600.
    pull_deadline_s: Option<u32>,
    /// Seconds, 1 to 3600, that the engine may take for one act of making or starting a container; default: 60.
    create_deadline_s: Option<u32>,
    /// Seconds, 5 to 3600, that flows may take to run in a runtime that goes on; default: 60.
    deploy_deadline_s: Option<u32>,
    /// Bytes of the engine's disk that stay free whatever is fetched; default: 536870912 (512 MiB).
    disk_headroom_bytes: Option<u64>,
    /// Bytes of the host's memory that limits of instances must leave; default: 268435456 (256 MiB).
    memory_reserve_bytes: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct WrittenPage {
    /// Loopback address and port of the status page, or `off`; default: `127.0.0.1:7460`.
    listen: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct WrittenOutbox {
    /// Bytes that the outbox may take on disk, 1048576 or more; default: 8589934592 (8 GiB).
    max_bytes: Option<u64>,
    /// Seconds for which acknowledged records are kept for a hub that is restored from a backup; the hub's own figure
    /// replaces it once connected; default: 86400 (a day).
    hub_rpo_s: Option<u32>,
    /// Bytes set aside so that acknowledgements still commit on a full disk; default: 67108864 (64 MiB).
    reserve_bytes: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct WrittenSite {
    /// Seconds, 0 to 2592000 (30 days), that a hold may last at most; 0: nobody may hold; default: 86400 (a day).
    max_hold_s: Option<u32>,
    /// Seconds that something may be held on and on, with every renewal, until it is released; no less than max_hold_s;
    /// default: seven times max_hold_s (a week).
    max_hold_total_s: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct WrittenGateway {
    /// Port, 1 to 65535, on the host's own bridge, where its instances hand in records over HTTP; default: 7462.
    port: Option<u16>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct WrittenCleanUp {
    /// Remove images and models that this agent brought and nothing needs any more, `true` or `false`; default: `true`.
    enabled: Option<bool>,
    /// Seconds, 0 to 31536000, for which something must have been unneeded before it is removed; default: 86400 (a day).
    min_age_s: Option<u32>,
    /// Keep the data of deleted instances and volumes that a spec dropped for ever, `true` or `false`; default: `false`.
    keep_volumes: Option<bool>,
    /// Seconds, 0 to 315360000, of the agent's own running time for which such data is kept, however short room is; default:
    /// 2592000 (30 days).
    volume_min_age_s: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct WrittenRegistry {
    /// Registries, `HOST[:PORT][/PATH]`, that are asked for its images first, in this order; default: none.
    mirrors: Option<OneOrMany>,
    /// Who the host is to this registry, or to this mirror; default: nobody.
    username: Option<String>,
    /// File whose first line is the password, an absolute path; read at each fetch; default: none.
    password_file: Option<PathBuf>,
    /// Secret that is the password, given by `redforge-edge secret set`; default: none.
    password_secret: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct WrittenLog {
    /// Tracing filter, such as `info` or `info,redforge_edge::link=debug`; default: `info`.
    filter: Option<String>,
}

/// Checked settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Hubs to dial, in order; empty = the one the host enrolled with.
    pub hub_urls: Vec<HubUrl>,
    pub state_dir: PathBuf,
    pub run_dir: PathBuf,
    pub runtime: RuntimeConfig,
    /// Loopback address of the status page; none = only the unix socket.
    pub page_listen: Option<SocketAddr>,
    pub outbox: OutboxConfig,
    /// How long a hold may last at most.
    pub max_hold: Duration,
    /// With every renewal, until a release.
    pub max_hold_total: Duration,
    /// Port on the internal bridge where instances hand in records.
    pub gateway_port: u16,
    pub clean_up: CleanUp,
    pub registries: Registries,
    /// Tracing filter.
    pub log_filter: String,
    /// Standard error goes to systemd's journal.
    pub journal: bool,
    /// Who became root to run this command, as sudo says.
    pub sudo_user: Option<String>,
}

/// Where Docker is and which addresses its networks may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeConfig {
    pub docker_socket: PathBuf,
    /// Block from which the host's network takes its /24, as `a.b.c.d/len`.
    pub pool: String,
    /// Fixed subnet instead of a free one of the pool.
    pub subnet: Option<String>,
    /// How long each step of a change may take, before the last one that worked comes back.
    pub deadlines: Deadlines,
    /// What stays free whatever is wanted.
    pub limits: Limits,
}

/// How much the outbox may hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboxConfig {
    /// Bytes of the whole file.
    pub max_bytes: u64,
    /// For how long acked records are kept for a hub that is restored, in seconds.
    pub hub_rpo_s: u32,
    /// Bytes set aside so that acks still commit on a full disk.
    pub reserve_bytes: u64,
}

impl Config {
    /// What is in effect, as it could be written.
    pub fn as_toml(&self) -> String {
        let hubs: Vec<String> = self.hub_urls.iter().map(ToString::to_string).collect();
        let listen = self.page_listen.map_or_else(|| "off".into(), |l| l.to_string());
        let mut shown = serde_json::json!({
            "hub_url": (!hubs.is_empty()).then_some(hubs),
            "state": {"dir": self.state_dir, "run_dir": self.run_dir},
            "runtime": {
                "docker_socket": self.runtime.docker_socket, "pool": self.runtime.pool, "subnet": self.runtime.subnet,
                "start_deadline_s": self.runtime.deadlines.healthy.as_secs(),
                "pull_deadline_s": self.runtime.deadlines.pull.as_secs(),
                "create_deadline_s": self.runtime.deadlines.start.as_secs(),
                "deploy_deadline_s": self.runtime.deadlines.hot_deploy.as_secs(),
                "disk_headroom_bytes": self.runtime.limits.disk_headroom_bytes,
                "memory_reserve_bytes": self.runtime.limits.memory_reserve_bytes,
            },
            "page": {"listen": listen},
            "outbox": {
                "max_bytes": self.outbox.max_bytes, "hub_rpo_s": self.outbox.hub_rpo_s,
                "reserve_bytes": self.outbox.reserve_bytes,
            },
            "gateway": {"port": self.gateway_port},
            "site": {"max_hold_s": self.max_hold.as_secs(), "max_hold_total_s": self.max_hold_total.as_secs()},
            "clean_up": {
                "enabled": self.clean_up.enabled, "min_age_s": self.clean_up.min_age.as_secs(),
                "keep_volumes": self.clean_up.keep_data.is_none(),
                "volume_min_age_s": self.clean_up.keep_data.map(|d| d.as_secs()),
            },
            "registry": sources::shown(&self.registries),
            "log": {"filter": self.log_filter},
        });
        // TOML has no word for nothing.
        for path in ["/runtime", "/clean_up", ""] {
            if let Some(table) = shown.pointer_mut(path).and_then(serde_json::Value::as_object_mut) {
                table.retain(|_, v| !v.is_null());
            }
        }
        toml::to_string(&shown).unwrap_or_else(|e| format!("# cannot be shown: {e}\n"))
    }
}

/// What flags say; they win over everything.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    pub config: Option<PathBuf>,
    pub state_dir: Option<PathBuf>,
    pub run_dir: Option<PathBuf>,
}

/// The parts of the process environment that settings may come from.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    pub vars: Vec<(String, String)>,
    pub root: bool,
}

impl Environment {
    /// The environment of this process.
    #[expect(clippy::disallowed_methods, reason = "config is the one room that reads the environment")]
    pub fn of_process() -> Self {
        Self { vars: std::env::vars().collect(), root: rustix::process::geteuid().is_root() }
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.vars.iter().find(|(k, v)| k == name && !v.is_empty()).map(|(_, v)| v.as_str())
    }

    /// Default state folder: systemd's, root's, or the user's XDG folder.
    fn state_dir(&self) -> Option<PathBuf> {
        if let Some(dir) = self.get("STATE_DIRECTORY") {
            return Some(dir.into());
        }
        if self.root {
            return Some("/var/lib/redforge-edge".into());
        }
        let base = self.get("XDG_STATE_HOME").map(PathBuf::from);
        let base = base.or_else(|| self.get("HOME").map(|h| Path::new(h).join(".local/state")))?;
        Some(base.join("redforge-edge"))
    }

    fn run_dir(&self) -> Option<PathBuf> {
        if let Some(dir) = self.get("RUNTIME_DIRECTORY") {
            return Some(dir.into());
        }
        if self.root {
            return Some("/run/redforge-edge".into());
        }
        self.get("XDG_RUNTIME_DIR").map(|d| Path::new(d).join("redforge-edge"))
    }
}

impl Config {
    /// Reads and checks everything.
    pub fn load(flags: &Flags, env: &Environment) -> Result<Self, ConfigError> {
        let mut table = toml::Table::new();
        // Without a file named on the command line the packaged one is read where it exists.
        let named = flags.config.clone();
        let path = named.clone().or_else(|| env.root.then(|| PathBuf::from("/etc/redforge/edge.toml")));
        if let Some(path) = path
            && (named.is_some() || path.exists())
        {
            merge(&mut table, read_table(&path)?);
            for extra in conf_d(&path)? {
                merge(&mut table, read_table(&extra)?);
            }
        }
        for (name, value) in &env.vars {
            if let Some(key) = name.strip_prefix(ENV_PREFIX) {
                merge(&mut table, overriding(key, value));
            }
        }
        let source = named.unwrap_or_else(|| PathBuf::from("settings"));
        let written: Written = toml::Value::Table(table)
            .try_into()
            .map_err(|e: toml::de::Error| ConfigError::Parse { path: source, problem: e.message().to_owned() })?;
        written.check(flags, env)
    }

    /// The socket that `status` asks.
    pub fn status_socket(&self) -> PathBuf {
        self.run_dir.join("status.sock")
    }
}

impl Written {
    fn check(self, flags: &Flags, env: &Environment) -> Result<Config, ConfigError> {
        let value = |text: String| ConfigError::Value(text);
        let urls = self.hub_url.map(OneOrMany::all).unwrap_or_default();
        let hub_urls = urls
            .iter()
            .map(|u| u.parse().map_err(|e| value(format!("hub_url: {e}"))))
            .collect::<Result<Vec<HubUrl>, _>>()?;
        let state_dir = flags.state_dir.clone().or(self.state.dir).or_else(|| env.state_dir());
        let state_dir = state_dir.ok_or_else(|| value("state.dir is not set and HOME is unknown".into()))?;
        let run_dir = flags.run_dir.clone().or(self.state.run_dir);
        // A state folder of one's own means an agent of one's own: it must not take the default agent's socket.
        let own = flags.state_dir.is_some().then(|| state_dir.clone());
        let run_dir = run_dir.or(own).or_else(|| env.run_dir()).unwrap_or_else(|| state_dir.clone());
        for (name, dir) in [("state.dir", &state_dir), ("state.run_dir", &run_dir)] {
            if !dir.is_absolute() {
                return Err(value(format!("{name}: {} is not an absolute path", dir.display())));
            }
        }
        let page_listen = match (self.page.listen, self.port_base) {
            (Some(text), _) if text == "off" => None,
            (Some(text), _) => Some(loopback(&text).map_err(value)?),
            (None, Some(0)) => return Err(value("port_base: 0 is not a port".into())),
            (None, Some(base)) => Some(SocketAddr::from((Ipv4Addr::LOCALHOST, base))),
            (None, None) => Some(SocketAddr::from((Ipv4Addr::LOCALHOST, PAGE_PORT))),
        };
        let runtime = parts::runtime(self.runtime).map_err(value)?;
        let outbox = OutboxConfig {
            max_bytes: self.outbox.max_bytes.unwrap_or(8 << 30),
            hub_rpo_s: self.outbox.hub_rpo_s.unwrap_or(86_400),
            reserve_bytes: self.outbox.reserve_bytes.unwrap_or(64 << 20),
        };
        if outbox.max_bytes < 1 << 20 {
            return Err(value(format!("outbox.max_bytes: {} is less than 1 MiB", outbox.max_bytes)));
        }
        let max_hold_s = self.site.max_hold_s.unwrap_or(86_400);
        if max_hold_s > 30 * 86_400 {
            return Err(value(format!("site.max_hold_s: {max_hold_s} is not within 0 to 2592000")));
        }
        let max_hold_total_s = self.site.max_hold_total_s.unwrap_or(max_hold_s * 7);
        if max_hold_total_s < max_hold_s {
            return Err(value(format!(
                "site.max_hold_total_s: {max_hold_total_s} is less than site.max_hold_s ({max_hold_s})"
            )));
        }
        let gateway_port = self.gateway.port.unwrap_or(GATEWAY_PORT);
        if gateway_port == 0 {
            return Err(value("gateway.port: 0 is not a port".into()));
        }
        let config = Config {
            hub_urls,
            state_dir,
            run_dir,
            runtime,
            page_listen,
            outbox,
            gateway_port,
            max_hold: Duration::from_secs(max_hold_s.into()),
            max_hold_total: Duration::from_secs(max_hold_total_s.into()),
            clean_up: parts::clean_up(&self.clean_up).map_err(value)?,
            registries: parts::registries(self.registry).map_err(value)?,
            log_filter: self.log.filter.unwrap_or_else(|| "info".into()),
            journal: env.get("JOURNAL_STREAM").is_some(),
            sudo_user: env.get("SUDO_USER").map(str::to_owned),
        };
        let socket = config.status_socket();
        if socket.as_os_str().len() > MAX_SOCKET_PATH {
            return Err(value(format!(
                "state.run_dir: the socket {} has {} bytes, the kernel takes {MAX_SOCKET_PATH}: choose a shorter folder",
                socket.display(),
                socket.as_os_str().len()
            )));
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests;
