//! What an agent says about its host: the status words, and one report that replaces the one before.
//!
//! Enums, numbers and names of the desired state only; text that a container printed has no field here. Two texts are free,
//! bounded and printable: the reason of a [`Hold`], which a person at the site typed (decision 14), and the engine's words
//! about a container that it would not start (decision 23).
use crate::{
    desired::InstanceSpec,
    ids::{Digest, Name},
    scale::{Replicas, Scaled},
    standin,
};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

mod progress;
mod why;

pub use progress::Progress;
pub use why::explained;

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($variant:ident),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum $name { $($variant),+ }

        impl $name {
            /// Every word, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The word as pages, tables and SQL write it.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => stringify!($variant)),+ }
            }

            /// The word's value, if it is one of ours.
            pub fn from_word(s: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|w| w.as_str() == s)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}

words!(
    /// The connection of a host, as the hub sees it.
    Link { Online, Stale, Offline, NeverSeen }
);
words!(
    /// How well something works.
    Health { Healthy, Degraded, Error, Unknown }
);
words!(
    /// How far something is from its desired state.
    Sync { UpToDate, Updating, OutOfDate, Drifted, Paused, Failed, RolledBack }
);
words!(
    /// Where an instance is in its life.
    Phase { Pending, Pulling, Starting, Running, Stopping, Stopped, Crashed, Safe }
);
words!(
    /// Why something is not as desired.
    Reason {
        ImageMissing, ForeignObject, MissingTypes, ModelMissing, ModelDigest, BlobMissing, ContainerExited, OutOfMemory,
        PortTaken, DiskFull, RuntimeUnreachable, ProbeFailed, FlowsStopped, SpecRefused, HubBehind, DeployRefused,
        StartRefused, WaitingForInstance, Suspended, WaitingForSession, Fenced, Held, Edited, PreflightRefused,
        DeadlineExceeded, BlobDamaged, NoRoom, SecretMissing, RegistryDenied, SafeMode,
    }
);
words!(
    /// What the number of an instance's containers follows.
    ScaleMetric { Cpu, Queue }
);
words!(
    /// What kept the number of containers from being what the load alone asks for.
    ScaleLimit { None, Minimum, Maximum, Capacity, Window }
);

pub mod clean_up;
pub mod preflight;

use clean_up::CleanUp;
use preflight::{ChangeStep, Preflight};

/// One instance as its agent last saw it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceStatus {
    pub name: Name,
    pub kind: String,
    pub phase: Phase,
    pub health: Health,
    pub sync: Sync,
    pub reason: Option<Reason>,
    /// Names of the desired state or its flow sets that explain `reason`; at most [`MAX_NAMES`].
    pub names: Vec<String>,
    pub container_id: Option<String>,
    pub restarts: u32,
    pub exit_code: Option<i32>,
    #[serde(with = "time::serde::rfc3339")]
    pub changed_at: OffsetDateTime,
    pub memory_limit_bytes: u64,
    pub cpu_limit_millicores: u32,
    /// Messages that a broker threw away for want of room, of all its clients; 0 for other kinds.
    #[serde(default)]
    pub messages_dropped: u64,
    /// Somebody at the site wants it left as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<Hold>,
    /// What was found before the last change of this instance began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preflight: Option<Preflight>,
    /// The step of the change that ran out of time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub late: Option<ChangeStep>,
    /// When the agent starts it again; only while it rests between two crashes.
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub next_start_at: Option<OffsetDateTime>,
    /// A new version works, and is trusted from then on; until then what worked before it comes back if it breaks.
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub trial_ends_at: Option<OffsetDateTime>,
    /// What is being fetched for the instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    #[serde(default)]
    pub replicas: Replicas,
    /// For an instance that scales by itself.
    #[serde(default)]
    pub scaled: Option<Scaled>,
    /// With [`Reason::StartRefused`]: the engine's own words, as [`one_line`] has them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// Somebody at the site wants something left as it is for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Who: the user at the machine.
    pub by: String,
    /// Why, in their words.
    pub reason: String,
    #[serde(with = "time::serde::rfc3339")]
    pub since: OffsetDateTime,
    /// It ends by itself.
    #[serde(with = "time::serde::rfc3339")]
    pub until: OffsetDateTime,
    /// Meant for everything on the host, not for this instance alone.
    #[serde(default)]
    pub whole_host: bool,
}

