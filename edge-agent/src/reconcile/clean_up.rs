//! Removes images, models, blobs and data volumes that nothing needs any more, once they have been unneeded for a while.
//!
//! Of images and models only what this agent itself brought is ever removed (it remembers that in the ledger) and, where a
//! spec says `prune`, models that a person put there. An image that any container uses stays: the engine says so. Nothing
//! here is planned: no instance waits for it, and a failure only means that it is tried again. Where room is short, what can
//! be fetched again goes before its time; data never does (decision 19).
use super::{
    ReconcileError, Reconciler, View,
    memory::{Brought, Remembered},
    observe::AppSeen,
    plan::job_key,
};
use crate::workload::ollama::{self, full_name};
use redforge_shared::{
    desired::{Model, Workload},
    error::Chain,
    ids::{Digest, Name},
    report::{
        Reason,
        clean_up::{self as said, Leftover, Unneeded},
        preflight::Verdict,
    },
};
use std::{collections::BTreeSet, net::IpAddr, time::Duration};
use time::OffsetDateTime;
use tokio::sync::watch;

mod blobs;
pub mod volumes;

/// What the settings say about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CleanUp {
    pub enabled: bool,
    /// For how long something must have been unneeded.
    pub min_age: Duration,
    /// For how long data that no spec names any more is kept; none: for ever.
    pub keep_data: Option<Duration>,
}

impl CleanUp {
    /// The settings as written.
    pub fn of(
        enabled: Option<bool>,
        min_age_s: Option<u32>,
        keep_volumes: Option<bool>,
        volume_min_age_s: Option<u32>,
    ) -> Result<Self, String> {
        let age = |name: &str, written: Option<u32>, default: u32, most: u32| match written.unwrap_or(default) {
            s if s > most => Err(format!("clean_up.{name}: {s} is not within 0 to {most}")),
            s => Ok(Duration::from_secs(s.into())),
        };
        let data = age("volume_min_age_s", volume_min_age_s, 30 * 86_400, 315_360_000)?;
        Ok(Self {
            enabled: enabled.unwrap_or(true),
            min_age: age("min_age_s", min_age_s, 86_400, 31_536_000)?,
            keep_data: (!keep_volumes.unwrap_or(false)).then_some(data),
        })
    }
}

/// Key of a model's row: an instance's name holds no slash.
pub fn model_key(instance: &Name, model: &str) -> String {
    format!("{instance}/{}", full_name(model))
}

impl Reconciler {
    /// Notes what is needed and what is not, removes what has not been needed for long enough, and tells what is left.
    pub(super) async fn clean_up(&mut self, view: &View, memory: &mut Remembered) -> Result<(), ReconcileError> {
        let now = self.deps.clock.now();
        self.short = self.is_short();
        self.remember_models(view, memory).await?;
        let mut unneeded = self.clean_images(memory, now).await?;
        unneeded.extend(self.clean_models(view, memory, now).await?);
        unneeded.extend(self.sweep_blobs(view, memory, now).await?);
        unneeded.extend(self.clean_volumes(view, memory, now).await?);
        let refetched = unneeded.iter().filter(|u| u.kind != Leftover::Volume && u.removed_at.is_some());
        self.reclaimable_bytes = refetched.fold(0, |sum, u| sum.saturating_add(u.bytes));
        let told = said::CleanUp::of(unneeded, memory.removed(), self.short);
        self.status.send_if_modified(|s| std::mem::replace(&mut s.clean_up, told.clone()) != told);
        Ok(())
    }

    /// Is the agent's disk full, or the engine's, or could something wanted come if there were more room?
    fn is_short(&self) -> bool {
        let full = self.deps.disk_full.as_ref().is_some_and(|full| *full.borrow());
        let refused = self.status.borrow().instances.iter().any(|i| i.reason == Some(Reason::DiskFull));
        full || refused || self.said.values().any(|(_, p)| p.verdict == Verdict::FitsAfterCleanUp)
    }

    async fn clean_images(
        &mut self,
        memory: &mut Remembered,
        now: OffsetDateTime,
    ) -> Result<Vec<Unneeded>, ReconcileError> {
        let needed: BTreeSet<String> = memory
            .images
            .values()
            .chain(memory.last_good.values().map(|g| &g.image))
            .map(|image| image.id.clone())
            .collect();
        let mut unneeded = Vec::new();
        for (id, row) in memory.brought_images.clone() {
            let row = self.aged(row, needed.contains(&id), now);
            memory.set_brought_image(&self.deps.ledger, &id, Some(row.clone())).await?;
            let Some(since) = row.unneeded_since else { continue };
            let mut bytes = row.bytes;
            if self.is_due(since, now) {
                match self.deps.runtime.remove_image(&id, &row.name).await {
                    Ok(true) => {
                        tracing::info!(image.reference = row.name, image.id = id, "unneeded image removed");
                        memory.set_brought_image(&self.deps.ledger, &id, None).await?;
                        memory.count_removed(&self.deps.ledger, Leftover::Image).await?;
                        continue;
                    }
                    // Something else uses it: its room cannot be had.
                    Ok(false) => bytes = 0,
                    Err(e) => {
                        tracing::warn!(image.id = id, error = %Chain(&e), "unneeded image not removed");
                        bytes = 0;
                    }
                }
            }
            unneeded.push(self.listed(Leftover::Image, row.name, bytes, since));
        }
        Ok(unneeded)
    }

