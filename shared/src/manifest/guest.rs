//! An instance whose flows run in the runtime of another one: it has flows and a name, and everything else is the other's.
use super::{InstanceSpec, Kind};
use serde_json::Value;

/// Everything that such an instance cannot say, with the path.
pub(super) fn problems(spec: &InstanceSpec) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut say = |path: String, problem: String| found.push((path, problem));
    let Some(runtime) = spec.runtime().filter(|_| spec.kind == Kind::NodeRed) else { return found };
    if spec.flow_set().is_none() {
        say("spec.nodeRed.flowSet".into(), format!("is missing: it is what runs in the runtime of {runtime}"));
    }
    let Ok(Value::Object(said)) = serde_json::to_value(spec) else { return found };
    let section = said.get("nodeRed").and_then(Value::as_object).cloned().unwrap_or_default();
    let own = said.keys().filter(|k| !matches!(k.as_str(), "host" | "kind" | "nodeRed" | "suspend"));
    let of_section = section.keys().filter(|k| !matches!(k.as_str(), "flowSet" | "runtime"));
    let paths = own.map(|k| format!("spec.{k}")).chain(of_section.map(|k| format!("spec.nodeRed.{k}")));
    for path in paths {
        say(path, format!("is the runtime's: say it at instance {runtime}, whose container it is"));
    }
    found
}
