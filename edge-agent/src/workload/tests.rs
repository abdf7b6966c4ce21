//! What the tests of the kinds share, and what is true of all of them.
use super::*;
use proptest::prelude::*;
use redforge_shared::{
    desired::{Cache, Container, Mosquitto, Ollama, SCHEMA, Tika},
    flows::{Flows, pack, unpack},
    ids::HostId,
    policy::Policy,
};

/// A spec with nothing but a name and a kind.
pub fn spec(name: &str, workload: Workload) -> InstanceSpec {
    InstanceSpec::bare(name.parse().expect("a name"), "img:1", workload)
}

/// A document with these instances.
pub fn state(instances: Vec<InstanceSpec>) -> DesiredState {
    DesiredState {
        schema: SCHEMA,
        host: HostId(uuid::Uuid::nil()),
        host_name: "h".parse().expect("a name"),
        site: "s".parse().expect("a name"),
        policy: Policy::Open,
        instances,
    }
}

fn rendered(spec: &InstanceSpec, others: &[InstanceSpec], given: &Given) -> Result<Rendered, Unmet> {
    let mut all = others.to_vec();
    all.push(spec.clone());
    let desired = state(all);
    let names = Names::new(desired.host);
    let secrets: Secrets = secrets_needed(&desired).into_iter().map(|(name, len)| (name, vec![7; len])).collect();
    let (flows, _) = Flows::parse(b"[]").expect("no flows");
    let set = unpack(&pack(&flows, &[]), None).expect("own flow set");
    let around = Surroundings {
        names: &names,
        desired: &desired,
        secrets: &secrets,
        given,
        flow_set: Some(&set),
        site_nonce: "",
        gateway_port: 7463,
    };
    render(spec, &ImageSeen { id: "sha256:1".into(), ..ImageSeen::default() }, around)
}

fn given(version: u64, value: &str) -> Given {
    Given::from([("api-key".parse().expect("a name"), (version, value.to_owned()))])
}

#[test]
fn a_secret_is_known_by_its_number_and_its_value_is_nowhere_else() {
    let mut spec = spec("a", Workload::Container(Container::default()));
    spec.secret_env = BTreeMap::from([("KEY".into(), "api-key".parse().expect("a name"))]);
    let missing = rendered(&spec, &[], &Given::new());
    assert_eq!(missing, Err(Unmet::Secret(vec!["api-key".into()])));
    let one = rendered(&spec, &[], &given(1, "hunter2")).expect("it is there").container;
    assert_eq!(one.secret_env["KEY"].value, "hunter2");
    // A value of the same number is the same one; in truth there is never another.
    assert_eq!(one.hash(), rendered(&spec, &[], &given(1, "else")).expect("it is there").container.hash());
    assert_ne!(one.hash(), rendered(&spec, &[], &given(2, "hunter2")).expect("it is there").container.hash());
    let told = format!("{one:?} {}", serde_json::to_string(&one).expect("JSON"));
    assert!(!told.contains("hunter2") && told.contains("api-key"), "{told}");
}

#[test]
fn what_is_not_said_has_a_limit_and_a_closed_root_where_the_image_allows() {
    let kinds = [
        Workload::NodeRed(NodeRed::default()),
        Workload::Mosquitto(Mosquitto::default()),
        Workload::Ollama(Ollama::default()),
        Workload::Valkey(Cache::default()),
        Workload::Redis(Cache::default()),
        Workload::Tika(Tika::default()),
        Workload::Container(Container::default()),
    ];
    let seen: Vec<String> = kinds
        .into_iter()
        .map(|workload| {
            let kind = workload.kind();
            let c = rendered(&spec("a", workload), &[], &Given::new()).expect("it can be rendered").container;
            assert!(c.stop_timeout_s >= 20, "{kind} is given {} s to end", c.stop_timeout_s);
            format!("{kind} pids={:?} read-only={} stop={}", c.pids, c.read_only_root, c.stop_timeout_s)
        })
        .collect();
    insta::assert_snapshot!(seen.join("\n"));
}

/// What an agent of today makes of documents of yesterday. A hash that changes here means that an update of the agent makes
/// every such container of every host anew: add fields so that an absent one leaves no trace, or mean it and say it.
#[test]
fn an_update_of_the_agent_makes_no_container_anew() {
    let kinds = [
        Workload::NodeRed(NodeRed { flow_set: Some(Digest::of(b"flows")), ..NodeRed::default() }),
        Workload::Mosquitto(Mosquitto::default()),
        Workload::Ollama(Ollama::default()),
        Workload::Valkey(Cache::default()),
        Workload::Redis(Cache::default()),
        Workload::Tika(Tika::default()),
        Workload::Container(Container { command: vec!["serve".into()], ..Container::default() }),
    ];
    let broker = spec("broker", Workload::Mosquitto(Mosquitto::default()));
    let seen: Vec<String> = kinds
        .into_iter()
        .map(|workload| {
            let kind = workload.kind();
            let others = if kind == "mosquitto" { vec![] } else { vec![broker.clone()] };
            let mut spec = spec("a", workload);
            spec.env = BTreeMap::from([("TZ".into(), "UTC".into())]);
            spec.resources.memory_bytes = Some(512 << 20);
            let container = rendered(&spec, &others, &Given::new()).expect("it can be rendered").container;
            format!("{kind} {}\n{}", container.hash(), serde_json::to_string_pretty(&container).expect("JSON"))
        })
        .collect();
    insta::assert_snapshot!(seen.join("\n\n"));
}

#[test]
fn flows_are_told_where_the_services_of_their_host_are() {
    let flows = spec("flows", Workload::NodeRed(NodeRed::default()));
    let cache = spec("memory", Workload::Valkey(Cache::default()));
    let tika = spec("reader", Workload::Tika(Tika::default()));
    let env = rendered(&flows, &[cache.clone(), tika], &Given::new()).expect("it can be rendered").container.env;
    let password = "07".repeat(24);
    assert_eq!(env["REDIS_URL"], format!("redis://:{password}@memory:6379"));
    assert_eq!(env["TIKA_URL"], "http://reader:9998");
    // With two of them nobody can know which is meant; a name says it.
    let second = spec("second", Workload::Redis(Cache::default()));
    let env =
        rendered(&flows, &[cache.clone(), second.clone()], &Given::new()).expect("it can be rendered").container.env;
    assert!(!env.contains_key("REDIS_URL"));
    let named = NodeRed { cache: Some("second".parse().expect("a name")), ..NodeRed::default() };
    let flows = spec("flows", Workload::NodeRed(named));
    let env = rendered(&flows, &[cache, second], &Given::new()).expect("it can be rendered").container.env;
    assert_eq!(env["REDFORGE_REDIS_HOST"], "second");
}

proptest! {
    /// Rendering twice gives the same bytes, whatever the limits.
    #[test]
    fn a_cache_is_rendered_the_same_twice(limit in proptest::option::of((6_u64 << 20)..(1 << 40)), max in proptest::option::of(any::<u64>())) {
        let mut spec = spec("cache", Workload::Redis(Cache { max_memory_bytes: max, ..Cache::default() }));
        spec.resources.memory_bytes = limit;
        let (a, b) = (rendered(&spec, &[], &Given::new()), rendered(&spec, &[], &Given::new()));
        prop_assert_eq!(a.clone().expect("it can be rendered").container.hash(), b.expect("it can be rendered").container.hash());
        prop_assert_eq!(a.expect("it can be rendered").data.len(), 1);
    }
}
