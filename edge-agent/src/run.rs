//! The wiring of the agent: reads as a list of what it consists of. Files first (identity, ledger), then what works
//! without a hub (Docker, reconcile), then the link, then the page that shows it all.
//!
//! Whatever is missing at start (an enrollment, room on the disk) is waited for with the page up and saying so; only what
//! waiting cannot mend (a busy lock, a damaged or newer file) ends the process.
use crate::{
    collect,
    config::Config,
    db::{
        OpenError,
        ledger::{Ledger, LedgerError},
        outbox::{self, Limits, Outbox, OutboxError},
    },
    drafts, editor, facts,
    identity::{Enrolled, IdentityDir},
    link::{self, Link, OutboxNumbers, dial::HubUrl},
    page::{self, Page, Sources, Stage},
    privacy::Gate,
    reconcile::{self, Reconciler},
    runtime::{BrokersHeard, QueuesHeard, Runtime, docker::Docker},
};
use anyhow::Context;
use redforge_shared::{
    clock::{SharedClock, SystemClock},
    daemon::{self, Pulse, Tasks},
    error::Chain,
    ids::RunId,
    policy::Policy,
    report::HostFacts,
};
use std::{io::Write, path::Path, sync::Arc, time::Duration};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub mod lock;
#[cfg(test)]
mod tests;

/// How long tasks may take to end.
const GRACE: Duration = Duration::from_secs(10);
/// What an agent without an identity waits for.
const NOT_ENROLLED: &str = "not enrolled yet: on the hub run `redforgectl token create`, then the `redforge-edge enroll ...` line it prints here";
/// How often something that is waited for is looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How often the outbox's numbers are read again.
const OUTBOX_TICK: Duration = Duration::from_millis(500);
/// A loop that has not come round for so long hangs: systemd is told nothing more and starts the agent again. Longer than
/// the longest wait for an engine that does not answer, several times over: that is no reason to end.
const HANGS: Duration = Duration::from_secs(900);
/// How often facts about the machine are measured again.
const FACTS_TICK: Duration = Duration::from_secs(15);

/// Runs the agent until it is told to stop.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let clock: SharedClock = Arc::new(SystemClock);
    let tasks = Tasks::new();
    let identity = IdentityDir::open(&config.state_dir)?;
    let _lock = lock::take(&config.state_dir, &config.status_socket())?;

    let (stage, seen) = watch::channel(Stage::Starting("reading its files".into()));
    let (port_trouble, port) = watch::channel(None);
    let (gateway_trouble, gateway) = watch::channel(None);
    let page = Page {
        clock: Arc::clone(&clock),
        identity: identity.clone(),
        stage: seen,
        troubles: vec![port, gateway],
        outbox_max_bytes: config.outbox.max_bytes,
        max_hold: config.max_hold,
    };
    serve_page(&config, page, port_trouble, &tasks)?;
    if let Some(every) = daemon::watchdog_interval() {
        tasks.spawn("watchdog", daemon::watch(tasks.clone(), every, daemon::notify_watchdog));
    }

    let stop = tasks.stop_token();
    // Whatever ends this, also the one who runs it, ends its tasks: they must not speak for this host beside the next run.
    let _ends_tasks = stop.clone().drop_guard();
    let ended = tokio::select! {
        started = Box::pin(start(&config, clock, identity, (&stage, gateway_trouble), &tasks)) => match started {
            // Up: from here on only a signal or a dead task ends it.
            Ok(()) => tokio::select! {
                () = daemon::signalled() => Ok(()),
                () = stop.cancelled() => Err(anyhow::anyhow!("a part of the agent ended by itself, the log says which")),
            },
            Err(e) => Err(e),
        },
        () = daemon::signalled() => Ok(()),
    };
    stop.cancel();
    tasks.run_until_stopped(GRACE).await;
    ended
}

