//! How many containers the load asks for. Pure: the clock is a parameter, what was measured is a list.
//!
//! Up at once, with the first sample that asks for more. Down only when, for the whole of the policy's window, no sample
//! asked for more than that: a load that does not change never changes the number twice. What is not measured any more
//! changes nothing, and time in which nothing was measured does not count as quiet.
use redforge_shared::{report::ScaleLimit, scale::Autoscale};
use std::{collections::VecDeque, time::Duration};

/// A sample that is older says nothing any more.
pub const FRESH: Duration = Duration::from_secs(60);
/// Samples that are told apart: one a second for the longest window there is.
const MAX_SAMPLES: usize = 3_700;

/// What was measured of all containers of an instance together, and when, since the agent's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sample {
    at: Duration,
    load: u64,
}

/// The samples that a decision may need.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    samples: VecDeque<Sample>,
}

impl History {
    /// Adds what is measured now. Of a second, the highest and the latest remain.
    pub fn note(&mut self, policy: &Autoscale, now: Duration, load: u64) {
        if self.samples.back().is_some_and(|s| now.saturating_sub(s.at) > FRESH) {
            // Nobody knows what was in between.
            self.samples.clear();
        }
        let kept = Duration::from_secs(policy.scale_down_after_s.into()) + Duration::from_secs(2);
        // The oldest that is outside shows that the window is covered.
        while self.samples.get(1).is_some_and(|s| now.saturating_sub(s.at) > kept) || self.samples.len() >= MAX_SAMPLES
        {
            self.samples.pop_front();
        }
        let n = self.samples.len();
        if n >= 2 && self.samples[n - 1].at.as_secs() == now.as_secs() {
            let last = self.samples[n - 1];
            if self.samples[n - 2].at.as_secs() == now.as_secs() {
                let highest = &mut self.samples[n - 2].load;
                *highest = last.load.max(*highest);
                self.samples.pop_back();
            }
        }
        self.samples.push_back(Sample { at: now, load });
    }
}

/// What was decided, and what it rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    pub replicas: u32,
    pub measured: Option<u64>,
    pub limit: ScaleLimit,
}

/// The number of containers from now on. `current` is the number until now, `room` the most that the host has room for.
pub fn decide(policy: &Autoscale, history: &History, room: u32, current: u32, now: Duration) -> Decision {
    let (min, max) = (policy.min.max(1), policy.max.max(1));
    let current = current.clamp(min, max.max(min));
    let asked = |load: u64| load.div_ceil(policy.by.target().max(1));
    let wanted = |load: u64| u32::try_from(asked(load)).unwrap_or(u32::MAX).clamp(min, max.max(min));
    let last = history.samples.back().filter(|s| now.saturating_sub(s.at) <= FRESH);
    let (goal, limit) = match last {
        None => (current, ScaleLimit::None),
        Some(last) if wanted(last.load) >= current => (wanted(last.load), bound(asked(last.load), min, max)),
        Some(last) => {
            let window = Duration::from_secs(policy.scale_down_after_s.into());
            let begins = now.saturating_sub(window);
            let covered = history.samples.front().is_some_and(|s| s.at <= begins) && now >= window;
            let highest = history.samples.iter().filter(|s| s.at >= begins).map(|s| wanted(s.load)).max();
            let goal = if covered { highest.unwrap_or_else(|| wanted(last.load)).min(current) } else { current };
            let limit = if goal > wanted(last.load) { ScaleLimit::Window } else { bound(asked(last.load), min, max) };
            (goal, limit)
        }
    };
    let measured = last.map(|s| s.load);
    // The first container is there whatever the host has.
    match room.max(1) {
        room if room < goal => Decision { replicas: room, measured, limit: ScaleLimit::Capacity },
        _ => Decision { replicas: goal, measured, limit },
    }
}

fn bound(asked: u64, min: u32, max: u32) -> ScaleLimit {
    if asked > max.into() {
        ScaleLimit::Maximum
    } else if asked < min.into() {
        ScaleLimit::Minimum
    } else {
        ScaleLimit::None
    }
}

#[cfg(test)]
mod tests;
