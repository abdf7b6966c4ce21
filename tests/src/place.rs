//! Where a story lives: a short temporary folder, free ports, and the binaries under test.
//!
//! Processes are started so that they end with the test that started them, also when it panics or is killed.
use std::{
    fs,
    io::{BufRead, BufReader},
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// A folder with a short path (socket paths end at 107 bytes), below the folder of this run of the tests.
pub fn folder() -> TempDir {
    let dir = tempfile::Builder::new().prefix("rft").tempdir().expect("the run's folder takes another");
    // PostgreSQL's own user must be able to pass.
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711)).expect("own folder");
    dir
}

/// Ports that the kernel gives to nobody by itself: below those of outgoing connections.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
/// A port is given with the two behind it, for programs that take a base.
const STRIDE: u16 = 4;

/// A free port, and the two behind it. A program that stops and starts again keeps its port, so it is reserved for as long
/// as this process lives: by the lock of a file, because the stories that run beside this one ask too.
pub fn free_port() -> u16 {
    static TAKEN: Mutex<Vec<fs::File>> = Mutex::new(Vec::new());
    let folder = std::env::temp_dir().join("rft-ports");
    fs::create_dir_all(&folder).expect("the run's folder takes another");
    let count = (PORTS.end - PORTS.start) / STRIDE;
    let first = (std::process::id().wrapping_mul(97) % u32::from(count)) as u16;
    for n in 0..count {
        let port = PORTS.start + (first + n) % count * STRIDE;
        let file = fs::File::create(folder.join(port.to_string())).expect("the folder takes a file");
        let free = |p: u16| TcpListener::bind(("127.0.0.1", p)).is_ok();
        if file.try_lock().is_ok() && (port..port + 3).all(free) {
            TAKEN.lock().expect("no one panics while holding it").push(file);
            return port;
        }
    }
    panic!("no port of {PORTS:?} is free");
}

/// One of the binaries under test, built by the same `cargo build --workspace`.
pub fn binary(name: &str) -> PathBuf {
    #[expect(clippy::disallowed_methods, reason = "a harness may be told where shipped binaries lie")]
    let folder = std::env::var_os("REDFORGE_TEST_BIN").map(PathBuf::from).unwrap_or_else(|| {
        let own = std::env::current_exe().expect("a test knows its file");
        own.ancestors()
            .find(|p| p.join("redforge-hub").is_file())
            .unwrap_or_else(|| Path::new("/nowhere"))
            .to_path_buf()
    });
    let path = folder.join(name);
    assert!(path.is_file(), "{} is missing: run cargo build --workspace first", path.display());
    path
}

/// One of the programs with fault points (`redforge-hub-faults`, `redforge-edge-faults`), beside the shipped ones and built
/// here unless that is done: what they are made of besides the two crates is shared with the ordinary build.
pub fn fault_binary(name: &str) -> PathBuf {
    static BUILT: std::sync::Once = std::sync::Once::new();
    let own = std::env::current_exe().expect("a test knows its file");
    let folder = own.ancestors().nth(2).expect("a test lies in TARGET/debug/deps");
    BUILT.call_once(|| {
        let features = "redforge-edge/failpoints,redforge-hub/failpoints";
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--workspace", "--locked", "--features", features]);
        cargo.args(["--bin", "redforge-edge-faults", "--bin", "redforge-hub-faults", "--target-dir"]);
        cargo.arg(folder.parent().expect("below the target folder")).current_dir(env!("CARGO_MANIFEST_DIR"));
        let built = run(&mut cargo, Duration::from_secs(900));
        assert!(built.status.success(), "the programs with fault points do not build:\n{}", text(&built));
    });
    folder.join(name)
}

/// Am I root?
pub fn is_root() -> bool {
    rustix::process::getuid().is_root()
}

/// A command that dies with its starter.
pub fn command(program: &Path) -> Command {
    let mut c = Command::new("setpriv");
    c.args(["--pdeathsig", "KILL", "--"]).arg(program);
    // Symbol tables loaded for a logged error would be measured as memory.
    c.env_remove("RUST_BACKTRACE");
    c
}

/// A running process with what it said.
pub struct Process {
    pub name: String,
    child: Child,
    said: Arc<Mutex<Vec<String>>>,
}

impl Process {
    /// Starts it; both outputs are kept and appended to `log`.
    pub fn start(name: &str, command: Command, log: &Path) -> Self {
        Self::start_with(name, command, log, Stdio::null())
    }

    /// Starts a program with fault points; [`Process::arm`] speaks to it.
    pub fn start_with_faults(name: &str, command: Command, log: &Path) -> Self {
        Self::start_with(name, command, log, Stdio::piped())
    }

