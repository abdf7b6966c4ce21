//! What measured numbers mean. Pure: the same numbers give the same line.
use super::Finding;
use crate::{
    identity::{Enrolled, IdentityError},
    page::StatusView,
    site::span,
};
use redforge_shared::error::Chain;
use std::path::Path;
use time::OffsetDateTime;

/// Free bytes below which the agent reports a full disk, and below which it will soon.
const DISK_FAIL_BYTES: u64 = 64 << 20;
const DISK_WARN_BYTES: u64 = 2 << 30;
/// Seconds that two clocks may differ: records carry the host's time.
const CLOCK_WARN_S: i64 = 60;
const CLOCK_FAIL_S: i64 = 300;
/// Certificates live a week and are renewed after half of it: one with less left was not.
const CERTIFICATE_WARN_S: i64 = 2 * 86_400;
/// Docker 20.10.
const OLDEST_API: (u32, u32) = (1, 41);

pub(super) fn agent(running: &Result<Option<StatusView>, String>) -> Finding {
    const CHECK: &str = "agent";
    match running {
        Ok(Some(view)) => match &view.starting {
            Some(why) => Finding::warn(CHECK, format!("it starts and waits: {why}"), "do what it waits for"),
            None => Finding::ok(CHECK, format!("version {} runs", view.agent_version)),
        },
        Ok(None) => Finding::warn(
            CHECK,
            "it does not run; containers go on, nothing is changed or sent",
            "systemctl start redforge-edge (or redforge-edge run); journalctl -u redforge-edge says why it ended",
        ),
        Err(why) => Finding::fail(
            CHECK,
            format!("it runs and does not answer ({why})"),
            "as root or a member of its group? Else: systemctl restart redforge-edge",
        ),
    }
}

pub(super) fn certificate(enrolled: &Result<Option<Enrolled>, IdentityError>, now: OffsetDateTime) -> Finding {
    const CHECK: &str = "certificate";
    let enrolled = match enrolled {
        Ok(Some(enrolled)) => enrolled,
        Ok(None) => {
            return Finding::fail(
                CHECK,
                "this host is not enrolled",
                "on the hub `redforgectl token create`, then the `redforge-edge enroll ...` line it prints here",
            );
        }
        Err(e) => {
            return Finding::fail(CHECK, Chain(e).to_string(), "run as root or as redforge-edge; else enroll again");
        }
    };
    let again = format!(
        "on the hub `redforgectl token create --site {} --host-name {}`, then the line it prints here",
        enrolled.site, enrolled.name
    );
    let Some((_, end)) = enrolled.validity() else {
        return Finding::fail(CHECK, "it cannot be read", again);
    };
    let left = (end - now).whole_seconds();
    let said = span::words(left.unsigned_abs());
    match left {
        ..=0 => Finding::fail(CHECK, format!("it ended {said} ago: the hub does not let this host in"), again),
        1..CERTIFICATE_WARN_S => Finding::warn(
            CHECK,
            format!("{said} left; it should have been renewed by now"),
            "reach the hub before it ends: it is renewed by itself then",
        ),
        _ => Finding::ok(CHECK, format!("{said} left")),
    }
}

pub(super) fn disk(check: &'static str, dir: &Path, free: u64, total: u64, inodes: Option<u64>) -> Finding {
    let mib = |b: u64| b >> 20;
    let text = format!("{} MiB of {} MiB free at {}", mib(free), mib(total), dir.display());
    let next = format!("df -h {0}; du -xhd1 {0}; docker system df", dir.display());
    match () {
        () if inodes == Some(0) => {
            Finding::fail(check, format!("no file can be made at {} (inodes are used up)", dir.display()), next)
        }
        () if free < DISK_FAIL_BYTES => Finding::fail(check, text, next),
        () if free < DISK_WARN_BYTES && free < total / 10 => Finding::warn(check, text, next),
        () => Finding::ok(check, text),
    }
}

pub(super) fn clock(ahead_s: i64) -> Finding {
    const CHECK: &str = "clock";
    const NEXT: &str = "timedatectl status; systemctl restart systemd-timesyncd (or chronyd)";
    let word = if ahead_s > 0 { "ahead of" } else { "behind" };
    let text = format!("this host's clock is {} {word} the hub's", span::words(ahead_s.unsigned_abs()));
    match ahead_s.abs() {
        0..CLOCK_WARN_S => Finding::ok(CHECK, format!("within {} s of the hub's", ahead_s.abs().max(1))),
        CLOCK_WARN_S..CLOCK_FAIL_S => Finding::warn(CHECK, text, NEXT),
        _ => Finding::fail(CHECK, format!("{text}: records would carry a wrong time"), NEXT),
    }
}

pub(super) fn api(engine: &str, api: &str) -> Finding {
    const CHECK: &str = "docker.api";
    const NEXT: &str = "upgrade Docker to 20.10 or newer, or podman to 4";
    let parts = api.split_once('.').and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
    match parts {
        Some(version) if version >= OLDEST_API => Finding::ok(CHECK, format!("{api}, engine {engine}")),
        Some(_) => Finding::fail(CHECK, format!("engine {engine} speaks {api}; 1.41 is needed"), NEXT),
        None => Finding::fail(CHECK, "what answers on the socket is no container engine", NEXT),
    }
}

/// What the engine says of itself, as far as it matters here.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct Info {
    pub docker_root_dir: String,
    pub cgroup_version: String,
    pub cgroup_driver: String,
    pub memory_limit: bool,
    pub pids_limit: Option<bool>,
    #[serde(rename = "CpuCfsQuota", alias = "CPUCfsQuota")]
    pub cpu_cfs_quota: bool,
}

pub(super) fn cgroup(info: &Info) -> Finding {
    const CHECK: &str = "docker.cgroup";
    const NEXT: &str = "add cgroup_enable=memory swapaccount=1 to the kernel's command line and reboot; docker info";
    let missing: Vec<&str> =
        [(!info.memory_limit, "memory"), (!info.cpu_cfs_quota, "CPU"), (info.pids_limit == Some(false), "processes")]
            .into_iter()
            .filter_map(|(missing, what)| missing.then_some(what))
            .collect();
    let version = if info.cgroup_version.is_empty() { "1" } else { &info.cgroup_version };
    let text = format!("version {version}, driver {}", info.cgroup_driver);
    match (missing.as_slice(), info.memory_limit) {
        ([], _) => Finding::ok(CHECK, format!("{text}; limits hold")),
        (missing, true) => Finding::warn(CHECK, format!("{text}; no limit of {} holds", missing.join(", ")), NEXT),
        (missing, false) => Finding::fail(
            CHECK,
            format!("{text}; no limit of {} holds: one instance can take the whole host's memory", missing.join(", ")),
            NEXT,
        ),
    }
}
