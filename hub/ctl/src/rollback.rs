//! `rollback` and `flowset rollback`: an earlier revision of an instance, or of its flows, becomes the newest one.
use crate::{
    cli::{FlowSetRollback, Rollback},
    config::Connection,
    connection::{self, Admin},
    failure::{Exit, Failure, Outcome},
    get, output, suggest, views, wait, words,
};
use redforge_shared::wire::pb;
use serde_json::json;

/// Goes back, and says to what.
pub async fn run(settings: &Connection, a: &Rollback) -> Outcome {
    let mut admin = connection::connect(settings).await?;
    let name = named(&mut admin, &a.name).await?;
    // A near miss deserves its suggestion.
    get::instance(&mut admin, &name).await?;
    let names = [name.clone()];
    let before = wait::Before::of(&mut admin, &names).await?;
    let request = pb::RollbackInstanceRequest { name: name.clone(), to_revision: a.to.unwrap_or(0) };
    let back = admin.rollback_instance(request).await?.into_inner();
    output::line(&format!("{name} is what revision {} was, now revision {}", back.from_revision, back.revision));
    if a.wait.wait {
        wait::until_as_desired(&mut admin, &names, before, &a.wait).await?;
    }
    Ok(())
}

/// Goes back to what a flow set was, and says to what.
pub async fn flow_set(settings: &Connection, a: &FlowSetRollback) -> Outcome {
    let name = words::name(&a.name, "flowsets/")?;
    let mut admin = connection::connect(settings).await?;
    let users = |i: &pb::Instance| views::instance_manifest(i)["spec"]["nodeRed"]["flowSet"] == json!(name);
    let all = get::instances(&mut admin, "").await?;
    let touched: Vec<String> = all.iter().filter(|i| users(i)).map(|i| i.name.clone()).collect();
    let before = wait::Before::of(&mut admin, &touched).await?;
    let request = pb::RollbackFlowSetRequest { name: format!("flowsets/{name}"), to_revision: a.to.unwrap_or(0) };
    let back = match admin.rollback_flow_set(request).await {
        Ok(back) => back.into_inner(),
        Err(status) => {
            let known = get::flow_sets(&mut admin).await?;
            let names = known.iter().map(|f| words::last(&f.name).to_owned());
            return Err(suggest::nearest(status.into(), name.as_str(), names));
        }
    };
    let revision = back.flow_set.map_or(0, |f| f.revision);
    output::line(&if back.changed {
        format!("flowsets/{name} is what revision {} was, now revision {revision}", back.from_revision)
    } else {
        format!("flowsets/{name} unchanged, revision {revision}: it is what revision {} was", back.from_revision)
    });
    if back.changed {
        back.instances.iter().for_each(|i| output::say(&format!("{i} gets this revision")));
    }
    if a.wait.wait {
        wait::until_as_desired(&mut admin, &touched, before.changed(back.changed), &a.wait).await?;
    }
    Ok(())
}

/// `HOST/NAME`, a full name, or `instance/NAME` where only one host has an instance of that name.
pub async fn named(admin: &mut Admin, typed: &str) -> Outcome<String> {
    let Some(short) = typed.strip_prefix("instance/") else { return words::instance_name(typed) };
    let all = get::instances(admin, "").await?;
    let of_name: Vec<&str> =
        all.iter().filter(|i| views::instance_parts(&i.name).1 == short).map(|i| i.name.as_str()).collect();
    match of_name[..] {
        [one] => Ok(one.to_owned()),
        [] => {
            let failure = Failure::new(Exit::NotFound, format!("no host has an instance '{short}'"));
            Err(suggest::nearest(failure, short, all.iter().map(|i| views::instance_parts(&i.name).1.to_owned())))
        }
        _ => Err(Failure::new(Exit::Usage, format!("several hosts have an instance '{short}'"))
            .hint(format!("name one of {}", of_name.join(", ")))),
    }
}
