//! The site's own rows: what is held, by whom, until when and why, and the restart nonces given here.
//!
//! A hold ends by itself: what has ended is not read, and `settle_holds` deletes it. Wall time may jump: a hold that began
//! in what is now the future begins again now and lasts as long as it was given, so that no clock holds anything for ever.
use super::{Ledger, LedgerError, bump};
use redforge_shared::{ids::Name, report::Hold};
use rusqlite::params;
use std::collections::BTreeMap;
use time::OffsetDateTime;

/// The second step of the schema. Nothing wrote the first table of holds.
pub(super) const HOLDS: &str = "
DROP TABLE site_hold;
CREATE TABLE site_hold (scope TEXT PRIMARY KEY, holder TEXT NOT NULL, reason TEXT NOT NULL, since INTEGER NOT NULL,
                        until INTEGER NOT NULL) STRICT;
";
/// Since when something has been held on and on; a release ends it, and so does an hour in which nothing was held.
pub(super) const CHAINS: &str = "
CREATE TABLE site_chain (scope TEXT PRIMARY KEY, first INTEGER NOT NULL, until INTEGER NOT NULL) STRICT;
INSERT INTO site_chain SELECT scope, since, until FROM site_hold;
";
/// Seconds without a hold after which the next one is a first one: time enough to do what was wished meanwhile.
const APART_S: i64 = 3600;
/// No instance bears this name.
const WHOLE_HOST: &str = "*";

/// What a hold is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Everything on the host, also what comes to be desired while it is held.
    Host,
    Instance(Name),
}

impl Scope {
    fn as_str(&self) -> &str {
        match self {
            Self::Host => WHOLE_HOST,
            Self::Instance(name) => name.as_str(),
        }
    }

    /// Does something stand under both?
    pub fn overlaps(&self, other: &Self) -> bool {
        *self == Self::Host || *other == Self::Host || self == other
    }
}

/// What the people at the site decided, beside the hub.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Site {
    /// Everything is held.
    pub host: Option<Hold>,
    /// Instances that must be left as they are.
    pub holds: BTreeMap<Name, Hold>,
    /// A changed nonce restarts the instance.
    pub nonces: BTreeMap<Name, String>,
    /// Rows that `settle_holds` has to look at.
    pub unsettled: bool,
}

impl Site {
    /// What holds this instance; the longer one of two.
    pub fn hold(&self, instance: &Name) -> Option<&Hold> {
        self.host.iter().chain(self.holds.get(instance)).max_by_key(|h| h.until)
    }
}

/// What has become of a stored hold.
enum Lapse {
    Active,
    Ended,
    /// The clock went back behind its beginning.
    Ahead,
}

fn lapse(since: i64, until: i64, now: i64) -> Lapse {
    match () {
        () if now >= until => Lapse::Ended,
        () if now < since => Lapse::Ahead,
        () => Lapse::Active,
    }
}

