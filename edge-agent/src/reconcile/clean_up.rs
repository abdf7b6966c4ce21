//! Removes images, models and blobs that nothing needs any more, once they have been unneeded for a while.
//!
//! Only what this agent itself brought is ever removed (it remembers that in the ledger), and, where a spec says `prune`,
//! models that a person put there. An image that any container uses stays: the engine says so. Nothing here is planned:
//! no instance waits for it, and a failure only means that it is tried again.
use super::{
    ReconcileError, Reconciler, View,
    memory::{Brought, Remembered, UnnamedSince},
    observe::AppSeen,
    plan::job_key,
};
use crate::workload::ollama::{self, full_name};
use redforge_shared::{
    desired::{Model, Workload},
    error::Chain,
    ids::{Digest, Name},
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, net::IpAddr, time::Duration};
use time::OffsetDateTime;

/// What the settings say about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CleanUp {
    pub enabled: bool,
    /// For how long something must have been unneeded.
    pub min_age: Duration,
}

impl CleanUp {
    /// The settings as written.
    pub fn of(enabled: Option<bool>, min_age_s: Option<u32>) -> Result<Self, String> {
        let min_age_s = min_age_s.unwrap_or(86_400);
        if min_age_s > 31_536_000 {
            return Err(format!("clean_up.min_age_s: {min_age_s} is not within 0 to 31536000"));
        }
        Ok(Self { enabled: enabled.unwrap_or(true), min_age: Duration::from_secs(min_age_s.into()) })
    }
}

/// Something that nothing needs any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unneeded {
    /// `image`, `model` or `blob`.
    pub kind: String,
    /// The image's reference, instance and model, or the blob's digest.
    pub name: String,
    #[serde(with = "time::serde::rfc3339")]
    pub since: OffsetDateTime,
    /// When it is removed; none: clean-up is switched off.
    #[serde(with = "time::serde::rfc3339::option")]
    pub removed_at: Option<OffsetDateTime>,
}

/// Key of a model's row: an instance's name holds no slash.
pub fn model_key(instance: &Name, model: &str) -> String {
    format!("{instance}/{}", full_name(model))
}

