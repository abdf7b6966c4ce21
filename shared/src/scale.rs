//! How many containers an instance has: a fixed number, or between two bounds by load; and why it has as many as it has.
//!
//! Words only. What the number is at a moment is decided on the host, by the agent, with or without a hub; whether an
//! instance may have more than one at all is the manifest's check.
use crate::report::{ScaleLimit, ScaleMetric};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Most containers that one instance may have on a host.
pub const MAX_REPLICAS: u32 = 32;
/// Longest time that a lower load must last before containers go, in seconds.
pub const MAX_SCALE_DOWN_AFTER_S: u32 = 3600;
/// The same, when the manifest says nothing.
pub const SCALE_DOWN_AFTER_S: u32 = 300;
/// Largest queue per replica that a policy may name.
pub const MAX_QUEUE: u64 = 1_000_000_000;
/// Below this topic an instance tells how much waits for it: `redforge/scale/<instance>`, payload `{"queue": n}`.
pub const SCALE_TOPIC: &str = "redforge/scale/";

/// Between which bounds, and by what, the number of containers follows the load.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Autoscale {
    pub min: u32,
    pub max: u32,
    pub by: ScaleBy,
    /// Seconds for which the load must have asked for fewer before any goes.
    pub scale_down_after_s: u32,
}

/// What one container shall carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScaleBy {
    /// Percent of its CPU limit.
    CpuPercent(u32),
    /// Messages, documents, jobs: whatever the instance counts as waiting.
    Queue(u64),
}

impl ScaleBy {
    /// What is measured.
    pub fn metric(self) -> ScaleMetric {
        match self {
            Self::CpuPercent(_) => ScaleMetric::Cpu,
            Self::Queue(_) => ScaleMetric::Queue,
        }
    }

    /// How much of it one container shall carry.
    pub fn target(self) -> u64 {
        match self {
            Self::CpuPercent(percent) => percent.into(),
            Self::Queue(n) => n,
        }
    }
}

/// Containers of one instance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replicas {
    /// They do what their spec asks for.
    pub ready: u32,
    pub desired: u32,
    /// All that are there, outdated and ending ones too.
    pub total: u32,
}

impl fmt::Display for Replicas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}/{}", self.ready, self.desired))
    }
}

/// The last decision about an instance that scales by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scaled {
    pub replicas: u32,
    pub metric: ScaleMetric,
    /// Of all its containers together; none = nothing was measured lately.
    pub measured: Option<u64>,
    /// What one container shall carry.
    pub target: u64,
    /// What kept the number from being what the load alone asks for.
    pub limit: ScaleLimit,
}

/// One sentence, as status, lists and pages show it.
impl fmt::Display for Scaled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "scaled to {}: ", self.replicas)?;
        let unit = if self.metric == ScaleMetric::Cpu { " %" } else { "" };
        match self.measured {
            Some(n) => write!(f, "{} {n}{unit}, {}{unit} per replica", self.metric.noun(), self.target)?,
            None => write!(f, "no {} measured", self.metric.noun())?,
        }
        f.write_str(match self.limit {
            ScaleLimit::None => "",
            ScaleLimit::Minimum => ", not below the minimum",
            ScaleLimit::Maximum => ", not above the maximum",
            ScaleLimit::Capacity => ", the host has no room for more",
            ScaleLimit::Window => ", fewer once the load has stayed low",
        })
    }
}

impl ScaleMetric {
    fn noun(self) -> &'static str {
        match self {
            Self::Cpu => "CPU",
            Self::Queue => "queue",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decision_is_one_sentence() {
        let queue = |measured, limit| Scaled { replicas: 3, metric: ScaleMetric::Queue, measured, target: 100, limit };
        let cpu = Scaled { metric: ScaleMetric::Cpu, target: 70, ..queue(Some(200), ScaleLimit::Capacity) };
        let all = [
            queue(Some(240), ScaleLimit::None),
            queue(Some(900), ScaleLimit::Maximum),
            queue(Some(0), ScaleLimit::Window),
            queue(None, ScaleLimit::None),
            cpu,
        ];
        insta::assert_snapshot!(all.map(|s| s.to_string()).join("\n"));
    }
}
