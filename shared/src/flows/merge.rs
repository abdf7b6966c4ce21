//! Several flow sets in one runtime: one flow file with all of their nodes.
//!
//! Ids stay as they are, because wires, links and the runtime's own memory of nodes go by them; so sets whose ids clash
//! cannot share a runtime, and are told which id it is. What two sets hold alike (a broker's config node, a subflow) is there
//! once.
use super::{FlowSet, Flows, MAX_NODES, modules::Module};
use crate::ids::Digest;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// Why flow sets cannot share a runtime. The names are those of the instances.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CannotMerge {
    #[error("node '{id}' is on a tab of {first} and of {second}: the same flows cannot run twice in one runtime")]
    Twice { id: String, first: String, second: String },
    #[error("node '{id}' is another in {first} than in {second}: give one of them another id, or a runtime of its own")]
    Differs { id: String, first: String, second: String },
    #[error("{first} and {second} both have a global-config node, and a runtime has one: merge them into one flow set")]
    GlobalConfigs { first: String, second: String },
    #[error(
        "module '{module}' is another in {first} than in {second}: take the same one, or give one a runtime of its own"
    )]
    Module { module: String, first: String, second: String },
    #[error("all flow sets together have {0} nodes, more than {MAX_NODES}")]
    TooManyNodes(usize),
}

/// All nodes of these sets, in their order, and the names of the credentials that they lack.
pub fn merge(parts: &[(&str, &FlowSet)]) -> Result<(Flows, Vec<String>), CannotMerge> {
    let mut nodes: Vec<Map<String, Value>> = Vec::new();
    // Where each id stands, and whose it is.
    let mut known: BTreeMap<String, (usize, &str)> = BTreeMap::new();
    let (mut names, mut global): (Vec<String>, Option<(&str, String)>) = (Vec::new(), None);
    let mut modules: BTreeMap<&str, (Digest, &str)> = BTreeMap::new();
    for (instance, set) in parts {
        // A runtime has one folder of modules.
        for Module { name, digest, .. } in &set.manifest.modules {
            let (held, first) = *modules.entry(name).or_insert((*digest, instance));
            if held != *digest {
                let (first, second) = (first.to_owned(), (*instance).to_owned());
                return Err(CannotMerge::Module { module: name.clone(), first, second });
            }
        }
        let tabs: BTreeSet<&str> = set.flows.nodes.iter().filter(|n| word(n, "type") == "tab").map(id).collect();
        for node in &set.flows.nodes {
            let id = id(node);
            if word(node, "type") == "global-config" {
                let (first, held) = global.get_or_insert_with(|| (instance, id.to_owned()));
                if held != id {
                    return Err(CannotMerge::GlobalConfigs {
                        first: (*first).to_owned(),
                        second: (*instance).to_owned(),
                    });
                }
            }
            let Some((at, first)) = known.get(id) else {
                known.insert(id.to_owned(), (nodes.len(), instance));
                nodes.push(node.clone());
                continue;
            };
            let (first, second, id) = ((*first).to_owned(), (*instance).to_owned(), id.to_owned());
            if nodes[*at] != *node {
                return Err(CannotMerge::Differs { id, first, second });
            }
            if is_on_a_tab(node, &tabs) {
                return Err(CannotMerge::Twice { id, first, second });
            }
        }
        names.extend(set.manifest.credential_names.iter().filter(|n| !names.contains(n)).cloned().collect::<Vec<_>>());
    }
    if nodes.len() > MAX_NODES {
        return Err(CannotMerge::TooManyNodes(nodes.len()));
    }
    Ok((Flows { nodes }, names))
}

fn word<'a>(node: &'a Map<String, Value>, key: &str) -> &'a str {
    node.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn id(node: &Map<String, Value>) -> &str {
    word(node, "id")
}

