//! The reconciler on a real Docker engine: what was asked for is what Docker says, and what is not ours stays untouched.
//!
//! Each test has a host id of its own and removes what bears its label. Needs the project's images (`packaging/images/build.sh all`).
mod broker;
mod first_session;
mod flows;
mod host;
mod last_lines;
mod probes;
mod replace;
mod replicas;
mod secrets;
mod services;

use host::*;
use redforge_shared::{
    desired::{Container, Port, Probe, Protocol, Resources, Workload},
    report::{Health, Phase, Reason, Sync},
};

#[tokio::test(flavor = "multi_thread")]
async fn docker_limits_and_locks_are_read_back() {
    let mut host = Host::start().await;
    let mut wanted = sleeper("limited");
    wanted.resources = Resources { cpu_millicores: Some(250), memory_bytes: Some(64 << 20), pids: Some(40) };
    wanted.volumes = vec![redforge_shared::desired::Volume { name: name("keep"), path: "/keep".into() }];
    host.want(vec![wanted]).await;
    let status = host.until_running("limited").await;
    assert_eq!((status.memory_limit_bytes, status.cpu_limit_millicores), (64 << 20, 250));
    let format = "{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}} {{.HostConfig.PidsLimit}} {{.HostConfig.Privileged}} \
                  {{.HostConfig.RestartPolicy.Name}} {{.HostConfig.LogConfig.Type}} {{.Config.StopTimeout}} \
                  {{with .HostConfig.LogConfig.Config}}{{index . \"max-size\"}}{{end}}";
    // Podman does not say at its Docker-compatible door how a log is cut.
    let rotated = if is_podman() { "" } else { " 10m" };
    let told = format!("67108864 250000000 40 false unless-stopped json-file 20{rotated}");
    assert_eq!(host.inspect("limited", format), told);
    assert_eq!(host.locks_of("limited"), LOCKED);
    // Negative control: a container that nobody locked may do more.
    let open = docker(&["run", "--rm", &image("busybox"), "grep", "CapBnd", "/proc/self/status"]);
    assert!(!open.ends_with("0000000000000000"), "{open}");
    let internal = docker(&["network", "inspect", "--format", "{{.Internal}}", host.names.network()]);
    assert_eq!(internal, "true");
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_what_is_right_is_not_touched_and_what_stops_comes_back() {
    let mut host = Host::start().await;
    host.want(vec![sleeper("steady")]).await;
    host.until_running("steady").await;
    let before = host.run_of("steady");
    // A new generation that changes nothing, and a new agent process.
    let mut other = sleeper("other");
    other.suspend = true;
    host.want(vec![sleeper("steady"), other]).await;
    host.until("other", "stopped", |i| i.phase == Phase::Stopped).await;
    host.restart_agent(None).await;
    host.until_running("steady").await;
    assert_eq!(host.run_of("steady"), before, "an equal container was touched");
    docker(&["stop", "-t", "1", &host.container("steady")]);
    host.until("steady", "back", |i| i.phase == Phase::Running && host_run(&i.container_id) != before).await;
    let mut again = sleeper("steady");
    again.restart_nonce = "1".into();
    let id = host.inspect("steady", "{{.Id}}");
    host.want(vec![again]).await;
    host.until("steady", "new", |i| i.phase == Phase::Running && i.container_id.as_ref() != Some(&id)).await;
    // What is no longer wanted goes.
    host.want(vec![]).await;
    let mut status = host.status.clone();
    let gone = status.wait_for(|s| s.instances.is_empty() && s.generation == 4 && s.sync == Sync::UpToDate);
    drop(tokio::time::timeout(DEADLINE, gone).await.expect("in time").expect("it runs"));
    let label = format!("label=redforge.host={}", host.id);
    assert_eq!(docker(&["ps", "-aq", "--filter", &label]), "");
}

/// Id and start of a container by its id.
pub fn host_run(id: &Option<String>) -> String {
    let Some(id) = id else { return String::new() };
    docker(&["inspect", "--format", "{{.Id}} {{.State.StartedAt}}", id])
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_a_foreign_container_of_our_name_is_named_and_not_touched() {
    let mut host = Host::start().await;
    let taken = host.container("taken");
    let id = docker(&["run", "-d", "--name", &taken, &image("busybox"), "sleep", "1000"]);
    let before = docker(&["inspect", "--format", "{{.Id}} {{.State.StartedAt}}", &id]);
    host.want(vec![sleeper("taken"), sleeper("free")]).await;
    let status = host.until("taken", "refused", |i| i.reason == Some(Reason::ForeignObject)).await;
    host.until_running("free").await;
    let after = docker(&["inspect", "--format", "{{.Id}} {{.State.StartedAt}}", &id]);
    docker(&["rm", "-f", &id]);
    assert_eq!((status.health, status.sync, status.names), (Health::Error, Sync::Failed, vec![taken]));
    assert_eq!(after, before);
    // The name is free again: no operator needs to say so.
    host.until_running("taken").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_two_agents_on_one_engine_do_not_see_each_other() {
    let (mut one, mut two) = (Host::start().await, Host::start().await);
    one.want(vec![sleeper("same")]).await;
    one.until_running("same").await;
    let before = one.run_of("same");
    two.want(vec![sleeper("same")]).await;
    two.until_running("same").await;
    two.want(vec![]).await;
    let mut status = two.status.clone();
    // Until all that the other will ever remove is gone.
    let gone = status.wait_for(|s| s.generation == 2 && s.instances.is_empty() && s.sync == Sync::UpToDate);
    drop(tokio::time::timeout(DEADLINE, gone).await.expect("in time").expect("it runs"));
    assert_eq!(one.run_of("same"), before, "a container of another host was touched");
    let subnet =
        |h: &Host| docker(&["network", "inspect", "-f", "{{(index .IPAM.Config 0).Subnet}}", h.names.network()]);
    assert_ne!(subnet(&one), subnet(&two));
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_a_missing_image_and_a_refused_command_are_named() {
    let mut host = Host::start().await;
    let mut absent = sleeper("absent");
    absent.image = "redforge.local/no-such-image:0".into();
    let mut wrong = sleeper("wrong");
    wrong.workload =
        Workload::Container(Container { command: vec!["/no/such/command".into()], probe: None, broker: None });
    host.want(vec![absent, wrong]).await;
    let status = host.until("absent", "missing its image", |i| i.reason == Some(Reason::ImageMissing)).await;
    assert_eq!(status.names, ["redforge.local/no-such-image:0"]);
    let status = host.until("wrong", "refused", |i| i.reason == Some(Reason::StartRefused)).await;
    assert_eq!((status.health, status.sync), (Health::Error, Sync::Failed));
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_ports_are_published_through_the_outside_network() {
    let mut host = Host::start().await;
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
    let mut web = spec(
        "web",
        image("busybox"),
        Workload::Container(Container {
            command: ["sh", "-c", "while :; do echo -e 'HTTP/1.0 200 OK\\r\\n\\r\\nhi' | nc -l -p 8080; done"]
                .map(str::to_owned)
                .to_vec(),
            probe: Some(Probe::Tcp { port: 8080 }),
            broker: None,
        }),
    );
    web.ports = vec![Port {
        container: 8080,
        host: port,
        address: "127.0.0.1".parse().expect("an address"),
        protocol: Protocol::Tcp,
    }];
    host.want(vec![web]).await;
    host.until("web", "running", |i| i.phase == Phase::Running).await;
    let published = docker(&["port", &host.container("web")]);
    assert!(published.contains(&format!("127.0.0.1:{port}")), "{published}");
    let networks = host.inspect("web", "{{range $n, $_ := .NetworkSettings.Networks}}{{$n}} {{end}}");
    assert_eq!(networks, format!("{} {}", host.names.network(), host.names.outside()));
}
