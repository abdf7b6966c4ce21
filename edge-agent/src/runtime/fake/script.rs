//! What a test makes the fake engine do: fail, crash, hang, hold what others own; and what it looks at afterwards.
use super::*;
use crate::runtime::LogStream;

impl FakeRuntime {
    /// Every `n`th changing call fails, none with `None`.
    pub fn fail_every(&self, n: Option<u64>) {
        self.world().fail_every = n;
    }

    /// The engine is gone, or back.
    pub fn go_away(&self, away: bool) {
        self.world().away = away;
    }

    /// What changed the engine since the last call of this.
    pub fn take_journal(&self) -> Vec<String> {
        std::mem::take(&mut self.world().journal)
    }

    /// Makes a subnet unusable.
    pub fn take_subnet(&self, subnet: &str) {
        self.world().taken_subnets.insert(subnet.into());
    }

    /// Another image lies behind the reference from now on.
    pub fn retag(&self, reference: &str, id: &str) {
        let seen = ImageSeen { id: id.into(), ..ImageSeen::default() };
        self.world().images.insert(reference.into(), seen);
    }

    /// A registry has so much of the image sent; whole when both are equal.
    pub fn send_image(&self, reference: &str, done: u64, total: u64) {
        let mut world = self.world();
        if done == total {
            world.coming.remove(reference);
            let seen = ImageSeen { id: format!("sha256:{reference}"), ..ImageSeen::default() };
            world.images.insert(reference.into(), seen);
        } else {
            world.coming.insert(reference.into(), (done, total));
        }
    }

    /// Containers of this reference's image end by themselves at once, or no longer do.
    pub fn crash_image(&self, reference: &str, crashes: bool) {
        let mut world = self.world();
        let id = world.images[reference].id.clone();
        if crashes {
            world.crashing.insert(id)
        } else {
            world.crashing.remove(&id)
        };
    }

    /// Of this reference's image the container of this name ends by itself at once.
    pub fn crash_only(&self, reference: &str, container: &str) {
        let mut world = self.world();
        let id = world.images[reference].id.clone();
        world.crashing_only.insert((id, container.into()));
    }

    /// Containers of this reference's image print these lines, a second apart.
    pub fn image_says(&self, reference: &str, lines: &[&str]) {
        let mut world = self.world();
        let id = world.images[reference].id.clone();
        let line = |(n, text): (usize, &&str)| LogLine {
            at_ns: n as i64 * 1_000_000_000,
            stream: LogStream::Stdout,
            bytes: bytes::Bytes::copy_from_slice(text.as_bytes()),
            partial: false,
        };
        world.said.insert(id, lines.iter().enumerate().map(line).collect());
    }

    /// When the container was started, as a real engine writes it.
    pub fn set_started(&self, container: &str, at: &str) {
        self.world().containers.get_mut(container).expect("the container is there").seen.started_at = at.into();
    }

    /// The engine refuses to start containers of this reference's image.
    pub fn refuse_image(&self, reference: &str) {
        let mut world = self.world();
        let id = world.images[reference].id.clone();
        world.refused.insert(id);
    }

    /// Containers of this reference's image publish a port that somebody has.
    pub fn take_port(&self, reference: &str, port: &str) {
        let mut world = self.world();
        let id = world.images[reference].id.clone();
        world.ports_taken.insert(id, port.into());
    }

    /// A registry has the image; the host does not.
    pub fn bring_image_elsewhere(&self, reference: &str) {
        let seen = ImageSeen { id: format!("sha256:{reference}"), ..ImageSeen::default() };
        self.world().elsewhere.insert(reference.into(), seen);
    }

    /// A registry gives images to this user only.
    pub fn lock_registry(&self, registry: &str, username: &str, password: &str) {
        self.world().accounts.insert(registry.into(), (username.into(), password.into()));
    }

    /// The machine it runs on.
    pub fn set_machine(&self, machine: EngineSeen) {
        self.world().machine = machine;
    }

    /// A registry has the image for these architectures only.
    pub fn set_architectures(&self, reference: &str, architectures: &[&str]) {
        let architectures = architectures.iter().map(|a| (*a).to_owned()).collect();
        self.world().architectures.insert(reference.into(), architectures);
    }

    /// An image comes to the host.
    pub fn bring_image(&self, reference: &str) {
        let seen = ImageSeen { id: format!("sha256:{reference}"), ..ImageSeen::default() };
        self.world().images.insert(reference.into(), seen);
    }

    /// A container ended by itself and was brought back by the engine.
    pub fn crash_again(&self, container: &str) {
        let mut world = self.world();
        let seen = &mut world.containers.get_mut(container).expect("the container is there").seen;
        (seen.state, seen.exit_code, seen.restarts) = (ContainerState::Restarting, 7, seen.restarts + 1);
    }

    /// Waits while this is stuck: a container's stop by its name, `create NAME`, `pull REFERENCE`.
    pub(super) async fn while_stuck(&self, what: &str) {
        // The sender lives as long as the engine.
        drop(self.stuck.subscribe().wait_for(|stuck| !stuck.contains(what)).await);
    }

    /// The container ignores SIGTERM and takes as long to end as the test wants.
    pub fn stick(&self, container: &str, stuck: bool) {
        self.stuck.send_if_modified(|s| if stuck { s.insert(container.into()) } else { s.remove(container) });
    }

    /// What a hand on the engine does to a container.
    pub fn set_state(&self, container: &str, state: ContainerState) {
        let mut world = self.world();
        world.containers.get_mut(container).expect("the container is there").seen.state = state;
    }

    /// The container has used this much CPU time more.
    pub fn use_cpu(&self, container: &str, ns: u64) {
        self.world().containers.get_mut(container).expect("the container is there").cpu_time_ns += ns;
    }

    /// Every container of every host with its state, by name.
    pub fn containers(&self) -> BTreeMap<String, (HostId, ContainerState, ContainerSpec)> {
        let made = |(name, m): (&String, &Made)| (name.clone(), (m.host, m.seen.state, m.spec.clone()));
        self.world().containers.iter().map(made).collect()
    }

    /// Every volume of every host with its purpose.
    pub fn volumes(&self) -> BTreeMap<String, VolumePurpose> {
        self.world().volumes.iter().map(|(n, (_, v))| (n.clone(), v.purpose)).collect()
    }
}
