//! Secrets that people at the site gave: values by name, each change with a number of its own.
//!
//! The desired state names them and never holds them. The number stands in a container's identity in place of the value;
//! it comes from one counter of the ledger, so that a secret deleted and given again is not taken for what it was.
use super::{Ledger, LedgerError, bump};
use redforge_shared::ids::Name;
use rusqlite::{OptionalExtension as _, params};
use secrecy::{ExposeSecret as _, SecretString};
use std::collections::BTreeMap;

pub(super) const SCHEMA: &str = "
CREATE TABLE given_secret (name TEXT PRIMARY KEY, version INTEGER NOT NULL, set_at_ms INTEGER NOT NULL,
                           value TEXT NOT NULL) STRICT;
";

/// Where the number of the last change is kept.
const COUNTER: &str = "given_secret_version";

/// One secret.
#[derive(Clone, Debug)]
pub struct Given {
    /// Another value has another.
    pub version: u64,
    /// Milliseconds since 1970 by the host's clock.
    pub set_at_ms: i64,
    pub value: SecretString,
}

/// All of them.
pub type GivenSecrets = BTreeMap<Name, Given>;

impl Ledger {
    /// The secrets that the site has.
    pub async fn given_secrets(&self) -> Result<GivenSecrets, LedgerError> {
        self.call("reading the site's secrets", |c| {
            let mut given = GivenSecrets::new();
            let mut rows = c.prepare_cached("SELECT name, version, set_at_ms, value FROM given_secret")?;
            let row = |r: &rusqlite::Row<'_>| {
                let (version, value): (i64, String) = (r.get(1)?, r.get(3)?);
                let set_at_ms = r.get(2)?;
                Ok((r.get::<_, String>(0)?, Given { version: version as u64, set_at_ms, value: value.into() }))
            };
            for one in rows.query_map([], row)? {
                let (name, secret) = one?;
                given.extend(name.parse::<Name>().map(|n| (n, secret)));
            }
            Ok(given)
        })
        .await
    }

    /// Gives a secret its value; says the number that the value has. The value it had before keeps its number.
    pub async fn give_secret(&self, name: &Name, value: SecretString, now_ms: i64) -> Result<u64, LedgerError> {
        let name = name.to_string();
        let version = self
            .call("giving a secret", move |c| {
                let tx = c.transaction()?;
                let known: Option<(i64, String)> = tx
                    .query_row("SELECT version, value FROM given_secret WHERE name = ?1", [&name], |r| {
                        Ok((r.get(0)?, r.get(1)?))
                    })
                    .optional()?;
                if let Some((version, _)) = known.filter(|(_, v)| v == value.expose_secret()) {
                    return Ok(version as u64);
                }
                let last: Option<Vec<u8>> =
                    tx.query_row("SELECT value FROM kv WHERE key = ?1", [COUNTER], |r| r.get(0)).optional()?;
                let next = last.and_then(|v| v.try_into().ok()).map_or(0, u64::from_be_bytes) + 1;
                let counted = next.to_be_bytes();
                tx.execute("INSERT OR REPLACE INTO kv (key, value) VALUES (?1, ?2)", params![COUNTER, &counted[..]])?;
                tx.execute(
                    "INSERT OR REPLACE INTO given_secret (name, version, set_at_ms, value) VALUES (?1, ?2, ?3, ?4)",
                    params![name, next as i64, now_ms, value.expose_secret()],
                )?;
                tx.commit()?;
                Ok(next)
            })
            .await?;
        bump(&self.changed);
        Ok(version)
    }

    /// Forgets a secret; false if there was none. What runs with it goes on.
    pub async fn delete_secret(&self, name: &Name) -> Result<bool, LedgerError> {
        let name = name.to_string();
        let gone =
            self.call("deleting a secret", move |c| c.execute("DELETE FROM given_secret WHERE name = ?1", [name]));
        let gone = gone.await? > 0;
        bump(&self.changed);
        Ok(gone)
    }
}
