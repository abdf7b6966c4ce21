//! Brings the schema up as soon as the database answers, and says at all times whether it does.
use crate::store::{Store, StoreError};
use redforge_shared::{daemon, error::Chain};
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How often the database is asked for a sign of life.
const TICK: Duration = Duration::from_secs(1);

/// Whether the database can be used, as the rest of the process sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Database {
    /// Not reached, or its schema is not this build's.
    Away,
    Ready,
}

/// Runs until the stop. Says each change once in the log and to systemd.
pub async fn run(store: Store, state: watch::Sender<Database>, stop: CancellationToken) {
    let (mut migrated, mut was_full) = (false, false);
    let mut said = String::new();
    loop {
        let looked = tokio::select! {
            () = stop.cancelled() => return,
            looked = look(&store, &mut migrated) => looked,
        };
        match looked {
            Ok(()) => {
                if *state.borrow() == Database::Away {
                    tracing::info!("the database is available");
                    daemon::notify_status("serving");
                    said.clear();
                }
                state.send_if_modified(|s| std::mem::replace(s, Database::Ready) != Database::Ready);
                watch_room(&store, &mut was_full).await;
            }
            Err(e) => {
                state.send_if_modified(|s| std::mem::replace(s, Database::Away) != Database::Away);
                let text = Chain(&e).to_string();
                if text != said {
                    tracing::warn!(error = text, "the database is not available; the hub stays up and keeps trying");
                    daemon::notify_status("waiting for the database");
                    said = text;
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(TICK) => {}
        }
    }
}

async fn look(store: &Store, migrated: &mut bool) -> Result<(), StoreError> {
    if !*migrated {
        store.migrate().await?;
        *migrated = true;
    }
    store.ping().await
}

/// Says once that the disk is full, and once that there is room again. Reading goes on, so the database is not away.
async fn watch_room(store: &Store, was_full: &mut bool) {
    let full = match store.look_for_room().await {
        Ok(()) => false,
        // Away: the next look says more.
        Err(e) if !e.is_full() => return,
        Err(_) => true,
    };
    if full && !*was_full {
        tracing::warn!("the disk of the database is full: nothing is written until some space is freed");
        daemon::notify_status("the disk of the database is full");
    } else if !full && *was_full {
        tracing::info!("the disk of the database has room again");
        daemon::notify_status("serving");
    }
    *was_full = full;
}
