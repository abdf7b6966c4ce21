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
    wait::{eventually, eventually_within, stays, when},
};
use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

/// What a gRPC message of a blob carries.
const CHUNK: u64 = 256 << 10;

/// An image that no registry has and, once it is saved, no engine: `docker load` alone gives it.
struct Strange {
    reference: String,
    id: String,
    tar: PathBuf,
}

impl Strange {
    fn make(of: &str, dir: &Path) -> Self {
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

    fn is_here(&self) -> bool {
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
    let have = stays(Duration::from_millis(500), "the part", async || part(agent, digest)).await;
    assert!(have >= bytes);
    have
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

/// A folder of models as Ollama keeps it, with one model under a name that no library knows.
fn models_folder(dir: &Path) -> (PathBuf, Digest) {
    let server = docker(&["run", "-d", &image("ollama-standin")]);
    let address = docker(&["inspect", "--format", "{{.NetworkSettings.IPAddress}}", &server]);
    let pull = r#"{"model":"redforge-standin-embed","stream":false}"#;
    let url = format!("http://{address}:11434/api/pull");
    let pulled = (0..60).find_map(|_| {
        let out = std::process::Command::new("curl")
            .args(["-sf", "--retry", "30", "--retry-connrefused", "--retry-delay", "1", "-d", pull, &url])
            .output()
            .ok()?;
        out.status.success().then_some(out)
    });
    assert!(pulled.is_some(), "the stand-in gives its model");
    let folder = dir.join("models");
    docker(&["cp", &format!("{server}:/root/.ollama/models"), &folder.display().to_string()]);
    docker(&["rm", "-fv", &server]);
    let library = folder.join("manifests/registry.ollama.ai/library");
    let manifest = fs::read(library.join("redforge-standin-embed/latest")).expect("it was pulled");
    fs::create_dir_all(library.join("house-model")).expect("own folder");
    fs::write(library.join("house-model/v1"), &manifest).expect("own folder");
    (folder, Digest::of(&manifest))
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
    let (folder, digest) = models_folder(ctl.dir());
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
    let ask = |path: &str| {
        let out = std::process::Command::new("curl").args(["-sf", &format!("http://{address}:11434{path}")]).output();
        serde_json::from_slice::<serde_json::Value>(&out.expect("curl runs").stdout).unwrap_or_default()
    };
    let held = ask("/api/tags");
    assert_eq!(held["models"][0]["name"], "house-model:v1");
    assert_eq!(held["models"][0]["digest"], digest.hex());
    let loaded = ask("/api/ps");
    assert_eq!(
        (&loaded["models"][0]["name"], &loaded["models"][0]["context_length"]),
        (&"house-model:v1".into(), &512.into())
    );
    // A person's own model stays, ours goes.
    let copy = r#"{"source":"house-model:v1","destination":"by-hand"}"#;
    let url = format!("http://{address}:11434/api/copy");
    assert!(std::process::Command::new("curl").args(["-sf", "-d", copy, &url]).status().expect("curl runs").success());
    operator.apply(&ollama_with("")).await;
    eventually("only the person's model is left", async || {
        let held = ask("/api/tags");
        let names: Vec<_> = held["models"].as_array().into_iter().flatten().map(|m| m["name"].clone()).collect();
        when(names == ["by-hand:latest"], names)
    })
    .await;
    assert_eq!(agent.container("llm"), Some(container), "a change of models needs no new container");
}
