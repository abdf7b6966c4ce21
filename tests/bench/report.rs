//! Figures as they are told: one entry a goal, as a table for people and as JSON.
use crate::rounds::{Rounds, median};
use serde_json::{Value, json};
use std::{fmt::Write as _, path::Path};

/// What must hold.
#[derive(Clone, Copy)]
pub enum Goal {
    /// The ratio of product to limit.
    RatioAtLeast(f64),
    RatioAtMost(f64),
    /// The value itself; `what` says where the number comes from.
    ValueAtMost(f64, &'static str),
    /// Said beside a goal, to explain it.
    Told,
}

impl Goal {
    fn text(self) -> String {
        match self {
            Self::RatioAtLeast(r) => format!("ratio >= {r}"),
            Self::RatioAtMost(r) => format!("ratio <= {r}"),
            Self::ValueAtMost(v, what) => format!("value <= {v} ({what})"),
            Self::Told => "told only".into(),
        }
    }

    fn holds(self, value: f64, ratio: Option<f64>) -> Option<bool> {
        match self {
            Self::RatioAtLeast(r) => Some(ratio.is_some_and(|x| x >= r)),
            Self::RatioAtMost(r) => Some(ratio.is_some_and(|x| x <= r)),
            Self::ValueAtMost(v, _) => Some(value <= v),
            Self::Told => None,
        }
    }
}

/// What an entry says, beside its figures.
#[derive(Clone, Copy)]
pub struct Subject {
    pub id: &'static str,
    pub what: &'static str,
    pub unit: &'static str,
    /// Measures of the rounds: of the product, and of the limit program.
    pub value: &'static str,
    pub limit: &'static str,
    pub goal: Goal,
    /// Decided by the disk's latency: rounds on a busy disk are void.
    pub sync_bound: bool,
    pub profile: &'static str,
    /// How another program fares, or that it was not run.
    pub peer: &'static str,
}

/// Everything that was measured.
#[derive(Default)]
pub struct Report(Vec<Value>);

impl Report {
    /// Adds an entry made of rounds.
    pub fn add(&mut self, s: &Subject, rounds: &Rounds) {
        let (valid, void) = rounds.valid(s.sync_bound);
        let of = |name: &str| valid.iter().filter_map(|r| r.measures.get(name).copied()).collect::<Vec<f64>>();
        let (values, limits) = (of(s.value), of(s.limit));
        let ratios: Vec<f64> = values.iter().zip(&limits).filter(|(_, l)| **l > 0.0).map(|(v, l)| v / l).collect();
        let (value, limit) = (median(values.clone()), (!limits.is_empty()).then(|| median(limits.clone())));
        let ratio = (!ratios.is_empty()).then(|| median(ratios.clone()));
        let decided =
            void == 0 || valid.iter().all(|r| !s.sync_bound || r.fdatasync_ms <= crate::rounds::VOID_ABOVE_MS);
        let met = decided.then(|| s.goal.holds(value, ratio)).flatten();
        let spread = ratios
            .iter()
            .fold(None, |s: Option<(f64, f64)>, r| Some(s.map_or((*r, *r), |(low, high)| (low.min(*r), high.max(*r)))));
        self.0.push(json!({
            "id": s.id, "what": s.what, "unit": s.unit, "value": value, "limit": limit, "ratio": ratio,
            "goal": s.goal.text(), "met": met, "samples": values, "limit_samples": limits,
            "ratio_spread": spread.map(|(low, high)| [low, high]), "void_rounds": void,
            "fdatasync_p50_ms": median(valid.iter().map(|r| r.fdatasync_ms)),
            "load": median(valid.iter().map(|r| r.load)), "profile": s.profile, "peer": s.peer,
        }));
    }

    /// Writes the list.
    pub fn write(&self, path: &Path, quick: bool) -> anyhow::Result<()> {
        let list: Vec<Value> = self
            .0
            .iter()
            .cloned()
            .map(|mut entry| {
                if quick {
                    entry["quick"] = true.into();
                }
                entry
            })
            .collect();
        std::fs::write(path, serde_json::to_string_pretty(&list)? + "\n")?;
        Ok(())
    }

    /// A line an entry.
    pub fn table(&self, quick: bool) -> String {
        let mut out = String::new();
        let line = "-".repeat(150);
        if quick {
            out.push_str("QUICK: short slots and few rounds; these are no figures to quote.\n");
        }
        let head = ["id", "what", "value", "limit", "unit", "ratio", "spread", "goal", "met", "fdatasync", "load"];
        writeln!(
            out,
            "{:<10} {:<52} {:>10} {:>10} {:<9} {:>6} {:>13}  {:<14} {:<8} {:>9} {:>5}\n{line}",
            head[0], head[1], head[2], head[3], head[4], head[5], head[6], head[7], head[8], head[9], head[10]
        )
        .expect("text takes text");
        for e in &self.0 {
            let ratio = e["ratio"].as_f64().map_or_else(|| "-".into(), |r| format!("{r:.3}"));
            let number = |v: &Value| v.as_f64().map_or_else(|| "-".into(), short);
            let spread = match e["ratio_spread"].as_array().map(Vec::as_slice) {
                Some([low, high]) => format!("{}-{}", number(low), number(high)),
                _ => "-".into(),
            };
            let met = match e["met"].as_bool() {
                Some(true) => "met",
                Some(false) => "NOT MET",
                None if e["goal"] == "told only" => "-",
                None => "VOID",
            };
            let text = |k: &str| e[k].as_str().unwrap_or_default().to_owned();
            let goal = text("goal");
            let (goal, whence) = goal.split_once(" (").unwrap_or((&goal, ""));
            writeln!(
                out,
                "{:<10} {:<52} {:>10} {:>10} {:<9} {:>6} {:>13}  {:<14} {:<8} {:>6} ms {:>5}",
                text("id"),
                text("what"),
                number(&e["value"]),
                number(&e["limit"]),
                text("unit"),
                ratio,
                spread,
                goal,
                met,
                number(&e["fdatasync_p50_ms"]),
                number(&e["load"])
            )
            .expect("text takes text");
            let void = e["void_rounds"].as_u64().unwrap_or(0);
            let notes = [
                (!whence.is_empty()).then(|| whence.trim_end_matches(')').to_owned()),
                (void > 0)
                    .then(|| format!("{void} rounds void: fdatasync p50 above {} ms", crate::rounds::VOID_ABOVE_MS)),
                Some(text("peer")).filter(|p| !p.is_empty()),
            ];
            for note in notes.into_iter().flatten() {
                writeln!(out, "{:<10}   {note}", "").expect("text takes text");
            }
        }
        out
    }
}

fn short(v: f64) -> String {
    if v.abs() >= 100.0 { format!("{v:.0}") } else { format!("{v:.2}") }
}
