//! Data that no spec names any more: volumes of deleted instances, and those that a spec dropped. Kept for a good while,
//! because what an operator deletes by mistake must come back with its data, and then removed (decision 21).
//!
//! Only time in which the agent ran and looked counts: neither a clock that jumps nor a month in the dark makes data old. What
//! is held at the site, or is not as its spec asks, is left as it is, and its time stands still.
use super::super::{ReconcileError, Reconciler, View, memory::Remembered, plan::Blueprint};
use crate::runtime::{VolumePurpose, VolumeSeen, names::Names};
use redforge_shared::{
    desired::InstanceSpec,
    error::Chain,
    report::clean_up::{Leftover, Unneeded},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use time::OffsetDateTime;

/// More than this between two looks is not counted.
const LONGEST_STEP: Duration = Duration::from_secs(60);
/// A row is written after so much more time.
const WRITTEN_EVERY: Duration = Duration::from_secs(3_600);

/// For how long one volume was seen without anybody who needs it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unclaimed {
    /// Another volume of the same name has another.
    pub birth: String,
    pub seconds: u64,
}

/// Does anybody need a volume?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    Needed,
    /// That cannot be told now.
    Unsure,
    Unneeded,
}

/// What is counted between two rows. Not kept over a restart of the agent.
#[derive(Debug, Default)]
pub struct Looks {
    last: Option<OffsetDateTime>,
    counted: BTreeMap<String, Duration>,
    /// Volumes that nobody needed at the last look: only they have stood unneeded since then.
    idle: BTreeSet<String>,
}

impl Looks {
    /// Counts the time since the last look; gives the rows as they are now, and for how long each unneeded volume was seen.
    pub fn look(
        &mut self,
        rows: &BTreeMap<String, Unclaimed>,
        volumes: &BTreeMap<String, VolumeSeen>,
        claim: impl Fn(&str, &VolumeSeen) -> Claim,
        now: OffsetDateTime,
    ) -> (BTreeMap<String, Unclaimed>, BTreeMap<String, Duration>) {
        let step = self.last.replace(now).map_or(Duration::ZERO, |last| (now - last).try_into().unwrap_or_default());
        let step = step.min(LONGEST_STEP);
        let (mut next, mut ages, idle) = (BTreeMap::new(), BTreeMap::new(), std::mem::take(&mut self.idle));
        for (name, volume) in volumes {
            let known = rows.get(name).filter(|r| r.birth == volume.birth).cloned();
            let claim = claim(name, volume);
            if claim == Claim::Needed || (claim == Claim::Unsure && known.is_none()) {
                continue;
            }
            let mut row = known.unwrap_or_else(|| Unclaimed { birth: volume.birth.clone(), seconds: 0 });
            if claim == Claim::Unneeded {
                let counted = self.counted.entry(name.clone()).or_default();
                *counted += if idle.contains(name) { step } else { Duration::ZERO };
                self.idle.insert(name.clone());
                if *counted >= WRITTEN_EVERY {
                    let whole = counted.as_secs();
                    row.seconds += whole;
                    *counted -= Duration::from_secs(whole);
                }
                ages.insert(name.clone(), Duration::from_secs(row.seconds) + *counted);
            }
            next.insert(name.clone(), row);
        }
        self.counted.retain(|name, _| next.contains_key(name));
        (next, ages)
    }
}

impl Reconciler {
    /// Counts for how long nobody has needed data, and removes what has been kept for long enough.
    pub(super) async fn clean_volumes(
        &mut self,
        view: &View,
        memory: &mut Remembered,
        now: OffsetDateTime,
    ) -> Result<Vec<Unneeded>, ReconcileError> {
        let (rows, ages) = {
            let claim = |name: &str, volume: &VolumeSeen| claim(view, memory, name, volume);
            self.looks.look(&memory.unclaimed, &view.seen.volumes, claim, now)
        };
        memory.set_unclaimed(&self.deps.ledger, rows).await?;
        let rule = self.deps.clean_up;
        let keep = rule.keep_data.filter(|_| rule.enabled);
        let mut unneeded = Vec::new();
        for (name, age) in ages {
            if keep.is_some_and(|keep| age >= keep) {
                match self.deps.runtime.remove_volume(&self.names, &name).await {
                    Ok(()) => {
                        tracing::info!(volume = name, "data removed, nobody has needed it for long enough");
                        memory.count_removed(&self.deps.ledger, Leftover::Volume).await?;
                        continue;
                    }
                    Err(e) => tracing::warn!(volume = name, error = %Chain(&e), "unneeded volume not removed"),
                }
            }
            let removed_at = keep.map(|keep| now + keep.saturating_sub(age));
            unneeded.push(Unneeded { kind: Leftover::Volume, name, bytes: 0, removed_at });
        }
        Ok(unneeded)
    }
}

