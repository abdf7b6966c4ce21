//! `rollback`: an earlier revision of an instance becomes its newest one.
use crate::{
    cli::Rollback,
    config::Connection,
    connection::{self, Admin},
    failure::{Exit, Failure, Outcome},
    get, output, suggest, views, wait, words,
};
use redforge_shared::wire::pb;

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
        wait::until_as_desired(&mut admin, &names, before, a.wait.timeout).await?;
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
