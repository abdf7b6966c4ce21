//! What differs between two flow files, node by node, as a flow's author sees it. Pure.
//!
//! Two files without a difference here have one hash, and the other way round: what only looks different (the order of a
//! node's keys, 1 and 1.0) is none. Deliberately absent: which of the two is right, and how a difference is shown.
use super::Flows;
use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// Everything that differs.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowsDiff {
    pub added: Vec<NodeRef>,
    pub removed: Vec<NodeRef>,
    pub changed: Vec<NodeChange>,
    /// Nodes that are in both stand in another order: of no meaning to a runtime, and yet another file.
    pub reordered: bool,
}

/// What a part of a flow file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    Tab,
    Subflow,
    Group,
    /// A node without a place, which others refer to.
    Config,
    Node,
}

/// A node, as a person finds it in the editor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeRef {
    pub id: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub part: Part,
    /// Its name or label; empty when it has none.
    pub name: String,
    /// Label (or id) of the tab or subflow that it is on; empty for what is on none.
    pub on: String,
}

/// A node that is in both, and not the same.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeChange {
    #[serde(flatten)]
    pub node: NodeRef,
    /// Its wires or links lead elsewhere.
    pub rewired: bool,
    /// It lies elsewhere on its tab.
    pub moved: bool,
    /// Every property that differs, wires and place too.
    pub properties: Vec<PropertyChange>,
}

/// One property of a node; a side that lacks it has none.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PropertyChange {
    pub property: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<Value>,
}

impl PropertyChange {
    /// Does it say where messages go?
    pub fn is_wiring(&self) -> bool {
        // A subflow's `in` and `out` are wires to its edge.
        matches!(self.property.as_str(), "wires" | "links" | "in" | "out")
    }

    /// Does it say where the node lies?
    pub fn is_place(&self) -> bool {
        matches!(self.property.as_str(), "x" | "y" | "w" | "h")
    }
}

impl FlowsDiff {
    /// Are they the same flows?
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.changed.is_empty() && !self.reordered
    }
}

/// What must happen to `before` to become `after`.
pub fn diff(before: &Flows, after: &Flows) -> FlowsDiff {
    let (old, new) = (by_id(before), by_id(after));
    let only = |of: &Flows, other: &BTreeMap<&str, &Map<String, Value>>| {
        let labels = labels(of);
        let alone = of.nodes().iter().filter(|n| !other.contains_key(id(n)));
        alone.map(|n| node_ref(n, &labels)).collect::<Vec<_>>()
    };
    let labels = labels(after);
    let mut changed = Vec::new();
    for node in after.nodes() {
        let Some(was) = old.get(id(node)) else { continue };
        let properties = properties(was, node);
        if !properties.is_empty() {
            let rewired = properties.iter().any(PropertyChange::is_wiring);
            let moved = properties.iter().any(PropertyChange::is_place);
            changed.push(NodeChange { node: node_ref(node, &labels), rewired, moved, properties });
        }
    }
    let common = |of: &Flows, other: &BTreeMap<&str, &Map<String, Value>>| {
        of.nodes().iter().map(|n| id(n).to_owned()).filter(|i| other.contains_key(i.as_str())).collect::<Vec<_>>()
    };
    let reordered = common(before, &new) != common(after, &old);
    let (added, removed) = (only(after, &old), only(before, &new));
    FlowsDiff { added, removed, changed, reordered }
}

fn id(node: &Map<String, Value>) -> &str {
    node.get("id").and_then(Value::as_str).unwrap_or_default()
}

fn by_id(flows: &Flows) -> BTreeMap<&str, &Map<String, Value>> {
    flows.nodes().iter().map(|n| (id(n), n)).collect()
}

fn name_of(node: &Map<String, Value>) -> &str {
    let named = ["name", "label"].iter().filter_map(|k| node.get(*k).and_then(Value::as_str));
    named.into_iter().find(|s| !s.is_empty()).unwrap_or_default()
}

fn part_of(node: &Map<String, Value>) -> Part {
    match node.get("type").and_then(Value::as_str).unwrap_or_default() {
        "tab" => Part::Tab,
        "subflow" => Part::Subflow,
        "group" => Part::Group,
        _ if node.contains_key("x") || node.contains_key("y") || node.contains_key("wires") => Part::Node,
        _ => Part::Config,
    }
}

/// What tabs and subflows are called, by id.
fn labels(flows: &Flows) -> BTreeMap<&str, &str> {
    let places = flows.nodes().iter().filter(|n| matches!(part_of(n), Part::Tab | Part::Subflow));
    places.map(|n| (id(n), name_of(n))).filter(|(_, name)| !name.is_empty()).collect()
}

fn node_ref(node: &Map<String, Value>, labels: &BTreeMap<&str, &str>) -> NodeRef {
    let on = node.get("z").and_then(Value::as_str).unwrap_or_default();
    NodeRef {
        id: id(node).to_owned(),
        kind: node.get("type").and_then(Value::as_str).unwrap_or_default().to_owned(),
        part: part_of(node),
        name: name_of(node).to_owned(),
        on: labels.get(on).copied().unwrap_or(on).to_owned(),
    }
}

fn properties(before: &Map<String, Value>, after: &Map<String, Value>) -> Vec<PropertyChange> {
    let keys: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let same = |key: &str| match (before.get(key), after.get(key)) {
        (Some(a), Some(b)) => a == b || canonical(a) == canonical(b),
        _ => false,
    };
    let change = |key: &String| PropertyChange {
        property: key.clone(),
        before: before.get(key).cloned(),
        after: after.get(key).cloned(),
    };
    keys.into_iter().filter(|k| !same(k)).map(change).collect()
}

fn canonical(value: &Value) -> Vec<u8> {
    serde_json_canonicalizer::to_vec(value).expect("parsed JSON can be written again")
}

#[cfg(test)]
mod tests;
