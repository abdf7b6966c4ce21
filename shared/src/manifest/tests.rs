//! Manifests as people write and miswrite them.
use super::*;
use crate::{desired, ids::Digest};
use proptest::prelude::*;

const GOOD: &str = r#"
apiVersion: redforge.io/v1
kind: Site
metadata: {name: plant-1, labels: {region: north}}
spec:
  timeZone: Europe/Berlin
---
apiVersion: redforge.io/v1
kind: FlowSet
metadata: {name: documents}
spec:
  flows: flows/documents.json
---
apiVersion: redforge.io/v1
kind: Instance
metadata:
  name: flows
spec:
  host: edge-1
  kind: node-red
  image: redforge.local/node-red:4.1
  env:
    SHIFT: "2"
  resources: {cpu: 0.5, memory: 256Mi, pids: 200}
  volumes:
    - {name: data, path: /data}
  ports:
    - {container: 1880, host: 18800}
  collectLogs: true
  nodeRed: {flowSet: documents, broker: broker, drift: adopt}
"#;

fn errors(text: &str) -> String {
    let errors = parse(text).expect_err("must be refused");
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_set_is_read_kind_by_kind() {
    let all = parse(GOOD).expect("a good set");
    let names: Vec<_> = all.iter().map(Manifest::resource_name).collect();
    assert_eq!(names, ["sites/plant-1", "flowsets/documents", "hosts/edge-1/instances/flows"]);
    let Manifest::Instance(instance) = &all[2] else { panic!("the third is an instance") };
    assert_eq!(instance.spec.resources.cpu, Some(Millicores(500)));
    assert_eq!(instance.spec.ports[0].address.to_string(), "127.0.0.1");
    let stored = serde_json::to_value(&instance.spec).expect("a spec is JSON");
    assert_eq!(stored["resources"]["memory"], "256Mi");
    assert_eq!(serde_json::from_value::<InstanceSpec>(stored).expect("its own JSON"), instance.spec);
}

#[test]
fn rendering_resolves_the_flow_set_and_keeps_the_rest() {
    let all = parse(GOOD).expect("a good set");
    let Manifest::Instance(instance) = &all[2] else { panic!("the third is an instance") };
    let digest = Digest::of(b"a flow set");
    let rendered = instance.spec.render(&instance.name, |name| (name.as_str() == "documents").then_some(digest));
    let desired::Workload::NodeRed(section) = &rendered.workload else { panic!("kind node-red") };
    assert_eq!(section.flow_set, Some(digest));
    assert_eq!(rendered.resources.memory_bytes, Some(256 << 20));
    assert!(rendered.collect_logs && !rendered.egress);
}

#[test]
fn errors_name_document_line_path_and_what_is_allowed() {
    insta::assert_snapshot!(errors(
        "apiVersion: redforge.io/v1\nkind: Site\nmetadata:\n  name: plant-1\n  lables: {}\n---\n\
         apiVersion: redforge.io/v1\nkind: Instance\nmetadata:\n  name: Flows\nspec: {}\n---\n\
         apiVersion: redforge.io/v2\nkind: Site\n---\nkind: Sight\napiVersion: redforge.io/v1\n---\n- just a list\n"
    ));
}

#[test]
fn every_wrong_field_of_an_instance_is_told_at_once() {
    insta::assert_snapshot!(errors(
        r#"apiVersion: redforge.io/v1
kind: Instance
metadata:
  name: flows
spec:
  host: edge-1
  kind: mosquitto
  image: "has spaces"
  env:
    REDFORGE_HOST: mine
    1ST: one
  resources:
    memory: 1Mi
    pids: 0
  volumes:
    - name: data
      path: data
    - name: data
      path: /a/../b
    - {name: cfg-1, path: /c}
  ports:
    - {container: 0, host: 80}
    - {container: 81, host: 80, address: 0.0.0.0}
  nodeRed:
    flowSet: documents
  container:
    probe: {http: {port: 80, path: health}}
"#
    ));
}

#[test]
fn a_topic_filter_that_could_be_a_second_line_of_rights_is_refused() {
    let reads = |filter: &str| {
        let filter = serde_json::Value::from(filter);
        errors(&format!(
            "apiVersion: redforge.io/v1\nkind: Instance\nmetadata: {{name: a}}\nspec:\n  host: edge-1\n  \
             kind: node-red\n  image: a:1\n  nodeRed:\n    reads:\n      - {filter}\n"
        ))
    };
    for good in ["redforge/records/event", "redforge/records/+", "$SYS/broker/clients/#", "#"] {
        assert!(parse(&format!("apiVersion: redforge.io/v1\nkind: Instance\nmetadata: {{name: a}}\nspec:\n  host: edge-1\n  kind: node-red\n  image: a:1\n  nodeRed: {{reads: [\"{good}\"]}}\n")).is_ok(), "{good}");
    }
    for bad in ["", "a b", "a\nuser b", "a/#/b", "a#", "+a/b", &"x".repeat(300)] {
        let said = reads(bad);
        assert!(said.contains("spec.nodeRed.reads[0]"), "{bad:?}: {said}");
    }
}

#[test]
fn fields_deep_inside_keep_their_line() {
    let with = |tail: &str| {
        format!(
            "apiVersion: redforge.io/v1\nkind: Instance\nmetadata: {{name: a}}\nspec:\n  host: edge-1\n  kind: container\n  image: a:1\n{tail}"
        )
    };
    insta::assert_snapshot!(
        [
            errors(&with("  imagePullPolicy: Always\n")),
            errors(&with("  ports:\n    - container: 80\n      host: 80\n    - container: 81\n      hots: 81\n")),
            errors(&with("  resources:\n    cpu: much\n")),
            errors(&with("  env:\n    PORT: 1880\n")),
            errors(&with("  ports:\n    - {container: 70000, host: 80}\n")),
            errors(&with("  container:\n    probe:\n      http: {port: 80, path: /, retries: 3}\n")),
            errors(&with("  kind: container\n")),
            errors(&with("  env: &a {A: *b}\n")),
            errors(&with("  volumes: null\n")),
        ]
        .join("\n")
    );
}

#[test]
fn hostile_texts_are_refused_and_small_in_memory() {
    let deep = format!("{}1{}", "[".repeat(4000), "]".repeat(4000));
    let block = (0..200).map(|i| format!("{}a:", " ".repeat(i))).collect::<Vec<_>>().join(
        "
",
    );
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
    for i in 1..12 {
        let refs = vec![format!("*a{}", i - 1); 9].join(", ");
        bomb.push_str(&format!("a{i}: &a{i} [{refs}]\n"));
    }
    for text in [deep, block, bomb, "---\n".repeat(2000), "x".repeat(MAX_MANIFEST_BYTES + 1)] {
        assert!(parse(&text).is_err());
    }
    assert!(errors("kind: \u{0}").contains("line 1"), "{}", errors("kind: \u{0}"));
    let inline = "apiVersion: redforge.io/v1\nkind: FlowSet\nmetadata: {name: a}\nspec:\n  flows:\n    - {id: a, type: tab}\n    - {id: a, type: tab}\n";
    assert_eq!(errors(inline), "document 1, line 5, spec.flows: flows.json, node 1: id 'a' occurs twice");
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        drop(parse(&String::from_utf8_lossy(&bytes)));
    }

    #[test]
    fn a_damaged_set_is_read_or_refused(at in 0..GOOD.len(), with in "[\\PC\n]{0,3}", cut in 0..12_usize) {
        let mut text: String = GOOD[..at].to_owned();
        text.push_str(&with);
        text.push_str(GOOD.get(at + cut..).unwrap_or_default());
        drop(parse(&text));
    }
}