/// Brings every room up, in the order in which they need each other.
async fn start(
    config: &Config,
    clock: SharedClock,
    identity: IdentityDir,
    (stage, gateway_trouble): (&watch::Sender<Stage>, watch::Sender<Option<String>>),
    tasks: &Tasks,
) -> anyhow::Result<()> {
    let stop = tasks.stop_token();
    let Some(enrolled) = wait_for_enrollment(&identity, stage, &stop).await? else { return Ok(()) };
    let Some((ledger, start_no)) = open_ledger(&config.state_dir, stage, &stop).await? else { return Ok(()) };
    let run_id = random_run_id()?;

    let docker: Arc<dyn Runtime> = Arc::new(Docker::new(&config.runtime.docker_socket));
    let (facts_out, facts) = watch::channel(facts::measure(&config.state_dir));
    tasks.spawn("facts", measure_facts(config.state_dir.clone(), Arc::clone(&docker), facts_out, stop.clone()));

    let (full_out, disk_full) = watch::channel(false);
    let (queues_out, queues_heard) = watch::channel(QueuesHeard::new());
    let (heard_out, brokers_heard) = watch::channel(BrokersHeard::new());
    let reconciler = Reconciler::new(reconcile::Deps {
        ledger: ledger.clone(),
        runtime: Arc::clone(&docker),
        blobs: config.state_dir.join("blobs"),
        clock: Arc::clone(&clock),
        host: enrolled.host_id,
        pool: config.runtime.pool.parse().context("runtime.pool")?,
        subnet: config.runtime.subnet.clone(),
        deadlines: config.runtime.deadlines,
        limits: config.runtime.limits,
        gateway_port: config.gateway_port,
        brokers_heard: Some(brokers_heard),
        queues_heard: Some(queues_heard),
        capacity: reconcile::capacity(facts.borrow().cpus, facts.borrow().memory_total_bytes),
        clean_up: config.clean_up,
        disk_full: Some(disk_full),
        registries: Arc::new(config.registries.clone()),
    });
    let (status, brokers, logs) = (reconciler.status(), reconciler.brokers(), reconciler.logs());
    // Before the outbox: while that is not open yet, whoever hands something in is told to come back.
    let (tools_out, tools_in) = watch::channel(None);
    let ingest = collect::http::Deps {
        door: reconciler.door(),
        tools: tools_in,
        desk: editor::Desk::new(ledger.clone(), Arc::clone(&clock)),
        trouble: gateway_trouble,
        port: config.gateway_port,
    };
    tasks.spawn("gateway", collect::http::run(ingest, tasks.clone()));
    let edited = reconciler.edited();
    tasks.spawn("reconcile", reconciler.run(tasks.pulse("reconcile", HANGS), stop.clone()));

    // After reconcile: whatever is wrong with the records must not keep containers from running.
    let Some(records) = open_outbox(config, &clock, stage, &stop).await? else { return Ok(()) };
    let (numbers_out, outbox) = watch::channel(numbers(&records).await.unwrap_or_default());
    tasks.spawn(
        "outbox",
        watch_outbox(records.clone(), (numbers_out, full_out), tasks.pulse("outbox", HANGS), stop.clone()),
    );

    let gate = Gate::new(policy(&ledger));
    tasks.spawn("policy", follow_policy(gate.clone(), ledger.clone(), stop.clone()));
    let (drafts_out, drafts) = watch::channel(Vec::new());
    tasks.spawn("drafts", drafts::run(edited, ledger.clone(), gate.clone(), drafts_out, stop.clone()));
    let tools = collect::Tools::new(gate, records.clone(), Arc::clone(&clock)).telling(queues_out);
    tools_out.send_replace(Some(tools.clone()));
    let mqtt = collect::mqtt::run(brokers, tools.clone(), enrolled.host_id, heard_out, stop.clone());
    tasks.spawn("collect mqtt", mqtt);
    tasks.spawn("collect logs", collect::logs::run(logs, docker, tools, stop.clone()));

    let (link, link_view) = Link::new(link::Deps {
        identity,
        hub_urls: hub_urls(config, &enrolled)?,
        ledger: ledger.clone(),
        outbox: records.clone(),
        status: status.clone(),
        facts: facts.clone(),
        outbox_numbers: outbox.clone(),
        drafts,
        clock: Arc::clone(&clock),
        blobs: config.state_dir.join("blobs/sha256"),
        run_id,
        start_no,
    });
    tasks.spawn("link", link.run(tasks.pulse("link", HANGS), stop.clone()));
    tasks.spawn("ledger", give_up_when_broken(ledger.clone(), stop.clone()));

    let sources = Sources { link: link_view, status, outbox, facts, ledger };
    stage.send_replace(Stage::Working(Box::new(sources)));
    tracing::info!(host.id = %enrolled.host_id, host.name = %enrolled.name, start_no, "agent at work");
    daemon::notify_ready(&format!("host {}", enrolled.name));
    ready_line(&enrolled);
    Ok(())
}

