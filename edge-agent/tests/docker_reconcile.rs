//! The reconciler on a real Docker engine: what was asked for is what Docker says, and what is not ours stays untouched.
//!
//! Each test has a host id of its own and removes what bears its label. Needs the project's images (`make images`).
use redforge_edge::{
    db::ledger::Ledger,
    reconcile::{Deps, Reconciler},
    runtime::{Runtime as _, docker::Docker, names::Names},
};
use redforge_shared::{
    clock::SystemClock,
    daemon::Tasks,
    desired::{
        Container, DesiredState, InstanceSpec, Model, Mosquitto, NodeRed, Ollama, Port, Probe, Protocol, Resources,
        SCHEMA, Workload,
    },
    flows::{self, Flows},
    ids::{Digest, HostId, Name},
    policy::Policy,
    report::{Health, HostStatus, InstanceStatus, Phase, Reason, Sync},
};
use serde_json::json;
use std::{collections::BTreeMap, process::Command, sync::Arc, time::Duration};
use tokio::sync::watch;

const DEADLINE: Duration = Duration::from_secs(90);

/// Runs the docker client and gives back what it printed.
fn docker(args: &[&str]) -> String {
    let out = Command::new("docker").args(args).output().expect("the docker client runs");
    assert!(out.status.success(), "docker {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).trim().to_owned()
}

/// The project's image of this kind.
fn image(kind: &str) -> String {
    let repository = format!("redforge.local/{kind}");
    let list = docker(&["images", "--format", "{{.Repository}}:{{.Tag}}", &repository]);
    list.lines().next().unwrap_or_else(|| panic!("no image {repository} here: build the images first")).to_owned()
}

fn name(s: &str) -> Name {
    s.parse().expect("a name")
}

/// A host with its agent's reconciler, on the real engine.
struct Host {
    id: HostId,
    names: Names,
    ledger: Ledger,
    dir: tempfile::TempDir,
    status: watch::Receiver<HostStatus>,
    tasks: Tasks,
    generation: u64,
}

impl Host {
    async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let mut id = [0; 16];
        aws_lc_rs::rand::fill(&mut id).expect("random bytes");
        let id = HostId(uuid::Builder::from_random_bytes(id).into_uuid());
        // By this the next run finds what this one leaves when it dies (packaging/test/place.sh).
        std::fs::write(dir.path().join("host-id"), id.to_string()).expect("own folder");
        let ledger = Ledger::open(&dir.path().join("ledger.db")).await.expect("a ledger");
        let (status, tasks) = run(id, &ledger, &dir);
        Self { id, names: Names::new(id), ledger, dir, status, tasks, generation: 0 }
    }

    /// As after the agent's process died and came again.
    async fn restart_agent(&mut self) {
        self.tasks.stop_token().cancel();
        (self.status, self.tasks) = run(self.id, &self.ledger, &self.dir);
    }

    async fn want(&mut self, mut instances: Vec<InstanceSpec>) {
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
    async fn bring(&self, nodes: serde_json::Value) -> Digest {
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
    async fn until(&mut self, instance: &str, what: &str, so: impl Fn(&InstanceStatus) -> bool) -> InstanceStatus {
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

    async fn until_running(&mut self, instance: &str) -> InstanceStatus {
        let running =
            |i: &InstanceStatus| (i.phase, i.health, i.sync) == (Phase::Running, Health::Healthy, Sync::UpToDate);
        self.until(instance, "running", running).await
    }

    fn container(&self, instance: &str) -> String {
        self.names.container(&name(instance), 0)
    }

    fn inspect(&self, instance: &str, format: &str) -> String {
        docker(&["inspect", "--format", format, &self.container(instance)])
    }

    /// Id and start of a container: equal as long as nobody touched it.
    fn run_of(&self, instance: &str) -> String {
        self.inspect(instance, "{{.Id}} {{.State.StartedAt}}")
    }

    async fn address(&self, instance: &str) -> std::net::IpAddr {
        let seen = Docker::new("/var/run/docker.sock").observe(&self.names).await.expect("the engine answers");
        let c = seen.containers.into_iter().find(|c| c.instance.as_str() == instance).expect("the container is there");
        c.address.expect("it has an address")
    }
}

fn run(id: HostId, ledger: &Ledger, dir: &tempfile::TempDir) -> (watch::Receiver<HostStatus>, Tasks) {
    let reconciler = Reconciler::new(Deps {
        ledger: ledger.clone(),
        runtime: Arc::new(Docker::new("/var/run/docker.sock")),
        blobs: dir.path().join("blobs"),
        clock: Arc::new(SystemClock),
        host: id,
        pool: "10.231.64.0/18".parse().expect("a pool"),
        subnet: None,
        start_deadline: Duration::from_secs(20),
    });
    let (status, tasks) = (reconciler.status(), Tasks::new());
    tasks.spawn("reconcile", reconciler.run(tasks.stop_token()));
    (status, tasks)
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

fn spec(instance: &str, image: String, workload: Workload) -> InstanceSpec {
    InstanceSpec {
        name: name(instance),
        image,
        workload,
        env: BTreeMap::new(),
        resources: Resources::default(),
        volumes: vec![],
        ports: vec![],
        egress: false,
        restart_nonce: String::new(),
        suspend: false,
        collect_logs: false,
    }
}

fn sleeper(instance: &str) -> InstanceSpec {
    let command = ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1; done"].map(str::to_owned).to_vec();
    spec(instance, image("busybox"), Workload::Container(Container { command, probe: None }))
}

fn broker(instance: &str) -> InstanceSpec {
    spec(instance, image("mosquitto"), Workload::Mosquitto(Mosquitto::default()))
}

fn node_red(instance: &str, flow_set: Digest) -> InstanceSpec {
    let workload = NodeRed { flow_set: Some(flow_set), broker: None, ollama: None };
    let mut spec = spec(instance, image("node-red"), Workload::NodeRed(workload));
    spec.resources.memory_bytes = Some(320 << 20);
    spec
}

/// Answers GET /said with a text, and publishes it to the host's broker.
fn saying(text: &str) -> serde_json::Value {
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

async fn get(address: std::net::IpAddr, path: &str) -> String {
    use http_body_util::BodyExt;
    use redforge_edge::workload::http;
    let answer = http::send(address, 1880, hyper::Method::GET, path, &[], None).await.expect("an answer");
    let body = answer.into_body().collect().await.expect("a body").to_bytes();
    String::from_utf8_lossy(&body).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_limits_and_locks_are_read_back() {
    let mut host = Host::start().await;
    let mut wanted = sleeper("limited");
    wanted.resources = Resources { cpu_millicores: Some(250), memory_bytes: Some(64 << 20), pids: Some(40) };
    wanted.volumes = vec![redforge_shared::desired::Volume { name: name("keep"), path: "/keep".into() }];
    host.want(vec![wanted]).await;
    let status = host.until_running("limited").await;
    assert_eq!((status.memory_limit_bytes, status.cpu_limit_millicores), (64 << 20, 250));
    let format = "{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}} {{.HostConfig.PidsLimit}} {{.HostConfig.CapDrop}} \
                  {{.HostConfig.SecurityOpt}} {{.HostConfig.Privileged}} {{.HostConfig.RestartPolicy.Name}} \
                  {{.HostConfig.LogConfig.Type}} {{index .HostConfig.LogConfig.Config \"max-size\"}}";
    assert_eq!(
        host.inspect("limited", format),
        "67108864 250000000 40 [ALL] [no-new-privileges:true] false unless-stopped json-file 10m"
    );
    let internal = docker(&["network", "inspect", "--format", "{{.Internal}}", host.names.network()]);
    assert_eq!(internal, "true");
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_what_is_right_is_not_touched_and_what_stops_comes_back() {
    let mut host = Host::start().await;
    host.want(vec![sleeper("steady")]).await;
    host.until_running("steady").await;
    let before = host.run_of("steady");
    // A new generation that changes nothing, and a new agent process.
    let mut other = sleeper("other");
    other.suspend = true;
    host.want(vec![sleeper("steady"), other]).await;
    host.until("other", "stopped", |i| i.phase == Phase::Stopped).await;
    host.restart_agent().await;
    host.until_running("steady").await;
    assert_eq!(host.run_of("steady"), before, "an equal container was touched");
    docker(&["stop", "-t", "1", &host.container("steady")]);
    host.until("steady", "back", |i| i.phase == Phase::Running && host_run(&i.container_id) != before).await;
    let mut again = sleeper("steady");
    again.restart_nonce = "1".into();
    let id = host.inspect("steady", "{{.Id}}");
    host.want(vec![again]).await;
    host.until("steady", "new", |i| i.phase == Phase::Running && i.container_id.as_ref() != Some(&id)).await;
    // What is no longer wanted goes.
    host.want(vec![]).await;
    let mut status = host.status.clone();
    let gone = status.wait_for(|s| s.instances.is_empty() && s.generation == 4);
    drop(tokio::time::timeout(DEADLINE, gone).await.expect("in time").expect("it runs"));
    let label = format!("label=redforge.host={}", host.id);
    assert_eq!(docker(&["ps", "-aq", "--filter", &label]), "");
}

/// Id and start of a container by its id.
fn host_run(id: &Option<String>) -> String {
    let Some(id) = id else { return String::new() };
    docker(&["inspect", "--format", "{{.Id}} {{.State.StartedAt}}", id])
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_a_foreign_container_of_our_name_is_named_and_not_touched() {
    let mut host = Host::start().await;
    let taken = host.container("taken");
    let id = docker(&["run", "-d", "--name", &taken, &image("busybox"), "sleep", "1000"]);
    let before = docker(&["inspect", "--format", "{{.Id}} {{.State.StartedAt}}", &id]);
    host.want(vec![sleeper("taken"), sleeper("free")]).await;
    let status = host.until("taken", "refused", |i| i.reason == Some(Reason::ForeignObject)).await;
    host.until_running("free").await;
    let after = docker(&["inspect", "--format", "{{.Id}} {{.State.StartedAt}}", &id]);
    docker(&["rm", "-f", &id]);
    assert_eq!((status.health, status.sync, status.names), (Health::Error, Sync::Failed, vec![taken]));
    assert_eq!(after, before);
    // The name is free again: no operator needs to say so.
    host.until_running("taken").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_two_agents_on_one_engine_do_not_see_each_other() {
    let (mut one, mut two) = (Host::start().await, Host::start().await);
    one.want(vec![sleeper("same")]).await;
    one.until_running("same").await;
    let before = one.run_of("same");
    two.want(vec![sleeper("same")]).await;
    two.until_running("same").await;
    two.want(vec![]).await;
    let mut status = two.status.clone();
    drop(tokio::time::timeout(DEADLINE, status.wait_for(|s| s.generation == 2)).await.expect("in time"));
    assert_eq!(one.run_of("same"), before, "a container of another host was touched");
    let subnet =
        |h: &Host| docker(&["network", "inspect", "-f", "{{(index .IPAM.Config 0).Subnet}}", h.names.network()]);
    assert_ne!(subnet(&one), subnet(&two));
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_a_missing_image_and_a_refused_command_are_named() {
    let mut host = Host::start().await;
    let mut absent = sleeper("absent");
    absent.image = "redforge.local/no-such-image:0".into();
    let mut wrong = sleeper("wrong");
    wrong.workload = Workload::Container(Container { command: vec!["/no/such/command".into()], probe: None });
    host.want(vec![absent, wrong]).await;
    let status = host.until("absent", "missing its image", |i| i.reason == Some(Reason::ImageMissing)).await;
    assert_eq!(status.names, ["redforge.local/no-such-image:0"]);
    let status = host.until("wrong", "refused", |i| i.reason == Some(Reason::StartRefused)).await;
    assert_eq!((status.health, status.sync), (Health::Error, Sync::Failed));
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_ports_are_published_through_the_outside_network() {
    let mut host = Host::start().await;
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
    let mut web = spec(
        "web",
        image("busybox"),
        Workload::Container(Container {
            command: ["sh", "-c", "while :; do echo -e 'HTTP/1.0 200 OK\\r\\n\\r\\nhi' | nc -l -p 8080; done"]
                .map(str::to_owned)
                .to_vec(),
            probe: Some(Probe::Tcp { port: 8080 }),
        }),
    );
    web.ports = vec![Port {
        container: 8080,
        host: port,
        address: "127.0.0.1".parse().expect("an address"),
        protocol: Protocol::Tcp,
    }];
    host.want(vec![web]).await;
    host.until("web", "running", |i| i.phase == Phase::Running).await;
    let published = docker(&["port", &host.container("web")]);
    assert!(published.contains(&format!("127.0.0.1:{port}")), "{published}");
    let networks = host.inspect("web", "{{range $n, $_ := .NetworkSettings.Networks}}{{$n}} {{end}}");
    assert_eq!(networks, format!("{} {}", host.names.network(), host.names.outside()));
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_flows_run_change_drift_and_fail_by_name() {
    let mut host = Host::start().await;
    let first = host.bring(saying("one")).await;
    host.want(vec![broker("broker"), node_red("flows", first)]).await;
    host.until_running("broker").await;
    host.until_running("flows").await;
    let address = host.address("flows").await;
    assert_eq!(get(address, "/said").await, "one");
    let before = (host.run_of("flows"), host.run_of("broker"));
    let env = host.inspect("flows", "{{range .Config.Env}}{{println .}}{{end}}");
    for wanted in ["REDFORGE_MQTT_HOST=broker", "REDFORGE_MQTT_USER=flows", "REDFORGE_INSTANCE=flows", "FLOWS="] {
        assert!(env.lines().any(|l| l == wanted), "{wanted} is not in {env}");
    }

    // Hot: other flows in the same run of the same container.
    let second = host.bring(saying("two")).await;
    host.want(vec![broker("broker"), node_red("flows", second)]).await;
    host.until_running("flows").await;
    assert_eq!(get(address, "/said").await, "two");

    // A second user of the broker does not restart it.
    host.want(vec![broker("broker"), node_red("flows", second), node_red("more", first)]).await;
    host.until_running("more").await;
    host.until_running("broker").await;
    assert_eq!((host.run_of("flows"), host.run_of("broker")), before);
    let log = docker(&["logs", &host.container("more")]);
    let mut more = Command::new("docker");
    more.args(["logs", &host.container("broker")]);
    let log_broker = more.output().map(|o| String::from_utf8_lossy(&o.stderr).into_owned()).expect("a log");
    assert!(log_broker.contains("u'more'"), "the new user has not connected: {log_broker}\n{log}");

    // A node type that nobody has.
    let bad = host.bring(json!([{"id": "t", "type": "tab"}, {"id": "x", "type": "no-such-node", "z": "t", "x": 1, "y": 1, "wires": []}])).await;
    host.want(vec![broker("broker"), node_red("flows", bad)]).await;
    let status = host.until("flows", "missing types", |i| i.reason == Some(Reason::MissingTypes)).await;
    assert_eq!((status.phase, status.health, status.sync), (Phase::Starting, Health::Error, Sync::Failed));
    assert_eq!(status.names, ["no-such-node"]);
    assert_eq!((host.run_of("flows"), host.run_of("broker")), before);

    // Back, and an edit by hand is put back.
    host.want(vec![broker("broker"), node_red("flows", second)]).await;
    host.until_running("flows").await;
    let settings = docker(&["exec", &host.container("flows"), "cat", "/redforge/config/settings.js"]);
    let token = settings.split("token: \"").nth(1).and_then(|t| t.split('"').next()).expect("a token");
    let (edited, _) = Flows::from_value(saying("by hand")).expect("flows");
    redforge_edge::workload::node_red::deploy(address, token, &edited, true).await.expect("an edit");
    let drifted = |i: &InstanceStatus| i.sync == Sync::Drifted;
    host.until("flows", "drifted", drifted).await;
    host.until_running("flows").await;
    assert_eq!(get(address, "/said").await, "two");
    assert_eq!((host.run_of("flows"), host.run_of("broker")), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_a_flow_set_that_has_not_arrived_is_wanted_and_waited_for() {
    let mut host = Host::start().await;
    let (flows, _) = Flows::from_value(saying("late")).expect("flows");
    let digest = Digest::of(&flows::pack(&flows, &[]));
    host.want(vec![node_red("flows", digest)]).await;
    let status = host.until("flows", "waiting", |i| i.reason == Some(Reason::BlobMissing)).await;
    assert_eq!(status.names, [digest.to_string()]);
    assert_eq!(host.ledger.wanted().await.expect("the ledger answers"), [digest]);
    host.bring(saying("late")).await;
    host.until_running("flows").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_models_are_pulled_and_must_have_the_declared_digest() {
    let mut host = Host::start().await;
    let ollama = |models: Vec<Model>| spec("ollama", image("ollama-standin"), Workload::Ollama(Ollama { models }));
    let model = |digest: Digest| Model { name: "redforge-standin-embed".into(), digest };
    host.want(vec![ollama(vec![model(Digest::of(b"another"))])]).await;
    let status = host.until("ollama", "of another digest", |i| i.reason == Some(Reason::ModelDigest)).await;
    assert_eq!((status.health, status.names), (Health::Error, vec!["redforge-standin-embed".to_owned()]));
    let held = redforge_edge::workload::ollama::models(host.address("ollama").await).await.expect("an answer");
    let right: Digest = held["redforge-standin-embed:latest"].parse().expect("a digest");
    host.want(vec![ollama(vec![model(right)])]).await;
    host.until_running("ollama").await;
    let mut both = vec![model(right)];
    both.push(Model { name: "no-such-model".into(), digest: right });
    host.want(vec![ollama(both)]).await;
    let status = host.until("ollama", "missing a model", |i| i.reason == Some(Reason::ModelMissing)).await;
    assert_eq!(status.names, ["no-such-model"]);
}
