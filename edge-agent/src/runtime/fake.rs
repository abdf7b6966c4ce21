//! An engine in memory, for properties and tests: it keeps what it is told, counts what changes it, and fails on request.
//!
//! It follows the real engine where a mistake of ours would show: a name is taken once, a missing image, volume or network
//! is refused, a running container cannot be removed, a volume in use neither.
use crate::runtime::{
    Boxed, ContainerSeen, ContainerSpec, ContainerState, Done, EngineSeen, EngineVersion, File, HostSeen, ImageSeen,
    LogLine, Place, Runtime, RuntimeError, Signal, VolumePurpose, VolumeSeen, login::Login, meter::Meter, names::Names,
};
use futures_util::{StreamExt, stream, stream::BoxStream};
use redforge_shared::ids::{Digest, HostId, Name};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Mutex, MutexGuard},
};
use tokio::sync::watch;

mod script;

/// The engine.
#[derive(Debug, Default)]
pub struct FakeRuntime {
    world: Mutex<World>,
    /// Containers whose stop takes until they are taken out of here.
    stuck: watch::Sender<BTreeSet<String>>,
}

#[derive(Debug, Default)]
struct World {
    containers: BTreeMap<String, Made>,
    networks: BTreeMap<String, (HostId, String)>,
    volumes: BTreeMap<String, (HostId, VolumeSeen)>,
    files: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
    images: BTreeMap<String, ImageSeen>,
    /// Images that a registry is sending, and how far it is.
    coming: BTreeMap<String, (u64, u64)>,
    taken_subnets: BTreeSet<String>,
    /// Images whose containers end by themselves at once.
    crashing: BTreeSet<String>,
    /// Containers that end by themselves at once when they are of this image.
    crashing_only: BTreeSet<(String, String)>,
    /// Images whose containers the engine refuses to start.
    refused: BTreeSet<String>,
    /// Images whose containers publish a port that somebody has.
    ports_taken: BTreeMap<String, String>,
    /// What containers of an image print, by its id.
    said: BTreeMap<String, Vec<LogLine>>,
    /// What its registry says that an image is for.
    architectures: BTreeMap<String, Vec<String>>,
    /// Images that a registry has.
    elsewhere: BTreeMap<String, ImageSeen>,
    /// Who a registry gives images to.
    accounts: BTreeMap<String, (String, String)>,
    machine: EngineSeen,
    journal: Vec<String>,
    calls: u64,
    fail_every: Option<u64>,
    /// Nobody answers.
    away: bool,
    made: u64,
}

#[derive(Clone, Debug)]
struct Made {
    host: HostId,
    seen: ContainerSeen,
    spec: ContainerSpec,
    cpu_time_ns: u64,
}

impl FakeRuntime {
    /// An engine with these images.
    pub fn with_images<'a>(images: impl IntoIterator<Item = (&'a str, &'a [&'a str])>) -> Self {
        let fake = Self::default();
        for (reference, volumes) in images {
            let volumes = volumes.iter().map(|v| (*v).to_owned()).collect();
            let seen = ImageSeen { id: format!("sha256:{reference}"), volumes, ..ImageSeen::default() };
            fake.world().images.insert(reference.into(), seen);
        }
        fake
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().expect("no call of the fake panics while it holds the lock")
    }

    /// Notes a changing call, or fails it.
    fn change(&self, what: String) -> Done<MutexGuard<'_, World>> {
        let mut world = self.world();
        world.calls += 1;
        if world.fail_every.is_some_and(|n| world.calls.is_multiple_of(n)) {
            return Err(RuntimeError::Failed { act: "do", name: what, source: "injected".into() });
        }
        world.journal.push(what);
        Ok(world)
    }
}

fn ready<'a, T: Send + 'a>(result: Done<T>) -> Boxed<'a, Done<T>> {
    Box::pin(std::future::ready(result))
}

fn not_found(name: &str) -> RuntimeError {
    RuntimeError::NotFound { name: name.into() }
}

impl World {
    /// By id or name.
    fn key(&self, container: &str) -> Option<String> {
        self.containers.iter().find(|(name, m)| *name == container || m.seen.id == container).map(|(n, _)| n.clone())
    }

    fn container(&mut self, container: &str) -> Done<&mut Made> {
        let key = self.key(container).ok_or_else(|| not_found(container))?;
        Ok(self.containers.get_mut(&key).expect("the key was just found"))
    }

