//! Apply: a set of manifests becomes true all at once, or nothing of it does. And the removal of an instance.
//!
//! Step one of the flow down ends here: parse, check against what is stored, commit, hint. Rendering and publishing follow
//! in `tasks/publish_desired`.
use super::{Api, ApiError, Caller, Role, Violation, guests, names};
use crate::store::changes::{Changed, Changes, NewFlowSet, NewInstance};
use redforge_shared::{
    desired::MAX_DEVELOPER_S,
    flows::{self, Flows, unpack},
    ids::{Digest, HostId, Name},
    manifest::{FlowSetManifest, FlowSource, InstanceManifest, InstanceSpec, Kind, Manifest, parse},
    wire::pb,
};
use serde_json::Value;
use std::collections::BTreeMap;
use time::{Duration, OffsetDateTime};

/// Most bytes of all instance specs of a host: the rendered document (256 KiB at most) must hold them.
const MAX_HOST_SPEC_BYTES: usize = 224 * 1024;
/// Most flow sets of one request.
const MAX_STAGED: usize = 500;

impl Api {
    /// Creates or replaces what the manifests say.
    pub async fn apply(&self, caller: &Caller, request: pb::ApplyRequest) -> Result<pb::ApplyResponse, ApiError> {
        caller.needs(Role::Operator)?;
        let staged = staged(&request.flow_sets)?;
        let manifests = match request.manifests.trim() {
            "" if !staged.is_empty() => Vec::new(),
            _ => parse(&request.manifests).map_err(|errors| ApiError::Manifests { errors })?,
        };
        let mut changes = self.store.begin_changes(&caller.name, self.clock.now()).await?;
        let mut violations = Vec::new();
        let mut applied = Vec::new();
        for (name, digest) in &staged {
            match put_staged(&mut changes, name, *digest, request.validate_only).await? {
                Ok((changed, revision)) => applied.push(resource(format!("flowsets/{name}"), changed, revision)),
                Err(problem) => violations.push(Violation { field: format!("flowsets/{name}"), problem }),
            }
        }
        let mut done = vec![None; manifests.len()];
        let mut touched = BTreeMap::new();
        // Sites and flow sets first: an instance may name what the same set brings.
        for (index, manifest) in manifests.iter().enumerate() {
            let result = match manifest {
                Manifest::Site(site) => {
                    let spec = &site.spec;
                    let changed =
                        changes.put_site(&site.name, &site.labels, &spec.time_zone, spec.policy.as_str()).await?;
                    Ok((changed, 0))
                }
                Manifest::FlowSet(set) if staged.contains_key(&set.name) => {
                    Err(("metadata.name", "is pushed from a file in the same request".into()))
                }
                Manifest::FlowSet(set) => match inline(set) {
                    Ok(new) => Ok(changes.put_flow_set(&new).await?),
                    Err(problem) => Err(("spec.flows", problem)),
                },
                Manifest::Instance(_) => continue,
            };
            record(&mut done, &mut violations, index, manifest, result);
        }
        for (index, manifest) in manifests.iter().enumerate() {
            let Manifest::Instance(instance) = manifest else { continue };
            if let Some(problem) = too_long(&instance.spec, self.clock.now()) {
                let path = "spec.nodeRed.developer.until";
                record(&mut done, &mut violations, index, manifest, Err((path, problem)));
                continue;
            }
            let coming = instance.spec.flow_set().is_some_and(|set| staged.contains_key(set));
            let result = put_instance(&mut changes, instance, coming).await?;
            if let Ok((host, ..)) = result {
                touched.insert(host, instance.spec.host.clone());
            }
            let result = result.map(|(_, changed, revision)| (changed, revision));
            record(&mut done, &mut violations, index, manifest, result);
        }
        for (host, name) in &touched {
            violations.extend(fits(name, &changes.instances(*host).await?));
        }
        if violations.is_empty() {
            let sets = staged.keys().chain(manifests.iter().filter_map(flow_set_of));
            violations = cannot_share(&mut changes, touched, sets).await?;
        }
        if !violations.is_empty() {
            return Err(ApiError::Invalid { violations });
        }
        if !request.validate_only {
            changes.commit().await?;
        }
        applied.extend(done.into_iter().flatten());
        Ok(pb::ApplyResponse { resources: applied })
    }

