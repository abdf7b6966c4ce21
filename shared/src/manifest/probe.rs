//! The section `probe` of an instance: how people write what [`desired::Probe`] asks.
use crate::desired::{self, Check};
use serde::{Deserialize, Serialize};

/// How to tell that it works, beside what its kind asks anyway. Exactly one of the first five may be there. Until the
/// first success the instance is starting; later one failure makes it Degraded and `failureThreshold` of them in a row
/// Error.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Probe {
    /// GET answers 200 to 399.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpProbe>,
    /// The port accepts a connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<TcpProbe>,
    /// `{}`: a message published at the broker comes back. For kind mosquitto.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mqtt_echo: Option<MqttEcho>,
    /// A flow answers a message with an expected text. For kind node-red.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flow_message: Option<FlowMessage>,
    /// A model answers a short prompt in time. For kind ollama.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_prompt: Option<ModelPrompt>,
    /// Pause between two attempts, 1 to 3600. Default 10; 60 for modelPrompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub period_seconds: Option<u32>,
    /// Longest wait for an answer, 1 to 300. Default 3; 60 for modelPrompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<u32>,
    /// Failures in a row until Error, 1 to 100. Default 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_threshold: Option<u32>,
}

/// Asks a web server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpProbe {
    /// Port inside the container.
    pub port: u16,
    /// Path, such as /health.
    pub path: String,
}

/// Knocks at a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TcpProbe {
    /// Port inside the container.
    pub port: u16,
}

/// Has nothing to say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MqttEcho {}

/// A message for a flow. It goes by HTTP where `path` is there, by MQTT where `topic` and `answerTopic` are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FlowMessage {
    /// Path of an HTTP-in node; the message is POSTed to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Topic that the flow listens to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// Topic that the flow answers on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer_topic: Option<String>,
    /// What is sent. Default `ping`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Text that the answer has to contain.
    pub expect: String,
}

/// A prompt for a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ModelPrompt {
    /// Model by its name.
    pub model: String,
    /// What is asked. Default `ping`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// Ask for the prompt's vector instead of a text. Default false.
    #[serde(default, skip_serializing_if = "super::is_false")]
    pub embed: bool,
}

impl Probe {
    /// Names of the questions that are there.
    pub(super) fn questions(&self) -> Vec<&'static str> {
        let all = [
            ("http", self.http.is_some()),
            ("tcp", self.tcp.is_some()),
            ("mqttEcho", self.mqtt_echo.is_some()),
            ("flowMessage", self.flow_message.is_some()),
            ("modelPrompt", self.model_prompt.is_some()),
        ];
        all.into_iter().filter(|(_, there)| *there).map(|(name, _)| name).collect()
    }

    /// The desired form; none where nothing is asked, or too much to be one question.
    pub(super) fn render(&self) -> Option<Check> {
        let usual = Check::usual(self.question()?);
        Some(Check {
            period_s: self.period_seconds.unwrap_or(usual.period_s),
            timeout_s: self.timeout_seconds.unwrap_or(usual.timeout_s),
            failure_threshold: self.failure_threshold.unwrap_or(usual.failure_threshold),
            ..usual
        })
    }

    fn question(&self) -> Option<desired::Probe> {
        let ping = |text: &Option<String>| text.clone().unwrap_or_else(|| "ping".into());
        if self.questions().len() != 1 {
            return None;
        }
        let http = self.http.as_ref().map(|h| desired::Probe::Http { port: h.port, path: h.path.clone() });
        let tcp = || self.tcp.as_ref().map(|t| desired::Probe::Tcp { port: t.port });
        let echo = || self.mqtt_echo.as_ref().map(|_| desired::Probe::MqttEcho {});
        let flow = || {
            let flow = self.flow_message.as_ref()?;
            let (message, expect) = (ping(&flow.message), flow.expect.clone());
            match (&flow.path, &flow.topic, &flow.answer_topic) {
                (Some(path), None, None) => Some(desired::Probe::FlowHttp { path: path.clone(), message, expect }),
                (None, Some(topic), Some(answer)) => {
                    let (topic, answer_topic) = (topic.clone(), answer.clone());
                    Some(desired::Probe::FlowMqtt { topic, answer_topic, message, expect })
                }
                _ => None,
            }
        };
        let model = || {
            let m = self.model_prompt.as_ref()?;
            Some(desired::Probe::ModelPrompt { model: m.model.clone(), prompt: ping(&m.prompt), embed: m.embed })
        };
        http.or_else(tcp).or_else(echo).or_else(flow).or_else(model)
    }
}
