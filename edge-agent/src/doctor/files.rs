//! Room on the disks that the agent and Docker write to, and whether the two SQLite files are sound.
use super::{
    Finding,
    judge::{self, Info},
};
use crate::{config::Config, db};
use std::{
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

/// A large outbox takes long to read; doctor does not wait for it for ever.
const CHECK_TIMEOUT: Duration = Duration::from_secs(60);

/// The state folder's disk and Docker's, once where they are the same.
pub(super) fn disks(config: &Config, info: Option<&Info>) -> Vec<Finding> {
    let mut all = vec![disk("disk", &config.state_dir), writable(&config.state_dir)];
    all.extend(reserve(&config.state_dir));
    let root = info.map(|i| PathBuf::from(&i.docker_root_dir)).filter(|p| p.is_absolute());
    let device = |p: &Path| std::fs::metadata(p).ok().map(|m| m.dev());
    if let Some(root) = root.filter(|r| device(r).is_some() && device(r) != device(&config.state_dir)) {
        all.push(disk("disk.docker", &root));
    }
    all
}

/// Is the file there that lets the agent work on a full disk? Nothing is said where there are no records yet.
fn reserve(dir: &Path) -> Option<Finding> {
    const CHECK: &str = "disk.reserve";
    let next = format!("free some space on the disk of {0}: df -h {0}; du -xhd1 {0}", dir.display());
    match std::fs::metadata(dir.join("outbox.reserve")) {
        Ok(m) => Some(Finding::ok(CHECK, format!("{} MiB are set aside for a full disk", m.len() >> 20))),
        Err(_) if !dir.join("outbox.db").exists() => None,
        Err(_) => {
            Some(Finding::warn(CHECK, "the reserve is given back, the disk was full and is not free enough yet", next))
        }
    }
}

fn disk(check: &'static str, dir: &Path) -> Finding {
    match rustix::fs::statvfs(dir) {
        // A file system that does not count inodes says that it has none.
        Ok(s) => judge::disk(
            check,
            dir,
            s.f_bavail * s.f_frsize,
            s.f_blocks * s.f_frsize,
            (s.f_files > 0).then_some(s.f_favail),
        ),
        Err(e) => {
            Finding::fail(check, format!("{} cannot be looked at: {e}", dir.display()), "mkdir it, or set state.dir")
        }
    }
}

/// A file can be made, written and removed.
fn writable(dir: &Path) -> Finding {
    const CHECK: &str = "disk.write";
    let path = dir.join(format!(".doctor-{}", std::process::id()));
    let tried = std::fs::write(&path, [0; 4096]);
    drop(std::fs::remove_file(&path));
    match tried {
        Ok(()) => Finding::ok(CHECK, format!("{} takes files", dir.display())),
        Err(e) => Finding::fail(
            CHECK,
            format!("{} takes no file: {e}", dir.display()),
            format!("findmnt -T {0}; ls -ld {0}; as root?", dir.display()),
        ),
    }
}

pub(super) async fn databases(state_dir: &Path) -> Vec<Finding> {
    let mut all = Vec::new();
    let outbox = "stop the agent and start it: it keeps what can be read and counts the rest as lost";
    let ledger =
        "stop the agent, put ledger.db* aside and enroll again with a token for this host's name: data volumes stay";
    for (check, file, next) in [("sqlite.ledger", "ledger.db", ledger), ("sqlite.outbox", "outbox.db", outbox)] {
        let path = state_dir.join(file);
        if !path.exists() {
            all.push(Finding::ok(check, format!("{file} is not there yet")));
            continue;
        }
        let checking = tokio::task::spawn_blocking(move || db::examine(&path));
        all.push(match tokio::time::timeout(CHECK_TIMEOUT, checking).await {
            Ok(Ok(Ok(None))) => Finding::ok(check, format!("{file} is sound")),
            Ok(Ok(Ok(Some(problem)))) => Finding::fail(check, format!("{file} is damaged: {problem}"), next),
            Ok(Ok(Err(problem))) => Finding::fail(check, format!("{file} cannot be read: {problem}"), next),
            Ok(Err(_)) => Finding::fail(check, format!("the check of {file} broke off"), next),
            Err(_) => Finding::warn(
                check,
                format!("{file} is large: not read whole within a minute"),
                "run doctor again at a quiet hour",
            ),
        });
    }
    all
}
