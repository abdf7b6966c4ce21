//! One status for an instance with several containers. Pure.
//!
//! It is as far as the one that is least far, and as well as most of them let it be: while some serve and not as many as
//! are wanted it is degraded, whatever the others are.
use super::{plan::room::Capacity, reduce};
use redforge_shared::{
    report::{Health, InstanceStatus, Phase, Reason, Sync},
    scale::Replicas,
};
use time::OffsetDateTime;

/// What is known beside the containers' own statuses.
#[derive(Clone, Copy, Debug)]
pub struct Around<'a> {
    pub counts: Replicas,
    /// The host has no room for as many as are wanted.
    pub is_short: bool,
    pub now: OffsetDateTime,
    pub before: Option<&'a InstanceStatus>,
}

/// `one` is the status of the container that the instance's status is about, `each` that of every one that is wanted.
pub fn fold(one: InstanceStatus, each: &[InstanceStatus], around: Around<'_>) -> InstanceStatus {
    let Replicas { ready, desired, total } = around.counts;
    let mut all = one.clone();
    if desired > 0
        && let Some(worst) = each.iter().max_by_key(|s| reduce::rank(s.health, s.sync))
    {
        all.sync = each.iter().map(|s| s.sync).max_by_key(|s| reduce::rank(Health::Healthy, *s)).unwrap_or(one.sync);
        if all.sync == Sync::UpToDate && total != desired {
            all.sync = Sync::Updating;
        }
        let explains = worst.health != Health::Healthy || worst.sync != Sync::UpToDate;
        (all.reason, all.names) =
            if explains { (worst.reason, worst.names.clone()) } else { (one.reason, one.names.clone()) };
        all.detail = if explains { worst.detail.clone() } else { one.detail };
        all.exit_code = worst.exit_code;
        all.next_start_at = worst.next_start_at;
        (all.phase, all.health) = match ready {
            0 => (worst.phase, worst.health),
            n if n < desired => (Phase::Running, Health::Degraded),
            _ if worst.health == Health::Degraded => (Phase::Running, Health::Degraded),
            _ => (Phase::Running, Health::Healthy),
        };
        all.restarts = each.iter().map(|s| s.restarts).sum();
    }
    if around.is_short && matches!(all.sync, Sync::UpToDate | Sync::Updating) && ready < desired {
        all.sync = Sync::OutOfDate;
        (all.reason, all.names) = (Some(Reason::NoRoom), vec![]);
    }
    all.replicas = around.counts;
    let same = |b: &&InstanceStatus| (b.phase, b.health, b.sync) == (all.phase, all.health, all.sync);
    all.changed_at = around.before.filter(same).map_or(around.now, |b| b.changed_at);
    all
}

/// What this machine has for its instances, as far as it says so.
pub fn capacity(cpus: u32, memory_total_bytes: u64) -> Option<Capacity> {
    let known = cpus > 0 && memory_total_bytes > 0;
    known.then(|| Capacity { cpu_millicores: u64::from(cpus) * 1000, memory_bytes: memory_total_bytes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use redforge_shared::desired::{Container, InstanceSpec, Workload};

    fn status(phase: Phase, health: Health, sync: Sync, reason: Option<Reason>) -> InstanceStatus {
        let spec = InstanceSpec::bare("a".parse().expect("a name"), "a:1", Workload::Container(Container::default()));
        InstanceStatus { phase, health, sync, reason, ..InstanceStatus::unseen(&spec, OffsetDateTime::UNIX_EPOCH) }
    }

    fn line(each: &[InstanceStatus], ready: u32, desired: u32, is_short: bool) -> String {
        let counts = Replicas { ready, desired, total: each.len() as u32 };
        let around = Around { counts, is_short, now: OffsetDateTime::UNIX_EPOCH, before: None };
        let s = fold(each[0].clone(), each, around);
        let reason = s.reason.map_or("-", Reason::as_str);
        format!("{} of {}: {} {} {} {reason}", s.replicas, each.len(), s.phase, s.health, s.sync)
    }

    #[test]
    fn several_containers_have_one_status() {
        let good = || status(Phase::Running, Health::Healthy, Sync::UpToDate, None);
        let starts = || status(Phase::Starting, Health::Unknown, Sync::Updating, None);
        let crashed = || status(Phase::Crashed, Health::Error, Sync::UpToDate, Some(Reason::ContainerExited));
        let types = || status(Phase::Starting, Health::Error, Sync::Failed, Some(Reason::MissingTypes));
        insta::assert_snapshot!(
            [
                line(&[good(), good(), good()], 3, 3, false),
                line(&[good(), good()], 2, 3, false),
                line(&[good(), starts()], 1, 2, false),
                line(&[starts(), starts()], 0, 2, false),
                line(&[good(), crashed(), good()], 2, 3, false),
                line(&[crashed(), crashed()], 0, 2, false),
                line(&[good(), types()], 1, 2, false),
                line(&[good(), good(), good()], 3, 2, false),
                line(&[good(), good()], 2, 5, true),
            ]
            .join("\n")
        );
    }
}
