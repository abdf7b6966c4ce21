//! What somebody changes at the host is put back, told, or taken up as a draft: as the spec says, part by part.
use super::changes::remembered;
use crate::words::{broker, instance, speaking_flow};
use redforge_shared::wire::pb;
use redforge_tests::{
    agent::TestAgent,
    ctl::Ctl,
    engine::image,
    hub::TestHub,
    node_red::{NodeRed, Parts},
    operator::Operator,
    wait::{eventually, stays, when},
};
use serde_json::{Value, json};
use std::time::Duration;

/// A host that runs the speaking flow, with edits treated as `drift` says.
struct Site {
    hub: TestHub,
    agent: TestAgent,
    operator: Operator,
    runtime: NodeRed,
    before: Parts,
}

fn manifest(drift: &str) -> String {
    let section = format!("  nodeRed:\n    flowSet: speak\n    drift: {drift}\n");
    instance("press-1", "flows", "node-red", &image("node-red"), &section)
}

impl Site {
    async fn with(drift: &str) -> Self {
        let hub = TestHub::start().await;
        let mut agent = TestAgent::prepare("press-1");
        agent.env.push(("REDFORGE_EDGE__RUNTIME__DEPLOY_DEADLINE_S".into(), "10".into()));
        agent.enroll_at(&hub).await;
        agent.up().await;
        let mut operator = hub.operator().await;
        operator.push_flows("speak", &speaking_flow()).await.expect("a plain export");
        operator.apply(&(broker("press-1") + &manifest(drift))).await;
        operator.instance_when("press-1", "flows", "as desired", up_to_date).await;
        let runtime = NodeRed { container: agent.container("flows").expect("it runs") };
        let before = runtime.parts().expect("it answers");
        Self { hub, agent, operator, runtime, before }
    }

    /// Makes the spec say so, and waits until the host knows.
    async fn treat(&mut self, drift: &str) {
        let known = self.operator.host("press-1").await.expect("known").generation;
        self.operator.apply(&manifest(drift)).await;
        self.operator.host_when("press-1", "the host knows", |h| h.observed_generation > known).await;
    }

    /// Changes the flows as a person in the editor does: another address for the record.
    fn edit_flows(&self) -> Parts {
        let mut flows = self.runtime.flows()["flows"].clone();
        let node = flows.as_array_mut().expect("nodes").iter_mut().find(|n| n["id"] == "in").expect("the http node");
        node["url"] = json!("/edited");
        self.runtime.deploy(&flows, None, "flows");
        self.runtime.parts().expect("it answers")
    }

    /// Another password and nothing else: what the admin API gives back is the same as before.
    fn edit_credentials(&self) -> Parts {
        let mut credentials = self.runtime.credentials();
        credentials["b1"]["password"] = json!("by hand");
        self.runtime.deploy(&self.runtime.flows()["flows"], Some(&credentials), "flows");
        self.runtime.parts().expect("it answers")
    }

    fn tamper_with_settings(&self) {
        self.runtime.tamper("/redforge/config", "settings.js", "// by hand");
    }

    fn edit_settings(&self) -> Parts {
        self.tamper_with_settings();
        self.runtime.parts().expect("it answers")
    }

    async fn is_put_back(&self, what: &str) {
        eventually(&format!("{what} are as before"), async || {
            let now = self.runtime.parts()?;
            when(now == self.before, now)
        })
        .await;
    }

    async fn drifted(&mut self, names: &[&str]) -> pb::InstanceStatus {
        let what = format!("{names:?} are told as drifted");
        self.operator
            .instance_when("press-1", "flows", &what, |s| s.sync() == pb::Sync::Drifted && s.names == names)
            .await
    }
}

fn up_to_date(s: &pb::InstanceStatus) -> bool {
    (s.phase(), s.health(), s.sync()) == (pb::Phase::Running, pb::Health::Healthy, pb::Sync::UpToDate)
}

#[tokio::test]
async fn docker_edited_flows_credentials_and_settings_are_each_put_back() {
    let mut site = Site::with("enforce").await;
    let Parts { flows, credentials, settings } = site.before.clone();
    let run = site.runtime.run();

    // What an edit did is looked at where nobody puts it back; that the hashes differ is what makes the rest a proof.
    site.treat("report").await;
    let edited = site.edit_flows();
    assert!(edited.flows != flows && (edited.credentials, edited.settings) == (credentials, settings));
    site.treat("enforce").await;
    site.is_put_back("flows").await;

    site.treat("report").await;
    let edited = site.edit_credentials();
    assert!(edited.credentials != credentials && (edited.flows, edited.settings) == (flows, settings));
    site.treat("enforce").await;
    site.is_put_back("credentials").await;
    assert_eq!(site.runtime.run(), run, "flows and credentials need no restart");

    site.treat("report").await;
    let edited = site.edit_settings();
    assert!(edited.settings != settings && (edited.flows, edited.credentials) == (flows, credentials));
    site.treat("enforce").await;
    site.is_put_back("settings").await;
    let again = site.runtime.run();
    assert!(again != run && again.split(' ').next() == run.split(' ').next(), "settings are read at a start: {again}");
    site.operator.instance_when("press-1", "flows", "as desired", up_to_date).await;

    // And without anybody who changes the spec: as soon as the next look finds it.
    site.edit_flows();
    site.is_put_back("flows").await;
    site.operator.instance_when("press-1", "flows", "as desired", up_to_date).await;
}