/// The data rules of the site, as last accepted. Before that nothing runs here that could make a record.
fn policy(ledger: &Ledger) -> Policy {
    ledger.desired().map(|desired| desired.state.policy).unwrap_or_default()
}

/// Gives the gate the policy of each desired state that is accepted.
async fn follow_policy(gate: Gate, ledger: Ledger, stop: CancellationToken) {
    let mut accepted = ledger.subscribe();
    loop {
        accepted.borrow_and_update();
        if gate.set(policy(&ledger)) {
            tracing::info!(policy = policy(&ledger).as_str(), "the site's policy changed");
        }
        tokio::select! {
            news = accepted.changed() => if news.is_err() { return },
            () = stop.cancelled() => return,
        }
    }
}

/// Scripts and tests wait for this line; without a reader the agent runs all the same.
fn ready_line(enrolled: &Enrolled) {
    let mut out = std::io::stdout();
    drop(writeln!(out, "ready host={} name={}", enrolled.host_id, enrolled.name));
    drop(out.flush());
}

fn serve_page(
    config: &Config,
    page: Page,
    port_trouble: watch::Sender<Option<String>>,
    tasks: &Tasks,
) -> anyhow::Result<()> {
    let socket = config.status_socket();
    let unix = page::bind_unix(&socket).with_context(|| format!("{} cannot be made", socket.display()))?;
    tasks.spawn("page", page::serve_unix(page.clone(), unix, tasks.clone()));
    if let Some(addr) = config.page_listen {
        tasks.spawn("page on a port", page::serve_port(page, addr, port_trouble, tasks.clone()));
    }
    Ok(())
}

fn say(stage: &watch::Sender<Stage>, why: String) {
    daemon::notify_status(&why);
    stage.send_if_modified(|stage| {
        if matches!(stage, Stage::Starting(old) if *old == why) {
            return false;
        }
        tracing::warn!(reason = why, "the agent waits");
        *stage = Stage::Starting(why);
        true
    });
}

/// `None`: stopped while waiting.
async fn wait_for_enrollment(
    identity: &IdentityDir,
    stage: &watch::Sender<Stage>,
    stop: &CancellationToken,
) -> anyhow::Result<Option<Enrolled>> {
    loop {
        if let Some(enrolled) = identity.enrolled()? {
            return Ok(Some(enrolled));
        }
        // systemd must not time out on a host that is not enrolled yet.
        daemon::notify_ready("not enrolled");
        say(stage, NOT_ENROLLED.into());
        if !pause(stop).await {
            return Ok(None);
        }
    }
}

/// The ledger and the number of this start. `None`: stopped while waiting.
async fn open_ledger(
    state_dir: &Path,
    stage: &watch::Sender<Stage>,
    stop: &CancellationToken,
) -> anyhow::Result<Option<(Ledger, u64)>> {
    let path = state_dir.join("ledger.db");
    loop {
        // On a disk without any room the reserve is what it can be opened with.
        outbox::give_way(&state_dir.join("outbox.db"));
        let opening = async {
            let ledger = Ledger::open(&path).await?;
            let start_no = ledger.next_start_no().await?;
            Ok::<_, LedgerError>((ledger, start_no))
        };
        match opening.await {
            Ok(opened) => return Ok(Some(opened)),
            Err(e) if waiting_helps(&e) => say(stage, format!("ledger.db cannot be opened yet: {}", Chain(&e))),
            Err(e) => return Err(e.into()),
        }
        if !pause(stop).await {
            return Ok(None);
        }
    }
}

