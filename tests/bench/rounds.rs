//! Rounds: limit and product measured in turn, with the machine's load and the disk's latency of each. Pure but for the
//! probe; knows no subject.
use crate::ground::Ground;
use std::collections::BTreeMap;

/// Above this an fdatasync waits for the scheduler and not for the disk: what depends on it says nothing then.
pub const VOID_ABOVE_MS: f64 = 1.0;

/// Rounds that are needed for a verdict where some are void.
const ENOUGH: usize = 3;

/// One round: every measure by its name.
pub struct Round {
    pub measures: BTreeMap<&'static str, f64>,
    pub fdatasync_ms: f64,
    pub load: f64,
}

/// The rounds of one subject.
#[derive(Default)]
pub struct Rounds(Vec<Round>);

impl Rounds {
    /// Measures round after round. Where syncs bound the subject, a round on a busy disk is repeated, at most as often
    /// again as rounds were asked for.
    pub async fn take(
        ground: &mut Ground,
        sync_bound: bool,
        mut round: impl AsyncFnMut(&mut Ground, usize) -> anyhow::Result<Vec<(&'static str, f64)>>,
    ) -> anyhow::Result<Self> {
        let mut rounds = Self::default();
        let wanted = ground.rounds();
        for n in 0..wanted * 2 {
            let before_ms = ground.fdatasync_ms()?;
            let measures: BTreeMap<_, _> = round(ground, n).await?.into_iter().collect();
            let said: Vec<String> = measures.iter().map(|(k, v)| format!("{k} {v:.2}")).collect();
            // The worse of both ends: what came in between was no better.
            let fdatasync_ms = before_ms.max(ground.fdatasync_ms()?);
            let load = load();
            let void = sync_bound && fdatasync_ms > VOID_ABOVE_MS;
            let verdict = if void { ", void" } else { "" };
            eprintln!(
                "   round {}: {}; fdatasync {fdatasync_ms:.2} ms, load {load:.1}{verdict}",
                n + 1,
                said.join(", ")
            );
            rounds.0.push(Round { measures, fdatasync_ms, load });
            if rounds.0.iter().filter(|r| !sync_bound || r.fdatasync_ms <= VOID_ABOVE_MS).count() >= wanted {
                break;
            }
        }
        Ok(rounds)
    }

    /// Rounds that count, and how many do not. Fewer than three decide nothing.
    pub fn valid(&self, sync_bound: bool) -> (Vec<&Round>, usize) {
        let valid: Vec<_> = self.0.iter().filter(|r| !sync_bound || r.fdatasync_ms <= VOID_ABOVE_MS).collect();
        let void = self.0.len() - valid.len();
        if void > 0 && valid.len() < ENOUGH { (self.0.iter().collect(), void) } else { (valid, void) }
    }
}

/// Seconds of CPU that a process has used, with those of its children that have ended.
pub fn cpu_s(pid: u32) -> f64 {
    stat(pid).map_or(0.0, |(_, own, ended)| own + ended)
}

/// Seconds of CPU that a process and all its children have used.
pub fn cpu_of_family_s(parent: u32) -> f64 {
    let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = all.filter_map(|e| e.file_name().to_str()?.parse().ok());
    let children: f64 = pids.filter_map(stat).filter(|(of, ..)| *of == parent).map(|(_, own, ended)| own + ended).sum();
    cpu_s(parent) + children
}

/// Parent, own seconds, and those of ended children, from the kernel's hundredths.
fn stat(pid: u32) -> Option<(u32, f64, f64)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<f64> = text.rsplit_once(')')?.1.split_whitespace().skip(1).filter_map(|f| f.parse().ok()).collect();
    let at = |n: usize| fields.get(n).copied().unwrap_or(0.0);
    Some((at(0) as u32, (at(10) + at(11)) / 100.0, (at(12) + at(13)) / 100.0))
}

/// The machine's load of the last minute.
fn load() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0.0)
}

/// The middle one.
pub fn median(of: impl IntoIterator<Item = f64>) -> f64 {
    let mut of: Vec<f64> = of.into_iter().collect();
    of.sort_by(f64::total_cmp);
    match of.len() {
        0 => 0.0,
        n if n % 2 == 1 => of[n / 2],
        n => f64::midpoint(of[n / 2 - 1], of[n / 2]),
    }
}
