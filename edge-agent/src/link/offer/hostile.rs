//! What a hub that is hostile, broken or newer may send: a field that this build does not know refuses the document by the
//! field's path, and so does a value that no manifest could have had.
use super::*;
use serde_json::{Value, json};

fn host() -> HostId {
    "018f0000-0000-7000-8000-000000000001".parse().expect("a host id")
}

/// A document that uses much of what there is.
fn document() -> Value {
    json!({
        "schema": 1, "host": host().to_string(), "host_name": "edge-1", "site": "plant", "policy": "open",
        "instances": [
            {"name": "a", "image": "i:1", "env": {"A": "x"}, "secret_env": {"K": "key"},
             "probe": {"probe": {"http": {"port": 80, "path": "/"}}, "period_s": 10, "timeout_s": 3, "failure_threshold": 3},
             "volumes": [{"name": "data", "path": "/data"}],
             "ports": [{"container": 80, "host": 8080, "address": "127.0.0.1", "protocol": "tcp"}],
             "workload": {"container": {"command": ["run"]}}, "resources": {"pids": 9, "memory_bytes": 67_108_864}},
            {"name": "b", "image": "i:1", "workload": {"node-red": {"reads": ["redforge/records/event"]}}, "resources": {}},
            {"name": "c", "image": "i:1", "resources": {},
             "workload": {"ollama": {"models": [{"name": "m", "digest": format!("sha256:{}", "a".repeat(64))}]}}},
            {"name": "d", "image": "i:1", "workload": {"valkey": {}}, "resources": {}},
        ],
    })
}

fn judged(document: &Value) -> Result<Offer, Refusal> {
    let spec = serde_json_canonicalizer::to_vec(document).expect("canonical");
    let spec_sha256 = Digest::of(&spec).0.to_vec().into();
    judge(&pb::Desired { spec: spec.into(), spec_sha256, generation: 3, ..pb::Desired::default() }, host(), None)
}

/// Fields of other engines and tools, by what they would open. Each is put into every place of the document.
const FIELDS: [(&str, &[&str]); 12] = [
    ("docker socket", &["docker_socket", "binds", "mounts", "volumes_from"]),
    ("privileged", &["privileged", "Privileged", "security_context"]),
    ("capabilities", &["cap_add", "capabilities", "CapAdd", "no_new_privileges"]),
    ("devices", &["devices", "device_requests", "device_cgroup_rules", "gpus"]),
    ("host network", &["network", "network_mode", "host_network", "extra_hosts"]),
    ("host pid", &["pid", "pid_mode", "host_pid"]),
    ("host ipc", &["ipc", "ipc_mode", "uts_mode", "cgroup_parent"]),
    ("bind paths", &["host_path", "source", "propagation", "tmpfs"]),
    ("symlinks", &["follow_symlinks", "sub_path", "target"]),
    ("sysctls", &["sysctls", "ulimits", "oom_score_adj", "memory_swap"]),
    ("user", &["user", "group_add", "userns_mode", "run_as_user"]),
    ("seccomp", &["security_opt", "seccomp", "apparmor", "masked_paths", "runtime"]),
];

const PLACES: [(&str, &str); 9] = [
    ("", ""),
    ("/instances/0", "instances[0]."),
    ("/instances/0/resources", "instances[0].resources."),
    ("/instances/0/volumes/0", "instances[0].volumes[0]."),
    ("/instances/0/ports/0", "instances[0].ports[0]."),
    ("/instances/0/probe", "instances[0].probe."),
    ("/instances/0/workload/container", "instances[0].workload.container."),
    ("/instances/1/workload/node-red", "instances[1].workload.node-red."),
    ("/instances/3/workload/valkey", "instances[3].workload.valkey."),
];

#[test]
fn a_field_that_would_open_the_host_refuses_the_document_wherever_it_stands() {
    judged(&document()).expect("the document itself is good");
    for (class, fields) in FIELDS {
        assert!(fields.len() * PLACES.len() >= 12, "class {class} has too few cases");
        for (field, (pointer, path)) in fields.iter().flat_map(|f| PLACES.map(|p| (f, p))) {
            for value in [json!(true), json!("host"), json!(["/var/run/docker.sock:/s"]), json!({"deep": [1]})] {
                let mut sent = document();
                let place = sent.pointer_mut(pointer).and_then(Value::as_object_mut).expect("a place");
                place.insert((*field).to_owned(), value.clone());
                let refusal = judged(&sent).expect_err(class);
                assert_eq!(refusal.name(), format!("{path}{field}"), "{class}: {value}: {refusal}");
            }
        }
    }
}

