//! What types cannot say about a manifest: (path, problem) for everything that is wrong with it. Pure.
use super::{FlowSource, InstanceSpec, Kind, Manifest, Probe, guest, scale};
use crate::{
    desired::{
        MAX_READS, is_topic_filter,
        rules::{self, MAX_ENV, MAX_LIST, MIN_CACHE_BYTES, Ruling, shown},
    },
    flows::Flows,
};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

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

fn rule(found: &mut Problems, path: impl Into<String>, ruling: Ruling) {
    if let Err(problem) = ruling {
        say(found, path, problem);
    }
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
    sections(spec, found);
    if spec.runtime().is_some() {
        return found.extend(guest::problems(spec));
    }
    if spec.image.is_empty() {
        say(
            found,
            "spec.image",
            "is missing or empty: expected an image reference such as nodered/node-red:4.1".into(),
        );
    } else {
        rule(found, "spec.image", rules::image(&spec.image));
    }
    env(spec, found);
    rule(found, "spec.resources.memory", spec.resources.memory.map_or(Ok(()), |m| rules::memory(m.0)));
    rule(found, "spec.resources.pids", spec.resources.pids.map_or(Ok(()), rules::pids));
    volumes(spec, found);
    ports(spec, found);
    found.extend(scale::problems(spec));
    rule(found, "spec.restartNonce", rules::nonce(&spec.restart_nonce));
    probes(spec, found);
    services(spec, found);
    if let Some(ollama) = &spec.ollama {
        models(ollama, found);
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
    let replicated = spec.replicas.is_some_and(|n| n > 1) || spec.autoscale.is_some();
    if replicated && spec.node_red.as_ref().is_some_and(|n| n.developer.is_some()) {
        let problem =
            "several containers have no one editor: set replicas to 1, and leave autoscale out, while it is open";
        say(found, "spec.nodeRed.developer", problem.into());
    }
    if let Some(container) = &spec.container {
        command(&container.command, found);
    }
}

/// The sections of valkey, redis and tika.
fn services(spec: &InstanceSpec, found: &mut Problems) {
    for (name, cache) in [("valkey", &spec.valkey), ("redis", &spec.redis)] {
        let most = cache.as_ref().and_then(|c| c.max_memory).map(|b| b.0);
        let at = format!("spec.{name}.maxMemory");
        match (most, spec.resources.memory.map(|b| b.0)) {
            (Some(most), _) if most < MIN_CACHE_BYTES => say(found, at, "less than 1Mi".into()),
            (Some(most), Some(limit)) if most > limit => {
                say(found, at, "more than resources.memory: the server would be killed before it is full".into());
            }
            _ => {}
        }
    }
    let timeout = spec.tika.as_ref().and_then(|t| t.task_timeout_seconds);
    rule(found, "spec.tika.taskTimeoutSeconds", timeout.map_or(Ok(()), |t| rules::between(t, 1, 3600)));
}

fn probes(spec: &InstanceSpec, found: &mut Problems) {
    let section = spec.container.as_ref().and_then(|c| c.probe.as_ref());
    if spec.probe.is_some() && section.is_some() {
        say(found, "spec.container.probe", "spec.probe is there too, and says the same".into());
    }
    for (at, probe) in [("spec.probe", spec.probe.as_ref()), ("spec.container.probe", section)] {
        if let Some(probe) = probe {
            one_probe(at, probe, spec.kind, found);
        }
    }
}

fn one_probe(at: &str, probe: &Probe, kind: Kind, found: &mut Problems) {
    let questions = probe.questions();
    if questions.len() != 1 {
        say(found, at, "exactly one of http, tcp, mqttEcho, flowMessage and modelPrompt is needed".into());
    }
    let belongs = [("mqttEcho", Kind::Mosquitto), ("flowMessage", Kind::NodeRed), ("modelPrompt", Kind::Ollama)];
    for (question, of) in belongs {
        if questions.contains(&question) && kind != of {
            say(found, format!("{at}.{question}"), format!("is for kind {}, not for {}", of.as_str(), kind.as_str()));
        }
    }
    for (name, value, most) in [
        ("periodSeconds", probe.period_seconds, 3600),
        ("timeoutSeconds", probe.timeout_seconds, 300),
        ("failureThreshold", probe.failure_threshold, 100),
    ] {
        rule(found, format!("{at}.{name}"), value.map_or(Ok(()), |v| rules::between(v, 1, most)));
    }
    if let Some(http) = &probe.http {
        rule(found, format!("{at}.http.port"), rules::port(http.port));
        rule(found, format!("{at}.http.path"), rules::http_path(&http.path));
    }
    if let Some(tcp) = &probe.tcp {
        rule(found, format!("{at}.tcp.port"), rules::port(tcp.port));
    }
    if let Some(flow) = &probe.flow_message {
        let at = format!("{at}.flowMessage");
        match (&flow.path, &flow.topic, &flow.answer_topic) {
            (Some(path), None, None) => rule(found, format!("{at}.path"), rules::http_path(path)),
            (None, Some(topic), Some(answer)) => {
                rule(found, format!("{at}.topic"), rules::topic(topic));
                rule(found, format!("{at}.answerTopic"), rules::topic(answer));
            }
            _ => say(found, at.clone(), "needs either path, or topic and answerTopic".into()),
        }
        rule(found, format!("{at}.expect"), rules::probe_text(&flow.expect));
        rule(found, format!("{at}.message"), flow.message.as_deref().map_or(Ok(()), rules::probe_text));
    }
    if let Some(prompt) = &probe.model_prompt {
        rule(found, format!("{at}.modelPrompt.model"), rules::model(&prompt.model));
        let text = prompt.prompt.as_deref().map_or(Ok(()), rules::probe_text);
        rule(found, format!("{at}.modelPrompt.prompt"), text);
    }
}

fn sections(spec: &InstanceSpec, found: &mut Problems) {
    let present = [
        (Kind::NodeRed, "nodeRed", spec.node_red.is_some()),
        (Kind::Mosquitto, "mosquitto", spec.mosquitto.is_some()),
        (Kind::Ollama, "ollama", spec.ollama.is_some()),
        (Kind::Valkey, "valkey", spec.valkey.is_some()),
        (Kind::Redis, "redis", spec.redis.is_some()),
        (Kind::Tika, "tika", spec.tika.is_some()),
        (Kind::Container, "container", spec.container.is_some()),
    ];
    for (kind, name, is_present) in present {
        if is_present && kind != spec.kind {
            let problem = format!("the section {name} does not belong to kind {}", spec.kind.as_str());
            say(found, format!("spec.{name}"), problem);
        }
    }
}

fn env(spec: &InstanceSpec, found: &mut Problems) {
    let count = spec.env.len() + spec.secret_env.len();
    if count > MAX_ENV {
        say(found, "spec.env", format!("{count} variables, more than {MAX_ENV}"));
    }
    for (name, value) in &spec.env {
        rule(found, format!("spec.env.{name}"), rules::env_name(name).and_then(|()| rules::env_value(value)));
    }
    for name in spec.secret_env.keys() {
        let at = format!("spec.secretEnv.{name}");
        rule(found, at.clone(), rules::env_name(name));
        if spec.env.contains_key(name) {
            say(found, at, "the variable is also in spec.env".into());
        }
    }
    let kind = spec.kind.as_str();
    for (map, name) in spec.env.keys().map(|n| ("env", n)).chain(spec.secret_env.keys().map(|n| ("secretEnv", n))) {
        rule(found, format!("spec.{map}.{name}"), rules::env_of_kind(kind, name));
    }
    if let (Kind::NodeRed, Some(options)) = (spec.kind, spec.env.get("NODE_OPTIONS")) {
        rule(found, "spec.env.NODE_OPTIONS", rules::node_options(options));
    }
    if spec.kind == Kind::NodeRed && spec.secret_env.contains_key("NODE_OPTIONS") {
        say(found, "spec.secretEnv.NODE_OPTIONS", "is no secret: write it in spec.env".into());
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
        rule(found, format!("spec.volumes[{i}].name"), rules::volume_name(name));
        let at = format!("spec.volumes[{i}].path");
        let path = volume.path.as_str();
        match rules::volume_path(path) {
            Err(problem) => say(found, at, problem),
            Ok(()) if !paths.insert(path) => say(found, at, format!("'{path}' occurs twice")),
            Ok(()) => {}
        }
    }
}

fn ports(spec: &InstanceSpec, found: &mut Problems) {
    if spec.ports.len() > MAX_LIST {
        say(found, "spec.ports", format!("{} ports, more than {MAX_LIST}", spec.ports.len()));
        return;
    }
    for (i, port) in spec.ports.iter().enumerate() {
        rule(found, format!("spec.ports[{i}].container"), rules::port(port.container));
        rule(found, format!("spec.ports[{i}].host"), rules::port(port.host));
        rule(found, format!("spec.ports[{i}].address"), rules::publish_address(port.address));
        if spec.ports[..i].iter().any(|earlier| earlier.collides(port)) {
            say(found, format!("spec.ports[{i}].host"), format!("port {} is published twice", port.host));
        }
    }
}

fn models(ollama: &super::Ollama, found: &mut Problems) {
    if ollama.models.len() > MAX_LIST {
        say(found, "spec.ollama.models", format!("{} models, more than {MAX_LIST}", ollama.models.len()));
    }
    let mut names = BTreeSet::new();
    for (i, model) in ollama.models.iter().enumerate() {
        let at = format!("spec.ollama.models[{i}].name");
        match rules::model(&model.name) {
            Err(problem) => say(found, at, problem),
            Ok(()) if !names.insert(model.name.as_str()) => say(found, at, format!("'{}' occurs twice", model.name)),
            Ok(()) => {}
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
    let preloaded = ollama.models.iter().filter(|m| m.preload).count();
    let most = ollama.max_loaded_models.unwrap_or(OLLAMA_LOADS);
    if preloaded > usize::from(most) && most > 0 {
        let problem = format!(
            "{preloaded} models are preloaded and {most} are in memory at once: they would push each other out without end; \
             preload fewer, or write how many the memory holds"
        );
        say(found, "spec.ollama.maxLoadedModels", problem);
    }
    if let Some(time) = ollama.keep_alive.as_ref().filter(|t| !is_keep_alive(t)) {
        let problem = format!("'{}' is not a time such as 90s, 5m, 24h, 0 or -1", shown(time));
        say(found, "spec.ollama.keepAlive", problem);
    }
}

/// Models that Ollama keeps in memory where nothing is said, on a host with one graphics card or none.
const OLLAMA_LOADS: u16 = 3;

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
        rule(found, format!("spec.container.command[{i}]"), rules::command_word(word));
    }
}
