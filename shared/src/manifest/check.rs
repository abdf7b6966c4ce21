//! What types cannot say about a manifest: (path, problem) for everything that is wrong with it. Pure.
use super::{FlowSource, InstanceSpec, Kind, Manifest, scale};
use crate::{
    desired::{MAX_READS, Probe, is_topic_filter},
    flows::Flows,
};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Docker refuses less.
const MIN_MEMORY_BYTES: u64 = 6 << 20;
const MAX_LIST: usize = 64;
const MAX_ENV: usize = 256;
const MAX_VALUE_BYTES: usize = 32 * 1024;

type Problems = Vec<(String, String)>;

/// Everything that is wrong with a manifest, in the order of its fields.
pub fn problems(manifest: &Manifest) -> Problems {
    let mut found = Vec::new();
    match manifest {
        Manifest::Site(site) => {
            labels(&site.labels, &mut found);
            let zone = &site.spec.time_zone;
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '_' | '-' | '+');
            if zone.is_empty() || zone.len() > 64 || !zone.chars().all(plain) {
                say(&mut found, "spec.timeZone", format!("'{zone}' is not a time zone such as UTC or Europe/Berlin"));
            }
        }
        Manifest::FlowSet(set) => match &set.spec.flows {
            FlowSource::Path(path) if path.is_empty() || path.len() > 4096 || path.contains('\0') => {
                say(&mut found, "spec.flows", "the path is empty or too long".into());
            }
            FlowSource::Path(_) => {}
            FlowSource::Inline(nodes) => {
                if let Err(e) = Flows::from_value(Value::Array(nodes.clone())) {
                    say(&mut found, "spec.flows", e.to_string());
                }
            }
        },
        Manifest::Instance(instance) => {
            labels(&instance.labels, &mut found);
            spec(&instance.spec, &mut found);
        }
    }
    found
}

fn say(found: &mut Problems, path: impl Into<String>, problem: String) {
    found.push((path.into(), problem));
}

fn labels(labels: &BTreeMap<String, String>, found: &mut Problems) {
    let plain = |s: &str| s.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/'));
    if labels.len() > MAX_LIST {
        say(found, "metadata.labels", format!("{} labels, more than {MAX_LIST}", labels.len()));
    }
    for (key, value) in labels {
        let path = format!("metadata.labels.{key}");
        if key.is_empty() || key.len() > 63 || !plain(key) {
            say(found, path, "a label's name is 1 to 63 of letters, digits, '.', '_', '-' and '/'".into());
        } else if value.len() > 63 || !plain(value) {
            say(found, path, "a label's value is at most 63 of letters, digits, '.', '_', '-' and '/'".into());
        }
    }
}

fn spec(spec: &InstanceSpec, found: &mut Problems) {
    let image = &spec.image;
    if image.is_empty() || image.len() > 512 || image.starts_with('-') || !image.chars().all(|c| c.is_ascii_graphic()) {
        say(found, "spec.image", "expected an image reference such as nodered/node-red:4.1".into());
    }
    sections(spec, found);
    env(&spec.env, found);
    if spec.resources.memory.is_some_and(|m| m.0 < MIN_MEMORY_BYTES) {
        say(found, "spec.resources.memory", "less than 6Mi, which no container starts with".into());
    }
    if spec.resources.pids == Some(0) {
        say(found, "spec.resources.pids", "0 is no limit that a process can live with; leave it out instead".into());
    }
    volumes(spec, found);
    ports(spec, found);
    found.extend(scale::problems(spec));
    if spec.restart_nonce.len() > 128 {
        say(found, "spec.restartNonce", "longer than 128 bytes".into());
    }
    if let Some(ollama) = &spec.ollama {
        models(ollama, &spec.env, found);
    }
    if let Some(mosquitto) = &spec.mosquitto {
        // MQTT's own limit for a packet.
        if mosquitto.message_size_limit.is_some_and(|b| b.0 > 268_435_455) {
            say(
                found,
                "spec.mosquitto.messageSizeLimit",
                "more than 268435455 bytes, which is MQTT's own limit".into(),
            );
        }
        if mosquitto.max_inflight_messages == Some(0) {
            say(found, "spec.mosquitto.maxInflightMessages", "must be 1 to 65535".into());
        }
    }
    for (i, filter) in spec.node_red.iter().flat_map(|n| &n.reads).enumerate() {
        if !is_topic_filter(filter) || i >= MAX_READS {
            let problem = format!("'{}' is not a topic filter such as redforge/records/event", shown(filter));
            let problem = if i >= MAX_READS { format!("more than {MAX_READS} filters") } else { problem };
            say(found, format!("spec.nodeRed.reads[{i}]"), problem);
        }
    }
    if let Some(container) = &spec.container {
        command(&container.command, found);
        match &container.probe {
            Some(Probe::Http { port: 0, .. }) => {
                say(found, "spec.container.probe.http.port", "must be 1 to 65535".into());
            }
            Some(Probe::Tcp { port: 0 }) => say(found, "spec.container.probe.tcp.port", "must be 1 to 65535".into()),
            Some(Probe::Http { path, .. })
                if !path.starts_with('/') || path.len() > 512 || !path.chars().all(|c| c.is_ascii_graphic()) =>
            {
                say(found, "spec.container.probe.http.path", "must begin with '/' and hold no spaces".into());
            }
            _ => {}
        }
    }
}

