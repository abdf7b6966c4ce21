//! Node-RED's event socket: the retained events that alone say what the runtime runs.
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    time::Duration,
};
use tokio_tungstenite::{
    connect_async_with_config,
    tungstenite::{Message, protocol::WebSocketConfig},
};

/// How long the retained events may take; they are sent at once when there are any.
const PATIENCE: Duration = Duration::from_secs(3);
const MESSAGE_LIMIT: usize = 1 << 20;

/// The last `runtime-state` event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuntimeEvent {
    /// `start`, `stop` or `safe`.
    pub state: String,
    /// Such as `missing-types`.
    pub error: Option<String>,
    pub types: BTreeSet<String>,
}

/// What the runtime last said about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    pub runtime: Option<RuntimeEvent>,
    /// Revision of the last finished deploy.
    pub deployed: Option<String>,
}

/// Listens until both retained events are there, for a short time.
pub async fn listen(address: IpAddr, token: &str) -> Said {
    let mut said = Said::default();
    // What was heard before the time ran out counts.
    let _ = tokio::time::timeout(PATIENCE, hear(address, token, &mut said)).await;
    said
}

/// Ends early (None) when the socket breaks.
async fn hear(address: IpAddr, token: &str, said: &mut Said) -> Option<()> {
    let url = format!("ws://{}{}/comms", SocketAddr::new(address, super::PORT), super::ADMIN_ROOT);
    let config = WebSocketConfig::default().max_message_size(Some(MESSAGE_LIMIT)).max_frame_size(Some(MESSAGE_LIMIT));
    let (mut socket, _) = connect_async_with_config(url, Some(config), false).await.ok()?;
    socket.send(Message::text(json!({ "auth": token }).to_string())).await.ok()?;
    while said.runtime.is_none() || said.deployed.is_none() {
        let Message::Text(text) = socket.next().await?.ok()? else { continue };
        match serde_json::from_str(text.as_str()) {
            Ok(Value::Array(events)) => events.iter().for_each(|e| note(e, said)),
            Ok(Value::Object(answer)) if answer.get("auth").and_then(Value::as_str) == Some("ok") => {
                socket.send(Message::text(json!({ "subscribe": "notification/#" }).to_string())).await.ok()?;
            }
            Ok(Value::Object(event)) => note(&Value::Object(event), said),
            _ => {}
        }
    }
    socket.close(None).await.ok()
}

fn note(event: &Value, said: &mut Said) {
    let data = &event["data"];
    let text = |v: &Value| v.as_str().map(|s| s.chars().take(128).collect::<String>());
    match event["topic"].as_str() {
        Some("notification/runtime-deploy") => said.deployed = text(&data["revision"]),
        Some("notification/runtime-state") => {
            let types = data["types"].as_array().map(Vec::as_slice).unwrap_or_default();
            said.runtime = Some(RuntimeEvent {
                state: text(&data["state"]).unwrap_or_default(),
                error: text(&data["error"]),
                types: types.iter().take(256).filter_map(text).collect(),
            });
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_and_hostile_ones_bounded() {
        let mut said = Said::default();
        note(&json!({"topic": "notification/runtime-deploy", "data": {"revision": "r"}}), &mut said);
        note(
            &json!({"topic": "notification/runtime-state", "data": {"state": "stop", "error": "missing-types", "types": ["x", 7, "y".repeat(9999)]}}),
            &mut said,
        );
        let runtime = said.runtime.expect("an event");
        assert_eq!((said.deployed.as_deref(), runtime.error.as_deref()), (Some("r"), Some("missing-types")));
        assert!(runtime.types.contains("x") && runtime.types.iter().all(|t| t.len() <= 128));
    }
}
