//! A Node-RED runtime as a person at the host meets it: through its admin API and the files in its volumes.
//!
//! Everything is done inside its container by its own Node.js, so that a fault of the agent's client cannot hide here.
use crate::engine::{docker, image, inspect};
use redforge_shared::ids::Digest;
use serde_json::{Value, json};

/// What every script begins with: the token as it stands in the settings, and a call of the admin API.
const PRELUDE: &str = r#"
const fs = require("fs"), crypto = require("crypto");
const settings = fs.readFileSync("/redforge/config/settings.js", "utf8");
const token = /^const agent = \{.*"token":"([^"]+)"/m.exec(settings)[1];
const secret = /"credentialSecret":"([^"]+)"/.exec(settings)[1];
const admin = async (method, path, body, headers) => {
  const answer = await fetch("http://127.0.0.1:1880/admin" + path, { method, body: body && JSON.stringify(body), headers: {
    authorization: "Bearer " + token, "content-type": "application/json", "node-red-api-version": "v2", ...headers } });
  const text = await answer.text();
  if (!answer.ok) throw new Error(path + " " + answer.status + " " + text);
  return text ? JSON.parse(text) : null;
};
const credentials = () => {
  const { $: sealed, ...open } = JSON.parse(fs.readFileSync("/data/flows_cred.json", "utf8"));
  if (!sealed || Object.keys(open).length) throw new Error("credentials lie there in the clear");
  const key = crypto.createHash("sha256").update(secret).digest(), iv = Buffer.from(sealed.slice(0, 32), "hex");
  const cipher = crypto.createDecipheriv("aes-256-ctr", key, iv);
  return JSON.parse(cipher.update(sealed.slice(32), "base64", "utf8") + cipher.final("utf8"));
};
const done = value => console.log(JSON.stringify(value === undefined ? null : value));
"#;

/// Hash of each part of a runtime that can drift.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parts {
    pub flows: Digest,
    pub credentials: Digest,
    pub settings: Digest,
}

/// The runtime in a container.
#[derive(Clone, Debug)]
pub struct NodeRed {
    pub container: String,
}

impl NodeRed {
    /// Runs a script in the container; what it gives to `done` comes back.
    pub fn script(&self, body: &str) -> Value {
        self.try_script(body).unwrap_or_else(|e| panic!("{e}"))
    }

    /// The same where the runtime may be away.
    pub fn try_script(&self, body: &str) -> Result<Value, String> {
        let script =
            format!("{PRELUDE}(async () => {{ {body} }})().catch(e => {{ console.error(e); process.exit(1) }})");
        let out = crate::engine::try_docker(&["exec", &self.container, "/usr/local/bin/node", "-e", &script])?;
        serde_json::from_str(out.lines().last().unwrap_or_default()).map_err(|e| format!("{e}: {out}"))
    }

    /// The flows that it says it runs, and its revision of them.
    pub fn flows(&self) -> Value {
        self.script("done(await admin('GET', '/flows'))")
    }

    /// Deploys these flows as an editor would; with all credentials anew, or with none and the runtime keeps its own.
    pub fn deploy(&self, flows: &Value, credentials: Option<&Value>, kind: &str) {
        let mut body = json!({"flows": flows});
        if let Some(credentials) = credentials {
            body["credentials"] = credentials.clone();
        }
        self.script(&format!("done(await admin('POST', '/flows', {body}, {{'node-red-deployment-type': '{kind}'}}))"));
    }

    /// The credentials that lie in its file.
    pub fn credentials(&self) -> Value {
        self.script("done(credentials())")
    }

    /// What is there now (of credentials what nodes read); an error while it is being restarted.
    pub fn parts(&self) -> Result<Parts, String> {
        let seen = self.try_script("done([(await admin('GET', '/flows')).flows, Object.entries(credentials()).map(([id, c]) => [id, c.user, c.password]), settings])")?;
        let hash = |v: &Value| Digest::of(v.to_string().as_bytes());
        Ok(Parts { flows: hash(&seen[0]), credentials: hash(&seen[1]), settings: hash(&seen[2]) })
    }

    /// Adds a line to a file of the volume that is mounted at `path`, which the container itself may only read.
    pub fn tamper(&self, path: &str, file: &str, line: &str) {
        let format =
            format!("{{{{range .Mounts}}}}{{{{if eq .Destination \"{path}\"}}}}{{{{.Name}}}}{{{{end}}}}{{{{end}}}}");
        let volume = inspect(&self.container, &format);
        assert!(!volume.is_empty(), "nothing is mounted at {path}");
        let command = format!("echo '{line}' >> '/v/{file}'");
        docker(&[
            "run",
            "--rm",
            "--network=none",
            "--user=0",
            "-v",
            &format!("{volume}:/v"),
            &image("busybox"),
            "sh",
            "-c",
            &command,
        ]);
    }

    /// Id and start of the container: equal as long as nobody touched it.
    pub fn run(&self) -> String {
        inspect(&self.container, "{{.Id}} {{.State.StartedAt}}")
    }
}
