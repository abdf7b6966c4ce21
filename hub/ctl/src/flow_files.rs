//! `flowset pull`: a flow set's files come back, and what is read of a folder that was pulled.
//!
//! The folder holds what the flow set's tar holds, the flows indented for people, and a manifest: pushing or applying it
//! gives the same digest, so it changes nothing.
use crate::{
    cli::{Pull, Version},
    config::Connection,
    connection::{self, Admin},
    failure::{Exit, Failure, Outcome},
    get, output, suggest, views, words,
};
use redforge_shared::{
    flows::{self, FlowSetManifest, Flows},
    ids::{Digest, Name},
    manifest::API_VERSION,
    wire::pb,
};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    io::Read as _,
    path::{Path, PathBuf},
};

/// The flows within the tar and the folder.
pub const FLOWS_FILE: &str = "flows.json";
/// What else is known of them, in both.
const ABOUT_FILE: &str = "flowset.json";
/// The manifest, in the folder only.
const MANIFEST_FILE: &str = "flowset.yaml";

/// A flow set as the hub has it.
pub struct Pulled {
    /// flowsets/NAME, with /revisions/NUMBER or /drafts/NUMBER.
    pub what: String,
    pub digest: Digest,
    /// The tar's entries.
    pub entries: BTreeMap<String, Vec<u8>>,
    pub flows: Flows,
}

/// Writes a flow set's files.
pub async fn pull(settings: &Connection, a: &Pull) -> Outcome {
    let name = words::name(&a.name, "flowsets/")?;
    let mut admin = connection::connect(settings).await?;
    let pulled = fetch(&mut admin, &name, &a.version).await?;
    let flows = pretty(&pulled.flows)?;
    if a.output.as_deref() == Some(Path::new("-")) {
        output::line(flows.trim_end());
        return Ok(());
    }
    let folder = a.output.clone().unwrap_or_else(|| PathBuf::from(name.as_str()));
    let manifest = json!({"apiVersion": API_VERSION, "kind": "FlowSet", "metadata": {"name": name}, "spec": {"flows": FLOWS_FILE}});
    let mut files = pulled.entries;
    files.insert(FLOWS_FILE.into(), flows.into_bytes());
    files.insert(MANIFEST_FILE.into(), output::yaml(&[manifest])?.into_bytes());
    let bad = |path: &Path, what: &str, e: std::io::Error| {
        Failure::error(format!("{} cannot be {what}: {e}", path.display())).hint("-o names another folder")
    };
    // All are looked at before one is written.
    let mut differ = Vec::new();
    for (file, bytes) in &files {
        match std::fs::read(folder.join(file)) {
            Ok(there) if there != *bytes && !a.force => differ.push(folder.join(file).display().to_string()),
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(bad(&folder.join(file), "read", e)),
            _ => {}
        }
    }
    if !differ.is_empty() {
        let text = format!("{} would be overwritten with other content", differ.join(", "));
        return Err(Failure::new(Exit::Conflict, text)
            .hint(format!("redforgectl flowset diff {name} -f {} shows what differs", folder.display()))
            .hint("--force replaces the files, -o names another folder"));
    }
    for (file, bytes) in &files {
        let path = folder.join(file);
        let parent = path.parent().unwrap_or(&folder);
        std::fs::create_dir_all(parent).map_err(|e| bad(parent, "made", e))?;
        std::fs::write(&path, bytes).map_err(|e| bad(&path, "written", e))?;
    }
    output::line(&format!("{} pulled to {}, {} nodes", pulled.what, folder.display(), pulled.flows.nodes().len()));
    Ok(())
}

/// As Node-RED itself writes a file for people.
fn pretty(flows: &Flows) -> Outcome<String> {
    let text = serde_json::to_string_pretty(flows.nodes()).map_err(|e| Failure::error(e.to_string()))?;
    Ok(text + "\n")
}

