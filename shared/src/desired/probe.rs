//! How to tell that an instance works: what is asked, how often, how long an answer may take, and how many must fail.
//!
//! Part of the desired document. Asking is the agent's business (`workload::probe`).
use serde::{Deserialize, Serialize};

/// A probe with its rhythm.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Check {
    pub probe: Probe,
    /// Seconds between the end of one attempt and the next.
    pub period_s: u32,
    /// Seconds that one attempt may take.
    pub timeout_s: u32,
    /// Failures in a row after which what had worked is in error; before, it is degraded.
    pub failure_threshold: u32,
}

impl Check {
    /// Failures in a row that count, unless the manifest says otherwise.
    pub const FAILURE_THRESHOLD: u32 = 3;

    /// A probe with the rhythm that suits it.
    pub fn usual(probe: Probe) -> Self {
        // A model may have to be loaded before it answers, and every answer costs the host's processors.
        let (period_s, timeout_s) = if matches!(probe, Probe::ModelPrompt { .. }) { (60, 60) } else { (10, 3) };
        Self { probe, period_s, timeout_s, failure_threshold: Self::FAILURE_THRESHOLD }
    }
}

/// What is asked, from the host's own network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Probe {
    /// GET answers 200 to 399.
    Http { port: u16, path: String },
    /// The port accepts a connection.
    Tcp { port: u16 },
    /// A message that is published at the broker comes back.
    MqttEcho {},
    /// A flow's HTTP-in answers a message with an expected text.
    FlowHttp { path: String, message: String, expect: String },
    /// A flow answers a message on one topic with an expected text on another.
    FlowMqtt { topic: String, answer_topic: String, message: String, expect: String },
    /// A model answers a short prompt, or gives its vector.
    ModelPrompt { model: String, prompt: String, embed: bool },
}

impl Probe {
    /// The probe's name, as manifests write it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Http { .. } => "http",
            Self::Tcp { .. } => "tcp",
            Self::MqttEcho {} => "mqttEcho",
            Self::FlowHttp { .. } | Self::FlowMqtt { .. } => "flowMessage",
            Self::ModelPrompt { .. } => "modelPrompt",
        }
    }
}
