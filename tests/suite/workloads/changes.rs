//! Changes that cannot work: each ends in the right status, and what worked serves, with its outage measured.
use crate::words::instance;
use redforge_shared::wire::pb;
use redforge_tests::{
    agent::TestAgent,
    ctl::Ctl,
    engine::{self, image},
    hub::TestHub,
    operator::Operator,
    place::{free_port, text},
    visitor::Visitor,
    wait::{eventually, when},
};
use std::{net::TcpListener, time::Duration};

/// Says its version to everybody who comes to a published port.
struct Server {
    image: String,
    port: u16,
    says: &'static str,
    listens: u16,
    more: &'static str,
}

impl Server {
    fn new(port: u16) -> Self {
        Self { image: image("busybox"), port, says: "one", listens: 8080, more: "" }
    }

    fn manifest(&self) -> String {
        let Self { image, port, says, listens, more } = self;
        let more = format!(
            "  ports:\n    - {{container: 8080, host: {port}, address: 127.0.0.1}}\n{more}  container:\n    command: \
             [sh, -c, \"trap 'exit 0' TERM; nc -ll -p {listens} -e echo {says} & wait\"]\n    probe: {{tcp: {{port: 8080}}}}\n"
        );
        instance("press-1", "web", "container", image, &more)
    }
}

/// Waits until the agent remembers as good what runs: only then is there something to go back to.
pub(super) async fn remembered(agent: &TestAgent, names: &[&str]) {
    let path = agent.state().join("ledger.db");
    eventually("what runs is remembered as good", async || {
        let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY | rusqlite::OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let c = rusqlite::Connection::open_with_flags(&path, flags).map_err(|e| e.to_string())?;
        let mut rows = c.prepare("SELECT key FROM memory WHERE kind = 'last_good'").map_err(|e| e.to_string())?;
        let known = rows.query_map([], |r| r.get::<_, String>(0)).map_err(|e| e.to_string())?;
        let known: Vec<String> = known.filter_map(Result::ok).collect();
        when(names.iter().all(|n| known.iter().any(|k| k == n)), known)
    })
    .await;
}

async fn reason(operator: &mut Operator, name: &str, reason: pb::StatusReason) -> pb::InstanceStatus {
    operator.instance_when("press-1", name, &format!("{name} says {reason:?}"), |s| s.reason() == reason).await
}

/// A host whose first version of `web` answers a visitor, and is remembered as good.
struct Stage {
    agent: TestAgent,
    operator: Operator,
    visitor: Visitor,
    port: u16,
    hub: TestHub,
}

impl Stage {
    async fn set() -> Self {
        let hub = TestHub::start().await;
        let mut agent = TestAgent::prepare("press-1");
        agent.env.push(("REDFORGE_EDGE__RUNTIME__START_DEADLINE_S".into(), "10".into()));
        agent.enroll_at(&hub).await;
        agent.up().await;
        let mut operator = hub.operator().await;
        let port = free_port();
        operator.apply(&Server::new(port).manifest()).await;
        operator.running("press-1", "web").await;
        let stage = Self { agent, operator, visitor: Visitor::at(port), port, hub };
        stage.one_answers().await;
        remembered(&stage.agent, &["web"]).await;
        stage.visitor.longest_outage();
        stage
    }

    fn good(&self) -> Server {
        Server::new(self.port)
    }

    async fn one_answers(&self) {
        eventually("what worked answers", async || when(self.visitor.said() == "one", self.visitor.said())).await;
    }

    /// Id and start of the container.
    fn run(&self) -> String {
        engine::inspect(&self.agent.container("web").expect("there"), "{{.Id}} {{.State.StartedAt}}")
    }

    /// Prints for how long nobody answered since the last time, and asserts that it was no longer than this.
    fn outage(&self, what: &str, most: Duration) {
        let outage = self.visitor.longest_outage();
        println!("outage: {what}: {} ms", outage.as_millis());
        assert!(outage < most, "{what}: {outage:?}");
        assert_eq!(self.visitor.said(), "one");
    }
}

/// Nobody noticed: no more than what a loaded machine does to anybody.
const UNNOTICED: Duration = Duration::from_millis(2_500);