#[tokio::test]
async fn docker_edits_are_only_told_where_the_spec_says_report() {
    let mut site = Site::with("report").await;
    site.edit_flows();
    let told = site.drifted(&["flows"]).await;
    assert_eq!(
        (told.phase(), told.health(), told.reason()),
        (pb::Phase::Running, pb::Health::Healthy, pb::StatusReason::Edited)
    );
    site.edit_credentials();
    site.drifted(&["flows", "credentials"]).await;
    let edited = site.edit_settings();
    site.drifted(&["flows", "credentials", "settings"]).await;
    let run = site.runtime.run();
    drop(stays(Duration::from_secs(4), "what was edited", async || (site.runtime.parts(), site.runtime.run())).await);
    assert_eq!((site.runtime.parts(), site.runtime.run()), (Ok(edited), run));
    let ctl = Ctl::new(&site.hub);
    assert_eq!(ctl.run(&["flowset", "drafts", "-o", "json"]).json(), json!([]), "nobody asked for drafts");

    // A new revision is no edit: it replaces what was there, and is trusted although settings differ that are to be left.
    remembered(&site.agent, &["flows"]).await;
    let next = String::from_utf8(speaking_flow()).expect("JSON").replace("/say", "/tell");
    site.operator.push_flows("speak", next.as_bytes()).await.expect("a plain export");
    let on_trial = |s: &pb::InstanceStatus| s.sync() == pb::Sync::Drifted && s.trial_ends_at.is_some();
    site.operator.instance_when("press-1", "flows", "the new flows are on trial", on_trial).await;
    let ended = |s: &pb::InstanceStatus| s.sync() != pb::Sync::Updating && s.trial_ends_at.is_none();
    let told = site.operator.instance_when("press-1", "flows", "their trial has ended", ended).await;
    assert_eq!((told.sync(), &told.names[..]), (pb::Sync::Drifted, &["settings".to_owned()][..]), "{told:?}");
    assert!(site.runtime.flows()["flows"].to_string().contains("/tell"));
}

#[tokio::test]
async fn docker_edited_flows_come_up_as_a_draft_and_become_a_revision_when_adopted() {
    let mut site = Site::with("adopt").await;
    let ctl = Ctl::new(&site.hub);
    let edited = site.edit_flows();
    site.drifted(&["flows"]).await;
    let draft = eventually("the draft is listed", async || {
        let drafts = ctl.run(&["flowset", "drafts", "speak", "-o", "json"]).json();
        let first = drafts[0].clone();
        when(first != Value::Null, &drafts).map(|()| first)
    })
    .await;
    assert_eq!((&draft["name"], &draft["baseRevision"]), (&json!("flowsets/speak/drafts/1"), &json!(1)));
    assert_eq!(draft["instance"], "hosts/press-1/instances/flows");
    assert_eq!(ctl.run(&["get", "flowsets", "speak", "-o", "json"]).json()["draftCount"], 1);
    // What was edited there can be looked at, and taken home, before anybody adopts it.
    let differs = ctl.run(&["flowset", "diff", "speak", "--host", "press-1"]);
    assert_eq!((differs.code, differs.out.contains("url: \"/say\" -> \"/edited\"")), (1, true), "{differs:?}");
    ctl.run(&["flowset", "pull", "speak", "--draft", "1", "-o", "draft"]).good();
    ctl.run(&["flowset", "diff", "speak", "--host", "press-1", "-f", "draft"]).good();
    // Settings are not anybody's to adopt: they are put back, and the edited flows live through the restart.
    // Nothing is read between the edit and its end: the restart that ends it may come at once.
    let run = site.runtime.run();
    site.tamper_with_settings();
    eventually("settings are as before", async || {
        let (now, again) = (site.runtime.parts()?, site.runtime.run());
        when(again != run && now.settings == site.before.settings && now.flows == edited.flows, now)
    })
    .await;
    site.drifted(&["flows"]).await;
    assert_eq!(ctl.run(&["flowset", "drafts", "-o", "json"]).json().as_array().map(Vec::len), Some(1));

    let run = site.runtime.run();
    let rev = site.runtime.flows()["rev"].clone();
    let said = ctl.run(&["flowset", "adopt", "speak/1", "--wait"]).good();
    assert!(said.contains("flowsets/speak adopted, revision 2"), "{said}");
    site.operator.instance_when("press-1", "flows", "as desired", up_to_date).await;
    assert_eq!((site.runtime.run(), site.runtime.flows()["rev"].clone()), (run, rev), "it runs what it ran");
    assert_eq!(ctl.run(&["get", "flowsets", "speak", "-o", "json"]).json()["draftCount"], 0);

    // What came after the edit is not replaced by it without a word.
    site.operator.push_flows("speak", &speaking_flow()).await.expect("a plain export");
    let refused = ctl.run(&["flowset", "adopt", "speak/1"]).bad(4);
    assert!(refused.contains("--force") && refused.contains("revision 3"), "{refused}");
    ctl.run(&["flowset", "adopt", "speak/9"]).bad(3);
    ctl.run(&["flowset", "adopt", "speak"]).bad(2);
}
