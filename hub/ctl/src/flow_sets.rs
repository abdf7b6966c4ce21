//! `flowset push`: an unmodified editor export becomes a flow set, and instances that use it.
use crate::{
    cli::Push,
    config::Connection,
    connection::{self, Admin},
    failure::{Exit, Failure, Outcome},
    first_steps, get, instances,
    manifest_files::{self, Packed},
    output, views, wait, words,
};
use redforge_shared::{ids::Name, manifest::Kind, wire::pb};
use serde_json::{Value, json};
use tonic::Code;

/// Bytes of one message.
const CHUNK: usize = 256 * 1024;

/// Uploads the flow set and makes the named hosts use it.
pub async fn push(settings: &Connection, a: &Push) -> Outcome {
    let name = words::name(&a.name, "flowsets/")?;
    let hosts: Vec<Name> = a.to.iter().map(|h| words::name(h, "hosts/")).collect::<Outcome<_>>()?;
    let packed = manifest_files::pack(name.clone(), &a.file, &a.source())?;
    let mut admin = connection::connect(settings).await?;
    // What has to be created is known before anything is changed.
    let mut manifests = Vec::new();
    for host in &hosts {
        manifests.push(manifest_for(&mut admin, host, &packed, a).await?);
    }
    let mut touched: Vec<String> = hosts.iter().map(|h| format!("hosts/{h}/instances/{name}")).collect();
    // Whoever runs the flow set already gets this revision too.
    let users = |i: &pb::Instance| views::instance_manifest(i)["spec"]["nodeRed"]["flowSet"] == json!(name);
    touched.extend(get::instances(&mut admin, "").await?.iter().filter(|i| users(i)).map(|i| i.name.clone()));
    let before = wait::Before::of(&mut admin, &touched).await?;
    let changed: Vec<Value> = manifests.into_iter().flatten().collect();
    let mut apply =
        pb::ApplyRequest { manifests: output::yaml(&changed)?, validate_only: true, flow_sets: vec![staged(&packed)] };
    // What the hub would refuse is refused before a revision is made.
    admin.apply(apply.clone()).await?;
    let done = upload(&mut admin, &packed, false).await?;
    let set = done.flow_set.clone().unwrap_or_default();
    let what = if done.changed { "pushed" } else { "unchanged" };
    output::line(&format!("flowsets/{} {what}, revision {}, {} nodes", packed.name, set.revision, packed.node_count));
    describe(&packed);
    if done.changed {
        done.instances.iter().for_each(|i| output::say(&format!("{i} gets this revision")));
    }
    touched.extend(done.instances);
    if !changed.is_empty() {
        apply.validate_only = false;
        apply.flow_sets.clear();
        for r in admin.apply(apply).await?.into_inner().resources {
            instances::print_applied(&r);
        }
    }
    touched.sort();
    touched.dedup();
    if a.wait.wait {
        let before = before.changed(done.changed || !changed.is_empty());
        wait::until_as_desired(&mut admin, &touched, before, &a.wait).await?;
    }
    Ok(())
}

