//! What a technician at the machine, or an operator, does next about a reason. Pure words.
use redforge_shared::report::{InstanceStatus, Reason, Sync, preflight::ChangeStep};

/// The next step about this instance. What has no step of its own is looked for in its log: in the one that was `kept` of it
/// where its container is gone.
pub(super) fn next(reason: Reason, i: &InstanceStatus, kept: bool) -> Option<String> {
    let first = i.names.first().map_or("NAME", String::as_str);
    let registry = i.names.get(1).map_or("REGISTRY", String::as_str);
    let log = || {
        let failed = if kept && i.sync == Sync::RolledBack { " --failed" } else { "" };
        format!("redforge-edge logs {}{failed}", i.name)
    };
    let step = match reason {
        Reason::Suspended | Reason::Held | Reason::Fenced | Reason::HubBehind => return None,
        Reason::ImageMissing => {
            "an operator says `redforgectl artifact push`, or the way to the registry is opened".into()
        }
        Reason::RegistryDenied => {
            format!(
                "give {registry} a user and a password in this host's settings ([registry]); it is asked again by itself"
            )
        }
        Reason::ForeignObject => format!("`docker inspect {first}` shows whose it is; rename or remove it"),
        Reason::MissingTypes => "an operator pushes the flow set with the modules that it needs".into(),
        Reason::ModelMissing => {
            "an operator says `redforgectl artifact push model`, or gives the instance egress".into()
        }
        Reason::ModelDigest => "an operator declares the digest that is meant".into(),
        Reason::BlobMissing => "it comes with the link: redforge-edge doctor".into(),
        Reason::BlobDamaged => "an operator pushes it again; redforge-edge doctor looks at the disk".into(),
        Reason::PortTaken => match (i.names.first().and_then(|p| p.split_once('/')), i.names.get(1)) {
            (_, Some(holder)) => format!("an operator publishes another port of {} or of {holder}", i.name),
            (Some((port, protocol)), None) => {
                let all = if protocol == "udp" { "-lnup" } else { "-lntp" };
                format!("`ss {all} 'sport = :{port}'` shows who has it; free it, or an operator publishes another")
            }
            (None, None) => "`ss -lntup` shows who has which port".into(),
        },
        Reason::DiskFull => "df -h, docker system df".into(),
        Reason::RuntimeUnreachable => "systemctl status docker".into(),
        Reason::SpecRefused => "upgrade the agent".into(),
        Reason::StartRefused if i.detail.is_some() => {
            "an operator mends what the engine names: the command, the user, a mount, a limit".into()
        }
        Reason::StartRefused => "`journalctl -u redforge-edge -n 50` has the engine's words".into(),
        Reason::WaitingForInstance => format!("an operator applies {first}"),
        Reason::WaitingForSession => format!("redforge-edge logs {first}"),
        Reason::Edited => {
            format!("an operator says `redforgectl get instances`: what becomes of it is {}'s drift policy", i.name)
        }
        Reason::SecretMissing => format!("redforge-edge secret set {first}"),
        Reason::PreflightRefused => "make room, or an operator asks for less; it goes on by itself".into(),
        Reason::NoRoom => "an operator asks for fewer replicas, or lowers their limits".into(),
        // Neither has printed anything yet.
        Reason::DeadlineExceeded if i.late == Some(ChangeStep::Pull) => {
            "the way to the registry is slow: runtime.pull_deadline_s, or an operator says `redforgectl artifact push`"
                .into()
        }
        Reason::DeadlineExceeded if i.late == Some(ChangeStep::Start) => {
            "redforge-edge doctor looks at the engine".into()
        }
        Reason::ContainerExited
        | Reason::OutOfMemory
        | Reason::ProbeFailed
        | Reason::FlowsStopped
        | Reason::SafeMode
        | Reason::DeployRefused
        | Reason::DeadlineExceeded => log(),
    };
    Some(step)
}

#[cfg(test)]
mod tests {
    use super::{super::tests::instance, *};

    fn about(names: &[&str]) -> InstanceStatus {
        InstanceStatus { names: names.iter().map(|n| (*n).to_owned()).collect(), ..instance("press") }
    }

    #[test]
    fn every_reason_has_a_next_step_but_those_that_somebody_wants() {
        let of = about(&["erp-key"]);
        let none: Vec<_> = Reason::ALL.iter().copied().filter(|r| next(*r, &of, false).is_none()).collect();
        assert_eq!(none, [Reason::HubBehind, Reason::Suspended, Reason::Fenced, Reason::Held]);
    }

    #[test]
    fn the_step_is_about_this_instance_and_what_was_found() {
        let late = |step| InstanceStatus { late: Some(step), ..about(&["press:2"]) };
        let back = InstanceStatus { sync: Sync::RolledBack, ..about(&["press:2"]) };
        let refused = InstanceStatus { detail: Some("no such command".into()), ..about(&[]) };
        let told = [
            next(Reason::SecretMissing, &about(&["erp-key"]), false),
            next(Reason::RegistryDenied, &about(&["registry.plant:5000/press:2", "registry.plant:5000"]), false),
            next(Reason::ProbeFailed, &about(&[]), true),
            next(Reason::ProbeFailed, &back, false),
            next(Reason::ProbeFailed, &back, true),
            next(Reason::PortTaken, &about(&[]), false),
            next(Reason::PortTaken, &about(&["8080/tcp"]), false),
            next(Reason::PortTaken, &about(&["53/udp"]), false),
            next(Reason::PortTaken, &about(&["8080/tcp", "web"]), false),
            next(Reason::StartRefused, &about(&[]), false),
            next(Reason::StartRefused, &refused, false),
            next(Reason::DeadlineExceeded, &late(ChangeStep::Pull), true),
            next(Reason::DeadlineExceeded, &late(ChangeStep::Start), true),
            next(Reason::DeadlineExceeded, &late(ChangeStep::Healthy), true),
        ];
        insta::assert_snapshot!(told.map(Option::unwrap_or_default).join("\n"));
    }
}
