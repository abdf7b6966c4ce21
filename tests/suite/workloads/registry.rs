//! Images from a real registry that wants a password, found through a mirror of another.
use crate::words::instance;
use redforge_shared::wire::pb;
use redforge_tests::{
    agent::TestAgent,
    ctl::Ctl,
    engine::{docker, image, try_docker},
    hub::TestHub,
    place::{free_port, text},
    proxy::{Proxy, Weather},
    registry::{PASSWORD, TestRegistry, USER},
    wait::{eventually, when},
};
use std::{fs, io::Read as _, path::Path, time::Duration};

/// An image with a layer that no engine has, gone from this one as soon as it lies in the registry.
fn put_into(registry: &TestRegistry, dir: &Path, path: &str) {
    let (ballast, name) = (dir.join("ballast"), format!("redforge.test/ballast-{}:1", registry.port));
    let mut random = fs::File::open("/dev/urandom").expect("it is there").take(12 << 20);
    std::io::copy(&mut random, &mut fs::File::create(&ballast).expect("own folder")).expect("own folder");
    let container = docker(&["create", &image("mosquitto")]);
    docker(&["cp", &ballast.display().to_string(), &format!("{container}:/ballast")]);
    docker(&["commit", &container, &name]);
    docker(&["rm", "--volumes", &container]);
    registry.push(&name, path);
    docker(&["rmi", &name]);
}

fn carrier(name: &str, image: &str) -> String {
    instance("press-1", name, "mosquitto", image, "")
}

#[tokio::test]
async fn docker_an_image_comes_from_a_mirror_with_the_hosts_password_and_goes_when_nothing_needs_it() {
    let hub = TestHub::start().await;
    let (registry, ctl) = (TestRegistry::start().await, Ctl::new(&hub));
    let way = Proxy::start(registry.port).await;
    put_into(&registry, ctl.dir(), "plant/worker:1");

    // Nobody listens where the reference points to: only the mirror has it.
    let (away, mirror) = (format!("127.0.0.1:{}", free_port()), format!("127.0.0.1:{}", way.port()));
    let reference = format!("{away}/worker:1");
    let password = ctl.dir().join("registry.password");
    fs::write(&password, "wrong\n").expect("own folder");
    let mut agent = TestAgent::prepare("press-1");
    let mut set = |key: &str, value: &str| agent.env.push((format!("REDFORGE_EDGE__{key}"), value.to_owned()));
    set("CLEAN_UP__MIN_AGE_S", "0");
    set(&format!("REGISTRY__{away}__MIRRORS"), &format!("{mirror}/plant"));
    set(&format!("REGISTRY__{mirror}__USERNAME"), USER);
    set(&format!("REGISTRY__{mirror}__PASSWORD_FILE"), &password.display().to_string());
    agent.enroll_at(&hub).await;
    agent.up().await;
    let mut operator = hub.operator().await;
    operator.apply(&carrier("broker", &reference)).await;
    let denied = |s: &pb::InstanceStatus| s.reason() == pb::StatusReason::RegistryDenied;
    let status = operator.instance_when("press-1", "broker", "the shut door is named", denied).await;
    assert_eq!(status.names, [reference.clone(), mirror.clone()]);
    assert_eq!((status.health(), status.sync()), (pb::Health::Error, pb::Sync::OutOfDate));

    // The password is read anew at each try. In the middle of it the way is blocked, so that somebody sees how far it is.
    let before = way.brought();
    way.set(Weather::Delay(Duration::from_millis(20)));
    fs::write(&password, format!("{PASSWORD}\n")).expect("own folder");
    eventually("bytes come", async || {
        let brought = way.brought() - before;
        when(brought > 1 << 20, brought)
    })
    .await;
    way.set(Weather::Blackhole);
    let status = operator
        .instance_when("press-1", "broker", "the operator sees how far it is", |s| {
            s.progress.as_ref().is_some_and(|p| p.done_bytes > 0 && p.total_bytes > p.done_bytes)
        })
        .await;
    assert_eq!(status.phase(), pb::Phase::Pulling);
    way.set(Weather::Clear);
    operator.running("press-1", "broker").await;
    let container = agent.container("broker").expect("it runs");
    let runs = docker(&["inspect", "--format", "{{.Image}}", &container]);
    // It bears the name that the operator wrote, and no other.
    let names = docker(&["image", "inspect", "--format", "{{json .RepoTags}}", &runs]);
    assert_eq!(names, format!("[\"{reference}\"]"));
    let shown = text(&agent.edge(&["config", "check"]));
    assert!(!shown.contains(PASSWORD), "{shown}");
    let logged = fs::read_to_string(agent.dir().join("edge.log")).expect("it logs");
    assert!(!logged.contains(PASSWORD), "the password is in the log");

    // What the registry does not have is another matter.
    operator.apply(&carrier("absent", &format!("{away}/absent:1"))).await;
    let missing = |s: &pb::InstanceStatus| s.reason() == pb::StatusReason::ImageMissing;
    operator.instance_when("press-1", "absent", "what nobody has is missing", missing).await;

    for name in ["broker", "absent"] {
        let name = format!("hosts/press-1/instances/{name}");
        operator.admin.delete_instance(pb::DeleteInstanceRequest { name }).await.expect("it exists");
    }
    eventually("the image that it pulled is gone", async || {
        when(try_docker(&["image", "inspect", &runs]).is_err(), "still here")
    })
    .await;
}