/// Longest name of who holds, and longest reason, in bytes.
pub const MAX_HOLDER_BYTES: usize = 64;
pub const MAX_HOLD_REASON_BYTES: usize = 200;

/// Text of a person as a report may carry it: without control characters, and cut to `most` bytes.
pub fn printable(text: &str, most: usize) -> String {
    let mut out = String::new();
    for c in text.trim().chars().filter(|c| !c.is_control() && !is_invisible(*c)) {
        if out.len() + c.len_utf8() > most {
            break;
        }
        out.push(c);
    }
    out
}

/// Most bytes of the engine's words.
pub const MAX_DETAIL_BYTES: usize = 300;

/// A program's words on one line, as [`printable`] as a person's.
pub fn one_line(text: &str, most: usize) -> String {
    printable(&text.split_whitespace().collect::<Vec<_>>().join(" "), most)
}

/// Characters that turn the writing's direction, or that nobody sees: what is shown must be what was typed.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

impl InstanceStatus {
    /// An instance that nobody has looked at yet.
    pub fn unseen(spec: &InstanceSpec, at: OffsetDateTime) -> Self {
        Self {
            name: spec.name.clone(),
            kind: standin::kind(spec.workload.kind(), &spec.image),
            phase: Phase::Pending,
            health: Health::Unknown,
            sync: Sync::OutOfDate,
            reason: None,
            names: vec![],
            container_id: None,
            restarts: 0,
            exit_code: None,
            changed_at: at,
            memory_limit_bytes: 0,
            cpu_limit_millicores: 0,
            messages_dropped: 0,
            hold: None,
            preflight: None,
            late: None,
            next_start_at: None,
            trial_ends_at: None,
            progress: None,
            replicas: Replicas::default(),
            scaled: None,
            detail: None,
        }
    }
}

/// Most names a reason carries.
pub const MAX_NAMES: usize = 32;
/// Longest such name in bytes.
pub const MAX_NAME_BYTES: usize = 128;

/// Facts about a host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFacts {
    pub hostname: String,
    pub architecture: String,
    pub kernel: String,
    pub agent_version: String,
    pub docker_version: String,
    pub docker_api_version: String,
    pub cpus: u32,
    pub memory_total_bytes: u64,
    pub disk_free_bytes: u64,
    pub disk_total_bytes: u64,
}

/// What the reconciler last found: the agent's link adds numbers of the outbox and sends it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostStatus {
    pub generation: u64,
    pub spec_sha256: Option<Digest>,
    pub health: Health,
    pub sync: Sync,
    pub reason: Option<Reason>,
    pub names: Vec<String>,
    pub instances: Vec<InstanceStatus>,
    /// What nothing needs any more, and what became of it.
    #[serde(default)]
    pub clean_up: CleanUp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_persons_text_is_cut_and_loses_what_cannot_be_seen() {
        assert_eq!(printable("  press is open\x1b[2J\n ", 200), "press is open[2J");
        assert_eq!(printable("\u{202e}abc\u{200b}", 200), "abc");
        assert_eq!(printable("äää", 5), "ää");
    }

    #[test]
    fn a_programs_words_stand_on_one_line() {
        assert_eq!(one_line(" exec:\n\t\"no\u{1b}[2J\"\r\n  not found\0", 300), "exec: \"no[2J\" not found");
        assert_eq!(one_line(&"äb ".repeat(1_000), MAX_DETAIL_BYTES).len(), MAX_DETAIL_BYTES);
    }
}
