//! Measures the host for [`preflight`], and only when something is about to change: the shell around that pure question.
//!
//! It fetches nothing. What it cannot measure it says nothing about.
use super::{
    ReconcileError, Reconciler, View,
    execute::SUBNET_KEY,
    memory::Remembered,
    plan::{Actual, Blueprint, Step, Wanted, job_key},
    preflight::{self, Ask, Block, Fetch, Room},
};
use crate::{
    runtime::{ContainerSeen, ContainerState, EngineSeen},
    workload::{Unmet, ollama},
};
use redforge_shared::{
    desired::{Blob, InstanceSpec, Model, Port, Protocol, Workload},
    ids::{Digest, Name},
    report::preflight::{Preflight, Verdict},
};
use std::{
    collections::BTreeMap,
    io::ErrorKind,
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
    os::unix::fs::MetadataExt as _,
    path::Path,
};

/// What was last found of each instance, and for which spec.
pub type Said = BTreeMap<Name, (Digest, Preflight)>;

impl Reconciler {
    /// Asks for every instance that is about to change, and holds back what must not begin.
    pub(super) async fn preflight(
        &mut self,
        view: &mut View,
        actual: &Actual,
        memory: &Remembered,
    ) -> Result<(), ReconcileError> {
        let state = &view.chosen.state;
        let mut asks = Vec::new();
        for (spec, wanted) in state.instances.iter().zip(&view.desired.instances) {
            asks.push((wanted.rank, spec.name.clone(), self.ask(view, actual, memory, spec, wanted).await?));
        }
        // What no longer changes is no longer refused.
        let asks_for = |n: &Name| asks.iter().any(|(_, name, ask)| name == n && ask.changes());
        self.said
            .retain(|n, (_, p)| asks_for(n) || (p.verdict == Verdict::Fits && state.instance(n.as_str()).is_some()));
        if asks.iter().all(|(.., ask)| !ask.changes()) {
            return Ok(());
        }
        // In the order in which they are brought up.
        asks.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        let mut asks: Vec<_> = asks.into_iter().map(|(_, name, ask)| (name, ask)).collect();
        let room = self.room(view, actual, &asks).await?;
        let said = preflight::judge(&asks, &room, self.deps.limits);
        // What a registry said of an image may be another thing by now: a later fetch asks it again.
        for (_, ask) in asks.iter_mut().filter(|(_, a)| a.fetch != Fetch::Nothing) {
            ask.architecture = None;
        }
        let held = preflight::judge(&asks, &room, self.deps.limits);
        for wanted in &mut view.desired.instances {
            wanted.refused = held.get(&wanted.name).is_some_and(|p| p.verdict != Verdict::Fits);
            if let Some(p) = said.get(&wanted.name) {
                let before = self.said.insert(wanted.name.clone(), (wanted.spec, p.clone()));
                if p.verdict != Verdict::Fits && before.is_none_or(|(_, b)| b.verdict != p.verdict) {
                    tracing::warn!(instance.name = %wanted.name, verdict = %p.verdict, why = p.refusal(), "preflight");
                }
            }
        }
        Ok(())
    }

