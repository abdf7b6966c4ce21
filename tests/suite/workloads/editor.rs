//! The editor is closed in fleet mode; in developer mode it opens once, for one person, for a time; and its end throws no
//! edit away.
use crate::words::{broker, instance, speaking_flow};
use redforge_shared::{
    clock::{Clock as _, SystemClock},
    desired::{Developer, user_of},
    ids::Digest,
    wire::pb,
};
use redforge_tests::{
    agent::TestAgent,
    ctl::Ctl,
    engine::{image, try_docker},
    hub::TestHub,
    node_red::NodeRed,
    operator::Operator,
    place::free_port,
    wait::{eventually, stays, when},
};
use serde_json::{Value, json};
use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

/// The editor's address as a person types it.
struct Editor {
    port: u16,
}

impl Editor {
    /// One request as a browser sends it: its status, and its body where that is JSON.
    fn ask(&self, method: &str, path: &str, headers: &str, body: &str) -> Result<(u16, Value), String> {
        let go = || -> std::io::Result<String> {
            let mut tcp = TcpStream::connect(("127.0.0.1", self.port))?;
            tcp.set_read_timeout(Some(Duration::from_secs(20)))?;
            let length = body.len();
            write!(
                tcp,
                "{method} /admin{path} HTTP/1.1\r\nHost: editor\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
            )?;
            let mut text = String::new();
            tcp.read_to_string(&mut text)?;
            Ok(text)
        };
        let text = go().map_err(|e| e.to_string())?;
        let status = text.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or_else(|| text.clone())?;
        let json = text.split_once("\r\n\r\n").and_then(|(_, b)| serde_json::from_str(b).ok());
        Ok((status, json.unwrap_or_default()))
    }

    /// Logs in as the editor does; the token, or the status of the refusal.
    fn login(&self, user: &str, password: &str) -> Result<String, u16> {
        let form = format!("client_id=node-red-editor&grant_type=password&scope=*&username={user}&password={password}");
        let headers = "Content-Type: application/x-www-form-urlencoded\r\n";
        let (status, said) = self.ask("POST", "/auth/token", headers, &form).expect("it answers");
        match said["access_token"].as_str() {
            Some(token) => Ok(token.to_owned()),
            None => Err(status),
        }
    }

    fn flows(&self, token: &str) -> Result<(u16, Value), String> {
        let headers = format!("Authorization: Bearer {token}\r\nNode-RED-API-Version: v2\r\n");
        self.ask("GET", "/flows", &headers, "")
    }

    /// Changes the address of the http node, as a person does who then presses Deploy.
    fn edit(&self, token: &str, url: &str) {
        let mut flows = self.flows(token).expect("it answers").1["flows"].clone();
        let node = flows.as_array_mut().expect("nodes").iter_mut().find(|n| n["id"] == "in").expect("the http node");
        node["url"] = json!(url);
        let headers = format!(
            "Authorization: Bearer {token}\r\nNode-RED-API-Version: v2\r\nContent-Type: application/json\r\n\
             Node-RED-Deployment-Type: flows\r\n"
        );
        let (status, _) =
            self.ask("POST", "/flows", &headers, &json!({"flows": flows}).to_string()).expect("it answers");
        assert_eq!(status, 200);
    }
}

fn up_to_date(s: &pb::InstanceStatus) -> bool {
    (s.phase(), s.health(), s.sync()) == (pb::Phase::Running, pb::Health::Healthy, pb::Sync::UpToDate)
}

struct Site {
    /// The image of its Node-RED.
    major: &'static str,
    hub: TestHub,
    agent: TestAgent,
    operator: Operator,
    ctl: Ctl,
    editor: Editor,
}

fn manifest(major: &str, port: u16, more: &str) -> String {
    let section = format!("  ports: [{{container: 1880, host: {port}}}]\n  nodeRed:\n    flowSet: speak\n{more}");
    instance("press-1", "flows", "node-red", &image(major), &section)
}

impl Site {
    async fn with(major: &'static str) -> Self {
        let hub = TestHub::start().await;
        let agent = TestAgent::start(&hub, "press-1").await;
        let mut operator = hub.operator().await;
        operator.push_flows("speak", &speaking_flow()).await.expect("a plain export");
        let editor = Editor { port: free_port() };
        operator.apply(&(broker("press-1") + &manifest(major, editor.port, ""))).await;
        operator.instance_when("press-1", "flows", "as desired", up_to_date).await;
        let ctl = Ctl::new(&hub);
        Self { major, hub, agent, operator, ctl, editor }
    }

