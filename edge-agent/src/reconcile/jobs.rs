//! What takes long and must hold up nobody: images and models come, and containers end, while passes go on.
//!
//! A fetch that failed is tried again after a pause, for ever. Which jobs are wanted is planned, not decided here.
use super::{
    ReconcileError,
    bring::{self, Server, Shelf},
    memory::image_key,
    plan::job_key,
    sources,
};
use crate::{
    db::ledger::{BlobFault, LedgerError},
    runtime::{ImageSeen, Runtime, RuntimeError, meter::Meter},
    workload::{
        http::HttpError,
        ollama::{self, PullError},
    },
};
use redforge_shared::{
    desired::{InstanceSpec, Model},
    error::Chain,
    ids::{Digest, Name},
    report::Reason,
};
use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::{Notify, mpsc},
    task::{AbortHandle, JoinSet},
    time::Instant,
};

/// Pause before a model that was loaded is loaded again: where they do not all fit, they push each other out.
const RELOAD: Duration = Duration::from_secs(60);
/// Pause before a failed fetch is tried again.
const PAUSE: Duration = Duration::from_secs(20);

/// What a job brought.
#[derive(Debug)]
pub enum Brought {
    /// Under the key that it is remembered by. `fetched`: it was not on the host before.
    Image {
        key: String,
        reference: String,
        image: ImageSeen,
        fetched: bool,
    },
    /// A model that was not under this name before.
    Model {
        instance: Name,
        model: Model,
    },
    Loaded(String),
    Stopped,
}

