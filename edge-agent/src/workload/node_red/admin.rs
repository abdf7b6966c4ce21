//! Node-RED's admin API: reading what it runs, deploying flows while it runs.
use super::{
    ADMIN_ROOT, PORT,
    comms::{self, RuntimeEvent},
};
use crate::workload::http::{self, HttpError};
use hyper::Method;
use redforge_shared::{flows::Flows, ids::Digest};
use serde::Deserialize;
use serde_json::{Value, json};
use std::net::IpAddr;

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
    /// A broker node of ours lacks its user or password.
    pub credentials_missing: bool,
}

#[derive(Deserialize)]
struct FlowsAnswer {
    flows: Value,
    rev: String,
}

/// Asks the runtime what it runs. `desired` names the broker nodes whose credentials must be there.
pub async fn observe(address: IpAddr, token: &str, desired: Option<&Flows>) -> NodeRedSeen {
    let bearer = format!("Bearer {token}");
    let path = format!("{ADMIN_ROOT}/flows");
    let headers = [("authorization", bearer.as_str()), ("node-red-api-version", "v2")];
    let Ok(answer) = http::get_json::<FlowsAnswer>(address, PORT, &path, &headers).await else {
        return NodeRedSeen::default();
    };
    let hash = Flows::from_value(answer.flows).ok().map(|(flows, _)| flows.hash());
    let said = comms::listen(address, token).await;
    let mut seen = NodeRedSeen {
        answers: true,
        hash,
        rev: Some(answer.rev),
        runtime: said.runtime,
        deployed: said.deployed,
        credentials_missing: false,
    };
    // Only of flows that are there can credentials be missing.
    if let Some(flows) = desired.filter(|f| seen.hash == Some(f.hash())) {
        for (id, wanted) in flows.broker_credentials() {
            let path = format!("{ADMIN_ROOT}/credentials/mqtt-broker/{}", path_segment(&id));
            let there: Value = http::get_json(address, PORT, &path, &headers[..1]).await.unwrap_or_default();
            let user_right = there["user"].as_str() == wanted.get("user").copied();
            seen.credentials_missing |= !(user_right && there["has_password"].as_bool() == Some(true));
        }
    }
    seen
}

/// Gives the runtime these flows. A success means only that they were stored. Returns the runtime's revision.
pub async fn deploy(address: IpAddr, token: &str, flows: &Flows, full: bool) -> Result<String, HttpError> {
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
    let credentials = flows.broker_credentials();
    if !credentials.is_empty() {
        // Beside the flows, never in a node: inline ones cut the sessions of their broker node.
        body["credentials"] = json!(credentials);
    }
    let response = http::send(address, PORT, Method::POST, &path, &headers, Some(&body)).await?;
    let body = http::read(&path, response).await?;
    let answer: Answer = serde_json::from_slice(&body).map_err(|source| HttpError::Json { path, source })?;
    Ok(answer.rev)
}

/// Starts flows that somebody stopped.
pub async fn start_flows(address: IpAddr, token: &str) -> Result<(), HttpError> {
    let bearer = format!("Bearer {token}");
    let path = format!("{ADMIN_ROOT}/flows/state");
    let body = json!({ "state": "start" });
    let response = http::send(address, PORT, Method::POST, &path, &[("authorization", &bearer)], Some(&body)).await?;
    http::read(&path, response).await.map(|_| ())
}

/// Node ids come from a flow file: anything but plain characters is escaped.
fn path_segment(id: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    id.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}
