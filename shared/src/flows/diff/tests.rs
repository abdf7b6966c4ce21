//! The comparison against random flow files: what it says is enough to make the one of the other, and no more.
use super::*;
use proptest::prelude::*;
use serde_json::json;

fn flows(value: Value) -> Flows {
    Flows::from_value(value).expect("plain flows").0
}

/// Files of few ids and few values, so that two of them have much in common.
fn some_flows() -> impl Strategy<Value = Flows> {
    let value = prop_oneof![
        Just(json!(1)),
        Just(json!(1.0)),
        Just(json!("a")),
        Just(json!([["n1"]])),
        Just(json!([[]])),
        Just(json!({"b": 1, "a": 2})),
    ];
    let kind = prop_oneof![Just("tab"), Just("inject"), Just("mqtt-broker"), Just("subflow")];
    let keys = prop_oneof![Just("wires"), Just("x"), Just("name"), Just("url"), Just("links")];
    let node = (0..6_u8, kind, prop::collection::btree_map(keys, value, 0..4));
    prop::collection::vec(node, 0..7).prop_map(|nodes| {
        let mut seen = BTreeSet::new();
        let nodes = nodes.into_iter().filter(|(id, ..)| seen.insert(*id)).map(|(id, kind, rest)| {
            let mut node = json!({"id": format!("n{id}"), "type": kind});
            for (key, value) in rest {
                node[key] = value;
            }
            node
        });
        flows(nodes.collect())
    })
}

/// Does what a difference says, with nothing but the difference; new nodes' content is looked up.
fn patched(before: &Flows, d: &FlowsDiff, after: &Flows) -> BTreeMap<String, Value> {
    let mut nodes: BTreeMap<String, Value> =
        before.nodes().iter().map(|n| (id(n).to_owned(), Value::Object(n.clone()))).collect();
    d.removed.iter().for_each(|n| drop(nodes.remove(&n.id).expect("it was there")));
    for change in &d.changed {
        let node = nodes.get_mut(&change.node.id).and_then(Value::as_object_mut).expect("it is in both");
        for p in &change.properties {
            match &p.after {
                Some(value) => node.insert(p.property.clone(), value.clone()),
                None => node.remove(&p.property),
            };
        }
    }
    let news: BTreeSet<&str> = d.added.iter().map(|n| n.id.as_str()).collect();
    for node in after.nodes().iter().filter(|n| news.contains(id(n))) {
        assert!(nodes.insert(id(node).to_owned(), Value::Object(node.clone())).is_none(), "it was not there");
    }
    nodes
}

fn content(nodes: &BTreeMap<String, Value>) -> Vec<u8> {
    serde_json_canonicalizer::to_vec(nodes).expect("JSON")
}

proptest! {
    #[test]
    fn what_it_says_makes_the_one_of_the_other(a in some_flows(), b in some_flows()) {
        let d = diff(&a, &b);
        let wanted = b.nodes().iter().map(|n| (id(n).to_owned(), Value::Object(n.clone()))).collect();
        prop_assert_eq!(content(&patched(&a, &d, &b)), content(&wanted));
        // No change is told that is none.
        for change in &d.changed {
            for p in &change.properties {
                let told = |v: &Option<Value>| v.as_ref().map(canonical);
                prop_assert_ne!(told(&p.before), told(&p.after));
            }
        }
    }

    #[test]
    fn the_same_hash_and_no_difference_are_one_thing(a in some_flows(), b in some_flows()) {
        prop_assert!(diff(&a, &a).is_empty());
        if a.hash() == b.hash() {
            prop_assert!(diff(&a, &b).is_empty());
        } else {
            prop_assert!(!diff(&a, &b).is_empty());
        }
    }

    #[test]
    fn backwards_it_is_turned_round(a in some_flows(), b in some_flows()) {
        let (there, back) = (diff(&a, &b), diff(&b, &a));
        let ids = |nodes: &[NodeRef]| nodes.iter().map(|n| n.id.clone()).collect::<BTreeSet<_>>();
        prop_assert_eq!(ids(&there.added), ids(&back.removed));
        prop_assert_eq!(ids(&there.removed), ids(&back.added));
        prop_assert_eq!(there.reordered, back.reordered);
        prop_assert_eq!(there.changed.len(), back.changed.len());
    }
}

#[test]
fn a_difference_is_told_as_an_author_sees_it() {
    let before = flows(json!([
        {"id": "t1", "type": "tab", "label": "Mixing"},
        {"id": "b1", "type": "mqtt-broker", "name": "site", "broker": "${REDFORGE_MQTT_HOST}"},
        {"id": "n1", "type": "inject", "z": "t1", "name": "tick", "repeat": "5", "x": 10, "y": 10, "wires": [["n2"]]},
        {"id": "n2", "type": "debug", "z": "t1", "x": 200, "y": 10, "wires": []},
        {"id": "n3", "type": "function", "z": "t1", "func": "return msg;", "x": 1, "y": 1, "wires": [[]]},
    ]));
    let after = flows(json!([
        {"type": "tab", "id": "t1", "label": "Mixing"},
        {"id": "b1", "type": "mqtt-broker", "name": "site", "broker": "elsewhere"},
        {"id": "n1", "type": "inject", "z": "t1", "name": "tick", "repeat": "9", "x": 10, "y": 10, "wires": [["n4"]]},
        {"id": "n2", "type": "debug", "z": "t1", "x": 200.0, "y": 50, "wires": []},
        {"id": "n4", "type": "mqtt out", "z": "t1", "x": 5, "y": 5, "wires": [], "broker": "b1"},
    ]));
    let d = diff(&before, &after);
    insta::assert_json_snapshot!(d);
    // Only the order.
    let turned = flows(Value::Array(after.nodes().iter().rev().map(|n| Value::Object(n.clone())).collect()));
    let d = diff(&after, &turned);
    assert!(d.reordered && d.changed.is_empty() && !d.is_empty(), "{d:?}");
    assert_ne!(after.hash(), turned.hash());
}