    /// Removes an instance from what its host should run.
    pub async fn delete_instance(
        &self,
        caller: &Caller,
        request: pb::DeleteInstanceRequest,
    ) -> Result<pb::DeleteInstanceResponse, ApiError> {
        caller.needs(Role::Operator)?;
        let (host, name) = names::instance("name", &request.name)?;
        let mut changes = self.store.begin_changes(&caller.name, self.clock.now()).await?;
        if !changes.delete_instance(&host, &name).await? {
            return Err(ApiError::NotFound(request.name));
        }
        let left = match changes.host(&host).await? {
            Some(id) => changes.instances(id).await?,
            None => vec![],
        };
        if let Some(guest) = guests::problems(&host, &guests::specs(&left)).first() {
            let message =
                format!("{} is the runtime of another instance ({}): delete that one first", request.name, guest.field);
            return Err(ApiError::Precondition { reason: "INSTANCE_IN_USE", message });
        }
        changes.commit().await?;
        Ok(pb::DeleteInstanceResponse {})
    }
}

fn flow_set_of(manifest: &Manifest) -> Option<&Name> {
    if let Manifest::FlowSet(set) = manifest { Some(&set.name) } else { None }
}

/// What stands in the way of flow sets that share a runtime, at the hosts that were touched and where these sets run.
async fn cannot_share(
    changes: &mut Changes,
    mut hosts: BTreeMap<HostId, Name>,
    sets: impl Iterator<Item = &Name>,
) -> Result<Vec<Violation>, ApiError> {
    for set in sets {
        hosts.extend(changes.hosts_running(set).await?);
    }
    let mut violations = Vec::new();
    for (host, name) in hosts {
        violations.extend(guests::merge(changes, host, &name).await?);
    }
    Ok(violations)
}

/// An editor that is open for ever is no developer mode.
fn too_long(spec: &InstanceSpec, now: OffsetDateTime) -> Option<String> {
    let until = spec.node_red.as_ref()?.developer.as_ref()?.until;
    let most = Duration::seconds(MAX_DEVELOPER_S);
    (until - now > most).then(|| format!("is more than {} days ahead", most.whole_days()))
}

