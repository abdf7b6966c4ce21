//! Whatever spec is accepted and whatever its image says of itself: what the engine is asked for never opens the host.
use super::*;
use crate::{
    runtime::ImageSeen,
    workload::{self, Given, Secrets, Surroundings},
};
use proptest::prelude::*;
use redforge_shared::{
    desired::{
        Cache, Container, DesiredState, InstanceSpec, Mosquitto, NodeRed, Ollama, SCHEMA, Tika, Volume, Workload,
    },
    flows::{Flows, pack, unpack},
    ids::HostId,
    policy::Policy,
};
use std::collections::BTreeSet;

/// The only keys of a host configuration that we ever set.
const KNOWN: [&str; 15] = [
    "Memory",
    "MemorySwap",
    "NanoCpus",
    "PidsLimit",
    "CapDrop",
    "CapAdd",
    "ReadonlyRootfs",
    "Tmpfs",
    "SecurityOpt",
    "RestartPolicy",
    "LogConfig",
    "NetworkMode",
    "PortBindings",
    "Mounts",
    "Binds",
];
/// What a container of an image that starts as root keeps.
const KEPT: [&str; 5] = ["CHOWN", "DAC_OVERRIDE", "FOWNER", "SETGID", "SETUID"];

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof!["[a-zA-Z_][a-zA-Z0-9_]{0,12}", "\\PC{0,20}", Just("/var/run/docker.sock".into()), Just("host".into())]
}

fn any_path() -> impl Strategy<Value = String> {
    prop_oneof![
        "/[a-z]{1,8}(/[a-z.]{1,8}){0,2}",
        "\\PC{0,20}",
        Just("/var/run/docker.sock".into()),
        Just("/proc/1/root".into()),
        Just("/data".into()),
        Just("/dev/mem".into()),
    ]
}

fn any_workload() -> impl Strategy<Value = Workload> {
    prop_oneof![
        Just(Workload::NodeRed(NodeRed::default())),
        Just(Workload::Mosquitto(Mosquitto::default())),
        Just(Workload::Ollama(Ollama::default())),
        Just(Workload::Valkey(Cache::default())),
        Just(Workload::Redis(Cache::default())),
        Just(Workload::Tika(Tika::default())),
        proptest::collection::vec(any_text(), 0..4)
            .prop_map(|command| Workload::Container(Container { command, ..Container::default() })),
    ]
}

prop_compose! {
    fn any_spec()(
        workload in any_workload(),
        image in prop_oneof![Just("img:1".to_owned()), any_text()],
        env in proptest::collection::btree_map(any_text(), any_text(), 0..4),
        volumes in proptest::collection::vec(("[a-z]{1,6}", any_path()), 0..4),
        ports in proptest::collection::vec((any::<u16>(), any::<u16>(), any::<[u8; 4]>()), 0..3),
        read_only in any::<Option<bool>>(),
        flags in any::<[bool; 2]>(),
        limits in (any::<Option<u32>>(), any::<Option<u32>>(), proptest::option::of(0_u64..1 << 50)),
        nonce in any_text(),
    ) -> InstanceSpec {
        let volume = |(name, path): (String, String)| Volume { name: name.parse().expect("letters"), path };
        let port = |(container, host, ip): (u16, u16, [u8; 4])| Port {
            container, host, address: std::net::Ipv4Addr::from(ip).into(), protocol: redforge_shared::desired::Protocol::Tcp,
        };
        let mut spec = InstanceSpec::bare("a".parse().expect("a name"), image, workload);
        spec.env = env;
        spec.volumes = volumes.into_iter().map(volume).collect();
        spec.ports = ports.into_iter().map(port).collect();
        spec.read_only_root = read_only;
        spec.egress = flags[0];
        spec.collect_logs = flags[1];
        spec.resources.pids = limits.0;
        spec.resources.cpu_millicores = limits.1;
        spec.resources.memory_bytes = limits.2;
        spec.restart_nonce = nonce;
        spec
    }
}

fn any_image() -> impl Strategy<Value = ImageSeen> {
    (proptest::collection::vec(any_path(), 0..3), prop_oneof![Just(String::new()), any_text()])
        .prop_map(|(volumes, user)| ImageSeen { id: "sha256:1".into(), volumes, user, ..ImageSeen::default() })
}

