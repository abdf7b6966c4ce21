//! What the reconciler remembers over restarts: image ids, refused specs, what last worked, what was applied.
//!
//! Rows of ledger.db, read once and written through. A row that cannot be understood is as good as none: everything here
//! can be found out again.
use super::{ReconcileError, clean_up::volumes::Unclaimed, crashes::Crashes, developer::Developed, lives::Since, plan};
use crate::{
    db::ledger::{Ledger, LedgerError},
    runtime::ImageSeen,
    workload::Given,
};
use redforge_shared::{
    desired::{DesiredState, InstanceSpec},
    ids::{Digest, Name},
    report::{
        Reason,
        clean_up::{Leftover, Removed},
        preflight::ChangeStep,
    },
};
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    collections::{BTreeMap, BTreeSet},
    str::FromStr,
};
use time::OffsetDateTime;

/// A spec that was refused: it is not tried again until it changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    pub spec: Digest,
    pub reason: Reason,
    pub names: Vec<String>,
    /// The engine's own words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The step that ran out of time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub late: Option<ChangeStep>,
    /// Identity of the spec without the restart that the site asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unrestarted: Option<Digest>,
}

/// What an instance ran when it last was as its spec asked: what it goes back to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastGood {
    /// The spec, and its identity with the restart that the site asked for.
    pub spec: InstanceSpec,
    pub identity: Digest,
    /// What its image reference meant then.
    pub image: ImageSeen,
    /// Hash of its container.
    pub container_hash: String,
}

/// Most places of one instance's flows that are remembered.
const MAX_PLACES: usize = 128;

/// An image or a model that came to the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Brought {
    /// The image's reference, or the model's name.
    pub name: String,
    /// What the model's name meant; of an image nothing.
    pub digest: Digest,
    /// This agent brought it.
    pub ours: bool,
    /// What it takes, as far as that is known.
    #[serde(default)]
    pub bytes: u64,
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub unneeded_since: Option<OffsetDateTime>,
}

/// Since when nothing names a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnnamedSince(#[serde(with = "time::serde::rfc3339")] pub OffsetDateTime);

/// What an image is remembered under: its reference and, where the hub holds it, with which content.
pub fn image_key(spec: &InstanceSpec) -> String {
    match &spec.image_artifact {
        None => spec.image.clone(),
        Some(artifact) => format!("{}@{}", spec.image, artifact.tar.digest),
    }
}

/// The rows, by what they are about.
#[derive(Clone, Debug, Default)]
pub struct Remembered {
    /// By [`image_key`].
    pub images: BTreeMap<String, ImageSeen>,
    pub failed: BTreeMap<Name, Failed>,
    pub last_good: BTreeMap<Name, LastGood>,
    /// By container.
    pub crashes: BTreeMap<String, Crashes>,
    applied: BTreeMap<Name, String>,
    deployed: BTreeMap<Name, plan::GivenAt>,
    /// Home of each broker that held the agent's session.
    sessions: BTreeMap<Name, String>,
    /// By id.
    pub brought_images: BTreeMap<String, Brought>,
    /// By instance and model.
    pub brought_models: BTreeMap<String, Brought>,
    /// Keys of fetches that were begun: what is there after a kill came by them.
    begun: BTreeMap<String, bool>,
    /// Blobs that nothing names, in hex, and since when.
    pub unnamed_blobs: BTreeMap<String, UnnamedSince>,
    /// By volume.
    pub unclaimed: BTreeMap<String, Unclaimed>,
    /// By kind.
    removed: BTreeMap<String, u64>,
    /// How many containers instances that scale by themselves had last.
    pub scaled: BTreeMap<Name, u32>,
    /// Runtimes that are in developer mode, or were and still hold what was edited.
    pub developed: BTreeMap<Name, Developed>,
    /// What was last said of each instance.
    pub since: BTreeMap<Name, Since>,
}

