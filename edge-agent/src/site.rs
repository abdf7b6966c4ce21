//! The site's own hand: what a person at the machine may ask of the agent. Hold, release, restart: each is a row of the
//! ledger that the next pass reads, never a command that somebody carries out.
//!
//! The running agent takes the rows through its socket, whose other end the kernel names; while no agent runs, whoever
//! may write the ledger writes them there, by the same rules. It knows neither Docker nor the hub.
use crate::db::ledger::{Ledger, LedgerError, Scope};
use redforge_shared::{
    ids::Name,
    report::{Hold, MAX_HOLD_REASON_BYTES, MAX_HOLDER_BYTES, printable},
};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use time::{OffsetDateTime, macros::format_description};

pub mod ask;
pub mod span;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Deed {
    Hold { of: Target, for_s: u64, reason: String },
    Release { of: Target },
    Restart { instances: Vec<Name> },
}

/// What a deed is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    Host,
    Instances(Vec<Name>),
}

/// What a person asks, and who they were before sudo.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    pub deed: Deed,
    pub sudo_user: Option<String>,
}

/// What was done, a line for each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    pub lines: Vec<String>,
}

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error("nothing is meant to run on this host yet, so there is nothing to name; --all holds what may come")]
    NothingDesired,
    #[error("this host has no instance '{name}'; it has {}", .known.join(", "))]
    Unknown { name: Name, known: Vec<String> },
    #[error("no instance is named")]
    Nobody,
    #[error("holds are switched off on this host (site.max_hold_s = 0 in its settings)")]
    Never,
    #[error(
        "{asked_s} s were asked for and a hold may last {max_s} s at most (site.max_hold_s in the agent's settings): \
         hold for less, and again when it ends"
    )]
    TooLong { asked_s: u64, max_s: u64 },
    #[error("a hold of no time holds nothing: --for 30m, for example")]
    NoTime,
    #[error(
        "the reason must be 1 to {MAX_HOLD_REASON_BYTES} bytes of printable text: the hub's operators read it beside the hold"
    )]
    Reason,
    #[error("'{instance}' is held by {by} until {until}, so it would not restart before that: release it first")]
    Held { instance: Name, by: String, until: String },
    #[error("'{instance}' is held with the whole host (by {by} until {until}): redforge-edge release --all")]
    HeldWithHost { instance: Name, by: String, until: String },
    #[error("the ledger did not take it")]
    Ledger(#[from] LedgerError),
    #[error("the kernel gives no randomness")]
    Random,
}

/// Who asks, when, and what they may.
#[derive(Clone, Debug)]
pub struct Asking {
    pub by: String,
    pub now: OffsetDateTime,
    pub max_hold: Duration,
}

/// Writes what is asked into the ledger. Every name is checked before anything is written.
pub async fn take(ledger: &Ledger, asking: &Asking, deed: &Deed) -> Result<Done, Refusal> {
    let site = ledger.site(asking.now).await?;
    let mut lines = Vec::new();
    match deed {
        Deed::Hold { of, for_s, reason } => {
            let hold = judge_hold(asking, *for_s, reason)?;
            for scope in scopes(of, &known(ledger)?)? {
                let hold = Hold { whole_host: scope == Scope::Host, ..hold.clone() };
                ledger.hold(&scope, &hold).await?;
                tracing::info!(
                    hold.scope = word(&scope),
                    hold.by,
                    hold.until = written(hold.until),
                    "held at the site"
                );
                lines.push(format!(
                    "{} is held by {} until {} ({}), then goes on by itself.",
                    word(&scope),
                    hold.by,
                    written(hold.until),
                    span::words(*for_s)
                ));
            }
        }
        Deed::Release { of } => {
            // What is held and no longer desired can be released all the same.
            let known: Vec<Name> = known(ledger)?.into_iter().chain(site.holds.keys().cloned()).collect();
            let scopes = scopes(of, &known)?;
            for scope in &scopes {
                if let (Scope::Instance(name), Some(h)) = (scope, &site.host) {
                    let (instance, by, until) = (name.clone(), h.by.clone(), written(h.until));
                    return Err(Refusal::HeldWithHost { instance, by, until });
                }
            }
            for scope in scopes {
                let held = ledger.release(&scope).await?;
                tracing::info!(hold.scope = word(&scope), by = asking.by, held, "released at the site");
                lines.push(format!("{} {}.", word(&scope), if held { "is released" } else { "was not held" }));
            }
        }
        Deed::Restart { instances } => {
            let known = known(ledger)?;
            for instance in instances {
                is_known(instance, &known)?;
                if let Some(h) = site.hold(instance) {
                    let (instance, by, until) = (instance.clone(), h.by.clone(), written(h.until));
                    return Err(Refusal::Held { instance, by, until });
                }
            }
            if instances.is_empty() {
                return Err(Refusal::Nobody);
            }
            for instance in instances {
                ledger.set_nonce(instance, &nonce()?).await?;
                tracing::info!(instance.name = %instance, by = asking.by, "restart asked for at the site");
                lines.push(format!("{instance} gets a new container; `redforge-edge status` shows how it comes up."));
            }
        }
    }
    Ok(Done { lines })
}