/// The instance's manifest with the flow set in it, or nothing when it uses it already.
async fn manifest_for(admin: &mut Admin, host: &Name, packed: &Packed, a: &Push) -> Outcome<Option<Value>> {
    let (name, image) = (&packed.name, a.image.as_deref());
    let resource = format!("hosts/{host}/instances/{name}");
    let found = match admin.get_instance(pb::GetInstanceRequest { name: resource }).await {
        Ok(instance) => Some(instance.into_inner()),
        Err(s) if s.code() == Code::NotFound => None,
        Err(s) => return Err(s.into()),
    };
    let Some(instance) = found else {
        // An unknown host is better found here, with its near misses, than by the hub after the upload.
        let known = get::hosts(admin).await?;
        if !known.iter().any(|h| words::last(&h.name) == host.as_str()) {
            let failure = Failure::new(Exit::NotFound, format!("no host is named '{host}'"));
            let names = known.iter().map(|h| words::last(&h.name).to_owned());
            return Err(crate::suggest::nearest(failure, host.as_str(), names));
        }
        let image = match image {
            Some(image) => image.to_owned(),
            None => match image_of_others(admin, host).await? {
                Some(image) => image,
                None => return Err(first_steps::no_instance(admin, host, packed, a).await?),
            },
        };
        return Ok(Some(json!({
            "apiVersion": "redforge.io/v1", "kind": "Instance", "metadata": {"name": name},
            "spec": {"host": host, "kind": Kind::NodeRed.as_str(), "image": image, "nodeRed": {"flowSet": name}},
        })));
    };
    if instance.kind != Kind::NodeRed.as_str() {
        let text = format!("instance '{name}' on host '{host}' is of kind {}, not node-red", instance.kind);
        return Err(Failure::new(Exit::Conflict, text).hint("push the flow set under another name"));
    }
    let old = views::instance_manifest(&instance);
    let mut manifest = old.clone();
    manifest["spec"]["nodeRed"]["flowSet"] = json!(name);
    if let Some(image) = image {
        manifest["spec"]["image"] = json!(image);
    }
    Ok((manifest != old).then_some(manifest))
}

/// The image of another node-red instance: of this host, else of any.
async fn image_of_others(admin: &mut Admin, host: &Name) -> Outcome<Option<String>> {
    let all = get::instances(admin, "").await?;
    let own = |i: &&pb::Instance| views::instance_parts(&i.name).0 == host.as_str();
    let flows: Vec<_> = all.iter().filter(|i| i.kind == Kind::NodeRed.as_str()).collect();
    let other = flows.iter().copied().find(own).or_else(|| flows.first().copied());
    Ok(other.and_then(|i| views::instance_manifest(i)["spec"]["image"].as_str().map(str::to_owned)))
}

/// How an apply names a flow set whose bytes come beside it.
pub fn staged(packed: &Packed) -> pb::StagedFlowSet {
    pb::StagedFlowSet { name: format!("flowsets/{}", packed.name), digest: packed.digest.0.to_vec().into() }
}

/// Sends a flow set: as its newest revision, or only its bytes for the apply that follows.
pub async fn upload(admin: &mut Admin, packed: &Packed, stage_only: bool) -> Outcome<pb::PushFlowSetResponse> {
    let header = pb::PushFlowSetHeader {
        name: format!("flowsets/{}", packed.name),
        digest: packed.digest.0.to_vec().into(),
        size_bytes: packed.tar.len() as u64,
        stage_only,
    };
    let message = |m| pb::PushFlowSetRequest { message: Some(m) };
    let chunks = packed.tar.chunks(CHUNK).map(|c| pb::push_flow_set_request::Message::Chunk(c.to_vec().into()));
    let header = pb::push_flow_set_request::Message::Header(header);
    let messages: Vec<_> = std::iter::once(header).chain(chunks).map(message).collect();
    Ok(admin.push_flow_set(tokio_stream::iter(messages)).await?.into_inner())
}

/// Says what is in it and what is not.
pub fn describe(packed: &Packed) {
    output::say(&format!("flowsets/{}: node types {}", packed.name, packed.node_types.join(", ")));
    let modules = &packed.modules;
    if !modules.is_empty() {
        output::say(&format!("flowsets/{}: modules {}", packed.name, modules.join(", ")));
    }
    for module in &packed.modules_compiled {
        output::say(&format!("  {module} holds compiled code: it must fit the hosts' architecture and Node.js"));
    }
    if !packed.modules_elsewhere.is_empty() {
        let named = packed.modules_elsewhere.join(", ");
        output::say(&format!("flowsets/{}: {named} must be in the hosts' image, or come with --modules", packed.name));
    }
    if !packed.credential_names.is_empty() {
        output::say(&format!("{} credentials stayed out of the flow set:", packed.credential_names.len()));
        packed.credential_names.iter().for_each(|n| output::say(&format!("  {n}")));
    }
}
