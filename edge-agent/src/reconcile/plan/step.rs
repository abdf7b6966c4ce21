//! The closed list of steps that planning writes.
use super::Purpose;
use redforge_shared::ids::{Digest, Name};
use std::fmt;

/// Everything that can be done. Each is idempotent, and knows the instance it is done for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    RemoveHelper {
        id: String,
    },
    EnsureNetwork {
        name: String,
        internal: bool,
    },
    WantBlob {
        instance: Name,
        digest: Digest,
    },
    ResolveImage {
        instance: Name,
        image: String,
    },
    EnsureVolume {
        instance: Name,
        volume: String,
        purpose: Purpose,
    },
    PutConfig {
        instance: Name,
        volume: String,
    },
    PutModules {
        instance: Name,
        volume: String,
        flow_set: Digest,
    },
    /// Its next start leaves its flows alone.
    SafeMode {
        instance: Name,
        id: String,
    },
    PutLive {
        instance: Name,
        volume: String,
    },
    Stop {
        instance: Name,
        container: String,
        id: String,
    },
    Remove {
        instance: Name,
        container: String,
        id: String,
    },
    Create {
        instance: Name,
        container: String,
        replica: u32,
        named: bool,
    },
    ConnectOutside {
        instance: Name,
        container: String,
    },
    Start {
        instance: Name,
        container: String,
    },
    TakeName {
        instance: Name,
        container: String,
    },
    Reload {
        instance: Name,
        id: String,
        applied: String,
    },
    DeployFlows {
        instance: Name,
        id: String,
        home: String,
        digest: Digest,
        full: bool,
        credentials: bool,
    },
    /// Into the volume of one that is down.
    PutFlows {
        instance: Name,
        id: String,
        home: String,
        digest: Digest,
    },
    StartFlows {
        instance: Name,
        id: String,
    },
    PullModel {
        instance: Name,
        id: String,
        model: String,
    },
    LoadModel {
        instance: Name,
        id: String,
        model: String,
    },
    RemoveVolume {
        instance: Name,
        volume: String,
    },
}

impl Step {
    /// The instance it belongs to; none = all of them need it.
    pub fn instance(&self) -> Option<&Name> {
        match self {
            Self::RemoveHelper { .. } | Self::EnsureNetwork { .. } => None,
            Self::WantBlob { instance, .. }
            | Self::ResolveImage { instance, .. }
            | Self::EnsureVolume { instance, .. }
            | Self::PutConfig { instance, .. }
            | Self::PutModules { instance, .. }
            | Self::SafeMode { instance, .. }
            | Self::PutLive { instance, .. }
            | Self::Stop { instance, .. }
            | Self::Remove { instance, .. }
            | Self::Create { instance, .. }
            | Self::ConnectOutside { instance, .. }
            | Self::Start { instance, .. }
            | Self::TakeName { instance, .. }
            | Self::Reload { instance, .. }
            | Self::DeployFlows { instance, .. }
            | Self::PutFlows { instance, .. }
            | Self::StartFlows { instance, .. }
            | Self::PullModel { instance, .. }
            | Self::LoadModel { instance, .. }
            | Self::RemoveVolume { instance, .. } => Some(instance),
        }
    }
}

/// Every deed of [`Step::deed`].
pub const DEEDS: [&str; 20] = [
    "remove-helper",
    "ensure-network",
    "want-blob",
    "resolve-image",
    "ensure-volume",
    "put-config",
    "put-modules",
    "put-live",
    "stop",
    "remove",
    "create",
    "connect-outside",
    "start",
    "take-name",
    "reload",
    "deploy-flows",
    "start-flows",
    "pull-model",
    "load-model",
    "remove-volume",
];

