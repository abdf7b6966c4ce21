//! Settings: TOML file, then `REDFORGE_HUB__SECTION__KEY` of the environment; raw text becomes checked values once, here.
//!
//! The only place that reads the environment. A setting that cannot be used ends the process before a port opens.
use crate::{pki::Lifetimes, store::DatabaseConfig};
use redforge_shared::{daemon::LogFormat, record::RecordClass};
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

/// Prefix of environment variables that override settings.
const PREFIX: &str = "REDFORGE_HUB__";

mod raw;

pub use raw::Raw;

/// Checked settings.
#[derive(Clone, Debug)]
pub struct Config {
    pub agents: SocketAddr,
    pub public_url: Option<String>,
    pub operators: SocketAddr,
    /// Operators' connections end in good order at this age.
    pub operators_age: Duration,
    /// More names and addresses for the doors' certificate.
    pub operators_names: Vec<String>,
    pub metrics: SocketAddr,
    /// None: `dev` runs its own PostgreSQL.
    pub database: Option<DatabaseConfig>,
    pub max_database_connections: u32,
    pub state_dir: PathBuf,
    pub run_dir: PathBuf,
    pub embed_url: Option<String>,
    pub standin: bool,
    /// Folder of pushed images and models.
    pub artifacts_dir: PathBuf,
    pub max_blob_bytes: u64,
    pub lifetimes: Lifetimes,
    pub session: SessionConfig,
    /// Days for which a class is kept; a class that is not in it is kept for ever.
    pub retention: Vec<(RecordClass, u32)>,
    pub postgres_bin: Option<PathBuf>,
    /// Where fetched programs lie.
    pub cache_dir: PathBuf,
    pub log_filter: String,
    pub log_format: LogFormat,
    pub journal: bool,
}

/// What the agents' door and its sessions keep to.
#[derive(Clone, Copy, Debug)]
pub struct SessionConfig {
    pub heartbeat: Duration,
    pub hub_rpo_s: u32,
    pub connection_age: Duration,
    pub max_connections: usize,
}

/// A setting that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{path}: {problem}")]
    File { path: String, problem: String },
    #[error("{variable}: {problem}")]
    Environment { variable: String, problem: String },
    #[error("settings: {0}")]
    Shape(String),
    #[error("{key}: {problem}")]
    Value { key: &'static str, problem: String },
}

fn value(key: &'static str, problem: impl Into<String>) -> ConfigError {
    ConfigError::Value { key, problem: problem.into() }
}

/// The environment as pairs.
pub fn environment() -> Vec<(String, String)> {
    // What is not text can be no setting of ours.
    std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))).collect()
}

/// Reads the file, if any, and the environment's overrides. An unknown key is refused by name.
pub fn read(file: Option<&Path>, env: &[(String, String)]) -> Result<Raw, ConfigError> {
    let mut table = toml::Table::new();
    if let Some(path) = file {
        let at = |problem: String| ConfigError::File { path: path.display().to_string(), problem };
        let text = std::fs::read_to_string(path).map_err(|e| at(e.to_string()))?;
        // Checked alone first, so that an error names the file and its line.
        toml::from_str::<Raw>(&text).map_err(|e| at(e.to_string()))?;
        table = toml::from_str(&text).map_err(|e| at(e.to_string()))?;
    }
    for (variable, text) in env {
        let Some(path) = variable.strip_prefix(PREFIX) else { continue };
        let keys: Vec<String> = path.split("__").map(str::to_lowercase).collect();
        let bad = |problem: String| ConfigError::Environment { variable: variable.clone(), problem };
        // Alone first, so that an error names the variable. A number may be meant as text.
        let fits = |value: toml::Value| at_path(&mut toml::Table::new(), &keys, value).and_then(|t| typed(t.clone()));
        let value = match fits(scalar(text)) {
            Ok(_) => scalar(text),
            Err(problem) => {
                let as_text = toml::Value::String(text.clone());
                fits(as_text.clone()).map_err(|_| bad(problem))?;
                as_text
            }
        };
        at_path(&mut table, &keys, value).map_err(bad)?;
    }
    typed(table).map_err(ConfigError::Shape)
}

