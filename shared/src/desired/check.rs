//! What types cannot say of a document that came from a hub: the first value that no manifest could have had. Pure.
//!
//! The hub checks manifests by the same rules; this is for the hub that is newer, broken or hostile. Which volumes,
//! networks and modes a container gets is not up to the document at all: there is no field for them.
use super::{
    Check, DesiredState, InstanceSpec, MAX_READS, Probe, Workload, is_topic_filter,
    rules::{self, MAX_ENV, MAX_LIST, Ruling},
};
use std::collections::BTreeSet;

/// Path and problem.
type Found = Result<(), (String, String)>;

/// The first value of the document that is not acceptable.
pub fn acceptable(state: &DesiredState) -> Found {
    for (i, spec) in state.instances.iter().enumerate() {
        instance(spec).map_err(|(path, problem)| (format!("instances[{i}].{path}"), problem))?;
    }
    Ok(())
}

fn at(path: impl Into<String>, ruling: Ruling) -> Found {
    ruling.map_err(|problem| (path.into(), problem))
}

fn few(path: &str, len: usize, most: usize) -> Found {
    at(path, if len <= most { Ok(()) } else { Err(format!("{len} entries, more than {most}")) })
}

fn instance(spec: &InstanceSpec) -> Found {
    at("image", rules::image(&spec.image))?;
    few("env", spec.env.len() + spec.secret_env.len(), MAX_ENV)?;
    for (name, value) in &spec.env {
        at(format!("env.{}", rules::shown(name)), rules::env_name(name).and_then(|()| rules::env_value(value)))?;
    }
    for name in spec.secret_env.keys() {
        let twice = if spec.env.contains_key(name) { Err("the variable is also in env".into()) } else { Ok(()) };
        at(format!("secret_env.{}", rules::shown(name)), rules::env_name(name).and(twice))?;
    }
    let kind = spec.workload.kind();
    for (map, name) in spec.env.keys().map(|n| ("env", n)).chain(spec.secret_env.keys().map(|n| ("secret_env", n))) {
        at(format!("{map}.{}", rules::shown(name)), rules::env_of_kind(kind, name))?;
    }
    if let (Workload::NodeRed(_), Some(options)) = (&spec.workload, spec.env.get("NODE_OPTIONS")) {
        at("env.NODE_OPTIONS", rules::node_options(options))?;
    }
    at("resources.memory_bytes", spec.resources.memory_bytes.map_or(Ok(()), rules::memory))?;
    at("resources.pids", spec.resources.pids.map_or(Ok(()), rules::pids))?;
    volumes(spec)?;
    few("ports", spec.ports.len(), MAX_LIST)?;
    for (i, port) in spec.ports.iter().enumerate() {
        at(format!("ports[{i}].container"), rules::port(port.container))?;
        at(format!("ports[{i}].host"), rules::port(port.host))?;
        at(format!("ports[{i}].address"), rules::publish_address(port.address))?;
    }
    at("restart_nonce", rules::nonce(&spec.restart_nonce))?;
    if let Some(check) = &spec.probe {
        probe(check, "probe")?;
    }
    workload(spec)
}

fn volumes(spec: &InstanceSpec) -> Found {
    few("volumes", spec.volumes.len(), MAX_LIST)?;
    let (mut names, mut paths) = (BTreeSet::new(), BTreeSet::new());
    for (i, volume) in spec.volumes.iter().enumerate() {
        at(format!("volumes[{i}].name"), rules::volume_name(volume.name.as_str()))?;
        at(format!("volumes[{i}].path"), rules::volume_path(&volume.path))?;
        let twice = |new: bool, what: &str| if new { Ok(()) } else { Err(format!("'{what}' occurs twice")) };
        at(format!("volumes[{i}].name"), twice(names.insert(&volume.name), volume.name.as_str()))?;
        at(format!("volumes[{i}].path"), twice(paths.insert(&volume.path), &volume.path))?;
    }
    Ok(())
}

fn workload(spec: &InstanceSpec) -> Found {
    match &spec.workload {
        Workload::NodeRed(n) => {
            few("workload.node-red.reads", n.reads.len(), MAX_READS)?;
            for (i, filter) in n.reads.iter().enumerate() {
                let ruling = if is_topic_filter(filter) { Ok(()) } else { Err("is not a topic filter".into()) };
                at(format!("workload.node-red.reads[{i}]"), ruling)?;
            }
        }
        Workload::Ollama(o) => {
            few("workload.ollama.models", o.models.len(), MAX_LIST)?;
            for (i, model) in o.models.iter().enumerate() {
                at(format!("workload.ollama.models[{i}].name"), rules::model(&model.name))?;
            }
        }
        Workload::Container(c) => {
            few("workload.container.command", c.command.len(), MAX_LIST)?;
            for (i, word) in c.command.iter().enumerate() {
                at(format!("workload.container.command[{i}]"), rules::command_word(word))?;
            }
            if let Some(p) = &c.probe {
                probe(&Check::usual(p.clone()), "workload.container.probe")?;
            }
        }
        Workload::Tika(t) => at("workload.tika.task_timeout_s", rules::between(t.task_timeout_s, 1, 3600))?,
        Workload::Mosquitto(_) | Workload::Valkey(_) | Workload::Redis(_) => {}
    }
    Ok(())
}

fn probe(check: &Check, path: &str) -> Found {
    at(format!("{path}.period_s"), rules::between(check.period_s, 1, 3600))?;
    at(format!("{path}.timeout_s"), rules::between(check.timeout_s, 1, 300))?;
    at(format!("{path}.failure_threshold"), rules::between(check.failure_threshold, 1, 100))?;
    let ruling = match &check.probe {
        Probe::Http { port, path } => rules::port(*port).and_then(|()| rules::http_path(path)),
        Probe::Tcp { port } => rules::port(*port),
        Probe::MqttEcho {} => Ok(()),
        Probe::FlowHttp { path, message, expect } => {
            rules::http_path(path).and(rules::probe_text(message)).and(rules::probe_text(expect))
        }
        Probe::FlowMqtt { topic, answer_topic, message, expect } => rules::topic(topic)
            .and(rules::topic(answer_topic))
            .and(rules::probe_text(message))
            .and(rules::probe_text(expect)),
        Probe::ModelPrompt { model, prompt, .. } => rules::model(model).and(rules::probe_text(prompt)),
    };
    at(format!("{path}.probe"), ruling)
}
