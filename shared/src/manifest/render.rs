//! An instance's manifest as the host's desired state has it: pure, total, nothing is looked up.
use super::{InstanceSpec, Kind, Probe};
use crate::{
    desired::{self, Workload},
    ids::{Digest, Name},
};

impl InstanceSpec {
    /// The desired form. `flow_set` gives the newest digest of a flow set by name.
    pub fn render(&self, name: &Name, flow_set: impl FnOnce(&Name) -> Option<Digest>) -> desired::InstanceSpec {
        desired::InstanceSpec {
            name: name.clone(),
            image: self.image.clone(),
            image_artifact: None,
            workload: self.workload(flow_set),
            env: self.env.clone(),
            secret_env: self.secret_env.clone(),
            probe: self
                .probe
                .as_ref()
                .or(self.container.as_ref().and_then(|c| c.probe.as_ref()))
                .and_then(Probe::render),
            read_only_root: self.read_only_root,
            resources: desired::Resources {
                cpu_millicores: self.resources.cpu.map(|c| c.0),
                memory_bytes: self.resources.memory.map(|m| m.0),
                pids: self.resources.pids,
            },
            volumes: self.volumes.clone(),
            ports: self
                .ports
                .iter()
                .map(|p| desired::Port {
                    container: p.container,
                    host: p.host,
                    address: p.address,
                    protocol: p.protocol,
                })
                .collect(),
            egress: self.egress,
            restart_nonce: self.restart_nonce.clone(),
            suspend: self.suspend,
            collect_logs: self.collect_logs,
            replicas: self.replicas.unwrap_or(1),
            autoscale: self.autoscale.as_ref().and_then(super::AutoscaleManifest::render),
        }
    }

    fn workload(&self, flow_set: impl FnOnce(&Name) -> Option<Digest>) -> Workload {
        match self.kind {
            Kind::NodeRed => {
                let section = self.node_red.clone().unwrap_or_default();
                Workload::NodeRed(desired::NodeRed {
                    flow_set: section.flow_set.as_ref().and_then(flow_set),
                    broker: section.broker,
                    ollama: section.ollama,
                    cache: section.cache,
                    tika: section.tika,
                    reads: section.reads,
                    drift: section.drift,
                    developer: section.developer,
                })
            }
            Kind::Mosquitto => {
                let section = self.mosquitto.clone().unwrap_or_default();
                let default = desired::Mosquitto::default();
                Workload::Mosquitto(desired::Mosquitto {
                    max_queued_messages: section.max_queued_messages.unwrap_or(default.max_queued_messages),
                    max_queued_bytes: section.max_queued_bytes.map_or(default.max_queued_bytes, |b| b.0),
                    max_inflight_messages: section.max_inflight_messages.unwrap_or(default.max_inflight_messages),
                    message_size_limit: section
                        .message_size_limit
                        .and_then(|b| u32::try_from(b.0).ok())
                        .unwrap_or(default.message_size_limit),
                })
            }
            Kind::Ollama => {
                let section = self.ollama.clone().unwrap_or_default();
                let model = |m: super::Model| desired::Model {
                    name: m.name,
                    digest: m.digest,
                    preload: m.preload,
                    blobs: vec![],
                };
                Workload::Ollama(desired::Ollama {
                    models: section.models.into_iter().map(model).collect(),
                    context_length: section.context_length,
                    keep_alive: section.keep_alive,
                    num_parallel: section.num_parallel,
                    max_loaded_models: section.max_loaded_models,
                    prune: section.prune,
                })
            }
            Kind::Valkey => Workload::Valkey(self.valkey.clone().unwrap_or_default().render()),
            Kind::Redis => Workload::Redis(self.redis.clone().unwrap_or_default().render()),
            Kind::Tika => Workload::Tika(self.tika.clone().unwrap_or_default().render()),
            Kind::Container => {
                let section = self.container.clone().unwrap_or_default();
                Workload::Container(desired::Container {
                    command: section.command,
                    probe: None,
                    broker: section.broker,
                })
            }
        }
    }

    /// The runtime of another instance that it runs in.
    pub fn runtime(&self) -> Option<&Name> {
        self.node_red.as_ref().and_then(|n| n.runtime.as_ref())
    }

    /// Flow set that the instance runs, by name.
    pub fn flow_set(&self) -> Option<&Name> {
        self.node_red.as_ref().and_then(|n| n.flow_set.as_ref())
    }
}
