//! `apply`: manifests checked here, flow files pushed, the rest applied by the hub as a whole.
use crate::{
    cli::Apply,
    config::Connection,
    connection,
    failure::{Failure, Outcome},
    flow_sets, instances, manifest_files,
    output::{self, Format},
    wait,
};
use redforge_shared::wire::pb;
use serde_json::json;

/// Applies everything, or nothing but flow sets: they are immutable, and a set that nobody uses changes no host.
pub async fn run(settings: &Connection, a: &Apply) -> Outcome {
    let manifests = manifest_files::read(&a.files)?;
    let mut admin = connection::connect(settings).await?;
    let before = wait::Before::of(&mut admin, &manifests.instances).await?;
    for packed in &manifests.flow_sets {
        if a.dry_run {
            output::say(&format!(
                "flowsets/{} would be pushed, {} nodes, {}",
                packed.name, packed.node_count, packed.digest
            ));
        } else {
            flow_sets::report(&flow_sets::upload(&mut admin, packed).await?, packed);
        }
    }
    if !manifests.text.trim().is_empty() {
        let request = pb::ApplyRequest { manifests: manifests.text.clone(), validate_only: a.dry_run };
        let applied = admin.apply(request).await.map_err(|s| {
            let mut failure = Failure::from(s);
            failure.errors.iter_mut().for_each(|e| *e = manifests.locate(e));
            failure
        })?;
        print(&applied.into_inner().resources, a.output)?;
    }
    if a.dry_run {
        output::say("nothing was changed (--dry-run)");
        return Ok(());
    }
    if a.wait.wait {
        wait::until_as_desired(&mut admin, &manifests.instances, before, a.wait.timeout).await?;
    }
    Ok(())
}

fn print(applied: &[pb::AppliedResource], format: Format) -> Outcome {
    let word = |r: &pb::AppliedResource| {
        let action = r.action().as_str_name().trim_start_matches("ACTION_").to_lowercase();
        json!({"name": r.name, "action": action, "revision": r.revision})
    };
    match format {
        Format::Table | Format::Wide => applied.iter().for_each(instances::print_applied),
        Format::Name => applied.iter().for_each(|r| output::line(&r.name)),
        Format::Json => {
            let list: Vec<_> = applied.iter().map(word).collect();
            output::line(&serde_json::to_string_pretty(&list).map_err(|e| Failure::error(e.to_string()))?);
        }
        Format::Yaml => output::line(output::yaml(&applied.iter().map(word).collect::<Vec<_>>())?.trim_end()),
    }
    Ok(())
}
