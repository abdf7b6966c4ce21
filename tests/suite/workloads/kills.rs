//! An agent that is killed at every step of a change: it converges, and what is equal is not touched.
use super::artifacts::{CHAT, Models, Strange};
use crate::words::{broker, idler, instance, node_red, speaking_flow};
use redforge_edge::reconcile::{bring, plan::model::DEEDS};
use redforge_shared::{
    flows::{Flows, pack_with},
    wire::pb,
};
use redforge_tests::{
    agent::TestAgent,
    ctl::Ctl,
    engine::{self, docker, image},
    hub::TestHub,
    node_red::NodeRed,
    operator::Operator,
    place::{Process, fault_binary},
    wait::{DEADLINE, eventually, when},
};
use std::{collections::BTreeSet, time::Instant};

/// What is different in the second change from the first, so that every step is needed in one of the two.
#[derive(Clone, Copy, PartialEq)]
enum Version {
    First,
    Second,
}

/// What the hub holds and no registry has: an image and a model. Another model comes from a library.
struct Brought {
    image: Strange,
    models: Models,
}

impl Brought {
    async fn push(ctl: &Ctl) -> Self {
        let (image, models) = (Strange::make("busybox", ctl.dir()), Models::make(ctl.dir()).await);
        ctl.run(&["artifact", "push", &image.tar.display().to_string()]).good();
        let from = models.folder.display().to_string();
        ctl.run(&["artifact", "push", "model", "house-model:v1", "--from", &from]).good();
        Self { image, models }
    }

    fn manifests(&self) -> String {
        let Models { house, chat, .. } = &self.models;
        let models = format!(
            "  egress: true\n  ollama:\n    models:\n      - {{name: \"house-model:v1\", digest: \"{house}\", preload: true}}\n      \
             - {{name: {CHAT}, digest: \"{chat}\"}}\n"
        );
        instance(
            "press-1",
            "carried",
            "container",
            &self.image.reference,
            "  container:\n    command: [sleep, \"100000\"]\n",
        ) + &instance("press-1", "llm", "ollama", &image("ollama-standin"), &models)
    }
}

fn all(version: Version, brought: &Brought) -> String {
    let second = version == Version::Second;
    let nonce = if second { "  restartNonce: again\n" } else { "" };
    let web = format!(
        "{nonce}  egress: true\n  volumes:\n    - {{name: keep, path: /keep}}\n  container:\n    command: [sleep, \"100000\"]\n"
    );
    let pair = format!("{nonce}  container:\n    command: [sleep, \"100000\"]\n");
    let queue = if second { "  mosquitto:\n    maxQueuedMessages: 5000\n" } else { "" };
    idler("press-1", "steady")
        + &instance("press-1", "web", "container", &image("busybox"), &web)
        + &instance("press-1", "pair", "container", &image("busybox"), &pair)
        + &if second {
            instance("press-1", "broker", "mosquitto", &image("mosquitto"), queue)
        } else {
            broker("press-1")
        }
        + &node_red("press-1", "flows", Some("speak"))
        + &brought.manifests()
}

