//! redforgectl on a real hub: what it changes, what it leaves alone, what it says, and with which exit code it ends.
use crate::words::{broker, idler, instance, node_red, speaking_flow};
use redforge_tests::{
    agent::TestAgent,
    ctl::Ctl,
    engine::image,
    flowless::{Embedder, MODEL, broker_of},
    hub::{TestHub, Wishes},
    place::{binary, command, run, text},
    publisher::Publisher,
    wait::{eventually, when},
};
use serde_json::{Value, json};
use std::time::Duration;

const SITE: &str = "apiVersion: redforge.io/v1\nkind: Site\nmetadata:\n  name: plant\n  labels: {line: a}\nspec:\n  timeZone: Europe/Berlin\n";
const FLOW_SET: &str =
    "---\napiVersion: redforge.io/v1\nkind: FlowSet\nmetadata:\n  name: speak\nspec:\n  flows: flows.json\n";

fn names(list: &Value) -> Vec<String> {
    list.as_array().expect("a list").iter().map(|o| o["name"].as_str().expect("a name").to_owned()).collect()
}

#[tokio::test]
async fn a_set_is_applied_whole_or_not_at_all_whatever_its_order() {
    let hub = TestHub::start().await;
    let ctl = Ctl::new(&hub);
    let mut agent = TestAgent::prepare("press-1");
    // The instance comes first in the folder, what it needs comes last.
    let flows = instance("press-1", "flows", "node-red", "node-red:1", "  nodeRed: {flowSet: speak}\n");
    ctl.file("set/a-flows.yaml", flows.replace("  name: flows\n", "  name: flows\n  labels: {owner: ann}\n"));
    ctl.file("set/b-nowhere.yaml", idler("press-9", "worker"));
    ctl.file("set/flows.json", speaking_flow());
    ctl.file("set/y-set.yml", FLOW_SET);
    ctl.file("set/z-site.yaml", SITE);

    // One document is wrong: nothing of the set is there afterwards, not even the flow set that was a file.
    let refused = ctl.run(&["apply", "-f", "set"]).bad(1);
    assert!(
        refused.contains("set/b-nowhere.yaml:2: hosts/press-9/instances/worker spec.host: hosts/press-9"),
        "{refused}"
    );
    assert!(refused.contains("hint: nothing was changed"), "{refused}");
    for kind in ["sites", "flowsets", "instances"] {
        assert_eq!(ctl.run(&["get", kind, "-o", "json"]).json(), json!([]), "{kind} were applied half");
    }
    ctl.file("set/b-nowhere.yaml", SITE.replace("timeZone", "timezone").replace("plant", "yard"));
    let refused = ctl.run(&["apply", "-f", "set"]).bad(1);
    assert!(refused.contains("set/b-nowhere.yaml:7: spec.timezone: unknown field"), "{refused}");
    std::fs::remove_file(ctl.dir().join("set/b-nowhere.yaml")).expect("it is there");

    ctl.run(&["apply", "-f", "set/z-site.yaml"]).good();
    agent.enroll_at(&hub).await;
    ctl.run(&["apply", "-f", "set/z-site.yaml"]).good();
    let dry = ctl.run(&["apply", "-f", "set", "--dry-run", "-o", "json"]).json();
    assert_eq!(names(&dry), ["flowsets/speak", "hosts/press-1/instances/flows", "sites/plant"]);
    assert_eq!(ctl.run(&["get", "flowsets", "-o", "json"]).json(), json!([]), "a dry run changed something");
    let applied = ctl.run(&["apply", "-f", "set", "-o", "json"]).json();
    let actions: Vec<_> = applied.as_array().expect("a list").iter().map(|r| r["action"].as_str()).collect();
    assert_eq!(actions, [Some("created"), Some("created"), Some("unchanged")]);
    // The same again, from standard input and in another order, changes nothing.
    ctl.file("flows.json", speaking_flow());
    let stdin =
        format!("{}{FLOW_SET}---\n{SITE}", std::fs::read_to_string(ctl.dir().join("set/a-flows.yaml")).expect("it"));
    let again = ctl.run_with(&["apply", "-f", "-"], &stdin).good();
    assert_eq!(again.matches("unchanged").count(), 3, "{again}");

    // What `get -o yaml` gives goes back in; a change is shown field by field before it is made.
    let yaml = ctl.run(&["get", "instance", "press-1/flows", "-o", "yaml"]).good();
    assert!(yaml.contains("owner: ann"), "{yaml}");
    assert!(ctl.run_with(&["apply", "-f", "-"], &yaml).good().contains("unchanged"));
    let newer = yaml.replace("node-red:1", "node-red:2");
    let shown = ctl.run_with(&["apply", "-f", "-", "--dry-run"], &newer);
    assert!(
        shown.out.contains("configured") && shown.out.contains(r#"spec.image: "node-red:1" -> "node-red:2""#),
        "{shown:?}"
    );
    assert!(shown.err.contains("nothing was changed"), "{shown:?}");
    assert!(ctl.run_with(&["apply", "-f", "-"], &newer).good().contains("configured, revision 2"));
}

#[tokio::test]
async fn every_exit_code_is_what_the_manual_says() {
    let mut hub = TestHub::start().await;
    let ctl = Ctl::new(&hub);
    assert!(ctl.run(&["--help"]).good().contains("Exit codes:"));
    ctl.file("site.yaml", SITE);
    ctl.run(&["apply", "-f", "site.yaml"]).good();
    let mut agent = TestAgent::prepare("press-1").without_docker();
    agent.enroll_at(&hub).await;
    ctl.file("worker.yaml", idler("press-1", "worker"));

    let broken = ctl.run_with(&["apply", "-f", "-"], "kind: [").bad(1);
    assert!(broken.starts_with("error: stdin:"), "{broken}");
    assert!(ctl.run(&["get", "gadgets"]).bad(2).contains("possible values: hosts, instances"));
    for (args, what) in [
        (&["get", "host", "pres-1"][..], "did you mean 'press-1'"),
        (&["token", "create", "--site", "plan"], "did you mean 'plant'"),
        (&["logs", "press-1/nothing"], "hosts/press-1/instances/nothing does not exist"),
        (&["delete", "instance", "press-1/nothing"], "does not exist"),
        (&["apply", "-f", "nowhere.yaml"], "nowhere.yaml cannot be read"),
        (&["search", "anything"], "no vector has arrived yet"),
    ] {
        let said = ctl.run(args).bad(3);
        assert!(said.contains(what), "{args:?}: {said}");
    }
    // A filter by a host that is not there is a mistake, not an empty list.
    for args in [
        &["records", "--host", "pres-1"][..],
        &["streams", "--host", "pres-1"],
        &["get", "instances", "--host", "pres-1"],
        &["get", "events", "--host", "pres-1"],
    ] {
        let said = ctl.run(args).bad(3);
        assert!(
            said.contains("hosts/pres-1 does not exist") && said.contains("did you mean 'press-1'"),
            "{args:?}: {said}"
        );
    }
    assert!(ctl.run(&["search", "--like", "nope"]).bad(2).contains("records --class vector -o name"));
    assert!(ctl.run(&["search", "--vector", "/nowhere.json"]).bad(3).contains("/nowhere.json cannot be read"));
    let agents = format!("https://127.0.0.1:{}", hub.agents_port);
    assert!(ctl.run(&["get", "hosts", "--hub", &agents]).bad(1).contains("operators' door, and not the agents'"));
    // The hint of a missing site is a line that can be run.
    let said = ctl.run(&["token", "create", "--site", "warehouse"]).bad(3);
    assert!(said.contains("hint: there is: plant"), "{said}");
    let line = said.lines().find_map(|l| l.split_once("creates it: ")).expect("a line to run").1.to_owned();
    let manifest = line.split('\'').nth(1).expect("a manifest in quotes").to_owned();
    assert!(ctl.run_with(&["apply", "-f", "-"], &manifest).good().contains("sites/warehouse created"));
    let said = ctl.run(&["resume", "press-1"]).bad(4);
    assert!(said.contains("hosts/press-1 is not paused"), "{said}");

    let made = hub.tool(&["admin", "token", "create", "--name", "guest", "--role", "viewer"]);
    assert!(made.status.success(), "{}", text(&made));
    let viewer = Ctl::with_token(&hub, String::from_utf8_lossy(&made.stdout).trim());
    viewer.run(&["get", "hosts"]).good();
    viewer.file("worker.yaml", idler("press-1", "worker"));
    for args in [
        &["apply", "-f", "worker.yaml"][..],
        &["token", "create", "--site", "plant"],
        &["resume", "press-1"],
        &["delete", "instance", "press-1/x"],
    ] {
        let said = viewer.run(args);
        let expected = if args[0] == "delete" { 3 } else { 5 };
        assert_eq!(said.code, expected, "{args:?}: {said:?}");
        assert!(expected == 3 || said.err.contains("guest"), "{args:?}: {said:?}");
    }
    let stranger = Ctl::with_token(&hub, "rfo_nobody");
    assert!(stranger.run(&["get", "hosts"]).bad(5).contains("this token is not known"), "who is let in");

    // The host never connects: the change is made, and the wait for it ends.
    let said = ctl.run(&["apply", "-f", "worker.yaml", "--wait", "--timeout", "1s"]).bad(6);
    assert!(said.contains("not all runs as desired after 1s") && said.contains("NeverSeen"), "{said}");
    // 7 is in the story of the flow set whose node type nobody has.

    hub.stop().await;
    let said = ctl.run(&["get", "hosts"]).bad(8);
    assert!(said.contains("cannot be reached") && said.contains("hint: is the hub running"), "{said}");
}

#[tokio::test]
async fn the_printed_line_enrolls_a_host_as_it_is() {
    let hub = TestHub::start().await;
    let ctl = Ctl::new(&hub);
    ctl.run_with(&["apply", "-f", "-"], SITE).good();
    let made = ctl.run(&["token", "create", "--site", "plant", "--host-name", "press-7", "--ttl", "10m"]);
    assert!(made.err.contains("Run this on the host, until "), "{made:?}");
    let line = made.good();
    assert_eq!(line.lines().count(), 1, "only the line is data: {line}");
    let folder = binary("redforge-edge").parent().expect("a folder").display().to_string();
    let mut shell = command("/bin/sh".as_ref());
    shell.arg("-c").arg(&line).env("PATH", format!("{folder}:/usr/bin:/bin"));
    shell.env("REDFORGE_EDGE__STATE__DIR", ctl.dir().join("edge"));
    let out = run(&mut shell, Duration::from_secs(60));
    assert!(out.status.success(), "{line}{}", text(&out));
    let host = ctl.run(&["get", "host", "press-7", "-o", "json"]).json();
    assert_eq!((host["site"].as_str(), host["link"].as_str()), (Some("sites/plant"), Some("NeverSeen")));
    let object = ctl.run(&["token", "create", "--site", "plant", "-o", "json"]).json();
    for key in ["token", "caPin", "hubUrl", "expiresAt", "command"] {
        assert!(object[key].as_str().is_some_and(|v| !v.is_empty()), "{key}: {object}");
    }
}

#[tokio::test]
async fn docker_an_editor_export_runs_is_followed_and_is_removed() {
    let mut hub = TestHub::start().await;
    let _agent = TestAgent::start(&hub, "press-1").await;
    let ctl = Ctl::new(&hub);
    let mut nodes: Value = serde_json::from_slice(&speaking_flow()).expect("JSON");
    nodes.as_array_mut().expect("nodes").push(json!({"id": "erp", "type": "http request", "z": "t1", "name": "erp",
        "wires": [[]], "credentials": {"user": "ann", "password": "s3cret-of-ann"}}));
    ctl.file("export.json", nodes.to_string());
    // Nobody says which image: the refusal says what to do, and leaves nothing behind.
    let said = ctl.run(&["flowset", "push", "speak", "export.json", "--to", "press-1"]).bad(3);
    assert!(said.contains("hint: this gives the host a Node-RED and a broker, and pushes the flows"), "{said}");
    assert!(said.contains("has no mosquitto instance either"), "{said}");
    let quiet = r#"[{"id":"i","type":"inject","z":"t","wires":[[]]},{"id":"t","type":"tab","label":"T"}]"#;
    let plain = ctl.run_with(&["flowset", "push", "speak", "-", "--to", "press-1"], quiet).bad(3);
    assert!(plain.contains("this gives the host a Node-RED, and pushes") && !plain.contains("mosquitto:"), "{plain}");
    // What is printed can be applied as it is.
    let manifests = said.split("<<'END'\n").nth(1).and_then(|s| s.split("END\n").next()).expect("manifests").to_owned();
    let dry = ctl.run_with(&["apply", "--dry-run", "-f", "-", "-o", "name"], &manifests).good();
    let mut named: Vec<&str> = dry.lines().collect();
    named.sort_unstable();
    assert_eq!(named, ["hosts/press-1/instances/broker", "hosts/press-1/instances/speak"], "{said}");
    assert!(said.contains("redforgectl flowset push speak export.json --to press-1 --wait"), "{said}");
    assert_eq!(ctl.run(&["get", "flowsets", "-o", "name"]).good(), "");
    let base = broker("press-1")
        + &instance(
            "press-1",
            "lines",
            "container",
            &image("busybox"),
            "  collectLogs: true\n  container:\n    command: [sh, -c, 'n=0; while true; do n=$((n+1)); echo line $n; sleep 1; done']\n",
        );
    let applied = ctl.run_with(&["apply", "-f", "-", "--wait"], &base);
    assert!(applied.err.contains("runs as desired"), "{applied:?}");

    let mut watching = ctl.start(&["get", "instances", "-w", "-o", "json"]);
    let pushed = ctl.run(&[
        "flowset",
        "push",
        "speak",
        "export.json",
        "--to",
        "press-1",
        "--image",
        &image("node-red"),
        "--wait",
    ]);
    assert!(pushed.err.contains("erp (erp): password") && pushed.err.contains("erp (erp): user"), "{pushed:?}");
    assert!(
        pushed.err.contains("node types function") || pushed.err.contains("node types complete, function"),
        "{pushed:?}"
    );
    assert!(!format!("{pushed:?}").contains("s3cret"), "{pushed:?}");
    assert!(pushed.good().contains("flowsets/speak pushed, revision 1"));
    eventually("the watcher saw the instance come up", async || {
        let seen = watching.said();
        when(seen.iter().any(|l| l.contains("instances/speak") && l.contains("\"Running\"")), seen.len())
    })
    .await;
    watching.kill9();
    let again = ctl.run(&["flowset", "push", "speak", "export.json", "--to", "press-1", "--wait"]).good();
    assert!(again.contains("unchanged, revision 1"), "{again}");

    follows_through_an_outage(&ctl, &mut hub).await;
    let all = ctl.run(&["logs", "press-1/lines", "--tail", "1000"]).good().lines().count();
    let recent = ctl.run(&["logs", "press-1/lines", "--since", "3s"]).good().lines().count();
    assert!(recent < all && recent <= 5, "{recent} of {all}");
    let none = ctl.run(&["logs", "press-1/lines", "--since", "2999-01-01T00:00:00Z"]);
    assert!(none.out.is_empty() && none.err.contains("since then"), "{none:?}");
    // New lines go first after a cut: those of the cut are a gap until they have come too.
    let logs = eventually("nothing of the cut is missing", async || {
        let streams = ctl.run(&["streams", "-o", "json"]).json();
        let logs = streams.as_array().expect("a list").iter().find(|s| s["class"] == "log").expect("a log stream");
        when(logs["committed"].as_u64() > Some(3) && logs["gaps"] == 0, logs.to_string())?;
        Ok::<_, String>(logs.clone())
    })
    .await;
    assert_eq!(logs["lost"], 0, "{logs}");
    assert!(logs["resent"].is_u64() && logs["host"] == "hosts/press-1", "{logs}");
    let host = ctl.run(&["get", "host", "press-1", "-o", "json"]).json();
    assert!(host["outbox"].as_array().is_some_and(|o| o.iter().all(|c| c["absorbed"].is_u64())), "{host}");

    a_missing_type_is_named_and_a_deleted_instance_goes(&ctl, &nodes, &host).await;
}

async fn a_missing_type_is_named_and_a_deleted_instance_goes(ctl: &Ctl, nodes: &Value, host: &Value) {
    // A node type that nobody has: 7, the type by name.
    let warp = nodes.to_string().replace("\"http request\"", "\"warp drive\"");
    let said = ctl.run_with(&["flowset", "push", "speak", "-", "--wait"], &warp).bad(7);
    assert!(said.contains("MissingTypes: warp drive"), "{said}");
    let deleted = ctl.run(&["delete", "instance", "press-1/speak"]).good();
    assert_eq!(deleted, "hosts/press-1/instances/speak deleted\n");
    eventually("its container is gone", async || {
        let left = redforge_tests::engine::try_docker(&[
            "ps",
            "-q",
            "--filter",
            "label=redforge.instance=speak",
            "--filter",
            &format!("label=redforge.host={}", host["id"].as_str().expect("an id")),
        ]);
        when(left.as_deref().is_ok_and(str::is_empty), left)
    })
    .await;
    ctl.run(&["get", "instance", "press-1/speak"]).bad(3);
}

/// The hub goes away and comes back under two that follow: both go on, and no line comes twice.
async fn follows_through_an_outage(ctl: &Ctl, hub: &mut TestHub) {
    let mut following = ctl.start(&["logs", "press-1/lines", "-f", "--tail", "1"]);
    following.line("line ", Duration::from_secs(60)).await;
    eventually("lines keep coming", async || when(following.said().len() > 3, following.said())).await;
    let mut watching = ctl.start(&["get", "hosts", "-w", "-o", "json"]);
    watching.line("{", Duration::from_secs(60)).await;
    hub.stop().await;
    for follower in [&mut following, &mut watching] {
        eventually("it says that the hub is away", async || {
            when(follower.said().iter().any(|l| l.contains("dialling again")), follower.said())
        })
        .await;
    }
    hub.up().await;
    let lines = |said: &[String]| said.iter().filter(|l| l.starts_with("line ")).cloned().collect::<Vec<_>>();
    let before = lines(&following.said()).len();
    eventually("lines come again", async || when(lines(&following.said()).len() > before + 3, following.said())).await;
    watching.line("the hub is back", Duration::from_secs(60)).await;
    let (mut seen, all) = (lines(&following.said()), lines(&following.said()).len());
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), all, "a line came twice");
    following.kill9();
    watching.kill9();
}

