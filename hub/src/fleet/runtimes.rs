//! Which flow sets run together in one runtime, and what they are as one. Pure.
//!
//! The runtime's own flow set comes first, then those of its guests by name; a suspended guest's flows are left out.
use redforge_shared::{
    flows::{
        self, InvalidFlows, MAX_FLOW_SET_BYTES,
        merge::{CannotMerge, merge},
    },
    ids::{Digest, Name},
    manifest::InstanceSpec,
};
use std::collections::BTreeMap;

/// One flow set of a runtime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    pub instance: Name,
    pub flow_set: Name,
}

/// Why a runtime's flow sets are not one.
#[derive(Debug, thiserror::Error)]
pub enum CannotShare {
    #[error("the flow set of {instance} cannot be read")]
    Read { instance: Name, source: InvalidFlows },
    #[error(transparent)]
    Merge(#[from] CannotMerge),
    #[error("the flow sets of one runtime are too much together")]
    Pack(#[source] InvalidFlows),
}

/// Every runtime that has guests, and what runs in it.
pub fn shared<'a>(instances: impl Iterator<Item = (&'a Name, &'a InstanceSpec)> + Clone) -> BTreeMap<Name, Vec<Part>> {
    let mut runtimes: BTreeMap<Name, Vec<Part>> = BTreeMap::new();
    let mut guests: Vec<_> = instances.clone().filter_map(|(n, s)| Some((n, s, s.runtime()?))).collect();
    guests.sort_by_key(|(name, ..)| *name);
    for (name, spec, runtime) in guests {
        let parts = runtimes.entry(runtime.clone()).or_default();
        if let Some(flow_set) = spec.flow_set().filter(|_| !spec.suspend) {
            parts.push(Part { instance: name.clone(), flow_set: flow_set.clone() });
        }
    }
    for (name, spec) in instances {
        if let (Some(parts), Some(flow_set)) = (runtimes.get_mut(name), spec.flow_set()) {
            parts.insert(0, Part { instance: name.clone(), flow_set: flow_set.clone() });
        }
    }
    runtimes
}

/// What a runtime's flow sets are known by: another name, order or content is another.
pub fn identity(parts: &[(Name, Digest)]) -> Digest {
    let text = parts.iter().map(|(name, digest)| format!("{name} {digest}\n")).collect::<Vec<_>>().concat();
    Digest::of(text.as_bytes())
}

/// One tar of several. The same tars give the same bytes.
pub fn pack(tars: &[(Name, Vec<u8>)]) -> Result<Vec<u8>, CannotShare> {
    let mut sets = Vec::with_capacity(tars.len());
    for (instance, tar) in tars {
        let set =
            flows::unpack(tar, None).map_err(|source| CannotShare::Read { instance: instance.clone(), source })?;
        sets.push((instance.as_str(), set));
    }
    let parts: Vec<_> = sets.iter().map(|(instance, set)| (*instance, set)).collect();
    let (flows, credential_names) = merge(&parts)?;
    // Of one name they have one content: that was looked at.
    let mut modules = BTreeMap::new();
    for (instance, tar) in tars {
        let own = flows::tarballs(tar).map_err(|source| CannotShare::Read { instance: instance.clone(), source })?;
        modules.extend(own);
    }
    let modules: Vec<_> = modules.into_iter().collect();
    let tar = flows::pack_with(&flows, &credential_names, &modules).map_err(CannotShare::Pack)?;
    if tar.len() > MAX_FLOW_SET_BYTES {
        return Err(CannotShare::Pack(InvalidFlows::TooLarge(tar.len())));
    }
    Ok(tar)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn name(text: &str) -> Name {
        text.parse().expect("a name")
    }

    fn spec(section: serde_json::Value) -> InstanceSpec {
        let whole = json!({"host": "press-4", "kind": "node-red", "nodeRed": section});
        serde_json::from_value(whole).expect("a spec")
    }

    #[test]
    fn a_runtime_has_its_own_flows_first_and_then_its_guests_by_name() {
        let mut asleep = spec(json!({"flowSet": "night", "runtime": "main"}));
        asleep.suspend = true;
        let instances = [
            (name("z"), spec(json!({"flowSet": "z-flows", "runtime": "main"}))),
            (name("main"), spec(json!({"flowSet": "own"}))),
            (name("asleep"), asleep),
            (name("b"), spec(json!({"flowSet": "b-flows", "runtime": "main"}))),
            (name("alone"), spec(json!({"flowSet": "own"}))),
            (name("empty-guest"), spec(json!({"flowSet": "own", "runtime": "empty"}))),
            (name("empty"), spec(json!({}))),
        ];
        let found = shared(instances.iter().map(|(n, s)| (n, s)));
        let told: Vec<String> = found
            .iter()
            .map(|(runtime, parts)| {
                let parts: Vec<String> = parts.iter().map(|p| format!("{}={}", p.instance, p.flow_set)).collect();
                format!("{runtime}: {}", parts.join(" "))
            })
            .collect();
        assert_eq!(told, ["empty: empty-guest=own", "main: main=own b=b-flows z=z-flows"]);
    }

    #[test]
    fn another_order_name_or_content_is_another_identity() {
        let (a, b) = ((name("a"), Digest::of(b"1")), (name("b"), Digest::of(b"2")));
        let one = identity(&[a.clone(), b.clone()]);
        assert_eq!(one, identity(&[a.clone(), b.clone()]));
        for other in [vec![b.clone(), a.clone()], vec![a.clone()], vec![a.clone(), (name("c"), b.1)], vec![]] {
            assert_ne!(one, identity(&other));
        }
    }
}