#[tokio::test]
async fn docker_a_change_that_cannot_be_made_is_refused_by_name_and_what_serves_is_not_touched() {
    let mut stage = Stage::set().await;
    let first = stage.run();

    // An image that no registry has.
    stage.operator.apply(&Server { image: "localhost:1/nothing:1".into(), ..stage.good() }.manifest()).await;
    let status = reason(&mut stage.operator, "web", pb::StatusReason::ImageMissing).await;
    assert_eq!((status.phase(), status.sync()), (pb::Phase::Running, pb::Sync::OutOfDate));
    assert_eq!(stage.run(), first);
    stage.outage("bad image", UNNOTICED);

    // A port that another program holds.
    let other = free_port();
    let holder = TcpListener::bind(("127.0.0.1", other)).expect("it is free");
    stage.operator.apply(&Server { port: other, says: "two", ..stage.good() }.manifest()).await;
    let status = reason(&mut stage.operator, "web", pb::StatusReason::PreflightRefused).await;
    let found = status.preflight.expect("typed");
    let finding = found.findings.iter().find(|f| f.check() == pb::PreflightCheck::Port).expect("looked at");
    assert_eq!((finding.needed, found.verdict()), (Some(other.into()), pb::PreflightVerdict::Refused));
    told_everywhere(&stage, other);
    assert_eq!(stage.run(), first);
    stage.outage("port clash", UNNOTICED);
    stage.operator.apply(&stage.good().manifest()).await;
    stage.operator.running("press-1", "web").await;
    drop(holder);
    assert_eq!(stage.run(), first, "asked for again, it was never touched");

    // More memory than the host has.
    let more = "  resources: {memory: 900Ti}\n";
    stage.operator.apply(&Server { more, says: "two", ..stage.good() }.manifest()).await;
    let refused = |s: &pb::InstanceStatus| s.reason() == pb::StatusReason::PreflightRefused && s.names == ["Memory"];
    stage.operator.instance_when("press-1", "web", "the memory is refused", refused).await;
    assert_eq!(stage.run(), first);

    // Less room on the disk than has to stay free: nothing is fetched, and the containers outlive the agent.
    stage.agent.kill9();
    stage.agent.env.push(("REDFORGE_EDGE__RUNTIME__DISK_HEADROOM_BYTES".into(), (1_u64 << 60).to_string()));
    stage.agent.up().await;
    stage.operator.apply(&Server { image: "localhost:1/nothing:2".into(), ..stage.good() }.manifest()).await;
    let disk = |s: &pb::InstanceStatus| {
        let findings = s.preflight.iter().flat_map(|p| &p.findings);
        findings.filter(|f| f.check() == pb::PreflightCheck::Disk).map(|f| (f.needed, f.available)).next()
    };
    let refused =
        |s: &pb::InstanceStatus| s.reason() == pb::StatusReason::PreflightRefused && disk(s) == Some((None, Some(0)));
    stage.operator.instance_when("press-1", "web", "the disk is too small", refused).await;
    assert_eq!(stage.run(), first);
    stage.outage("too little disk", UNNOTICED);
}

/// Lists, JSON and the status at the machine name the port and who holds it.
fn told_everywhere(stage: &Stage, port: u16) {
    let words = format!("port {port}/tcp is held by another program");
    let ctl = Ctl::new(&stage.hub);
    let shown = ctl.run(&["get", "instances"]).good();
    assert!(shown.contains(&format!("PreflightRefused: {words}")), "{shown}");
    let shown = ctl.run(&["get", "instances", "-o", "json"]).json().to_string();
    assert!(shown.contains(r#""check":"Port""#) && shown.contains(&format!("\"needed\":{port}")), "{shown}");
    let shown = text(&stage.agent.status(&[]));
    assert!(shown.contains(&words) && shown.contains("what runs goes on"), "{shown}");
}

#[tokio::test]
async fn docker_a_version_that_does_not_work_makes_way_for_what_worked() {
    let mut stage = Stage::set().await;
    let back = |s: &pb::InstanceStatus| s.sync() == pb::Sync::RolledBack;

    // One that never listens.
    stage.operator.apply(&Server { says: "two", listens: 9, ..stage.good() }.manifest()).await;
    let status = stage.operator.instance_when("press-1", "web", "it went back", back).await;
    assert_eq!((status.reason(), status.late()), (pb::StatusReason::ProbeFailed, pb::ChangeStep::Healthy));
    assert_eq!(status.health(), pb::Health::Healthy);
    stage.one_answers().await;
    stage.outage("unhealthy new version, deadline 10 s, one port for both", Duration::from_secs(45));

    // One that takes more memory than it may, again and again; and one that has nothing to go back to.
    let eater = |name: &str, more: &str| {
        let more = format!("  resources: {{memory: 16Mi}}\n{more}  container:\n    command: [tail, /dev/zero]\n");
        instance("press-1", name, "container", &image("busybox"), &more)
    };
    let ports = format!("  ports:\n    - {{container: 8080, host: {}, address: 127.0.0.1}}\n", stage.port);
    stage.operator.apply(&(eater("web", &ports) + &eater("eater", ""))).await;
    let rests = |s: &pb::InstanceStatus| s.phase() == pb::Phase::Crashed && s.next_start_at.is_some();
    let status = stage.operator.instance_when("press-1", "eater", "it has crashed, and rests", rests).await;
    assert_eq!((status.reason(), status.exit_code), (pb::StatusReason::OutOfMemory, 137));
    assert!(status.restarts >= 3 && status.health() == pb::Health::Error, "{status:?}");
    let out_of_memory = |s: &pb::InstanceStatus| back(s) && s.reason() == pb::StatusReason::OutOfMemory;
    stage.operator.instance_when("press-1", "web", "it went back for want of memory", out_of_memory).await;
    stage.one_answers().await;
    stage.outage("out of memory in a loop, one port for both", Duration::from_secs(40));
}
