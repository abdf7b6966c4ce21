//! Containers that end again and again. The engine brings one back at once, a few times; then the agent takes over, ends it
//! and starts it again ever later. Pure.
//!
//! The engine's own restarts go on so that a host without an agent comes back from a reboot; what they hide (how often, since
//! when, how it ended) is counted here. Whoever has stayed up is forgiven.
use crate::runtime::{ContainerSeen, ContainerState, Ended};
use redforge_shared::report::Reason;
use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime, format_description::well_known::Rfc3339};

/// Ends after which the agent takes over.
pub const TAKE_OVER: u32 = 3;
/// First rest between two starts; doubles with each end.
const FIRST_REST: Duration = Duration::seconds(10);
/// Longest rest.
pub const LONGEST_REST: Duration = Duration::minutes(5);
/// One that stayed up for so long begins anew.
const FORGIVEN: Duration = Duration::minutes(10);
/// One that ended less often than that is trusted again after so long.
const STEADY: Duration = Duration::minutes(1);

/// How often a container has ended by itself, how it last did, and until when it rests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Crashes {
    pub ends: u32,
    /// The engine's own count, which starts anew when somebody starts the container.
    engine: u32,
    pub exit_code: Option<i32>,
    pub out_of_memory: bool,
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub rests_until: Option<OffsetDateTime>,
}

/// What is known of this container after this look at it; none = nothing to remember.
pub fn watch(before: Option<&Crashes>, c: &ContainerSeen, now: OffsetDateTime) -> Option<Crashes> {
    let mut known = before.cloned().unwrap_or_default();
    let new = if c.restarts >= known.engine { c.restarts - known.engine } else { c.restarts };
    known.engine = c.restarts;
    known.ends = known.ends.saturating_add(new);
    if let Some(ended) = ended(&known, new, c) {
        known.exit_code = Some(ended.exit_code);
        known.out_of_memory = ended.out_of_memory;
    }
    let up = OffsetDateTime::parse(&c.started_at, &Rfc3339).map(|since| now - since);
    // An agent that lost its memory meets the engine's count of a whole life.
    let lived = new == 0 || before.is_none();
    if c.state == ContainerState::Running && lived && up.is_ok_and(|up| up >= FORGIVEN) {
        return known.forgiven();
    }
    if new > 0 && known.ends >= TAKE_OVER {
        known.rests_until = Some(now + rest(known.ends));
    }
    // A clock that was set back must not lengthen it.
    known.rests_until = known.rests_until.filter(|until| now < *until).map(|u| u.min(now + LONGEST_REST));
    (known.ends > 0 || known.engine > 0).then_some(known)
}

/// How it ended just now, or lately by itself, where that was not heard at once.
fn ended(known: &Crashes, new: u32, c: &ContainerSeen) -> Option<Ended> {
    let said = Ended { exit_code: c.exit_code, out_of_memory: c.oom_killed };
    match c.state {
        ContainerState::Restarting => Some(said),
        // The engine has brought it back and forgotten how it ended.
        ContainerState::Running if new > 0 => c.ended,
        ContainerState::Running => heard_late(known, c),
        // The agent may have stopped it since: what was heard of an end of its own is that of the crash.
        _ if new > 0 => c.ended.or(Some(said)),
        _ => heard_late(known, c),
    }
}

fn heard_late(known: &Crashes, c: &ContainerSeen) -> Option<Ended> {
    c.ended.filter(|_| known.ends > 0 && known.exit_code.is_none())
}

impl Crashes {
    /// What is left to know when its ends no longer count: how far the engine has counted.
    pub fn forgiven(&self) -> Option<Self> {
        (self.engine > 0).then(|| Self { engine: self.engine, ..Self::default() })
    }

    /// Has it been up for so long that its ends say nothing about it any more? None: nobody knows for how long.
    pub fn is_steady(&self, up: Option<Duration>) -> bool {
        up.is_none_or(|up| up >= if self.ends < TAKE_OVER { STEADY } else { FORGIVEN })
    }

