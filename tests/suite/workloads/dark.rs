//! A machine that loses its power and comes back with no hub anywhere: every kind of instance is back, with what it kept.
use crate::words::{broker, idler, instance};
use redforge_tests::{
    agent::TestAgent,
    engine::image,
    hub::TestHub,
    own_engine::OwnEngine,
    place::{folder, text},
    proxy::Proxy,
    wait::{eventually, eventually_within, when},
};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

const PATIENCE: Duration = Duration::from_secs(150);
const NAMES: [&str; 8] = ["broker", "cache", "crew", "flows", "held", "keeper", "llm", "memory"];
/// The three of `crew`, and one of each of the others.
const CONTAINERS: usize = NAMES.len() + 2;
const MODEL: &str = "redforge-standin-embed";
/// As `examples/rag/ollama.yaml` has it.
const MODEL_DIGEST: &str = "sha256:ef64fdd5543f6ada177c0a11b2bf52b87f8578d3fcfd2d9ef36318ed78fcaabe";

/// Flows that count what goes through the broker, once in the store that lies on the disk and once in memory.
fn flows() -> Vec<u8> {
    let node = |id: &str, kind: &str, more: Value| {
        let mut node = json!({"id": id, "type": kind, "z": "t", "x": 1, "y": 1, "name": "", "wires": []});
        node.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        node
    };
    let function = |func: &str, to: &[&str]| json!({"func": func, "initialize": "", "finalize": "", "outputs": 1, "libs": [], "noerr": 0, "wires": [to]});
    json!([
        {"id": "t", "type": "tab", "label": "Count"},
        {"id": "b", "type": "mqtt-broker", "name": "site", "broker": "${REDFORGE_MQTT_HOST}",
         "port": "${REDFORGE_MQTT_PORT}", "clientid": "", "autoConnect": true, "usetls": false, "protocolVersion": "4",
         "keepalive": "60", "cleansession": true},
        node("every", "inject", json!({"props": [{"p": "payload"}], "repeat": "0.3", "crontab": "", "once": true,
            "onceDelay": 0.1, "topic": "", "payload": "1", "payloadType": "str", "wires": [["say"]]})),
        node("say", "mqtt out", json!({"topic": "tick", "qos": "1", "retain": "", "broker": "b"})),
        node("hear", "mqtt in",
            json!({"topic": "tick", "qos": "1", "datatype": "auto", "broker": "b", "inputs": 0, "wires": [["add"]]})),
        node("add", "function", function(
            "flow.set('kept', (flow.get('kept', 'persistent') || 0) + 1, 'persistent'); \
             flow.set('lost', (flow.get('lost') || 0) + 1); return null;", &[])),
        node("in", "http in", json!({"url": "/count", "method": "get", "wires": [["tell"]]})),
        node("tell", "function", function(
            "msg.payload = {kept: flow.get('kept', 'persistent') || 0, lost: flow.get('lost') || 0}; return msg;", &["out"])),
        node("out", "http response", json!({"statusCode": "200", "headers": {}})),
    ])
    .to_string()
    .into_bytes()
}

/// One of everything that a host runs.
fn everything() -> String {
    let one = |name: &str, kind: &str, of: &str, more: &str| instance("press-1", name, kind, &image(of), more);
    let sleep = "  container:\n    command: [sleep, \"100000\"]\n";
    let models = format!("  ollama:\n    models: [{{name: {MODEL}, digest: \"{MODEL_DIGEST}\"}}]\n");
    [
        broker("press-1"),
        one("flows", "node-red", "node-red", "  nodeRed: {flowSet: count, cache: cache}\n"),
        one("llm", "ollama", "ollama-standin", &models),
        one("cache", "valkey", "valkey", ""),
        one("memory", "redis", "redis", ""),
        one("keeper", "container", "busybox", &format!("  volumes:\n    - {{name: keep, path: /keep}}\n{sleep}")),
        one("crew", "container", "busybox", &format!("  replicas: 3\n{sleep}")),
        idler("press-1", "held"),
    ]
    .concat()
}

/// The machine: its engine, what a person with a shell sees there.
struct Machine(OwnEngine);

impl Machine {
    fn docker(&self, args: &[&str]) -> Result<String, String> {
        self.0.try_docker(args)
    }

    fn container(&self, name: &str) -> Result<String, String> {
        self.docker(&["ps", "-q", "--filter", &format!("label=redforge.instance={name}")])
    }

    /// Runs this in an instance's container.
    fn inside(&self, name: &str, command: &[&str]) -> Result<String, String> {
        let container = self.container(name)?;
        self.docker(&[&["exec", &container], command].concat())
    }

    /// What a command of a cache's client says.
    fn cache(&self, name: &str, client: &str, command: &str) -> Result<String, String> {
        let password = "$(sed -n 's/^requirepass //p' /redforge/live/server.conf)";
        self.inside(name, &["sh", "-c", &format!("{client} --no-auth-warning -a \"{password}\" {command}")])
    }

    /// Runs this in the flows' container, as their own Node.js understands it.
    fn node(&self, script: &str) -> Result<Value, String> {
        let script =
            format!("(async () => {{ {script} }})().then(v => console.log(JSON.stringify(v)), e => {{ throw e }})");
        let said = self.inside("flows", &["node", "-e", &script])?;
        serde_json::from_str(&said).map_err(|e| format!("{e}: {said}"))
    }

    /// What the flows counted: on the disk, and in memory since they were started.
    fn count(&self) -> Result<(u64, u64), String> {
        let said = self.node("return (await fetch('http://127.0.0.1:1880/count')).json()")?;
        let number = |name: &str| said[name].as_u64().ok_or_else(|| said.to_string());
        Ok((number("kept")?, number("lost")?))
    }

