//! Replicas and auto-scaling as operators write them, and where they cannot be: every refusal says what to do instead.
use super::{InstanceSpec, Kind};
use crate::scale::{Autoscale, MAX_QUEUE, MAX_REPLICAS, MAX_SCALE_DOWN_AFTER_S, SCALE_DOWN_AFTER_S, ScaleBy};
use serde::{Deserialize, Serialize};

/// Bounds between which the host itself chooses the number of containers, by CPU or by a queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AutoscaleManifest {
    /// Fewest containers. Default 1.
    #[serde(default = "one")]
    pub min: u32,
    /// Most containers, at most 32.
    pub max: u32,
    /// Percent of its CPU limit (`resources.cpu`) that each container shall use. Either this or `queue`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_percent: Option<u32>,
    /// How many waiting messages each container shall have, as the instance reports them on `redforge/scale/NAME`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<u64>,
    /// Seconds for which the load must have asked for fewer before any goes. Default 300, at most 3600.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale_down_after_seconds: Option<u32>,
}

fn one() -> u32 {
    1
}

impl AutoscaleManifest {
    /// The desired form; none while it is not one policy.
    pub(super) fn render(&self) -> Option<Autoscale> {
        let by = match (self.cpu_percent, self.queue) {
            (Some(percent), None) => ScaleBy::CpuPercent(percent),
            (None, Some(queue)) => ScaleBy::Queue(queue),
            _ => return None,
        };
        let scale_down_after_s = self.scale_down_after_seconds.unwrap_or(SCALE_DOWN_AFTER_S);
        Some(Autoscale { min: self.min, max: self.max, by, scale_down_after_s })
    }
}

/// Everything that is wrong with replicas and autoscale, with the path.
pub(super) fn problems(spec: &InstanceSpec) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut say = |path: &str, problem: String| found.push((path.to_owned(), problem));
    if let Some(n) = spec.replicas.filter(|n| !(1..=MAX_REPLICAS).contains(n)) {
        let stop = if n == 0 { "; to run none, set suspend: true" } else { "" };
        say("spec.replicas", format!("{n} is not 1 to {MAX_REPLICAS}{stop}"));
    }
    if let Some(policy) = &spec.autoscale {
        if spec.replicas.is_some() {
            say(
                "spec.autoscale",
                "replicas fixes the number that autoscale would choose: leave one of them out".into(),
            );
        }
        bounds(spec, policy, &mut say);
    }
    let (path, most) = match &spec.autoscale {
        Some(policy) => ("spec.autoscale", policy.max),
        None => ("spec.replicas", spec.replicas.unwrap_or(1)),
    };
    if most > 1
        && let Some(why) = why_single(spec)
    {
        say(path, why);
    }
    found
}

fn bounds(spec: &InstanceSpec, policy: &AutoscaleManifest, say: &mut impl FnMut(&str, String)) {
    if !(1..=MAX_REPLICAS).contains(&policy.max) {
        say("spec.autoscale.max", format!("{} is not 1 to {MAX_REPLICAS}", policy.max));
    }
    if policy.min == 0 || policy.min > policy.max {
        say("spec.autoscale.min", format!("{} is not 1 to max, which is {}", policy.min, policy.max));
    }
    if spec.resources.memory.is_none() {
        let problem = "what each container needs must be known, so that never more run than the host holds: set it, such as 256Mi";
        say("spec.resources.memory", problem.into());
    }
    if policy.cpu_percent.is_some() == policy.queue.is_some() {
        say("spec.autoscale", "say what it follows: either cpuPercent or queue".into());
    }
    if policy.cpu_percent.is_some_and(|p| !(1..=100).contains(&p)) {
        say("spec.autoscale.cpuPercent", "must be 1 to 100".into());
    } else if policy.cpu_percent.is_some() && spec.resources.cpu.is_none() {
        say(
            "spec.autoscale.cpuPercent",
            "a percentage of resources.cpu, which is not set: set it, such as 500m".into(),
        );
    }
    if policy.queue.is_some_and(|q| !(1..=MAX_QUEUE).contains(&q)) {
        say("spec.autoscale.queue", format!("must be 1 to {MAX_QUEUE}"));
    }
    let own_broker = spec.container.as_ref().is_none_or(|c| c.broker.is_none());
    if policy.queue.is_some() && spec.kind == Kind::Container && own_broker {
        let problem = "the queue is reported over MQTT: name the broker in spec.container.broker";
        say("spec.autoscale.queue", problem.into());
    }
    if policy.scale_down_after_seconds.is_some_and(|s| s > MAX_SCALE_DOWN_AFTER_S) {
        say("spec.autoscale.scaleDownAfterSeconds", format!("more than {MAX_SCALE_DOWN_AFTER_S}"));
    }
}

/// Why there can be only one container of it, and what to do instead.
fn why_single(spec: &InstanceSpec) -> Option<String> {
    match spec.kind {
        Kind::Mosquitto => {
            let why = "a broker keeps its sessions in one container: make a second instance, and name it in `broker`";
            return Some(why.into());
        }
        Kind::Ollama => {
            let why = "an Ollama server's models lie in one volume: make a second instance, and name it in `ollama`";
            return Some(why.into());
        }
        Kind::Valkey | Kind::Redis => {
            let why = "a cache keeps its data in one container: make a second instance, and name it in `cache`";
            return Some(why.into());
        }
        Kind::NodeRed | Kind::Tika | Kind::Container => {}
    }
    if let Some(v) = spec.volumes.first() {
        let name = &v.name;
        return Some(format!(
            "several containers would write to volume '{name}' at once: leave it out, or make an instance for each"
        ));
    }
    let port = spec.ports.first()?;
    Some(format!(
        "only one container can publish port {}: leave it out and reach the replicas under the instance's name, through \
         an instance of its own that publishes the port",
        port.host
    ))
}
