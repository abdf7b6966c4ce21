//! A real image registry on loopback that wants a password, for one story; what lies in it goes with the value.
use crate::{
    engine::docker,
    place::{Process, command, folder, free_port, run_reading, text},
    wait::eventually,
};
use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};
use tempfile::TempDir;

pub const USER: &str = "press";
pub const PASSWORD: &str = "four-rolls";
/// [`PASSWORD`] as htpasswd keeps it.
const HTPASSWD: &str = "press:$2y$05$abcdefghijklmnopqrstuuC.Zmun5c.qlE/xESiCN284dlbL3rQg2\n";

/// The registry.
pub struct TestRegistry {
    pub port: u16,
    _process: Process,
    dir: TempDir,
}

impl TestRegistry {
    /// Started and asking for a password.
    pub async fn start() -> Self {
        let program = Path::new("/usr/bin/docker-registry");
        assert!(program.exists(), "no {}: apt-get install docker-registry", program.display());
        let (dir, port) = (folder(), free_port());
        let at = dir.path().display();
        let config = format!(
            "version: 0.1\nlog: {{level: warn}}\nstorage: {{filesystem: {{rootdirectory: {at}/data}}}}\n\
             http: {{addr: \"127.0.0.1:{port}\"}}\nauth: {{htpasswd: {{realm: plant, path: {at}/htpasswd}}}}\n"
        );
        fs::write(dir.path().join("htpasswd"), HTPASSWD).expect("own folder");
        fs::write(dir.path().join("config.yml"), config).expect("own folder");
        let mut c = command(program);
        c.arg("serve").arg(dir.path().join("config.yml"));
        let mut process = Process::start("registry", c, &dir.path().join("registry.log"));
        eventually("the registry listens", async || {
            assert!(process.is_running(), "{}", process.tail());
            std::net::TcpStream::connect(("127.0.0.1", port)).map(drop)
        })
        .await;
        Self { port, _process: process, dir }
    }

    /// Puts an image of the engine there, as `127.0.0.1:PORT/PATH`.
    pub fn push(&self, image: &str, path: &str) {
        let (host, config) = (format!("127.0.0.1:{}", self.port), self.dir.path().join("docker"));
        let config = config.display().to_string();
        let password = self.dir.path().join("password");
        fs::write(&password, PASSWORD).expect("own folder");
        let client = |args: &[&str], input: Stdio| {
            let mut c = Command::new("docker");
            let out = run_reading(c.args(["--config", &config]).args(args), Duration::from_secs(120), input);
            assert!(out.status.success(), "docker {args:?}: {}", text(&out));
        };
        let input = fs::File::open(&password).expect("own file").into();
        client(&["login", "--username", USER, "--password-stdin", &host], input);
        let reference = format!("{host}/{path}");
        docker(&["tag", image, &reference]);
        client(&["push", "--quiet", &reference], Stdio::null());
        docker(&["rmi", &reference]);
    }
}
