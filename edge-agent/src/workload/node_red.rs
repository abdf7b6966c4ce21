//! Node-RED: its settings, its environment, and its admin API: what it runs, and giving it other flows.
//!
//! Only the runtime's own events say whether flows run; an answered deploy says nothing.
use super::{
    CONFIG_PATH, Files, Rendered, SecretNeed, Secrets, Surroundings, Unmet, broker_env, ollama, secret_text, serving,
};
use crate::runtime::File;
use redforge_shared::{
    desired::{InstanceSpec, NodeRed, Workload},
    flows::{self, Flows, InvalidFlows},
    ids::Name,
};
use serde_json::json;

mod admin;
mod comms;
mod credentials;

pub use admin::{NodeRedSeen, deploy, observe, start_flows, types};
pub use comms::RuntimeEvent;
pub use credentials::Credentials;

/// Where Node-RED listens.
pub const PORT: u16 = 1880;
/// Where it keeps its flows and credentials.
pub const DATA_PATH: &str = "/data";
/// Where it looks for node modules.
pub const MODULES_PATH: &str = "/data/node_modules";
/// The file in there that holds the flows.
const FLOW_FILE: &str = "flows.json";
/// The file in there that holds the credentials, encrypted.
pub const CREDENTIALS_FILE: &str = "flows_cred.json";
/// Is there where the next start shall leave the flows alone.
const SAFE_MODE_FILE: &str = "redforge-safe-mode";
/// What is rendered for it.
pub const CONFIG_FILES: [&str; 1] = ["settings.js"];
/// Below this path lies the admin API.
pub const ADMIN_ROOT: &str = "/admin";
/// The official image's user.
const UID: u32 = 1000;
/// The end of `settings.js`: who may use the editor.
const EDITOR: &str = include_str!("node_red/editor.js");
/// What Node-RED needs beside its JavaScript heap.
const BESIDE_HEAP_BYTES: u64 = 128 << 20;
/// How long what flows keep waits until it lies on the disk: what a power cut may take. Node-RED's own is 30.
const STORE_FLUSH_S: u32 = 10;
/// Heap when the container has no limit.
const DEFAULT_HEAP_MIB: u64 = 512;

pub(super) fn secrets(instance: &Name) -> [SecretNeed; 2] {
    [(token_name(instance), 32), (credential_secret_name(instance), 32)]
}

fn token_name(instance: &Name) -> String {
    format!("node-red/{instance}/token")
}

/// The agent's token for this instance's admin API.
pub fn token(secrets: &Secrets, instance: &Name) -> String {
    secret_text(secrets, &token_name(instance))
}

/// What a credentials file of this instance holds; nothing, where it cannot be read with the instance's own secret.
pub fn credentials(secrets: &Secrets, instance: &Name, file: &[u8]) -> Credentials {
    credentials::open(file, &secret_text(secrets, &credential_secret_name(instance))).unwrap_or_default()
}

fn credential_secret_name(instance: &Name) -> String {
    format!("node-red/{instance}/credential-secret")
}

pub(super) fn render(
    spec: &InstanceSpec,
    workload: &NodeRed,
    around: Surroundings<'_>,
    rendered: &mut Rendered,
) -> Result<(), Unmet> {
    let broker = serving(around.desired, workload.broker.as_ref(), |w| matches!(w, Workload::Mosquitto(_)))?;
    let models = serving(around.desired, workload.ollama.as_ref(), |w| matches!(w, Workload::Ollama(_)))?;
    let env = &mut rendered.container.env;
    if let Some(broker) = broker {
        env.extend(broker_env(spec, broker, around.secrets));
    }
    if let Some(models) = models {
        env.insert("OLLAMA_URL".into(), format!("http://{models}:{}", ollama::PORT));
    }
    env.extend(super::service_env(workload, around)?);
    env.insert("REDFORGE_INSTANCE".into(), spec.name.to_string());
    env.insert("REDFORGE_HOST".into(), around.desired.host_name.to_string());
    // Empty: the flow file is the one that the settings name.
    env.insert("FLOWS".into(), String::new());
    let heap = heap_mib(spec.resources.memory_bytes);
    // Others may stand beside it; the limit of the heap is ours.
    let options = env.entry("NODE_OPTIONS".into()).or_default();
    *options = format!("{options} --max-old-space-size={heap}").trim_start().to_owned();

    let credential_secret = secret_text(around.secrets, &credential_secret_name(&spec.name));
    let text = settings(&token(around.secrets, &spec.name), &credential_secret);
    let file = File { name: CONFIG_FILES[0].into(), bytes: text.into_bytes(), uid: UID, mode: 0o400 };
    let volume = around.names.config_volume(&spec.name, Files::hash(std::slice::from_ref(&file)));
    if let Some(digest) = workload.flow_set {
        let set = around.flow_set.ok_or(Unmet::FlowSet(digest))?;
        rendered.modules = set.modules_hash().map(|hash| (around.names.config_volume(&spec.name, hash), hash));
    }
    rendered.config_is_watched = true;
    rendered.config = Some(Files { volume, path: CONFIG_PATH.into(), files: vec![file] });
    rendered.container.command = vec!["--settings".into(), format!("{CONFIG_PATH}/settings.js")];
    // Every node gets 15 s to close; after that Node-RED ends by itself.
    rendered.container.stop_timeout_s = 25;
    Ok(())
}

