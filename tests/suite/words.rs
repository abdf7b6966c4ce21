//! Manifests and flows that several chapters use, as short as they can be.
use redforge_tests::engine::image;

/// One instance of a kind; `more` goes below `spec`.
pub fn instance(host: &str, name: &str, kind: &str, image: &str, more: &str) -> String {
    format!(
        "---\napiVersion: redforge.io/v1\nkind: Instance\nmetadata:\n  name: {name}\nspec:\n  host: {host}\n  \
         kind: {kind}\n  image: {image}\n{more}"
    )
}

/// A container that waits for ever.
pub fn idler(host: &str, name: &str) -> String {
    instance(host, name, "container", &image("busybox"), "  container:\n    command: [sleep, \"100000\"]\n")
}

/// A broker.
pub fn broker(host: &str) -> String {
    instance(host, "broker", "mosquitto", &image("mosquitto"), "")
}

/// A Node-RED runtime with a flow set, or an empty one.
pub fn node_red(host: &str, name: &str, flow_set: Option<&str>) -> String {
    let section = flow_set.map(|f| format!("  nodeRed:\n    flowSet: {f}\n")).unwrap_or_default();
    instance(host, name, "node-red", &image("node-red"), &section)
}

/// Flows that publish one keyed event each time `POST /say` is called, and answer when the broker has it.
pub fn speaking_flow() -> Vec<u8> {
    serde_json::json!([
        {"id": "t1", "type": "tab", "label": "Speak"},
        {"id": "b1", "type": "mqtt-broker", "name": "site", "broker": "${REDFORGE_MQTT_HOST}",
         "port": "${REDFORGE_MQTT_PORT}", "clientid": "", "autoConnect": true, "usetls": false, "protocolVersion": "4",
         "keepalive": "60", "cleansession": true},
        {"id": "in", "type": "http in", "z": "t1", "name": "", "url": "/say", "method": "post", "wires": [["fn"]]},
        {"id": "fn", "type": "function", "z": "t1", "name": "record", "outputs": 1, "libs": [], "initialize": "",
         "finalize": "", "noerr": 0, "func": "msg.topic='redforge/records/event';const k=msg.payload.key;\
            msg.payload=JSON.stringify({key:k,name:'said',payload:{key:k}});return msg;",
         "wires": [["mq"]]},
        {"id": "mq", "type": "mqtt out", "z": "t1", "name": "", "topic": "", "qos": "1", "retain": "", "broker": "b1",
         "wires": []},
        {"id": "cp", "type": "complete", "z": "t1", "name": "", "scope": ["mq"], "uncaught": false, "wires": [["ok"]]},
        {"id": "ok", "type": "http response", "z": "t1", "name": "", "statusCode": "200", "headers": {}, "wires": []}
    ])
    .to_string()
    .into_bytes()
}
