//! `redforge-edge doctor`: looks at everything the agent needs, one line for each, with the command to go on with.
//!
//! It asks the same machine that the agent works on and changes nothing on it. What is measured is judged by the pure
//! functions of `judge`; the rooms beside it measure. It needs neither hub nor agent.
use crate::{
    config::Config,
    identity::IdentityDir,
    page::{StatusView, ask::exchange},
    run::lock,
    runtime::docker::Docker,
};
use redforge_shared::clock::Clock;
use serde::Serialize;
use std::fmt::Write as _;

mod engine;
mod files;
mod hub;
mod judge;
mod ports;
#[cfg(test)]
mod tests;

/// How well one thing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Ok,
    Warn,
    Fail,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
        }
    }

    /// The exit code of a run whose worst this is.
    pub fn exit_code(self) -> u8 {
        self as u8
    }
}

/// What was found of one thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at, such as `docker.socket`.
    pub check: &'static str,
    pub verdict: Verdict,
    pub text: String,
    /// What to do next, where something is to be done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, text: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Ok, text: text.into(), next: None }
    }

    fn warn(check: &'static str, text: impl Into<String>, next: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Warn, text: text.into(), next: Some(next.into()) }
    }

    fn fail(check: &'static str, text: impl Into<String>, next: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Fail, text: text.into(), next: Some(next.into()) }
    }
}

/// Looks at everything.
pub async fn examine(config: &Config, clock: &dyn Clock) -> Vec<Finding> {
    let now = clock.now();
    let enrolled = if config.state_dir.join("identity").exists() {
        IdentityDir::open(&config.state_dir).and_then(|dir| dir.enrolled())
    } else {
        Ok(None)
    };
    let running = running(config).await;
    let view = running.as_ref().ok().and_then(Option::as_ref);
    let mut all = vec![judge::agent(&running)];
    let (engine, info) = engine::examine(&config.runtime.docker_socket).await;
    all.extend(engine);
    all.extend(files::disks(config, info.as_ref()));
    all.extend(files::databases(&config.state_dir).await);
    all.push(judge::certificate(&enrolled, now));
    if let Ok(Some(enrolled)) = &enrolled {
        all.extend(hub::examine(config, enrolled, now).await);
        let docker = Docker::new(&config.runtime.docker_socket);
        all.extend(engine::brokers(&docker, enrolled.host_id, view).await);
    }
    all.extend(ports::examine(config, view).await);
    all
}

/// The running agent's own view; `Ok(None)` when none runs.
async fn running(config: &Config) -> Result<Option<StatusView>, String> {
    let Some(held) = lock::holder(&config.state_dir) else { return Ok(None) };
    let asked = exchange(&held.socket, "GET", "/status", Vec::new()).await;
    let (_, body) = asked.map_err(|e| format!("pid {}: {e:#}", held.pid))?;
    serde_json::from_slice(&body).map(Some).map_err(|e| format!("pid {}: {e}", held.pid))
}

/// The worst of all.
pub fn worst(findings: &[Finding]) -> Verdict {
    findings.iter().map(|f| f.verdict).max().unwrap_or(Verdict::Ok)
}

/// As a table for people.
pub fn render(findings: &[Finding]) -> String {
    let width = findings.iter().map(|f| f.check.len()).max().unwrap_or(0);
    let mut text = String::new();
    for f in findings {
        let _ = writeln!(text, "{:4}  {:width$}  {}", f.verdict.word(), f.check, f.text);
        if let Some(next) = &f.next {
            let _ = writeln!(text, "      {:width$}  -> {next}", "");
        }
    }
    let count = |v| findings.iter().filter(|f| f.verdict == v).count();
    let _ =
        write!(text, "{} ok, {} to look at, {} failed", count(Verdict::Ok), count(Verdict::Warn), count(Verdict::Fail));
    text
}
