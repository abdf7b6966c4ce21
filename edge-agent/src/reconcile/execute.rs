//! Carries out planned steps: one effect per step, each safe to repeat, none chosen here.
//!
//! When a step of an instance fails, the rest of that instance waits for the next pass; the others go on. When a network
//! fails, everything does.
use super::{
    ReconcileError,
    bring::{Server, Shelf},
    crashes::Crashes,
    deadlines::Deadlines,
    fetches,
    jobs::{Brought, Jobs},
    memory::{Remembered, image_key},
    observe::FlowSets,
    plan::{Given, Purpose, Step, job_key},
};
use crate::{
    db::ledger::Ledger,
    runtime::{ImageSeen, Place, Runtime, RuntimeError, Signal, VolumePurpose, names::Names},
    workload::{Rendered, Secrets, node_red, ollama, valkey},
};
use redforge_shared::{
    desired::{DesiredState, InstanceSpec, Model, Workload},
    error::Chain,
    flows::Flows,
    ids::{Digest, Name},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::Path,
    sync::Arc,
};
use time::OffsetDateTime;

/// Where the internal network's subnet is kept.
pub const SUBNET_KEY: &str = "subnet";

/// Everything that steps refer to by name.
pub struct Deeds<'a> {
    pub names: &'a Names,
    pub runtime: &'a Arc<dyn Runtime>,
    pub ledger: &'a Ledger,
    pub desired: &'a DesiredState,
    pub rendered: &'a BTreeMap<Name, Rendered>,
    pub secrets: &'a Secrets,
    pub flow_sets: &'a FlowSets,
    /// `blobs` of the state folder.
    pub blobs: &'a Path,
    /// Of running containers, by id.
    pub addresses: &'a BTreeMap<String, IpAddr>,
    /// Subnets for the internal network, the best first.
    pub subnets: &'a [String],
    pub deadlines: &'a Deadlines,
    pub memory: &'a mut Remembered,
    pub jobs: &'a mut Jobs,
    pub shelf: &'a Shelf,
    pub now: OffsetDateTime,
}

/// Steps that failed, by instance; under `None` what all instances need.
pub type Faults = BTreeMap<Option<Name>, ReconcileError>;

