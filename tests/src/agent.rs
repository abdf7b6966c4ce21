//! A real `redforge-edge`: enrolled, run, killed, restarted. Its Docker objects go with the value.
use crate::{
    engine,
    hub::TestHub,
    place::{Process, binary, command, fault_binary, folder, free_port, run, run_reading, text},
};
use redforge_shared::wire::pb;
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);

/// The agent of a story.
pub struct TestAgent {
    pub process: Option<Process>,
    pub name: String,
    /// The host's id; empty before it is enrolled.
    pub host_id: String,
    pub page_port: u16,
    /// Settings as environment variables.
    pub env: Vec<(String, String)>,
    /// Run the program with fault points from the next start on.
    pub faults: bool,
    /// Put before the program's name at every start: how it enters an engine of its own.
    pub before: Vec<String>,
    state: PathBuf,
    dir: TempDir,
}

impl TestAgent {
    /// Folders and a name; nothing runs yet.
    pub fn prepare(name: &str) -> Self {
        let dir = folder();
        let state = dir.path().join("edge");
        fs::create_dir_all(&state).expect("own folder");
        fs::create_dir_all(dir.path().join("er")).expect("own folder");
        let page_port = free_port();
        let env = vec![("REDFORGE_EDGE__PAGE__LISTEN".into(), format!("127.0.0.1:{page_port}"))];
        Self {
            process: None,
            name: name.into(),
            host_id: String::new(),
            page_port,
            env,
            faults: false,
            before: vec![],
            state,
            dir,
        }
    }

    /// Puts the state folder elsewhere.
    pub fn with_state(mut self, state: &Path) -> Self {
        self.state = state.to_path_buf();
        self
    }

    /// An agent without a Docker engine, for stories about records and links only.
    pub fn without_docker(mut self) -> Self {
        let absent = self.dir.path().join("no.sock").display().to_string();
        self.env.push(("REDFORGE_EDGE__RUNTIME__DOCKER_SOCKET".into(), absent));
        self
    }

    /// Enrolled at the hub (site `plant`, made if need be) and running.
    pub async fn start(hub: &TestHub, name: &str) -> Self {
        let mut agent = Self::prepare(name);
        agent.enroll_at(hub).await;
        agent.up().await;
        agent
    }

    /// Enrolls with a fresh token; panics when refused.
    pub async fn enroll_at(&mut self, hub: &TestHub) {
        let mut operator = hub.operator().await;
        operator.site("plant").await;
        let token = operator.enroll_token("plant").await;
        let output = self.enroll(&token);
        assert!(output.status.success(), "enroll failed:\n{}", text(&output));
        self.host_id = operator.host(&self.name).await.expect("the host is registered").id;
        // By this the next run finds what this one leaves when it dies (packaging/test/place.sh).
        fs::write(self.dir.path().join("host-id"), &self.host_id).expect("own folder");
    }

    /// Runs the enroll command that the token's answer stands for.
    pub fn enroll(&self, token: &pb::CreateTokenResponse) -> Output {
        self.enroll_with(&token.hub_url, &token.token, &token.ca_pin)
    }

    pub fn enroll_with(&self, hub: &str, token: &str, pin: &str) -> Output {
        let mut c = self.tool(&["enroll", "--hub", hub, "--token", token, "--ca-pin", pin, "--name", &self.name]);
        run(c.arg("--state").arg(&self.state), PATIENCE)
    }

    fn tool(&self, args: &[&str]) -> std::process::Command {
        let mut c = command(&binary("redforge-edge"));
        c.args(args).envs(self.env.iter().cloned());
        c
    }

    /// Runs a command of `redforge-edge` on this agent's state folder.
    pub fn edge(&self, args: &[&str]) -> Output {
        run(self.tool(args).arg("--state").arg(&self.state), PATIENCE)
    }

    /// `redforge-edge status`.
    pub fn status(&self, args: &[&str]) -> Output {
        let mut c = self.tool(&["status"]);
        run(c.args(args).arg("--state").arg(&self.state), PATIENCE)
    }

    /// Any other command on this agent's state folder, with this on standard input.
    pub fn edge_reading(&self, args: &[&str], input: Stdio) -> Output {
        let mut c = self.tool(args);
        run_reading(c.arg("--state").arg(&self.state), PATIENCE, input)
    }

    /// Starts the process without waiting.
    pub fn spawn(&mut self) {
        let program = if self.faults { fault_binary("redforge-edge-faults") } else { binary("redforge-edge") };
        let mut c = match self.before.split_first() {
            None => command(&program),
            Some((first, rest)) => {
                let mut c = command(Path::new(first));
                c.args(rest).arg(&program);
                c
            }
        };
        c.args(["run", "--state"]).arg(&self.state).arg("--run-dir").arg(self.dir.path().join("er"));
        c.envs(self.env.iter().cloned());
        let start = if self.faults { Process::start_with_faults } else { Process::start };
        self.process = Some(start(&self.name, c, &self.dir.path().join("edge.log")));
    }

    /// Starts the process and waits until its loops run.
    pub async fn up(&mut self) {
        self.spawn();
        self.process.as_mut().expect("just started").line("ready ", PATIENCE).await;
    }

    pub fn kill9(&mut self) {
        if let Some(mut p) = self.process.take() {
            p.kill9();
        }
    }

    pub async fn stop(&mut self) {
        if let Some(mut p) = self.process.take() {
            p.stop(PATIENCE).await;
        }
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn state(&self) -> &Path {
        &self.state
    }

    /// The running container of an instance, as Docker names it.
    pub fn container(&self, instance: &str) -> Option<String> {
        engine::find(&self.host_id, instance)
    }

    /// The outbox as it lies on disk, read only.
    pub fn outbox(&self) -> rusqlite::Connection {
        rusqlite::Connection::open_with_flags(
            self.state.join("outbox.db"),
            rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY | rusqlite::OpenFlags::SQLITE_OPEN_NO_MUTEX,
        )
        .expect("the agent made its outbox")
    }
}

impl Drop for TestAgent {
    fn drop(&mut self) {
        self.kill9();
        if !self.host_id.is_empty() {
            engine::remove_all(&self.host_id);
        }
    }
}
