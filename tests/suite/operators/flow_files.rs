//! A flow set's files come back from the hub, can be compared with it, and give the same flow set when they are pushed.
use crate::words::speaking_flow;
use redforge_tests::{ctl::Ctl, hub::TestHub, wait::when};
use serde_json::{Value, json};

/// The speaking flow as an editor exports it, with a password inside that never travels.
fn export() -> Value {
    let mut flows: Value = serde_json::from_slice(&speaking_flow()).expect("JSON");
    flows[1]["credentials"] = json!({"user": "u", "password": "s3cret"});
    flows
}

fn revision(ctl: &Ctl) -> Value {
    ctl.run(&["get", "flowsets", "speak", "-o", "json"]).json()["revision"].clone()
}

#[tokio::test]
async fn what_was_pulled_and_pushed_again_changes_nothing_and_a_diff_names_the_nodes() {
    let hub = TestHub::start().await;
    let ctl = Ctl::new(&hub);
    ctl.file("export.json", export().to_string());
    ctl.run(&["flowset", "push", "speak", "export.json"]).good();

    let said = ctl.run(&["flowset", "pull", "speak"]).good();
    assert_eq!(said, "flowsets/speak/revisions/1 pulled to speak, 7 nodes\n");
    let read = |path: &str| std::fs::read_to_string(ctl.dir().join(path)).expect("it was written");
    assert!(!read("speak/flows.json").contains("s3cret") && read("speak/flows.json").lines().count() > 20);
    // Three ways back, none of which is a change.
    assert!(ctl.run(&["flowset", "push", "speak", "speak"]).good().contains("unchanged, revision 1"));
    assert!(ctl.run(&["flowset", "push", "speak", "speak/flows.json"]).good().contains("unchanged, revision 1"));
    let applied = ctl.run(&["apply", "-f", "speak", "-o", "json"]).json();
    assert_eq!((&applied[0]["action"], revision(&ctl)), (&json!("unchanged"), json!(1)));
    let same = ctl.run(&["flowset", "diff", "-f", "speak"]);
    assert!(same.out.is_empty() && same.err.contains("no difference"), "{same:?}");
    same.good();
    ctl.run(&["flowset", "diff", "speak"]).good();
    // Without what the folder says about credentials it would be another flow set: that is what the file is for.
    std::fs::rename(ctl.dir().join("speak/flowset.json"), ctl.dir().join("aside.json")).expect("own folder");
    let other = ctl.run(&["flowset", "diff", "speak"]);
    assert_eq!((other.code, other.out.contains("~ file flowset.json")), (1, true), "{other:?}");
    std::fs::rename(ctl.dir().join("aside.json"), ctl.dir().join("speak/flowset.json")).expect("own folder");

    // An edit at the desk.
    let mut flows: Value = serde_json::from_str(&read("speak/flows.json")).expect("JSON");
    flows[2]["url"] = json!("/tell");
    flows[2]["wires"] = json!([["ok"]]);
    flows
        .as_array_mut()
        .expect("nodes")
        .push(json!({"id": "new", "type": "debug", "z": "t1", "x": 1, "y": 1, "wires": []}));
    let edited = serde_json::to_string_pretty(&flows).expect("JSON");
    ctl.file("speak/flows.json", &edited);
    let said = ctl.run(&["flowset", "diff", "-f", "speak"]);
    assert_eq!(said.code, 1, "{said:?}");
    let wanted = "--- flowsets/speak/revisions/1\n+++ speak\n+ node debug (new) on Speak\n~ node http in (in) on Speak: rewired\n    \
                  url: \"/say\" -> \"/tell\"\n    wires: [[\"fn\"]] -> [[\"ok\"]]\n";
    assert_eq!(said.out, wanted);
    let told = ctl.run(&["flowset", "diff", "-f", "speak", "-o", "json"]);
    let told: Value = when(told.code == 1, &told).map(|()| serde_json::from_str(&told.out).expect("JSON")).expect("1");
    assert_eq!(
        (&told["same"], &told["added"][0]["id"], &told["changed"][0]["rewired"]),
        (&json!(false), &json!("new"), &json!(true))
    );
    assert_eq!(told["changed"][0]["properties"][0], json!({"property": "url", "before": "/say", "after": "/tell"}));
    // What was edited is not overwritten unasked.
    let refused = ctl.run(&["flowset", "pull", "speak"]).bad(4);
    assert!(refused.contains("speak/flows.json") && refused.contains("--force"), "{refused}");
    assert_eq!(read("speak/flows.json"), edited);

    ctl.run(&["flowset", "push", "speak", "speak"]).good();
    assert_eq!(revision(&ctl), json!(2));
    ctl.run(&["flowset", "diff", "-f", "speak"]).good();
    let old = ctl.run(&["flowset", "pull", "speak", "--revision", "1", "-o", "-"]).json();
    assert_eq!(old[2]["url"], "/say");
    assert_eq!(ctl.run(&["flowset", "diff", "-f", "speak", "--revision", "1"]).code, 1);
    ctl.run(&["flowset", "pull", "speak", "--force"]).good();

    // What cannot be compared is an error and not a difference; what is not there has its near misses.
    let missing = ctl.run(&["flowset", "diff", "speek", "-f", "speak"]).bad(2);
    assert!(missing.contains("did you mean 'speak'?"), "{missing}");
    ctl.run(&["flowset", "diff", "speak", "-f", "nowhere"]).bad(2);
    ctl.run(&["flowset", "diff", "speak", "--host", "press-1"]).bad(2);
    ctl.run(&["flowset", "pull", "speek"]).bad(3);
    ctl.run(&["flowset", "pull", "speak", "--revision", "9"]).bad(3);
    assert!(ctl.run(&["flowset", "pull", "speak", "--draft", "7"]).bad(3).contains("flowset drafts"));
}