    fn urls(&self) -> Vec<String> {
        let drafts = self.ctl.run(&["flowset", "drafts", "speak", "-o", "json"]).json();
        let names = drafts.as_array().expect("a list").iter().filter_map(|d| d["name"].as_str().map(str::to_owned));
        let number = |name: String| name.rsplit('/').next().expect("a number").to_owned();
        let url = |number: String| {
            let flows = self.ctl.run(&["flowset", "pull", "speak", "--draft", &number, "-o", "-"]).json();
            flows[2]["url"].as_str().expect("the http node's").to_owned()
        };
        names.map(number).map(url).collect()
    }
}

#[tokio::test]
async fn docker_the_editor_opens_once_for_one_person_and_its_end_throws_no_edit_away() {
    opens_once(Site::with("node-red").await, "4.1.").await;
}

#[tokio::test]
async fn docker_the_editor_of_node_red_5_opens_once_too_and_its_end_throws_no_edit_away() {
    opens_once(Site::with("node-red-5").await, "5.").await;
}

async fn opens_once(mut site: Site, version: &str) {
    let runtime = NodeRed { container: site.agent.container("flows").expect("it runs") };
    let run = runtime.run();
    let settings = runtime.script("done(await admin('GET', '/settings'))");
    assert!(settings["version"].as_str().is_some_and(|v| v.starts_with(version)), "{}", settings["version"]);

    // Fleet mode: nobody gets in, with whatever name.
    for user in ["redforge-agent", "admin", "developer-00000000"] {
        assert_eq!(site.editor.login(user, "anything"), Err(403), "{user}");
    }
    assert_eq!(site.editor.ask("GET", "/flows", "", "").expect("it answers").0, 401);

    let opened = site.ctl.run(&["editor", "press-1/flows", "--for", "10m", "-o", "json"]).json();
    let (user, password) = (opened["user"].as_str().expect("a user"), opened["password"].as_str().expect("one"));
    assert_eq!(opened["url"], json!(format!("http://127.0.0.1:{}/admin/", site.editor.port)));
    assert_eq!(site.editor.login(user, "anything"), Err(403));
    assert_eq!(site.editor.login("admin", password), Err(403));
    let token = site.editor.login(user, password).expect("the password opens it");
    assert_eq!(site.editor.login(user, password), Err(403), "the password was used");
    assert_eq!(site.editor.flows(&token).expect("it answers").0, 200);

    // What is edited stays and goes up, though the policy is enforce.
    site.editor.edit(&token, "/edited");
    eventually("the edit is a draft", async || when(site.urls() == ["/edited"], site.urls())).await;
    let url = |site: &Site| site.editor.flows(&token).map(|(_, f)| f["flows"][2]["url"].clone());
    drop(stays(Duration::from_secs(3), "the edit", async || url(&site)).await);
    assert_eq!(url(&site), Ok(json!("/edited")));

    // The agent is killed: who is in stays in, and the password is no better than before.
    site.agent.kill9();
    site.agent.up().await;
    assert_eq!(site.editor.login(user, password), Err(403), "the password was used");
    assert_eq!(site.editor.flows(&token).expect("it answers").0, 200);

    // The end comes while an edit is there that nobody has looked at yet.
    site.editor.edit(&token, "/last");
    let said = site.ctl.run(&["editor", "press-1/flows", "--close"]).good();
    assert!(said.contains("closed"), "{said}");
    eventually("nobody is in any more", async || {
        let now = site.editor.flows(&token).map(|(status, _)| status);
        when(now == Ok(401), now)
    })
    .await;
    site.operator.instance_when("press-1", "flows", "the fleet's flows are back", up_to_date).await;
    assert_eq!(runtime.flows()["flows"][2]["url"], "/say");
    eventually("the last edit is a draft", async || when(site.urls().contains(&"/last".into()), site.urls())).await;
    assert_eq!(site.editor.login(user, password), Err(403));
    assert_eq!(runtime.run(), run, "no change of mode needs a restart");

    // Nobody but the person ever had the password.
    let read = |path: &std::path::Path| std::fs::read(path).unwrap_or_default();
    let mut places = vec![
        site.ctl.run(&["get", "instance", "press-1/flows", "-o", "json"]).good(),
        site.ctl.run(&["get", "events", "-o", "json"]).good(),
        try_docker(&["logs", &runtime.container]).expect("its lines"),
        try_docker(&["exec", &runtime.container, "cat", "/redforge/config/settings.js"]).expect("its settings"),
    ];
    let logs = [site.hub.dir(), site.agent.dir(), site.agent.state()];
    let files = logs.iter().flat_map(|d| std::fs::read_dir(d).into_iter().flatten().flatten());
    let files: Vec<_> = files.map(|f| f.path()).filter(|p| p.is_file()).collect();
    assert!(files.iter().any(|f| f.ends_with("ledger.db")), "{files:?}");
    places.extend(files.iter().map(|f| String::from_utf8_lossy(&read(f)).into_owned()));
    assert!(places.iter().all(|p| !p.contains(password)), "the password lies where it does not belong");
    let hash = Digest::of(password.as_bytes()).hex();
    assert!(places.iter().any(|p| p.contains(&hash)), "what was looked at does not even hold the hash");
}