    /// Why it last ended, in the words of a report.
    pub fn reason(&self) -> Reason {
        if self.out_of_memory { Reason::OutOfMemory } else { Reason::ContainerExited }
    }
}

fn rest(ends: u32) -> Duration {
    let doubled = 1_i32.checked_shl(ends - TAKE_OVER).filter(|n| *n > 0 && *n < 1_000).unwrap_or(1_000);
    (FIRST_REST * doubled).min(LONGEST_REST)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use time::macros::datetime;

    const START: OffsetDateTime = datetime!(2026-11-23 10:00 UTC);

    fn seen(state: ContainerState, restarts: u32, started: OffsetDateTime) -> ContainerSeen {
        ContainerSeen {
            id: "c".into(),
            name: "c".into(),
            instance: "a".parse().expect("a name"),
            replica: 0,
            hash: String::new(),
            state,
            started_at: started.format(&Rfc3339).expect("a time"),
            exit_code: 7,
            oom_killed: false,
            ended: None,
            restarts,
            address: None,
            named: true,
            outside: false,
            memory_limit_bytes: 0,
            cpu_limit_millicores: 0,
            pids_limit: 0,
            volumes: BTreeSet::new(),
            ports: vec![],
        }
    }

    #[test]
    fn the_exit_code_is_that_of_the_crash_and_not_that_of_the_stop_after_it() {
        let before = watch(None, &seen(ContainerState::Restarting, 2, START), START);
        let stopped = ContainerSeen {
            exit_code: 0,
            ended: Some(Ended { exit_code: 9, out_of_memory: false }),
            ..seen(ContainerState::Exited, 3, START)
        };
        let known = watch(before.as_ref(), &stopped, START).expect("it has crashed");
        assert_eq!((known.ends, known.exit_code), (3, Some(9)));
        let unheard = ContainerSeen { ended: None, exit_code: 5, ..stopped };
        assert_eq!(watch(before.as_ref(), &unheard, START).and_then(|k| k.exit_code), Some(5));
    }

    #[test]
    fn the_agent_takes_over_at_the_third_end_and_rests_ever_longer() {
        let mut now = START;
        let mut known = watch(None, &seen(ContainerState::Restarting, 1, now), now);
        assert_eq!(known.as_ref().and_then(|k| k.rests_until), None, "once is nothing");
        let mut rests = Vec::new();
        for restarts in 2..12 {
            known = watch(known.as_ref(), &seen(ContainerState::Restarting, restarts, now), now);
            let until = known.as_ref().and_then(|k| k.rests_until);
            rests.extend(until.map(|u| (u - now).whole_seconds()));
            now = until.unwrap_or(now);
        }
        assert_eq!(rests, [10, 20, 40, 80, 160, 300, 300, 300, 300]);
        let known = known.expect("it crashes");
        assert_eq!((known.ends, known.exit_code), (11, Some(7)));
        // The agent started it: the engine counts from nothing again, and each end counts.
        let again = watch(Some(&known), &seen(ContainerState::Running, 0, now), now).expect("not forgiven yet");
        assert_eq!((again.ends, again.rests_until, again.exit_code), (11, None, Some(7)));
        let again = watch(Some(&again), &seen(ContainerState::Restarting, 1, now), now).expect("it crashes");
        assert_eq!((again.ends, again.rests_until), (12, Some(now + LONGEST_REST)));
    }

    #[test]
    fn who_stays_up_is_forgiven() {
        let known = Crashes { ends: 9, ..Crashes::default() };
        let up =
            |minutes| watch(Some(&known), &seen(ContainerState::Running, 0, START), START + Duration::minutes(minutes));
        assert_eq!((up(9).map(|k| k.ends), up(10)), (Some(9), None));
    }

    #[test]
    fn what_is_forgiven_is_not_counted_again() {
        let mut known = watch(None, &seen(ContainerState::Restarting, 2, START), START);
        // Ends that lie apart are no loop, however many they come to be.
        for restarts in 2..9 {
            let later = START + Duration::days(restarts.into());
            let up = seen(ContainerState::Running, restarts, later);
            known = watch(known.as_ref(), &up, later);
            let rests = known.as_ref().and_then(|k| k.rests_until);
            assert!(restarts == 2 || rests.is_none(), "end {restarts} is a month after the others: {known:?}");
            for minutes in [10, 11, 60] {
                known = watch(known.as_ref(), &up, later + Duration::minutes(minutes));
                assert_eq!(known.as_ref().map_or(0, |k| k.ends), 0, "forgiven after {minutes} minutes");
            }
        }
        // Neither does an agent that has lost its memory hold a long life against it.
        let lived = seen(ContainerState::Running, 7, START);
        let met = watch(None, &lived, START + Duration::days(30)).expect("the engine's count is kept");
        assert_eq!((met.ends, met.rests_until), (0, None));
    }

    #[test]
    fn how_it_ended_is_heard_though_the_engine_brought_it_back_at_once() {
        let back = |restarts, code| {
            let ended = Some(Ended { exit_code: code, out_of_memory: code == 137 });
            ContainerSeen { ended, exit_code: 0, ..seen(ContainerState::Running, restarts, START) }
        };
        let mut known = watch(None, &back(1, 3), START).expect("it ended");
        assert_eq!((known.exit_code, known.reason()), (Some(3), Reason::ContainerExited));
        known = watch(Some(&known), &back(3, 137), START).expect("it ended");
        assert_eq!((known.exit_code, known.reason()), (Some(137), Reason::OutOfMemory));
        // The agent's own stop is no end of its own.
        let stopped = ContainerSeen { exit_code: 143, restarts: 3, ..back(3, 143) };
        let stopped = ContainerSeen { state: ContainerState::Exited, ..stopped };
        known = watch(Some(&known), &stopped, START).expect("it rests");
        assert_eq!((known.exit_code, known.rests_until.is_some()), (Some(137), true));
        // An end that was heard of only after the count.
        let late = watch(None, &ContainerSeen { ended: None, ..back(1, 0) }, START).expect("it ended");
        assert_eq!(late.exit_code, None);
        assert_eq!(watch(Some(&late), &back(1, 4), START).and_then(|k| k.exit_code), Some(4));
    }

    #[test]
    fn one_end_is_made_good_for_in_a_minute_and_a_loop_in_ten() {
        let up = |s| Some(Duration::seconds(s));
        let (once, loops) = (Crashes { ends: 2, ..Crashes::default() }, Crashes { ends: 3, ..Crashes::default() });
        assert_eq!([59, 60].map(|s| once.is_steady(up(s))), [false, true]);
        assert_eq!([60, 599, 600].map(|s| loops.is_steady(up(s))), [false, false, true]);
    }

    proptest! {
        /// Whatever is seen, whatever the clock does: nobody rests for longer than the longest rest, and a rest ends.
        #[test]
        fn a_rest_is_bounded_and_ends(looks in proptest::collection::vec((0..4_u32, -1_000_000..1_000_000_i64), 1..30)) {
            let (mut known, mut now) = (None, START);
            for (restarts, jump) in looks {
                now = now.saturating_add(Duration::seconds(jump));
                known = watch(known.as_ref(), &seen(ContainerState::Restarting, restarts, START), now);
                let until = known.as_ref().and_then(|k: &Crashes| k.rests_until);
                prop_assert!(until.is_none_or(|u| now < u && u <= now + LONGEST_REST));
            }
            if let Some(k) = &known {
                let later = now + LONGEST_REST;
                let same = watch(Some(k), &ContainerSeen { restarts: k.engine, ..seen(ContainerState::Exited, 0, START) }, later);
                prop_assert!(same.is_none_or(|k| k.rests_until.is_none()));
            }
        }
    }
}
