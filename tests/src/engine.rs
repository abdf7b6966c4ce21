//! The Docker engine as a person with a shell sees it: what runs under which label, and cleaning up after a story.
//!
//! Uses the `docker` client, so that a fault of the agent's own client cannot hide here.
use crate::place::{run, text};
use std::{process::Command, time::Duration};

/// Runs `docker` and gives its output; panics when it fails.
pub fn docker(args: &[&str]) -> String {
    let out = try_docker(args);
    out.unwrap_or_else(|e| panic!("docker {args:?} failed: {e}"))
}

/// Runs `docker`; its text when it fails.
pub fn try_docker(args: &[&str]) -> Result<String, String> {
    let out = run(Command::new("docker").args(args), Duration::from_secs(120));
    if out.status.success() { Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned()) } else { Err(text(&out)) }
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// The newest local image of a kind, `redforge.local/<kind>:<version>`.
pub fn image(kind: &str) -> String {
    let list = docker(&["images", "--format", "{{.Repository}}:{{.Tag}}", &format!("redforge.local/{kind}")]);
    words(&list)
        .into_iter()
        .find(|i| !i.ends_with("<none>"))
        .unwrap_or_else(|| panic!("no image redforge.local/{kind}: run packaging/images/build.sh {kind}"))
}

/// Container of an instance of a host, running or not.
pub fn find(host_id: &str, instance: &str) -> Option<String> {
    let by_host = format!("label=redforge.host={host_id}");
    let by_name = format!("label=redforge.instance={instance}");
    words(&docker(&["ps", "-aq", "--no-trunc", "--filter", &by_host, "--filter", &by_name])).into_iter().next()
}

/// One field of `docker inspect`.
pub fn inspect(object: &str, format: &str) -> String {
    docker(&["inspect", "--format", format, object])
}

/// Address of a container on its host's internal network.
pub fn address(container: &str) -> String {
    let all = inspect(container, "{{range $n, $e := .NetworkSettings.Networks}}{{$n}}={{$e.IPAddress}} {{end}}");
    let inner = words(&all).into_iter().find(|n| !n.split('=').next().is_some_and(|n| n.ends_with("-out")));
    inner.and_then(|n| n.split_once('=').map(|(_, ip)| ip.to_owned())).expect("the container is on the inner network")
}

/// Removes every container, network and volume of this host id, whatever state they are in.
pub fn remove_all(host_id: &str) {
    let filter = format!("label=redforge.host={host_id}");
    for (list, remove) in [
        (vec!["ps", "-aq", "--filter", &filter], vec!["rm", "-fv"]),
        (vec!["network", "ls", "-q", "--filter", &filter], vec!["network", "rm"]),
        (vec!["volume", "ls", "-q", "--filter", &filter], vec!["volume", "rm", "-f"]),
    ] {
        // Clean-up must not hide the failure that led here.
        let Ok(found) = try_docker(&list) else { continue };
        let found = words(&found);
        if !found.is_empty() {
            let mut args = remove;
            args.extend(found.iter().map(String::as_str));
            drop(try_docker(&args));
        }
    }
}

/// A container made by the story itself, gone with the value.
pub struct Foreign(pub String);

impl Drop for Foreign {
    fn drop(&mut self) {
        drop(try_docker(&["rm", "-fv", &self.0]));
    }
}