    fn create(&mut self, names: &Names, place: Place<'_>, spec: &ContainerSpec) -> Done<()> {
        let name = names.container(place.instance, place.replica);
        let known = self.images.values().any(|i| i.id == spec.image_id);
        if !known {
            let source = "no such image".into();
            return Err(RuntimeError::ImageMissing { reference: spec.image_id.clone(), source });
        }
        let missing = spec.mounts.iter().find(|m| !self.volumes.contains_key(&m.volume));
        if missing.is_some() || !self.networks.contains_key(names.network()) || self.containers.contains_key(&name) {
            return Err(RuntimeError::Refused { act: "create", name, source: "not possible".into() });
        }
        self.made += 1;
        let seen = ContainerSeen {
            id: format!("id{}", self.made),
            name: name.clone(),
            instance: place.instance.clone(),
            replica: place.replica,
            hash: place.hash.hex(),
            state: ContainerState::Created,
            started_at: String::new(),
            exit_code: 0,
            oom_killed: false,
            ended: None,
            restarts: 0,
            address: None,
            named: place.named,
            outside: false,
            memory_limit_bytes: spec.memory_bytes.unwrap_or(0),
            cpu_limit_millicores: spec.cpu_millicores.unwrap_or(0),
            pids_limit: spec.pids.unwrap_or(0),
            volumes: spec.mounts.iter().map(|m| m.volume.clone()).collect(),
            ports: spec.ports.clone(),
        };
        self.containers.insert(name, Made { host: names.host, seen, spec: spec.clone(), cpu_time_ns: 0 });
        Ok(())
    }
}