    fn start_with(name: &str, mut command: Command, log: &Path, stdin: Stdio) -> Self {
        command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{name} does not start: {e}"));
        let said = Arc::new(Mutex::new(Vec::new()));
        let out: Box<dyn std::io::Read + Send> = Box::new(child.stdout.take().expect("piped"));
        let err: Box<dyn std::io::Read + Send> = Box::new(child.stderr.take().expect("piped"));
        for stream in [out, err] {
            let (said, log) = (said.clone(), log.to_path_buf());
            std::thread::spawn(move || {
                use std::io::Write;
                let mut file = fs::OpenOptions::new().create(true).append(true).open(log).ok();
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    if let Some(file) = &mut file {
                        // A full disk under test must not stop the reader.
                        drop(writeln!(file, "{line}"));
                    }
                    said.lock().expect("readers do not panic").push(line);
                }
            });
        }
        Self { name: name.into(), child, said }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything it said so far.
    pub fn said(&self) -> Vec<String> {
        self.said.lock().expect("readers do not panic").clone()
    }

    /// Its exit status, once it ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("own child")
    }

    pub fn is_running(&mut self) -> bool {
        self.ended().is_none()
    }

    /// Waits for a line that begins with these words; panics when the process ends first.
    pub async fn line(&mut self, words: &str, deadline: Duration) -> String {
        let began = Instant::now();
        loop {
            if let Some(line) = self.said().iter().find(|l| l.starts_with(words)) {
                return line.clone();
            }
            let ended = self.ended();
            let late = began.elapsed() > deadline;
            assert!(
                ended.is_none() && !late,
                "{} did not say '{words}' ({ended:?}, {} s):\n{}",
                self.name,
                began.elapsed().as_secs(),
                self.tail()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Arms a fault point: `NAME=ACTIONS`. It holds when this returns.
    pub async fn arm(&mut self, point: &str) {
        use std::io::Write;
        let stdin = self.child.stdin.as_mut().expect("started with faults");
        writeln!(stdin, "{point}").expect("it reads what it is told");
        self.line(&format!("armed {point}"), Duration::from_secs(60)).await;
    }

    /// Waits until it is killed by SIGKILL, as an armed `panic` does.
    pub async fn killed(&mut self, deadline: Duration) {
        use std::os::unix::process::ExitStatusExt;
        let began = Instant::now();
        let status = loop {
            if let Some(status) = self.ended() {
                break status;
            }
            assert!(began.elapsed() < deadline, "{} never came to its fault point:\n{}", self.name, self.tail());
            tokio::time::sleep(Duration::from_millis(2)).await;
        };
        assert_eq!(status.signal(), Some(9), "{} ended otherwise:\n{}", self.name, self.tail());
    }

    /// Its last words, for a failure's text.
    pub fn tail(&self) -> String {
        let said = self.said();
        said[said.len().saturating_sub(40)..].join("\n")
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        // It may have ended by itself.
        rustix::process::kill_process(pid, signal).ok();
    }

    /// kill -9, and waits until it is gone.
    pub fn kill9(&mut self) {
        if self.is_running() {
            self.signal(rustix::process::Signal::KILL);
        }
        drop(self.child.wait());
    }

    /// SIGTERM, and waits for its status.
    pub async fn stop(&mut self, deadline: Duration) -> ExitStatus {
        self.signal(rustix::process::Signal::TERM);
        let began = Instant::now();
        loop {
            if let Some(status) = self.ended() {
                return status;
            }
            assert!(began.elapsed() < deadline, "{} does not stop:\n{}", self.name, self.tail());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- last words of {}:\n{}", self.name, self.tail());
        }
        self.kill9();
    }
}

/// Runs a command to its end, for at most `limit`.
pub fn run(command: &mut Command, limit: Duration) -> Output {
    run_reading(command, limit, Stdio::null())
}

/// The same with this on standard input.
pub fn run_reading(command: &mut Command, limit: Duration, input: Stdio) -> Output {
    let mut limited = Command::new("timeout");
    limited.arg("-k").arg("5").arg(limit.as_secs().to_string()).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => limited.env(name, value),
            None => limited.env_remove(name),
        };
    }
    if let Some(dir) = command.get_current_dir() {
        limited.current_dir(dir);
    }
    limited.stdin(input).output().expect("coreutils has timeout")
}

/// Both outputs as text.
pub fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A small file system of its own, unmounted with the value.
pub struct Tmpfs(PathBuf);

impl Tmpfs {
    /// Mounts it; needs root. `size` as mount(8) takes it.
    pub fn mount(at: &Path, size: &str) -> Self {
        fs::create_dir_all(at).expect("own folder");
        let options = format!("size={size},mode=0711");
        let out =
            run(Command::new("mount").args(["-t", "tmpfs", "-o", &options, "rft"]).arg(at), Duration::from_secs(10));
        assert!(out.status.success(), "mounting a tmpfs needs root: {}", text(&out));
        Self(at.to_path_buf())
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes until a write fails; gives the file to remove.
    pub fn fill(&self) -> PathBuf {
        use std::io::Write;
        let path = self.0.join("filler");
        let mut file = fs::File::create(&path).expect("room for a name");
        let mut piece = vec![0x5a; 1 << 20];
        while !piece.is_empty() {
            if file.write_all(&piece).is_err() {
                piece.truncate(piece.len() / 2);
            }
        }
        path
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        run(Command::new("umount").arg("-l").arg(&self.0), Duration::from_secs(10));
    }
}
