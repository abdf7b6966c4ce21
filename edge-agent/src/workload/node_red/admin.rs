//! Node-RED's admin API: reading what it runs, deploying flows while it runs.
use super::{
    ADMIN_ROOT, PORT,
    comms::{self, RuntimeEvent},
    credentials::Credentials,
};
use crate::workload::http::{self, HttpError};
use hyper::Method;
use redforge_shared::{
    flows::{FlowSet, Flows},
    ids::Digest,
};
use serde::Deserialize;
use serde_json::{Value, json};
use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

/// What a runtime says that it runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeRedSeen {
    /// Did the admin API answer?
    pub answers: bool,
    /// Hash of its flows, in our form.
    pub hash: Option<Digest>,
    /// Its own revision of them; opaque.
    pub rev: Option<String>,
    pub runtime: Option<RuntimeEvent>,
    /// Revision of the last finished deploy.
    pub deployed: Option<String>,
    /// A node lacks the credentials that were declared for it, or has others.
    pub credentials_wrong: bool,
    /// Its file holds every credential that was declared, for nodes that are not there yet too.
    pub credentials_held: bool,
    /// The flows, where they are others than those that were asked about.
    pub edited: Option<Arc<Flows>>,
    /// Hash of its rendered files as the container sees them.
    pub config: Option<Digest>,
    /// Hash of its modules' files as the container sees them.
    pub modules: Option<Digest>,
}

impl NodeRedSeen {
    /// Does it leave its flows alone?
    pub fn is_safe(&self) -> bool {
        self.runtime.as_ref().is_some_and(|r| r.state == "safe")
    }
}

#[derive(Deserialize)]
struct FlowsAnswer {
    flows: Value,
    rev: String,
}

/// Asks the runtime what it runs. `desired` names the nodes whose credentials must be there, `stored` is what its file of
/// credentials holds, where that could be read.
pub async fn observe(
    address: IpAddr,
    token: &str,
    desired: Option<&FlowSet>,
    stored: Option<&Credentials>,
) -> NodeRedSeen {
    let bearer = format!("Bearer {token}");
    let path = format!("{ADMIN_ROOT}/flows");
    let headers = [("authorization", bearer.as_str()), ("node-red-api-version", "v2")];
    let Ok(answer) = http::get_json::<FlowsAnswer>(address, PORT, &path, &headers).await else {
        return NodeRedSeen::default();
    };
    let flows = Flows::from_value(answer.flows).ok().map(|(flows, _)| flows);
    let said = comms::listen(address, token).await;
    let mut seen = NodeRedSeen {
        answers: true,
        hash: flows.as_ref().map(Flows::hash),
        rev: Some(answer.rev),
        runtime: said.runtime,
        deployed: said.deployed,
        ..NodeRedSeen::default()
    };
    let (Some(set), Some(flows)) = (desired, flows) else { return seen };
    let there = flows.broker_credentials();
    seen.credentials_held = true;
    for (id, wanted) in set.flows.broker_credentials() {
        let same = |held: &Credentials| {
            wanted.iter().all(|(field, value)| held.get(&id).and_then(|n| n.get(*field)?.as_str()) == Some(value))
        };
        seen.credentials_held &= stored.is_some_and(same);
        // Only of nodes that are there can credentials be missing.
        if there.contains_key(&id) {
            let path = format!("{ADMIN_ROOT}/credentials/mqtt-broker/{}", path_segment(&id));
            let held: Value = http::get_json(address, PORT, &path, &headers[..1]).await.unwrap_or_default();
            let right = held["user"].as_str() == wanted.get("user").copied() && held["has_password"] == json!(true);
            seen.credentials_wrong |= !right || stored.is_some_and(|held| !same(held));
        }
    }
    if seen.hash != Some(set.hash) {
        seen.edited = Some(Arc::new(flows));
    }
    seen
}

/// Gives the runtime these flows, as a full deploy or not, with their credentials or with those that it has. A success means
/// only that they were stored. Returns the runtime's revision.
pub async fn deploy(
    address: IpAddr,
    token: &str,
    flows: &Flows,
    (full, with_credentials): (bool, bool),
) -> Result<String, HttpError> {
    #[derive(Deserialize)]
    struct Answer {
        rev: String,
    }
    let bearer = format!("Bearer {token}");
    let path = format!("{ADMIN_ROOT}/flows");
    let headers = [
        ("authorization", bearer.as_str()),
        ("node-red-api-version", "v2"),
        // `flows` leaves the connections of unchanged tabs alone.
        ("node-red-deployment-type", if full { "full" } else { "flows" }),
    ];
    let mut body = json!({ "flows": flows.nodes() });
    if with_credentials {
        // Beside the flows, never in a node: inline ones cut the sessions of their broker node. And only where they are news
        // to the runtime: credentials that equal those it holds it writes to its file in the clear, so a field makes them
        // differ each time (seen in 4.1.15; what it gets encrypted it does not write at all).
        let mut credentials = json!(flows.broker_credentials());
        for node in credentials.as_object_mut().into_iter().flat_map(|all| all.values_mut()) {
            node["redforge"] = json!(fresh());
        }
        body["credentials"] = credentials;
    }
    let response = http::send(address, PORT, Method::POST, &path, &headers, Some(&body)).await?;
    let body = http::read(&path, response).await?;
    let answer: Answer = serde_json::from_slice(&body).map_err(|source| HttpError::Json { path, source })?;
    Ok(answer.rev)
}

/// Every node type that the runtime knows and has not been told to leave out.
pub async fn types(address: IpAddr, token: &str) -> Result<BTreeSet<String>, HttpError> {
    #[derive(Deserialize)]
    struct NodeSet {
        #[serde(default)]
        types: Vec<String>,
        enabled: bool,
    }
    let bearer = format!("Bearer {token}");
    let headers = [("authorization", bearer.as_str()), ("accept", "application/json")];
    let sets: Vec<NodeSet> = http::get_json(address, PORT, &format!("{ADMIN_ROOT}/nodes"), &headers).await?;
    Ok(sets.into_iter().filter(|s| s.enabled).flat_map(|s| s.types).collect())
}

/// Starts flows that somebody stopped.
pub async fn start_flows(address: IpAddr, token: &str) -> Result<(), HttpError> {
    let bearer = format!("Bearer {token}");
    let path = format!("{ADMIN_ROOT}/flows/state");
    let body = json!({ "state": "start" });
    let response = http::send(address, PORT, Method::POST, &path, &[("authorization", &bearer)], Some(&body)).await?;
    http::read(&path, response).await.map(|_| ())
}

/// A word that was never given before.
fn fresh() -> String {
    let mut word = [0; 8];
    aws_lc_rs::rand::fill(&mut word).expect("the system has random bytes");
    hex::encode(word)
}

/// Node ids come from a flow file: anything but plain characters is escaped.
fn path_segment(id: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    id.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}