const OLLAMA: &str = r#"apiVersion: redforge.io/v1
kind: Instance
metadata: {name: llm}
spec:
  host: edge-1
  kind: ollama
  image: ollama/ollama:0.32.15
  ollama:
    models:
      - {name: nomic-embed-text, digest: "sha256:DIGEST", preload: true}
    contextLength: 4096
    keepAlive: 30m
    numParallel: 2
    maxLoadedModels: 3
    prune: true
"#;

#[test]
fn an_ollama_instance_is_rendered_with_everything_it_says() {
    let digest = Digest::of(b"a model");
    let text = OLLAMA.replace("sha256:DIGEST", &digest.to_string());
    let all = parse(&text).expect("a good set");
    let Manifest::Instance(instance) = &all[0] else { panic!("an instance") };
    let desired::Workload::Ollama(o) = instance.spec.render(&instance.name, |_| None).workload else {
        panic!("kind ollama")
    };
    let model = desired::Model { name: "nomic-embed-text".into(), digest, preload: true, blobs: vec![] };
    assert_eq!(o.models, [model]);
    assert_eq!((o.context_length, o.num_parallel, o.max_loaded_models, o.prune), (Some(4096), Some(2), Some(3), true));
    assert_eq!(o.keep_alive.as_deref(), Some("30m"));
    // What is not said is not in the document: hashes of older documents stay.
    let bare = serde_json::to_string(&desired::Ollama::default()).expect("JSON");
    assert_eq!(bare, r#"{"models":[]}"#);
}

#[test]
fn settings_of_ollama_that_make_no_sense_are_refused_by_name() {
    let text = OLLAMA.replace("sha256:DIGEST", &Digest::of(b"a model").to_string());
    for (from, to, problem) in [
        ("contextLength: 4096", "contextLength: 12", "spec.ollama.contextLength: must be 256 to 1048576 tokens"),
        ("numParallel: 2", "numParallel: 0", "spec.ollama.numParallel: must be 1 to 64"),
        ("maxLoadedModels: 3", "maxLoadedModels: 65", "spec.ollama.maxLoadedModels: must be 1 to 64"),
        ("keepAlive: 30m", "keepAlive: -2m", "'-2m' is not a time such as"),
        ("keepAlive: 30m", "keepAlive: \"\"", "'' is not a time such as"),
        ("keepAlive: 30m", "keepAlive: \"5 m\"", "'5 m' is not a time such as"),
        (
            "  ollama:\n",
            "  env: {OLLAMA_NO_CLOUD: \"0\"}\n  ollama:\n",
            "spec.env.OLLAMA_NO_CLOUD: is set by the agent",
        ),
        ("  ollama:\n", "  secretEnv: {OLLAMA_NO_CLOUD: a}\n  ollama:\n", "spec.secretEnv.OLLAMA_NO_CLOUD: is set by"),
        ("  ollama:\n", "  secretEnv: {OLLAMA_CONTEXT_LENGTH: a}\n  ollama:\n", "spec.ollama.contextLength instead"),
        ("  ollama:\n", "  env: {OLLAMA_NUM_PARALLEL: \"8\"}\n  ollama:\n", "write spec.ollama.numParallel instead"),
        ("preload: true", "preload: true, blobs: []", "unknown field"),
    ] {
        assert!(text.contains(from), "{from}");
        let said = errors(&text.replace(from, to));
        assert!(said.contains(problem), "{to}: {said}");
    }
    // As many as fit, said or not, and one more.
    let many = |n: usize| {
        let model = |i| format!("      - {{name: m{i}, digest: \"{}\", preload: true}}\n", Digest::of(b"a model"));
        OLLAMA.replace(
            "      - {name: nomic-embed-text, digest: \"sha256:DIGEST\", preload: true}\n",
            &(0..n).map(model).collect::<String>(),
        )
    };
    let unsaid = |n| many(n).replace("    maxLoadedModels: 3\n", "");
    assert!(parse(&many(3)).is_ok() && parse(&unsaid(3)).is_ok());
    for text in [many(4), unsaid(4)] {
        assert!(
            errors(&text).contains("spec.ollama.maxLoadedModels: 4 models are preloaded and 3"),
            "{}",
            errors(&text)
        );
    }
    for good in ["-1", "0", "300", "90s", "24h", "500ms"] {
        assert!(parse(&text.replace("30m", &format!("\"{good}\""))).is_ok(), "{good}");
    }
}

#[test]
fn replicas_are_refused_where_they_cannot_be_with_what_to_do_instead() {
    let with = |kind: &str, tail: &str| {
        format!(
            "apiVersion: redforge.io/v1\nkind: Instance\nmetadata: {{name: a}}\nspec:\n  host: edge-1\n  \
             kind: {kind}\n  image: a:1\n{tail}\n"
        )
    };
    let scaled = "  resources: {memory: 64Mi}\n  autoscale: {max: 3, queue: 100}";
    for good in [
        with("node-red", "  replicas: 32"),
        with("node-red", scaled),
        with("mosquitto", "  replicas: 1"),
        with("container", "  replicas: 1\n  volumes: [{name: d, path: /d}]"),
        with("container", "  resources: {cpu: 500m, memory: 64Mi}\n  autoscale: {min: 2, max: 2, cpuPercent: 70}"),
        with("container", &format!("  container: {{broker: b}}\n{scaled}")),
    ] {
        assert!(parse(&good).is_ok(), "{good}");
    }
    let refused = [
        ("container", "  replicas: 0"),
        ("container", "  replicas: 33"),
        ("mosquitto", "  replicas: 2"),
        ("ollama", "  replicas: 2"),
        ("container", "  replicas: 2\n  volumes: [{name: d, path: /d}]"),
        ("container", "  replicas: 2\n  ports: [{container: 80, host: 8080}]"),
        ("node-red", "  replicas: 2\n  autoscale: {max: 3, queue: 1}"),
        ("node-red", "  autoscale: {min: 4, max: 3, queue: 0}"),
        ("node-red", "  autoscale: {min: 0, max: 40, queue: 1, scaleDownAfterSeconds: 3601}"),
        ("node-red", "  autoscale: {max: 3}"),
        ("node-red", "  autoscale: {max: 3, cpuPercent: 70, queue: 1}"),
        ("node-red", "  autoscale: {max: 3, cpuPercent: 70}"),
        ("node-red", "  resources: {cpu: 1}\n  autoscale: {max: 3, cpuPercent: 101}"),
        ("container", "  autoscale: {max: 3, queue: 1}"),
    ];
    insta::assert_snapshot!(refused.map(|(kind, tail)| errors(&with(kind, tail))).join("\n"));
}

#[test]
fn one_replica_is_what_a_document_without_the_word_means_and_its_hash_stays() {
    let plain = |replicas| {
        let workload = desired::Workload::Container(desired::Container::default());
        desired::InstanceSpec { replicas, ..desired::InstanceSpec::bare("a".parse().expect("a name"), "a:1", workload) }
    };
    let text = serde_json::to_string(&plain(1)).expect("JSON");
    assert!(!text.contains("replicas") && !text.contains("autoscale"), "{text}");
    assert_eq!(serde_json::from_str::<desired::InstanceSpec>(&text).expect("its own JSON"), plain(1));
    assert_ne!(plain(1).hash(), plain(3).hash());
}

#[test]
fn a_guest_of_a_runtime_says_nothing_that_is_the_runtimes() {
    let with = |tail: &str| {
        format!(
            "apiVersion: redforge.io/v1\nkind: Instance\nmetadata: {{name: a}}\nspec:\n  host: edge-1\n  \
             kind: node-red\n{tail}\n"
        )
    };
    for good in ["  nodeRed: {flowSet: f, runtime: main}", "  suspend: true\n  nodeRed: {flowSet: f, runtime: main}"] {
        assert_eq!(parse(&with(good)).map(|m| m.len()), Ok(1), "{good}");
    }
    let refused = [
        "  nodeRed: {runtime: main}",
        "  image: a:1\n  env: {TZ: UTC}\n  replicas: 2\n  nodeRed: {flowSet: f, runtime: main, drift: report, broker: b}",
        "  ports: [{container: 1880, host: 1880}]\n  resources: {memory: 64Mi}\n  nodeRed: {flowSet: f, runtime: main}",
        // Without a runtime it needs an image, as ever.
        "  nodeRed: {flowSet: f}",
    ];
    insta::assert_snapshot!(refused.map(|tail| errors(&with(tail))).join("\n"));
}

#[test]
fn what_the_agent_gives_a_node_red_is_not_an_operators_to_give() {
    let with = |tail: &str| {
        format!(
            "apiVersion: redforge.io/v1\nkind: Instance\nmetadata: {{name: a}}\nspec:\n  host: edge-1\n  \
             kind: node-red\n  image: a:1\n{tail}\n"
        )
    };
    assert!(parse(&with("  env: {NODE_OPTIONS: --dns-result-order=ipv4first}")).is_ok());
    for (lines, problem) in [
        (
            "  env: {NODE_OPTIONS: --max-old-space-size=4000}",
            "spec.env.NODE_OPTIONS: the heap follows resources.memory",
        ),
        (
            "  env: {NODE_OPTIONS: --max_old_space_size=4000}",
            "spec.env.NODE_OPTIONS: the heap follows resources.memory",
        ),
        ("  secretEnv: {NODE_OPTIONS: a}", "spec.secretEnv.NODE_OPTIONS: is no secret"),
        ("  env: {FLOWS: mine.json}", "spec.env.FLOWS: is set by the agent"),
        ("  secretEnv: {FLOWS: a}", "spec.secretEnv.FLOWS: is set by the agent"),
    ] {
        let said = errors(&with(lines));
        assert!(said.contains(problem), "{lines}: {said}");
    }
}
