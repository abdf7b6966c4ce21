//! Valkey and Redis: one configuration, a password that the host drew, and every other setting changed while it serves.
//!
//! The file lies in the live volume, so that a start reads what was last wished; a running server is told with CONFIG SET
//! and asked with CONFIG GET, so that what somebody set by hand is found. Nothing but the password needs a new container.
use super::{
    Files, Rendered, SecretNeed, Secrets, Surroundings,
    resp::{self, Answer, RespError},
    secret_text,
};
use crate::runtime::{File, MountSpec};
use redforge_shared::{
    desired::{Cache, InstanceSpec, Persistence, Workload},
    ids::{Digest, Name},
};
use std::{collections::BTreeMap, fmt::Write as _, net::IpAddr};

/// Where it listens.
pub const PORT: u16 = 6379;
/// Where it finds its configuration.
pub const LIVE_PATH: &str = "/redforge/live";
/// Where it keeps its data.
const DATA_PATH: &str = "/data";
/// The user of the official images; started as it, the server needs no capability to become it.
const UID: u32 = 999;

pub(super) fn secrets(instance: &Name) -> SecretNeed {
    (format!("valkey/{instance}/password"), 24)
}

/// What clients log in with.
pub fn password(secrets: &Secrets, instance: &Name) -> String {
    secret_text(secrets, &secrets_name(instance))
}

fn secrets_name(instance: &Name) -> String {
    secrets(instance).0
}

/// How others of the host reach it.
pub(super) fn env(instance: &Name, secrets: &Secrets) -> [(String, String); 4] {
    let password = password(secrets, instance);
    [
        ("REDIS_URL".into(), format!("redis://:{password}@{instance}:{PORT}")),
        ("REDFORGE_REDIS_HOST".into(), instance.to_string()),
        ("REDFORGE_REDIS_PORT".into(), PORT.to_string()),
        ("REDFORGE_REDIS_PASSWORD".into(), password),
    ]
}

pub(super) fn render(spec: &InstanceSpec, cache: &Cache, around: Surroundings<'_>, rendered: &mut Rendered) {
    let password = password(around.secrets, &spec.name);
    let text = config(&password, &settings(spec, cache));
    let name = "server.conf".to_owned();
    let file = File { name: name.clone(), bytes: text.into_bytes(), uid: UID, mode: 0o400 };
    let volume = around.names.live_volume(&spec.name);
    rendered.live = Some(Files { volume, path: LIVE_PATH.into(), files: vec![file] });
    let program = if matches!(spec.workload, Workload::Redis(_)) { "redis-server" } else { "valkey-server" };
    rendered.container.command = vec![program.into(), format!("{LIVE_PATH}/{name}")];
    rendered.container.user = Some(format!("{UID}:{UID}"));
    // It writes what is in memory to disk before it ends.
    rendered.container.stop_timeout_s = 60;
}

/// The data's volume, where neither the spec nor the image names one.
pub(super) fn data_mount(spec: &InstanceSpec, around: Surroundings<'_>) -> MountSpec {
    MountSpec { volume: around.names.image_volume(&spec.name, DATA_PATH), path: DATA_PATH.into(), read_only: false }
}

/// What a running server can be told, in the words of CONFIG SET.
pub fn settings(spec: &InstanceSpec, cache: &Cache) -> BTreeMap<&'static str, String> {
    // A quarter is for the process, and for the copy it makes of what changes while it writes to disk.
    let limit = spec.resources.memory_bytes.map_or(0, |b| b / 4 * 3);
    let (append, fsync, save) = match cache.persistence {
        Persistence::AppendOnly => ("yes", "everysec", ""),
        Persistence::AppendOnlyAlways => ("yes", "always", ""),
        Persistence::Snapshot => ("no", "everysec", "60 1"),
        Persistence::None => ("no", "everysec", ""),
    };
    BTreeMap::from([
        ("maxmemory", cache.max_memory_bytes.unwrap_or(limit).to_string()),
        ("maxmemory-policy", cache.eviction.as_str().into()),
        ("appendonly", append.into()),
        ("appendfsync", fsync.into()),
        ("save", save.into()),
    ])
}

fn config(password: &str, settings: &BTreeMap<&'static str, String>) -> String {
    let mut text = format!(
        "# Rendered by RedForge; changes are overwritten.\n\
         port {PORT}\n\
         bind * -::*\n\
         daemonize no\n\
         dir {DATA_PATH}\n\
         requirepass {password}\n\
         stop-writes-on-bgsave-error yes\n\
         tcp-keepalive 60\n"
    );
    for (name, value) in settings {
        let value = if value.is_empty() { "\"\"" } else { value };
        let _ = writeln!(text, "{name} {value}");
    }
    text
}

fn words(all: &[&str]) -> Vec<String> {
    all.iter().map(|w| (*w).to_owned()).collect()
}

/// Does it answer, and with the settings that it should have?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheSeen {
    pub answers: bool,
    /// What it holds to: the hash of its files, or another one where it was told something else since.
    pub live: Option<Digest>,
}

/// Asks a server; `files` is the hash of its live files.
pub async fn observe(
    address: Option<IpAddr>,
    password: &str,
    wanted: &BTreeMap<&'static str, String>,
    files: Option<Digest>,
) -> CacheSeen {
    let silent = CacheSeen { answers: false, live: files };
    let Some(address) = address else { return silent };
    let ping = [words(&["PING"])].into_iter();
    let commands: Vec<_> = ping.chain(wanted.keys().map(|k| words(&["CONFIG", "GET", k]))).collect();
    let Ok(answers) = resp::ask(address, PORT, password, &commands).await else { return silent };
    let mut answers = answers.into_iter();
    if answers.next() != Some(Answer::Text("PONG".into())) {
        return silent;
    }
    let right = wanted.iter().zip(answers).all(|((name, value), answer)| {
        let Answer::List(said) = answer else { return false };
        said.first().is_some_and(|n| n == name) && said.get(1) == Some(value)
    });
    let live = if right { files } else { files.map(|f| Digest::of(&f.0)) };
    CacheSeen { answers: true, live }
}

/// Tells a server every setting; each takes effect at once.
pub async fn apply(
    address: IpAddr,
    password: &str,
    settings: &BTreeMap<&'static str, String>,
) -> Result<(), RespError> {
    let commands: Vec<_> = settings.iter().map(|(k, v)| words(&["CONFIG", "SET", k, v])).collect();
    resp::ask(address, PORT, password, &commands).await.map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;
    use redforge_shared::desired::Eviction;

    #[test]
    fn the_configuration_is_written_line_by_line() {
        let cache = Cache {
            max_memory_bytes: Some(64 << 20),
            eviction: Eviction::AllkeysLru,
            persistence: Persistence::Snapshot,
        };
        let spec = crate::workload::tests::spec("cache", Workload::Valkey(cache.clone()));
        insta::assert_snapshot!(config("PASSWORD", &settings(&spec, &cache)));
    }

    #[test]
    fn without_a_limit_of_its_own_the_data_leaves_room_in_the_containers() {
        let mut spec = crate::workload::tests::spec("cache", Workload::Valkey(Cache::default()));
        assert_eq!(settings(&spec, &Cache::default())["maxmemory"], "0");
        spec.resources.memory_bytes = Some(64 << 20);
        assert_eq!(settings(&spec, &Cache::default())["maxmemory"], (48 << 20).to_string());
    }
}