/// What the engine would be asked for; none where the document is refused.
fn asked(spec: InstanceSpec, image: &ImageSeen) -> Option<serde_json::Value> {
    let state = DesiredState {
        schema: SCHEMA,
        host: HostId(uuid::Uuid::from_bytes([3; 16])),
        host_name: "h".parse().expect("a name"),
        site: "s".parse().expect("a name"),
        policy: Policy::Open,
        instances: vec![spec],
    };
    // Through the door that a document comes in by.
    let desired = DesiredState::parse(&state.canonical().expect("a document").bytes).ok()?;
    let names = Names::new(desired.host);
    let secrets: Secrets = workload::secrets_needed(&desired).into_iter().map(|(n, len)| (n, vec![7; len])).collect();
    let given = Given::new();
    let (flows, _) = Flows::parse(b"[]").expect("no flows");
    let mut set = unpack(&pack(&flows, &[]), None).expect("own flow set");
    set.module_files.insert("a/package.json".into(), set.hash);
    let around = Surroundings {
        names: &names,
        desired: &desired,
        secrets: &secrets,
        given: &given,
        flow_set: Some(&set),
        site_nonce: "",
        gateway_port: 7463,
    };
    let instance = &desired.instances[0];
    let rendered = workload::render(instance, image, around).ok()?;
    let hash = rendered.container.hash();
    let place = Place { instance: &instance.name, replica: 0, named: true, hash };
    Some(serde_json::to_value(body(&names, place, &rendered.container)).expect("JSON"))
}

/// Everything in a body that would open the host.
fn openings(body: &serde_json::Value) -> Vec<String> {
    let mut found = Vec::new();
    let host = &body["HostConfig"];
    for (key, value) in host.as_object().expect("there is one") {
        if !KNOWN.contains(&key.as_str()) || (key == "Binds" && !value.is_null()) {
            found.push(format!("HostConfig.{key} = {value}"));
        }
    }
    let prefix = "redforge-";
    if !host["NetworkMode"].as_str().is_some_and(|n| n.starts_with(prefix)) {
        found.push(format!("network {}", host["NetworkMode"]));
    }
    if host["CapDrop"] != serde_json::json!(["ALL"]) {
        found.push(format!("capabilities {}", host["CapDrop"]));
    }
    let kept = host["CapAdd"].as_array().cloned().unwrap_or_default();
    if !kept.iter().all(|c| c.as_str().is_some_and(|c| KEPT.contains(&c))) {
        found.push(format!("capabilities {kept:?}"));
    }
    if host["SecurityOpt"] != serde_json::json!(["no-new-privileges:true"]) {
        found.push(format!("security {}", host["SecurityOpt"]));
    }
    if host["PidsLimit"].as_i64().is_none_or(|p| p <= 0) {
        found.push(format!("processes {}", host["PidsLimit"]));
    }
    let mut targets = BTreeSet::new();
    for mount in host["Mounts"].as_array().expect("a list") {
        let ours = mount["Source"].as_str().is_some_and(|s| s.starts_with(prefix) && !s.contains('/'));
        if mount["Type"] != "volume" || !ours || !targets.insert(mount["Target"].to_string()) {
            found.push(format!("mount {mount}"));
        }
    }
    for port in
        host["PortBindings"].as_object().into_iter().flatten().filter_map(|(_, b)| b.as_array().cloned()).flatten()
    {
        if port["HostPort"] == "0" || port["HostIp"] == "" {
            found.push(format!("port {port}"));
        }
    }
    for word in body["Env"].as_array().into_iter().flatten() {
        if !word.as_str().is_some_and(|w| !w.contains('\0') && w.find('=').is_some_and(|at| at > 0)) {
            found.push(format!("variable {word}"));
        }
    }
    found
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn no_accepted_spec_opens_the_host(spec in any_spec(), image in any_image()) {
        if let Some(body) = asked(spec, &image) {
            prop_assert_eq!(openings(&body), Vec::<String>::new());
        }
    }
}

#[test]
fn a_good_spec_is_accepted_and_an_opening_would_be_seen() {
    let spec = InstanceSpec::bare("a".parse().expect("a name"), "img:1", Workload::Container(Container::default()));
    let good = asked(spec, &ImageSeen::default()).expect("it is accepted");
    assert_eq!(openings(&good), Vec::<String>::new());
    // Negative control: each opening, put there by hand, is found.
    for (key, value) in [
        ("Privileged", serde_json::json!(true)),
        ("PidMode", serde_json::json!("host")),
        ("IpcMode", serde_json::json!("host")),
        ("NetworkMode", serde_json::json!("host")),
        ("Binds", serde_json::json!(["/var/run/docker.sock:/s"])),
        ("Devices", serde_json::json!([{"PathOnHost": "/dev/mem"}])),
        ("CapDrop", serde_json::json!([])),
        ("CapAdd", serde_json::json!(["SYS_ADMIN"])),
        ("SecurityOpt", serde_json::json!(["seccomp=unconfined"])),
        ("Sysctls", serde_json::json!({"a": "b"})),
        ("Mounts", serde_json::json!([{"Type": "bind", "Source": "/", "Target": "/x"}])),
        ("PidsLimit", serde_json::json!(-1)),
    ] {
        let mut open = good.clone();
        open["HostConfig"][key] = value;
        assert!(!openings(&open).is_empty(), "{key}");
    }
}
