//! `flowset diff`: two versions of a flow set beside each other, node by node.
//!
//! What differs is decided by `redforge_shared::flows::diff`; here it is gathered and shown. Exit codes as of diff(1): an
//! error is 2, so that a script can tell it from a difference.
use crate::{
    cli::{Diff, Version},
    config::Connection,
    connection,
    failure::{Exit, Failure, Outcome},
    flow_files::{self, Pulled, short},
    manifest_files,
    node_modules::Source,
    output::{self, Format},
    words,
};
use redforge_shared::{
    flows::{
        self,
        diff::{FlowsDiff, NodeChange, NodeRef, Part},
    },
    ids::Name,
};
use serde_json::{Value, json};
use std::{collections::BTreeSet, path::PathBuf, process::ExitCode};

/// Compares, says what differs, and whether something does.
pub async fn run(settings: &Connection, a: &Diff) -> Outcome<ExitCode> {
    compare(settings, a).await.map_err(|failure| Failure { exit: Exit::Usage, ..failure })
}

async fn compare(settings: &Connection, a: &Diff) -> Outcome<ExitCode> {
    let name = match (&a.name, &a.file) {
        (Some(name), _) => words::name(name, "flowsets/")?,
        (None, Some(folder)) => flow_files::name_of(folder)?,
        (None, None) => return Err(Failure::new(Exit::Usage, "name the flow set, or a folder with -f")),
    };
    let drafted = a.version.draft.is_some() || a.version.host.is_some();
    // Files are read before the hub is asked.
    let files = match (&a.file, drafted) {
        (Some(path), _) => Some(local(&name, path.clone())?),
        (None, true) => None,
        (None, false) => Some(local(&name, PathBuf::from(name.as_str()))?),
    };
    let mut admin = connection::connect(settings).await?;
    let (before, after) = match files {
        Some(files) => (flow_files::fetch(&mut admin, &name, &a.version).await?, files),
        None => {
            let newest = flow_files::fetch(&mut admin, &name, &Version::default()).await?;
            (newest, flow_files::fetch(&mut admin, &name, &a.version).await?)
        }
    };
    let differ = flows::diff::diff(&before.flows, &after.flows);
    let beside = beside(&before, &after);
    let same = differ.is_empty() && beside.is_empty();
    match a.output {
        Format::Json | Format::Yaml => {
            let mut object = json!({"before": before.what, "after": after.what, "same": same, "otherParts": beside});
            let flows = serde_json::to_value(&differ).map_err(|e| Failure::error(e.to_string()))?;
            flows.as_object().into_iter().flatten().for_each(|(k, v)| object[k] = v.clone());
            output::line(&if a.output == Format::Json {
                serde_json::to_string_pretty(&object).map_err(|e| Failure::error(e.to_string()))?
            } else {
                output::yaml(&[object])?.trim_end().to_owned()
            });
        }
        Format::Name => ids(&differ).iter().for_each(|id| output::line(&output::plain(id))),
        Format::Table | Format::Wide if same => {
            output::say(&format!("no difference: {} and {}", before.what, after.what));
        }
        Format::Table | Format::Wide => {
            output::line(&format!("--- {}", before.what));
            output::line(&format!("+++ {}", output::plain(&after.what)));
            lines(&differ).iter().chain(&beside).for_each(|l| output::line(&output::plain(l)));
        }
    }
    Ok(ExitCode::from(u8::from(!same)))
}

/// What these files would become if they were pushed.
fn local(name: &Name, path: PathBuf) -> Outcome<Pulled> {
    let packed = manifest_files::pack(name.clone(), &path, &Source::default())?;
    let bad = |e: flows::InvalidFlows| Failure::error(format!("{}: {e}", path.display()));
    let set = flows::unpack(&packed.tar, None).map_err(bad)?;
    let entries = flows::entries(&packed.tar).map_err(bad)?;
    Ok(Pulled { what: path.display().to_string(), digest: packed.digest, entries, flows: set.flows })
}

