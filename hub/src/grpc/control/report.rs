//! Checks a report before it is stored: bounds, numbers, names. What a newer agent says beyond our words is left out.
use crate::store::reports::{OutboxNumbers, Report};
use redforge_shared::{
    ids::Digest,
    record::RecordClass,
    report::{Health, HostStatus, InstanceStatus, MAX_NAME_BYTES, MAX_NAMES, Reason, Sync},
    wire::{from_timestamp, pb},
};
use tonic::Status;

/// Most instances a report may name.
const MAX_INSTANCES: usize = 1000;

/// 32 bytes, or none where there are none.
pub(super) fn digest(field: &str, bytes: &[u8]) -> Result<Option<Digest>, Status> {
    if bytes.is_empty() {
        return Ok(None);
    }
    Digest::try_from(bytes).map(Some).map_err(|_| Status::invalid_argument(format!("{field}: expected 32 bytes")))
}

pub(super) fn check(r: pb::HostReport) -> Result<Report, Status> {
    let invalid = |text: String| Status::invalid_argument(format!("report.{text}"));
    for (field, n) in [("start_no", r.start_no), ("report_no", r.report_no), ("generation", r.generation)] {
        if i64::try_from(n).is_err() {
            return Err(invalid(format!("{field}: too large")));
        }
    }
    if r.instances.len() > MAX_INSTANCES {
        return Err(invalid(format!("instances: more than {MAX_INSTANCES}")));
    }
    let mut instances = Vec::with_capacity(r.instances.len());
    for (i, instance) in r.instances.into_iter().enumerate() {
        match InstanceStatus::try_from(instance) {
            Ok(status) => instances.push(status),
            // A phase of a newer agent: the other instances are still worth knowing.
            Err(e) => tracing::warn!(problem = %e.within(&format!("instances[{i}]")), "part of a report left out"),
        }
    }
    let names = r.names.into_iter().filter(|n| n.len() <= MAX_NAME_BYTES).take(MAX_NAMES).collect();
    let outbox = r.outbox.iter().take(RecordClass::ALL.len()).filter_map(outbox).collect();
    Ok(Report {
        start_no: r.start_no,
        report_no: r.report_no,
        status: HostStatus {
            generation: r.generation,
            spec_sha256: digest("report.spec_sha256", &r.spec_sha256)?,
            health: Health::from_wire(r.health).unwrap_or(Health::Unknown),
            sync: Sync::from_wire(r.sync).unwrap_or(Sync::OutOfDate),
            reason: Reason::from_wire(r.reason),
            names,
            instances,
            clean_up: r.clean_up.map(Into::into).unwrap_or_default(),
        },
        facts: r.facts.unwrap_or_default().into(),
        outbox,
        reported_at: from_timestamp("reported_at", r.reported_at.as_ref()).map_err(|e| invalid(e.to_string()))?,
    })
}

fn outbox(o: &pb::OutboxStatus) -> Option<OutboxNumbers> {
    let class = match pb::RecordClass::try_from(o.class).ok()? {
        pb::RecordClass::Vector => RecordClass::Vector,
        pb::RecordClass::Log => RecordClass::Log,
        pb::RecordClass::Event => RecordClass::Event,
        pb::RecordClass::Measurement => RecordClass::Measurement,
        pb::RecordClass::Unspecified => return None,
    };
    Some(OutboxNumbers {
        class,
        waiting: o.waiting,
        waiting_bytes: o.waiting_bytes,
        refused: o.refused,
        absorbed: o.absorbed,
        lost: o.lost,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use redforge_shared::wire::timestamp;

    #[test]
    fn bounds_are_kept_and_unknown_words_become_unknown() {
        let at = Some(timestamp(time::OffsetDateTime::UNIX_EPOCH));
        let odd = pb::InstanceStatus { name: "a".into(), phase: 99, changed_at: at, ..Default::default() };
        let good = pb::InstanceStatus { name: "b".into(), phase: 4, changed_at: at, ..Default::default() };
        let report = pb::HostReport {
            health: 77,
            names: vec!["x".repeat(500), "ok".into()],
            instances: vec![odd, good],
            reported_at: at,
            ..Default::default()
        };
        let checked = check(report.clone()).expect("good enough");
        assert_eq!(checked.status.health, Health::Unknown);
        assert_eq!(checked.status.names, ["ok"]);
        assert_eq!(checked.status.instances.len(), 1);
        let e = check(pb::HostReport { report_no: u64::MAX, ..report.clone() }).expect_err("too large");
        assert!(e.message().contains("report.report_no"), "{}", e.message());
        let e = check(pb::HostReport { spec_sha256: vec![1].into(), ..report }).expect_err("short");
        assert!(e.message().contains("spec_sha256"), "{}", e.message());
    }
}
