//! The last lines of what failed: of each instance those of the newest failure, written before its container goes.
//!
//! What a container printed is a stranger's text. It is bounded by whoever writes it here, read by people at the machine, and
//! sent nowhere: what may leave the host goes through the gate.
use super::{Ledger, LedgerError};
use redforge_shared::{ids::Name, report::Reason};
use rusqlite::{OptionalExtension as _, params};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

pub(super) const SCHEMA: &str = "
CREATE TABLE failed_log (instance TEXT PRIMARY KEY, at_ms INTEGER NOT NULL, body BLOB NOT NULL) STRICT;
";

/// How a version failed, and what it printed last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedLog {
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    pub reason: Reason,
    pub exit_code: Option<i32>,
    /// The engine's words, where it would not start it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// As the spec has it.
    pub image: String,
    /// Its id; none: no container of it was there.
    pub container: Option<String>,
    /// The last ones, in order; none: it printed nothing.
    pub lines: Vec<FailedLine>,
}

/// A line, or a part of an overlong one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedLine {
    /// Nanoseconds since 1970 by the engine's clock.
    pub at_ns: i64,
    /// Which output it wrote to.
    pub stream: String,
    pub text: String,
}

impl Ledger {
    /// Keeps how an instance failed, in place of what was kept of it before.
    pub async fn keep_failed_log(&self, instance: &Name, log: &FailedLog) -> Result<(), LedgerError> {
        let (name, at_ms) = (instance.to_string(), (log.at.unix_timestamp_nanos() / 1_000_000) as i64);
        let body = serde_json::to_vec(log).expect("a log has no value that JSON cannot hold");
        self.call("keeping what failed printed last", move |c| {
            c.execute(
                "INSERT OR REPLACE INTO failed_log (instance, at_ms, body) VALUES (?1, ?2, ?3)",
                params![name, at_ms, body],
            )
            .map(|_| ())
        })
        .await
    }

    /// How this instance failed last. What cannot be understood is as good as nothing.
    pub async fn failed_log(&self, instance: &Name) -> Result<Option<FailedLog>, LedgerError> {
        let name = instance.to_string();
        let body: Option<Vec<u8>> = self
            .call("reading what failed printed last", move |c| {
                c.query_row("SELECT body FROM failed_log WHERE instance = ?1", [name], |r| r.get(0)).optional()
            })
            .await?;
        Ok(body.and_then(|b| serde_json::from_slice(&b).ok()))
    }

    /// Instances of which something is kept, and when that failed.
    pub async fn failed_at(&self) -> Result<Vec<(Name, OffsetDateTime)>, LedgerError> {
        self.call("reading what has failed", |c| {
            let mut rows = c.prepare_cached("SELECT instance, at_ms FROM failed_log ORDER BY instance")?;
            let mut all = Vec::new();
            for row in rows.query_map([], |r| Ok((r.get::<_, String>(0)?, r.get::<_, i64>(1)?)))? {
                let (name, at_ms) = row?;
                let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(at_ms) * 1_000_000);
                all.extend(name.parse().ok().zip(at.ok()));
            }
            Ok(all)
        })
        .await
    }

    /// Forgets what failed of instances that are not among these.
    pub async fn forget_failed_logs(&self, keep: impl Fn(&Name) -> bool) -> Result<(), LedgerError> {
        let gone: Vec<String> =
            self.failed_at().await?.into_iter().filter(|(n, _)| !keep(n)).map(|(n, _)| n.to_string()).collect();
        for name in gone {
            self.call("forgetting what failed printed last", move |c| {
                c.execute("DELETE FROM failed_log WHERE instance = ?1", [name]).map(|_| ())
            })
            .await?;
        }
        Ok(())
    }
}