impl Remembered {
    pub async fn load(ledger: &Ledger) -> Result<Self, LedgerError> {
        Ok(Self {
            images: rows(ledger, "image").await?,
            failed: rows(ledger, "failed").await?,
            last_good: rows(ledger, "last_good").await?,
            crashes: rows(ledger, "crashes").await?,
            applied: rows(ledger, "applied").await?,
            deployed: rows(ledger, "deployed").await?,
            sessions: rows(ledger, "session").await?,
            brought_images: rows(ledger, "brought_image").await?,
            brought_models: rows(ledger, "brought_model").await?,
            begun: rows(ledger, "begun").await?,
            unnamed_blobs: rows(ledger, "unnamed_blob").await?,
            unclaimed: rows(ledger, "unclaimed").await?,
            removed: rows(ledger, "removed").await?,
            scaled: rows(ledger, "scale").await?,
            developed: rows(ledger, "developed").await?,
            since: rows(ledger, "since").await?,
        })
    }

    /// What planning may know of it.
    pub fn for_plan(&self) -> plan::Memory {
        plan::Memory {
            failed: self.failed.iter().map(|(n, f)| (n.clone(), f.spec)).collect(),
            applied: self.applied.clone(),
            deployed: self.deployed.clone(),
        }
    }

    pub async fn set_image(
        &mut self,
        ledger: &Ledger,
        reference: &str,
        image: Option<ImageSeen>,
    ) -> Result<(), ReconcileError> {
        write(ledger, "image", reference, image.as_ref()).await?;
        put(&mut self.images, reference.to_owned(), image);
        Ok(())
    }

    /// Remembers an image that this agent brought, or forgets it.
    pub async fn set_brought_image(
        &mut self,
        ledger: &Ledger,
        id: &str,
        row: Option<Brought>,
    ) -> Result<(), ReconcileError> {
        if self.brought_images.get(id) != row.as_ref() {
            write(ledger, "brought_image", id, row.as_ref()).await?;
            put(&mut self.brought_images, id.to_owned(), row);
        }
        Ok(())
    }

    /// Remembers a model, or forgets it.
    pub async fn set_brought_model(
        &mut self,
        ledger: &Ledger,
        key: &str,
        row: Option<Brought>,
    ) -> Result<(), ReconcileError> {
        if self.brought_models.get(key) != row.as_ref() {
            write(ledger, "brought_model", key, row.as_ref()).await?;
            put(&mut self.brought_models, key.to_owned(), row);
        }
        Ok(())
    }

    /// Remembers that a fetch begins, before it can bring anything.
    pub async fn begin(&mut self, ledger: &Ledger, job: &str) -> Result<(), ReconcileError> {
        if !self.has_begun(job) {
            write(ledger, "begun", job, Some(&true)).await?;
            self.begun.insert(job.to_owned(), true);
        }
        Ok(())
    }

    pub fn has_begun(&self, job: &str) -> bool {
        self.begun.contains_key(job)
    }

    /// Forgets fetches that were begun: what they brought is remembered, or nobody wants it.
    pub async fn forget_begun(&mut self, ledger: &Ledger, ended: impl Fn(&str) -> bool) -> Result<(), ReconcileError> {
        for job in self.begun.keys().filter(|job| ended(job)).cloned().collect::<Vec<_>>() {
            write::<bool>(ledger, "begun", &job, None).await?;
            self.begun.remove(&job);
        }
        Ok(())
    }

    /// Remembers that nothing names a blob, or forgets it.
    pub async fn set_unnamed(
        &mut self,
        ledger: &Ledger,
        blob: &str,
        since: Option<UnnamedSince>,
    ) -> Result<(), ReconcileError> {
        if self.unnamed_blobs.get(blob) != since.as_ref() {
            write(ledger, "unnamed_blob", blob, since.as_ref()).await?;
            put(&mut self.unnamed_blobs, blob.to_owned(), since);
        }
        Ok(())
    }

    /// Makes the rows of volumes that nobody needs these.
    pub async fn set_unclaimed(
        &mut self,
        ledger: &Ledger,
        now: BTreeMap<String, Unclaimed>,
    ) -> Result<(), ReconcileError> {
        let all: BTreeSet<&String> = self.unclaimed.keys().chain(now.keys()).collect();
        for volume in all.into_iter().filter(|v| self.unclaimed.get(*v) != now.get(*v)) {
            write(ledger, "unclaimed", volume, now.get(volume)).await?;
        }
        self.unclaimed = now;
        Ok(())
    }