fn typed(table: toml::Table) -> Result<Raw, String> {
    toml::Value::Table(table).try_into().map_err(|e: toml::de::Error| e.message().to_owned())
}

/// Puts a value in its section.
fn at_path<'t>(table: &'t mut toml::Table, keys: &[String], value: toml::Value) -> Result<&'t mut toml::Table, String> {
    match keys {
        [key] => drop(table.insert(key.clone(), value)),
        [section, key] => {
            let section = table.entry(section.clone()).or_insert_with(|| toml::Value::Table(toml::Table::new()));
            section.as_table_mut().ok_or("is not a section")?.insert(key.clone(), value);
        }
        _ => return Err("expected REDFORGE_HUB__SECTION__KEY".into()),
    }
    Ok(table)
}

/// Numbers and truth values as such, everything else as text.
fn scalar(text: &str) -> toml::Value {
    if let Ok(n) = text.parse::<i64>() {
        return toml::Value::Integer(n);
    }
    match text {
        "true" => toml::Value::Boolean(true),
        "false" => toml::Value::Boolean(false),
        _ => toml::Value::String(text.to_owned()),
    }
}

impl Raw {
    /// Checks every value. `env` gives the folders' defaults.
    pub fn check(&self, env: &[(String, String)]) -> Result<Config, ConfigError> {
        let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let local = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let state_dir = match &self.state.dir {
            Some(dir) => absolute("state.dir", dir)?,
            None => default_state(env),
        };
        let run_dir = match &self.state.run_dir {
            Some(dir) => absolute("state.run_dir", dir)?,
            None => default_run(env, &state_dir),
        };
        if let Some(url) = &self.agents.public_url
            && !is_public_url(url)
        {
            return Err(value("agents.public_url", format!("'{url}' is not https://host:port")));
        }
        let log_filter = self.log.filter.clone().unwrap_or_else(|| "info".into());
        redforge_shared::daemon::check_filter(&log_filter).map_err(|e| value("log.filter", e))?;
        if let Some(bin) = &self.postgres.bin
            && !bin.is_dir()
        {
            return Err(value("postgres.bin", format!("{} is not a folder", bin.display())));
        }
        let operators_age = self.operators.connection_age_s;
        if !(5..=7 * 86_400).contains(&operators_age) {
            return Err(value("operators.connection_age_s", "must be between 5 and 604800"));
        }
        if let Some(url) = &self.search.embed_url {
            crate::embed::Embed::new(url, self.search.standin).map_err(|e| value("search.embed_url", e.to_string()))?;
        }
        let artifacts_dir = match &self.artifacts.url {
            Some(url) => crate::depot::folder(url).map_err(|e| value("artifacts.url", e.to_string()))?,
            None => state_dir.join("artifacts"),
        };
        if !(1 << 20..=1 << 40).contains(&self.artifacts.max_blob_bytes) {
            return Err(value("artifacts.max_blob_bytes", "must be between 1048576 and 1099511627776"));
        }
        let max = self.database.max_connections.unwrap_or(20);
        if !(2..=1000).contains(&max) {
            return Err(value("database.max_connections", "must be between 2 and 1000"));
        }
        let get = |name: &str| env.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str());
        let config = Config {
            agents: self.listen("agents.listen", self.agents.listen.as_deref(), 0, any, 7443)?,
            operators_age: Duration::from_secs(operators_age),
            operators_names: self.door_names()?,
            public_url: self.agents.public_url.as_ref().map(|u| u.trim_end_matches('/').to_owned()),
            operators: self.listen("operators.listen", self.operators.listen.as_deref(), 1, local, 3000)?,
            metrics: self.listen("metrics.listen", self.metrics.listen.as_deref(), 2, local, 7461)?,
            database: self.database(max)?,
            max_database_connections: max,
            state_dir,
            run_dir,
            embed_url: self.search.embed_url.as_ref().map(|u| u.trim_end_matches('/').to_owned()),
            standin: self.search.standin,
            artifacts_dir,
            max_blob_bytes: self.artifacts.max_blob_bytes,
            lifetimes: self.lifetimes()?,
            session: self.session()?,
            retention: self.retention()?,
            postgres_bin: self.postgres.bin.clone(),
            cache_dir: default_cache(env),
            log_filter,
            log_format: match self.log.format.as_deref() {
                None | Some("auto") => LogFormat::Auto,
                Some("text") => LogFormat::Text,
                Some("json") => LogFormat::Json,
                Some(other) => return Err(value("log.format", format!("'{other}' is not auto, text or json"))),
            },
            journal: get("JOURNAL_STREAM").is_some(),
        };
        config.doors_differ()?;
        Ok(config)
    }

    fn database(&self, max_connections: u32) -> Result<Option<DatabaseConfig>, ConfigError> {
        let Some(url) = &self.database.url else {
            if self.database.direct_url.is_some() {
                return Err(value("database.direct_url", "needs database.url beside it"));
            }
            return Ok(None);
        };
        let direct_url = self.database.direct_url.clone().unwrap_or_else(|| url.clone());
        for (key, url) in [("database.url", url), ("database.direct_url", &direct_url)] {
            if !(url.starts_with("postgres://") || url.starts_with("postgresql://")) {
                return Err(value(key, "must begin with postgres://"));
            }
        }
        let config = DatabaseConfig { url: url.clone(), direct_url, max_connections };
        // Opening connects to nothing: it only finds addresses that can never work.
        config.check().map_err(|e| value("database.url", redforge_shared::error::Chain(&e).to_string()))?;
        Ok(Some(config))
    }

    fn door_names(&self) -> Result<Vec<String>, ConfigError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-');
        let names = &self.operators.names;
        if names.len() > 20 {
            return Err(value("operators.names", format!("{} names, more than 20", names.len())));
        }
        for name in names {
            let is_name = !name.is_empty() && name.len() <= 253 && name.chars().all(plain);
            if !is_name && name.parse::<IpAddr>().is_err() {
                return Err(value("operators.names", format!("'{name}' is neither a name nor an address")));
            }
        }
        Ok(names.clone())
    }

    fn retention(&self) -> Result<Vec<(RecordClass, u32)>, ConfigError> {
        let r = &self.retention;
        let days = [
            ("retention.vector_days", RecordClass::Vector, r.vector_days),
            ("retention.log_days", RecordClass::Log, r.log_days),
            ("retention.event_days", RecordClass::Event, r.event_days),
            ("retention.measurement_days", RecordClass::Measurement, r.measurement_days),
        ];
        if let Some((key, ..)) = days.iter().find(|(_, _, days)| *days > 36_500) {
            return Err(value(key, "must be between 0 and 36500"));
        }
        Ok(days.into_iter().filter(|(_, _, days)| *days > 0).map(|(_, class, days)| (class, days)).collect())
    }

    fn lifetimes(&self) -> Result<Lifetimes, ConfigError> {
        if !(60..=90 * 86_400).contains(&self.pki.host_cert_life_s) {
            return Err(value("pki.host_cert_life_s", "must be between 60 and 7776000"));
        }
        if !(60..=365 * 86_400).contains(&self.pki.server_cert_life_s) {
            return Err(value("pki.server_cert_life_s", "must be between 60 and 31536000"));
        }
        Ok(Lifetimes {
            host: Duration::from_secs(self.pki.host_cert_life_s),
            server: Duration::from_secs(self.pki.server_cert_life_s),
        })
    }

    fn session(&self) -> Result<SessionConfig, ConfigError> {
        let s = &self.session;
        if !(100..=600_000).contains(&s.heartbeat_interval_ms) {
            return Err(value("session.heartbeat_interval_ms", "must be between 100 and 600000"));
        }
        if !(5..=7 * 86_400).contains(&s.connection_age_s) {
            return Err(value("session.connection_age_s", "must be between 5 and 604800"));
        }
        if !(1..=1_000_000).contains(&s.max_connections) {
            return Err(value("session.max_connections", "must be between 1 and 1000000"));
        }
        if s.hub_rpo_s > 30 * 86_400 {
            return Err(value("session.hub_rpo_s", "must be between 0 and 2592000"));
        }
        Ok(SessionConfig {
            heartbeat: Duration::from_millis(s.heartbeat_interval_ms.into()),
            hub_rpo_s: s.hub_rpo_s,
            connection_age: Duration::from_secs(s.connection_age_s),
            max_connections: s.max_connections,
        })
    }

    fn listen(
        &self,
        key: &'static str,
        text: Option<&str>,
        offset: u16,
        ip: IpAddr,
        port: u16,
    ) -> Result<SocketAddr, ConfigError> {
        if let Some(text) = text {
            return text.parse().map_err(|_| value(key, format!("'{text}' is not an address such as 127.0.0.1:7443")));
        }
        let Some(base) = self.port_base else { return Ok(SocketAddr::new(ip, port)) };
        let port = base.checked_add(offset).filter(|_| base > 0);
        port.map(|p| SocketAddr::new(ip, p)).ok_or_else(|| value("port_base", "must be between 1 and 65533"))
    }

    /// The effective settings as TOML, passwords masked.
    pub fn masked(&self) -> String {
        let mut shown = self.clone();
        for url in [&mut shown.database.url, &mut shown.database.direct_url].into_iter().flatten() {
            *url = mask(url);
        }
        toml::to_string(&shown).unwrap_or_else(|e| format!("# cannot be shown: {e}\n"))
    }
}

