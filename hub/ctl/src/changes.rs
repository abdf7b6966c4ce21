//! What an apply would change, field by field: the manifests beside what the hub holds now.
//!
//! Only shown, never decided on: the hub's own check says whether a resource is new, changed or the same.
use crate::{
    connection::Admin,
    failure::{Failure, Outcome},
    views,
};
use redforge_shared::{
    manifest::{API_VERSION, Manifest},
    wire::pb,
};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use tonic::Code;

/// One field with what it is and what it would be; nothing = absent.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    pub path: String,
    pub from: Option<Value>,
    pub to: Option<Value>,
}

impl Change {
    /// `spec.image: "a" -> "b"`
    pub fn text(&self) -> String {
        let shown = |v: &Option<Value>| v.as_ref().map_or_else(|| "(none)".to_owned(), ToString::to_string);
        format!("{}: {} -> {}", self.path, shown(&self.from), shown(&self.to))
    }

    pub fn json(&self) -> Value {
        json!({"path": self.path, "from": self.from, "to": self.to})
    }
}

/// The changes by resource name; a resource that is the same, or whose flows are not at hand, has none.
pub async fn of(admin: &mut Admin, manifests: &[Manifest]) -> Outcome<BTreeMap<String, Vec<Change>>> {
    let mut all = BTreeMap::new();
    for manifest in manifests {
        let name = manifest.resource_name();
        let now = match manifest {
            Manifest::Instance(_) => found(admin.get_instance(pb::GetInstanceRequest { name: name.clone() }).await)?
                .map(|i| views::instance_manifest(&i)),
            Manifest::Site(_) => found(admin.get_site(pb::GetSiteRequest { name: name.clone() }).await)?
                .map(|s| views::site_manifest(&s)),
            Manifest::FlowSet(_) => continue,
        };
        all.insert(name, between(&now.unwrap_or_default(), &document(manifest)?));
    }
    Ok(all)
}

fn found<T>(answer: Result<tonic::Response<T>, tonic::Status>) -> Outcome<Option<T>> {
    match answer {
        Ok(t) => Ok(Some(t.into_inner())),
        Err(s) if s.code() == Code::NotFound => Ok(None),
        Err(s) => Err(s.into()),
    }
}

/// A manifest in the form in which the hub would show it.
fn document(manifest: &Manifest) -> Outcome<Value> {
    let bad = |e: serde_json::Error| Failure::error(e.to_string());
    let (kind, name, labels, spec) = match manifest {
        Manifest::Site(s) => ("Site", &s.name, Some(&s.labels), serde_json::to_value(&s.spec).map_err(bad)?),
        Manifest::Instance(i) => ("Instance", &i.name, Some(&i.labels), serde_json::to_value(&i.spec).map_err(bad)?),
        Manifest::FlowSet(f) => ("FlowSet", &f.name, None, Value::Null),
    };
    let mut metadata = json!({"name": name});
    if let Some(labels) = labels.filter(|l| !l.is_empty()) {
        metadata["labels"] = json!(labels);
    }
    Ok(json!({"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "spec": spec}))
}

/// Every leaf that differs.
fn between(from: &Value, to: &Value) -> Vec<Change> {
    let (mut old, mut new) = (BTreeMap::new(), BTreeMap::new());
    leaves(from, String::new(), &mut old);
    leaves(to, String::new(), &mut new);
    let paths: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    paths
        .into_iter()
        .filter(|p| old.get(*p) != new.get(*p))
        .map(|p| Change { path: p.clone(), from: old.get(p).cloned(), to: new.get(p).cloned() })
        .collect()
}

fn leaves(value: &Value, path: String, found: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, inner) in map {
                leaves(inner, if path.is_empty() { key.clone() } else { format!("{path}.{key}") }, found);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for (i, inner) in items.iter().enumerate() {
                leaves(inner, format!("{path}[{i}]"), found);
            }
        }
        Value::Null => {}
        leaf => drop(found.insert(path, leaf.clone())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_told_field_by_field() {
        let old = json!({"spec": {"image": "a:1", "env": {"X": "1"}, "ports": [{"host": 1}]}});
        let new = json!({"spec": {"image": "a:2", "ports": [{"host": 1}, {"host": 2}]}});
        let told: Vec<String> = between(&old, &new).iter().map(Change::text).collect();
        assert_eq!(
            told,
            [r#"spec.env.X: "1" -> (none)"#, r#"spec.image: "a:1" -> "a:2""#, "spec.ports[1].host: (none) -> 2"]
        );
        assert!(between(&new, &new).is_empty());
    }
}
