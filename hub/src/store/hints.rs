//! Hints over LISTEN/NOTIFY: "look again at this table". Losing one costs a delay, never a fault.
//!
//! The payload is a table's name and nothing else. Never sent in ingest, heartbeat or report transactions.
use super::{Act, Store, StoreError};
use sqlx::{
    PgConnection,
    postgres::{PgListener, PgPoolOptions},
};
use std::{
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
    lookers: Arc<Mutex<Vec<Looker>>>,
}

#[derive(Debug)]
struct Looker {
    tables: Vec<&'static str>,
    tx: watch::Sender<u64>,
}

impl Hints {
    /// Nobody listens yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Changes whenever a hint for one of `tables` came, and after every reconnect.
    pub fn subscribe(&self, tables: &[&'static str]) -> watch::Receiver<u64> {
        let (tx, rx) = watch::channel(0);
        let mut lookers = self.lookers.lock().expect("the lock is never held across a panic");
        lookers.retain(|l| !l.tx.is_closed());
        lookers.push(Looker { tables: tables.to_vec(), tx });
        rx
    }

    /// Wakes the lookers at `table` of this process; other hubs hear it through the database only.
    pub fn wake(&self, table: &str) {
        self.wake_where(|l| l.tables.contains(&table));
    }

    fn wake_all(&self) {
        self.wake_where(|_| true);
    }

    fn wake_where(&self, which: impl Fn(&Looker) -> bool) {
        let lookers = self.lookers.lock().expect("the lock is never held across a panic");
        for looker in lookers.iter().filter(|l| which(l)) {
            looker.tx.send_modify(|n| *n += 1);
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