fn at(seconds: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

impl Ledger {
    /// The site's own rows as they count now.
    pub async fn site(&self, now: OffsetDateTime) -> Result<Site, LedgerError> {
        let now = now.unix_timestamp();
        self.call("reading the site's rows", move |c| {
            let mut site = Site::default();
            let mut rows = c.prepare_cached("SELECT scope, holder, reason, since, until FROM site_hold")?;
            let mut rows = rows.query([])?;
            while let Some(r) = rows.next()? {
                let (scope, mut since, mut until): (String, i64, i64) = (r.get(0)?, r.get(3)?, r.get(4)?);
                match lapse(since, until, now) {
                    Lapse::Active => {}
                    Lapse::Ended => {
                        site.unsettled = true;
                        continue;
                    }
                    Lapse::Ahead => {
                        site.unsettled = true;
                        (since, until) = (now, now.saturating_add(until - since));
                    }
                }
                let whole_host = scope == WHOLE_HOST;
                let hold = Hold { by: r.get(1)?, reason: r.get(2)?, since: at(since), until: at(until), whole_host };
                match scope.parse::<Name>() {
                    Ok(name) => drop(site.holds.insert(name, hold)),
                    Err(_) if whole_host => site.host = Some(hold),
                    Err(_) => {}
                }
            }
            let mut rows = c.prepare_cached("SELECT instance, nonce FROM site_nonce")?;
            for row in rows.query_map([], |r| Ok((r.get::<_, String>(0)?, r.get(1)?)))? {
                let (name, nonce) = row?;
                site.nonces.extend(name.parse::<Name>().map(|n| (n, nonce)));
            }
            Ok(site)
        })
        .await
    }

    /// Deletes holds that have ended and lets those begin anew whose beginning has come to lie ahead. Gives back what
    /// has ended.
    pub async fn settle_holds(&self, now: OffsetDateTime) -> Result<Vec<String>, LedgerError> {
        let now = now.unix_timestamp();
        self.call("ending holds", move |c| {
            let tx = c.transaction()?;
            let ended = tx
                .prepare_cached("DELETE FROM site_hold WHERE until <= ?1 RETURNING scope")?
                .query_map([now], |r| r.get(0))?
                .collect::<rusqlite::Result<_>>()?;
            tx.execute("UPDATE site_hold SET until = ?1 + (until - since), since = ?1 WHERE since > ?1", [now])?;
            tx.commit()?;
            Ok(ended)
        })
        .await
    }

    /// What has been held on and on, and since when.
    pub async fn held_since(&self, now: OffsetDateTime) -> Result<Vec<(Scope, OffsetDateTime)>, LedgerError> {
        let now = now.unix_timestamp();
        self.call("reading since when something is held", move |c| {
            let mut rows =
                c.prepare_cached("SELECT scope, first FROM site_chain WHERE until + ?2 > ?1 AND first <= ?1")?;
            let rows = rows.query_map([now, APART_S], |r| Ok((r.get::<_, String>(0)?, r.get(1)?)))?;
            let mut all = Vec::new();
            for row in rows {
                let (scope, first): (String, i64) = row?;
                let scope =
                    if scope == WHOLE_HOST { Some(Scope::Host) } else { scope.parse().ok().map(Scope::Instance) };
                all.extend(scope.map(|s| (s, at(first))));
            }
            Ok(all)
        })
        .await
    }

    /// Holds something; an earlier hold of the same scope is replaced.
    pub async fn hold(&self, scope: &Scope, hold: &Hold) -> Result<(), LedgerError> {
        let (scope, hold) = (scope.as_str().to_owned(), hold.clone());
        self.call("holding", move |c| {
            let (since, until) = (hold.since.unix_timestamp(), hold.until.unix_timestamp());
            let tx = c.transaction()?;
            tx.execute(
                "INSERT OR REPLACE INTO site_hold (scope, holder, reason, since, until) VALUES (?1, ?2, ?3, ?4, ?5)",
                params![scope, hold.by, hold.reason, since, until],
            )?;
            tx.execute(
                "INSERT INTO site_chain (scope, first, until) VALUES (?1, ?2, ?3) ON CONFLICT (scope) DO UPDATE SET \
                 first = CASE WHEN first <= ?2 AND until + ?4 > ?2 THEN first ELSE ?2 END, until = ?3",
                params![scope, since, until, APART_S],
            )?;
            tx.commit()
        })
        .await?;
        bump(&self.changed);
        Ok(())
    }

    /// Lets something go; says whether it was held. The whole host's release lets every instance go.
    pub async fn release(&self, scope: &Scope) -> Result<bool, LedgerError> {
        let scope = scope.as_str().to_owned();
        let gone = self
            .call("releasing", move |c| {
                let tx = c.transaction()?;
                let gone = tx.execute("DELETE FROM site_hold WHERE scope = ?1 OR ?1 = '*'", params![scope])?;
                tx.execute("DELETE FROM site_chain WHERE scope = ?1 OR ?1 = '*'", params![scope])?;
                tx.commit()?;
                Ok(gone)
            })
            .await?;
        bump(&self.changed);
        Ok(gone > 0)
    }

    /// Sets the site's restart nonce of an instance.
    pub async fn set_nonce(&self, instance: &Name, nonce: &str) -> Result<(), LedgerError> {
        let (instance, nonce) = (instance.to_string(), nonce.to_owned());
        self.call("setting a restart nonce", move |c| {
            c.execute("INSERT OR REPLACE INTO site_nonce (instance, nonce) VALUES (?1, ?2)", [instance, nonce])?;
            Ok(())
        })
        .await?;
        bump(&self.changed);
        Ok(())
    }
}