impl Config {
    /// Two doors on one address would be found only when the second cannot be opened.
    fn doors_differ(&self) -> Result<(), ConfigError> {
        let doors =
            [("agents.listen", self.agents), ("operators.listen", self.operators), ("metrics.listen", self.metrics)];
        for (i, (key, at)) in doors.iter().enumerate() {
            let same = |other: &SocketAddr| {
                let ip = other.ip() == at.ip() || other.ip().is_unspecified() || at.ip().is_unspecified();
                at.port() != 0 && at.port() == other.port() && ip
            };
            if let Some((other, _)) = doors[..i].iter().find(|(_, o)| same(o)) {
                return Err(value(key, format!("{at} is taken by {other}")));
            }
        }
        Ok(())
    }
}

/// `https://host:port`, and nothing that a shell would take for more: it stands in the enroll line.
fn is_public_url(url: &str) -> bool {
    let Some(rest) = url.strip_prefix("https://") else { return false };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let plain = rest.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']'));
    let authority: Option<hyper::http::uri::Authority> = rest.parse().ok();
    plain && authority.is_some_and(|a| !a.host().is_empty() && a.port_u16() != Some(0))
}

fn absolute(key: &'static str, dir: &Path) -> Result<PathBuf, ConfigError> {
    if dir.as_os_str().is_empty() {
        return Err(value(key, "is empty"));
    }
    std::path::absolute(dir).map_err(|e| value(key, e.to_string()))
}

