//! From `redforge-edge enroll` to a Node-RED that the hub reports as Running and Healthy, beside one container of the same
//! image from create to its first HTTP answer.
use crate::{
    ground::Ground,
    pass::SOCKET,
    report::{Goal, Report, Subject},
    rounds::Rounds,
};
use anyhow::{Context as _, ensure};
use redforge_shared::wire::pb;
use redforge_tests::{agent::TestAgent, engine, operator::Operator, place::text};
use serde_json::json;
use std::time::{Duration, Instant};

const NODE_RED: u16 = 1880;

/// Seconds from the enroll command to Running.
async fn deploy(operator: &mut Operator, agent: &mut TestAgent) -> anyhow::Result<f64> {
    let token = operator.enroll_token("bench").await;
    let begun = Instant::now();
    let enrolled = agent.enroll(&token);
    ensure!(enrolled.status.success(), "{}", text(&enrolled));
    agent.spawn();
    let manifest = format!(
        "apiVersion: redforge.io/v1\nkind: Instance\nmetadata:\n  name: flows\nspec:\n  host: {}\n  kind: node-red\n  \
         image: {}\n",
        agent.name,
        engine::image("node-red")
    );
    operator.apply(&manifest).await;
    while begun.elapsed() < Duration::from_secs(120) {
        let status = operator.instance(&agent.name, "flows").await?.status;
        if status.is_some_and(|s| s.phase() == pb::Phase::Running && s.health() == pb::Health::Healthy) {
            return Ok(begun.elapsed().as_secs_f64());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    anyhow::bail!("Node-RED does not run after 120 s")
}

/// Measures enroll to Running.
pub async fn measure(ground: &mut Ground, report: &mut Report) -> anyhow::Result<()> {
    let mut operator = ground.hub().await.operator().await;
    operator.site("bench").await;
    let image = engine::image("node-red");
    let rounds = Rounds::take(ground, false, async |ground, n| {
        let question = json!({"ask": "container", "socket": SOCKET, "image": image, "port": NODE_RED});
        let raw = ground.yard.number(&question, "seconds")?;
        let mut agent = TestAgent::prepare(&format!("deploy-{}", n + 1));
        let ours = deploy(&mut operator, &mut agent).await;
        // Its objects go with it, by the id it enrolled under.
        agent.host_id = operator.host(&agent.name).await.context("the host is registered")?.id;
        agent.stop().await;
        Ok(vec![("container", raw), ("deploy", ours?)])
    })
    .await?;
    report.add(
        &Subject {
            id: "ENROLL",
            what: "enroll to Node-RED running; its container alone",
            unit: "s",
            value: "deploy",
            limit: "container",
            goal: Goal::RatioAtMost(2.0),
            sync_bound: false,
            profile: "agent release-small, hub release",
            peer: "",
        },
        &rounds,
    );
    Ok(())
}
