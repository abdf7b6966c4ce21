//! Reads back the files of modules that came with flow sets, beside the passes: they are many, and a pass does not wait.
//!
//! What a container shows is known as of its last reading; until the first one has ended nothing is said. Only somebody
//! with the engine's rights can change these files, so they are read seldom, and the more there are the more seldom.
use super::observe::{AppSeen, FlowSets};
use crate::{
    runtime::{ContainerSeen, ContainerState, HostSeen, Runtime},
    workload::node_red,
};
use redforge_shared::{
    desired::DesiredState,
    error::Chain,
    flows::{self, FlowSet},
    ids::Digest,
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{sync::Notify, task::JoinSet, time::Instant};

/// Shortest time from one reading to the next.
const EVERY: Duration = Duration::from_secs(15);
/// A reading that took this part of the time until the next costs a host nothing that it would notice.
const SHARE: u32 = 200;

/// A container's start: its id, and since when it runs.
type Start = (String, String);

/// What was read of one start, when the next reading is due, and whether one is under way.
#[derive(Debug, Default)]
struct Read {
    hash: Option<Digest>,
    due: Option<Instant>,
    under_way: bool,
}

/// Hash of the modules' files of every start.
pub struct ModulesSeen {
    known: Arc<Mutex<BTreeMap<Start, Read>>>,
    tasks: JoinSet<()>,
    news: Arc<Notify>,
}

impl ModulesSeen {
    /// `news` is told when a reading shows what was not known.
    pub fn new(news: Arc<Notify>) -> Self {
        Self { known: Arc::default(), tasks: JoinSet::new(), news }
    }

    /// Adds to each runtime what is known of its modules, and begins to read those that are due.
    pub fn note(
        &mut self,
        runtime: &Arc<dyn Runtime>,
        (desired, flow_sets): (&DesiredState, &FlowSets),
        seen: &HostSeen,
        apps: &mut BTreeMap<String, AppSeen>,
    ) {
        while self.tasks.try_join_next().is_some() {}
        let running = seen.containers.iter().filter(|c| c.state == ContainerState::Running);
        let mut starts = BTreeMap::new();
        for c in running {
            let digest = desired.instance(c.instance.as_str()).and_then(|spec| spec.flow_set());
            let set = digest.and_then(|d| flow_sets.get(&d)).filter(|set| set.modules_hash().is_some());
            let (Some(set), Some(AppSeen::NodeRed(app))) = (set, apps.get_mut(&c.id)) else { continue };
            let start = start_of(c);
            app.modules = lock(&self.known).get(&start).and_then(|read| read.hash);
            starts.insert(start, set.clone());
        }
        lock(&self.known).retain(|start, _| starts.contains_key(start));
        for (start, set) in starts {
            self.read(runtime.clone(), start, set);
        }
    }

    fn read(&mut self, runtime: Arc<dyn Runtime>, start: Start, set: Arc<FlowSet>) {
        {
            let mut known = lock(&self.known);
            let read = known.entry(start.clone()).or_default();
            if read.under_way || read.due.is_some_and(|due| Instant::now() < due) {
                return;
            }
            read.under_way = true;
        }
        let (known, news) = (self.known.clone(), self.news.clone());
        self.tasks.spawn(async move {
            let begun = Instant::now();
            let files = runtime.digest_files(&start.0, node_red::MODULES_PATH).await;
            let hash = match files {
                Ok(files) => Some(hash_of(files, &set)),
                Err(e) => {
                    tracing::debug!(container.id = start.0, error = %Chain(&e), "modules cannot be read back");
                    None
                }
            };
            let mut known = lock(&known);
            // A start that is over is forgotten.
            let Some(read) = known.get_mut(&start) else { return };
            let is_news = hash.is_some() && read.hash != hash;
            *read = Read { hash, due: Some(Instant::now() + EVERY.max(begun.elapsed() * SHARE)), under_way: false };
            drop(known);
            if is_news {
                news.notify_one();
            }
        });
    }
}

/// A file beside them is nobody's: only what is declared is compared.
fn hash_of(mut files: BTreeMap<String, Digest>, set: &FlowSet) -> Digest {
    files.retain(|path, _| set.module_files.contains_key(path));
    flows::files_hash(&files)
}

fn start_of(c: &ContainerSeen) -> Start {
    (c.id.clone(), c.started_at.clone())
}

fn lock<T>(known: &Mutex<T>) -> MutexGuard<'_, T> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}