/// Pure: the hold that is asked for, or why there is none.
fn judge_hold(asking: &Asking, for_s: u64, reason: &str) -> Result<Hold, Refusal> {
    let max_s = asking.max_hold.as_secs();
    let text = printable(reason, MAX_HOLD_REASON_BYTES);
    match () {
        () if max_s == 0 => Err(Refusal::Never),
        () if for_s == 0 => Err(Refusal::NoTime),
        () if for_s > max_s => Err(Refusal::TooLong { asked_s: for_s, max_s }),
        () if text.is_empty() || text != reason.trim() => Err(Refusal::Reason),
        () => Ok(Hold {
            by: asking.by.clone(),
            reason: text,
            since: asking.now,
            until: asking.now + Duration::from_secs(for_s),
            whole_host: false,
        }),
    }
}

fn scopes(of: &Target, known: &[Name]) -> Result<Vec<Scope>, Refusal> {
    let Target::Instances(names) = of else { return Ok(vec![Scope::Host]) };
    if names.is_empty() {
        return Err(Refusal::Nobody);
    }
    names.iter().map(|n| is_known(n, known).map(|()| Scope::Instance(n.clone()))).collect()
}

fn known(ledger: &Ledger) -> Result<Vec<Name>, Refusal> {
    let desired = ledger.desired().ok_or(Refusal::NothingDesired)?;
    Ok(desired.state.instances.iter().map(|i| i.name.clone()).collect())
}

fn is_known(name: &Name, known: &[Name]) -> Result<(), Refusal> {
    if known.contains(name) {
        return Ok(());
    }
    let known = if known.is_empty() { vec!["none".into()] } else { known.iter().map(ToString::to_string).collect() };
    Err(Refusal::Unknown { name: name.clone(), known })
}

fn word(scope: &Scope) -> String {
    match scope {
        Scope::Host => "the whole host".into(),
        Scope::Instance(name) => name.to_string(),
    }
}

fn written(at: OffsetDateTime) -> String {
    at.format(format_description!("[year]-[month]-[day] [hour]:[minute] UTC")).unwrap_or_default()
}

fn nonce() -> Result<String, Refusal> {
    let mut bytes = [0; 8];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| Refusal::Random)?;
    Ok(hex::encode(bytes))
}

/// The name of a user of this machine. Root may say who became root; nobody else may speak for others.
pub fn who(uid: u32, sudo_user: Option<&str>) -> String {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    name_of(uid, sudo_user, &passwd)
}

fn name_of(uid: u32, sudo_user: Option<&str>, passwd: &str) -> String {
    let named = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    };
    let sudo = sudo_user.filter(|_| uid == 0).map(str::to_owned);
    let name = sudo.or_else(|| passwd.lines().find_map(named)).unwrap_or_else(|| format!("uid {uid}"));
    printable(&name, MAX_HOLDER_BYTES)
}

#[cfg(test)]
mod tests;
