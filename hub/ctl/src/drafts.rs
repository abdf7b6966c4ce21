//! `flowset drafts` and `flowset adopt`: what was edited at hosts, and how it becomes a revision.
use crate::{
    cli::Adopt,
    config::Connection,
    connection,
    failure::{Exit, Failure, Outcome},
    get,
    output::{self, Format, Listing, Tone, cell, toned},
    suggest, views, wait, words,
};
use redforge_shared::wire::pb;
use serde_json::{Value, json};

/// Lists drafts, the newest first.
pub async fn list(settings: &Connection, name: Option<&str>, format: Format) -> Outcome {
    let parent = name.map(|n| words::name(n, "flowsets/")).transpose()?;
    let parent = parent.map(|n| format!("flowsets/{n}")).unwrap_or_default();
    let mut admin = connection::connect(settings).await?;
    if let Some(name) = name {
        let known = get::flow_sets(&mut admin).await?;
        if !known.iter().any(|f| f.name == parent) {
            let failure = Failure::new(Exit::NotFound, format!("no flow set is named '{name}'"));
            return Err(suggest::nearest(failure, name, known.iter().map(|f| words::last(&f.name).to_owned())));
        }
    }
    let all = admin.list_flow_set_drafts(pb::ListFlowSetDraftsRequest { parent }).await?.into_inner().drafts;
    listing(&all).print(format)
}

/// FLOWSET/NUMBER of flowsets/FLOWSET/drafts/NUMBER.
fn short(name: &str) -> String {
    name.trim_start_matches("flowsets/").replace("/drafts/", "/")
}

fn listing(all: &[pb::FlowSetDraft]) -> Listing {
    let row = |d: &pb::FlowSetDraft| {
        let (host, instance) = views::instance_parts(&d.instance);
        let state = match d.adopted_revision {
            0 => toned("open", Tone::Warn),
            revision => cell(format!("revision {revision}")),
        };
        vec![
            cell(short(&d.name)),
            cell(format!("{host}/{instance}")),
            cell(d.base_revision.to_string()),
            cell(d.node_count.to_string()),
            cell(d.digest.chars().take(12).collect::<String>()),
            cell(words::age(d.created_at.as_ref())),
            state,
        ]
    };
    let object = |d: &pb::FlowSetDraft| {
        json!({"name": d.name, "instance": d.instance, "baseRevision": d.base_revision, "digest": d.digest,
               "sizeBytes": d.size_bytes, "nodeCount": d.node_count, "adoptedRevision": d.adopted_revision,
               "createdAt": words::time(d.created_at.as_ref())})
    };
    let objects: Vec<Value> = all.iter().map(object).collect();
    Listing {
        head: vec!["DRAFT", "EDITED AT", "BASE", "NODES", "DIGEST", "AGE", "ADOPTED"],
        rows: all.iter().map(row).collect(),
        names: all.iter().map(|d| d.name.clone()).collect(),
        manifests: objects.clone(),
        objects,
        single: false,
        empty: "There is no draft. One comes up when flows are edited at a host whose instance has `nodeRed.drift: adopt`.",
    }
}

/// Makes a draft the newest revision.
pub async fn adopt(settings: &Connection, a: &Adopt) -> Outcome {
    let typed = a.draft.trim_start_matches("flowsets/");
    let parts = typed.split_once("/drafts/").or_else(|| typed.split_once('/'));
    let Some((flow_set, number)) = parts.and_then(|(f, n)| Some((f, n.parse::<u64>().ok()?))) else {
        let failure = Failure::new(Exit::Usage, format!("'{}' is not FLOWSET/NUMBER", a.draft));
        return Err(failure.hint("redforgectl flowset drafts lists them"));
    };
    let name = format!("flowsets/{}/drafts/{number}", words::name(flow_set, "flowsets/")?);
    let mut admin = connection::connect(settings).await?;
    let users = |i: &pb::Instance| views::instance_manifest(i)["spec"]["nodeRed"]["flowSet"] == json!(flow_set);
    let all = get::instances(&mut admin, "").await?;
    let touched: Vec<String> = all.iter().filter(|i| users(i)).map(|i| i.name.clone()).collect();
    let before = wait::Before::of(&mut admin, &touched).await?;
    let done = admin.adopt_flow_set_draft(pb::AdoptFlowSetDraftRequest { name, force: a.force }).await?.into_inner();
    let set = done.flow_set.clone().unwrap_or_default();
    let what = if done.changed { "adopted" } else { "unchanged" };
    output::line(&format!("flowsets/{flow_set} {what}, revision {}, {} nodes", set.revision, set.node_count));
    if done.changed {
        done.instances.iter().for_each(|i| output::say(&format!("{i} gets this revision")));
    }
    if a.wait.wait {
        wait::until_as_desired(&mut admin, &touched, before.changed(done.changed), &a.wait).await?;
    }
    Ok(())
}
