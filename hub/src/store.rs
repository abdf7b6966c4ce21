//! All SQL of the hub, one file per noun: each adds an `impl Store` block.
//!
//! Knows the domain and sqlx; knows no door, no task and no decision. A row that is not there is `Ok(None)`; a refusal is a
//! domain enum; [`StoreError`] means that an act on the database failed.
use sqlx::{
    Connection as _, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use std::{
    str::FromStr,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};
use uuid::Uuid;

pub mod artifacts;
pub mod authorities;
pub mod changes;
pub mod collections;
pub mod components;
pub mod desired;
pub mod drafts;
pub mod enrollment;
pub mod events;
pub mod flow_sets;
pub mod hints;
pub mod hosts;
pub mod landed;
mod merged;
pub mod operators;
pub mod overview;
pub mod partitions;
mod pgcopy;
pub mod prune;
pub mod pushed;
pub mod records;
pub mod reports;
pub mod search;
pub mod sites;
pub mod streams;
#[cfg(test)]
pub(crate) mod testing;
pub mod vector_search;
pub mod vector_tables;
pub mod vector_taking;

/// For so long after its last use a connection is taken to be alive.
const FRESH: Duration = Duration::from_secs(1);

/// A handle on the hub's database. The server may be away: then every act fails with an error that says so.
#[derive(Clone, Debug)]
pub struct Store {
    pool: PgPool,
    direct: PgConnectOptions,
}

/// An act on the database that failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the database address cannot be used")]
    Address(#[source] sqlx::Error),
    #[error("migrating the database failed")]
    Migrate(#[source] sqlx::migrate::MigrateError),
    #[error("{act} failed")]
    Act { act: &'static str, source: sqlx::Error },
    #[error("{act} failed: the stored {what} cannot be read: {problem}")]
    Corrupt { act: &'static str, what: &'static str, problem: String },
}

impl StoreError {
    /// Is the disk of the database full? Then reading goes on, and somebody must free some space.
    pub fn is_full(&self) -> bool {
        self.cause().is_some_and(is_full)
    }

    /// What the database or the way to it had to say.
    fn cause(&self) -> Option<&sqlx::Error> {
        match self {
            Self::Act { source, .. } => Some(source),
            Self::Migrate(sqlx::migrate::MigrateError::Execute(e)) => Some(e),
            Self::Address(_) | Self::Migrate(_) | Self::Corrupt { .. } => None,
        }
    }

    /// Is the database away, full or not yet migrated, so that the same act may succeed later?
    pub fn is_unavailable(&self) -> bool {
        let Some(e) = self.cause() else { return false };
        match e {
            sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::Tls(_) => true,
            // 08 connection, 53 no resources (disk full, too many connections), 57 operator intervention (shutdown,
            // starting up), 58 system error, 25006 read only, 42P01 table missing: migrations have not run yet.
            sqlx::Error::Database(e) => e.code().is_some_and(|c| {
                ["08", "53", "57", "58"].iter().any(|class| c.starts_with(class)) || c == "25006" || c == "42P01"
            }),
            sqlx::Error::Protocol(_) => true,
            _ => false,
        }
    }
}

fn is_full(e: &sqlx::Error) -> bool {
    e.as_database_error().and_then(sqlx::error::DatabaseError::code).is_some_and(|c| c == "53100")
}

/// Did an act of this process end for want of room, and has writing not been seen to work since?
static FULL: AtomicBool = AtomicBool::new(false);

/// Names the act of a query where it is made.
pub(in crate::store) trait Act<T> {
    /// `Err(e)` becomes "`act` failed", caused by `e`.
    fn act(self, act: &'static str) -> Result<T, StoreError>;
}

impl<T> Act<T> for Result<T, sqlx::Error> {
    fn act(self, act: &'static str) -> Result<T, StoreError> {
        self.map_err(|source| {
            if is_full(&source) {
                FULL.store(true, Ordering::Relaxed);
            }
            StoreError::Act { act, source }
        })
    }
}

/// Where the database is and how many connections may be used.
#[derive(Clone, Debug)]
pub struct DatabaseConfig {
    /// May go through a pooler.
    pub url: String,
    /// Never pooled: migrations and LISTEN. The same as `url` where there is no pooler.
    pub direct_url: String,
    pub max_connections: u32,
}

impl DatabaseConfig {
    /// Finds addresses that can never work; connects to nothing.
    pub fn check(&self) -> Result<(), StoreError> {
        options(&self.url).and_then(|_| options(&self.direct_url)).map(drop)
    }
}

fn options(url: &str) -> Result<PgConnectOptions, StoreError> {
    PgConnectOptions::from_str(url).map(|o| o.application_name("redforge-hub")).map_err(StoreError::Address)
}

impl Store {
    /// A handle that connects when it is first used; the server need not be up.
    pub fn open(config: &DatabaseConfig) -> Result<Self, StoreError> {
        let direct = options(&config.direct_url)?;
        let pool = PgPoolOptions::new()
            .max_connections(config.max_connections)
            // A caller waits this long for a connection, then hears that the database is away.
            .acquire_timeout(Duration::from_secs(5))
            // A connection that was used a moment ago is there: asking it each time costs the ingest a round trip a batch.
            .test_before_acquire(false)
            .before_acquire(|connection, seen| {
                Box::pin(async move {
                    if seen.idle_for > FRESH {
                        connection.ping().await?;
                    }
                    Ok(true)
                })
            })
            .connect_lazy_with(options(&config.url)?);
        Ok(Self { pool, direct })
    }

    /// Brings the schema up to this build's version. Safe to run again and by several hubs at once.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        let direct = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(Duration::from_secs(5))
            .connect_with(self.direct.clone())
            .await
            .act("connecting to the database")?;
        let migrated = sqlx::migrate!("./migrations").run(&direct).await.map_err(StoreError::Migrate);
        direct.close().await;
        migrated
    }

    /// Does the database answer?
    pub async fn ping(&self) -> Result<(), StoreError> {
        sqlx::query("SELECT 1").execute(&self.pool).await.act("asking the database for a sign of life")?;
        Ok(())
    }

    /// Is the disk of the database full, as far as this process has met it?
    pub fn disk_is_full(&self) -> bool {
        FULL.load(Ordering::Relaxed)
    }

    /// Looks whether there is room again, once an act has ended for want of it. Takes the room of a few hundred rows and
    /// gives it back: reading works on a full disk, and so does what needs no new page.
    pub async fn look_for_room(&self) -> Result<(), StoreError> {
        if !self.disk_is_full() {
            return Ok(());
        }
        let act = "looking for room on the database's disk";
        let mut tx = self.pool.begin().await.act(act)?;
        sqlx::query(
            "CREATE TEMPORARY TABLE room ON COMMIT DROP AS SELECT repeat('x', 1000) FROM generate_series(1, 1000)",
        )
        .execute(&mut *tx)
        .await
        .act(act)?;
        tx.rollback().await.act(act)?;
        FULL.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Ends the pool's connections in good order.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

/// A new id for a row. Ids are drawn here and nowhere else.
pub(in crate::store) fn new_id() -> Uuid {
    Uuid::now_v7()
}