/// Hides the password of `scheme://user:password@host`.
fn mask(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return "****".into() };
    let rest = match rest.rsplit_once('@') {
        Some((user, host)) => match user.split_once(':') {
            Some((name, _)) => format!("{name}:****@{host}"),
            None => rest.to_owned(),
        },
        None => rest.to_owned(),
    };
    let shown: Vec<String> = rest
        .split('&')
        .map(|part| match part.split_once("password=") {
            Some((before, _)) => format!("{before}password=****"),
            None => part.to_owned(),
        })
        .collect();
    format!("{scheme}://{}", shown.join("&"))
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// An absolute path in the environment.
fn folder(env: &[(String, String)], name: &str) -> Option<PathBuf> {
    env.iter().find(|(k, v)| k == name && v.starts_with('/')).map(|(_, v)| PathBuf::from(v))
}

fn home(env: &[(String, String)]) -> PathBuf {
    folder(env, "HOME").unwrap_or_else(|| "/tmp".into())
}

fn default_state(env: &[(String, String)]) -> PathBuf {
    if is_root() {
        return "/var/lib/redforge-hub".into();
    }
    folder(env, "XDG_STATE_HOME").unwrap_or_else(|| home(env).join(".local/state")).join("redforge-hub")
}

/// Where `packaging/postgres/fetch.sh` puts what it fetched. Root's is not below /root: PostgreSQL's user could not enter it.
pub(crate) fn default_cache(env: &[(String, String)]) -> PathBuf {
    if let Some(dir) = folder(env, "REDFORGE_CACHE") {
        return dir;
    }
    if is_root() {
        return "/var/cache/redforge".into();
    }
    folder(env, "XDG_CACHE_HOME").unwrap_or_else(|| home(env).join(".cache")).join("redforge")
}

