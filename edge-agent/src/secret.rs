//! `redforge-edge secret`: the site's own secrets, given, listed and deleted without ever being shown.
//!
//! It writes the ledger beside the agent, which looks there at every pass; whether an agent runs makes no difference.
use crate::db::ledger::{Ledger, LedgerError};
use redforge_shared::{desired::rules, ids::Name};
use rustix::termios::{LocalModes, OptionalActions, isatty, tcgetattr, tcsetattr};
use secrecy::SecretString;
use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, BufRead as _, Read as _, Write as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use zeroize::Zeroizing;

/// Exit code when there is no secret of this name.
pub const EXIT_UNKNOWN: u8 = 3;

/// What is to be done.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Act {
    /// Give a secret its value: read from standard input, or asked for on a terminal; a last line end is not part of it
    Set {
        /// Name, as manifests write it under `secretEnv`
        name: Name,
    },
    /// List the secrets' names, never their values, and who asks for them
    List {
        /// How to print it
        #[arg(short, long, value_enum, default_value = "table")]
        output: Form,
    },
    /// Delete a secret; what runs with it goes on until it is replaced
    Delete { name: Name },
}

/// How a list is printed.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum Form {
    Table,
    Json,
}

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error("the state folder {} is not there: enroll this host first", path.display())]
    NoState { path: PathBuf, source: io::Error },
    #[error("the ledger in {} is not there yet and would be this user's: start the agent once, or run this as its owner (sudo -u '#{owner}' ...)", path.display())]
    NoLedger { path: PathBuf, owner: u32 },
    #[error("the ledger cannot be used")]
    Ledger(#[from] LedgerError),
    #[error("the value cannot be read")]
    Read(#[source] io::Error),
    #[error("the value is not usable: {0}")]
    Value(String),
    #[error("there is no secret '{0}': `redforge-edge secret list` shows those that are there")]
    Unknown(Name),
}

impl SecretError {
    /// What the program ends with.
    pub fn exit_code(&self) -> u8 {
        if matches!(self, Self::Unknown(_)) { EXIT_UNKNOWN } else { 1 }
    }
}

/// Does it, and says what came of it.
pub async fn act(act: &Act, state_dir: &Path, now: OffsetDateTime) -> Result<String, SecretError> {
    let ledger = open(state_dir).await?;
    match act {
        Act::Set { name } => {
            let value = read(name)?;
            let now_ms = i64::try_from(now.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX);
            let version = ledger.give_secret(name, value, now_ms).await?;
            Ok(format!("secret '{name}' is set (version {version}); the agent applies it within seconds"))
        }
        Act::Delete { name } if ledger.delete_secret(name).await? => Ok(format!("secret '{name}' is deleted")),
        Act::Delete { name } => Err(SecretError::Unknown(name.clone())),
        Act::List { output } => list(&ledger, *output).await,
    }
}

/// A ledger that this made as another user would lock the agent out.
async fn open(state_dir: &Path) -> Result<Ledger, SecretError> {
    let folder = std::fs::metadata(state_dir);
    let folder = folder.map_err(|source| SecretError::NoState { path: state_dir.into(), source })?;
    let path = state_dir.join("ledger.db");
    if !path.exists() && folder.uid() != rustix::process::geteuid().as_raw() {
        return Err(SecretError::NoLedger { path: state_dir.into(), owner: folder.uid() });
    }
    Ok(Ledger::open(&path).await?)
}

async fn list(ledger: &Ledger, form: Form) -> Result<String, SecretError> {
    let given = ledger.given_secrets().await?;
    let mut askers: BTreeMap<Name, BTreeSet<String>> = given.keys().map(|n| (n.clone(), BTreeSet::new())).collect();
    for spec in ledger.desired().iter().flat_map(|d| &d.state.instances) {
        for name in spec.secret_env.values() {
            askers.entry(name.clone()).or_default().insert(spec.name.to_string());
        }
    }
    let at = |name: &Name| {
        let at = OffsetDateTime::from_unix_timestamp(given.get(name)?.set_at_ms / 1000).ok()?;
        at.format(&Rfc3339).ok()
    };
    if matches!(form, Form::Json) {
        let one = |(name, used_by): (&Name, &BTreeSet<String>)| {
            let version = given.get(name).map(|g| g.version);
            serde_json::json!({"name": name, "set": version.is_some(), "version": version, "set_at": at(name), "used_by": used_by})
        };
        let all: Vec<_> = askers.iter().map(one).collect();
        return Ok(serde_json::to_string_pretty(&all).expect("names and numbers can be written as JSON"));
    }
    let mut text = format!("{:<32} {:<8} {:<21} {}", "NAME", "VERSION", "SET AT", "USED BY");
    for (name, used_by) in &askers {
        let version = given.get(name).map_or_else(|| "missing".to_owned(), |g| g.version.to_string());
        let used_by = used_by.iter().cloned().collect::<Vec<_>>().join(",");
        let line = format!("{name:<32} {version:<8} {:<21} {used_by}", at(name).unwrap_or_else(|| "-".into()));
        text += &format!("\n{}", line.trim_end());
    }
    Ok(text)
}

/// The value from standard input; on a terminal it is asked for and not shown.
fn read(name: &Name) -> Result<SecretString, SecretError> {
    let mut text = Zeroizing::new(String::new());
    let stdin = io::stdin();
    if isatty(&stdin) {
        // Nobody reads the question when this goes nowhere; the answer is read all the same.
        drop(write!(io::stderr(), "value of '{name}': "));
        let shown = tcgetattr(&stdin).map_err(|e| SecretError::Read(e.into()))?;
        let mut hidden = shown.clone();
        hidden.local_modes.remove(LocalModes::ECHO);
        tcsetattr(&stdin, OptionalActions::Flush, &hidden).map_err(|e| SecretError::Read(e.into()))?;
        let done = stdin.lock().read_line(&mut text);
        tcsetattr(&stdin, OptionalActions::Flush, &shown).map_err(|e| SecretError::Read(e.into()))?;
        drop(writeln!(io::stderr()));
        done.map_err(SecretError::Read)?;
    } else {
        let most = rules::MAX_VALUE_BYTES as u64 + 3;
        stdin.lock().take(most).read_to_string(&mut text).map_err(SecretError::Read)?;
    }
    let value = text.strip_suffix('\n').map_or(text.as_str(), |t| t.strip_suffix('\r').unwrap_or(t));
    if value.is_empty() {
        return Err(SecretError::Value("it is empty".into()));
    }
    rules::env_value(value).map_err(SecretError::Value)?;
    Ok(value.to_owned().into())
}