/// Why a job brought nothing.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    #[error("fetching the image")]
    Image(#[source] RuntimeError),
    #[error("pulling the model")]
    Model(#[source] PullError),
    #[error("the model's digest is not the declared one")]
    Digest,
    #[error("asking the model server")]
    Server(#[source] HttpError),
    #[error("putting the model's manifest in its place")]
    Place(#[source] RuntimeError),
    #[error("{digest} does not come from the hub: {}", match fault { BlobFault::Damaged => "what arrives is damaged", BlobFault::Missing => "the hub does not have it" })]
    Blob { digest: Digest, fault: BlobFault },
    #[error("a blob's file")]
    File(#[source] std::io::Error),
    #[error("the ledger did not answer")]
    Ledger(#[source] LedgerError),
    /// Blobs are still on their way: no fault.
    #[error("blobs are on their way")]
    Waiting,
    #[error("stopping the container")]
    Stop(#[source] RuntimeError),
    #[error("the image is for {0}, not for this host")]
    Architecture(String),
    #[error("the file with the password for {registry}")]
    PasswordFile {
        registry: String,
        #[source]
        source: std::io::Error,
    },
    #[error("reading the secrets of the site")]
    Given(#[source] Box<ReconcileError>),
    #[error("secret '{0}' was not given at this host")]
    NoSecret(Name),
    #[error("it took longer than {} s", .0.as_secs())]
    Late(Duration),
}

impl JobError {
    /// What a report says while a fetch rests; none: the next pass may try again.
    fn reason(&self) -> Option<Reason> {
        Some(match self {
            Self::Image(RuntimeError::DiskFull { .. }) => Reason::DiskFull,
            Self::Image(RuntimeError::Unreachable(_)) => Reason::RuntimeUnreachable,
            Self::Image(RuntimeError::Denied { .. }) | Self::PasswordFile { .. } => Reason::RegistryDenied,
            Self::NoSecret(_) => Reason::SecretMissing,
            Self::Image(_) => Reason::ImageMissing,
            Self::Model(_) | Self::Server(_) | Self::Place(_) => Reason::ModelMissing,
            Self::File(e) if e.kind() == std::io::ErrorKind::StorageFull => Reason::DiskFull,
            Self::File(_) | Self::Ledger(_) | Self::Given(_) => Reason::BlobMissing,
            Self::Blob { .. } => Reason::BlobDamaged,
            Self::Digest => Reason::ModelDigest,
            Self::Architecture(_) => Reason::PreflightRefused,
            Self::Late(_) => Reason::DeadlineExceeded,
            Self::Stop(_) | Self::Waiting => return None,
        })
    }

    /// Did a registry keep its door shut, or was there no key?
    pub fn is_denied(&self) -> bool {
        matches!(self.reason(), Some(Reason::RegistryDenied | Reason::SecretMissing))
    }

    /// Names of the desired state that explain the reason.
    fn names(&self) -> Vec<String> {
        match self {
            Self::Blob { digest, .. } => vec![digest.to_string()],
            Self::Image(RuntimeError::Denied { registry, .. }) | Self::PasswordFile { registry, .. } => {
                vec![registry.clone()]
            }
            Self::NoSecret(name) => vec![name.to_string()],
            _ => vec![],
        }
    }
}

type Outcome = (String, Result<Brought, JobError>);

/// A job under way.
struct Running {
    task: AbortHandle,
    meter: Arc<Meter>,
}

/// Why and when a fetch failed.
struct Failure {
    at: Instant,
    reason: Reason,
    /// Names of the desired state that explain it.
    names: Vec<String>,
    /// What the image is for, where that was the reason.
    architecture: Option<String>,
}

/// The jobs of one reconciler; they end with it.
pub struct Jobs {
    tasks: JoinSet<()>,
    out: mpsc::UnboundedSender<Outcome>,
    ended: mpsc::UnboundedReceiver<Outcome>,
    running: BTreeMap<String, Running>,
    failed: BTreeMap<String, Failure>,
    /// When models were loaded.
    loaded: BTreeMap<String, Instant>,
    /// Of jobs that wait for blobs, from one to the next.
    meters: BTreeMap<String, Arc<Meter>>,
    done: Arc<Notify>,
}

impl Default for Jobs {
    fn default() -> Self {
        let (out, ended) = mpsc::unbounded_channel();
        let (tasks, running, failed) = (JoinSet::new(), BTreeMap::new(), BTreeMap::new());
        Self {
            tasks,
            out,
            ended,
            running,
            failed,
            loaded: BTreeMap::new(),
            meters: BTreeMap::new(),
            done: Arc::default(),
        }
    }
}

impl Jobs {
    /// Resolves when a job has ended.
    pub fn done(&self) -> Arc<Notify> {
        self.done.clone()
    }

    pub fn is_running(&self, key: &str) -> bool {
        self.running.contains_key(key)
    }

    /// How far this job is: bytes that are there and bytes in all; none while nothing is known.
    pub fn progress(&self, key: &str) -> Option<(u64, u64)> {
        self.running.get(key).map(|job| job.meter.read()).filter(|read| *read != (0, 0))
    }

    /// Why this fetch failed lately, with the names that explain it.
    pub fn failure(&self, key: &str) -> Option<(Reason, &[String])> {
        self.failed.get(key).map(|f| (f.reason, f.names.as_slice()))
    }

    /// What this image turned out to be for, where it was not for this host.
    pub fn architecture(&self, key: &str) -> Option<String> {
        self.failed.get(key)?.architecture.clone()
    }

    /// Gives up fetches that nobody wants any more: a newer desired state does not wait for one that hangs.
    pub fn keep_wanted(&mut self, wanted: &BTreeSet<String>) {
        let gone = |key: &String| job_key::is_fetch(key) && !wanted.contains(key);
        self.failed.retain(|key, _| !gone(key));
        self.running.retain(|key, job| {
            if gone(key) {
                tracing::info!(job = key, "given up, nobody wants it any more");
                job.task.abort();
            }
            !gone(key)
        });
    }

    /// Jobs that must not be begun now.
    pub fn busy(&self) -> BTreeSet<String> {
        let resting = self.failed.iter().filter(|(_, f)| f.at.elapsed() < PAUSE).map(|(k, _)| k);
        let loaded = self.loaded.iter().filter(|(_, at)| at.elapsed() < RELOAD).map(|(k, _)| k);
        self.running.keys().chain(resting).chain(loaded).cloned().collect()
    }

    /// Begins to fetch an image, unless it is under way. What the hub holds is waited for; a registry has `limit`.
    pub fn image(
        &mut self,
        job: String,
        runtime: Arc<dyn Runtime>,
        shelf: Shelf,
        spec: &InstanceSpec,
        limit: Duration,
    ) {
        let (key, reference, artifact) = (image_key(spec), spec.image.clone(), spec.image_artifact.clone());
        self.begin(job, async move |meter| {
            if let Some(artifact) = &artifact {
                let (image, fetched) = bring::image(&*runtime, &shelf, &reference, artifact, &meter).await?;
                return Ok(Brought::Image { key, reference, image, fetched });
            }
            let fetching = sources::fetch(&*runtime, &shelf, &reference, &meter);
            let image = tokio::time::timeout(limit, fetching).await.map_err(|_| JobError::Late(limit))??;
            Ok(Brought::Image { key, reference, image, fetched: true })
        });
    }

    /// Begins to bring a model, unless it is under way.
    pub fn model(&mut self, key: String, server: Server, shelf: Shelf, instance: Name, model: Model) {
        self.begin(key, async move |meter| {
            bring::model(&server, &shelf, &model, &meter).await?;
            Ok(Brought::Model { instance, model })
        });
    }

    /// Begins to load a model into memory, unless that is under way.
    pub fn load(&mut self, key: String, address: IpAddr, model: String) {
        let loaded = key.clone();
        self.begin(key, async move |_| {
            ollama::load(address, &model).await.map_err(JobError::Server)?;
            Ok(Brought::Loaded(loaded))
        });
    }

    /// Begins to end a container, unless that is under way.
    pub fn stop(&mut self, key: String, runtime: Arc<dyn Runtime>, container: String) {
        self.begin(key, async move |_| {
            runtime.stop_container(&container).await.map_err(JobError::Stop)?;
            Ok(Brought::Stopped)
        });
    }

    fn begin<F>(&mut self, key: String, job: impl FnOnce(Arc<Meter>) -> F)
    where
        F: Future<Output = Result<Brought, JobError>> + Send + 'static,
    {
        if let Entry::Vacant(place) = self.running.entry(key.clone()) {
            let meter = self.meters.remove(&key).unwrap_or_default();
            let (done, out, job) = (self.done.clone(), self.out.clone(), job(meter.clone()));
            let task = self.tasks.spawn(async move {
                // Nobody listens only when the reconciler is gone.
                drop(out.send((key, job.await)));
                done.notify_one();
            });
            place.insert(Running { task, meter });
        }
    }

    /// What ended since the last call. A job that panicked keeps its key: it is never tried again, and the log says why.
    pub fn take_ended(&mut self) -> Vec<Brought> {
        while self.tasks.try_join_next().is_some() {}
        self.loaded.retain(|_, at| at.elapsed() < RELOAD);
        let mut brought = Vec::new();
        while let Ok((key, outcome)) = self.ended.try_recv() {
            let meter = self.running.remove(&key).map(|job| job.meter);
            match outcome {
                Err(JobError::Waiting) => self.meters.extend(meter.map(|m| (key, m))),
                Ok(b) => {
                    self.failed.remove(&key);
                    if let Brought::Loaded(key) = &b {
                        self.loaded.insert(key.clone(), Instant::now());
                    }
                    brought.push(b);
                }
                Err(e) => {
                    tracing::warn!(job = key, error = %Chain(&e), "job failed, trying again later");
                    if let Some(reason) = e.reason() {
                        let names = e.names();
                        let architecture = if let JobError::Architecture(a) = e { Some(a) } else { None };
                        self.failed.insert(key, Failure { at: Instant::now(), reason, names, architecture });
                    }
                }
            }
        }
        brought
    }
}