/// What differs beside the flows: credentials that stayed out, files.
fn beside(before: &Pulled, after: &Pulled) -> Vec<String> {
    if before.digest == after.digest {
        return vec![];
    }
    let names: BTreeSet<&String> = before.entries.keys().chain(after.entries.keys()).collect();
    let mut told = Vec::new();
    for name in names.into_iter().filter(|n| *n != flow_files::FLOWS_FILE) {
        match (before.entries.get(name), after.entries.get(name)) {
            (None, _) => told.push(format!("+ file {name}")),
            (_, None) => told.push(format!("- file {name}")),
            (Some(a), Some(b)) if about(a) != about(b) => told.push(format!("~ file {name}")),
            _ => {}
        }
    }
    told
}

/// A file's content, without the number of nodes, which follows from the flows.
fn about(bytes: &[u8]) -> Value {
    let mut value: Value =
        serde_json::from_slice(bytes).unwrap_or_else(|_| json!(redforge_shared::ids::Digest::of(bytes)));
    value.as_object_mut().map(|o| o.remove("node_count"));
    value
}

fn ids(d: &FlowsDiff) -> Vec<String> {
    let nodes = d.removed.iter().chain(&d.added).chain(d.changed.iter().map(|c| &c.node));
    nodes.map(|n| n.id.clone()).collect()
}

fn lines(d: &FlowsDiff) -> Vec<String> {
    let mut lines: Vec<String> = d.removed.iter().map(|n| format!("- {}", node(n))).collect();
    lines.extend(d.added.iter().map(|n| format!("+ {}", node(n))));
    lines.extend(d.changed.iter().flat_map(change));
    if d.reordered {
        lines.push("~ the order of the nodes in the file".into());
    }
    lines
}

fn node(n: &NodeRef) -> String {
    let part = match n.part {
        Part::Tab | Part::Subflow | Part::Group => n.kind.clone(),
        Part::Config => format!("config {}", n.kind),
        Part::Node => format!("node {}", n.kind),
    };
    let name = if n.name.is_empty() { String::new() } else { format!(" \"{}\"", n.name) };
    let on = if n.on.is_empty() { String::new() } else { format!(" on {}", n.on) };
    format!("{part}{name} ({}){on}", n.id)
}

fn change(c: &NodeChange) -> Vec<String> {
    let more = [(c.rewired, "rewired"), (c.moved, "moved")];
    let more: Vec<&str> = more.into_iter().filter(|(is, _)| *is).map(|(_, word)| word).collect();
    let more = if more.is_empty() { String::new() } else { format!(": {}", more.join(", ")) };
    let first = format!("~ {}{more}", node(&c.node));
    let told = c.properties.iter().filter(|p| !p.is_place());
    let property = |p: &flows::diff::PropertyChange| {
        format!("    {}: {} -> {}", p.property, short(p.before.as_ref()), short(p.after.as_ref()))
    };
    std::iter::once(first).chain(told.map(property)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flows(value: Value) -> flows::Flows {
        flows::Flows::from_value(value).expect("plain flows").0
    }

    #[test]
    fn a_difference_is_read_at_a_glance() {
        let before = flows(json!([
            {"id": "t1", "type": "tab", "label": "Mixing"},
            {"id": "b1", "type": "mqtt-broker", "name": "site", "broker": "${REDFORGE_MQTT_HOST}"},
            {"id": "n1", "type": "inject", "z": "t1", "name": "tick", "repeat": "5", "x": 1, "y": 1, "wires": [["n2"]]},
            {"id": "n2", "type": "debug", "z": "t1", "x": 200, "y": 10, "wires": []},
            {"id": "n3", "type": "function", "z": "t1", "func": "return msg;", "x": 1, "y": 1, "wires": [[]]},
        ]));
        let after = flows(json!([
            {"id": "t1", "type": "tab", "label": "Mixing", "disabled": true},
            {"id": "n2", "type": "debug", "z": "t1", "x": 200, "y": 50, "wires": []},
            {"id": "n1", "type": "inject", "z": "t1", "name": "tick\u{1b}[31m", "repeat": "5", "x": 1, "y": 1, "wires": [["n4"]]},
            {"id": "b1", "type": "mqtt-broker", "name": "site", "broker": "a".repeat(100)},
            {"id": "n4", "type": "mqtt out", "z": "t1", "x": 5, "y": 5, "wires": [], "broker": "b1"},
        ]));
        let lines = lines(&flows::diff::diff(&before, &after));
        let shown: Vec<_> = lines.iter().map(|l| output::plain(l)).collect();
        insta::assert_snapshot!(shown.join("\n"));
    }
}
