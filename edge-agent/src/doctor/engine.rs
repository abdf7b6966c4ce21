//! Docker, asked on its socket in plain HTTP, and the brokers that run on it.
use super::{
    Finding,
    judge::{self, Info},
};
use crate::{
    page::{StatusView, ask::exchange},
    runtime::{ContainerState, Runtime, names::Names},
};
use redforge_shared::{error::Chain, ids::HostId};
use std::{io, net::SocketAddr, path::Path, time::Duration};
use tokio::net::TcpStream;

const MQTT_PORT: u16 = 1883;
/// Of brokers.
const CHECK: &str = "broker";
const ANSWER: Duration = Duration::from_secs(3);

#[derive(Default, serde::Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Version {
    version: String,
    api_version: String,
}

/// Socket, API and limits; what the engine says of itself where it answers.
pub(super) async fn examine(socket: &Path) -> (Vec<Finding>, Option<Info>) {
    const SOCKET: &str = "docker.socket";
    let shown = socket.display();
    let answer = match exchange(socket, "GET", "/version", Vec::new()).await {
        Ok((_, body)) => body,
        Err(e) => {
            let kind = e.chain().find_map(|c| c.downcast_ref::<io::Error>()).map(io::Error::kind);
            let (text, next) = match kind {
                Some(io::ErrorKind::NotFound) => (
                    format!("there is no {shown}"),
                    "systemctl start docker; is it installed, and is runtime.docker_socket right?",
                ),
                Some(io::ErrorKind::PermissionDenied) => (
                    format!("this user may not use {shown}"),
                    "usermod -aG docker redforge-edge; or run doctor as root",
                ),
                Some(io::ErrorKind::ConnectionRefused) => (
                    format!("nobody answers on {shown}: the engine is stopped"),
                    "systemctl start docker; journalctl -u docker -n 50",
                ),
                _ => (
                    format!("the engine on {shown} does not answer ({e:#})"),
                    "journalctl -u docker -n 50; systemctl restart docker (containers stop unless live-restore is on)",
                ),
            };
            return (vec![Finding::fail(SOCKET, text, next)], None);
        }
    };
    let version: Version = serde_json::from_slice(&answer).unwrap_or_default();
    let mut all = vec![Finding::ok(SOCKET, format!("{shown} answers"))];
    all.push(judge::api(&version.version, &version.api_version));
    let info = exchange(socket, "GET", "/info", Vec::new()).await.ok();
    let info = info.and_then(|(_, body)| serde_json::from_slice::<Info>(&body).ok());
    all.push(match &info {
        Some(info) => judge::cgroup(info),
        None => Finding::fail("docker.cgroup", "the engine does not say what it can limit", "docker info"),
    });
    (all, info)
}

/// Every broker of the host takes connections; the running agent says whether it is heard there.
pub(super) async fn brokers(runtime: &dyn Runtime, host: HostId, view: Option<&StatusView>) -> Vec<Finding> {
    let Some(view) = view else { return vec![] };
    let wanted = view.status.iter().flat_map(|s| &s.instances).filter(|i| i.kind.starts_with("mosquitto"));
    let wanted: Vec<_> = wanted.filter(|i| i.reason != Some(redforge_shared::report::Reason::Suspended)).collect();
    if wanted.is_empty() {
        return vec![Finding::ok(CHECK, "none is meant to run here")];
    }
    let seen = match runtime.observe(&Names::new(host)).await {
        Ok(seen) => seen,
        Err(e) => return vec![Finding::fail(CHECK, Chain(&e).to_string(), "see docker.socket")],
    };
    let mut all = Vec::new();
    for i in wanted {
        let next = format!("redforge-edge logs {0}; redforge-edge restart {0}", i.name);
        let running = |c: &&crate::runtime::ContainerSeen| c.instance == i.name && c.state == ContainerState::Running;
        let Some(address) = seen.containers.iter().find(running).and_then(|c| c.address) else {
            all.push(Finding::fail(CHECK, format!("{} does not run", i.name), next));
            continue;
        };
        all.push(dialled(SocketAddr::new(address, MQTT_PORT), i.name.as_str(), next).await);
    }
    all
}

pub(super) async fn dialled(addr: SocketAddr, name: &str, next: String) -> Finding {
    match tokio::time::timeout(ANSWER, TcpStream::connect(addr)).await {
        Ok(Ok(_)) => Finding::ok(CHECK, format!("{name} takes connections")),
        Ok(Err(e)) => Finding::fail(CHECK, format!("{name} takes no connection: {e}"), next),
        Err(_) => Finding::fail(CHECK, format!("{name} does not answer"), next),
    }
}
