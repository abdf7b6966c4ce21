//! Instances that share a runtime: what must be so for them to, checked at every write that could change it.
use super::{ApiError, Violation};
use crate::{fleet::runtimes, store::changes::Changes};
use redforge_shared::{
    desired::Drift,
    ids::{HostId, Name},
    manifest::{InstanceSpec, Kind},
};
use serde_json::Value;
use std::collections::BTreeMap;

/// What is wrong with the runtimes that a host's instances name. Pure.
pub(super) fn problems(host: &Name, specs: &[(&str, InstanceSpec)]) -> Vec<Violation> {
    let mut found = Vec::new();
    for (name, spec) in specs {
        let Some(runtime) = spec.runtime() else { continue };
        let other = specs.iter().find(|(n, _)| *n == runtime.as_str()).map(|(_, s)| s);
        let problem = match other {
            None => format!("the host has no instance {runtime}"),
            Some(s) if s.kind != Kind::NodeRed => format!("{runtime} is of kind {}, not node-red", s.kind.as_str()),
            Some(s) if s.runtime().is_some() => {
                format!("{runtime} has no runtime of its own: name the one that it runs in, or give it one")
            }
            Some(s) if s.autoscale.is_some() || s.replicas.is_some_and(|n| n > 1) => {
                format!("{runtime} has replicas, and each would run these flows: take one, or a runtime of its own")
            }
            Some(s) if s.node_red.as_ref().is_some_and(|n| n.drift == Drift::Adopt) => {
                format!(
                    "edits at {runtime} are adopted, and nobody could tell whose they are: take drift enforce or report"
                )
            }
            Some(s) if s.node_red.as_ref().is_some_and(|n| n.developer.is_some()) => {
                format!(
                    "{runtime} is in developer mode, and nobody could tell whose flows are edited: close its editor first"
                )
            }
            Some(_) => continue,
        };
        found.push(Violation { field: format!("hosts/{host}/instances/{name} spec.nodeRed.runtime"), problem });
    }
    found
}

/// The specs of a host that can be read, by name.
pub(super) fn specs<'a>(instances: &'a [(String, Value)]) -> Vec<(&'a str, InstanceSpec)> {
    let read = |i: &'a (String, Value)| Some((i.0.as_str(), serde_json::from_value(i.1.clone()).ok()?));
    instances.iter().filter_map(read).collect()
}

/// Can the flow sets of each runtime of this host stand side by side, as they are now?
pub(super) async fn merge(changes: &mut Changes, host: HostId, name: &Name) -> Result<Vec<Violation>, ApiError> {
    let instances = changes.instances(host).await?;
    let specs = specs(&instances).into_iter().filter_map(|(n, s)| Some((n.parse().ok()?, s)));
    let specs: BTreeMap<Name, InstanceSpec> = specs.collect();
    let mut found = Vec::new();
    for (runtime, parts) in runtimes::shared(specs.iter()) {
        let names: Vec<&Name> = parts.iter().map(|p| &p.flow_set).collect();
        let tars = changes.newest_tars(&names).await?;
        // One that is not there yet is told where it is named.
        let parts = parts.iter().filter_map(|p| Some((p.instance.clone(), tars.get(&p.flow_set)?.clone())));
        let parts: Vec<_> = parts.collect();
        let packed = tokio::task::spawn_blocking(move || runtimes::pack(&parts)).await;
        let problem = match packed {
            Ok(Ok(_)) => continue,
            Ok(Err(e)) => redforge_shared::error::Chain(&e).to_string(),
            Err(_) => "its flow sets cannot be read".into(),
        };
        found.push(Violation { field: format!("hosts/{name}/instances/{runtime} spec.nodeRed.flowSet"), problem });
    }
    Ok(found)
}

/// The same for every host that runs a flow set which was just put in place.
pub(super) async fn merge_where_run(changes: &mut Changes, flow_set: &Name) -> Result<(), ApiError> {
    let mut violations = Vec::new();
    for (host, name) in changes.hosts_running(flow_set).await? {
        violations.extend(merge(changes, host, &name).await?);
    }
    if violations.is_empty() { Ok(()) } else { Err(ApiError::Invalid { violations }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_guest_needs_a_runtime_that_is_one() {
        let spec = |value: serde_json::Value| -> InstanceSpec {
            let mut whole = json!({"host": "h", "kind": "node-red"});
            whole.as_object_mut().expect("an object").extend(value.as_object().expect("an object").clone());
            serde_json::from_value(whole).expect("a spec")
        };
        let in_runtime = |of: &str| spec(json!({"nodeRed": {"flowSet": "f", "runtime": of}}));
        let specs = [
            ("broker", spec(json!({"kind": "mosquitto"}))),
            ("main", spec(json!({}))),
            ("many", spec(json!({"replicas": 2}))),
            ("edited", spec(json!({"nodeRed": {"drift": "adopt"}}))),
            ("open", spec(json!({"nodeRed": {"developer": {"until": "2026-11-24T00:00:00Z"}}}))),
            ("a", in_runtime("main")),
            ("b", in_runtime("nobody")),
            ("c", in_runtime("broker")),
            ("d", in_runtime("a")),
            ("e", in_runtime("many")),
            ("f", in_runtime("edited")),
            ("g", in_runtime("g")),
            ("h", in_runtime("open")),
        ];
        let told: Vec<_> = problems(&"h".parse().expect("a name"), &specs)
            .into_iter()
            .map(|v| format!("{}: {}", v.field.trim_start_matches("hosts/h/instances/"), v.problem))
            .collect();
        insta::assert_snapshot!(told.join("\n"));
    }
}
