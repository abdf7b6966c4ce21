//! From an operator's push of other flows to the flow's own first new answer on the host, beside giving them to a bare
//! Node-RED by hand: what hub, link, ledger and reconciler add to a hot deploy.
use crate::{
    ground::Ground,
    pass::SOCKET,
    report::{Goal, Report, Subject},
    rounds::Rounds,
};
use anyhow::{Context as _, ensure};
use redforge_tests::{agent::TestAgent, engine, flowless::call, operator::Operator};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const NODE_RED: u16 = 1880;
const HOST: &str = "hot";
/// How long a flow may take to answer one request.
const ANSWER: Duration = Duration::from_millis(100);

/// A flow that says its version.
fn flows(version: usize) -> Vec<u8> {
    json!([
        {"id": "tab", "type": "tab", "label": "bench"},
        {"id": "in", "type": "http in", "z": "tab", "url": "/version", "method": "get", "wires": [["text"]]},
        {"id": "text", "type": "template", "z": "tab", "field": "payload", "fieldType": "msg", "format": "handlebars",
         "syntax": "plain", "template": version.to_string(), "output": "str", "wires": [["out"]]},
        {"id": "out", "type": "http response", "z": "tab", "wires": []},
    ])
    .to_string()
    .into_bytes()
}

/// Milliseconds from the push to the new answer.
async fn deploy(operator: &mut Operator, url: &str, version: usize) -> anyhow::Result<f64> {
    let flows = flows(version);
    let begun = Instant::now();
    operator.push_flows("versions", &flows).await?;
    while begun.elapsed() < Duration::from_secs(60) {
        // A request that met the flow as it was stopped is never answered.
        let answer = tokio::time::timeout(ANSWER, call("GET", url, Value::Null)).await;
        if answer == Ok(Ok(json!(version))) {
            return Ok(begun.elapsed().as_secs_f64() * 1e3);
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    anyhow::bail!("version {version} does not answer after 60 s")
}

/// Measures hot deploys.
pub async fn measure(ground: &mut Ground, report: &mut Report) -> anyhow::Result<()> {
    let mut operator = ground.hub().await.operator().await;
    operator.site("bench").await;
    let agent = TestAgent::start(ground.hub().await, HOST).await;
    operator.push_flows("versions", &flows(0)).await?;
    let image = engine::image("node-red");
    operator
        .apply(&format!(
            "apiVersion: redforge.io/v1\nkind: Instance\nmetadata:\n  name: flows\nspec:\n  host: {HOST}\n  kind: node-red\n  \
             image: {image}\n  nodeRed:\n    flowSet: versions\n"
        ))
        .await;
    operator.running(HOST, "flows").await;
    let container = agent.container("flows").context("it runs")?;
    let url = format!("http://{}:{NODE_RED}/version", engine::address(&container));
    let times = if ground.quick { 5 } else { 25 };
    let mut version = 0;
    let rounds = Rounds::take(ground, false, async |ground, _| {
        let raw = ground
            .yard
            .ask(&json!({"ask": "deploys", "socket": SOCKET, "image": image, "port": NODE_RED, "times": times}))?;
        let mut took = Vec::new();
        for _ in 0..times {
            version += 1;
            took.push(deploy(&mut operator, &url, version).await?);
        }
        took.sort_by(f64::total_cmp);
        let of = |name: &str| raw[name].as_f64().context("no limit");
        let last = took.len() - 1;
        Ok(vec![
            ("raw", of("p50_ms")?),
            ("raw99", of("p99_ms")?),
            ("p50", took[last / 2]),
            ("p99", took[last * 99 / 100]),
        ])
    })
    .await?;
    ensure!(agent.container("flows") == Some(container), "a change of flows made a new container");
    for (id, what, value, limit) in [
        ("HOT", "push of flows to their answer, p50; bare Node-RED", "p50", "raw"),
        ("HOT-p99", "push of flows to their answer, p99; bare Node-RED", "p99", "raw99"),
    ] {
        report.add(
            &Subject {
                id,
                what,
                unit: "ms",
                value,
                limit,
                goal: Goal::Told,
                sync_bound: false,
                profile: "agent release-small, hub release",
                peer: "",
            },
            &rounds,
        );
    }
    Ok(())
}