    async fn clean_models(
        &mut self,
        view: &View,
        memory: &mut Remembered,
        now: OffsetDateTime,
    ) -> Result<Vec<Unneeded>, ReconcileError> {
        let mut unneeded = Vec::new();
        for (key, row) in memory.brought_models.clone() {
            let (needed, home) = model_home(view, &key);
            let row = self.aged(row, needed, now);
            memory.set_brought_model(&self.deps.ledger, &key, Some(row.clone())).await?;
            let (Some(since), Some(home)) = (row.unneeded_since, home) else { continue };
            // Moved by a hand since: what is there now is that person's.
            let ours = row.ours && home.digest.as_ref() == Some(&row.digest.hex());
            if !ours && !home.prune {
                memory.set_brought_model(&self.deps.ledger, &key, None).await?;
                continue;
            }
            let mut bytes = home.bytes;
            if self.is_due(since, now) {
                match ollama::remove(home.address, &row.name).await {
                    Ok(()) => {
                        tracing::info!(model = key, "unneeded model removed");
                        memory.set_brought_model(&self.deps.ledger, &key, None).await?;
                        memory.count_removed(&self.deps.ledger, Leftover::Model).await?;
                        continue;
                    }
                    Err(e) => {
                        tracing::warn!(model = key, error = %Chain(&e), "unneeded model not removed");
                        bytes = 0;
                    }
                }
            }
            unneeded.push(self.listed(Leftover::Model, key, bytes, since));
        }
        Ok(unneeded)
    }

    fn aged(&self, row: Brought, needed: bool, now: OffsetDateTime) -> Brought {
        // A clock that was set back begins anew.
        let since = row.unneeded_since.filter(|since| *since <= now).unwrap_or(now);
        Brought { unneeded_since: (!needed).then_some(since), ..row }
    }

    fn is_due(&self, since: OffsetDateTime, now: OffsetDateTime) -> bool {
        let rule = self.deps.clean_up;
        rule.enabled && (self.short || now - since >= rule.min_age)
    }

    fn listed(&self, kind: Leftover, name: String, bytes: u64, since: OffsetDateTime) -> Unneeded {
        let rule = self.deps.clean_up;
        Unneeded { kind, name, bytes, removed_at: rule.enabled.then(|| since + rule.min_age) }
    }

    /// Every model that a server holds is known from here on: which content it had, and whether we brought it.
    async fn remember_models(&self, view: &View, memory: &mut Remembered) -> Result<(), ReconcileError> {
        for c in &view.seen.containers {
            let Some(AppSeen::Ollama(Some(seen))) = view.apps.get(&c.id) else { continue };
            let Some(spec) = view.chosen.state.instance(c.instance.as_str()) else { continue };
            let Workload::Ollama(o) = &spec.workload else { continue };
            for (name, digest) in &seen.held {
                let Ok(digest) = digest.parse::<Digest>() else { continue };
                let key = model_key(&spec.name, name);
                let declared = o.models.iter().any(|m| full_name(&m.name) == *name && m.digest == digest);
                if memory.brought_models.contains_key(&key) || !(declared || o.prune) {
                    continue;
                }
                // Begun before a kill, and found here after it: it is what that fetch brought.
                let begun = |m: &&Model| full_name(&m.name) == *name && m.digest == digest;
                let job = o.models.iter().find(begun).map(|m| job_key::model(&spec.name, &m.name));
                let ours = job.as_ref().is_some_and(|job| memory.has_begun(job));
                let row = Brought { name: name.clone(), digest, ours, bytes: 0, unneeded_since: None };
                memory.set_brought_model(&self.deps.ledger, &key, Some(row)).await?;
                memory.forget_begun(&self.deps.ledger, |begun| Some(begun) == job.as_deref()).await?;
            }
        }
        Ok(())
    }
}

/// Resolves when the disk became full, or has room again.
pub(super) async fn news(full: &mut Option<watch::Receiver<bool>>) {
    if let Some(receiver) = full {
        if receiver.changed().await.is_ok() {
            return;
        }
        *full = None;
    }
    std::future::pending::<()>().await;
}

/// Where a model of this key lies now.
struct Home {
    address: IpAddr,
    /// What its name means there, in hex.
    digest: Option<String>,
    bytes: u64,
    prune: bool,
}

/// Is a model declared, and where does it lie? No home: its server is away, or gone with its volume, and nothing is done.
fn model_home(view: &View, key: &str) -> (bool, Option<Home>) {
    let Some((instance, model)) = key.split_once('/') else { return (false, None) };
    // What was asked for counts too while an older spec runs in its place.
    let states = [&view.accepted.state, &view.chosen.state];
    let specs = states.iter().filter_map(|s| s.instance(instance));
    let mut servers = specs.filter_map(|s| match &s.workload {
        Workload::Ollama(o) => Some(o),
        _ => None,
    });
    let needed = servers.clone().any(|o| o.models.iter().any(|m| full_name(&m.name) == model));
    // What is held at the site is left as it is, its models too.
    let held = instance.parse().is_ok_and(|name| view.site.hold(&name).is_some());
    let prune = servers.any(|o| o.prune) && !held;
    let home = view.seen.containers.iter().filter(|c| c.instance.as_str() == instance).find_map(|c| {
        let AppSeen::Ollama(Some(seen)) = view.apps.get(&c.id)? else { return None };
        let bytes = seen.bytes.get(model).copied().unwrap_or(0);
        Some(Home { address: c.address?, digest: seen.held.get(model).cloned(), bytes, prune })
    });
    (needed, home)
}
