//! Status words, facts and reports on the wire. Unknown enum values of a newer peer become `Unknown` or `None`.
use super::{InvalidMessage, from_timestamp, pb, preflight::preflight, timestamp};
use crate::{
    ids::Name,
    report::{
        Health, Hold, HostFacts, InstanceStatus, Link, MAX_DETAIL_BYTES, MAX_HOLD_REASON_BYTES, MAX_HOLDER_BYTES,
        MAX_NAME_BYTES, MAX_NAMES, Phase, Progress, Reason, ScaleLimit, ScaleMetric, Sync,
        clean_up::Leftover,
        one_line,
        preflight::{ChangeStep, Check, Verdict},
        printable,
    },
    scale::{Replicas, Scaled},
};

macro_rules! word {
    ($domain:ident, $wire:ident, { $($d:ident),+ $(,)? }) => {
        impl From<$domain> for pb::$wire {
            fn from(w: $domain) -> Self {
                match w { $($domain::$d => Self::$d),+ }
            }
        }
        impl $domain {
            /// The word of a wire value; `None` for a value this build does not know.
            pub fn from_wire(v: i32) -> Option<Self> {
                match pb::$wire::try_from(v).ok()? {
                    $(pb::$wire::$d => Some(Self::$d),)+
                    pb::$wire::Unspecified => None,
                }
            }
        }
    };
}

word!(Link, Link, { Online, Stale, Offline, NeverSeen });
word!(Health, Health, { Healthy, Degraded, Error, Unknown });
word!(Sync, Sync, { UpToDate, Updating, OutOfDate, Drifted, Paused, Failed, RolledBack });
word!(Phase, Phase, { Pending, Pulling, Starting, Running, Stopping, Stopped, Crashed, Safe });
word!(Reason, StatusReason, {
    ImageMissing, ForeignObject, MissingTypes, ModelMissing, ModelDigest, BlobMissing, ContainerExited, OutOfMemory,
    PortTaken, DiskFull, RuntimeUnreachable, ProbeFailed, FlowsStopped, SpecRefused, HubBehind, DeployRefused,
    StartRefused, WaitingForInstance, Suspended, WaitingForSession, Fenced, Held,
    Edited, PreflightRefused, DeadlineExceeded, BlobDamaged, NoRoom, SecretMissing, RegistryDenied, SafeMode,
});
word!(ScaleMetric, ScaleMetric, { Cpu, Queue });
word!(ScaleLimit, ScaleLimit, { None, Minimum, Maximum, Capacity, Window });

word!(Leftover, Leftover, { Image, Model, Volume, Blob });
word!(Verdict, PreflightVerdict, { Fits, FitsAfterCleanUp, Refused });
word!(Check, PreflightCheck, { Disk, Memory, Port, Subnet, Architecture, Secret });
word!(ChangeStep, ChangeStep, { Pull, Start, Healthy, HotDeploy });

/// Cuts a name to what a report may carry.
pub(super) fn bounded(name: &str) -> String {
    let mut end = name.len().min(MAX_NAME_BYTES);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    name[..end].to_owned()
}

/// At most [`MAX_NAMES`] bounded names.
pub(super) fn bounded_names(names: &[String]) -> Vec<String> {
    names.iter().take(MAX_NAMES).map(|n| bounded(n)).collect()
}

impl From<&InstanceStatus> for pb::InstanceStatus {
    fn from(s: &InstanceStatus) -> Self {
        Self {
            name: s.name.to_string(),
            kind: s.kind.clone(),
            phase: pb::Phase::from(s.phase).into(),
            health: pb::Health::from(s.health).into(),
            sync: pb::Sync::from(s.sync).into(),
            reason: s.reason.map_or(0, |r| pb::StatusReason::from(r).into()),
            names: bounded_names(&s.names),
            container_id: s.container_id.clone().unwrap_or_default(),
            restarts: s.restarts,
            exit_code: s.exit_code.unwrap_or_default(),
            changed_at: Some(timestamp(s.changed_at)),
            memory_limit_bytes: s.memory_limit_bytes,
            cpu_limit_millicores: s.cpu_limit_millicores,
            messages_dropped: s.messages_dropped,
            hold: s.hold.as_ref().map(Into::into),
            preflight: s.preflight.as_ref().map(Into::into),
            late: s.late.map_or(0, |l| pb::ChangeStep::from(l).into()),
            next_start_at: s.next_start_at.map(timestamp),
            trial_ends_at: s.trial_ends_at.map(timestamp),
            progress: s.progress.as_ref().map(Into::into),
            replicas_ready: s.replicas.ready,
            replicas_desired: s.replicas.desired,
            replicas_total: s.replicas.total,
            scaled: s.scaled.map(Into::into),
            detail: s.detail.clone().unwrap_or_default(),
        }
    }
}