/// Does anybody need this volume?
fn claim(view: &View, memory: &Remembered, name: &str, volume: &VolumeSeen) -> Claim {
    // Rendered files are planned.
    let mounted = view.seen.containers.iter().any(|c| c.volumes.contains(name));
    if volume.purpose != VolumePurpose::Data || mounted {
        return Claim::Needed;
    }
    if view.desired.held.covers(&volume.instance) {
        return Claim::Unsure;
    }
    let Some(spec) = view.accepted.state.instance(volume.instance.as_str()) else { return Claim::Unneeded };
    let wanted = view.desired.instances.iter().find(|w| w.name == volume.instance);
    let (Some(wanted), Some(rendered)) = (wanted, view.rendered.get(&volume.instance)) else { return Claim::Unsure };
    let own = |v: &String| (0..=most_replicas(spec)).map(|n| Names::replica_volume(v, n)).collect::<Vec<_>>();
    let named: BTreeSet<String> = rendered.data.iter().cloned().chain(rendered.own.iter().flat_map(own)).collect();
    if named.contains(name) {
        return Claim::Needed;
    }
    // What was asked for works: nothing is gone back to that could need it.
    let works = matches!(&wanted.blueprint, Blueprint::Ready(_)) && !view.chosen.back.contains_key(&spec.name);
    let good = memory.last_good.get(&spec.name).is_some_and(|g| g.identity == wanted.spec);
    if works && good && !spec.suspend { Claim::Unneeded } else { Claim::Unsure }
}

/// One more comes up beside the others when they are replaced.
fn most_replicas(spec: &InstanceSpec) -> u32 {
    spec.autoscale.as_ref().map_or(spec.replicas, |a| a.max.max(spec.replicas))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP: Duration = Duration::from_secs(2 * 3_600);

    fn seen(birth: &str) -> BTreeMap<String, VolumeSeen> {
        let instance = "gone".parse().expect("a name");
        [("data".into(), VolumeSeen { birth: birth.into(), instance, purpose: VolumePurpose::Data })].into()
    }

    fn unneeded(_: &str, _: &VolumeSeen) -> Claim {
        Claim::Unneeded
    }

    /// Looks once a step, `times` times; at which look it was too old, if ever.
    fn looks(looks: &mut Looks, rows: &mut BTreeMap<String, Unclaimed>, step: i64, times: usize) -> Option<usize> {
        let mut now = looks.last.unwrap_or(OffsetDateTime::UNIX_EPOCH);
        (0..times).find(|_| {
            now += time::Duration::seconds(step);
            let (next, ages) = looks.look(rows, &seen("b"), unneeded, now);
            *rows = next;
            ages["data"] >= KEEP
        })
    }

    #[test]
    fn data_is_kept_for_as_long_as_was_looked_at_it() {
        let (mut l, mut rows) = (Looks::default(), BTreeMap::new());
        assert_eq!(looks(&mut l, &mut rows, 10, 2_000), Some(720), "the first look counts nothing");
    }

    #[test]
    fn a_restart_forgets_an_hour_at_most_and_a_jump_of_the_clock_counts_a_minute() {
        let (mut l, mut rows) = (Looks::default(), BTreeMap::new());
        assert_eq!(looks(&mut l, &mut rows, 10, 400), None);
        assert_eq!(rows["data"].seconds, 3_600);
        let mut l = Looks::default();
        assert_eq!(looks(&mut l, &mut rows, 86_400 * 365, 5), None, "years in the dark");
        let mut l = Looks::default();
        assert_eq!(looks(&mut l, &mut rows, 10, 400), Some(360));
    }

    #[test]
    fn the_moment_at_which_it_goes_does_not_move_while_the_agent_looks() {
        let (mut l, mut rows) = (Looks::default(), BTreeMap::new());
        let mut goes = BTreeSet::new();
        for n in 0..600 {
            // Neither a whole number of seconds nor of hours.
            let now = OffsetDateTime::UNIX_EPOCH + time::Duration::milliseconds(n * 10_007);
            let (next, ages) = l.look(&rows, &seen("b"), unneeded, now);
            rows = next;
            goes.insert(now + KEEP.saturating_sub(ages["data"]));
        }
        assert_eq!(goes.len(), 1, "{goes:?}");
    }

    #[test]
    fn another_volume_begins_anew_one_that_is_needed_again_too_and_one_of_which_nothing_is_known_stands_still() {
        let old = BTreeMap::from([("data".to_owned(), Unclaimed { birth: "b".into(), seconds: 1 << 40 })]);
        let now = OffsetDateTime::UNIX_EPOCH;
        let look = |birth, claim| Looks::default().look(&old, &seen(birth), move |_, _| claim, now);
        let (rows, ages) = look("other", Claim::Unneeded);
        assert_eq!((rows["data"].seconds, ages["data"]), (0, Duration::ZERO));
        let (rows, ages) = look("b", Claim::Needed);
        assert!(rows.is_empty() && ages.is_empty());
        let (rows, ages) = look("b", Claim::Unsure);
        assert!(rows == old && ages.is_empty());
        let (_, ages) = look("b", Claim::Unneeded);
        assert!(ages["data"] > KEEP);
    }
}
