//! An earlier revision of an instance comes back with one command.
use crate::words::{broker, instance, node_red, speaking_flow};
use redforge_shared::{
    clock::{Clock as _, SystemClock},
    desired::Developer,
};
use redforge_tests::{agent::TestAgent, ctl::Ctl, hub::TestHub, node_red::NodeRed};
use std::time::Duration;

fn version(n: u32) -> String {
    let more = format!("  env: {{VERSION: \"{n}\"}}\n  container:\n    command: [sleep, \"100000\"]\n");
    instance("press-1", "web", "container", "localhost:1/web:1", &more)
}

#[tokio::test]
async fn one_command_brings_the_previous_revision_of_an_instance_back() {
    let hub = TestHub::start().await;
    let mut agent = TestAgent::prepare("press-1").without_docker();
    agent.enroll_at(&hub).await;
    let ctl = Ctl::new(&hub);
    let now = || {
        let json = ctl.run(&["get", "instances", "press-1/web", "-o", "json"]).json();
        let web = json.as_array().map_or(&json, |all| &all[0]);
        (
            web["revision"].as_u64().expect("a number"),
            web["spec"]["env"]["VERSION"].as_str().expect("a text").to_owned(),
        )
    };
    for n in 1..=3 {
        let file = ctl.file("web.yaml", version(n));
        ctl.run(&["apply", "-f", &file.display().to_string()]).good();
    }
    assert_eq!(now(), (3, "3".into()));
    let said = ctl.run(&["rollback", "hosts/press-1/instances/web"]).good();
    assert_eq!(said.trim(), "hosts/press-1/instances/web is what revision 2 was, now revision 4");
    assert_eq!(now(), (4, "2".into()));
    // Going back is a revision too: once more brings the one of before.
    ctl.run(&["rollback", "instance/web"]).good();
    assert_eq!(now(), (5, "3".into()));
    let said = ctl.run(&["rollback", "press-1/web", "--to", "1"]).good();
    assert_eq!(said.trim(), "hosts/press-1/instances/web is what revision 1 was, now revision 6");
    assert_eq!(now(), (6, "1".into()));
    let table = ctl.run(&["get", "instances"]).good();
    let row = table.lines().nth(1).expect("a row");
    assert!(table.contains("REVISION") && row.split_whitespace().any(|w| w == "6"), "{table}");
    let events = ctl.run(&["get", "events"]).good();
    assert!(
        events.contains("INSTANCE_ROLLED_BACK") && events.contains("from revision 5 to what revision 1 was"),
        "{events}"
    );

    let refused = ctl.run(&["rollback", "press-1/web", "--to", "9"]).bad(4);
    assert!(refused.contains("has no revision 9 before its revision 6"), "{refused}");
    let refused = ctl.run(&["rollback", "press-1/wbe"]).bad(3);
    assert!(refused.contains("did you mean 'press-1/web'"), "{refused}");
    let refused = ctl.run(&["rollback", "instance/wbe"]).bad(3);
    assert!(refused.contains("there is: web"), "{refused}");
    let only = ctl.file("only.yaml", version(1).replace("name: web", "name: only"));
    ctl.run(&["apply", "-f", &only.display().to_string()]).good();
    let refused = ctl.run(&["rollback", "press-1/only"]).bad(4);
    assert!(refused.contains("has never been another than it is at revision 1"), "{refused}");
    let created = hub.tool(&["admin", "token", "create", "--name", "watcher", "--role", "viewer"]);
    let token = String::from_utf8_lossy(&created.stdout).trim().to_owned();
    let viewer = Ctl::with_token(&hub, token.lines().last().unwrap_or_default());
    let refused = viewer.run(&["rollback", "press-1/web"]).bad(5);
    assert!(refused.contains("needs the role operator"), "{refused}");
    assert_eq!(now(), (6, "1".into()));
}

