//! Images and models without a registry: pushed to the hub, fetched by hosts over bad links, and gone when unneeded.
use crate::words::instance;
use redforge_shared::{ids::Digest, wire::pb};
use redforge_tests::{
    agent::TestAgent,
    ctl::Ctl,
    engine::{docker, image, try_docker},
    hub::{TestHub, Wishes},
    operator::Operator,
    place::free_port,
    proxy::{Proxy, Weather},
    wait::{eventually, eventually_within, when},
};
use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// What a gRPC message of a blob carries.
const CHUNK: u64 = 256 << 10;

/// An image that no registry has and, once it is saved, no engine: `docker load` alone gives it.
pub(super) struct Strange {
    pub(super) reference: String,
    id: String,
    pub(super) tar: PathBuf,
}

impl Strange {
    pub(super) fn make(of: &str, dir: &Path) -> Self {
        let word = Digest::of(dir.as_os_str().as_encoded_bytes()).hex()[..12].to_owned();
        let reference = format!("redforge.test/{of}-{word}:1");
        let base = docker(&["create", &image(of), "true"]);
        let (label, command) =
            (format!("LABEL rft={word}"), docker(&["inspect", "-f", "{{json .Config.Cmd}}", &image(of)]));
        let command = if command == "null" { "CMD []".to_owned() } else { format!("CMD {command}") };
        docker(&["commit", "--change", &label, "--change", &command, &base, &reference]);
        docker(&["rm", &base]);
        let id = docker(&["image", "inspect", "--format", "{{.Id}}", &reference]);
        let tar = dir.join(format!("{of}.tar"));
        docker(&["save", "-o", &tar.display().to_string(), &reference]);
        docker(&["rmi", &reference]);
        Self { reference, id, tar }
    }

    pub(super) fn is_here(&self) -> bool {
        try_docker(&["image", "inspect", &self.id]).is_ok()
    }

    fn bytes(&self) -> u64 {
        fs::metadata(&self.tar).expect("just saved").len()
    }

    fn digest(&self) -> Digest {
        Digest::of(&fs::read(&self.tar).expect("just saved"))
    }
}

impl Drop for Strange {
    fn drop(&mut self) {
        drop(try_docker(&["rmi", "-f", &self.reference]));
    }
}

/// A hub behind a proxy that its agents dial, and an agent.
async fn far_away() -> (TestHub, Proxy, TestAgent, Ctl) {
    let agents = free_port();
    let proxy = Proxy::start(agents).await;
    let wishes = Wishes { public_url: Some(proxy.url()), ..Wishes::default() };
    let mut hub = TestHub::prepare_on(wishes, agents);
    hub.up().await;
    let mut agent = TestAgent::prepare("press-1");
    // What nothing needs goes at once: nothing may go that something needs.
    agent.env.push(("REDFORGE_EDGE__CLEAN_UP__MIN_AGE_S".into(), "0".into()));
    agent.enroll_at(&hub).await;
    agent.up().await;
    let ctl = Ctl::new(&hub);
    (hub, proxy, agent, ctl)
}

/// Bytes of a blob that the agent has, while it does not have all.
fn part(agent: &TestAgent, digest: Digest) -> u64 {
    let path = agent.state().join("blobs/sha256").join(format!("{}.part", digest.hex()));
    fs::metadata(path).map_or(0, |m| m.len())
}

/// Where the hub keeps a blob.
fn on_hub(hub: &TestHub, digest: Digest) -> PathBuf {
    hub.state().join("artifacts/sha256").join(&digest.hex()[..2]).join(digest.hex())
}

/// Cuts the link when so much of the blob has arrived, waits until nothing comes any more, and mends it.
async fn cut_at(proxy: &Proxy, agent: &TestAgent, digest: Digest, bytes: u64) -> u64 {
    eventually("enough of the blob is there", async || {
        let have = part(agent, digest);
        when(have >= bytes, have)
    })
    .await;
    proxy.set(Weather::Cut);
    // What the cut caught between proxy and disk is still written.
    let mut since = (part(agent, digest), Instant::now());
    eventually("nothing comes any more", async || {
        let have = part(agent, digest);
        if have != since.0 {
            since = (have, Instant::now());
        }
        when(since.1.elapsed() >= Duration::from_millis(500), have)
    })
    .await;
    assert!(since.0 >= bytes);
    since.0
}