/// What makes the next start one in safe mode, put into the folder of its data; that start takes it away.
pub fn safe_mode() -> File {
    File { name: SAFE_MODE_FILE.into(), bytes: vec![], uid: UID, mode: 0o644 }
}

/// The files of a flow set's modules, as they lie in their volume.
pub fn module_files(tar: &[u8]) -> Result<Vec<File>, InvalidFlows> {
    let files = flows::unpack_modules(tar)?.into_iter();
    Ok(files.map(|f| File { name: f.path, bytes: f.bytes, uid: UID, mode: 0o444 }).collect())
}

/// The file from which a runtime takes its flows when it starts.
pub fn flow_file(flows: &Flows) -> File {
    File { name: FLOW_FILE.into(), bytes: flows.canonical(), uid: UID, mode: 0o644 }
}

/// The heap leaves room for the rest of the process inside the container's limit.
fn heap_mib(limit: Option<u64>) -> u64 {
    limit.map_or(DEFAULT_HEAP_MIB, |l| l.saturating_sub(BESIDE_HEAP_BYTES).max(l / 2) >> 20)
}

/// `settings.js`: one machine user with a token, and whom the agent lets in in developer mode; nothing is installed at run time.
fn settings(token: &str, credential_secret: &str) -> String {
    let agent = json!({"user": "redforge-agent", "token": token});
    let settings = json!({
        "flowFile": FLOW_FILE,
        "flowFilePretty": false,
        "credentialSecret": credential_secret,
        "uiHost": "0.0.0.0",
        "uiPort": PORT,
        "httpAdminRoot": ADMIN_ROOT,
        "httpNodeRoot": "/",
        // With it true the runtime would not tell us over /comms what it runs.
        "disableEditor": false,
        "editorTheme": { "projects": { "enabled": false }, "tours": false },
        "externalModules": {
            "autoInstall": false,
            "palette": { "allowInstall": false, "allowUpload": false },
            "modules": { "allowInstall": false },
        },
        "functionExternalModules": false,
        "contextStorage": { "default": { "module": "memory" }, "persistent": { "module": "localfilesystem", "config": { "flushInterval": STORE_FLUSH_S } } },
        "diagnostics": { "enabled": true, "ui": false },
        "runtimeState": { "enabled": true, "ui": false },
        "telemetry": { "enabled": false, "updateNotification": false },
        "apiMaxLength": "20mb",
        "mqttReconnectTime": 3000,
        "nodeCloseTimeout": 15000,
        "logging": { "console": { "level": "info", "metrics": false, "audit": false } },
    });
    format!(
        "// Rendered by RedForge; changes are overwritten.\n\
         const settings = {settings};\n\
         const agent = {agent};\n\n\
         // For one start: flows that end the runtime would end each.\n\
         try {{ require(\"fs\").unlinkSync(\"{DATA_PATH}/{SAFE_MODE_FILE}\"); process.env.NODE_RED_ENABLE_SAFE_MODE = \"true\"; }} catch {{}}\n\n{EDITOR}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_heap_fits_the_limit() {
        assert_eq!(heap_mib(Some(512 << 20)), 384);
        assert_eq!(heap_mib(Some(192 << 20)), 96);
        assert_eq!(heap_mib(None), 512);
    }

    #[test]
    fn settings_lock_the_runtime_down() {
        insta::assert_snapshot!(settings("TOKEN", "SECRET"));
    }
}
