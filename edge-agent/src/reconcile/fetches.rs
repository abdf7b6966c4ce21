//! What may be fetched, and what is remembered of what came.
use super::{
    ReconcileError, Reconciler,
    clean_up::model_key,
    jobs::Brought,
    memory::{self, Remembered},
    plan::job_key,
};
use crate::{db::ledger::Ledger, workload::ollama};
use redforge_shared::{
    desired::{DesiredState, Workload},
    error::Chain,
    flows,
    ids::Digest,
};
use std::{collections::BTreeSet, sync::Arc};

impl Reconciler {
    /// Reads flow sets that have arrived. A damaged one is removed: planning then wants it again.
    pub(super) async fn read_flow_sets(&mut self, state: &DesiredState) {
        let needed: Vec<Digest> = state.instances.iter().filter_map(|i| i.flow_set()).collect();
        self.flow_sets.retain(|d, _| needed.contains(d));
        for digest in needed {
            if self.flow_sets.contains_key(&digest) {
                continue;
            }
            let path = self.deps.blobs.join("sha256").join(digest.hex());
            let fits = tokio::fs::metadata(&path).await.is_ok_and(|m| m.len() <= flows::MAX_FLOW_SET_BYTES as u64);
            if !fits {
                continue;
            }
            let Ok(bytes) = tokio::fs::read(&path).await else { continue };
            // Its modules are unpacked to be checked: that takes a while where there are many.
            let read = tokio::task::spawn_blocking(move || flows::unpack(&bytes, Some(digest))).await;
            let Ok(read) = read else { continue };
            match read {
                Ok(set) => drop(self.flow_sets.insert(digest, Arc::new(set))),
                Err(e) => {
                    tracing::warn!(blob = %digest, error = %Chain(&e), "flow set is damaged, fetching it again");
                    // If it cannot be removed it is found damaged again.
                    drop(tokio::fs::remove_file(&path).await);
                }
            }
        }
    }
}

/// Everything that this state may have fetched.
pub(super) fn wanted(state: &DesiredState) -> BTreeSet<String> {
    let mut wanted: BTreeSet<String> = state.instances.iter().map(|i| job_key::image(&i.image)).collect();
    for spec in &state.instances {
        if let Workload::Ollama(o) = &spec.workload {
            wanted.extend(o.models.iter().map(|m| job_key::model(&spec.name, &m.name)));
        }
    }
    wanted
}

/// Notes what a job brought.
pub(super) async fn remember(ledger: &Ledger, memory: &mut Remembered, brought: Brought) -> Result<(), ReconcileError> {
    match brought {
        Brought::Image { key, reference, image, fetched } => {
            let job = job_key::image(&reference);
            // Begun before a kill, and found here after it: it is what that fetch brought.
            if fetched || memory.has_begun(&job) {
                let row = memory::Brought {
                    name: reference,
                    digest: Digest::of(image.id.as_bytes()),
                    ours: true,
                    bytes: image.bytes,
                    unneeded_since: None,
                };
                memory.set_brought_image(ledger, &image.id, Some(row)).await?;
            }
            memory.set_image(ledger, &key, Some(image)).await?;
            memory.forget_begun(ledger, |begun| begun == job).await
        }
        Brought::Model { instance, model } => {
            let name = ollama::full_name(&model.name);
            let row = memory::Brought { name, digest: model.digest, ours: true, bytes: 0, unneeded_since: None };
            memory.set_brought_model(ledger, &model_key(&instance, &model.name), Some(row)).await?;
            let job = job_key::model(&instance, &model.name);
            memory.forget_begun(ledger, |begun| begun == job).await
        }
        Brought::Loaded(_) | Brought::Stopped => Ok(()),
    }
}
