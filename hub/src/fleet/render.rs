//! One host's desired state from what operators wrote: instances, the newest digest of each flow set, the site's policy.
//!
//! The same inputs in any order give the same document, and so the same hash.
use redforge_shared::{
    artifact::reference_key,
    desired::{Blob, DesiredState, ImageArtifact, SCHEMA, Workload},
    ids::{Digest, HostId, Name},
    manifest,
    policy::Policy,
};
use std::collections::BTreeMap;

/// What a document is made of.
#[derive(Clone, Debug)]
pub struct Input {
    pub host: HostId,
    pub host_name: Name,
    pub site: Name,
    pub policy: Policy,
    pub instances: Vec<(Name, manifest::InstanceSpec)>,
    /// What the flow sets of a runtime with guests are as one, by the runtime's name.
    pub merged: BTreeMap<Name, Digest>,
    /// Newest digest of every flow set.
    pub flow_sets: BTreeMap<Name, Digest>,
    /// The newest image of each reference that the hub can hand out.
    pub images: BTreeMap<String, ImageArtifact>,
    /// Blobs of each model that the hub can hand out.
    pub models: BTreeMap<Digest, Vec<Blob>>,
}

/// Why there is no document.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum RenderError {
    #[error("instance '{instance}' runs flow set '{flow_set}', which does not exist")]
    UnknownFlowSet { instance: Name, flow_set: Name },
    #[error("instance '{0}' is there twice")]
    Duplicate(Name),
}

