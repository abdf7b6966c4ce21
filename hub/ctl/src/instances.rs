//! Small deeds on one instance or host: delete, resume, and how an applied resource is told.
use crate::{config::Connection, connection, failure::Outcome, get, output, suggest, words};
use redforge_shared::wire::pb;

/// Forgets an instance; its host stops it.
pub async fn delete(settings: &Connection, typed: &str) -> Outcome {
    let name = words::instance_name(typed)?;
    let mut admin = connection::connect(settings).await?;
    // A near miss deserves its suggestion before anything is removed.
    get::instance(&mut admin, &name).await?;
    admin.delete_instance(pb::DeleteInstanceRequest { name: name.clone() }).await?;
    output::line(&format!("{name} deleted"));
    Ok(())
}

/// Lets a host follow the hub again.
pub async fn resume(settings: &Connection, typed: &str) -> Outcome {
    let name = format!("hosts/{}", words::name(typed, "hosts/")?);
    let mut admin = connection::connect(settings).await?;
    match admin.resume_host(pb::ResumeHostRequest { name: name.clone() }).await {
        Ok(host) => {
            let host = host.into_inner();
            output::line(&format!("{name} resumed, generation {}", host.generation));
            if host.sync() == pb::Sync::Paused {
                let why = words::reason(host.reason);
                output::say(&format!("it is still paused ({why}): once you have decided that too, say it again"));
            }
            Ok(())
        }
        Err(status) => {
            let known = get::hosts(&mut admin).await.unwrap_or_default();
            let names = known.iter().map(|h| words::last(&h.name).to_owned());
            Err(suggest::nearest(status.into(), words::last(&name), names))
        }
    }
}

/// What became of an applied resource, in a word.
pub fn action(r: &pb::AppliedResource) -> &'static str {
    use pb::applied_resource::Action;
    match Action::try_from(r.action) {
        Ok(Action::Created) => "created",
        Ok(Action::Configured) => "configured",
        Ok(Action::Unchanged) => "unchanged",
        Ok(Action::Unspecified) | Err(_) => "applied",
    }
}

/// One line for one applied resource.
pub fn print_applied(r: &pb::AppliedResource) {
    let what = action(r);
    let revision = if r.revision > 0 { format!(", revision {}", r.revision) } else { String::new() };
    output::line(&format!("{} {what}{revision}", r.name));
}
