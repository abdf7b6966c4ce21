//! How long to wait before the hub is dialled again. Pure: the outage's age and a random fraction come in.
//!
//! Full jitter below a ceiling that doubles. While an outage is young the ceiling stays low, because a hub that was only
//! restarted should see its hosts within a second; hosts that have been alone for long come back spread over half a
//! minute.
use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
/// No wait is shorter: a hub that refuses at once is not dialled in a tight loop.
pub const SHORTEST: Duration = Duration::from_millis(20);
const YOUNG: (Duration, Duration) = (Duration::from_secs(120), Duration::from_secs(1));
const SETTLED: (Duration, Duration) = (Duration::from_secs(300), Duration::from_secs(5));
/// Ceiling of an old outage.
pub const LONGEST: Duration = Duration::from_secs(30);

/// The waits of one outage.
#[derive(Debug)]
pub struct Backoff {
    ceilings: ExponentialBackoff,
}

impl Default for Backoff {
    fn default() -> Self {
        let ceilings = ExponentialBuilder::new().with_min_delay(FIRST).with_factor(2.0).with_max_delay(LONGEST);
        Self { ceilings: ceilings.without_max_times().build() }
    }
}

impl Backoff {
    /// The next wait. `outage` is the time since the hub was last reached, `fraction` is uniform within 0 to 1.
    pub fn next(&mut self, outage: Duration, fraction: f64) -> Duration {
        let ceiling = self.ceilings.next().unwrap_or(LONGEST).min(ceiling(outage));
        ceiling.mul_f64(fraction.clamp(0.0, 1.0)).max(SHORTEST)
    }
}

/// Longest wait at this age of an outage.
fn ceiling(outage: Duration) -> Duration {
    [YOUNG, SETTLED].into_iter().find(|(age, _)| outage < *age).map_or(LONGEST, |(_, ceiling)| ceiling)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_wait_is_never_zero_and_never_above_the_ceiling_of_its_age(
            steps in proptest::collection::vec((0_u64..4_000, 0.0_f64..=1.0), 1..60)
        ) {
            let mut backoff = Backoff::default();
            for (age, fraction) in steps {
                let outage = Duration::from_secs(age);
                let wait = backoff.next(outage, fraction);
                prop_assert!(wait >= SHORTEST && wait <= ceiling(outage));
            }
        }

        #[test]
        fn full_jitter_reaches_from_the_floor_to_the_ceiling(attempts in 12_usize..30) {
            let mut low = Backoff::default();
            let mut high = Backoff::default();
            let old = Duration::from_secs(3_600);
            let lows: Vec<_> = (0..attempts).map(|_| low.next(old, 0.0)).collect();
            let highs: Vec<_> = (0..attempts).map(|_| high.next(old, 1.0)).collect();
            prop_assert!(lows.iter().all(|w| *w == SHORTEST));
            prop_assert_eq!(highs.last().copied(), Some(LONGEST));
        }
    }

    #[test]
    fn a_young_outage_is_tried_at_least_once_a_second() {
        let mut backoff = Backoff::default();
        for _ in 0..100 {
            assert!(backoff.next(Duration::from_secs(60), 1.0) <= Duration::from_secs(1));
        }
    }
}
