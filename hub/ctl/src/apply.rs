//! `apply`: manifests checked here, then by the hub as a whole; only then are flow files pushed and all of it made true.
use crate::{
    changes::{self, Change},
    cli::Apply,
    config::Connection,
    connection,
    failure::{Failure, Outcome},
    flow_sets, instances, manifest_files,
    output::{self, Format},
    wait,
};
use redforge_shared::wire::pb::{self, applied_resource::Action};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Applies everything or nothing: what was pushed without being applied belongs to no flow set.
pub async fn run(settings: &Connection, a: &Apply) -> Outcome {
    let manifests = manifest_files::read(&a.files)?;
    let mut admin = connection::connect(settings).await?;
    let before = wait::Before::of(&mut admin, &manifests.instances).await?;
    let refused = |s: tonic::Status| {
        let mut failure = Failure::from(s);
        failure.errors.iter_mut().for_each(|e| *e = manifests.locate(e));
        failure.hint("nothing was changed")
    };
    let flow_sets = manifests.flow_sets.iter().map(flow_sets::staged).collect();
    let mut request = pb::ApplyRequest { manifests: manifests.text.clone(), validate_only: true, flow_sets };
    if a.dry_run || !manifests.flow_sets.is_empty() {
        let checked = admin.apply(request.clone()).await.map_err(refused)?.into_inner().resources;
        if a.dry_run {
            let changes = changes::of(&mut admin, &manifests.parsed).await?;
            print(&checked, &changes, a.output)?;
            output::say("nothing was changed (--dry-run)");
            return Ok(());
        }
        for packed in &manifests.flow_sets {
            let name = format!("flowsets/{}", packed.name);
            if checked.iter().any(|r| r.name == name && r.action() != Action::Unchanged) {
                flow_sets::upload(&mut admin, packed, true).await?;
            }
        }
    }
    request.validate_only = false;
    let applied = admin.apply(request).await.map_err(refused)?.into_inner().resources;
    print(&applied, &BTreeMap::new(), a.output)?;
    manifests.flow_sets.iter().for_each(flow_sets::describe);
    if a.wait.wait {
        let before = before.changed(applied.iter().any(|r| r.action() != Action::Unchanged));
        wait::until_as_desired(&mut admin, &manifests.instances, before, &a.wait).await?;
    }
    Ok(())
}

fn print(applied: &[pb::AppliedResource], changes: &BTreeMap<String, Vec<Change>>, format: Format) -> Outcome {
    let object = |r: &pb::AppliedResource| {
        let mut object = json!({"name": r.name, "action": instances::action(r), "revision": r.revision});
        if let Some(changes) = changes.get(&r.name) {
            object["changes"] = changes.iter().map(Change::json).collect();
        }
        object
    };
    let objects: Vec<Value> = applied.iter().map(object).collect();
    match format {
        Format::Table | Format::Wide => {
            for r in applied {
                instances::print_applied(r);
                // A new resource is its manifest: the file says it better.
                if r.action() == Action::Configured {
                    changes.get(&r.name).into_iter().flatten().for_each(|c| output::line(&format!("  {}", c.text())));
                }
            }
        }
        Format::Name => applied.iter().for_each(|r| output::line(&r.name)),
        Format::Json => {
            output::line(&serde_json::to_string_pretty(&objects).map_err(|e| Failure::error(e.to_string()))?);
        }
        Format::Yaml => output::line(output::yaml(&objects)?.trim_end()),
    }
    Ok(())
}