fn sections(spec: &InstanceSpec, found: &mut Problems) {
    let present = [
        (Kind::NodeRed, "nodeRed", spec.node_red.is_some()),
        (Kind::Mosquitto, "mosquitto", spec.mosquitto.is_some()),
        (Kind::Ollama, "ollama", spec.ollama.is_some()),
        (Kind::Container, "container", spec.container.is_some()),
    ];
    for (kind, name, is_present) in present {
        if is_present && kind != spec.kind {
            let problem = format!("the section {name} does not belong to kind {}", spec.kind.as_str());
            say(found, format!("spec.{name}"), problem);
        }
    }
}

fn env(env: &BTreeMap<String, String>, found: &mut Problems) {
    if env.len() > MAX_ENV {
        say(found, "spec.env", format!("{} variables, more than {MAX_ENV}", env.len()));
    }
    for (name, value) in env {
        let path = format!("spec.env.{name}");
        let first = name.chars().next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
        if !first || name.len() > 128 || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            say(found, path, "a variable's name is letters, digits and '_', not beginning with a digit".into());
        } else if name.starts_with("REDFORGE_") {
            say(found, path, "names that begin with REDFORGE_ are set by the agent".into());
        } else if value.len() > MAX_VALUE_BYTES || value.contains('\0') {
            say(found, path, format!("the value is longer than {MAX_VALUE_BYTES} bytes or holds a zero byte"));
        }
    }
}

fn volumes(spec: &InstanceSpec, found: &mut Problems) {
    if spec.volumes.len() > MAX_LIST {
        say(found, "spec.volumes", format!("{} volumes, more than {MAX_LIST}", spec.volumes.len()));
    }
    let (mut names, mut paths) = (BTreeSet::new(), BTreeSet::new());
    for (i, volume) in spec.volumes.iter().enumerate() {
        let name = volume.name.as_str();
        if !names.insert(name) {
            say(found, format!("spec.volumes[{i}].name"), format!("'{name}' occurs twice"));
        }
        if name == "live" || name == "cfg" || name.starts_with("cfg-") {
            say(found, format!("spec.volumes[{i}].name"), format!("'{name}' is kept for files that the agent renders"));
        }
        let at = format!("spec.volumes[{i}].path");
        let path = volume.path.as_str();
        let parts_ok = path.split('/').skip(1).all(|p| !p.is_empty() && p != "." && p != "..");
        let plain = path.len() <= 256 && path.chars().all(|c| c.is_ascii_graphic() && c != ':');
        if !path.starts_with('/') || !parts_ok || !plain {
            say(found, at, format!("'{}' is not an absolute path without '..', ':' and spaces", shown(path)));
        } else if !paths.insert(path) {
            say(found, at, format!("'{path}' occurs twice"));
        }
    }
}

