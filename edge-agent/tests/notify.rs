//! What systemd hears from the agent, on a real datagram socket: that it is ready, that it lives, that it stops.
use std::{
    collections::BTreeSet,
    os::unix::net::UnixDatagram,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

const DEADLINE: Duration = Duration::from_secs(60);

struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Reads until every one of these lines was heard.
fn hear(socket: &UnixDatagram, wanted: &[&str]) -> BTreeSet<String> {
    let began = Instant::now();
    let mut heard = BTreeSet::new();
    let mut message = [0; 4096];
    while !wanted.iter().all(|w| heard.contains(*w)) {
        assert!(began.elapsed() < DEADLINE, "heard only {heard:?} of {wanted:?}");
        let Ok(n) = socket.recv(&mut message) else { continue };
        heard.extend(String::from_utf8_lossy(&message[..n]).lines().map(str::to_owned));
    }
    heard
}

#[test]
fn systemd_hears_ready_alive_and_stopping() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("a socket");
    socket.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
    let mut command = Command::new(env!("CARGO_BIN_EXE_redforge-edge"));
    command.args(["run", "--state"]).arg(dir.path()).stdout(Stdio::null()).stderr(Stdio::null());
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "400000").env_remove("WATCHDOG_PID");
    command.env("REDFORGE_EDGE__PAGE__LISTEN", "off");
    let mut agent = Agent(command.spawn().expect("it starts"));
    // Not enrolled is a state to be in, not a start that takes too long.
    hear(
        &socket,
        &[
            "READY=1",
            "STATUS=not enrolled yet: on the hub run `redforgectl token create`, then the `redforge-edge enroll ...` line it prints here",
            "WATCHDOG=1",
        ],
    );
    hear(&socket, &["WATCHDOG=1"]);
    let pid = rustix::process::Pid::from_child(&agent.0);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
    hear(&socket, &["STOPPING=1"]);
    assert!(agent.0.wait().expect("it ends").success());
}
