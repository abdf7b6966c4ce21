//! The real `redforgectl` on a hub, as a person at a shell uses it: arguments in, both outputs and the exit code out.
use crate::{
    hub::TestHub,
    place::{Process, binary, command, folder},
};
use std::{
    io::Write,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// An operator's shell: a folder of its own, and settings for one hub.
pub struct Ctl {
    env: Vec<(&'static str, String)>,
    dir: TempDir,
}

/// What a command said.
#[derive(Debug)]
pub struct Said {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Said {
    /// Standard output of a command that must have worked.
    pub fn good(self) -> String {
        assert_eq!(self.code, 0, "{self:?}");
        self.out
    }

    /// The JSON of a command that must have worked.
    pub fn json(self) -> serde_json::Value {
        let out = self.good();
        serde_json::from_str(&out).unwrap_or_else(|e| panic!("not JSON ({e}): {out}"))
    }

    /// Standard error of a command that must have ended with this code.
    pub fn bad(self, code: i32) -> String {
        assert_eq!(self.code, code, "{self:?}");
        self.err
    }
}

impl Ctl {
    /// As the hub's first administrator.
    pub fn new(hub: &TestHub) -> Self {
        Self::with_token(hub, &hub.token())
    }

    /// With this token.
    pub fn with_token(hub: &TestHub, token: &str) -> Self {
        let env = vec![
            ("REDFORGE_HUB", format!("https://127.0.0.1:{}", hub.operators_port)),
            ("REDFORGE_TOKEN", token.to_owned()),
            ("REDFORGE_CA_FILE", hub.root_pem().display().to_string()),
        ];
        Self { env, dir: folder() }
    }

    /// The folder that commands run in.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Writes a file into it.
    pub fn file(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::create_dir_all(path.parent().expect("below the folder")).expect("own folder");
        std::fs::write(&path, text).expect("own folder");
        path
    }

    fn command(&self, args: &[&str]) -> std::process::Command {
        let mut c = command(&binary("redforgectl"));
        c.args(args).current_dir(self.dir.path()).envs(self.env.iter().cloned());
        // The person's own settings are not the story's.
        c.env("XDG_CONFIG_HOME", self.dir.path());
        c
    }

    /// Runs it to its end.
    pub fn run(&self, args: &[&str]) -> Said {
        self.run_with(args, "")
    }

    /// Runs it to its end with this on standard input.
    pub fn run_with(&self, args: &[&str], input: &str) -> Said {
        let mut c = self.command(args);
        let mut child =
            c.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("redforgectl starts");
        let mut stdin = child.stdin.take().expect("piped");
        // A command that reads nothing may have ended already.
        drop(stdin.write_all(input.as_bytes()));
        drop(stdin);
        let began = Instant::now();
        let output = child.wait_with_output().expect("it ends");
        assert!(began.elapsed() < Duration::from_secs(300), "{args:?} took {:?}", began.elapsed());
        let text = |b: Vec<u8>| String::from_utf8(b).expect("text");
        let said = Said {
            code: output.status.code().expect("it ended by itself"),
            out: text(output.stdout),
            err: text(output.stderr),
        };
        // Nothing that goes into a pipe is coloured, whatever it says.
        assert!(!said.out.contains('\x1b') && !said.err.contains('\x1b'), "{args:?}: {said:?}");
        said
    }

    /// Starts one that stays.
    pub fn start(&self, args: &[&str]) -> Process {
        Process::start("redforgectl", self.command(args), &self.dir.path().join("ctl.log"))
    }
}
