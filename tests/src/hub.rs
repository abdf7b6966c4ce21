//! A real hub on a private PostgreSQL, to be killed, stopped and started again.
//!
//! `dev` with a database of its own choosing: it makes its PKI and its first token by itself, and is `serve` from there on.
use crate::{
    operator::Operator,
    place::{Process, binary, command, fault_binary, folder, free_port, run},
    postgres::Postgres,
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
    time::Duration,
};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);

/// How a hub of a story differs from the usual.
#[derive(Debug, Clone, Default)]
pub struct Wishes {
    /// TOML lines put at the end of the configuration.
    pub more: String,
    /// Address that agents are told to dial; the hub's own by default.
    pub public_url: Option<String>,
    /// State folder; the story's own by default.
    pub state: Option<PathBuf>,
    /// Further options of the database server.
    pub postgres: String,
}

/// The hub of a story.
pub struct TestHub {
    pub process: Option<Process>,
    pub postgres: Postgres,
    pub agents_port: u16,
    pub operators_port: u16,
    pub metrics_port: u16,
    /// `dev`, or `serve` once a `dev` has made what it needs.
    pub verb: &'static str,
    /// Settings as environment variables, for the next start.
    pub env: Vec<(String, String)>,
    /// Run the program with fault points from the next start on.
    pub faults: bool,
    config: PathBuf,
    state: PathBuf,
    dir: TempDir,
}

impl TestHub {
    /// Started and ready.
    pub async fn start() -> Self {
        Self::start_with(Wishes::default()).await
    }

    /// Started with wishes, and ready.
    pub async fn start_with(wishes: Wishes) -> Self {
        let mut hub = Self::prepare(wishes);
        hub.up().await;
        hub
    }

    /// Everything but the process.
    pub fn prepare(wishes: Wishes) -> Self {
        Self::prepare_on(wishes, free_port())
    }

    /// The same, with the agents' door on this port: a proxy before it has to know it first.
    pub fn prepare_on(wishes: Wishes, agents_port: u16) -> Self {
        let dir = folder();
        let postgres = Postgres::start_with(dir.path(), &wishes.postgres);
        let (operators_port, metrics_port) = (free_port(), free_port());
        let state = wishes.state.unwrap_or_else(|| dir.path().join("hub"));
        let run_dir = dir.path().join("hr");
        for d in [&state, &run_dir] {
            fs::create_dir_all(d).expect("own folder");
        }
        let config = dir.path().join("hub.toml");
        let public = wishes.public_url.unwrap_or_else(|| format!("https://127.0.0.1:{agents_port}"));
        let text = format!(
            "[agents]\nlisten = \"127.0.0.1:{agents_port}\"\npublic_url = \"{public}\"\n\
             [operators]\nlisten = \"127.0.0.1:{operators_port}\"\n[metrics]\nlisten = \"127.0.0.1:{metrics_port}\"\n\
             [database]\nurl = \"{}\"\n[state]\ndir = \"{}\"\nrun_dir = \"{}\"\n\
             [session]\nheartbeat_interval_ms = 1000\n{}\n",
            postgres.url(),
            state.display(),
            run_dir.display(),
            wishes.more
        );
        fs::write(&config, text).expect("own folder");
        Self {
            process: None,
            postgres,
            agents_port,
            operators_port,
            metrics_port,
            verb: "dev",
            env: Vec::new(),
            faults: false,
            config,
            state,
            dir,
        }
    }

    /// Runs `redforge-hub` with these arguments and this hub's configuration, to its end.
    pub fn tool(&self, args: &[&str]) -> Output {
        run(command(&binary("redforge-hub")).args(args).arg("--config").arg(&self.config), PATIENCE)
    }

    /// Starts the process without waiting for it.
    pub fn spawn(&mut self) {
        let program = if self.faults { fault_binary("redforge-hub-faults") } else { binary("redforge-hub") };
        let mut c = command(&program);
        c.arg(self.verb).arg("--config").arg(&self.config).envs(self.env.iter().cloned());
        let start = if self.faults { Process::start_with_faults } else { Process::start };
        self.process = Some(start("hub", c, &self.dir.path().join("hub.log")));
    }

    /// Starts the process and waits until it serves.
    pub async fn up(&mut self) {
        self.spawn();
        self.process.as_mut().expect("just started").line("ready ", PATIENCE).await;
    }

    /// kill -9.
    pub fn kill9(&mut self) {
        if let Some(mut p) = self.process.take() {
            p.kill9();
        }
    }

    /// SIGTERM, in good order.
    pub async fn stop(&mut self) {
        if let Some(mut p) = self.process.take() {
            p.stop(PATIENCE).await;
        }
    }

    /// What agents dial.
    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.agents_port)
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn state(&self) -> &Path {
        &self.state
    }

    /// The admin token that the hub wrote at its first start.
    pub fn token(&self) -> String {
        fs::read_to_string(self.state.join("operator.token")).expect("the hub wrote operator.token").trim().to_owned()
    }

    pub fn root_pem(&self) -> PathBuf {
        self.state.join("root.pem")
    }

    /// The operators' API as the first admin.
    pub async fn operator(&self) -> Operator {
        Operator::connect(self.operators_port, &self.root_pem(), &self.token()).await
    }

    /// Runs the independent checker on this hub's PostgreSQL.
    pub fn checker(&self, args: &[&str]) -> Checked {
        let json = self.dir.path().join("checked.json");
        drop(fs::remove_file(&json));
        let output = run(
            command(&binary("redforge-checker"))
                .args(["--database", &self.postgres.url(), "--json"])
                .arg(&json)
                .args(args),
            PATIENCE * 2,
        );
        let verdict = fs::read(&json)
            .ok()
            .and_then(|b| serde_json::from_slice(&b).ok())
            .unwrap_or_else(|| panic!("the checker gave no verdict:\n{}", crate::place::text(&output)));
        Checked { good: output.status.success(), verdict, text: crate::place::text(&output) }
    }
}

/// What the checker said.
pub struct Checked {
    pub good: bool,
    pub verdict: serde_json::Value,
    pub text: String,
}

impl Checked {
    /// One of its numbers; 0 when it named none.
    pub fn number(&self, what: &str) -> u64 {
        self.verdict["numbers"][what].as_u64().unwrap_or(0)
    }

    pub fn differences(&self) -> Vec<String> {
        let list = self.verdict["differences"].as_array().cloned().unwrap_or_default();
        list.iter().filter_map(|d| d.as_str().map(str::to_owned)).collect()
    }
}