    /// What of it lies on the disk.
    fn on_disk(&self) -> Result<u64, String> {
        let said = self.inside("flows", &["cat", "/data/context/t/flow.json"])?;
        let seen: Value = serde_json::from_str(&said).map_err(|e| format!("{e}: {said}"))?;
        seen["kept"].as_u64().ok_or(said)
    }

    /// How long a vector the model gives.
    fn embeds(&self) -> Result<u64, String> {
        let body = json!({"model": MODEL, "input": "power"}).to_string();
        let ask = format!(
            "const a = await fetch(process.env.OLLAMA_URL + '/api/embed', {{method: 'POST', body: {body:?}}}); \
             return (await a.json()).embeddings[0].length"
        );
        self.node(&ask)?.as_u64().ok_or_else(|| "no vector".into())
    }

    /// Ids of the containers of instances: those that run, or all.
    fn ids(&self, all: &str) -> BTreeSet<String> {
        let said = self.docker(&["ps", all, "-q", "--no-trunc", "--filter", "label=redforge.instance"]);
        said.expect("the engine runs").lines().map(str::to_owned).collect()
    }
}

/// Every instance's phase, health and sync as `redforge-edge status` tells them.
async fn all_run(agent: &TestAgent, held: &str) {
    let word = |name: &str| format!("{name} Running Healthy {}", if name == held { "Paused" } else { "UpToDate" });
    let wanted: BTreeSet<String> = NAMES.map(word).into();
    eventually_within(PATIENCE, "every instance runs, says the agent at the machine", async || {
        let out = agent.status(&["-o", "json"]);
        let view: Value = serde_json::from_slice(&out.stdout).map_err(|e| e.to_string())?;
        let all = view["view"]["status"]["instances"].as_array().cloned().unwrap_or_default();
        let word = |i: &Value| format!("{} {} {} {}", i["name"], i["phase"], i["health"], i["sync"]).replace('"', "");
        let all: BTreeSet<String> = all.iter().map(word).collect();
        when(all == wanted, all)
    })
    .await;
}

#[tokio::test]
async fn engine_a_machine_that_lost_its_power_brings_every_instance_back_without_a_hub() {
    let begun = Instant::now();
    let place = folder();
    let mut agent = TestAgent::prepare("press-1");
    let mut machine = Machine(OwnEngine::start(place.path()).await);
    let socket = machine.0.socket().display().to_string();
    agent.env.push(("REDFORGE_EDGE__RUNTIME__DOCKER_SOCKET".into(), socket));
    let images = machine.0.bring(&["busybox", "mosquitto", "node-red", "ollama-standin", "valkey", "redis"].map(image));
    {
        let mut hub = TestHub::start().await;
        agent.enroll_at(&hub).await;
        images.join().expect("they came");
        println!("dark: {} ms until engine, images and hub were there", begun.elapsed().as_millis());
        agent.before = machine.0.enter();
        let way = Proxy::on(machine.0.listen(hub.agents_port), hub.agents_port);
        agent.up().await;
        let mut operator = hub.operator().await;
        operator.push_flows("count", &flows()).await.expect("a plain export");
        operator.apply(&everything()).await;
        all_run(&agent, "").await;
        println!("dark: {} ms until everything ran", begun.elapsed().as_millis());
        // From here on there is no hub.
        drop(way);
        hub.stop().await;
    }
    let said = agent.edge(&["hold", "held", "--for", "1h", "--reason", "belt is open"]);
    assert!(said.status.success(), "{}", text(&said));
    let keeper = machine.container("keeper").expect("it runs");
    let write = ["exec", "-u", "0", &keeper, "sh", "-c", "echo kept > /keep/file && sync"];
    machine.docker(&write).expect("it takes a file");
    machine.cache("cache", "valkey-cli", "SET line 7").expect("it answers");
    machine.cache("memory", "redis-cli", "SET line 8").expect("it answers");
    let vector = machine.embeds().expect("the model is there");
    all_run(&agent, "held").await;
    // Node-RED writes its stores down every ten seconds.
    let on_disk = eventually("the flows' count lies on the disk", async || machine.on_disk()).await;
    let (before, counted) = (machine.ids("-a"), machine.count().expect("the flows answer"));
    assert!(before.len() == CONTAINERS && counted.0 >= on_disk, "{counted:?}, {before:?}");

    println!("dark: {} ms until the power went", begun.elapsed().as_millis());
    machine.0.power_off();
    agent.kill9();
    let began = Instant::now();
    machine.0.power_on().await;
    agent.before = machine.0.enter();
    agent.up().await;
    all_run(&agent, "held").await;
    println!("dark: {} ms from power to every instance running", began.elapsed().as_millis());
    let (kept, lost) = eventually("the flows count on what the broker brings", async || {
        let (kept, lost) = machine.count()?;
        when(lost > 0, (kept, lost)).map_err(|e| format!("{e:?}")).map(|()| (kept, lost))
    })
    .await;
    println!("dark: {} ms until the flows counted again", began.elapsed().as_millis());
    assert!(kept >= on_disk + lost, "{on_disk} lay on the disk; {kept} and {lost} now");
    assert_eq!(machine.inside("keeper", &["cat", "/keep/file"]), Ok("kept".into()));
    assert_eq!(machine.cache("cache", "valkey-cli", "GET line"), Ok("7".into()));
    assert_eq!(machine.cache("memory", "redis-cli", "GET line"), Ok("8".into()));
    assert_eq!(machine.embeds(), Ok(vector));
    assert_eq!((machine.ids("-a"), machine.ids("--no-trunc")), (before.clone(), before), "the containers of before");
    agent.kill9();
}