/// Gets a version of a flow set from the hub, and checks that it is what the hub says.
pub async fn fetch(admin: &mut Admin, name: &Name, version: &Version) -> Outcome<Pulled> {
    use pb::pull_flow_set_response::Message;
    let what = resolve(admin, name, version).await?;
    let failed = |s: tonic::Status| Failure::from(s);
    let mut messages = match admin.pull_flow_set(pb::PullFlowSetRequest { name: what.clone() }).await {
        Ok(messages) => messages.into_inner(),
        Err(s) => {
            let known = get::flow_sets(admin).await?;
            let names = known.iter().map(|f| words::last(&f.name).to_owned());
            return Err(suggest::nearest(failed(s), name.as_str(), names));
        }
    };
    let (mut header, mut tar) = (None, Vec::new());
    while let Some(message) = messages.message().await.map_err(failed)? {
        match message.message {
            Some(Message::Header(found)) => header = Some(found),
            Some(Message::Chunk(bytes)) if tar.len() + bytes.len() <= flows::MAX_FLOW_SET_BYTES => {
                tar.extend_from_slice(&bytes);
            }
            Some(Message::Chunk(_)) => return Err(Failure::error("the hub sends more than a flow set can hold")),
            None => {}
        }
    }
    let broken = || Failure::error(format!("what the hub gave as {what} is not whole")).hint("try again");
    let digest: Digest = header.as_ref().and_then(|h| h.digest.parse().ok()).ok_or_else(broken)?;
    let set = flows::unpack(&tar, Some(digest)).map_err(|e| Failure::error(format!("{what}: {e}")))?;
    let entries = flows::entries(&tar).map_err(|e| Failure::error(format!("{what}: {e}")))?;
    let what = match header.filter(|_| version.draft.is_none() && version.host.is_none()) {
        Some(header) => format!("flowsets/{name}/revisions/{}", header.revision),
        None => what,
    };
    Ok(Pulled { what, digest, entries, flows: set.flows })
}

/// The resource name of the version that is meant.
async fn resolve(admin: &mut Admin, name: &Name, version: &Version) -> Outcome<String> {
    let parent = format!("flowsets/{name}");
    if let Some(revision) = version.revision {
        return Ok(format!("{parent}/revisions/{revision}"));
    }
    let number = version.draft.unwrap_or(0);
    if version.draft.is_none() && version.host.is_none() {
        return Ok(parent);
    }
    let host = version.host.as_deref().map(|h| words::name(h, "hosts/")).transpose()?;
    let request = pb::ListFlowSetDraftsRequest { parent: parent.clone() };
    let drafts = admin.list_flow_set_drafts(request).await?.into_inner().drafts;
    let meant = |d: &&pb::FlowSetDraft| {
        let of_host = host.as_ref().is_none_or(|h| views::instance_parts(&d.instance).0 == h.as_str());
        of_host && (number == 0 || d.name.ends_with(&format!("/drafts/{number}")))
    };
    // They come with the newest first.
    if let Some(draft) = drafts.iter().find(meant) {
        return Ok(draft.name.clone());
    }
    let whose = host.map(|h| format!(" of host '{h}'")).unwrap_or_default();
    let which = if number > 0 { format!("draft {number}") } else { "draft".into() };
    Err(Failure::new(Exit::NotFound, format!("flow set '{name}' has no {which}{whose}")).hint(
        "redforgectl flowset drafts lists them; one comes up when flows are edited where the instance adopts edits",
    ))
}

/// Credentials that the flow set beside this file said it was without, of nodes that are still there: a file that was
/// pulled has none inside, and would else become another flow set.
pub fn pulled_credentials(flows_file: &Path, flows: &Flows) -> Vec<String> {
    let about = flows_file.with_file_name(ABOUT_FILE);
    let is_pulled = flows_file.file_name().is_some_and(|n| n == FLOWS_FILE);
    let mut bytes = Vec::new();
    let limit = flows::MAX_FLOW_SET_BYTES as u64;
    let read = is_pulled.then(|| std::fs::File::open(about).and_then(|f| f.take(limit).read_to_end(&mut bytes)));
    let Some(Ok(_)) = read else { return vec![] };
    let Ok(known) = serde_json::from_slice::<FlowSetManifest>(&bytes) else { return vec![] };
    let ids: Vec<String> =
        flows.nodes().iter().filter_map(|n| Some(format!(" ({}): ", n.get("id")?.as_str()?))).collect();
    known.credential_names.into_iter().filter(|c| ids.iter().any(|id| c.contains(id.as_str()))).collect()
}

/// The name in the manifest of a folder that was pulled.
pub fn name_of(folder: &Path) -> Outcome<Name> {
    let path = folder.join(MANIFEST_FILE);
    let hint = "name the flow set: redforgectl flowset diff NAME -f PATH";
    let text = std::fs::read_to_string(&path)
        .map_err(|e| Failure::error(format!("{} cannot be read: {e}", path.display())).hint(hint))?;
    let parsed = redforge_shared::manifest::parse(&text).unwrap_or_default();
    let name = parsed.into_iter().find_map(|m| match m {
        redforge_shared::manifest::Manifest::FlowSet(f) => Some(f.name),
        _ => None,
    });
    name.ok_or_else(|| Failure::error(format!("{} is not the manifest of a flow set", path.display())).hint(hint))
}

/// What a JSON value is on one line of a table.
pub fn short(value: Option<&Value>) -> String {
    const MOST: usize = 60;
    let text = value.map_or_else(|| "-".into(), Value::to_string);
    let cut: String = text.chars().take(MOST).collect();
    if cut.len() < text.len() { cut + "…" } else { cut }
}