#[tokio::test]
async fn docker_search_finds_by_words_by_likeness_and_by_a_file() {
    let embedder = Embedder::start("rft-ctl-embedder").await;
    let more = format!("[search]\nembed_url = \"{}\"\nstandin = true\n", embedder.url);
    let hub = TestHub::start_with(Wishes { more, ..Default::default() }).await;
    let agent = TestAgent::start(&hub, "press-1").await;
    let ctl = Ctl::new(&hub);
    ctl.run_with(&["apply", "-f", "-", "--wait"], &(broker("press-1") + &node_red("press-1", "flows", None))).good();
    let broker = broker_of(&mut hub.operator().await, &agent).await;
    let mut publisher = Publisher::new(&broker, "notes", &ctl.dir().join("journal"));
    let notes = ["The conveyor belt stopped because a bearing had seized.", "Paint was too thick after the weekend."];
    let mut vectors = Vec::new();
    for (i, note) in notes.iter().enumerate() {
        let vector = embedder.embed(note).await;
        let record = json!({"key": format!("n{i}"), "collection": "notes", "source": format!("note-{i}"), "ordinal": 0,
            "model": MODEL, "model_digest": embedder.digest, "dim": vector.len(), "vector": vector, "text": note});
        publisher.publish_record("vector", &format!("n{i}"), &record).await;
        vectors.push(vector);
    }
    publisher.all_acked().await;
    eventually("both vectors are there", async || {
        let n = ctl.run(&["records", "--class", "vector", "-o", "name"]).good().lines().count();
        when(n == 2, n)
    })
    .await;
    let by_words = ctl.run(&["search", "a bearing had seized on the belt", "-o", "json"]);
    assert!(by_words.err.contains("Ollama stand-in"), "{by_words:?}");
    let hits = by_words.json();
    assert_eq!((hits[0]["source"].as_str(), hits[0]["rank"].as_u64()), (Some("note-0"), Some(1)), "{hits}");
    let record = hits[0]["record"].as_str().expect("a record").to_owned();
    let like = ctl.run(&["search", "--like", &record, "-o", "json"]);
    assert!(like.err.contains("Ollama stand-in"), "{like:?}");
    let like = like.json();
    assert!(like.as_array().is_some_and(|l| !l.is_empty()), "{like}");
    ctl.file("query.json", json!(vectors[1]).to_string());
    let by_file = ctl.run(&["search", "--vector", "query.json", "-o", "json"]);
    assert!(by_file.err.contains("Ollama stand-in"), "{by_file:?}");
    let by_file = by_file.json();
    assert_eq!(by_file[0]["source"], "note-1", "{by_file}");
    assert!(by_file[0]["score"].as_f64() > Some(0.999), "{by_file}");
    ctl.file("short.json", "[1, 2]");
    let said = ctl.run(&["search", "--vector", "short.json"]).bad(1);
    assert!(said.contains("components") || said.contains("dim"), "{said}");
    let rows = ctl.run(&["records", "--class", "vector", "--key", "n1"]).good();
    assert!(rows.contains("notes note-1#0 Paint") && rows.lines().count() == 2, "{rows}");
    let collections = ctl.run(&["get", "collections"]).good();
    assert!(collections.contains("redforge-standin-embed (Ollama stand-in)"), "{collections}");
    // An instance's kind says it too, and a real image's does not.
    for (reference, word) in
        [(image("ollama-standin"), "ollama (Ollama stand-in)"), ("ollama/ollama:0.32.15".into(), "ollama")]
    {
        ctl.run_with(&["apply", "-f", "-"], &instance("press-1", "models", "ollama", &reference, "  suspend: true\n"))
            .good();
        let shown = ctl.run(&["get", "instance", "press-1/models"]).good();
        let kind = shown.lines().nth(1).expect("a row").split("  ").filter(|c| !c.is_empty()).nth(2).map(str::trim);
        assert_eq!(kind, Some(word), "{shown}");
    }
}