#[tokio::test]
async fn going_back_opens_no_editor_that_was_closed_and_closes_none_that_is_open() {
    let hub = TestHub::start().await;
    let mut agent = TestAgent::prepare("press-1").without_docker();
    agent.enroll_at(&hub).await;
    let ctl = Ctl::new(&hub);
    let until = (SystemClock.now() + Duration::from_secs(3600)).replace_nanosecond(0).expect("whole");
    let developer = serde_json::to_value(Developer { until, password_sha256: None }).expect("JSON");
    let apply = |version: u32, open: bool| {
        let more = if open { format!("  nodeRed: {{developer: {developer}}}\n") } else { String::new() };
        let image = format!("localhost:1/node-red:{version}");
        ctl.run_with(&["apply", "-f", "-"], &instance("press-1", "flows", "node-red", &image, &more)).good();
    };
    let now = || {
        let spec = ctl.run(&["get", "instance", "press-1/flows", "-o", "json"]).json()["spec"].clone();
        let image = spec["image"].as_str().expect("one").rsplit(':').next().expect("a tag").to_owned();
        (image, spec["nodeRed"]["developer"].is_object())
    };
    apply(1, false);
    apply(2, false);
    apply(2, true);
    assert_eq!(now(), ("2".into(), true));
    apply(2, false);
    // Revisions 2 and 3 are no other version than 4 is.
    let said = ctl.run(&["rollback", "press-1/flows"]).good();
    assert!(said.contains("is what revision 1 was, now revision 5"), "{said}");
    assert_eq!(now(), ("1".into(), false));
    ctl.run(&["rollback", "press-1/flows", "--to", "3"]).good();
    assert_eq!(now(), ("2".into(), false), "its editor was open then");
    apply(2, true);
    ctl.run(&["rollback", "press-1/flows"]).good();
    assert_eq!(now(), ("1".into(), true), "somebody is at work");
}

#[tokio::test]
async fn docker_one_command_brings_the_flows_of_before_back_to_every_instance() {
    let hub = TestHub::start().await;
    let agent = TestAgent::start(&hub, "press-1").await;
    let ctl = Ctl::new(&hub);
    let good = String::from_utf8(speaking_flow()).expect("JSON");
    let push = |flows: &str| ctl.run_with(&["flowset", "push", "speak", "-"], flows).good();
    push(&good);
    let both = broker("press-1") + &node_red("press-1", "flows", Some("speak"));
    ctl.run_with(&["apply", "-f", "-", "--wait"], &both).good();
    let runtime = NodeRed { container: agent.container("flows").expect("it runs") };
    let url = || runtime.flows()["flows"][2]["url"].clone();
    let run = runtime.run();

    // The second works too, and is not what was wanted: a rollback of the instance would not help, it names the flow set only.
    ctl.run_with(&["flowset", "push", "speak", "-", "--wait"], &good.replace("/say", "/tell")).good();
    assert_eq!(url(), "/tell");
    ctl.run(&["rollback", "press-1/flows"]).bad(4);
    let said = ctl.run(&["flowset", "rollback", "speak", "--wait"]).good();
    assert_eq!(said, "flowsets/speak is what revision 1 was, now revision 3\n");
    assert_eq!((url(), runtime.run()), ("/say".into(), run.clone()), "a hot deploy");

    // One that cannot run: the same command ends it.
    ctl.run_with(&["flowset", "push", "speak", "-", "--wait"], &good.replace("\"function\"", "\"warp drive\"")).bad(7);
    ctl.run(&["flowset", "rollback", "speak", "--wait"]).good();
    assert_eq!((url(), runtime.run()), ("/say".into(), run));
    // Going back is a revision too, and any revision can be named.
    ctl.run(&["flowset", "rollback", "speak", "--to", "2", "--wait"]).good();
    assert_eq!(url(), "/tell");
    assert!(ctl.run(&["flowset", "rollback", "speak", "--to", "2"]).good().contains("unchanged, revision 6"));
    assert!(ctl.run(&["flowset", "rollback", "speak", "--to", "9"]).bad(4).contains("no revision 9"));
    assert!(ctl.run(&["flowset", "rollback", "speek"]).bad(3).contains("did you mean 'speak'?"));
    ctl.run_with(&["flowset", "push", "single", "-"], &good).good();
    assert!(ctl.run(&["flowset", "rollback", "single"]).bad(4).contains("has never been another"));
}