impl Runtime for FakeRuntime {
    fn version(&self) -> Boxed<'_, Done<EngineVersion>> {
        ready(Ok(EngineVersion { engine: "fake".into(), api: "0.0".into() }))
    }

    fn survey(&self) -> Boxed<'_, Done<EngineSeen>> {
        ready(Ok(self.world().machine.clone()))
    }

    fn architectures<'a>(&'a self, reference: &'a str, _: Option<&'a Login>) -> Boxed<'a, Done<Vec<String>>> {
        ready(Ok(self.world().architectures.get(reference).cloned().unwrap_or_default()))
    }

    fn observe<'a>(&'a self, names: &'a Names) -> Boxed<'a, Done<HostSeen>> {
        let world = self.world();
        if world.away {
            return ready(Err(RuntimeError::Unreachable("nobody answers".into())));
        }
        let ours = |m: &&Made| m.host == names.host;
        ready(Ok(HostSeen {
            containers: world.containers.values().filter(ours).map(|m| m.seen.clone()).collect(),
            helpers: vec![],
            networks: world
                .networks
                .iter()
                .filter(|(_, (host, _))| *host == names.host)
                .map(|(n, (_, subnet))| (n.clone(), subnet.clone()))
                .collect(),
            volumes: world
                .volumes
                .iter()
                .filter(|(_, (host, _))| *host == names.host)
                .map(|(n, (_, v))| (n.clone(), v.clone()))
                .collect(),
            // Everything here bears labels.
            foreign: BTreeSet::new(),
        }))
    }

    fn ensure_network<'a>(
        &'a self,
        names: &'a Names,
        name: &'a str,
        subnet: Option<&'a str>,
        _internal: bool,
    ) -> Boxed<'a, Done<()>> {
        ready(self.change(format!("network {name}")).and_then(|mut world| {
            if world.networks.contains_key(name) {
                return Ok(());
            }
            let subnet = subnet.unwrap_or_default().to_owned();
            if world.taken_subnets.contains(&subnet) {
                return Err(RuntimeError::SubnetTaken { name: name.into(), subnet });
            }
            world.taken_subnets.insert(subnet.clone());
            world.networks.insert(name.into(), (names.host, subnet));
            Ok(())
        }))
    }

    fn ensure_volume<'a>(
        &'a self,
        names: &'a Names,
        name: &'a str,
        instance: &'a Name,
        purpose: VolumePurpose,
    ) -> Boxed<'a, Done<()>> {
        ready(self.change(format!("volume {name}")).map(|mut world| {
            let seen = VolumeSeen { birth: format!("T{}", world.calls), instance: instance.clone(), purpose };
            world.volumes.entry(name.into()).or_insert((names.host, seen));
        }))
    }

    fn remove_volume<'a>(&'a self, _names: &'a Names, name: &'a str) -> Boxed<'a, Done<()>> {
        ready(self.change(format!("remove volume {name}")).and_then(|mut world| {
            if world.containers.values().any(|m| m.seen.volumes.contains(name)) {
                let source = "in use".into();
                return Err(RuntimeError::Failed { act: "remove", name: name.into(), source });
            }
            world.volumes.remove(name);
            world.files.remove(name);
            Ok(())
        }))
    }

    fn put_files<'a>(
        &'a self,
        _names: &'a Names,
        _image: &'a str,
        volume: &'a str,
        files: &'a [File],
    ) -> Boxed<'a, Done<()>> {
        ready(self.change(format!("put into {volume}")).and_then(|mut world| {
            if !world.volumes.contains_key(volume) {
                return Err(not_found(volume));
            }
            let there = world.files.entry(volume.into()).or_default();
            there.extend(files.iter().map(|f| (f.name.clone(), f.bytes.clone())));
            Ok(())
        }))
    }

    fn create_container<'a>(
        &'a self,
        names: &'a Names,
        place: Place<'a>,
        spec: &'a ContainerSpec,
    ) -> Boxed<'a, Done<()>> {
        let what = format!("create {}", names.container(place.instance, place.replica));
        Box::pin(async move {
            self.while_stuck(&what).await;
            self.change(what).and_then(|mut world| world.create(names, place, spec))
        })
    }

    fn name_container<'a>(&'a self, _names: &'a Names, _instance: &'a Name, container: &'a str) -> Boxed<'a, Done<()>> {
        ready(self.change(format!("name {container}")).and_then(|mut world| {
            world.container(container)?.seen.named = true;
            Ok(())
        }))
    }

    fn connect_outside<'a>(&'a self, names: &'a Names, container: &'a str) -> Boxed<'a, Done<()>> {
        ready(self.change(format!("connect {container}")).and_then(|mut world| {
            if !world.networks.contains_key(&names.outside()) {
                return Err(not_found(&names.outside()));
            }
            world.container(container)?.seen.outside = true;
            Ok(())
        }))
    }

    fn start_container<'a>(&'a self, container: &'a str) -> Boxed<'a, Done<()>> {
        ready(self.change(format!("start {container}")).and_then(|mut world| {
            let calls = world.calls;
            let image = world.container(container)?.spec.image_id.clone();
            if world.refused.contains(&image) {
                let (act, name, source) = ("start", container.to_owned(), "no such command".into());
                return Err(RuntimeError::Refused { act, name, source });
            }
            if let Some(port) = world.ports_taken.get(&image).cloned() {
                return Err(RuntimeError::PortTaken { name: container.to_owned(), port: Some(port) });
            }
            let crashes =
                world.crashing.contains(&image) || world.crashing_only.contains(&(image, container.to_owned()));
            let seen = &mut world.container(container)?.seen;
            seen.state = if crashes { ContainerState::Restarting } else { ContainerState::Running };
            seen.exit_code = if crashes { 7 } else { 0 };
            seen.restarts = u32::from(crashes);
            seen.started_at = format!("T{calls}");
            Ok(())
        }))
    }

    fn stop_container<'a>(&'a self, container: &'a str) -> Boxed<'a, Done<()>> {
        Box::pin(async move {
            let name = self.world().container(container).map(|m| m.seen.name.clone()).unwrap_or_default();
            self.while_stuck(&name).await;
            let mut world = self.change(format!("stop {container}"))?;
            if let Ok(made) = world.container(container) {
                made.seen.state = ContainerState::Exited;
            }
            Ok(())
        })
    }

    fn remove_container<'a>(&'a self, container: &'a str) -> Boxed<'a, Done<()>> {
        ready(self.change(format!("remove {container}")).and_then(|mut world| {
            let Some(key) = world.key(container) else { return Ok(()) };
            if world.containers[&key].seen.state == ContainerState::Running {
                let source = "it runs".into();
                return Err(RuntimeError::Failed { act: "remove", name: key, source });
            }
            world.containers.remove(&key);
            Ok(())
        }))
    }

    fn signal<'a>(&'a self, container: &'a str, _signal: Signal) -> Boxed<'a, Done<()>> {
        ready(self.change(format!("signal {container}")).and_then(|mut w| w.container(container).map(|_| ())))
    }

    fn cpu_time_ns<'a>(&'a self, container: &'a str) -> Boxed<'a, Done<u64>> {
        ready(self.world().container(container).map(|m| m.cpu_time_ns))
    }

    fn read_files<'a>(&'a self, container: &'a str, folder: &'a str) -> Boxed<'a, Done<BTreeMap<String, Vec<u8>>>> {
        let mut world = self.world();
        let mount = world.container(container).map(|m| m.spec.mounts.iter().find(|m| m.path == folder).cloned());
        ready(mount.map(|m| m.and_then(|m| world.files.get(&m.volume).cloned()).unwrap_or_default()))
    }

    fn digest_files<'a>(&'a self, container: &'a str, folder: &'a str) -> Boxed<'a, Done<BTreeMap<String, Digest>>> {
        let files = self.read_files(container, folder);
        Box::pin(async { Ok(files.await?.into_iter().map(|(name, bytes)| (name, Digest::of(&bytes))).collect()) })
    }

    fn find_image<'a>(&'a self, reference: &'a str) -> Boxed<'a, Done<Option<ImageSeen>>> {
        ready(Ok(self.world().images.get(reference).cloned()))
    }

    fn resolve_image<'a>(
        &'a self,
        reference: &'a str,
        login: Option<&'a Login>,
        meter: &'a Meter,
    ) -> Boxed<'a, Done<ImageSeen>> {
        Box::pin(async move {
            self.while_stuck(&format!("pull {reference}")).await;
            let registry = reference.split('/').next().unwrap_or_default().to_owned();
            let wanted = self.world().accounts.get(&registry).cloned();
            if wanted.is_some_and(|w| login.is_none_or(|l| (&l.username, &l.password) != (&w.0, &w.1))) {
                let source = "unauthorized".into();
                return Err(RuntimeError::Denied { reference: reference.into(), registry, source });
            }
            let sent = self.world().elsewhere.get(reference).cloned();
            if let Some(seen) = sent {
                self.world().images.insert(reference.into(), seen);
            }
            loop {
                let (found, coming) = {
                    let world = self.world();
                    (world.images.get(reference).cloned(), world.coming.get(reference).copied())
                };
                let missing =
                    || RuntimeError::ImageMissing { reference: reference.into(), source: "no registry".into() };
                let Some((done, total)) = coming else { return found.ok_or_else(missing) };
                meter.part("all", done, total);
                tokio::task::yield_now().await;
            }
        })
    }

    fn load_image<'a>(&'a self, tar: &'a Path, reference: &'a str, _: &'a Meter) -> Boxed<'a, Done<ImageSeen>> {
        ready(self.change(format!("load {reference}")).map(|mut w| {
            // The file's name is its digest: what is in it does not matter here.
            let name = tar.file_name().unwrap_or_default().to_string_lossy();
            let seen = ImageSeen { id: format!("sha256:loaded-{name}"), ..ImageSeen::default() };
            w.images.insert(reference.into(), seen.clone());
            seen
        }))
    }

    fn tag_image<'a>(&'a self, image: &'a str, reference: &'a str) -> Boxed<'a, Done<()>> {
        ready(self.change(format!("tag {reference}")).map(|mut w| {
            if let Some(seen) = w.images.values().find(|i| i.id == image).cloned() {
                w.images.insert(reference.into(), seen);
            }
        }))
    }

    fn remove_image<'a>(&'a self, image: &'a str, reference: &'a str) -> Boxed<'a, Done<bool>> {
        let (names, named) = {
            let world = self.world();
            let names = world.images.values().filter(|i| i.id == image).count();
            (names, world.images.get(reference).is_some_and(|i| i.id == image))
        };
        if names > 1 && named {
            let taken = self.change(format!("take the name {reference}"));
            return ready(taken.map(|mut w| w.images.remove(reference).is_some()));
        }
        ready(self.change(format!("remove image {image}")).map(|mut w| {
            let used = w.containers.values().any(|c| c.spec.image_id == image);
            if !used {
                w.images.retain(|_, i| i.id != image);
            }
            !used
        }))
    }

    fn put_below<'a>(&'a self, container: &'a str, folder: &'a str, _: &'a [File]) -> Boxed<'a, Done<()>> {
        ready(self.change(format!("put files below {folder} of {container}")).map(|_| ()))
    }

    fn last_lines(&self, container: &str, tail: u32, _follow: bool) -> BoxStream<'static, Done<LogLine>> {
        let mut world = self.world();
        let Ok(image) = world.container(container).map(|m| m.spec.image_id.clone()) else {
            return stream::iter([Err(not_found(container))]).boxed();
        };
        let said = world.said.get(&image).cloned().unwrap_or_default();
        let skipped = said.len().saturating_sub(tail as usize);
        stream::iter(said.into_iter().skip(skipped).map(Ok)).boxed()
    }

    fn logs(&self, _container: &str, _since_s: i64) -> BoxStream<'static, Done<LogLine>> {
        stream::empty().boxed()
    }

    fn events(&self, _host: HostId) -> BoxStream<'static, ()> {
        stream::pending().boxed()
    }
}