/// The speaking flows, with a module that they do not need.
fn with_module() -> Vec<u8> {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(dir.path().join("package")).expect("own folder");
    std::fs::write(dir.path().join("package/package.json"), r#"{"name": "spare", "version": "1.0.0"}"#)
        .expect("own folder");
    let packed = std::process::Command::new("tar").args(["-cz", "package"]).current_dir(dir.path()).output();
    let module = ("spare.tgz".to_owned(), packed.expect("tar runs").stdout);
    let (flows, names) = Flows::parse(&speaking_flow()).expect("a plain export");
    pack_with(&flows, &names, &[module]).expect("a module")
}

/// Fault points that have not been met, as crate `fail` reads them.
fn armed(left: &BTreeSet<String>) -> String {
    left.iter().map(|point| format!("reconcile.{point}=panic")).collect::<Vec<_>>().join(";")
}

/// Starts the agent again and again with every point that is left; each start ends at the first of them that is met.
async fn kill_at(agent: &mut TestAgent, left: &mut BTreeSet<String>, these: &[&str]) {
    let wanted: BTreeSet<String> =
        these.iter().flat_map(|deed| [format!("before.{deed}"), format!("after.{deed}")]).collect();
    while left.iter().any(|point| wanted.contains(point)) {
        agent.env.retain(|(name, _)| name != "FAILPOINTS");
        agent.env.push(("FAILPOINTS".into(), armed(left)));
        agent.spawn();
        let process = agent.process.as_mut().expect("just started");
        let point = ended_at(process, left, &wanted).await;
        assert!(left.remove(&point), "{point} was not armed");
        agent.process = None;
    }
}

/// The fault point that ended it.
async fn ended_at(process: &mut Process, left: &BTreeSet<String>, wanted: &BTreeSet<String>) -> String {
    let missing = || format!("not met: {:?}", left.intersection(wanted).collect::<Vec<_>>());
    let killed = tokio::time::timeout(DEADLINE, process.killed(DEADLINE * 2)).await;
    assert!(killed.is_ok(), "{}\n{}", missing(), process.tail());
    eventually("its last words are read", async || {
        let said = process.said();
        let last = said.iter().rev().find_map(|l| l.strip_prefix("failpoint reconcile."));
        last.and_then(|l| l.split_whitespace().next()).map(str::to_owned).ok_or(said)
    })
    .await
}

async fn all_well(operator: &mut Operator, generation: u64) {
    operator
        .host_when("press-1", "everything is as asked", |h| {
            h.observed_generation >= generation
                && h.sync() == pb::Sync::UpToDate
                && h.instances_running == h.instance_count
        })
        .await;
}

#[tokio::test]
async fn docker_an_agent_killed_at_every_step_of_a_change_converges_and_touches_nothing_equal() {
    // Building it is no part of a deadline, and keeps this thread from answering the hub.
    fault_binary("redforge-edge-faults");
    let hub = TestHub::start().await;
    let mut agent = TestAgent::prepare("press-1");
    // What nothing needs goes at once: nothing may go that something needs.
    agent.env.push(("REDFORGE_EDGE__CLEAN_UP__MIN_AGE_S".into(), "0".into()));
    agent.enroll_at(&hub).await;
    agent.up().await;
    let ctl = Ctl::new(&hub);
    let brought = Brought::push(&ctl).await;
    let mut operator = hub.operator().await;
    operator.push_tar("speak", &with_module()).await.expect("flows with a module");
    operator.apply(&idler("press-1", "steady")).await;
    operator.running("press-1", "steady").await;
    let steady = agent.container("steady").expect("it runs");
    let look = || engine::inspect(&steady, "{{.Id}} {{.State.StartedAt}}");
    let before = look();
    agent.kill9();
    agent.faults = true;

    let mut left: BTreeSet<String> = DEEDS
        .iter()
        .chain(&bring::DEEDS)
        .flat_map(|deed| [format!("before.{deed}"), format!("after.{deed}")])
        .collect();
    let kills = left.len();
    let began = Instant::now();
    operator.apply(&all(Version::First, &brought)).await;
    let first = [
        "want-blob",
        "resolve-image",
        "ensure-network",
        "ensure-volume",
        "put-config",
        "put-modules",
        "put-live",
        "create",
        "connect-outside",
        "start",
        "reload",
        "deploy-flows",
        "load-image",
        "place-model",
        "pull-model",
        "load-model",
    ];
    kill_at(&mut agent, &mut left, &first).await;
    assert_eq!(look(), before);
    agent.env.retain(|(name, _)| name != "FAILPOINTS");
    agent.up().await;
    let generation = operator.host("press-1").await.expect("known").generation;
    all_well(&mut operator, generation).await;
    agent.kill9();

    // What a killed agent may leave behind while it carries files.
    let label = format!("redforge.host={}", agent.host_id);
    let network = engine::inspect(&steady, "{{.HostConfig.NetworkMode}}");
    let helper = format!("{network}-put-left");
    docker(&["create", "--name", &helper, "--label", &label, "--label", "redforge.helper=1", &image("busybox")]);
    // Somebody stops the flows by hand.
    let flows = NodeRed { container: agent.container("flows").expect("it runs") };
    flows.script("done(await admin('POST', '/flows/state', {state: 'stop'}))");
    operator.apply(&all(Version::Second, &brought)).await;
    let second = ["remove-helper", "stop", "remove", "remove-volume", "take-name", "start-flows"];
    kill_at(&mut agent, &mut left, &second).await;
    assert!(left.is_empty(), "never met: {left:?}");
    println!("{kills} kills at {kills} points in {} s", began.elapsed().as_secs());
    agent.env.retain(|(name, _)| name != "FAILPOINTS");
    agent.up().await;
    let generation = operator.host("press-1").await.expect("known").generation;
    all_well(&mut operator, generation).await;
    assert_eq!(look(), before, "an equal container was touched");
    let filter = format!("label={label}");
    eventually("one container for each instance is left", async || {
        let there = docker(&["ps", "-a", "--filter", &filter, "--format", "{{.Names}} {{.State}}"]);
        when(there.lines().count() == 7 && there.lines().all(|l| l.ends_with(" running")), there)
    })
    .await; // What it brought is known as its own over every kill: it goes when nothing needs it.
    assert!(brought.image.is_here());
    for name in ["carried", "llm"] {
        let name = format!("hosts/press-1/instances/{name}");
        operator.admin.delete_instance(pb::DeleteInstanceRequest { name }).await.expect("it exists");
    }
    eventually("the image that it brought is gone", async || when(!brought.image.is_here(), "still here")).await;
}
