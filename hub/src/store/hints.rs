//! Hints over LISTEN/NOTIFY: "look again at this table". Losing one costs a delay, never a fault.
//!
//! The payload is a table's name and nothing else. Never sent in ingest, heartbeat or report transactions.
use super::{Act, Store, StoreError};
use sqlx::{
    PgConnection,
    postgres::{PgListener, PgPoolOptions},
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The one channel.
const CHANNEL: &str = "redforge";

/// Fans hints out to whoever looks at a table. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Hints {
    tables: Arc<Mutex<HashMap<String, watch::Sender<u64>>>>,
}

impl Hints {
    /// Nobody listens yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Changes whenever a hint for `table` came, and after every reconnect.
    pub fn subscribe(&self, table: &str) -> watch::Receiver<u64> {
        let mut tables = self.tables.lock().expect("the lock is never held across a panic");
        tables.entry(table.to_owned()).or_insert_with(|| watch::channel(0).0).subscribe()
    }

    /// Wakes the lookers at `table` of this process; other hubs hear it through the database only.
    pub fn wake(&self, table: &str) {
        let tables = self.tables.lock().expect("the lock is never held across a panic");
        if let Some(tx) = tables.get(table) {
            tx.send_modify(|n| *n += 1);
        }
    }

    fn wake_all(&self) {
        let tables = self.tables.lock().expect("the lock is never held across a panic");
        for tx in tables.values() {
            tx.send_modify(|n| *n += 1);
        }
    }

    /// Listens until the stop, over a connection of its own, and dials again when it is lost.
    pub async fn run(self, store: Store, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                ended = self.listen(&store) => if let Err(e) = ended {
                    tracing::debug!(error = %redforge_shared::error::Chain(&e), "not listening for hints");
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
            }
        }
    }

    async fn listen(&self, store: &Store) -> Result<(), StoreError> {
        let act = "listening for hints";
        let pool = PgPoolOptions::new().max_connections(1).connect_lazy_with(store.direct.clone());
        let mut listener = PgListener::connect_with(&pool).await.act(act)?;
        listener.listen(CHANNEL).await.act(act)?;
        // Whatever was said while nobody listened is unknown: everybody looks again.
        self.wake_all();
        while let Some(n) = listener.try_recv().await.act(act)? {
            self.wake(n.payload());
        }
        Ok(())
    }
}

/// Says "look again at `table`" to every hub when the surrounding transaction commits.
pub(in crate::store) async fn hint(tx: &mut PgConnection, table: &'static str) -> Result<(), StoreError> {
    sqlx::query("SELECT pg_notify($1, $2)").bind(CHANNEL).bind(table).execute(tx).await.act("sending a hint")?;
    Ok(())
}