impl Reconciler {
    /// Notes what is needed and what is not, removes what has not been needed for long enough, and tells what is left.
    pub(super) async fn clean_up(&mut self, view: &View, memory: &mut Remembered) -> Result<(), ReconcileError> {
        let now = self.deps.clock.now();
        self.remember_models(view, memory).await?;
        let needed_images: BTreeSet<String> = memory
            .images
            .values()
            .chain(memory.last_good.values().map(|g| &g.image))
            .map(|image| image.id.clone())
            .collect();
        let mut unneeded = Vec::new();
        for (id, row) in memory.brought_images.clone() {
            let row = self.aged(row, needed_images.contains(&id), now);
            memory.set_brought_image(&self.deps.ledger, &id, Some(row.clone())).await?;
            let Some(since) = row.unneeded_since else { continue };
            if self.is_due(since, now) {
                match self.deps.runtime.remove_image(&id, &row.name).await {
                    Ok(true) => {
                        tracing::info!(image.reference = row.name, image.id = id, "unneeded image removed");
                        memory.set_brought_image(&self.deps.ledger, &id, None).await?;
                        continue;
                    }
                    Ok(false) => {}
                    Err(e) => tracing::warn!(image.id = id, error = %Chain(&e), "unneeded image not removed"),
                }
            }
            unneeded.push(self.listed("image", row.name, since));
        }
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
            if self.is_due(since, now) {
                match ollama::remove(home.address, &row.name).await {
                    Ok(()) => {
                        tracing::info!(model = key, "unneeded model removed");
                        memory.set_brought_model(&self.deps.ledger, &key, None).await?;
                        continue;
                    }
                    Err(e) => tracing::warn!(model = key, error = %Chain(&e), "unneeded model not removed"),
                }
            }
            unneeded.push(self.listed("model", key, since));
        }
        unneeded.extend(self.sweep_blobs(view, memory, now).await?);
        self.unneeded.send_if_modified(|u| std::mem::replace(u, unneeded.clone()) != unneeded);
        Ok(())
    }

    fn aged(&self, row: Brought, needed: bool, now: OffsetDateTime) -> Brought {
        // A clock that was set back begins anew.
        let since = row.unneeded_since.filter(|since| *since <= now).unwrap_or(now);
        Brought { unneeded_since: (!needed).then_some(since), ..row }
    }

    fn is_due(&self, since: OffsetDateTime, now: OffsetDateTime) -> bool {
        self.deps.clean_up.enabled && now - since >= self.deps.clean_up.min_age
    }

    fn listed(&self, kind: &str, name: String, since: OffsetDateTime) -> Unneeded {
        let rule = self.deps.clean_up;
        Unneeded { kind: kind.into(), name, since, removed_at: rule.enabled.then(|| since + rule.min_age) }
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
                let row = Brought { name: name.clone(), digest, ours, unneeded_since: None };
                memory.set_brought_model(&self.deps.ledger, &key, Some(row)).await?;
                memory.forget_begun(&self.deps.ledger, |begun| Some(begun) == job.as_deref()).await?;
            }
        }
        Ok(())
    }

    /// Blobs that neither the accepted state nor what last worked names: no longer fetched at once, removed when they are old.
    async fn sweep_blobs(
        &mut self,
        view: &View,
        memory: &mut Remembered,
        now: OffsetDateTime,
    ) -> Result<Vec<Unneeded>, ReconcileError> {
        let ledger = self.deps.ledger.clone();
        let specs = view.accepted.state.instances.iter().chain(memory.last_good.values().map(|g| &g.spec));
        let named: BTreeSet<Digest> = specs.flat_map(|s| s.blobs()).collect();
        if self.swept.as_ref() != Some(&named) {
            for digest in ledger.wanted().await.map_err(ReconcileError::Ledger)? {
                if !named.contains(&digest) {
                    ledger.unwant(digest).await.map_err(ReconcileError::Ledger)?;
                }
            }
            let mut there = self.blobs_on_disk().await;
            there.extend(ledger.known_blobs().await.map_err(ReconcileError::Ledger)?);
            let left: BTreeSet<String> = there.difference(&named).map(Digest::hex).collect();
            for blob in memory.unnamed_blobs.keys().filter(|b| !left.contains(*b)).cloned().collect::<Vec<_>>() {
                memory.set_unnamed(&ledger, &blob, None).await?;
            }
            for blob in left {
                let since = memory.unnamed_blobs.get(&blob).copied().unwrap_or(UnnamedSince(now));
                memory.set_unnamed(&ledger, &blob, Some(since)).await?;
            }
            self.swept = Some(named);
        }
        let mut unneeded = Vec::new();
        for (blob, UnnamedSince(since)) in memory.unnamed_blobs.clone() {
            // A clock that was set back begins anew.
            let since = since.min(now);
            memory.set_unnamed(&ledger, &blob, Some(UnnamedSince(since))).await?;
            if !self.is_due(since, now) {
                unneeded.push(self.listed("blob", blob, since));
                continue;
            }
            if let Ok(digest) = blob.parse::<Digest>() {
                match self.shelf.drop_blob(digest).await {
                    Ok(()) => tracing::info!(blob = %digest, "unneeded blob removed"),
                    Err(e) => {
                        tracing::warn!(blob = %digest, error = %Chain(&e), "unneeded blob not removed");
                        unneeded.push(self.listed("blob", blob, since));
                        continue;
                    }
                }
            }
            memory.set_unnamed(&ledger, &blob, None).await?;
        }
        Ok(unneeded)
    }

    /// Blobs that lie here, whole or in part.
    async fn blobs_on_disk(&self) -> BTreeSet<Digest> {
        let mut there = BTreeSet::new();
        let Ok(mut entries) = tokio::fs::read_dir(self.deps.blobs.join("sha256")).await else { return there };
        while let Ok(Some(entry)) = entries.next_entry().await {
            let name = entry.file_name().to_string_lossy().into_owned();
            there.extend(name.strip_suffix(".part").unwrap_or(&name).parse::<Digest>());
        }
        there
    }
}

/// Where a model of this key lies now.
struct Home {
    address: IpAddr,
    /// What its name means there, in hex.
    digest: Option<String>,
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
        Some(Home { address: c.address?, digest: seen.held.get(model).cloned(), prune })
    });
    (needed, home)
}