    async fn ask(
        &self,
        view: &View,
        actual: &Actual,
        memory: &Remembered,
        spec: &InstanceSpec,
        wanted: &Wanted,
    ) -> Result<Ask, ReconcileError> {
        let own: Vec<_> = view.seen.containers.iter().filter(|c| c.instance == spec.name).collect();
        let mut ask = Ask {
            image: spec.image.clone(),
            memory_bytes: spec.resources.memory_bytes.unwrap_or(0).saturating_mul(view.counts.of(spec).into()),
            memory_now_bytes: own.iter().map(|c| c.memory_limit_bytes).sum(),
            ports: spec.ports.clone(),
            ..Ask::default()
        };
        let failed = memory.failed.get(&spec.name).is_some_and(|f| f.spec == wanted.spec);
        // Nothing is done to it; or what ran before comes back, which is never refused.
        if wanted.hold || wanted.suspend || failed || view.chosen.back.contains_key(&spec.name) {
            return Ok(ask);
        }
        match &wanted.blueprint {
            Blueprint::Unmet => {
                if let Some(Unmet::Secret(names)) = view.unmet.get(&spec.name) {
                    ask.secrets.clone_from(names);
                }
            }
            Blueprint::NoImage => {
                ask.creates = true;
                let found = self.deps.runtime.find_image(&spec.image).await.map_err(ReconcileError::Runtime)?;
                let artifact = spec.image_artifact.as_ref();
                match found.filter(|image| artifact.is_none_or(|a| a.image_id == image.id)) {
                    Some(image) => ask.architecture = Some(image.architecture),
                    None => {
                        // The tar comes into the state folder, and the engine unpacks as much.
                        ask.fetch = artifact.map_or(Fetch::Unknown, |a| Fetch::Bytes(a.tar.bytes));
                        if let Some(artifact) = artifact {
                            ask.by_way_of_state = self.yet_to_come(&[artifact.tar]).await;
                        }
                        ask.architecture = self.jobs.architecture(&job_key::image(&spec.image));
                    }
                }
            }
            Blueprint::Ready(shape) => {
                let right = own.iter().find(|c| c.hash == shape.hash && c.state != ContainerState::Dead);
                ask.creates = right.is_none();
                let lacking = right.and_then(|c| Some((c.address, actual.models_lacking.get(&c.id)?)));
                if let Some((address, names)) = lacking.filter(|(_, names)| !names.is_empty()) {
                    self.add_models(&mut ask, spec, |m| names.contains(&m.name), address).await;
                }
                let image = view.chosen.image(spec, memory).filter(|_| ask.creates);
                ask.architecture = image.map(|i| i.architecture.clone());
            }
        }
        if ask.creates {
            // Its server will be new, or may have come with the volume: what it has is not known before it runs.
            let new = own.is_empty() && !view.seen.volumes.values().any(|v| v.instance == spec.name);
            self.add_models(&mut ask, spec, |_| new, None).await;
        }
        Ok(ask)
    }

    /// Adds the models of an instance that are to come; those that its server at this address has in part come in part.
    async fn add_models(
        &self,
        ask: &mut Ask,
        spec: &InstanceSpec,
        comes: impl Fn(&Model) -> bool,
        server: Option<IpAddr>,
    ) {
        let Workload::Ollama(o) = &spec.workload else { return };
        let coming: Vec<&Model> = o.models.iter().filter(|m| comes(m)).collect();
        if coming.is_empty() {
            return;
        }
        // Nobody else fetches just this.
        ask.image = format!("{} for {}", spec.image, spec.name);
        let mut blobs: BTreeMap<Digest, Blob> = coming.iter().flat_map(|m| &m.blobs).map(|b| (b.digest, *b)).collect();
        if let Some(address) = server {
            for digest in blobs.keys().copied().collect::<Vec<_>>() {
                if ollama::shelf::has_blob(address, digest).await.unwrap_or(false) {
                    blobs.remove(&digest);
                }
            }
        }
        let blobs: Vec<Blob> = blobs.into_values().collect();
        let bytes = blobs.iter().fold(0, |sum: u64, b| sum.saturating_add(b.bytes));
        ask.by_way_of_state = ask.by_way_of_state.saturating_add(self.yet_to_come(&blobs).await);
        // A registry's model is of a size that nobody says.
        ask.fetch = match ask.fetch {
            Fetch::Unknown => Fetch::Unknown,
            _ if coming.iter().any(|m| m.blobs.is_empty()) => Fetch::Unknown,
            Fetch::Nothing => Fetch::Bytes(bytes),
            Fetch::Bytes(image) => Fetch::Bytes(image.saturating_add(bytes)),
        };
    }

    /// What of these is not here yet.
    async fn yet_to_come(&self, blobs: &[Blob]) -> u64 {
        let mut bytes = 0_u64;
        for blob in blobs {
            bytes = bytes.saturating_add(blob.bytes.saturating_sub(self.shelf.bytes_of(blob.digest).await));
        }
        bytes
    }

