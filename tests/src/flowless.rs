//! Parts that stories about records need on a host: a broker to publish to, and the stand-in's models to embed with.
use crate::{
    agent::TestAgent,
    engine::{self, Foreign, docker},
    operator::Operator,
    publisher::Broker,
    wait::eventually,
};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};

/// Name of the stand-in's embedding model.
pub const MODEL: &str = "redforge-standin-embed";

/// Waits for the host's broker and gives it as an instance sees it: the user is that of the node-red instance `flows`.
pub async fn broker_of(operator: &mut Operator, agent: &TestAgent) -> Broker {
    operator.running(&agent.name, "broker").await;
    operator.running(&agent.name, "flows").await;
    let flows = agent.container("flows").expect("it runs");
    let env = engine::inspect(&flows, "{{range .Config.Env}}{{println .}}{{end}}");
    let get = |name: &str| {
        let found = env.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix('='));
        found.unwrap_or_else(|| panic!("{name} is not set in the node-red instance")).to_owned()
    };
    let address = engine::address(&agent.container("broker").expect("it runs"));
    Broker { address, port: 1883, user: get("REDFORGE_MQTT_USER"), password: get("REDFORGE_MQTT_PASSWORD") }
}

/// One JSON call over plain HTTP.
pub async fn call(method: &str, url: &str, body: Value) -> Result<Value, String> {
    let client = hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new())
        .build_http::<Full<bytes::Bytes>>();
    let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    let request = hyper::Request::builder()
        .method(method)
        .uri(url)
        .header("content-type", "application/json")
        .body(Full::new(body.into()))
        .map_err(|e| e.to_string())?;
    let response = client.request(request).await.map_err(|e| e.to_string())?;
    let status = response.status();
    let body = response.into_body().collect().await.map_err(|e| e.to_string())?.to_bytes();
    let text = String::from_utf8_lossy(&body);
    if !status.is_success() {
        return Err(format!("{status}: {text}"));
    }
    // A stream of JSON lines ends with what counts.
    let last = text.lines().rfind(|l| !l.trim().is_empty()).unwrap_or("null");
    serde_json::from_str(last).map_err(|e| format!("{e}: {last}"))
}

/// The stand-in on the engine's own bridge, for the hub's queries and the story's own embedding.
pub struct Embedder {
    pub url: String,
    /// 64 hex digits.
    pub digest: String,
    _container: Foreign,
}

impl Embedder {
    /// Started, with its model.
    pub async fn start(name: &str) -> Self {
        let container = Foreign(name.to_owned());
        drop(engine::try_docker(&["rm", "-fv", name]));
        docker(&["run", "-d", "--name", name, &engine::image("ollama-standin")]);
        let ip = engine::inspect(name, "{{.NetworkSettings.IPAddress}}");
        let url = format!("http://{ip}:11434");
        let tags = eventually("the stand-in has its model", async || {
            call("POST", &format!("{url}/api/pull"), json!({"model": MODEL, "stream": false})).await?;
            let tags = call("GET", &format!("{url}/api/tags"), Value::Null).await?;
            tags["models"].as_array().filter(|m| !m.is_empty()).cloned().ok_or_else(|| tags.to_string())
        })
        .await;
        let ours = tags.iter().find(|m| m["name"].as_str().is_some_and(|n| n.starts_with(MODEL)));
        let digest = ours.and_then(|m| m["digest"].as_str()).expect("the model has a digest");
        let digest = digest.trim_start_matches("sha256:").to_owned();
        Self { url, digest, _container: container }
    }

    /// The model's vector of a text.
    pub async fn embed(&self, text: &str) -> Vec<f32> {
        let answer = call("POST", &format!("{}/api/embed", self.url), json!({"model": MODEL, "input": [text]})).await;
        let answer = answer.expect("the stand-in embeds");
        let vector = answer["embeddings"][0].as_array().expect("one embedding");
        vector.iter().map(|v| v.as_f64().expect("a number") as f32).collect()
    }
}