fn broker_of(reference: &str) -> String {
    instance("press-1", "broker", "mosquitto", reference, "")
}

#[tokio::test]
async fn docker_an_image_arrives_from_the_hub_over_a_link_that_is_cut_and_an_agent_that_is_killed() {
    let (hub, proxy, mut agent, ctl) = far_away().await;
    let mut operator = hub.operator().await;
    let strange = Strange::make("mosquitto", ctl.dir());
    let (size, digest) = (strange.bytes(), strange.digest());
    assert!(!strange.is_here() && size > 8 * CHUNK, "{size}");
    let tar = strange.tar.display().to_string();
    let said = ctl.run(&["artifact", "push", &tar]);
    assert!(said.err.contains("100% ("), "{}", said.err);
    assert!(said.good().contains(&format!("artifacts/{} pushed: image {}", digest.hex(), strange.reference)));
    let said = ctl.run(&["artifact", "push", &tar]);
    assert!(said.good().contains("unchanged"), "the same again is no change");

    // Slow enough to be cut in the middle.
    proxy.set(Weather::Delay(Duration::from_millis(3)));
    let before = proxy.brought();
    operator.apply(&broker_of(&strange.reference)).await;
    let pulling = operator
        .instance_when("press-1", "broker", "the operator sees how far it is", |s| {
            s.progress.as_ref().is_some_and(|p| p.done_bytes > 0)
        })
        .await;
    let progress = pulling.progress.clone().expect("it was just seen");
    assert_eq!((progress.what.as_str(), progress.total_bytes), (strange.reference.as_str(), size));
    assert_eq!(pulling.phase(), pb::Phase::Pulling);
    let mut cuts = vec![cut_at(&proxy, &agent, digest, size / 4).await];
    proxy.set(Weather::Delay(Duration::from_millis(3)));
    cuts.push(cut_at(&proxy, &agent, digest, size / 2).await);
    agent.kill9();
    agent.spawn();
    proxy.set(Weather::Delay(Duration::from_millis(1)));
    cuts.push(cut_at(&proxy, &agent, digest, size / 4 * 3).await);
    proxy.set(Weather::Clear);
    operator.running("press-1", "broker").await;
    // It is the image that was pushed, and nothing of it came a second time but what a cut caught on its way.
    let container = agent.container("broker").expect("it runs");
    assert_eq!(docker(&["inspect", "--format", "{{.Image}}", &container]), strange.id);
    let brought = proxy.brought() - before;
    // TLS, HTTP/2 and the sessions take their part; a cut costs less than a chunk, beginning anew a quarter of the image.
    let most = size + size / 100 + cuts.len() as u64 * CHUNK + (64 << 10);
    assert!(brought <= most && CHUNK < size / 8, "{brought} came for {size}, cuts at {cuts:?}");
    println!("{brought} bytes came for {size}, cuts at {cuts:?}");
    assert!(!agent.state().join("blobs/sha256").join(digest.hex()).exists(), "it lies in the engine, not here too");
    refused_while_needed(&ctl, &mut operator, &strange).await;
}

/// What an instance needs stays at the hub; once nothing does it can go, and the host lets go of it by itself.
async fn refused_while_needed(ctl: &Ctl, operator: &mut Operator, strange: &Strange) {
    let said = ctl.run(&["artifact", "delete", &strange.reference]).bad(4);
    assert!(said.contains("hosts/press-1/instances/broker needs it"), "{said}");
    let listed = ctl.run(&["artifact", "list", "-o", "json"]).json();
    assert_eq!(listed[0]["usedBy"][0], "hosts/press-1/instances/broker");
    let name = "hosts/press-1/instances/broker".to_owned();
    operator.admin.delete_instance(pb::DeleteInstanceRequest { name }).await.expect("it exists");
    eventually("the host removes the image that it brought", async || when(!strange.is_here(), "still here")).await;
    assert!(ctl.run(&["artifact", "delete", &strange.reference]).good().contains("deleted"));
    assert_eq!(ctl.run(&["artifact", "list", "-o", "json"]).json(), serde_json::json!([]));
}