    /// Counts something that clean-up removed.
    pub async fn count_removed(&mut self, ledger: &Ledger, kind: Leftover) -> Result<(), ReconcileError> {
        let count = self.removed.get(kind.as_str()).copied().unwrap_or(0).saturating_add(1);
        write(ledger, "removed", kind.as_str(), Some(&count)).await?;
        self.removed.insert(kind.as_str().to_owned(), count);
        Ok(())
    }

    /// What clean-up has removed since the ledger was made.
    pub fn removed(&self) -> Removed {
        let mut removed = Removed::default();
        for kind in Leftover::ALL {
            *removed.of(*kind) = self.removed.get(kind.as_str()).copied().unwrap_or(0);
        }
        removed
    }

    pub async fn set_failed(
        &mut self,
        ledger: &Ledger,
        instance: &Name,
        failed: Option<Failed>,
    ) -> Result<(), ReconcileError> {
        if self.failed.get(instance) != failed.as_ref() {
            write(ledger, "failed", instance.as_str(), failed.as_ref()).await?;
            put(&mut self.failed, instance.clone(), failed);
        }
        Ok(())
    }

    pub async fn set_good(&mut self, ledger: &Ledger, good: LastGood) -> Result<(), ReconcileError> {
        let instance = good.spec.name.clone();
        if self.last_good.get(&instance) != Some(&good) {
            write(ledger, "last_good", instance.as_str(), Some(&good)).await?;
            self.last_good.insert(instance, good);
        }
        Ok(())
    }

    pub async fn set_crashes(
        &mut self,
        ledger: &Ledger,
        container: &str,
        crashes: Option<Crashes>,
    ) -> Result<(), ReconcileError> {
        if self.crashes.get(container) != crashes.as_ref() {
            write(ledger, "crashes", container, crashes.as_ref()).await?;
            put(&mut self.crashes, container.to_owned(), crashes);
        }
        Ok(())
    }

    /// Containers that stay down for a while.
    pub fn resting(&self) -> BTreeSet<String> {
        self.crashes.iter().filter(|(_, c)| c.rests_until.is_some()).map(|(id, _)| id.clone()).collect()
    }

    /// Is there something else to go back to?
    pub fn can_go_back(&self, instance: &Name, asked: Digest) -> bool {
        self.last_good.get(instance).is_some_and(|g| g.identity != asked)
    }

    pub async fn set_applied(&mut self, ledger: &Ledger, instance: &Name, applied: &str) -> Result<(), ReconcileError> {
        write(ledger, "applied", instance.as_str(), Some(&applied)).await?;
        self.applied.insert(instance.clone(), applied.to_owned());
        Ok(())
    }

    pub async fn set_deployed(
        &mut self,
        ledger: &Ledger,
        instance: &Name,
        home: &str,
        (given, now): (plan::Given, OffsetDateTime),
    ) -> Result<(), ReconcileError> {
        let at = self.deployed.entry(instance.clone()).or_default();
        // The same flow set again, as after an edit, is nothing new to be tried.
        let known = at.get(home).filter(|g| g.digest == given.digest);
        let given = plan::Given { since: known.map_or(Some(now), |g| g.since), ..given };
        if at.get(home) != Some(&given) {
            at.insert(home.to_owned(), given);
            // Places that are gone are in nobody's way, and the oldest are as good as any to be forgotten.
            while at.len() > MAX_PLACES {
                let other = at.keys().find(|k| *k != home).cloned();
                other.and_then(|k| at.remove(&k));
            }
            write(ledger, "deployed", instance.as_str(), Some(&*at)).await?;
        }
        Ok(())
    }

    /// Does this broker, with what it keeps there, hold the agent's session?
    pub fn has_session(&self, broker: &Name, home: &str) -> bool {
        self.sessions.get(broker).is_some_and(|h| h == home)
    }

    pub async fn set_session(&mut self, ledger: &Ledger, broker: &Name, home: &str) -> Result<(), ReconcileError> {
        if !self.has_session(broker, home) {
            write(ledger, "session", broker.as_str(), Some(&home)).await?;
            self.sessions.insert(broker.clone(), home.to_owned());
        }
        Ok(())
    }

