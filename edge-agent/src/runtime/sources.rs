//! What `reconcile` and `collect` tell each other: where records come from, and what was heard there.
use bytes::Bytes;
use redforge_shared::ids::{Digest, Name};
use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
};

/// Where the agent reaches a broker instance, and as whom. Read by `collect`.
#[derive(Clone, PartialEq, Eq)]
pub struct BrokerEndpoint {
    pub instance: Name,
    pub addr: SocketAddr,
    /// What its sessions are kept in: another home knows nothing of them.
    pub home: String,
    pub user: String,
    pub password: String,
}

impl fmt::Debug for BrokerEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BrokerEndpoint({} at {} as {})", self.instance, self.addr, self.user)
    }
}

/// Where instances hand in records over HTTP, and whose token is whose. Read by `collect`.
#[derive(Clone, PartialEq, Eq)]
pub struct IngestDoor {
    /// The internal bridge's first address.
    pub addr: IpAddr,
    /// By the SHA-256 of an instance's token.
    pub tokens: BTreeMap<Digest, Name>,
}

impl fmt::Debug for IngestDoor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IngestDoor({} for {} instances)", self.addr, self.tokens.len())
    }
}

/// Brokers that hold the agent's session, by their home, with the messages they have thrown away. From `collect` to
/// `reconcile`.
pub type BrokersHeard = BTreeMap<String, u64>;

/// What an instance last said that waits for it, and when that was heard.
#[derive(Clone, Copy, Debug)]
pub struct QueueHeard {
    pub waiting: u64,
    pub at: tokio::time::Instant,
}

/// By instance. From `collect` to `reconcile`.
pub type QueuesHeard = BTreeMap<Name, QueueHeard>;

/// A container whose output may be collected. Read by `collect`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSource {
    pub instance: Name,
    pub container_id: String,
    pub collect: bool,
}

/// Which of its two outputs a container wrote to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogStream {
    Stdout,
    Stderr,
}

impl LogStream {
    /// The stream's name in records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// One line (or a part of an overlong one) of a container's output, without its line end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// Nanoseconds since 1970 by the engine's clock.
    pub at_ns: i64,
    pub stream: LogStream,
    pub bytes: Bytes,
    /// The line goes on in the next item: the engine cuts lines at 16 KiB.
    pub partial: bool,
}