fn record(
    done: &mut [Option<pb::AppliedResource>],
    violations: &mut Vec<Violation>,
    index: usize,
    manifest: &Manifest,
    result: Result<(Changed, u64), (&'static str, String)>,
) {
    match result {
        Ok((changed, revision)) => {
            done[index] = Some(resource(manifest.resource_name(), changed, revision));
        }
        Err((path, problem)) => {
            let field = format!("document {}, {} {path}", index + 1, manifest.resource_name());
            violations.push(Violation { field, problem });
        }
    }
}

fn resource(name: String, changed: Changed, revision: u64) -> pb::AppliedResource {
    let action = match changed {
        Changed::Created => pb::applied_resource::Action::Created,
        Changed::Configured => pb::applied_resource::Action::Configured,
        Changed::Unchanged => pb::applied_resource::Action::Unchanged,
    };
    pb::AppliedResource { name, action: action.into(), revision }
}

/// The request's flow sets by name, each once.
fn staged(listed: &[pb::StagedFlowSet]) -> Result<BTreeMap<Name, Digest>, ApiError> {
    if listed.len() > MAX_STAGED {
        return Err(ApiError::invalid("flow_sets", format!("{} flow sets, more than {MAX_STAGED}", listed.len())));
    }
    let mut staged = BTreeMap::new();
    for set in listed {
        let name = names::single("flow_sets.name", "flowsets", &set.name)?;
        let digest = Digest::try_from(&set.digest[..])
            .map_err(|_| ApiError::invalid("flow_sets.digest", "is not a SHA-256 of 32 bytes"))?;
        if staged.insert(name.clone(), digest).is_some() {
            return Err(ApiError::invalid("flow_sets", format!("flowsets/{name} occurs twice")));
        }
    }
    Ok(staged)
}

/// Makes a revision of content that was pushed before, or only says what that would be.
async fn put_staged(
    changes: &mut Changes,
    name: &Name,
    digest: Digest,
    validate_only: bool,
) -> Result<Result<(Changed, u64), String>, ApiError> {
    let change = changes.flow_set_change(name, digest).await?;
    if validate_only || change.0 == Changed::Unchanged {
        return Ok(Ok(change));
    }
    let Some(bytes) = changes.staged(digest).await? else {
        return Ok(Err(format!("its content {digest} was not pushed before")));
    };
    let read = tokio::task::spawn_blocking(move || unpack(&bytes, Some(digest)).map(|set| (set.manifest, bytes))).await;
    let Ok(Ok((manifest, bytes))) = read else { return Ok(Err("its content cannot be read".into())) };
    let set = NewFlowSet {
        name: name.clone(),
        digest,
        bytes,
        node_count: manifest.node_count,
        credential_names: manifest.credential_names,
    };
    Ok(Ok(changes.put_flow_set(&set).await?))
}

fn inline(set: &FlowSetManifest) -> Result<NewFlowSet, String> {
    let nodes = match &set.spec.flows {
        FlowSource::Inline(nodes) => nodes.clone(),
        FlowSource::Path(path) => {
            return Err(format!(
                "'{}' is a file's path, which only redforgectl can read; it pushes the file and applies the rest",
                path.chars().take(80).collect::<String>()
            ));
        }
    };
    let (flows, credential_names) = Flows::from_value(Value::Array(nodes)).map_err(|e| e.to_string())?;
    let bytes = flows::pack(&flows, &credential_names);
    Ok(NewFlowSet {
        name: set.name.clone(),
        digest: Digest::of(&bytes),
        node_count: flows.nodes().len() as u32,
        bytes,
        credential_names,
    })
}

pub(super) type Placed = (HostId, Changed, u64);

/// Puts an instance in place, or says which field stands in the way.
pub(super) async fn put_instance(
    changes: &mut Changes,
    instance: &InstanceManifest,
    flow_set_is_coming: bool,
) -> Result<Result<Placed, (&'static str, String)>, ApiError> {
    let spec = &instance.spec;
    let Some(host) = changes.host(&spec.host).await? else {
        return Ok(Err(("spec.host", format!("hosts/{} does not exist; enroll it first", spec.host))));
    };
    if let Some(set) = spec.flow_set()
        && !flow_set_is_coming
        && !changes.has_flow_set(set).await?
    {
        let problem = format!("flowsets/{set} does not exist; push it first, or apply it in the same set");
        return Ok(Err(("spec.nodeRed.flowSet", problem)));
    }
    let json = serde_json::to_value(spec).expect("a manifest has no value that JSON cannot hold");
    let new = NewInstance { host, host_name: &spec.host, name: &instance.name, labels: &instance.labels, spec: &json };
    let (changed, revision) = changes.put_instance(&new).await?;
    Ok(Ok((host, changed, revision)))
}

/// What is wrong with all the instances of a host together. Pure.
pub(super) fn fits(host: &Name, instances: &[(String, Value)]) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut say = |instance: &str, path: &str, problem: String| {
        found.push(Violation { field: format!("hosts/{host}/instances/{instance} {path}"), problem });
    };
    let bytes: usize = instances.iter().map(|(name, spec)| name.len() + spec.to_string().len()).sum();
    if bytes > MAX_HOST_SPEC_BYTES {
        say("*", "spec", format!("all instances of the host have {bytes} bytes, more than {MAX_HOST_SPEC_BYTES}"));
    }
    let specs = guests::specs(instances);
    for (i, (name, spec)) in specs.iter().enumerate() {
        for (earlier, other) in &specs[..i] {
            if let Some(port) = spec.ports.iter().find(|p| other.ports.iter().any(|o| o.collides(p))) {
                say(name, "spec.ports", format!("port {} is already published by instance {earlier}", port.host));
            }
        }
        if spec.kind != Kind::NodeRed || spec.runtime().is_some() {
            continue;
        }
        let section = spec.node_red.clone().unwrap_or_default();
        for (path, wanted, kinds) in [
            ("spec.nodeRed.broker", &section.broker, &[Kind::Mosquitto][..]),
            ("spec.nodeRed.ollama", &section.ollama, &[Kind::Ollama]),
            ("spec.nodeRed.cache", &section.cache, &[Kind::Valkey, Kind::Redis]),
            ("spec.nodeRed.tika", &section.tika, &[Kind::Tika]),
        ] {
            let of_kind: Vec<&str> = specs.iter().filter(|(_, s)| kinds.contains(&s.kind)).map(|(n, _)| *n).collect();
            let kind = kinds.iter().map(|k| k.as_str()).collect::<Vec<_>>().join(" or ");
            match wanted {
                Some(wanted) if !of_kind.contains(&wanted.as_str()) => {
                    say(name, path, format!("the host has no instance {wanted} of kind {kind}"));
                }
                None if of_kind.len() > 1 => {
                    let problem = format!("the host has several of kind {kind}: name one of {}", of_kind.join(", "));
                    say(name, path, problem);
                }
                _ => {}
            }
        }
    }
    found.extend(guests::problems(host, &specs));
    found
}
