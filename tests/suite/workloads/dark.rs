//! A machine that loses its power and comes back with no hub anywhere.
use crate::words::{broker, instance, node_red};
use redforge_tests::{
    agent::TestAgent,
    engine::image,
    hub::TestHub,
    own_engine::OwnEngine,
    place::folder,
    wait::{eventually_within, when},
};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(150);

/// Has a volume, and waits.
fn keeper() -> String {
    let more = "  volumes:\n    - {name: keep, path: /keep}\n  container:\n    command: [sleep, \"100000\"]\n";
    instance("press-1", "keeper", "container", &image("busybox"), more)
}

/// Every instance's phase, health and sync as `redforge-edge status` tells them.
fn status(agent: &TestAgent) -> Result<Vec<String>, String> {
    let out = agent.status(&["-o", "json"]);
    let view: serde_json::Value = serde_json::from_slice(&out.stdout).map_err(|e| e.to_string())?;
    let all = view["view"]["status"]["instances"].as_array().cloned().unwrap_or_default();
    let word =
        |i: &serde_json::Value| format!("{} {} {} {}", i["name"], i["phase"], i["health"], i["sync"]).replace('"', "");
    Ok(all.iter().map(word).collect())
}

async fn all_run(agent: &TestAgent) {
    eventually_within(PATIENCE, "every instance runs, says the agent at the machine", async || {
        let all = status(agent)?;
        when(all.len() == 3 && all.iter().all(|i| i.ends_with(" Running Healthy UpToDate")), all)
    })
    .await;
}

#[tokio::test]
async fn engine_a_machine_that_lost_its_power_brings_every_instance_back_without_a_hub() {
    let place = folder();
    let mut agent = TestAgent::prepare("press-1");
    let socket = place.path().join("d.sock");
    agent.env.push(("REDFORGE_EDGE__RUNTIME__DOCKER_SOCKET".into(), socket.display().to_string()));
    {
        // The hub says what shall run while the machine has no engine yet, and is gone from then on.
        let mut hub = TestHub::start().await;
        agent.enroll_at(&hub).await;
        agent.up().await;
        let mut operator = hub.operator().await;
        operator.apply(&(broker("press-1") + &keeper() + &node_red("press-1", "flows", None))).await;
        let generation = operator.host("press-1").await.expect("known").generation;
        operator.host_when("press-1", "the host has it", |h| h.observed_generation >= generation.max(1)).await;
        hub.stop().await;
        agent.kill9();
    }
    let mut engine = OwnEngine::start(place.path()).await;
    engine.bring(&["busybox", "mosquitto", "node-red"].map(image));
    agent.before = engine.enter();
    agent.up().await;
    all_run(&agent).await;
    let keeper = |engine: &OwnEngine| engine.docker(&["ps", "-q", "--filter", "label=redforge.instance=keeper"]);
    engine.docker(&["exec", "-u", "0", &keeper(&engine), "sh", "-c", "echo kept > /keep/file && sync"]);
    let ids = |engine: &OwnEngine| engine.docker(&["ps", "-aq", "--no-trunc", "--filter", "label=redforge.instance"]);
    let before = ids(&engine);

    engine.power_off();
    agent.kill9();
    let began = Instant::now();
    engine.power_on().await;
    agent.before = engine.enter();
    agent.up().await;
    all_run(&agent).await;
    println!("dark: {} ms from power to every instance running", began.elapsed().as_millis());
    assert_eq!(engine.docker(&["exec", &keeper(&engine), "cat", "/keep/file"]), "kept");
    let sorted = |s: String| s.lines().map(str::to_owned).collect::<std::collections::BTreeSet<_>>();
    assert_eq!(sorted(ids(&engine)), sorted(before), "the containers are those of before");
    agent.kill9();
}