#[tokio::test]
async fn docker_an_image_that_rotted_at_the_hub_is_refused_by_its_digest_until_it_is_pushed_again() {
    let (hub, _proxy, agent, ctl) = far_away().await;
    let mut operator = hub.operator().await;
    let strange = Strange::make("busybox", ctl.dir());
    let (digest, tar) = (strange.digest(), strange.tar.display().to_string());
    ctl.run(&["artifact", "push", &tar]).good();
    let path = on_hub(&hub, digest);
    let mut bytes = fs::read(&path).expect("the hub has it");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, &bytes).expect("the story's own hub");
    let worker = instance(
        "press-1",
        "worker",
        "container",
        &strange.reference,
        "  container:\n    command: [sleep, \"100000\"]\n",
    );
    operator.apply(&worker).await;
    let status = operator
        .instance_when("press-1", "worker", "the damage is named", |s| s.reason() == pb::StatusReason::BlobDamaged)
        .await;
    assert_eq!(status.names, [strange.reference.clone(), digest.to_string()]);
    assert_eq!((status.health(), status.sync()), (pb::Health::Error, pb::Sync::OutOfDate));
    assert!(!strange.is_here() && agent.container("worker").is_none());
    // A push finds it damaged, and sends it whole.
    assert!(ctl.run(&["artifact", "push", &tar]).good().contains("unchanged"));
    assert_eq!(Digest::of(&fs::read(&path).expect("the hub has it")), digest);
    eventually_within(Duration::from_secs(120), "it runs", async || {
        let status = operator.instance("press-1", "worker").await.map_err(|s| s.to_string())?.status;
        when(status.as_ref().is_some_and(|s| s.phase() == pb::Phase::Running), &status)
    })
    .await;
}

/// Models that a story carries by hand: a folder as Ollama keeps it, and one that the stand-in's library has.
pub(super) struct Models {
    pub(super) folder: PathBuf,
    /// Of `house-model:v1`, a name that no library knows.
    pub(super) house: Digest,
    /// Of [`CHAT`], which lies in no folder here.
    pub(super) chat: Digest,
}

/// A model of the stand-in's library.
pub(super) const CHAT: &str = "redforge-standin-chat";

/// A call of a model server's API.
fn curl(address: &str, path: &str, body: Option<&str>) -> Result<serde_json::Value, String> {
    let url = format!("http://{address}:11434{path}");
    let body = body.map(|b| vec!["-d", b]).unwrap_or_default();
    let out = std::process::Command::new("curl").args(["-sf", "--max-time", "60"]).args(body).arg(url).output();
    let out = out.map_err(|e| e.to_string())?;
    if !out.status.success() {
        return Err(format!("{path}: {}", out.status));
    }
    Ok(serde_json::from_slice(&out.stdout).unwrap_or_default())
}