impl Deeds<'_> {
    /// Takes the steps in order.
    pub async fn take_all(&mut self, steps: &[Step]) -> Faults {
        let mut faults = Faults::new();
        let mut waiting: BTreeSet<&Name> = BTreeSet::new();
        for step in steps {
            if step.instance().is_some_and(|i| waiting.contains(i)) {
                continue;
            }
            fail::fail_point!("reconcile.before-step");
            fail::fail_point!(&format!("reconcile.before.{}", step.deed()));
            tracing::info!(step = %step, "reconcile");
            let (late, limit) = self.deadlines.of(step);
            let taken = tokio::time::timeout(limit, self.take(step)).await;
            let Err(fault) = taken.unwrap_or(Err(ReconcileError::Late(late))) else {
                fail::fail_point!(&format!("reconcile.after.{}", step.deed()));
                continue;
            };
            tracing::warn!(step = %step, error = %Chain(&fault), "step failed");
            waiting.extend(step.instance());
            let stops_all = matches!(step, Step::EnsureNetwork { .. });
            faults.insert(step.instance().cloned(), fault);
            if stops_all {
                break;
            }
        }
        faults
    }

    async fn take(&mut self, step: &Step) -> Result<(), ReconcileError> {
        let (runtime, names) = (self.runtime.clone(), self.names);
        let done = match step {
            Step::RemoveHelper { id } => runtime.remove_container(id).await,
            Step::EnsureNetwork { name, internal: true } => return self.ensure_internal(name).await,
            Step::EnsureNetwork { name, internal: false } => runtime.ensure_network(names, name, None, false).await,
            Step::WantBlob { digest, .. } => return self.ledger.want(*digest).await.map_err(ReconcileError::Ledger),
            Step::ResolveImage { instance, .. } => return self.resolve_image(instance).await,
            Step::EnsureVolume { instance, volume, purpose } => {
                let purpose = match purpose {
                    Purpose::Config => VolumePurpose::Config,
                    Purpose::Live => VolumePurpose::Live,
                    Purpose::Data => VolumePurpose::Data,
                };
                runtime.ensure_volume(names, volume, instance, purpose).await
            }
            Step::PutConfig { instance, volume } => {
                let r = self.rendered(instance)?;
                let files = r.config.as_ref().map(|f| f.files.as_slice()).unwrap_or_default();
                runtime.put_files(names, &r.container.image_id, volume, files).await
            }
            Step::PutModules { instance, volume, flow_set } => {
                return self.put_modules(instance, volume, *flow_set).await;
            }
            Step::SafeMode { id, .. } => runtime.put_below(id, node_red::DATA_PATH, &[node_red::safe_mode()]).await,
            Step::PutLive { instance, volume } => {
                let r = self.rendered(instance)?;
                let files = r.live.as_ref().map(|f| f.files.as_slice()).unwrap_or_default();
                runtime.put_files(names, &r.container.image_id, volume, files).await
            }
            Step::Stop { id, .. } => {
                self.jobs.stop(job_key::stop(id), runtime, id.clone());
                return Ok(());
            }
            Step::Remove { id, .. } => runtime.remove_container(id).await,
            Step::Create { instance, replica, named, .. } => {
                let rendered = self.rendered(instance)?;
                let place = Place { instance, replica: *replica, named: *named, hash: rendered.container.hash() };
                let created = runtime.create_container(names, place, &rendered.of_replica(instance, *replica)).await;
                if let Err(RuntimeError::ImageMissing { .. }) = &created {
                    self.forget_image(instance).await?;
                }
                created
            }
            Step::ConnectOutside { container, .. } => runtime.connect_outside(names, container).await,
            Step::Start { container, .. } => runtime.start_container(container).await,
            Step::TakeName { instance, container } => runtime.name_container(names, instance, container).await,
            Step::Reload { instance, id, applied } => return self.reload(instance, id, applied).await,
            Step::DeployFlows { instance, id, home, digest, full, credentials } => {
                let (address, token) = self.admin(instance, id)?;
                let flows = self.flow_sets.get(digest).ok_or_else(|| ReconcileError::Vanished(instance.clone()))?;
                self.has_types_of((instance, home), (address, &token), (*digest, &flows.flows)).await?;
                // Flows that end their runtime leave no answer, and lie in its volume all the same.
                let begun = (Given::begun(*digest), self.now);
                self.memory.set_deployed(self.ledger, instance, home, begun).await?;
                let deployed = node_red::deploy(address, &token, &flows.flows, (*full, *credentials)).await;
                let rev = deployed.map_err(|e| ReconcileError::Deploy(Box::new(e)))?;
                let given = (Given::new(*digest, rev), self.now);
                return self.memory.set_deployed(self.ledger, instance, home, given).await;
            }
            Step::PutFlows { instance, id, home, digest } => {
                return self.put_flows(instance, (id, home), *digest).await;
            }
            Step::StartFlows { instance, id } => {
                let (address, token) = self.admin(instance, id)?;
                let started = node_red::start_flows(address, &token).await;
                return started.map_err(|e| ReconcileError::Deploy(Box::new(e)));
            }
            Step::PullModel { instance, id, model } => return self.pull_model(instance, id, model).await,
            Step::LoadModel { instance, id, model } => {
                let address = *self.address(instance, id)?;
                self.jobs.load(job_key::load(id, model), address, model.clone());
                return Ok(());
            }
            Step::RemoveVolume { volume, .. } => runtime.remove_volume(names, volume).await,
        };
        done.map_err(ReconcileError::Runtime)
    }

    /// Has a workload take over its live files without a restart, in the way of its kind.
    async fn reload(&mut self, instance: &Name, id: &str, applied: &str) -> Result<(), ReconcileError> {
        let vanished = || ReconcileError::Vanished(instance.clone());
        let spec = self.desired.instance(instance.as_str()).ok_or_else(vanished)?;
        if let Workload::Valkey(cache) | Workload::Redis(cache) = &spec.workload {
            let address = self.addresses.get(id).ok_or_else(vanished)?;
            let (password, settings) = (valkey::password(self.secrets, instance), valkey::settings(spec, cache));
            return valkey::apply(*address, &password, &settings).await.map_err(ReconcileError::Apply);
        }
        self.runtime.signal(id, Signal::Hangup).await.map_err(ReconcileError::Runtime)?;
        self.memory.set_applied(self.ledger, instance, applied).await
    }

    /// Puts flows where a runtime that is down finds them at its start.
    async fn put_flows(
        &mut self,
        instance: &Name,
        (id, home): (&str, &str),
        digest: Digest,
    ) -> Result<(), ReconcileError> {
        let set = self.flow_sets.get(&digest).ok_or_else(|| ReconcileError::Vanished(instance.clone()))?;
        let file = node_red::flow_file(&set.flows);
        let put = self.runtime.put_below(id, node_red::DATA_PATH, &[file]).await;
        put.map_err(ReconcileError::Runtime)?;
        // How the flows before ended it is not held against these.
        let forgiven = self.memory.crashes.get(id).and_then(Crashes::forgiven);
        self.memory.set_crashes(self.ledger, id, forgiven).await?;
        self.memory.set_deployed(self.ledger, instance, home, (Given::begun(digest), self.now)).await
    }

    /// Unpacks the modules of a flow set into their volume.
    async fn put_modules(&self, instance: &Name, volume: &str, flow_set: Digest) -> Result<(), ReconcileError> {
        let vanished = || ReconcileError::Vanished(instance.clone());
        let path = self.blobs.join("sha256").join(flow_set.hex());
        let tar = tokio::fs::read(&path).await.map_err(|_| vanished())?;
        let unpacked = tokio::task::spawn_blocking(move || node_red::module_files(&tar)).await;
        let files = unpacked.ok().and_then(Result::ok).ok_or_else(vanished)?;
        let image = &self.rendered(instance)?.container.image_id;
        self.runtime.put_files(self.names, image, volume, &files).await.map_err(ReconcileError::Runtime)
    }

    /// Flows with a type that the runtime does not know would stop those that it runs: where it has others, they are not
    /// given to it. With nothing to lose they are, and the runtime itself says what it lacks.
    async fn has_types_of(
        &self,
        (instance, home): (&Name, &str),
        (address, token): (IpAddr, &str),
        (digest, flows): (Digest, &Flows),
    ) -> Result<(), ReconcileError> {
        let worked = self.memory.last_good.get(instance).and_then(|good| good.spec.flow_set());
        let known = self.memory.for_plan().deployed;
        let given = known.get(instance).and_then(|at| at.get(home)).map(|given| given.digest);
        if worked.into_iter().chain(given).all(|other| other == digest) {
            return Ok(());
        }
        // It does not say: the deploy will tell.
        let Ok(known) = node_red::types(address, token).await else { return Ok(()) };
        let missing: Vec<_> = flows.node_types().into_iter().filter(|t| !known.contains(t)).collect();
        if missing.is_empty() { Ok(()) } else { Err(ReconcileError::MissingTypes(missing)) }
    }

    fn rendered(&self, instance: &Name) -> Result<&Rendered, ReconcileError> {
        self.rendered.get(instance).ok_or_else(|| ReconcileError::Vanished(instance.clone()))
    }

    fn admin(&self, instance: &Name, id: &str) -> Result<(IpAddr, String), ReconcileError> {
        let address = self.addresses.get(id).ok_or_else(|| ReconcileError::Vanished(instance.clone()))?;
        Ok((*address, node_red::token(self.secrets, instance)))
    }

    /// Tries the subnets in order until the engine accepts one, and keeps it.
    async fn ensure_internal(&mut self, name: &str) -> Result<(), ReconcileError> {
        let mut refused = None;
        for subnet in self.subnets {
            match self.runtime.ensure_network(self.names, name, Some(subnet), true).await {
                Ok(()) => {
                    let kept = self.ledger.kv_set(SUBNET_KEY, subnet.as_bytes()).await;
                    return kept.map_err(ReconcileError::Ledger);
                }
                Err(e @ RuntimeError::SubnetTaken { .. }) => refused = Some(e),
                Err(e) => return Err(ReconcileError::Runtime(e)),
            }
        }
        Err(refused.map_or_else(|| ReconcileError::NoSubnet, ReconcileError::Runtime))
    }

    /// An image on the host is known at once; any other is fetched in the background.
    async fn resolve_image(&mut self, instance: &Name) -> Result<(), ReconcileError> {
        let spec = self.spec(instance)?.clone();
        let found = self.runtime.find_image(&spec.image).await.map_err(ReconcileError::Runtime)?;
        // What the hub holds is one content: another one of this name will not do.
        let right = |image: &ImageSeen| spec.image_artifact.as_ref().is_none_or(|a| a.image_id == image.id);
        match found.filter(right) {
            Some(image) => {
                let (key, reference) = (image_key(&spec), spec.image.clone());
                let found = Brought::Image { key, reference, image, fetched: false };
                fetches::remember(self.ledger, self.memory, found).await
            }
            None => {
                let (job, limit) = (job_key::image(&spec.image), self.deadlines.pull);
                let elsewhere = match &spec.image_artifact {
                    Some(a) => self.runtime.find_image(&a.image_id).await.map_err(ReconcileError::Runtime)?,
                    None => None,
                };
                // What somebody else brought under another name stays theirs.
                if elsewhere.is_none() {
                    self.memory.begin(self.ledger, &job).await?;
                }
                self.jobs.image(job, self.runtime.clone(), self.shelf.clone(), &spec, limit);
                Ok(())
            }
        }
    }

    fn spec(&self, instance: &Name) -> Result<&InstanceSpec, ReconcileError> {
        self.desired.instance(instance.as_str()).ok_or_else(|| ReconcileError::Vanished(instance.clone()))
    }

    fn address(&self, instance: &Name, id: &str) -> Result<&IpAddr, ReconcileError> {
        self.addresses.get(id).ok_or_else(|| ReconcileError::Vanished(instance.clone()))
    }

    /// The image was deleted under us: its reference is resolved again.
    async fn forget_image(&mut self, instance: &Name) -> Result<(), ReconcileError> {
        let Some(spec) = self.desired.instance(instance.as_str()) else { return Ok(()) };
        self.memory.set_image(self.ledger, &image_key(spec), None).await
    }

    async fn pull_model(&mut self, instance: &Name, id: &str, model: &str) -> Result<(), ReconcileError> {
        let spec = self.spec(instance)?;
        let declared = match &spec.workload {
            Workload::Ollama(o) => o.models.iter().find(|m| m.name == model),
            _ => None,
        };
        let model: Model = declared.ok_or_else(|| ReconcileError::Vanished(instance.clone()))?.clone();
        let server = Server {
            runtime: self.runtime.clone(),
            address: *self.address(instance, id)?,
            container: id.to_owned(),
            folder: ollama::shelf::folder(spec).to_owned(),
            image: self.memory.images.get(&image_key(spec)).cloned().unwrap_or_default(),
        };
        let key = job_key::model(instance, &model.name);
        self.memory.begin(self.ledger, &key).await?;
        self.jobs.model(key, server, self.shelf.clone(), instance.clone(), model);
        Ok(())
    }
}
