//! Who PostgreSQL runs as. It refuses root, so root lends it a system user of its own; an ordinary user runs it himself.
//!
//! Deliberately absent: opening folders to that user. A path it cannot enter is named and refused.
use super::DevPostgresError;
use std::{
    fs, io,
    os::unix::fs::{MetadataExt, chown},
    path::Path,
    time::Duration,
};
use tokio::process::Command;

/// The system user that root lends.
pub(super) const USER: &str = "redforge-postgres";

/// Who PostgreSQL runs as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Account {
    /// Whoever runs the hub.
    Own,
    /// The system user, lent by root.
    Lent { uid: u32, gid: u32 },
}

impl Account {
    /// Root lends the system user, made if it is missing.
    pub(super) async fn choose() -> Result<Self, DevPostgresError> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Self::Own);
        }
        if let Some(found) = lookup() {
            return Ok(found);
        }
        let failed = |problem: String| DevPostgresError::Account { user: USER, problem };
        // Another hub may hold the lock on /etc/passwd, or make the user first: what counts is that it is there.
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        loop {
            let out = Command::new("useradd")
                .args(["--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent"])
                .args(["--shell", "/usr/sbin/nologin", USER])
                .output()
                .await
                .map_err(|e| failed(format!("running useradd: {e}")))?;
            if let Some(found) = lookup() {
                return Ok(found);
            }
            if tokio::time::Instant::now() >= deadline {
                return Err(failed(String::from_utf8_lossy(&out.stderr).trim().to_owned()));
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Makes `command` run as this account.
    pub(super) fn apply(self, command: &mut Command) {
        if let Self::Lent { uid, gid } = self {
            // Setting a uid as root also drops the supplementary groups.
            command.uid(uid).gid(gid);
        }
    }

    /// Gives a file or folder to this account.
    pub(super) fn own(self, path: &Path) -> io::Result<()> {
        match self {
            Self::Own => Ok(()),
            Self::Lent { uid, gid } => chown(path, Some(uid), Some(gid)),
        }
    }

    /// Refuses a path below a folder that this account cannot enter.
    pub(super) fn must_reach(self, path: &Path) -> Result<(), DevPostgresError> {
        match self.blocked_at(path) {
            None => Ok(()),
            Some((path, mode)) => Err(DevPostgresError::Unreachable { user: USER.into(), path, mode }),
        }
    }

    /// The first folder on the way to `path` that this account cannot enter, and its mode.
    pub(super) fn blocked_at(self, path: &Path) -> Option<(std::path::PathBuf, u32)> {
        let Self::Lent { uid, gid } = self else { return None };
        let mut way: Vec<&Path> = path.ancestors().collect();
        way.reverse();
        for dir in way {
            let Ok(meta) = fs::metadata(dir) else { continue };
            let bit = if meta.uid() == uid {
                0o100
            } else if meta.gid() == gid {
                0o010
            } else {
                0o001
            };
            if meta.mode() & bit == 0 {
                return Some((dir.into(), meta.mode() & 0o7777));
            }
        }
        None
    }
}

fn lookup() -> Option<Account> {
    let passwd = fs::read_to_string("/etc/passwd").ok()?;
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next() != Some(USER) {
            return None;
        }
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        Some(Account::Lent { uid, gid })
    })
}