/// A tab, or something that stands on one: it does something, once.
fn is_on_a_tab(node: &Map<String, Value>, tabs: &BTreeSet<&str>) -> bool {
    let has_place = node.contains_key("x") && node.contains_key("y");
    match word(node, "z") {
        "" => word(node, "type") == "tab" || has_place,
        z => tabs.contains(z),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flows::{pack, unpack};
    use proptest::prelude::*;
    use serde_json::json;

    fn set(nodes: Value) -> FlowSet {
        let (flows, names) = Flows::from_value(nodes).expect("nodes");
        unpack(&pack(&flows, &names), None).expect("own flow set")
    }

    fn tab(n: u32) -> Value {
        json!([{"id": format!("t{n}"), "type": "tab"}, {"id": format!("i{n}"), "type": "inject", "z": format!("t{n}"), "x": 1, "y": 1},
            {"id": "b1", "type": "mqtt-broker", "broker": "${REDFORGE_MQTT_HOST}"},
            {"id": "s1", "type": "subflow", "name": "clean"}, {"id": "s2", "type": "function", "z": "s1", "x": 1, "y": 1}])
    }

    #[test]
    fn what_two_sets_hold_alike_is_there_once_and_everything_else_is_there() {
        let (a, b) = (set(tab(1)), set(tab(2)));
        let (flows, _) = merge(&[("a", &a), ("b", &b)]).expect("they fit");
        let ids: Vec<&str> = flows.nodes().iter().map(id).collect();
        assert_eq!(ids, ["t1", "i1", "b1", "s1", "s2", "t2", "i2"]);
        assert_eq!(merge(&[("a", &a)]).expect("alone").0, a.flows, "one set alone is what it is");
        assert_eq!(merge(&[]).expect("none").0.nodes(), []);
    }

    #[test]
    fn what_cannot_share_a_runtime_names_the_node_and_both() {
        let (a, mut other) = (set(tab(1)), tab(2));
        let said = |b: &FlowSet| merge(&[("a", &a), ("b", b)]).expect_err("must be refused").to_string();
        let twice = said(&a);
        other[2]["broker"] = json!("elsewhere");
        let differs = said(&set(other));
        let global = |id: &str| set(json!([{"id": id, "type": "global-config", "env": []}]));
        let (one, two) = (global("g1"), global("g2"));
        let globals = merge(&[("a", &one), ("b", &two)]).expect_err("must be refused").to_string();
        let with = |bytes: &[u8]| {
            let mut set = set(json!([]));
            let (name, version, digest) = ("node-red-contrib-x".to_owned(), "1.0.0".to_owned(), Digest::of(bytes));
            set.manifest.modules.push(Module { name, version, digest });
            set
        };
        assert!(merge(&[("a", &with(b"1")), ("b", &with(b"1"))]).is_ok(), "one and the same module");
        let modules = merge(&[("a", &with(b"1")), ("b", &with(b"2"))]).expect_err("must be refused").to_string();
        insta::assert_snapshot!([twice, differs, globals, modules].join("\n"), @"
        node 't1' is on a tab of a and of b: the same flows cannot run twice in one runtime
        node 'b1' is another in a than in b: give one of them another id, or a runtime of its own
        a and b both have a global-config node, and a runtime has one: merge them into one flow set
        module 'node-red-contrib-x' is another in a than in b: take the same one, or give one a runtime of its own
        ");
        assert!(merge(&[("a", &one), ("b", &one)]).is_ok(), "the same one is one");
    }

    proptest! {
        /// Whatever is merged can be taken apart again: every set's nodes are all there, as they were and in their order.
        #[test]
        fn no_node_is_lost_changed_or_doubled(tabs in prop::collection::btree_set(0..20_u32, 0..6)) {
            let sets: Vec<(String, FlowSet)> = tabs.iter().map(|n| (format!("i{n}"), set(tab(*n)))).collect();
            let parts: Vec<(&str, &FlowSet)> = sets.iter().map(|(n, s)| (n.as_str(), s)).collect();
            let (flows, _) = merge(&parts).expect("they fit");
            for (_, set) in &sets {
                let mut at = flows.nodes().iter().filter(|n| set.flows.nodes().iter().any(|m| id(m) == id(n)));
                let mut wanted: Vec<_> = set.flows.nodes().iter().collect();
                let mut got: Vec<_> = at.by_ref().collect();
                wanted.sort_by_key(|n| id(n));
                got.sort_by_key(|n| id(n));
                prop_assert_eq!(got, wanted);
            }
            let ids: BTreeSet<&str> = flows.nodes().iter().map(id).collect();
            prop_assert_eq!(ids.len(), flows.nodes().len());
        }
    }
}
