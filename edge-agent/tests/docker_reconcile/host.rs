//! A host with its agent's reconciler on the real engine, gone with the value; and the instances that tests want on it.
use redforge_edge::{
    db::ledger::Ledger,
    reconcile::{Deps, Reconciler, clean_up::CleanUp, deadlines::Deadlines, preflight::Limits},
    runtime::{BrokerEndpoint, BrokersHeard, LogSource, Runtime as _, docker::Docker, names::Names},
};
use redforge_shared::{
    clock::SystemClock,
    daemon::{Pulse, Tasks},
    desired::{Container, DesiredState, InstanceSpec, Mosquitto, NodeRed, SCHEMA, Workload},
    flows::{self, Flows},
    ids::{Digest, HostId, Name},
    policy::Policy,
    report::{Health, HostStatus, InstanceStatus, Phase, Sync},
};
use serde_json::json;
use std::{process::Command, sync::Arc, time::Duration};
use tokio::sync::watch;

pub const DEADLINE: Duration = Duration::from_secs(90);

/// Runs the docker client and gives back what it printed.
pub fn docker(args: &[&str]) -> String {
    let out = Command::new("docker").args(args).output().expect("the docker client runs");
    assert!(out.status.success(), "docker {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).trim().to_owned()
}

/// [`Host::locks_of`] of a container that may do nothing.
pub const LOCKED: &str = "0000000000000000 0000000000000000 1";

/// Is it podman that answers? What it says of a container differs from Docker in words.
pub fn is_podman() -> bool {
    docker(&["version", "--format", "{{json .Server.Components}}"]).contains("Podman")
}

/// Waits until it is so.
pub async fn eventually(what: &str, mut so: impl FnMut() -> bool) {
    let began = std::time::Instant::now();
    while !so() {
        assert!(began.elapsed() < DEADLINE, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The project's image of this kind.
pub fn image(kind: &str) -> String {
    let repository = format!("redforge.local/{kind}");
    let list = docker(&["images", "--format", "{{.Repository}}:{{.Tag}}", &repository]);
    list.lines().next().unwrap_or_else(|| panic!("no image {repository} here: build the images first")).to_owned()
}

pub fn name(s: &str) -> Name {
    s.parse().expect("a name")
}

/// A host with its agent's reconciler, on the real engine.
pub struct Host {
    pub id: HostId,
    pub names: Names,
    pub ledger: Ledger,
    pub dir: tempfile::TempDir,
    pub status: watch::Receiver<HostStatus>,
    pub brokers: watch::Receiver<Vec<BrokerEndpoint>>,
    pub logs: watch::Receiver<Vec<LogSource>>,
    pub tasks: Tasks,
    pub generation: u64,
}

impl Host {
    /// Without anybody who collects: no flow waits for that.
    pub async fn start() -> Self {
        Self::start_hearing(None).await
    }

    /// With what the test collects.
    pub async fn start_hearing(heard: Option<watch::Receiver<BrokersHeard>>) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let mut id = [0; 16];
        aws_lc_rs::rand::fill(&mut id).expect("random bytes");
        let id = HostId(uuid::Builder::from_random_bytes(id).into_uuid());
        // By this the next run finds what this one leaves when it dies (packaging/test/place.sh).
        std::fs::write(dir.path().join("host-id"), id.to_string()).expect("own folder");
        let ledger = Ledger::open(&dir.path().join("ledger.db")).await.expect("a ledger");
        let Running { status, brokers, logs, tasks } = run(id, &ledger, &dir, heard);
        Self { id, names: Names::new(id), ledger, dir, status, brokers, logs, tasks, generation: 0 }
    }

    /// As after the agent's process died and came again.
    pub async fn restart_agent(&mut self, heard: Option<watch::Receiver<BrokersHeard>>) {
        self.tasks.stop_token().cancel();
        let Running { status, brokers, logs, tasks } = run(self.id, &self.ledger, &self.dir, heard);
        (self.status, self.brokers, self.logs, self.tasks) = (status, brokers, logs, tasks);
    }

    pub async fn want(&mut self, mut instances: Vec<InstanceSpec>) {
        instances.sort_by(|a, b| a.name.cmp(&b.name));
        let state = DesiredState {
            schema: SCHEMA,
            host: self.id,
            host_name: name("testhost"),
            site: name("lab"),
            policy: Policy::Open,
            instances,
        };
        let canonical = state.canonical().expect("a document");
        self.generation += 1;
        let accepted = self.ledger.accept(self.generation, canonical.bytes.into(), canonical.sha256).await;
        accepted.expect("a valid document");
    }

    /// Lays a flow set where the link would.
    pub async fn bring(&self, nodes: serde_json::Value) -> Digest {
        let (flows, _) = Flows::from_value(nodes).expect("flows");
        let tar = flows::pack(&flows, &[]);
        let digest = Digest::of(&tar);
        let folder = self.dir.path().join("blobs/sha256");
        std::fs::create_dir_all(&folder).expect("a folder");
        std::fs::write(folder.join(digest.hex()), tar).expect("a file");
        self.ledger.have(digest).await.expect("noted");
        digest
    }

    /// Waits until the instance is so, of the generation that was wanted last.
    pub async fn until(&mut self, instance: &str, what: &str, so: impl Fn(&InstanceStatus) -> bool) -> InstanceStatus {
        let generation = self.generation;
        let mut status = self.status.clone();
        let found = tokio::time::timeout(DEADLINE, async {
            let is_so = |s: &HostStatus| {
                s.generation == generation && s.instances.iter().any(|i| i.name.as_str() == instance && so(i))
            };
            status.wait_for(is_so).await.expect("the reconciler runs").clone()
        })
        .await;
        let last = || format!("{instance} is not {what} in time: {:#?}", self.status.borrow().instances);
        let found = found.unwrap_or_else(|_| panic!("{}", last()));
        found.instances.into_iter().find(|i| i.name.as_str() == instance).expect("it was just seen")
    }

    pub async fn until_running(&mut self, instance: &str) -> InstanceStatus {
        let running =
            |i: &InstanceStatus| (i.phase, i.health, i.sync) == (Phase::Running, Health::Healthy, Sync::UpToDate);
        self.until(instance, "running", running).await
    }

    pub fn container(&self, instance: &str) -> String {
        self.names.container(&name(instance), 0)
    }

    pub fn inspect(&self, instance: &str, format: &str) -> String {
        docker(&["inspect", "--format", format, &self.container(instance)])
    }

    /// What the kernel lets the container's first process do: its capabilities and those it could get, and whether it may gain
    /// privileges. Engines tell the same in words of their own.
    pub fn locks_of(&self, instance: &str) -> String {
        let said = docker(&["exec", &self.container(instance), "cat", "/proc/1/status"]);
        let one =
            |name: &str| said.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(":\t")).unwrap_or("unknown");
        ["CapEff", "CapBnd", "NoNewPrivs"].map(one).join(" ")
    }

    /// Id and start of a container: equal as long as nobody touched it.
    pub fn run_of(&self, instance: &str) -> String {
        self.inspect(instance, "{{.Id}} {{.State.StartedAt}}")
    }

    pub async fn address(&self, instance: &str) -> std::net::IpAddr {
        let seen = Docker::new("/var/run/docker.sock").observe(&self.names).await.expect("the engine answers");
        let c = seen.containers.into_iter().find(|c| c.instance.as_str() == instance).expect("the container is there");
        c.address.expect("it has an address")
    }
}

struct Running {
    status: watch::Receiver<HostStatus>,
    brokers: watch::Receiver<Vec<BrokerEndpoint>>,
    logs: watch::Receiver<Vec<LogSource>>,
    tasks: Tasks,
}

fn run(
    id: HostId,
    ledger: &Ledger,
    dir: &tempfile::TempDir,
    brokers_heard: Option<watch::Receiver<BrokersHeard>>,
) -> Running {
    let reconciler = Reconciler::new(Deps {
        ledger: ledger.clone(),
        runtime: Arc::new(Docker::new("/var/run/docker.sock")),
        blobs: dir.path().join("blobs"),
        clock: Arc::new(SystemClock),
        host: id,
        pool: "10.231.64.0/18".parse().expect("a pool"),
        subnet: None,
        deadlines: Deadlines { healthy: Duration::from_secs(20), ..Deadlines::default() },
        limits: Limits::default(),
        gateway_port: 7462,
        brokers_heard,
        capacity: None,
        clean_up: CleanUp { enabled: true, min_age: Duration::from_secs(86_400), keep_data: None },
        disk_full: None,
        registries: Arc::default(),
        queues_heard: None,
    });
    let (status, brokers, logs) = (reconciler.status(), reconciler.brokers(), reconciler.logs());
    let tasks = Tasks::new();
    tasks.spawn("reconcile", reconciler.run(Pulse::default(), tasks.stop_token()));
    Running { status, brokers, logs, tasks }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.tasks.stop_token().cancel();
        let label = format!("label=redforge.host={}", self.id);
        for (list, remove) in [
            (&["ps", "-aq", "--filter"][..], &["rm", "-fv"][..]),
            (&["network", "ls", "-q", "--filter"], &["network", "rm"]),
            (&["volume", "ls", "-q", "--filter"], &["volume", "rm"]),
        ] {
            let found = docker(&[list, &[label.as_str()][..]].concat());
            let ids: Vec<_> = found.lines().collect();
            if !ids.is_empty() {
                // What another's hand removed at the same time is gone as well.
                drop(Command::new("docker").args(remove).args(ids).output());
            }
        }
    }
}

pub fn spec(instance: &str, image: String, workload: Workload) -> InstanceSpec {
    InstanceSpec::bare(name(instance), image, workload)
}

pub fn sleeper(instance: &str) -> InstanceSpec {
    let command = ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1; done"].map(str::to_owned).to_vec();
    spec(instance, image("busybox"), Workload::Container(Container { command, probe: None, broker: None }))
}

pub fn broker(instance: &str) -> InstanceSpec {
    spec(instance, image("mosquitto"), Workload::Mosquitto(Mosquitto::default()))
}

pub fn node_red(instance: &str, flow_set: Digest) -> InstanceSpec {
    let workload = NodeRed { flow_set: Some(flow_set), ..NodeRed::default() };
    let mut spec = spec(instance, image("node-red"), Workload::NodeRed(workload));
    spec.resources.memory_bytes = Some(320 << 20);
    spec
}

/// Answers GET /said with a text, and publishes it to the host's broker.
pub fn saying(text: &str) -> serde_json::Value {
    json!([
        {"id": "t1", "type": "tab", "label": "said"},
        {"id": "b1", "type": "mqtt-broker", "name": "site", "broker": "${REDFORGE_MQTT_HOST}", "port": "1883"},
        {"id": "n1", "type": "http in", "z": "t1", "url": "/said", "method": "get", "x": 1, "y": 1, "wires": [["n2"]]},
        {"id": "n2", "type": "change", "z": "t1", "x": 2, "y": 1, "wires": [["n3", "n4"]],
         "rules": [{"t": "set", "p": "payload", "pt": "msg", "to": text, "tot": "str"}]},
        {"id": "n3", "type": "http response", "z": "t1", "x": 3, "y": 1, "wires": []},
        {"id": "n4", "type": "mqtt out", "z": "t1", "topic": "said", "qos": "1", "broker": "b1", "x": 3, "y": 2, "wires": []}
    ])
}

pub async fn get(address: std::net::IpAddr, path: &str) -> String {
    use http_body_util::BodyExt;
    use redforge_edge::workload::http;
    let answer = http::send(address, 1880, hyper::Method::GET, path, &[], None).await.expect("an answer");
    let body = answer.into_body().collect().await.expect("a body").to_bytes();
    String::from_utf8_lossy(&body).into_owned()
}
