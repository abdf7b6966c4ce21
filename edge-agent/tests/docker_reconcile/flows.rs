//! Flows and models: deployed while the runtime runs, and named when they cannot.
use crate::host::*;
use redforge_shared::{
    desired::{Model, Ollama, Workload},
    flows::{self, Flows},
    ids::Digest,
    report::{Health, InstanceStatus, Reason, Sync},
};
use serde_json::json;
use std::process::Command;

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
    let said = || Command::new("docker").args(["logs", &host.container("broker")]).output().expect("a log").stderr;
    eventually("the new user connects", || String::from_utf8_lossy(&said()).contains("u'more'")).await;

    // A node type that nobody has.
    let bad = host.bring(json!([{"id": "t", "type": "tab"}, {"id": "x", "type": "no-such-node", "z": "t", "x": 1, "y": 1, "wires": []}])).await;
    host.want(vec![broker("broker"), node_red("flows", bad)]).await;
    // It takes ten seconds until what runs is something to go back to: before that the runtime itself says what it lacks.
    let missing = |i: &InstanceStatus| i.reason == Some(Reason::MissingTypes) && i.sync != Sync::Updating;
    let status = host.until("flows", "missing types", missing).await;
    assert_eq!(status.names, ["no-such-node"]);
    assert!(matches!(status.sync, Sync::Failed | Sync::RolledBack), "{status:?}");
    assert_eq!((host.run_of("flows"), host.run_of("broker")), before);

    // Back, and an edit by hand is put back.
    host.want(vec![broker("broker"), node_red("flows", second)]).await;
    host.until_running("flows").await;
    let settings = docker(&["exec", &host.container("flows"), "cat", "/redforge/config/settings.js"]);
    let token = settings.split("\"token\":\"").nth(1).and_then(|t| t.split('"').next()).expect("a token");
    let (edited, _) = Flows::from_value(saying("by hand")).expect("flows");
    // Drifted is what the status says between two passes; what lasts is that the edit was taken and then was gone.
    let by_hand =
        redforge_edge::workload::node_red::deploy(address, token, &edited, (true, true)).await.expect("an edit");
    let put_back = async {
        let mut again = tokio::time::interval(std::time::Duration::from_millis(100));
        while get(address, "/said").await != "two" || revision(address, token).await.is_none_or(|rev| rev == by_hand) {
            again.tick().await;
        }
    };
    tokio::time::timeout(DEADLINE, put_back).await.expect("the edit is put back in time");
    host.until_running("flows").await;
    assert_eq!(get(address, "/said").await, "two");
    assert_eq!((host.run_of("flows"), host.run_of("broker")), before);
}

async fn revision(address: std::net::IpAddr, token: &str) -> Option<String> {
    redforge_edge::workload::node_red::observe(address, token, None, None).await.rev
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
    let ollama = |models: Vec<Model>| {
        spec("ollama", image("ollama-standin"), Workload::Ollama(Ollama { models, ..Ollama::default() }))
    };
    let model = |digest: Digest| Model { name: "redforge-standin-embed".into(), digest, preload: false, blobs: vec![] };
    host.want(vec![ollama(vec![model(Digest::of(b"another"))])]).await;
    let status = host.until("ollama", "of another digest", |i| i.reason == Some(Reason::ModelDigest)).await;
    assert_eq!((status.health, status.names), (Health::Error, vec!["redforge-standin-embed".to_owned()]));
    let held = redforge_edge::workload::ollama::models(host.address("ollama").await).await.expect("an answer");
    let right: Digest = held["redforge-standin-embed:latest"].parse().expect("a digest");
    host.want(vec![ollama(vec![model(right)])]).await;
    host.until_running("ollama").await;
    let mut both = vec![model(right)];
    // Not the digest that is there: that one would only be given another name.
    let digest = Digest::of(b"nowhere");
    both.push(Model { name: "no-such-model".into(), digest, preload: false, blobs: vec![] });
    host.want(vec![ollama(both)]).await;
    let status = host.until("ollama", "missing a model", |i| i.reason == Some(Reason::ModelMissing)).await;
    assert_eq!(status.names, ["no-such-model"]);
}
