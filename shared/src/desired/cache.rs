//! A key-value server of kind `valkey` or `redis`: both speak one protocol and take one configuration.
use serde::{Deserialize, Serialize};

/// What the server keeps, and how. All of it changes without a new container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cache {
    /// Most bytes of data; none = three quarters of the instance's memory limit or, without one, no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_memory_bytes: Option<u64>,
    /// What happens to a write when the memory is used up.
    #[serde(default)]
    pub eviction: Eviction,
    /// What outlives a restart.
    #[serde(default)]
    pub persistence: Persistence,
}

/// The server's own words for what it does when its memory is used up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Eviction {
    /// Refuse to write: nothing that was stored is lost.
    #[default]
    Noeviction,
    AllkeysLru,
    AllkeysLfu,
    AllkeysRandom,
    VolatileLru,
    VolatileLfu,
    VolatileRandom,
    VolatileTtl,
}

impl Eviction {
    /// The word in the server's configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Noeviction => "noeviction",
            Self::AllkeysLru => "allkeys-lru",
            Self::AllkeysLfu => "allkeys-lfu",
            Self::AllkeysRandom => "allkeys-random",
            Self::VolatileLru => "volatile-lru",
            Self::VolatileLfu => "volatile-lfu",
            Self::VolatileRandom => "volatile-random",
            Self::VolatileTtl => "volatile-ttl",
        }
    }
}

/// How data is kept on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Persistence {
    /// Every write, on disk within a second.
    #[default]
    AppendOnly,
    /// Every write, on disk before it is answered.
    AppendOnlyAlways,
    /// A snapshot after a minute with changes.
    Snapshot,
    /// Nothing.
    None,
}
