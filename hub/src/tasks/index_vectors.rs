//! Keeps the vector index: takes what landed, then builds the HNSW index of tables that have none.
//!
//! Needs no leader: steps of several hubs come one after another, and what was taken is taken. Where PostgreSQL has no
//! pgvector it says so once and leaves search to be exact.
use crate::{
    store::{Store, StoreError, hints::Hints, vector_tables::Extension, vector_taking::Taken},
    tasks::Pace,
};
use redforge_shared::{clock::SharedClock, error::Chain};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Besides hints, which only tell of what this process landed.
const TICK: Duration = Duration::from_secs(10);

/// Runs until the stop.
pub async fn run(store: Store, hints: Hints, clock: SharedClock, stop: CancellationToken) {
    let mut pace = Pace::new(hints.subscribe(&["record_vector"]), TICK, stop.clone());
    let mut said = String::new();
    loop {
        pace.begin();
        // A step that is dropped has not been.
        let done = tokio::select! {
            () = stop.cancelled() => return,
            done = pass(&store, &clock) => done,
        };
        let text = match done {
            Ok(Extension::Ready) => String::new(),
            Ok(Extension::Missing(why)) => why,
            Err(e) if e.is_unavailable() => said.clone(),
            Err(e) => Chain(&e).to_string(),
        };
        if text != said {
            if text.is_empty() {
                tracing::info!("vectors are indexed");
            } else {
                tracing::warn!(reason = text, "vectors are not indexed; search is exact");
            }
            said = text;
        }
        if !pace.wait().await {
            return;
        }
    }
}

/// One look: idempotent, and safe beside that of another hub.
pub async fn pass(store: &Store, clock: &SharedClock) -> Result<Extension, StoreError> {
    let extension = store.ensure_vector_extension().await?;
    if extension != Extension::Ready {
        return Ok(extension);
    }
    for collection in store.mend_vector_tables().await? {
        tracing::warn!(collection, "the table of the vector index was gone or cut: everything is taken anew");
    }
    loop {
        match store.take_vectors(clock.now()).await? {
            Taken::Busy => return Ok(extension),
            Taken::Nothing => break,
            Taken::Rows(rows, problems) => {
                tracing::debug!(rows, "vectors taken into the index");
                for (collection, problem) in problems {
                    tracing::warn!(collection, problem, "a collection is not indexed any more; its search is exact");
                }
            }
        }
    }
    // Only now: an index that is built at once costs a fraction of one that grows with each row.
    for table in store.vector_tables().await? {
        if table.sound && !table.indexed && table.problem.is_none() {
            let begun = tokio::time::Instant::now();
            if !store.build_vector_index(&table).await? {
                return Ok(extension);
            }
            let seconds = begun.elapsed().as_secs_f64();
            tracing::info!(collection = table.collection, vectors = table.live, seconds, "vector index built");
        }
    }
    Ok(extension)
}