impl Step {
    /// What it does, in a word: the name of its fault points.
    pub fn deed(&self) -> &'static str {
        match self {
            Self::RemoveHelper { .. } => "remove-helper",
            Self::EnsureNetwork { .. } => "ensure-network",
            Self::WantBlob { .. } => "want-blob",
            Self::ResolveImage { .. } => "resolve-image",
            Self::EnsureVolume { .. } => "ensure-volume",
            // What it finds when it starts.
            Self::PutConfig { .. } | Self::SafeMode { .. } => "put-config",
            Self::PutModules { .. } => "put-modules",
            Self::PutLive { .. } => "put-live",
            Self::Stop { .. } => "stop",
            Self::Remove { .. } => "remove",
            Self::Create { .. } => "create",
            Self::ConnectOutside { .. } => "connect-outside",
            Self::Start { .. } => "start",
            Self::TakeName { .. } => "take-name",
            Self::Reload { .. } => "reload",
            // Into a runtime that answers, or into the volume of one that is down.
            Self::DeployFlows { .. } | Self::PutFlows { .. } => "deploy-flows",
            Self::StartFlows { .. } => "start-flows",
            Self::PullModel { .. } => "pull-model",
            Self::LoadModel { .. } => "load-model",
            Self::RemoveVolume { .. } => "remove-volume",
        }
    }

    /// Is the host another one behind it, so that the next look should come soon?
    pub fn moves(&self) -> bool {
        matches!(
            self,
            Self::ResolveImage { .. }
                | Self::Remove { .. }
                | Self::Create { .. }
                | Self::Start { .. }
                | Self::TakeName { .. }
                | Self::Reload { .. }
                | Self::DeployFlows { .. }
        )
    }
}

/// One line per step, for logs and for reviewers of snapshots.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RemoveHelper { id } => write!(f, "remove helper {id}"),
            Self::EnsureNetwork { name, internal: true } => write!(f, "ensure internal network {name}"),
            Self::EnsureNetwork { name, internal: false } => write!(f, "ensure network {name}"),
            Self::WantBlob { instance, digest } => write!(f, "{instance}: want blob {}", &digest.hex()[..12]),
            Self::ResolveImage { instance, image } => write!(f, "{instance}: resolve image {image}"),
            Self::EnsureVolume { instance, volume, purpose } => {
                write!(f, "{instance}: ensure {purpose:?} volume {volume}")
            }
            Self::PutConfig { instance, volume } => write!(f, "{instance}: put config into {volume}"),
            Self::PutModules { instance, volume, .. } => write!(f, "{instance}: put modules into {volume}"),
            Self::SafeMode { instance, .. } => write!(f, "{instance}: begin the next start in safe mode"),
            Self::PutLive { instance, volume } => write!(f, "{instance}: put live files into {volume}"),
            Self::Stop { instance, container, .. } => write!(f, "{instance}: stop {container}"),
            Self::Remove { instance, container, .. } => write!(f, "{instance}: remove {container}"),
            Self::Create { instance, container, named: true, .. } => write!(f, "{instance}: create {container}"),
            Self::Create { instance, container, named: false, .. } => {
                write!(f, "{instance}: create {container} beside the one that serves")
            }
            Self::ConnectOutside { instance, container } => write!(f, "{instance}: connect {container} to the outside"),
            Self::Start { instance, container } => write!(f, "{instance}: start {container}"),
            Self::TakeName { instance, container } => write!(f, "{instance}: give {container} the instance's name"),
            Self::Reload { instance, id, .. } => write!(f, "{instance}: reload live files in {id}"),
            Self::DeployFlows { instance, digest, full, .. } => {
                write!(f, "{instance}: deploy {} {}", if *full { "full" } else { "flows" }, &digest.hex()[..12])
            }
            Self::PutFlows { instance, digest, .. } => {
                write!(f, "{instance}: put flows {} where it finds them", &digest.hex()[..12])
            }
            Self::StartFlows { instance, .. } => write!(f, "{instance}: start flows"),
            Self::PullModel { instance, model, .. } => write!(f, "{instance}: pull model {model}"),
            Self::LoadModel { instance, model, .. } => write!(f, "{instance}: load model {model} into memory"),
            Self::RemoveVolume { instance, volume } => write!(f, "{instance}: remove volume {volume}"),
        }
    }
}