/// A short folder: PostgreSQL cannot use socket paths of more than 107 bytes. Two state folders have two run folders.
fn default_run(env: &[(String, String)], state: &Path) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    let tail = &redforge_shared::ids::Digest::of(state.as_os_str().as_bytes()).hex()[..8];
    if is_root() {
        return Path::new("/run/redforge-hub").join(tail);
    }
    let runtime = env.iter().find(|(k, v)| k == "XDG_RUNTIME_DIR" && v.starts_with('/')).map(|(_, v)| v.as_str());
    match runtime {
        Some(dir) => Path::new(dir).join(format!("redforge-hub-{tail}")),
        None => PathBuf::from(format!("/tmp/redforge-hub-{}-{tail}", rustix::process::getuid().as_raw())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn environment_overrides_and_unknown_keys_are_refused_by_name() {
        let raw =
            read(None, &env(&[("REDFORGE_HUB__AGENTS__LISTEN", "127.0.0.1:0"), ("REDFORGE_HUB__PORT_BASE", "9000")]))
                .expect("good");
        let config = raw.check(&[]).expect("good");
        assert_eq!(config.agents.to_string(), "127.0.0.1:0");
        assert_eq!((config.operators.port(), config.metrics.port()), (9001, 9002));
        let e = read(None, &env(&[("REDFORGE_HUB__AGENTS__LISTN", "x")])).expect_err("typo").to_string();
        assert!(e.contains("listn"), "{e}");
        let e = read(None, &env(&[("REDFORGE_HUB__A__B__C", "x")])).expect_err("too deep").to_string();
        assert!(e.contains("REDFORGE_HUB__A__B__C"), "{e}");
    }

    #[test]
    fn bad_values_name_their_key() {
        for (var, text, key) in [
            ("REDFORGE_HUB__AGENTS__LISTEN", "nowhere", "agents.listen"),
            ("REDFORGE_HUB__AGENTS__PUBLIC_URL", "http://x", "agents.public_url"),
            ("REDFORGE_HUB__PKI__HOST_CERT_LIFE_S", "59", "pki.host_cert_life_s"),
            ("REDFORGE_HUB__SESSION__HEARTBEAT_INTERVAL_MS", "0", "session.heartbeat_interval_ms"),
            ("REDFORGE_HUB__DATABASE__URL", "mysql://x", "database.url"),
            ("REDFORGE_HUB__LOG__FORMAT", "xml", "log.format"),
            ("REDFORGE_HUB__RETENTION__LOG_DAYS", "36501", "retention.log_days"),
            ("REDFORGE_HUB__PORT_BASE", "65535", "port_base"),
        ] {
            let e = read(None, &env(&[(var, text)])).and_then(|r| r.check(&[])).expect_err(var).to_string();
            assert!(e.contains(key), "{var}: {e}");
        }
    }

    #[test]
    fn a_retention_of_no_days_keeps_for_ever() {
        let raw = read(None, &env(&[("REDFORGE_HUB__RETENTION__LOG_DAYS", "7")])).expect("good");
        let kept = raw.check(&[]).expect("good").retention;
        assert_eq!(kept, [(RecordClass::Log, 7), (RecordClass::Event, 400), (RecordClass::Measurement, 400)]);
    }

    #[test]
    fn passwords_are_masked() {
        let url = "postgres://hub:s3cret@db:5432/redforge?password=s3cret&sslmode=require";
        let raw = read(None, &env(&[("REDFORGE_HUB__DATABASE__URL", url)])).expect("good");
        let shown = raw.masked();
        assert!(!shown.contains("s3cret") && shown.contains("hub:****@db:5432"), "{shown}");
    }
}
