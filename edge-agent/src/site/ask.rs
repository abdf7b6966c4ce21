//! The person's side: hands a deed to the running agent, or writes it into the ledger while none runs.
use super::{Asked, Asking, Deed, Done, take, who};
use crate::{
    config::Config,
    db::ledger::Ledger,
    page::ask::exchange,
    run::lock::{self, Held},
};
use anyhow::{Context, bail};
use redforge_shared::clock::Clock;
use serde::Deserialize;
use std::io;

/// What the agent answers when it does not do it.
#[derive(Deserialize)]
struct Problem {
    error: String,
}

/// Does it, or says why not.
pub async fn ask(config: &Config, clock: &dyn Clock, deed: Deed) -> anyhow::Result<Done> {
    let Some(Held { socket, .. }) = lock::holder(&config.state_dir) else {
        return write(config, clock, &deed).await;
    };
    let asked = Asked { deed, sudo_user: config.sudo_user.clone() };
    let body = serde_json::to_vec(&asked).context("the question cannot be written")?;
    let answered = exchange(&socket, "POST", "/site", body).await;
    let (status, body) = answered.map_err(|e| {
        let denied = e
            .chain()
            .any(|c| c.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::PermissionDenied));
        let next = if denied { ": sudo, or become a member of the group that owns it" } else { "" };
        e.context(format!("the agent runs but cannot be asked on {}{next}", socket.display()))
    })?;
    match status {
        200 => serde_json::from_slice(&body).context("the agent's answer is not understood"),
        // It has not opened its ledger yet, or waits for room to: the file takes a row all the same.
        503 => write(config, clock, &asked.deed).await,
        _ => {
            let problem = serde_json::from_slice::<Problem>(&body).map(|p| p.error);
            bail!(problem.unwrap_or_else(|_| format!("the agent answered {status}")))
        }
    }
}

/// No agent runs: the next one reads it at its first pass.
async fn write(config: &Config, clock: &dyn Clock, deed: &Deed) -> anyhow::Result<Done> {
    let path = config.state_dir.join("ledger.db");
    if !path.try_exists().with_context(|| format!("{} cannot be looked at", path.display()))? {
        bail!("no agent runs on {} and it has no ledger: this host runs nothing yet", config.state_dir.display());
    }
    let ledger = Ledger::open(&path).await?;
    let by = who(rustix::process::geteuid().as_raw(), config.sudo_user.as_deref());
    let asking = Asking { by, now: clock.now(), max_hold: config.max_hold, max_total: config.max_hold_total };
    let mut done = take(&ledger, &asking, deed).await?;
    done.lines.push("The agent does not run now; it reads this when it starts.".into());
    Ok(done)
}