/// Where, what, and the path that must be named.
type Case = (String, Value, &'static str);

/// Paths inside and image references.
fn texts() -> Vec<Case> {
    let volume =
        |path: &str| (format!("/instances/0/volumes/0/path={path}"), json!(path), "instances[0].volumes[0].path");
    let image = |image: &str| (format!("/instances/0/image={image}"), json!(image), "instances[0].image");
    let mut cases: Vec<Case> = Vec::new();
    for path in [
        "/var/run/docker.sock",
        "/run/docker.sock",
        "/run/podman/podman.sock",
        "/proc",
        "/proc/1/root",
        "/sys",
        "/sys/fs/cgroup",
        "/dev",
        "/dev/mem",
        "/dev/shm",
        "/",
        "",
        "data",
        "/a/../etc",
        "/..",
        "/a/./b",
        "//etc",
        "/a/",
        "/etc:/etc",
        "/a,type=bind",
        "/a b",
        "/a\0b",
        "/redforge/config",
        "/mosquitto/live",
    ] {
        cases.push(volume(path));
    }
    for reference in ["", "-v", "--privileged", "a b", "a;b", "../a", "/a", "a\nb", "a@sha256:1", "$(x)"] {
        cases.push(image(reference));
    }
    cases
}

/// Every other value.
fn values() -> Vec<Case> {
    let all = [
        ("/instances/0/env", json!({"A=B": "x"}), "instances[0].env.A=B"),
        ("/instances/0/env", json!({"A\nB": "x"}), "instances[0].env.A\\nB"),
        ("/instances/0/env", json!({"REDFORGE_MQTT_HOST": "x"}), "instances[0].env.REDFORGE_MQTT_HOST"),
        ("/instances/0/env", json!({"A": "x\0y"}), "instances[0].env.A"),
        ("/instances/0/secret_env", json!({"A": "key"}), "instances[0].secret_env.A"),
        ("/instances/0/secret_env", json!({"1K": "key"}), "instances[0].secret_env.1K"),
        ("/instances/0/secret_env", json!({"K": "../key"}), "instances[0].secret_env.K"),
        ("/instances/0/ports/0/host", json!(0), "instances[0].ports[0].host"),
        ("/instances/0/ports/0/container", json!(0), "instances[0].ports[0].container"),
        ("/instances/0/ports/0/host", json!(65536), "instances[0].ports[0].host"),
        ("/instances/0/ports/0/address", json!("224.0.0.1"), "instances[0].ports[0].address"),
        ("/instances/0/ports/0/protocol", json!("sctp"), "instances[0].ports[0].protocol"),
        ("/instances/0/resources/pids", json!(0), "instances[0].resources.pids"),
        ("/instances/0/resources/pids", json!(-1), "instances[0].resources.pids"),
        ("/instances/0/resources/memory_bytes", json!(1), "instances[0].resources.memory_bytes"),
        ("/instances/0/volumes/0/name", json!("live"), "instances[0].volumes[0].name"),
        ("/instances/0/volumes/0/name", json!("a/b"), "instances[0].volumes[0].name"),
        ("/instances/0/name", json!("../a"), "instances[0].name"),
        ("/instances/0/restart_nonce", json!("x\ny"), "instances[0].restart_nonce"),
        ("/instances/0/egress", json!("host"), "instances[0].egress"),
        ("/instances/0/read_only_root", json!("no"), "instances[0].read_only_root"),
        ("/instances/0/probe/period_s", json!(0), "instances[0].probe.period_s"),
        ("/instances/0/probe/timeout_s", json!(99_999), "instances[0].probe.timeout_s"),
        ("/instances/0/probe/probe", json!({"http": {"port": 80, "path": "http://else/"}}), "instances[0].probe.probe"),
        ("/instances/0/probe/probe", json!({"exec": {"command": ["sh"]}}), "instances[0].probe.probe.exec"),
        ("/instances/0/workload/container/command", json!(["a\0b"]), "instances[0].workload.container.command[0]"),
        ("/instances/1/workload/node-red/reads", json!(["a\nuser b"]), "instances[1].workload.node-red.reads[0]"),
        ("/instances/2/workload/ollama/models/0/name", json!("../m"), "instances[2].workload.ollama.models[0].name"),
        (
            "/instances/3/workload/valkey",
            json!({"eviction": "all\nrequirepass x"}),
            "instances[3].workload.valkey.eviction",
        ),
    ];
    all.into_iter().map(|(pointer, value, path)| (pointer.to_owned(), value, path)).collect()
}

#[test]
fn a_value_that_no_manifest_could_have_had_is_refused_by_its_path() {
    let cases = texts().into_iter().chain(values());
    for (at, value, path) in cases {
        let pointer = at.split('=').next().unwrap_or_default();
        let mut sent = document();
        let place = pointer.rsplit_once('/').expect("a pointer");
        sent.pointer_mut(place.0)
            .and_then(Value::as_object_mut)
            .expect("a place")
            .insert(place.1.into(), value.clone());
        let refusal = judged(&sent).err().map(|r| r.name());
        assert_eq!(refusal.as_deref(), Some(path), "{value}");
    }
    // As many as a list may hold, and one more.
    let mut sent = document();
    let many: Vec<_> = (0..65).map(|i| json!({"name": format!("v{i}"), "path": format!("/v{i}")})).collect();
    sent["instances"][0]["volumes"] = many.into();
    assert_eq!(judged(&sent).expect_err("too many").name(), "instances[0].volumes");
}
