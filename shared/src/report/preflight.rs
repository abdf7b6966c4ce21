//! What an agent found out before it fetched or touched anything for an instance: verdicts with their numbers.
//!
//! Typed, so that nobody has to read a text to learn what is lacking; the one text for people is made here too. It knows no
//! limits and decides nothing: the agent does.
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;

words!(
    /// Can the change be made?
    Verdict { Fits, FitsAfterCleanUp, Refused }
);
words!(
    /// What was looked at.
    Check { Disk, Memory, Port, Subnet, Architecture, Secret }
);
words!(
    /// The part of a change that a deadline is about.
    ChangeStep { Pull, Start, Healthy, HotDeploy }
);

/// What a disk finding names when it is about the agent's own folder, where that is another disk than the engine's.
pub const STATE: &str = "state";

/// Most findings of one preflight.
pub const MAX_FINDINGS: usize = 32;

/// The whole of it: as good as the worst finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Preflight {
    pub verdict: Verdict,
    pub findings: Vec<Finding>,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    pub check: Check,
    pub verdict: Verdict,
    /// Bytes of disk or memory, or the number of the port; none = cannot be known beforehand.
    pub needed: Option<u64>,
    /// Bytes of disk or memory that may be used; none = could not be measured.
    pub available: Option<u64>,
    /// What it is about: the image's and the host's architecture, the secret, the subnet, [`STATE`], the protocol of a port and, where
    /// one is known, the instance that holds it.
    pub names: Vec<String>,
}

impl Preflight {
    /// The worst of these.
    pub fn of(findings: Vec<Finding>) -> Self {
        let worst = |v: Verdict| Verdict::ALL.iter().position(|x| *x == v);
        let verdict = findings.iter().map(|f| f.verdict).max_by_key(|v| worst(*v)).unwrap_or(Verdict::Fits);
        Self { verdict, findings }
    }

    /// Why it was refused, in one line.
    pub fn refusal(&self) -> String {
        let refused = self.findings.iter().filter(|f| f.verdict == Verdict::Refused);
        refused.map(Finding::sentence).collect::<Vec<_>>().join("; ")
    }
}

impl Finding {
    /// With its numbers, as people read it.
    pub fn sentence(&self) -> String {
        let name = |n: usize| self.names.get(n).map(String::as_str).unwrap_or_default();
        let number = |n: Option<u64>| n.map_or_else(|| "unknown".into(), bytes);
        match self.check {
            Check::Disk | Check::Memory => {
                let what = match self.check {
                    Check::Disk if name(0) == STATE => "disk of the state folder",
                    Check::Disk => "disk",
                    _ => "memory",
                };
                format!("{what}: {} needed, {} available", number(self.needed), number(self.available))
            }
            Check::Port => {
                let port = self.needed.unwrap_or_default();
                let mut text = format!("port {port}/{}", name(0));
                match (self.verdict, self.names.get(1)) {
                    (Verdict::Refused, Some(holder)) => drop(write!(text, " is held by {holder}")),
                    (Verdict::Refused, None) => text.push_str(" is held by another program"),
                    _ => text.push_str(" is free"),
                }
                text
            }
            Check::Subnet => format!("subnet {} {}", name(0), self.word("is free", "overlaps a network of the host")),
            Check::Architecture => format!("image for {}, host is {}", name(0), name(1)),
            Check::Secret => format!("secret {} {}", name(0), self.word("is known", "is not known on the host")),
        }
    }

    fn word(&self, good: &'static str, bad: &'static str) -> &'static str {
        if self.verdict == Verdict::Refused { bad } else { good }
    }
}

/// Bytes in the largest unit that leaves a whole part.
fn bytes(n: u64) -> String {
    let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let fits = units.into_iter().find(|(size, _)| n >= *size);
    fits.map_or_else(|| format!("{n} B"), |(size, unit)| format!("{:.1} {unit}", n as f64 / size as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(check: Check, verdict: Verdict, needed: Option<u64>, names: &[&str]) -> Finding {
        let names = names.iter().map(|n| (*n).to_owned()).collect();
        Finding { check, verdict, needed, available: Some(1 << 30), names }
    }

    #[test]
    fn the_worst_finding_decides_and_the_refusal_names_only_what_refused() {
        let p = Preflight::of(vec![
            finding(Check::Disk, Verdict::FitsAfterCleanUp, None, &[]),
            finding(Check::Port, Verdict::Refused, Some(8080), &["tcp", "web"]),
            finding(Check::Memory, Verdict::Refused, Some(3 << 29), &[]),
        ]);
        assert_eq!(p.verdict, Verdict::Refused);
        assert_eq!(p.refusal(), "port 8080/tcp is held by web; memory: 1.5 GiB needed, 1.0 GiB available");
        assert_eq!(p.findings[0].sentence(), "disk: unknown needed, 1.0 GiB available");
        assert_eq!(Preflight::of(vec![]).verdict, Verdict::Fits);
    }
}
