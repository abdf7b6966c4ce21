//! One version's time on trial. Pure: it is told the time and how many of its containers work.
//!
//! What comes up has a limit for it, and a new one with each container more that works; that some are still to be made
//! takes nothing of it. What works is trusted once all of it
//! has worked for as long without a break. What worked and broke has that limit once more, all its breaks together.
use redforge_shared::ids::Digest;
use std::time::Duration;
use tokio::time::Instant;

/// A version on trial.
#[derive(Clone, Debug)]
pub struct Attempt {
    pub spec: Digest,
    /// It had its time, and there is nothing to go back to.
    pub overdue: bool,
    limit: Duration,
    /// Most containers that worked at once.
    best: usize,
    /// How long something of it has not worked, since there was progress.
    spent: Duration,
    /// Something of it did not work at the last look.
    broken: bool,
    /// Since when all of it works.
    works_since: Option<Instant>,
    looked: Instant,
    begun: Instant,
}

/// What a look at its containers shows.
#[derive(Clone, Copy, Debug)]
pub struct Shown {
    /// So many work.
    pub working: usize,
    /// One that is there does not.
    pub broken: bool,
    /// As many work as shall be there, and none does not.
    pub all: bool,
}

/// What is to be said of it now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Open,
    /// It has worked for as long as it takes to be relied upon.
    Trusted,
    Failed,
}

impl Attempt {
    pub fn new(spec: Digest, now: Instant) -> Self {
        let (limit, spent) = (Duration::ZERO, Duration::ZERO);
        Self { spec, overdue: false, limit, best: 0, spent, broken: true, works_since: None, looked: now, begun: now }
    }

    /// One more look.
    pub fn look(&mut self, shown: Shown, limit: Duration, now: Instant) -> Verdict {
        if self.broken {
            self.spent += now.saturating_duration_since(self.looked);
        }
        (self.looked, self.limit, self.broken) = (now, limit, shown.broken);
        if shown.working > self.best {
            (self.best, self.spent) = (shown.working, Duration::ZERO);
        }
        if !shown.all {
            self.works_since = None;
            return if shown.broken && self.spent >= limit { Verdict::Failed } else { Verdict::Open };
        }
        let since = *self.works_since.get_or_insert(now);
        if now.saturating_duration_since(since) >= limit { Verdict::Trusted } else { Verdict::Open }
    }

    /// How long it has been on trial.
    pub fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.begun)
    }

    /// How long until it is trusted, while all of it works.
    pub fn trusted_in(&self, now: Instant) -> Option<Duration> {
        Some((self.works_since? + self.limit).saturating_duration_since(now))
    }

    /// When it ends if nothing changes; none: when more of it is there.
    pub fn ends_at(&self) -> Option<Instant> {
        let breaks = || self.broken.then(|| self.looked + self.limit.saturating_sub(self.spent));
        self.works_since.map(|since| since + self.limit).or_else(breaks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMIT: Duration = Duration::from_secs(120);

    fn shown(working: usize, of: usize) -> Shown {
        Shown { working, broken: working < of, all: working >= of }
    }

    /// Looks at seconds, with how many of `of` work; what is said at the end, and when.
    fn tell(of: usize, looks: &[(u64, usize)]) -> (Verdict, u64) {
        let begun = Instant::now();
        let mut attempt = Attempt::new(Digest::of(b"spec"), begun);
        for (at, working) in looks {
            let said = attempt.look(shown(*working, of), LIMIT, begun + Duration::from_secs(*at));
            if said != Verdict::Open {
                return (said, *at);
            }
        }
        (Verdict::Open, looks.last().map_or(0, |(at, _)| *at))
    }

    #[test]
    fn what_works_for_its_time_is_trusted_and_what_does_not_come_up_has_failed() {
        for (what, of, looks, then) in [
            ("never up", 1, vec![(0, 0), (119, 0), (120, 0)], (Verdict::Failed, 120)),
            ("up at once", 1, vec![(0, 1), (119, 1), (120, 1)], (Verdict::Trusted, 120)),
            ("late, and then it has its time", 1, vec![(0, 0), (119, 1), (238, 1), (239, 1)], (Verdict::Trusted, 239)),
            (
                "it breaks and comes back",
                1,
                vec![(0, 1), (100, 0), (110, 1), (220, 1), (230, 1)],
                (Verdict::Trusted, 230),
            ),
            ("it breaks for good", 1, vec![(0, 1), (100, 0), (219, 0), (220, 0)], (Verdict::Failed, 220)),
            ("two thirds", 3, vec![(0, 0), (100, 1), (200, 2), (319, 2), (320, 2)], (Verdict::Failed, 320)),
            ("three in a row", 3, vec![(0, 0), (100, 1), (200, 2), (300, 3), (420, 3)], (Verdict::Trusted, 420)),
        ] {
            assert_eq!(tell(of, &looks), then, "{what}");
        }
    }

    #[test]
    fn without_any_time_the_first_look_decides() {
        let mut attempt = Attempt::new(Digest::of(b"spec"), Instant::now());
        let now = attempt.looked;
        assert_eq!(attempt.clone().look(shown(1, 1), Duration::ZERO, now), Verdict::Trusted);
        assert_eq!(attempt.look(shown(0, 1), Duration::ZERO, now), Verdict::Failed);
    }

    proptest! {
        /// Whatever it does: it is never trusted right behind a break, and never open for ever. A look at the end that it
        /// tells of decides.
        #[test]
        fn it_ends(looks in proptest::collection::vec((1..60_u64, 0..4_usize, any::<bool>()), 1..60)) {
            let mut now = Instant::now();
            let mut attempt = Attempt::new(Digest::of(b"spec"), now);
            let mut unbroken = Duration::ZERO;
            let mut works = false;
            for (pause, working, coming) in looks {
                now += Duration::from_secs(pause);
                unbroken = if works && working >= 3 { unbroken + Duration::from_secs(pause) } else { Duration::ZERO };
                works = working >= 3;
                let seen = Shown { working, broken: !works && !coming, all: works };
                let said = attempt.look(seen, LIMIT, now);
                prop_assert_eq!(said == Verdict::Trusted, works && unbroken >= LIMIT);
                prop_assert!(said != Verdict::Failed || seen.broken, "what is only on its way has failed");
                if said != Verdict::Open {
                    return Ok(());
                }
                let mut later = attempt.clone();
                let Some(end) = later.ends_at() else { continue };
                prop_assert!(end > now && end <= now + LIMIT);
                prop_assert_ne!(later.look(seen, LIMIT, end), Verdict::Open);
            }
        }
    }
}
