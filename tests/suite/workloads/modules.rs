//! A flow set brings the node modules that its flows need: no npm on the host, and nobody edits them there.
use super::changes::remembered;
use crate::words::instance;
use redforge_shared::wire::pb;
use redforge_tests::{
    agent::TestAgent,
    ctl::Ctl,
    engine::image,
    hub::TestHub,
    node_red::NodeRed,
    place::free_port,
    visitor::Visitor,
    wait::{eventually, when},
};
use serde_json::json;
use std::{collections::BTreeMap, time::Duration};

const MODULE: &str = "node-red-contrib-shift";
const FLOWS: &str = r#"[{"id":"t","type":"tab","label":"Word"},
    {"id":"in","type":"http in","z":"t","x":1,"y":1,"name":"","url":"/word","method":"get","wires":[["word"]]},
    {"id":"word","type":"shift-word","z":"t","x":1,"y":1,"name":"","wires":[["out"]]},
    {"id":"out","type":"http response","z":"t","x":1,"y":1,"name":"","statusCode":"200","headers":{},"wires":[]}]"#;

/// The author's folder: the flows, a package.json, and what npm has installed for it: a module with one node type,
/// `shift-word`, that says this word, and a module that it needs.
fn installed(ctl: &Ctl, version: &str, word: &str) {
    let write = |path: &str, text: String| drop(ctl.file(&format!("flows/node_modules/{path}"), text));
    ctl.file("flows/flows.json", FLOWS);
    ctl.file("flows/package.json", json!({"dependencies": {MODULE: version}}).to_string());
    let package = json!({"name": MODULE, "version": version, "dependencies": {"@shift/say": "^1.0.0"},
        "node-red": {"nodes": {"shift-word": "lib/word.js"}}});
    write(&format!("{MODULE}/package.json"), package.to_string());
    let node = "module.exports = RED => { function Word(config) { RED.nodes.createNode(this, config); \
                this.on('input', (msg, send, done) => { msg.payload = require('@shift/say')(); send(msg); done(); }); } \
                RED.nodes.registerType('shift-word', Word); };\n";
    write(&format!("{MODULE}/lib/word.js"), node.into());
    let editor = "<script type=\"text/javascript\">RED.nodes.registerType('shift-word', \
                  {category: 'function', defaults: {}, inputs: 1, outputs: 1});</script>\n";
    write(&format!("{MODULE}/lib/word.html"), editor.into());
    write("@shift/say/package.json", json!({"name": "@shift/say", "version": "1.0.0", "main": "say.js"}).to_string());
    write("@shift/say/say.js", format!("module.exports = () => {word:?};\n"));
}

fn manifest(port: u16, drift: &str) -> String {
    let more = format!(
        "  ports:\n    - {{container: 1880, host: {port}, address: 127.0.0.1}}\n  nodeRed: {{flowSet: word, drift: {drift}}}\n"
    );
    instance("press-1", "flows", "node-red", &image("node-red"), &more)
}

async fn says(visitor: &Visitor, word: &str) {
    eventually(&format!("the flow says {word}"), async || when(visitor.said() == word, visitor.said())).await;
}

fn up_to_date(s: &pb::InstanceStatus) -> bool {
    (s.phase(), s.health(), s.sync()) == (pb::Phase::Running, pb::Health::Healthy, pb::Sync::UpToDate)
}

