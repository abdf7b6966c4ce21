//! One host's desired state from what operators wrote: instances, the newest digest of each flow set, the site's policy.
//!
//! The same inputs in any order give the same document, and so the same hash.
use redforge_shared::{
    desired::{DesiredState, SCHEMA},
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
    /// Newest digest of every flow set.
    pub flow_sets: BTreeMap<Name, Digest>,
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
        instances.push(spec.render(name, |flow_set| input.flow_sets.get(flow_set).copied()));
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