/// Renders the document.
pub fn render(input: &Input) -> Result<DesiredState, RenderError> {
    let mut instances = Vec::with_capacity(input.instances.len());
    for (name, spec) in &input.instances {
        if let Some(flow_set) = spec.flow_set()
            && !input.flow_sets.contains_key(flow_set)
        {
            return Err(RenderError::UnknownFlowSet { instance: name.clone(), flow_set: flow_set.clone() });
        }
        // Its flows run in the runtime of another instance, and are in what that one is given.
        if spec.runtime().is_some() {
            continue;
        }
        let mut spec = spec.render(name, |flow_set| input.flow_sets.get(flow_set).copied());
        spec.image_artifact = input.images.get(&reference_key(&spec.image)).cloned();
        if let (Workload::NodeRed(runtime), Some(digest)) = (&mut spec.workload, input.merged.get(name)) {
            runtime.flow_set = Some(*digest);
        }
        if let Workload::Ollama(ollama) = &mut spec.workload {
            for model in &mut ollama.models {
                model.blobs = input.models.get(&model.digest).cloned().unwrap_or_default();
            }
        }
        instances.push(spec);
    }
    instances.sort_by(|a, b| a.name.cmp(&b.name));
    if let Some(pair) = instances.windows(2).find(|p| p[0].name == p[1].name) {
        return Err(RenderError::Duplicate(pair[0].name.clone()));
    }
    Ok(DesiredState {
        schema: SCHEMA,
        host: input.host,
        host_name: input.host_name.clone(),
        site: input.site.clone(),
        policy: input.policy,
        instances,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(text: &str) -> Name {
        text.parse().expect("a name")
    }

    fn instance(of: &str, spec: serde_json::Value) -> (Name, manifest::InstanceSpec) {
        let mut whole = serde_json::json!({"host": "press-4", "image": "redforge.local/any:1"});
        whole.as_object_mut().expect("an object").extend(spec.as_object().expect("an object").clone());
        (name(of), serde_json::from_value(whole).expect("a spec"))
    }

    fn input() -> Input {
        let container = |n: u32| serde_json::json!({"kind": "container", "env": {"B": "2", "A": n.to_string()}});
        let flows = serde_json::json!({"kind": "node-red", "nodeRed": {"flowSet": "mixing"}});
        Input {
            host: HostId(uuid::Uuid::from_bytes([7; 16])),
            host_name: name("press-4"),
            site: name("hall-2"),
            policy: Policy::default(),
            instances: vec![
                instance("broker", serde_json::json!({"kind": "mosquitto"})),
                instance("flows", flows),
                instance("a", container(1)),
                instance("b", container(2)),
                instance("z-9", container(3)),
            ],
            flow_sets: BTreeMap::from([(name("mixing"), Digest::of(b"1")), (name("other"), Digest::of(b"2"))]),
            merged: BTreeMap::new(),
            images: BTreeMap::new(),
            models: BTreeMap::new(),
        }
    }

    fn hash(input: &Input) -> Digest {
        render(input).expect("renders").canonical().expect("is small").sha256
    }

    proptest! {
        #[test]
        fn the_order_of_what_goes_in_changes_nothing(instances in Just(input().instances).prop_shuffle()) {
            let straight = render(&input()).expect("renders").canonical().expect("is small");
            let shuffled = render(&Input { instances, ..input() }).expect("renders").canonical().expect("is small");
            prop_assert_eq!(shuffled.bytes, straight.bytes);
        }
    }

    /// Whatever is said differently is another document: a hash that never changed would pass the test above.
    #[test]
    fn another_value_is_another_hash() {
        let changes: [fn(&mut Input); 6] = [
            |i| i.instances[2].1.env = BTreeMap::from([("A".into(), "other".into())]),
            |i| i.instances[4].0 = name("z-8"),
            |i| i.instances.truncate(4),
            |i| i.flow_sets = BTreeMap::from([(name("mixing"), Digest::of(b"3"))]),
            |i| i.site = name("hall-3"),
            |i| i.host = HostId(uuid::Uuid::from_bytes([8; 16])),
        ];
        let mut seen = std::collections::BTreeSet::from([hash(&input()).hex()]);
        for (n, change) in changes.iter().enumerate() {
            let mut other = input();
            change(&mut other);
            assert!(seen.insert(hash(&other).hex()), "change {n} is not in the document");
        }
        // A flow set that nobody here runs is no part of it.
        let mut beside = input();
        beside.flow_sets.insert(name("other"), Digest::of(b"4"));
        assert_eq!(hash(&beside), hash(&input()));
    }

    #[test]
    fn what_the_hub_can_hand_out_stands_beside_what_names_it_and_nowhere_else() {
        let (tar, model) = (Blob { digest: Digest::of(b"tar"), bytes: 7 }, Digest::of(b"model"));
        let image = ImageArtifact { tar, image_id: Digest::of(b"config").to_string() };
        let mut input = input();
        let ollama = serde_json::json!({"kind": "ollama", "image": "docker.io/library/any", "ollama": {"models": [
            {"name": "m", "digest": model}, {"name": "other", "digest": Digest::of(b"other")}]}});
        input.instances = vec![instance("a", serde_json::json!({"kind": "container"})), instance("llm", ollama)];
        input.images = BTreeMap::from([("any:latest".into(), image.clone()), ("nobodys:1".into(), image.clone())]);
        input.models = BTreeMap::from([(model, vec![tar])]);
        let state = render(&input).expect("renders");
        let given = |i: &str| state.instance(i).expect("is there").image_artifact.clone();
        assert_eq!((given("a"), given("llm")), (None, Some(image)));
        let Workload::Ollama(o) = &state.instance("llm").expect("is there").workload else { panic!("ollama") };
        assert_eq!((&o.models[0].blobs[..], &o.models[1].blobs[..]), (&[tar][..], &[][..]));
        // What may be fetched follows from it.
        assert_eq!(state.instances[1].blobs().collect::<Vec<_>>(), [tar.digest, tar.digest]);
        assert_eq!(state.instances[0].blobs().count(), 0);
    }

    #[test]
    fn a_guest_is_in_what_its_runtime_is_given_and_nowhere_else() {
        let mut input = input();
        let guest = serde_json::json!({"kind": "node-red", "nodeRed": {"flowSet": "other", "runtime": "flows"}});
        input.instances.push(instance("guest", guest));
        input.merged = BTreeMap::from([(name("flows"), Digest::of(b"both"))]);
        let state = render(&input).expect("renders");
        assert_eq!((state.instances.len(), state.instance("guest")), (5, None));
        assert_eq!(state.instance("flows").and_then(|i| i.flow_set()), Some(Digest::of(b"both")));
    }

    #[test]
    fn what_cannot_be_rendered_is_named() {
        let mut unknown = input();
        unknown.flow_sets.remove("mixing");
        let (instance, flow_set) = (name("flows"), name("mixing"));
        assert_eq!(render(&unknown), Err(RenderError::UnknownFlowSet { instance, flow_set }));
        let mut twice = input();
        twice.instances.push(twice.instances[2].clone());
        assert_eq!(render(&twice), Err(RenderError::Duplicate(name("a"))));
    }
}