#[tokio::test]
async fn docker_modules_come_with_the_flow_set_and_edits_of_them_are_told_or_put_back() {
    let hub = TestHub::start().await;
    let agent = TestAgent::start(&hub, "press-1").await;
    let mut operator = hub.operator().await;
    let (ctl, port) = (Ctl::new(&hub), free_port());
    installed(&ctl, "1.0.0", "one");
    let said = ctl.run(&["flowset", "push", "word", "flows/flows.json"]);
    assert!(said.err.contains("modules @shift/say@1.0.0, node-red-contrib-shift@1.0.0"), "{said:?}");
    said.good();
    operator.apply(&manifest(port, "report")).await;
    operator.instance_when("press-1", "flows", "as desired", up_to_date).await;
    let visitor = Visitor::of_page(port, "/word");
    says(&visitor, "one").await;

    // A file of a module, changed in its volume: the container itself may only read it.
    let runtime = NodeRed { container: agent.container("flows").expect("it runs") };
    let file = "@shift/say/say.js";
    let hash =
        format!("done(crypto.createHash('sha256').update(fs.readFileSync('/data/node_modules/{file}')).digest('hex'))");
    let before = runtime.script(&hash);
    assert!(runtime.try_script(&format!("fs.appendFileSync('/data/node_modules/{file}', 'x')")).is_err());
    runtime.tamper("/data/node_modules", file, "module.exports = () => \"by hand\";");
    let edited = runtime.script(&hash);
    assert_ne!(edited, before);
    let told = |s: &pb::InstanceStatus| s.sync() == pb::Sync::Drifted && s.names == ["modules"];
    let status = operator.instance_when("press-1", "flows", "the modules are told as drifted", told).await;
    assert_eq!((status.health(), status.reason()), (pb::Health::Healthy, pb::StatusReason::Edited));
    assert_eq!(runtime.script(&hash), edited, "it is only told");
    let run = runtime.run();
    operator.apply(&manifest(port, "enforce")).await;
    eventually("the file is as before", async || {
        let now = runtime.try_script(&hash)?;
        when(now == before && runtime.run() != run, now)
    })
    .await;
    operator.instance_when("press-1", "flows", "as desired", up_to_date).await;
    says(&visitor, "one").await;

    // Flows alone are a hot deploy; another version of the module is another container.
    let container = agent.container("flows");
    let run = runtime.run();
    ctl.file("flows/flows.json", FLOWS.replace("Word", "Words"));
    ctl.run(&["flowset", "push", "word", "flows/flows.json", "--wait"]).good();
    assert_eq!(runtime.run(), run);
    installed(&ctl, "2.0.0", "two");
    ctl.run(&["flowset", "push", "word", "flows/flows.json", "--wait"]).good();
    says(&visitor, "two").await;
    assert_ne!(agent.container("flows"), container);

    // Its files can be taken home, the modules too, and pushing those changes nothing.
    ctl.run(&["flowset", "pull", "word"]).good();
    let same = ctl.run(&["flowset", "push", "word", "word"]).good();
    assert!(same.contains("flowsets/word unchanged, revision 3"), "{same}");

    // What is no module, and what is not there, is refused before anything is sent.
    ctl.file("no.tgz", "not a tarball");
    let refused = ctl.run(&["flowset", "push", "word", "flows/flows.json", "--modules", "no.tgz"]).bad(1);
    assert!(refused.contains("no.tgz") && refused.contains("npm pack"), "{refused}");
    ctl.file("bare/package.json", json!({"dependencies": {MODULE: "1"}}).to_string());
    ctl.file("bare/flows.json", FLOWS);
    let missing = ctl.run(&["flowset", "push", "word", "bare/flows.json"]).bad(3);
    assert!(missing.contains(MODULE) && missing.contains("npm install --omit=dev"), "{missing}");
}

#[tokio::test]
async fn docker_a_missing_module_is_named_and_what_worked_serves() {
    let hub = TestHub::start().await;
    let agent = TestAgent::start(&hub, "press-1").await;
    let mut operator = hub.operator().await;
    let (ctl, port) = (Ctl::new(&hub), free_port());
    installed(&ctl, "1.0.0", "one");
    ctl.run(&["flowset", "push", "word", "flows/flows.json"]).good();
    operator.apply(&manifest(port, "enforce")).await;
    operator.instance_when("press-1", "flows", "as desired", up_to_date).await;
    remembered(&agent, &["flows"]).await;
    let visitor = Visitor::of_page(port, "/word");
    says(&visitor, "one").await;
    let runtime = NodeRed { container: agent.container("flows").expect("it runs") };
    let (run, rev) = (runtime.run(), runtime.flows()["rev"].clone());
    visitor.longest_outage();
    let back = |names: &'static str| {
        move |s: &pb::InstanceStatus| {
            (s.sync(), s.reason()) == (pb::Sync::RolledBack, pb::StatusReason::MissingTypes) && s.names == [names]
        }
    };

    // A node of a module that nobody has: the runtime is asked before it is given the flows, and nobody notices.
    let wants_more = FLOWS.replace("[{", r#"[{"id":"w","type":"warp","z":"t","x":1,"y":1,"wires":[]},{"#);
    ctl.file("flows/flows.json", wants_more);
    let said = ctl.run(&["flowset", "push", "word", "flows/flows.json", "--wait"]).bad(7);
    assert!(said.contains("MissingTypes: warp"), "{said}");
    let status = operator.instance_when("press-1", "flows", "the missing type is named", back("warp")).await;
    assert_eq!((status.phase(), status.health()), (pb::Phase::Running, pb::Health::Healthy));
    assert_eq!((runtime.run(), runtime.flows()["rev"].clone()), (run, rev), "what served was not touched");
    let outage = visitor.longest_outage();
    println!("outage: node of a missing module: {} ms", outage.as_millis());
    assert!(outage < Duration::from_millis(2_500), "{outage:?}");

    // The module itself is left out: that takes another container to be found out, and the one with the module comes back.
    ctl.file("flows/flows.json", FLOWS);
    ctl.run(&["flowset", "push", "word", "flows/flows.json", "--no-modules"]).good();
    operator.instance_when("press-1", "flows", "what worked is back", back("shift-word")).await;
    says(&visitor, "one").await;
    let outage = visitor.longest_outage();
    println!("outage: flow set without its module: {} ms", outage.as_millis());
    assert!(outage < Duration::from_secs(90), "{outage:?}");
    ctl.run(&["flowset", "push", "word", "flows/flows.json", "--wait"]).good();
}