/// `None`: stopped while waiting.
async fn open_outbox(
    config: &Config,
    clock: &SharedClock,
    stage: &watch::Sender<Stage>,
    stop: &CancellationToken,
) -> anyhow::Result<Option<Outbox>> {
    let path = config.state_dir.join("outbox.db");
    let limits = Limits {
        max_bytes: config.outbox.max_bytes,
        hub_rpo: Duration::from_secs(config.outbox.hub_rpo_s.into()),
        reserve_bytes: config.outbox.reserve_bytes,
        ..Limits::default()
    };
    loop {
        match Outbox::open(&path, limits, Arc::clone(clock)).await {
            Ok(outbox) => return Ok(Some(outbox)),
            Err(OutboxError::Open(e)) if never_opens(&e) => return Err(OutboxError::Open(e).into()),
            Err(e) => say(stage, format!("outbox.db cannot be opened yet: {}", Chain(&e))),
        }
        if !pause(stop).await {
            return Ok(None);
        }
    }
}

/// The outbox's numbers, while it can be read.
async fn numbers(outbox: &Outbox) -> Option<Vec<OutboxNumbers>> {
    let classes = outbox.status().await.ok()?;
    Some(classes.into_iter().map(Into::into).collect())
}

/// Publishes the outbox's numbers, at most twice a second, and ends the process when the file cannot be trusted.
async fn watch_outbox(
    outbox: Outbox,
    (out, full): (watch::Sender<Vec<OutboxNumbers>>, watch::Sender<bool>),
    pulse: Pulse,
    stop: CancellationToken,
) {
    let mut tick = tokio::time::interval(OUTBOX_TICK);
    loop {
        pulse.beat();
        tokio::select! {
            _ = tick.tick() => {}
            () = outbox.broken() => {
                tracing::error!("outbox.db cannot be trusted after a disk error, stopping to check it at the next start");
                return stop.cancel();
            }
            () = stop.cancelled() => return outbox.close().await,
        }
        let now = outbox.room().disk_full;
        full.send_if_modified(|old| std::mem::replace(old, now) != now);
        if let Some(fresh) = numbers(&outbox).await {
            out.send_if_modified(|old| std::mem::replace(old, fresh.clone()) != fresh);
        }
    }
}

/// Is the file of a kind that waiting cannot mend?
fn never_opens(error: &OpenError) -> bool {
    error.is_damage() || matches!(error, OpenError::OldSqlite(_) | OpenError::Foreign { .. } | OpenError::Newer { .. })
}

fn waiting_helps(error: &LedgerError) -> bool {
    match error {
        LedgerError::Open(e) => !never_opens(e),
        LedgerError::Act(..) => true,
        _ => false,
    }
}

/// False: stopped.
async fn pause(stop: &CancellationToken) -> bool {
    tokio::select! {
        () = tokio::time::sleep(LOOK_AGAIN) => true,
        () = stop.cancelled() => false,
    }
}

fn hub_urls(config: &Config, enrolled: &Enrolled) -> anyhow::Result<Vec<HubUrl>> {
    if !config.hub_urls.is_empty() {
        return Ok(config.hub_urls.clone());
    }
    Ok(vec![enrolled.hub_url.parse().context("the hub's address in identity/enrolled.json")?])
}

fn random_run_id() -> anyhow::Result<RunId> {
    let mut id = [0; 16];
    aws_lc_rs::rand::fill(&mut id).map_err(|_| anyhow::anyhow!("the kernel gives no randomness"))?;
    Ok(RunId(id))
}

async fn measure_facts(
    state_dir: std::path::PathBuf,
    runtime: Arc<dyn Runtime>,
    out: watch::Sender<HostFacts>,
    stop: CancellationToken,
) {
    let mut tick = tokio::time::interval(FACTS_TICK);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = stop.cancelled() => return,
        }
        let mut measured = facts::measure(&state_dir);
        // An engine that is away leaves both empty; why it is away is the reconciler's to say.
        if let Ok(engine) = runtime.version().await {
            measured.docker_version = engine.engine;
            measured.docker_api_version = engine.api;
        }
        out.send_if_modified(|facts| std::mem::replace(facts, measured.clone()) != measured);
    }
}

/// After a failed fsync nothing that was committed can be trusted: the process ends and checks its files at the start.
async fn give_up_when_broken(ledger: Ledger, stop: CancellationToken) {
    tokio::select! {
        () = ledger.broken() => {
            tracing::error!("ledger.db cannot be trusted after a disk error, stopping to check it at the next start");
            stop.cancel();
        }
        () = stop.cancelled() => {}
    }
}
