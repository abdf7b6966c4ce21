//! What takes long and stops nothing: images and models come in the background while passes go on.
//!
//! A fetch that failed is tried again after a pause, for ever. Which fetches are wanted is planned, not decided here.
use crate::{
    runtime::{ImageSeen, Runtime, RuntimeError},
    workload::ollama::{self, ModelState, PullError},
};
use redforge_shared::{desired::Model, report::Reason};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};
use tokio::{sync::Notify, task::JoinSet, time::Instant};

/// Pause before a failed fetch is tried again.
const PAUSE: Duration = Duration::from_secs(20);

/// What a fetch brought.
#[derive(Debug)]
pub enum Fetched {
    Image { reference: String, image: ImageSeen },
    Model,
}

/// Why a fetch brought nothing.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("fetching the image")]
    Image(#[source] RuntimeError),
    #[error("pulling the model")]
    Model(#[source] PullError),
    #[error("the pulled model's digest is not the declared one")]
    Digest,
}

impl FetchError {
    pub fn reason(&self) -> Reason {
        match self {
            Self::Image(RuntimeError::DiskFull { .. }) => Reason::DiskFull,
            Self::Image(RuntimeError::Unreachable(_)) => Reason::RuntimeUnreachable,
            Self::Image(_) => Reason::ImageMissing,
            Self::Model(_) => Reason::ModelMissing,
            Self::Digest => Reason::ModelDigest,
        }
    }
}

type Outcome = (String, Result<Fetched, FetchError>);

/// The fetches of one reconciler.
#[derive(Default)]
pub struct Fetches {
    jobs: JoinSet<Outcome>,
    running: BTreeSet<String>,
    failed: BTreeMap<String, (Instant, Reason)>,
    done: Arc<Notify>,
}

impl Fetches {
    /// Resolves when a fetch has ended.
    pub fn done(&self) -> Arc<Notify> {
        self.done.clone()
    }

    pub fn is_running(&self, key: &str) -> bool {
        self.running.contains(key)
    }

    /// Why this fetch failed lately.
    pub fn failure(&self, key: &str) -> Option<Reason> {
        self.failed.get(key).map(|(_, reason)| *reason)
    }

    /// Fetches that must not be begun now.
    pub fn busy(&self) -> BTreeSet<String> {
        let resting = self.failed.iter().filter(|(_, (at, _))| at.elapsed() < PAUSE).map(|(k, _)| k.clone());
        self.running.iter().cloned().chain(resting).collect()
    }

    /// Begins to fetch an image, unless it is under way.
    pub fn image(&mut self, key: String, runtime: Arc<dyn Runtime>, reference: String) {
        self.begin(key, async move {
            let image = runtime.resolve_image(&reference).await.map_err(FetchError::Image)?;
            Ok(Fetched::Image { reference, image })
        });
    }

    /// Begins to pull a model, unless it is under way.
    pub fn model(&mut self, key: String, address: IpAddr, model: Model) {
        self.begin(key, async move {
            ollama::pull(address, &model.name).await.map_err(FetchError::Model)?;
            let held = ollama::models(address).await.map_err(|e| FetchError::Model(e.into()))?;
            match ollama::state(&model, &held) {
                ModelState::Right => Ok(Fetched::Model),
                ModelState::Missing | ModelState::Other => Err(FetchError::Digest),
            }
        });
    }

    fn begin(&mut self, key: String, fetch: impl Future<Output = Result<Fetched, FetchError>> + Send + 'static) {
        if self.running.insert(key.clone()) {
            let done = self.done.clone();
            self.jobs.spawn(async move {
                let outcome = fetch.await;
                done.notify_one();
                (key, outcome)
            });
        }
    }

    /// What ended since the last call.
    pub fn take_ended(&mut self) -> Vec<Fetched> {
        let mut fetched = Vec::new();
        while let Some(ended) = self.jobs.try_join_next() {
            // A fetch that panicked leaves its key: it is never tried again, and the log says why.
            let Ok((key, outcome)) = ended else { continue };
            self.running.remove(&key);
            match outcome {
                Ok(f) => {
                    self.failed.remove(&key);
                    fetched.push(f);
                }
                Err(e) => {
                    tracing::warn!(fetch = key, error = %redforge_shared::error::Chain(&e), "fetch failed, trying again later");
                    self.failed.insert(key, (Instant::now(), e.reason()));
                }
            }
        }
        fetched
    }
}
