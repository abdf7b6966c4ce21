//! Preflights on the wire. Findings that this build has no word for are left out.
use super::{pb, report::bounded_names};
use crate::report::preflight::{Check, Finding, MAX_FINDINGS, Preflight, Verdict};

impl From<&Preflight> for pb::Preflight {
    fn from(p: &Preflight) -> Self {
        let finding = |f: &Finding| pb::PreflightFinding {
            check: pb::PreflightCheck::from(f.check).into(),
            verdict: pb::PreflightVerdict::from(f.verdict).into(),
            needed: f.needed,
            available: f.available,
            names: bounded_names(&f.names),
        };
        Self {
            verdict: pb::PreflightVerdict::from(p.verdict).into(),
            findings: p.findings.iter().take(MAX_FINDINGS).map(finding).collect(),
        }
    }
}

/// Findings of a newer agent that this build has no word for are left out.
pub fn preflight(p: &pb::Preflight) -> Option<Preflight> {
    let finding = |f: &pb::PreflightFinding| {
        Some(Finding {
            check: Check::from_wire(f.check)?,
            verdict: Verdict::from_wire(f.verdict)?,
            needed: f.needed,
            available: f.available,
            names: bounded_names(&f.names),
        })
    };
    let findings = p.findings.iter().take(MAX_FINDINGS).filter_map(finding).collect();
    Some(Preflight { verdict: Verdict::from_wire(p.verdict)?, findings })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        report::{InstanceStatus, MAX_NAME_BYTES, preflight::ChangeStep},
        wire::timestamp,
    };
    use time::macros::datetime;

    #[test]
    fn a_status_keeps_its_preflight_over_the_wire_and_drops_what_it_has_no_word_for() {
        let at = datetime!(2026-11-23 10:00 UTC);
        let mut status =
            pb::InstanceStatus { name: "a".into(), phase: 7, changed_at: Some(timestamp(at)), ..Default::default() };
        let finding = |check: i32| pb::PreflightFinding {
            check,
            verdict: pb::PreflightVerdict::Refused.into(),
            needed: None,
            available: Some(7),
            names: vec!["x".repeat(300)],
        };
        let verdict = pb::PreflightVerdict::Refused.into();
        status.preflight = Some(pb::Preflight { verdict, findings: vec![finding(99), finding(1)] });
        status.late = pb::ChangeStep::HotDeploy.into();
        status.next_start_at = Some(timestamp(at));
        let read = InstanceStatus::try_from(status).expect("good enough");
        let findings = &read.preflight.as_ref().expect("there").findings;
        assert_eq!((findings.len(), findings[0].check, findings[0].needed), (1, Check::Disk, None));
        assert_eq!(findings[0].names[0].len(), MAX_NAME_BYTES);
        assert_eq!((read.late, read.next_start_at), (Some(ChangeStep::HotDeploy), Some(at)));
        assert_eq!(InstanceStatus::try_from(pb::InstanceStatus::from(&read)).expect("good"), read);
    }
}
