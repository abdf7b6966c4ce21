//! A Docker engine of the story's own, in a network and a process namespace of its own: it can lose its power.
//!
//! Killing the first process of the namespace ends everything in it at once, containers too, as a power cut does. What lies on
//! the disk stays. An agent enters with [`OwnEngine::enter`].
use crate::{
    place::{Process, is_root, run, text},
    wait::eventually,
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::{
    fs,
    net::TcpListener,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    process::Command,
    thread::JoinHandle,
    time::Duration,
};

/// An engine with folders of its own.
pub struct OwnEngine {
    dir: PathBuf,
    process: Option<Process>,
}

impl OwnEngine {
    /// Started and answering; everything it keeps lies below `dir`, which needs a short path.
    pub async fn start(dir: &Path) -> Self {
        assert!(is_root(), "an engine of one's own needs root");
        let mut engine = Self { dir: dir.to_path_buf(), process: None };
        engine.power_on().await;
        engine
    }

    /// Where it listens.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("d.sock")
    }

    /// Starts it on what it left.
    pub async fn power_on(&mut self) {
        let state = self.dir.join("run");
        // What runs is forgotten by a machine that lost its power; what is on the disk is not.
        drop(fs::remove_dir_all(&state));
        fs::create_dir_all(&state).expect("own folder");
        drop(fs::remove_file(self.socket()));
        let script = format!(
            "ip link set lo up && mount -t proc proc /proc && exec dockerd --data-root {data} --exec-root {run}/exec \
             --pidfile {run}/pid -H unix://{socket} --storage-driver overlay2",
            data = self.dir.join("data").display(),
            run = state.display(),
            socket = self.socket().display(),
        );
        let mut c = Command::new("setpriv");
        c.args([
            "--pdeathsig",
            "KILL",
            "--",
            "unshare",
            "-n",
            "-m",
            "-p",
            "--fork",
            "--kill-child",
            "sh",
            "-c",
            &script,
        ]);
        self.process = Some(Process::start("own engine", c, &self.dir.join("engine.log")));
        eventually("the own engine answers", async || {
            let process = self.process.as_mut().expect("just started");
            assert!(process.is_running(), "{}", process.tail());
            self.try_docker(&["info"])
        })
        .await;
    }

    /// Everything in it ends at once.
    pub fn power_off(&mut self) {
        self.process = None;
        // The folders of containers were mounted in a namespace that is gone.
        drop(fs::remove_file(self.socket()));
    }

    /// The first process inside.
    fn inside(&self) -> String {
        let outer = self.process.as_ref().expect("it runs").pid();
        let children = fs::read_to_string(format!("/proc/{outer}/task/{outer}/children")).unwrap_or_default();
        children.split_whitespace().next().expect("unshare started a child").to_owned()
    }

    /// What is put before a program's name so that it runs in the engine's network.
    pub fn enter(&self) -> Vec<String> {
        ["nsenter", "--net", "-t", &self.inside(), "--"].map(str::to_owned).to_vec()
    }

    /// Listens on this port of 127.0.0.1 as those inside see it. What is handed on from there is their only way out.
    pub fn listen(&self, port: u16) -> TcpListener {
        let space = fs::File::open(format!("/proc/{}/ns/net", self.inside())).expect("it runs");
        // A socket stays in the space it was made in; the thread that made it ends.
        let made = std::thread::spawn(move || {
            move_into_link_name_space(space.as_fd(), Some(LinkNameSpaceType::Network)).expect("an engine needs root");
            TcpListener::bind(("127.0.0.1", port)).expect("nobody else is inside")
        });
        made.join().expect("it says why not")
    }

    /// Runs `docker` on this engine; its text when it fails.
    pub fn try_docker(&self, args: &[&str]) -> Result<String, String> {
        let socket = format!("unix://{}", self.socket().display());
        let out = run(Command::new("docker").args(["-H", &socket]).args(args), Duration::from_secs(120));
        if out.status.success() { Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned()) } else { Err(text(&out)) }
    }

    /// Brings images of the machine's engine here, beside what else is done.
    pub fn bring(&self, images: &[String]) -> JoinHandle<()> {
        let socket = self.socket();
        let script = format!("docker save {} | docker -H unix://{} load", images.join(" "), socket.display());
        std::thread::spawn(move || {
            let out = run(Command::new("sh").args(["-c", &script]), Duration::from_secs(180));
            assert!(out.status.success(), "{}", text(&out));
        })
    }
}

impl Drop for OwnEngine {
    fn drop(&mut self) {
        self.process = None;
        // Whatever the engine still has mounted here would keep the folder.
        let script = format!("grep -o '{}[^ ]*' /proc/mounts | sort -ru | xargs -r umount -l", self.dir.display());
        run(Command::new("sh").args(["-c", &script]), Duration::from_secs(30));
    }
}
