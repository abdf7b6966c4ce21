//! `--wait`: until every instance runs as desired, by what its own host reports.
//!
//! A report that is older than the change proves nothing: the host must have taken up a generation above the one before.
use crate::{
    cli::Wait,
    connection::Admin,
    failure::{Exit, Failure, Outcome},
    output, views, words,
};
use redforge_shared::wire::pb;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use tokio::time::Instant;

/// After this long without a new generation the change is taken to have changed nothing for the host.
const SETTLED: Duration = Duration::from_secs(10);

/// Generations of the hosts before the change.
#[derive(Debug, Default)]
pub struct Before {
    generations: BTreeMap<String, u64>,
    /// The hub said that nothing changed: no new generation will come.
    nothing_changed: bool,
}

fn host_of(instance: &str) -> String {
    format!("hosts/{}", views::instance_parts(instance).0)
}

impl Before {
    /// Asks for the hosts of these instances; one that does not exist is left to the hub's own refusal.
    pub async fn of(admin: &mut Admin, instances: &[String]) -> Outcome<Self> {
        let mut generations = BTreeMap::new();
        for name in instances.iter().map(|i| host_of(i)).collect::<BTreeSet<_>>() {
            match admin.get_host(pb::GetHostRequest { name: name.clone() }).await {
                Ok(host) => drop(generations.insert(name, host.into_inner().generation)),
                Err(s) if s.code() == tonic::Code::NotFound => {}
                Err(s) => return Err(s.into()),
            }
        }
        Ok(Self { generations, nothing_changed: false })
    }

    /// The same, knowing what the hub answered to the change.
    #[must_use]
    pub fn changed(self, any: bool) -> Self {
        Self { nothing_changed: !any, ..self }
    }
}

enum Now {
    AsDesired,
    /// And taken back by its host if it breaks before then.
    OnTrial(String),
    Failed(String),
    Underway(String),
}

/// Waits until the instance's host has taken up what was changed, whatever it makes of it.
pub async fn until_taken_up(admin: &mut Admin, instance: &str, before: &Before, limit: Duration) -> Outcome {
    let began = Instant::now();
    loop {
        let host = admin.get_host(pb::GetHostRequest { name: host_of(instance) }).await?.into_inner();
        let risen = before.nothing_changed
            || before.generations.get(&host.name).is_none_or(|g| host.generation > *g)
            || began.elapsed() > SETTLED;
        if risen && host.observed_generation >= host.generation {
            return Ok(());
        }
        if began.elapsed() >= limit {
            let text =
                format!("the host has not taken it up after {}s; it is {}", limit.as_secs(), words::link(host.link));
            return Err(Failure::new(Exit::Timeout, text).hint("it takes it up when it is back"));
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Waits, with a line on standard error for every change.
pub async fn until_as_desired(admin: &mut Admin, instances: &[String], before: Before, wait: &Wait) -> Outcome {
    let limit = wait.timeout;
    let began = Instant::now();
    let settled = || before.nothing_changed || began.elapsed() > SETTLED;
    let mut said: BTreeMap<&str, String> = BTreeMap::new();
    loop {
        let mut open = Vec::new();
        let mut failed = Vec::new();
        for name in instances {
            let (state, text) = match look(admin, name, &before, settled()).await? {
                Now::AsDesired => ("done", "runs as desired".to_owned()),
                Now::OnTrial(until) => {
                    let text = format!("runs as desired, on trial until {until}");
                    if wait.trusted {
                        open.push(format!("{name}: {text}"));
                        ("waiting", text)
                    } else {
                        ("done", format!("{text}: the host takes it back by itself if it breaks before then"))
                    }
                }
                Now::Failed(why) => {
                    failed.push(format!("{name}: {why}"));
                    ("failed", why)
                }
                Now::Underway(what) => {
                    open.push(format!("{name}: {what}"));
                    ("waiting", what)
                }
            };
            let line = format!("{:>4}s  {state:<7}  {name}  {text}", began.elapsed().as_secs());
            if said.insert(name, text.clone()) != Some(text) {
                output::say(&line);
            }
        }
        if open.is_empty() && failed.is_empty() {
            return Ok(());
        }
        if open.is_empty() {
            return Err(Failure { exit: Exit::NotAsDesired, errors: failed, hints: Vec::new(), example: None }.hint(
                "`redforgectl get instances -o wide` shows the reasons, `redforgectl logs HOST/INSTANCE` the lines",
            ));
        }
        if began.elapsed() >= limit {
            let mut failure =
                Failure::new(Exit::Timeout, format!("not all runs as desired after {}s", limit.as_secs()));
            failure.errors.extend(open.into_iter().chain(failed));
            return Err(failure.hint("the hosts keep at it; wait longer with --timeout"));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

async fn look(admin: &mut Admin, name: &str, before: &Before, settled: bool) -> Outcome<Now> {
    let host = admin.get_host(pb::GetHostRequest { name: host_of(name) }).await?.into_inner();
    let instance = admin.get_instance(pb::GetInstanceRequest { name: name.into() }).await?.into_inner();
    let link = words::link(host.link);
    if host.link != i32::from(pb::Link::Online) {
        return Ok(Now::Underway(format!("the host is {link}; it takes this up when it is back")));
    }
    let risen = before.generations.get(&host.name).is_some_and(|g| host.generation > *g) || settled;
    if !risen || host.observed_generation < host.generation {
        return Ok(Now::Underway("the host takes up the change".into()));
    }
    let Some(s) = instance.status else { return Ok(Now::Underway("not reported yet".into())) };
    let (phase, health, sync) = (words::phase(s.phase), words::health(s.health), words::sync(s.sync));
    let why = match words::reason(s.reason) {
        reason if reason.is_empty() => String::new(),
        reason if s.names.is_empty() => format!(" ({reason})"),
        reason => format!(" ({reason}: {})", s.names.join(", ")),
    };
    Ok(match (health.as_str(), sync.as_str()) {
        ("Healthy", "UpToDate") if s.trial_ends_at.is_some() => Now::OnTrial(words::time(s.trial_ends_at.as_ref())),
        ("Healthy", "UpToDate") => Now::AsDesired,
        // It is left to try, and may come up yet; nobody need wait for it.
        ("Error", _) if s.late() == pb::ChangeStep::Healthy => {
            Now::Failed(format!("{phase}, {health}, {sync}{why}, out of time: {}", words::step(s.late)))
        }
        (_, "Failed" | "RolledBack") => Now::Failed(format!("{phase}, {health}, {sync}{why}")),
        _ => Now::Underway(format!("{phase}, {health}, {sync}{why}")),
    })
}
