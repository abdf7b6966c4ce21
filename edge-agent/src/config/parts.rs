//! Sections whose values hang together, from what is written to what is checked.
use super::{
    CleanUp, Deadlines, Limits, OneOrMany, RuntimeConfig, WrittenCleanUp, WrittenRegistry, WrittenRuntime,
    blocks::check_block,
};
use crate::reconcile::sources::{Account, Password, Registries, Registry};
use redforge_shared::ids::Name;
use std::{collections::BTreeMap, time::Duration};

pub(super) fn clean_up(w: &WrittenCleanUp) -> Result<CleanUp, String> {
    CleanUp::of(w.enabled, w.min_age_s, w.keep_volumes, w.volume_min_age_s)
}

pub(super) fn registries(written: BTreeMap<String, WrittenRegistry>) -> Result<Registries, String> {
    let one = |(host, w): (String, WrittenRegistry)| {
        let at = format!("registry.\"{host}\"");
        if !is_host(&host) {
            return Err(format!("{at}: '{host}' is not a registry such as docker.io or registry.plant.example:5000"));
        }
        let mirrors = w.mirrors.map(OneOrMany::all).unwrap_or_default();
        if let Some(mirror) = mirrors.iter().find(|m| !m.split('/').enumerate().all(|(n, p)| part(n, p))) {
            return Err(format!("{at}.mirrors: '{mirror}' is not HOST[:PORT][/PATH]"));
        }
        let secret = |text: &String| text.parse::<Name>().map_err(|e| format!("{at}.password_secret: {e}"));
        let password = match (w.password_file, w.password_secret.as_ref().map(secret).transpose()?) {
            (Some(file), None) if file.is_absolute() => Some(Password::File(file)),
            (Some(file), None) => return Err(format!("{at}.password_file: {} is not absolute", file.display())),
            (None, Some(name)) => Some(Password::Secret(name)),
            (None, None) => None,
            (Some(_), Some(_)) => return Err(format!("{at}: password_file and password_secret are two passwords")),
        };
        let account = match (w.username, password) {
            (Some(username), Some(password)) => Some(Account { username, password }),
            (None, None) => None,
            (Some(_), None) => return Err(format!("{at}.username: password_file or password_secret is missing")),
            (None, Some(_)) => return Err(format!("{at}: username is missing")),
        };
        Ok((host, Registry { mirrors, account }))
    };
    written.into_iter().map(one).collect()
}

/// The first part of a mirror is a host, the others are a path.
fn part(n: usize, text: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.');
    if n == 0 { is_host(text) } else { !text.is_empty() && text.len() <= 128 && text.chars().all(plain) }
}

/// As references name a registry: with a dot, a port, or as localhost.
fn is_host(text: &str) -> bool {
    let (name, port) = text.split_once(':').map_or((text, None), |(name, port)| (name, Some(port)));
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
    let told = name.contains('.') || port.is_some() || name == "localhost";
    let good = !name.is_empty() && name.len() <= 253 && name.chars().all(plain);
    told && good && port.is_none_or(|p| p.parse::<u16>().is_ok_and(|p| p > 0))
}

pub(super) fn runtime(written: WrittenRuntime) -> Result<RuntimeConfig, String> {
    let pool = written.pool.clone().unwrap_or_else(|| "10.231.64.0/18".into());
    check_block("runtime.pool", &pool, 24)?;
    if let Some(subnet) = &written.subnet {
        check_block("runtime.subnet", subnet, 29)?;
    }
    let (deadlines, least) = (deadlines(&written)?, Limits::default());
    Ok(RuntimeConfig {
        docker_socket: written.docker_socket.unwrap_or_else(|| "/var/run/docker.sock".into()),
        pool,
        subnet: written.subnet,
        deadlines,
        limits: Limits {
            disk_headroom_bytes: written.disk_headroom_bytes.unwrap_or(least.disk_headroom_bytes),
            memory_reserve_bytes: written.memory_reserve_bytes.unwrap_or(least.memory_reserve_bytes),
        },
    })
}

fn deadlines(written: &WrittenRuntime) -> Result<Deadlines, String> {
    let within = |name: &str, written: Option<u32>, default: Duration, (least, most): (u32, u32)| match written {
        None => Ok(default),
        Some(s) if (least..=most).contains(&s) => Ok(Duration::from_secs(s.into())),
        Some(s) => Err(format!("runtime.{name}: {s} is not within {least} to {most}")),
    };
    let d = Deadlines::default();
    Ok(Deadlines {
        pull: within("pull_deadline_s", written.pull_deadline_s, d.pull, (10, 604_800))?,
        start: within("create_deadline_s", written.create_deadline_s, d.start, (1, 3_600))?,
        healthy: within("start_deadline_s", written.start_deadline_s, d.healthy, (10, 86_400))?,
        hot_deploy: within("deploy_deadline_s", written.deploy_deadline_s, d.hot_deploy, (5, 3_600))?,
    })
}