fn ports(spec: &InstanceSpec, found: &mut Problems) {
    if spec.ports.len() > MAX_LIST {
        say(found, "spec.ports", format!("{} ports, more than {MAX_LIST}", spec.ports.len()));
        return;
    }
    for (i, port) in spec.ports.iter().enumerate() {
        if port.container == 0 {
            say(found, format!("spec.ports[{i}].container"), "must be 1 to 65535".into());
        }
        if port.host == 0 {
            say(found, format!("spec.ports[{i}].host"), "must be 1 to 65535".into());
        }
        if spec.ports[..i].iter().any(|earlier| earlier.collides(port)) {
            say(found, format!("spec.ports[{i}].host"), format!("port {} is published twice", port.host));
        }
    }
}

fn models(ollama: &super::Ollama, env: &BTreeMap<String, String>, found: &mut Problems) {
    if ollama.models.len() > MAX_LIST {
        say(found, "spec.ollama.models", format!("{} models, more than {MAX_LIST}", ollama.models.len()));
    }
    let mut names = BTreeSet::new();
    for (i, model) in ollama.models.iter().enumerate() {
        let at = format!("spec.ollama.models[{i}].name");
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/' | ':');
        if model.name.is_empty() || model.name.len() > 128 || !model.name.chars().all(plain) {
            say(found, at, format!("'{}' is not a model name such as nomic-embed-text:v1.5", shown(&model.name)));
        } else if !names.insert(model.name.as_str()) {
            say(found, at, format!("'{}' occurs twice", model.name));
        }
    }
    if ollama.context_length.is_some_and(|n| !(256..=1 << 20).contains(&n)) {
        say(found, "spec.ollama.contextLength", "must be 256 to 1048576 tokens".into());
    }
    for (field, n) in [("numParallel", ollama.num_parallel), ("maxLoadedModels", ollama.max_loaded_models)] {
        if n.is_some_and(|n| !(1..=64).contains(&n)) {
            say(found, format!("spec.ollama.{field}"), "must be 1 to 64".into());
        }
    }
    if let Some(time) = ollama.keep_alive.as_ref().filter(|t| !is_keep_alive(t)) {
        let problem = format!("'{}' is not a time such as 90s, 5m, 24h, 0 or -1", shown(time));
        say(found, "spec.ollama.keepAlive", problem);
    }
    // The fields above would silently lose against these.
    for (name, field) in OLLAMA_FIELDS.iter().filter(|(name, _)| env.contains_key(*name)) {
        say(found, format!("spec.env.{name}"), format!("is set by the agent; write spec.ollama.{field} instead"));
    }
}

/// Environment variables of Ollama that have a field of their own.
const OLLAMA_FIELDS: [(&str, &str); 4] = [
    ("OLLAMA_CONTEXT_LENGTH", "contextLength"),
    ("OLLAMA_KEEP_ALIVE", "keepAlive"),
    ("OLLAMA_NUM_PARALLEL", "numParallel"),
    ("OLLAMA_MAX_LOADED_MODELS", "maxLoadedModels"),
];

/// A time as Ollama reads it, of one unit; a bare number is seconds.
fn is_keep_alive(s: &str) -> bool {
    let number = ["ms", "s", "m", "h"].iter().find_map(|unit| s.strip_suffix(unit)).unwrap_or(s);
    s == "-1" || ((1..=9).contains(&number.len()) && number.chars().all(|c| c.is_ascii_digit()))
}

fn command(command: &[String], found: &mut Problems) {
    if command.len() > MAX_LIST {
        say(found, "spec.container.command", format!("{} words, more than {MAX_LIST}", command.len()));
    }
    for (i, word) in command.iter().enumerate() {
        if word.len() > MAX_VALUE_BYTES || word.contains('\0') {
            let problem = format!("longer than {MAX_VALUE_BYTES} bytes or with a zero byte");
            say(found, format!("spec.container.command[{i}]"), problem);
        }
    }
}

fn shown(s: &str) -> String {
    s.chars().take(60).collect()
}