fn pull(address: &str, model: &str) -> Result<serde_json::Value, String> {
    curl(address, "/api/pull", Some(&format!(r#"{{"model":"{model}","stream":false}}"#)))
}

/// What a name means at a server.
fn held(address: &str, name: &str) -> Option<Digest> {
    let tags = curl(address, "/api/tags", None).ok()?;
    let model = tags["models"].as_array()?.iter().find(|m| m["name"] == name)?;
    model["digest"].as_str()?.parse().ok()
}

impl Models {
    pub(super) async fn make(dir: &Path) -> Self {
        let server = docker(&["run", "-d", &image("ollama-standin")]);
        let address = docker(&["inspect", "--format", "{{.NetworkSettings.IPAddress}}", &server]);
        eventually("the stand-in gives its model", async || pull(&address, "redforge-standin-embed")).await;
        let folder = dir.join("models");
        docker(&["cp", &format!("{server}:/root/.ollama/models"), &folder.display().to_string()]);
        eventually("the stand-in gives its other model", async || pull(&address, CHAT)).await;
        let chat = held(&address, &format!("{CHAT}:latest")).expect("it was just pulled");
        docker(&["rm", "-fv", &server]);
        let library = folder.join("manifests/registry.ollama.ai/library");
        let manifest = fs::read(library.join("redforge-standin-embed/latest")).expect("it was pulled");
        fs::create_dir_all(library.join("house-model")).expect("own folder");
        fs::write(library.join("house-model/v1"), &manifest).expect("own folder");
        Self { folder, house: Digest::of(&manifest), chat }
    }
}

fn ollama_with(models: &str) -> String {
    instance(
        "press-1",
        "llm",
        "ollama",
        &image("ollama-standin"),
        &format!("  ollama:\n    contextLength: 512\n    models: [{models}]\n"),
    )
}

#[tokio::test]
async fn docker_a_model_arrives_from_the_hub_is_kept_in_memory_and_is_removed_when_nothing_declares_it() {
    let (hub, proxy, agent, ctl) = far_away().await;
    let mut operator = hub.operator().await;
    let Models { folder, house: digest, .. } = Models::make(ctl.dir()).await;
    let from = folder.display().to_string();
    let said = ctl.run(&["artifact", "push", "model", "house-model:v1", "--from", &from]);
    assert!(said.err.contains(&digest.to_string()), "{}", said.err);
    assert!(said.good().contains("pushed: model house-model:v1"));
    proxy.set(Weather::Delay(Duration::from_millis(2)));
    let declared = format!("{{name: \"house-model:v1\", digest: \"{digest}\", preload: true}}");
    operator.apply(&ollama_with(&declared)).await;
    // The largest blob of it is the one to be cut.
    let blobs = fs::read_dir(folder.join("blobs")).expect("own folder").filter_map(Result::ok);
    let largest = blobs.max_by_key(|e| e.metadata().map_or(0, |m| m.len())).expect("a blob").file_name();
    let largest: Digest = largest.to_string_lossy().replace("sha256-", "").parse().expect("a digest");
    cut_at(&proxy, &agent, largest, 4 * CHUNK).await;
    proxy.set(Weather::Clear);
    operator
        .instance_when("press-1", "llm", "the model is there and in memory", |s| {
            (s.phase(), s.health(), s.sync()) == (pb::Phase::Running, pb::Health::Healthy, pb::Sync::UpToDate)
        })
        .await;
    let container = agent.container("llm").expect("it runs");
    let address = redforge_tests::engine::address(&container);
    assert_eq!(held(&address, "house-model:v1"), Some(digest));
    let loaded = curl(&address, "/api/ps", None).expect("it answers");
    assert_eq!(
        (&loaded["models"][0]["name"], &loaded["models"][0]["context_length"]),
        (&"house-model:v1".into(), &512.into())
    );
    a_moved_tag_is_drift(&hub, &mut operator, &address, digest).await;
    // A person's own model stays, ours goes.
    curl(&address, "/api/copy", Some(r#"{"source":"house-model:v1","destination":"by-hand"}"#)).expect("it is there");
    operator.apply(&ollama_with("")).await;
    eventually("only the person's models are left", async || {
        let tags = curl(&address, "/api/tags", None)?;
        let mut names: Vec<_> = tags["models"].as_array().into_iter().flatten().map(|m| m["name"].clone()).collect();
        names.sort_by_key(ToString::to_string);
        when(names == ["by-hand:latest", &format!("{CHAT}:latest")], names)
    })
    .await;
    assert_eq!(agent.container("llm"), Some(container), "a change of models needs no new container");
}

/// Somebody moves the tag to another model on the host: that is told as drift, and put right from the hub.
async fn a_moved_tag_is_drift(hub: &TestHub, operator: &mut Operator, address: &str, digest: Digest) {
    // While the hub's copy of the manifest is away the drift lasts, and can be looked at.
    let (manifest, aside) = (on_hub(hub, digest), on_hub(hub, digest).with_extension("aside"));
    fs::rename(&manifest, &aside).expect("the story's own hub");
    pull(address, CHAT).expect("the library has it");
    let moved = format!(r#"{{"source":"{CHAT}","destination":"house-model:v1"}}"#);
    curl(address, "/api/copy", Some(&moved)).expect("both are there");
    assert_ne!(held(address, "house-model:v1"), Some(digest), "it is another content now");
    let status =
        operator.instance_when("press-1", "llm", "the moved tag is drift", |s| s.sync() == pb::Sync::Drifted).await;
    assert_eq!(status.names.first().map(String::as_str), Some("house-model:v1"));
    fs::rename(&aside, &manifest).expect("the story's own hub");
    eventually_within(Duration::from_secs(120), "the name means what was declared", async || {
        let means = held(address, "house-model:v1");
        when(means == Some(digest), means)
    })
    .await;
    operator
        .instance_when("press-1", "llm", "it is as declared again", |s| {
            (s.health(), s.sync()) == (pb::Health::Healthy, pb::Sync::UpToDate)
        })
        .await;
}