    /// Subnets for the internal network, where it has to be made: the one set by hand, else the one kept, else the pool in
    /// order, without those that would hide a network of the host.
    pub(super) async fn subnets(&self, steps: &[Step]) -> Result<Vec<String>, ReconcileError> {
        if !steps.iter().any(|s| matches!(s, Step::EnsureNetwork { internal: true, .. })) {
            return Ok(vec![]);
        }
        if let Some(subnet) = &self.deps.subnet {
            return Ok(vec![subnet.clone()]);
        }
        let kept = self.deps.ledger.kv_get(SUBNET_KEY).await.map_err(ReconcileError::Ledger)?;
        let kept = kept.and_then(|b| String::from_utf8(b).ok());
        let machine = self.deps.runtime.survey().await.map_err(ReconcileError::Runtime)?;
        let routes = preflight::routes(&machine.routes);
        let free = self.deps.pool.subnets().filter(|s| !overlaps(s, &routes));
        Ok(kept.into_iter().chain(free).collect())
    }

    async fn room(&self, view: &View, actual: &Actual, asks: &[(Name, Ask)]) -> Result<Room, ReconcileError> {
        let EngineSeen { root_dir, architecture, memory_total_bytes, routes } =
            self.deps.runtime.survey().await.map_err(ReconcileError::Runtime)?;
        let free = |at: &Path| rustix::fs::statvfs(at).ok().map(|s| s.f_bavail.saturating_mul(s.f_frsize));
        let device = |at: &Path| std::fs::metadata(at).ok().map(|m| m.dev());
        let (engine, state) = (Path::new(&root_dir), self.deps.blobs.parent().unwrap_or(Path::new("")));
        let routes = preflight::routes(&routes);
        let to_be_made = self.deps.subnet.clone().filter(|_| !actual.networks.contains(&view.desired.network));
        let subnet = to_be_made.map(|s| (s.clone(), overlaps(&s, &routes)));
        let asked = asks.iter().filter(|(_, a)| a.creates).flat_map(|(_, a)| &a.ports);
        let taken = asked.filter(|p| !is_ours(p, &view.seen.containers) && is_taken(p)).cloned().collect();
        Ok(Room {
            disk_free_bytes: free(engine),
            state_free_bytes: free(state),
            one_disk: device(engine).is_some_and(|d| device(state) == Some(d)),
            reclaimable_bytes: self.reclaimable_bytes,
            memory_total_bytes: Some(memory_total_bytes).filter(|m| *m > 0),
            architecture: preflight::as_images_name_it(&architecture).to_owned(),
            taken,
            subnet,
        })
    }
}

/// One of our containers publishes it, or did a moment ago: then a test would find ourselves.
fn is_ours(port: &Port, containers: &[ContainerSeen]) -> bool {
    containers.iter().flat_map(|c| &c.ports).any(|p| p.host == port.host && p.protocol == port.protocol)
}

/// Another instance that publishes this `port/protocol` now.
pub(super) fn holder_of<'a>(port: &str, own: &Name, containers: &'a [ContainerSeen]) -> Option<&'a Name> {
    let others = containers.iter().filter(|c| c.instance != *own && c.state == ContainerState::Running);
    let publishes = |c: &&ContainerSeen| c.ports.iter().any(|p| format!("{}/{}", p.host, p.protocol.as_str()) == port);
    others.into_iter().find(publishes).map(|c| &c.instance)
}

/// Does another program hold it? Whatever else stops the test (rights, an address that is not here) is the engine's to say.
fn is_taken(port: &Port) -> bool {
    let at = SocketAddr::new(port.address, port.host);
    let tried = match port.protocol {
        Protocol::Tcp => TcpListener::bind(at).map(drop),
        Protocol::Udp => UdpSocket::bind(at).map(drop),
    };
    tried.is_err_and(|e| e.kind() == ErrorKind::AddrInUse)
}

/// Would a network of these addresses hide one of the host's?
fn overlaps(subnet: &str, routes: &[Block]) -> bool {
    Block::parse(subnet).is_some_and(|b| routes.iter().any(|r| b.overlaps(*r)))
}