impl From<&Hold> for pb::Hold {
    fn from(h: &Hold) -> Self {
        Self {
            by: h.by.clone(),
            reason: h.reason.clone(),
            since: Some(timestamp(h.since)),
            until: Some(timestamp(h.until)),
            whole_host: h.whole_host,
        }
    }
}

impl TryFrom<pb::Hold> for Hold {
    type Error = InvalidMessage;
    fn try_from(h: pb::Hold) -> Result<Self, InvalidMessage> {
        Ok(Self {
            by: printable(&h.by, MAX_HOLDER_BYTES),
            reason: printable(&h.reason, MAX_HOLD_REASON_BYTES),
            since: from_timestamp("since", h.since.as_ref())?,
            until: from_timestamp("until", h.until.as_ref())?,
            whole_host: h.whole_host,
        })
    }
}

impl TryFrom<pb::InstanceStatus> for InstanceStatus {
    type Error = InvalidMessage;
    fn try_from(s: pb::InstanceStatus) -> Result<Self, InvalidMessage> {
        let name: Name = s.name.parse().map_err(|e| InvalidMessage::new("name", format!("{e}")))?;
        let phase = Phase::from_wire(s.phase).ok_or_else(|| InvalidMessage::new("phase", "is not known"))?;
        Ok(Self {
            name,
            kind: bounded(&s.kind),
            phase,
            health: Health::from_wire(s.health).unwrap_or(Health::Unknown),
            sync: Sync::from_wire(s.sync).unwrap_or(Sync::OutOfDate),
            reason: Reason::from_wire(s.reason),
            names: bounded_names(&s.names),
            container_id: (!s.container_id.is_empty()).then(|| bounded(&s.container_id)),
            restarts: s.restarts,
            exit_code: matches!(phase, Phase::Crashed | Phase::Safe | Phase::Stopped).then_some(s.exit_code),
            changed_at: from_timestamp("changed_at", s.changed_at.as_ref())?,
            memory_limit_bytes: s.memory_limit_bytes,
            cpu_limit_millicores: s.cpu_limit_millicores,
            messages_dropped: s.messages_dropped,
            hold: s.hold.map(Hold::try_from).transpose().map_err(|e| e.within("hold"))?,
            preflight: s.preflight.as_ref().and_then(preflight),
            late: ChangeStep::from_wire(s.late),
            next_start_at: s.next_start_at.as_ref().map(|t| from_timestamp("next_start_at", Some(t))).transpose()?,
            trial_ends_at: s.trial_ends_at.as_ref().map(|t| from_timestamp("trial_ends_at", Some(t))).transpose()?,
            progress: s.progress.map(Into::into),
            replicas: Replicas { ready: s.replicas_ready, desired: s.replicas_desired, total: s.replicas_total },
            scaled: s.scaled.as_ref().and_then(Scaled::from_wire),
            detail: Some(one_line(&s.detail, MAX_DETAIL_BYTES)).filter(|d| !d.is_empty()),
        })
    }
}

impl From<&Progress> for pb::Progress {
    fn from(p: &Progress) -> Self {
        Self { what: bounded(&p.what), done_bytes: p.done_bytes, total_bytes: p.total_bytes }
    }
}

impl From<pb::Progress> for Progress {
    fn from(p: pb::Progress) -> Self {
        Self { what: bounded(&p.what), done_bytes: p.done_bytes, total_bytes: p.total_bytes }
    }
}

impl From<&HostFacts> for pb::HostFacts {
    fn from(f: &HostFacts) -> Self {
        Self {
            hostname: f.hostname.clone(),
            architecture: f.architecture.clone(),
            kernel: f.kernel.clone(),
            agent_version: f.agent_version.clone(),
            docker_version: f.docker_version.clone(),
            docker_api_version: f.docker_api_version.clone(),
            cpus: f.cpus,
            memory_total_bytes: f.memory_total_bytes,
            disk_free_bytes: f.disk_free_bytes,
            disk_total_bytes: f.disk_total_bytes,
        }
    }
}

impl From<pb::HostFacts> for HostFacts {
    fn from(f: pb::HostFacts) -> Self {
        Self {
            hostname: bounded(&f.hostname),
            architecture: bounded(&f.architecture),
            kernel: bounded(&f.kernel),
            agent_version: bounded(&f.agent_version),
            docker_version: bounded(&f.docker_version),
            docker_api_version: bounded(&f.docker_api_version),
            cpus: f.cpus,
            memory_total_bytes: f.memory_total_bytes,
            disk_free_bytes: f.disk_free_bytes,
            disk_total_bytes: f.disk_total_bytes,
        }
    }
}
