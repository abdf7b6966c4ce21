//! A private PostgreSQL of one story: socket only, fsync on, run as the user `postgres` where the test is root.
use crate::place::{is_root, run, text};
use sqlx::{PgPool, postgres::PgPoolOptions};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

/// The cluster; stopped and gone with the value.
pub struct Postgres {
    dir: PathBuf,
    bin: PathBuf,
    /// Further options of the server.
    more: String,
}

/// Name of the one database.
pub const DATABASE: &str = "redforge";

fn binaries() -> PathBuf {
    let mut found: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .map(|d| {
            d.filter_map(|e| e.ok().map(|e| e.path().join("bin"))).filter(|p| p.join("initdb").is_file()).collect()
        })
        .unwrap_or_default();
    found.sort();
    found.pop().expect("PostgreSQL's binaries lie in /usr/lib/postgresql")
}

impl Postgres {
    /// Makes and starts a cluster in `dir/pg` with an empty database.
    pub fn start(dir: &Path) -> Self {
        Self::start_with(dir, "")
    }

    /// The same with further server options, such as `-c shared_buffers=512MB`.
    pub fn start_with(dir: &Path, more: &str) -> Self {
        let dir = dir.join("pg");
        fs::create_dir_all(&dir).expect("own folder");
        if is_root() {
            let out = run(Command::new("chown").arg("postgres:postgres").arg(&dir), Duration::from_secs(10));
            assert!(out.status.success(), "{}", text(&out));
        }
        let pg = Self { dir, bin: binaries(), more: more.into() };
        let data = pg.data();
        pg.must("initdb", &["-D", &data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "-N"]);
        pg.up();
        let socket = pg.dir.display().to_string();
        pg.must("createdb", &["-h", &socket, "-U", "postgres", DATABASE]);
        pg
    }

    fn data(&self) -> String {
        self.dir.join("data").display().to_string()
    }

    fn tool(&self, name: &str, args: &[&str]) -> std::process::Output {
        let program = self.bin.join(name);
        let mut command = if is_root() {
            let mut c = Command::new("setpriv");
            c.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]).arg(program);
            c
        } else {
            Command::new(program)
        };
        run(command.args(args).current_dir(&self.dir), Duration::from_secs(60))
    }

    fn must(&self, name: &str, args: &[&str]) {
        let out = self.tool(name, args);
        assert!(out.status.success(), "{name} failed:\n{}", text(&out));
    }

    /// Starts the server and waits until it serves.
    pub fn up(&self) {
        let options = format!("-c listen_addresses='' -c max_connections=60 -k {} {}", self.dir.display(), self.more);
        let log = self.dir.join("log").display().to_string();
        self.must("pg_ctl", &["-D", &self.data(), "-w", "-t", "60", "-l", &log, "-o", &options, "start"]);
    }

    /// The server's first process.
    pub fn pid(&self) -> u32 {
        let text = fs::read_to_string(self.dir.join("data/postmaster.pid")).unwrap_or_default();
        text.lines().next().and_then(|l| l.parse().ok()).expect("the server runs")
    }

    /// Stops the server at once, as a crash would.
    pub fn down(&self) {
        self.must("pg_ctl", &["-D", &self.data(), "-w", "-t", "60", "-m", "immediate", "stop"]);
    }

    /// For the hub's `[database] url`.
    pub fn url(&self) -> String {
        format!("postgres://postgres@localhost/{DATABASE}?host={}", self.dir.display())
    }

    /// A connection for looking from outside.
    pub async fn pool(&self) -> PgPool {
        PgPoolOptions::new().max_connections(2).connect(&self.url()).await.expect("the story's PostgreSQL serves")
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        drop(self.tool("pg_ctl", &["-D", &self.data(), "-m", "immediate", "-w", "stop"]));
    }
}
