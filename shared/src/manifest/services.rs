//! The sections of the kinds that serve other instances and have no file of flows or models: valkey, redis, tika.
use crate::{
    desired::{self, Eviction, Persistence},
    units::Bytes,
};
use serde::{Deserialize, Serialize};

/// A key-value server. Every field changes without a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Cache {
    /// Most data; at least 1Mi. Default: three quarters of `resources.memory`, without that no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_memory: Option<Bytes>,
    /// When the memory is used up: `noeviction` refuses writes (the default); `allkeys-lru`, `allkeys-lfu`,
    /// `allkeys-random`, `volatile-lru`, `volatile-lfu`, `volatile-random` and `volatile-ttl` throw data away.
    #[serde(default)]
    pub eviction: Eviction,
    /// `append-only` (the default: every write, on disk within a second), `append-only-always` (before the answer),
    /// `snapshot` (after a minute with changes) or `none`.
    #[serde(default)]
    pub persistence: Persistence,
}

/// An Apache Tika server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Tika {
    /// Longest work on one document, 1 to 3600. Default 120.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_timeout_seconds: Option<u32>,
}

impl Cache {
    pub(super) fn render(&self) -> desired::Cache {
        desired::Cache {
            max_memory_bytes: self.max_memory.map(|b| b.0),
            eviction: self.eviction,
            persistence: self.persistence,
        }
    }
}

impl Tika {
    pub(super) fn render(&self) -> desired::Tika {
        let usual = desired::Tika::default();
        desired::Tika { task_timeout_s: self.task_timeout_seconds.unwrap_or(usual.task_timeout_s) }
    }
}