    pub async fn set_scaled(&mut self, ledger: &Ledger, instance: &Name, replicas: u32) -> Result<(), ReconcileError> {
        if self.scaled.get(instance) != Some(&replicas) {
            write(ledger, "scale", instance.as_str(), Some(&replicas)).await?;
            self.scaled.insert(instance.clone(), replicas);
        }
        Ok(())
    }

    pub async fn set_developed(
        &mut self,
        ledger: &Ledger,
        instance: &Name,
        developed: Option<Developed>,
    ) -> Result<(), ReconcileError> {
        if self.developed.get(instance) != developed.as_ref() {
            write(ledger, "developed", instance.as_str(), developed.as_ref()).await?;
            put(&mut self.developed, instance.clone(), developed);
        }
        Ok(())
    }

    pub async fn set_since(&mut self, ledger: &Ledger, instance: &Name, since: Since) -> Result<(), ReconcileError> {
        if self.since.get(instance) != Some(&since) {
            write(ledger, "since", instance.as_str(), Some(&since)).await?;
            self.since.insert(instance.clone(), since);
        }
        Ok(())
    }

    /// Forgets instances that are no longer desired, so that a later one of the same name begins anew, and image ids that
    /// nobody refers to any more, so that a later use of the reference asks what it means then.
    pub async fn forget_others(&mut self, ledger: &Ledger, state: &DesiredState) -> Result<(), ReconcileError> {
        let keep = |n: &Name| state.instance(n.as_str()).is_some();
        let kinds = [
            ("failed", names_of(&self.failed)),
            ("last_good", names_of(&self.last_good)),
            ("applied", names_of(&self.applied)),
            ("deployed", names_of(&self.deployed)),
            ("session", names_of(&self.sessions)),
            ("scale", names_of(&self.scaled)),
            ("developed", names_of(&self.developed)),
            ("since", names_of(&self.since)),
        ];
        for (kind, names) in kinds {
            for name in names.iter().filter(|n| !keep(n)) {
                ledger.memory_set(kind, name.as_str(), None).await.map_err(ReconcileError::Ledger)?;
            }
        }
        self.failed.retain(|n, _| keep(n));
        self.last_good.retain(|n, _| keep(n));
        self.applied.retain(|n, _| keep(n));
        self.deployed.retain(|n, _| keep(n));
        self.sessions.retain(|n, _| keep(n));
        self.scaled.retain(|n, _| keep(n));
        self.developed.retain(|n, _| keep(n));
        self.since.retain(|n, _| keep(n));
        let specs = state.instances.iter().chain(self.last_good.values().map(|g| &g.spec));
        let used: BTreeSet<String> = specs.map(image_key).collect();
        let unused: Vec<_> = self.images.keys().filter(|i| !used.contains(*i)).cloned().collect();
        for reference in unused {
            self.set_image(ledger, &reference, None).await?;
        }
        Ok(())
    }
}

/// The secrets that the site gave, as they are now.
pub async fn given(ledger: &Ledger) -> Result<Given, ReconcileError> {
    let given = ledger.given_secrets().await.map_err(ReconcileError::Ledger)?;
    Ok(given.into_iter().map(|(name, g)| (name, (g.version, g.value.expose_secret().to_owned()))).collect())
}

fn names_of<T>(map: &BTreeMap<Name, T>) -> Vec<Name> {
    map.keys().cloned().collect()
}

fn put<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(v) => drop(map.insert(key, v)),
        None => drop(map.remove(&key)),
    }
}

async fn rows<K: FromStr + Ord, V: DeserializeOwned>(
    ledger: &Ledger,
    kind: &str,
) -> Result<BTreeMap<K, V>, LedgerError> {
    let understood = |(key, value): (String, Vec<u8>)| Some((key.parse().ok()?, serde_json::from_slice(&value).ok()?));
    Ok(ledger.memory_all(kind).await?.into_iter().filter_map(understood).collect())
}

async fn write<T: Serialize>(ledger: &Ledger, kind: &str, key: &str, value: Option<&T>) -> Result<(), ReconcileError> {
    let bytes = value.map(|v| serde_json::to_vec(v).expect("memory rows have no value that JSON cannot hold"));
    ledger.memory_set(kind, key, bytes.as_deref()).await.map_err(ReconcileError::Ledger)
}