/// Gives the http node another address, as a person in the editor does.
fn edit(runtime: &NodeRed, url: &str) {
    let mut flows = runtime.flows()["flows"].clone();
    let node = flows.as_array_mut().expect("nodes").iter_mut().find(|n| n["id"] == "in").expect("the http node");
    node["url"] = json!(url);
    runtime.deploy(&flows, None, "flows");
}

/// The module files of a folder that was pulled, by their names.
fn tarballs(folder: &std::path::Path) -> BTreeMap<String, Vec<u8>> {
    let all = std::fs::read_dir(folder.join("modules")).expect("modules were pulled").flatten();
    let read =
        |e: std::fs::DirEntry| (e.file_name().to_string_lossy().into(), std::fs::read(e.path()).expect("a file"));
    all.map(read).collect()
}

/// Waits for a draft, takes its files home, and finds the edit and the modules of revision 1 there.
async fn takes_home(ctl: &Ctl, draft: &str, url: &str) {
    eventually("the draft is listed", async || {
        let drafts = ctl.run(&["flowset", "drafts", "word", "-o", "json"]).json();
        when(drafts[0]["name"] == format!("flowsets/word/drafts/{draft}"), drafts)
    })
    .await;
    ctl.run(&["flowset", "pull", "word", "--draft", draft, "-o", draft]).good();
    let folder = ctl.dir().join(draft);
    let flows = std::fs::read_to_string(folder.join("flows.json")).expect("it was pulled");
    assert!(flows.contains(&format!("\"url\": \"{url}\"")), "{flows}");
    ctl.run(&["flowset", "pull", "word", "--revision", "1", "-o", "first", "--force"]).good();
    let pushed = tarballs(&ctl.dir().join("first"));
    assert_eq!((tarballs(&folder), pushed.len()), (pushed, 2));
}

#[tokio::test]
async fn docker_edited_flows_come_up_with_their_modules_and_can_be_pulled_and_pushed() {
    let mut hub = TestHub::start().await;
    let mut agent = TestAgent::start(&hub, "press-1").await;
    let mut operator = hub.operator().await;
    let (ctl, port) = (Ctl::new(&hub), free_port());
    installed(&ctl, "1.0.0", "one");
    ctl.run(&["flowset", "push", "word", "flows/flows.json"]).good();
    operator.apply(&manifest(port, "adopt")).await;
    operator.instance_when("press-1", "flows", "as desired", up_to_date).await;
    let runtime = NodeRed { container: agent.container("flows").expect("it runs") };
    let run = runtime.run();
    edit(&runtime, "/adopted");
    takes_home(&ctl, "1", "/adopted").await;
    let said = ctl.run(&["flowset", "push", "word", "1", "--wait"]).good();
    assert!(said.contains("revision 2"), "{said}");
    says(&Visitor::of_page(port, "/adopted"), "one").await;

    // In developer mode, with the hub away: the edit is kept at the host, and comes up from there.
    operator.apply(&manifest(port, "enforce")).await;
    ctl.run(&["editor", "press-1/flows", "--for", "10m"]).good();
    let fleets = runtime.flows()["flows"].clone();
    hub.stop().await;
    edit(&runtime, "/kept");
    eventually("the edit is kept at the host", async || {
        let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY | rusqlite::OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let path = agent.state().join("ledger.db");
        let c = rusqlite::Connection::open_with_flags(path, flags).map_err(|e| e.to_string())?;
        let kept: u32 = c.query_row("SELECT count(*) FROM kept_draft", [], |r| r.get(0)).map_err(|e| e.to_string())?;
        when(kept == 1, kept.to_string())
    })
    .await;
    agent.kill9();
    // Nothing of it is in the runtime any more.
    runtime.deploy(&fleets, None, "flows");
    agent.up().await;
    hub.up().await;
    takes_home(&ctl, "2", "/kept").await;
    ctl.run(&["flowset", "push", "word", "2", "--wait"]).good();
    says(&Visitor::of_page(port, "/kept"), "one").await;
    assert_eq!(runtime.run(), run, "the modules are those of before: no edit and no push needed a restart");
}