#[tokio::test]
async fn docker_an_open_editor_closes_by_itself_with_the_hub_away() {
    let mut site = Site::with("node-red").await;
    let hash = Digest::of(b"by hand");
    let until = SystemClock.now() + Duration::from_secs(15);
    let developer = Developer { until: until.replace_nanosecond(0).expect("whole"), password_sha256: Some(hash) };
    let developer = serde_json::to_value(&developer).expect("JSON");
    let known = site.operator.host("press-1").await.expect("known").generation;
    site.operator.apply(&manifest(site.major, site.editor.port, &format!("    developer: {developer}\n"))).await;
    site.operator.host_when("press-1", "the host knows", |h| h.observed_generation > known).await;
    site.hub.stop().await;
    let token = site.editor.login(&user_of(hash), "by%20hand").expect("the password opens it");
    assert_eq!(site.editor.flows(&token).expect("it answers").0, 200);
    site.editor.edit(&token, "/alone");
    eventually("nobody is in any more", async || {
        let now = site.editor.flows(&token).map(|(status, _)| status);
        when(now == Ok(401), now)
    })
    .await;
    assert!(SystemClock.now() >= until - Duration::from_secs(1), "not before its time");
    let runtime = NodeRed { container: site.agent.container("flows").expect("it runs") };
    eventually("the fleet's flows are back", async || {
        let now = runtime.flows()["flows"][2]["url"].clone();
        when(now == "/say", now)
    })
    .await;
    // The edit waited for the hub, over a restart of the agent too.
    site.agent.kill9();
    site.agent.up().await;
    site.hub.up().await;
    eventually("the edit is a draft", async || when(site.urls() == ["/alone"], site.urls())).await;
}

#[tokio::test]
async fn an_editor_is_opened_only_where_it_can_be_reached_and_for_a_time() {
    let hub = TestHub::start().await;
    let ctl = Ctl::new(&hub);
    let mut agent = TestAgent::prepare("press-1");
    agent.enroll_at(&hub).await;
    let mut operator = hub.operator().await;
    let flows = instance("press-1", "flows", "node-red", "node-red:1", "");
    operator.apply(&(flows + &broker("press-1"))).await;
    let refused = ctl.run(&["editor", "press-1/flows"]).bad(4);
    assert!(refused.contains("publishes no port") && refused.contains("--port"), "{refused}");
    assert!(ctl.run(&["editor", "press-1/broker"]).bad(4).contains("of kind mosquitto"));
    ctl.run(&["editor", "press-1/flowz"]).bad(3);
    ctl.run(&["editor", "press-1/flows", "--for", "8d"]).bad(2);
    // The host is not there to take it up; the port is in the manifest all the same.
    let away = ctl.run(&["editor", "press-1/flows", "--port", "18880", "--timeout", "1s"]);
    assert_eq!(away.code, 6, "{away:?}");
    let spec = ctl.run(&["get", "instance", "press-1/flows", "-o", "json"]).json()["spec"].clone();
    assert_eq!((&spec["ports"][0]["host"], spec["nodeRed"]["developer"]["until"].is_string()), (&json!(18880), true));
    let twice = instance(
        "press-1",
        "flows",
        "node-red",
        "node-red:1",
        "  replicas: 2\n  nodeRed: {developer: {until: \"2026-11-24T00:00:00Z\"}}\n",
    );
    let refused = operator.try_apply(&twice).await.expect_err("must be refused");
    assert!(refused.message().contains("spec.nodeRed.developer"), "{refused:?}");
    let ever = twice.replace("  replicas: 2\n", "").replace("2026", "2999");
    let refused = operator.try_apply(&ever).await.expect_err("must be refused");
    assert!(refused.message().contains("7 days"), "{refused:?}");
}
