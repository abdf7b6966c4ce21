//! What a technician at the machine, or an operator, does next about a reason. Pure words.
use redforge_shared::report::Reason;

/// The next step about this instance. What has no step of its own is looked for in its log.
pub(super) fn next(reason: Reason, instance: &str, names: &[String]) -> Option<String> {
    let first = names.first().map_or("NAME", String::as_str);
    let step = match reason {
        Reason::Suspended | Reason::Held | Reason::Fenced | Reason::HubBehind => return None,
        Reason::ImageMissing => {
            "an operator says `redforgectl artifact push`, or the way to the registry is opened".into()
        }
        Reason::ForeignObject => format!("`docker inspect {first}` shows whose it is; rename or remove it"),
        Reason::MissingTypes => "an operator pushes the flow set with the modules that it needs".into(),
        Reason::ModelMissing => {
            "an operator says `redforgectl artifact push model`, or gives the instance egress".into()
        }
        Reason::ModelDigest => "an operator declares the digest that is meant".into(),
        Reason::BlobMissing => "it comes with the link: redforge-edge doctor".into(),
        Reason::BlobDamaged => "an operator pushes it again; redforge-edge doctor looks at the disk".into(),
        Reason::PortTaken => "`ss -ltnp` shows who has the port".into(),
        Reason::DiskFull => "df -h, docker system df".into(),
        Reason::RuntimeUnreachable => "systemctl status docker".into(),
        Reason::SpecRefused => "upgrade the agent".into(),
        Reason::StartRefused => "`journalctl -u redforge-edge -n 50` has the engine's words".into(),
        Reason::WaitingForInstance => format!("an operator applies {first}"),
        Reason::WaitingForSession => format!("redforge-edge logs {first}"),
        Reason::Edited => {
            format!("an operator says `redforgectl get instances`: what becomes of it is {instance}'s drift policy")
        }
        Reason::SecretMissing => format!("redforge-edge secret set {first}"),
        Reason::PreflightRefused => "make room, or an operator asks for less; it goes on by itself".into(),
        Reason::NoRoom => "an operator asks for fewer replicas, or lowers their limits".into(),
        _ => format!("redforge-edge logs {instance}"),
    };
    Some(step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_next_step_but_those_that_somebody_wants() {
        let names = ["erp-key".to_owned()];
        let none: Vec<_> = Reason::ALL.iter().copied().filter(|r| next(*r, "press", &names).is_none()).collect();
        assert_eq!(none, [Reason::HubBehind, Reason::Suspended, Reason::Fenced, Reason::Held]);
        assert_eq!(next(Reason::SecretMissing, "press", &names).as_deref(), Some("redforge-edge secret set erp-key"));
        assert_eq!(next(Reason::ProbeFailed, "press", &[]).as_deref(), Some("redforge-edge logs press"));
    }
}
