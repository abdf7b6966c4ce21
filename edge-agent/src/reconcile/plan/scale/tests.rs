//! Loads over time, and the numbers that follow.
use super::*;
use proptest::prelude::*;
use redforge_shared::scale::{ScaleBy, Scaled};
use std::fmt::Write as _;

fn policy(min: u32, max: u32, by: ScaleBy, scale_down_after_s: u32) -> Autoscale {
    Autoscale { min, max, by, scale_down_after_s }
}

/// One decision per (second, load, room); a load of none = nothing was measured then. Only changes are told.
fn story(policy: &Autoscale, course: impl IntoIterator<Item = (u64, Option<u64>, u32)>) -> String {
    let (mut history, mut current, mut text, mut before) = (History::default(), policy.min, String::new(), None);
    for (second, load, room) in course {
        let now = Duration::from_secs(second);
        if let Some(load) = load {
            history.note(policy, now, load);
        }
        let d = decide(policy, &history, room, current, now);
        current = d.replicas;
        let scaled = Scaled {
            replicas: d.replicas,
            metric: policy.by.metric(),
            measured: d.measured,
            target: policy.by.target(),
            limit: d.limit,
        };
        if before != Some(scaled) {
            let _ = writeln!(text, "{second:>4} s  {scaled}");
        }
        before = Some(scaled);
    }
    text
}

#[test]
fn a_queue_that_fills_scales_up_at_once_and_down_after_the_window() {
    let p = policy(1, 3, ScaleBy::Queue(100), 60);
    let load = |s: u64| match s {
        0..10 => 20,
        10..20 => 240,
        20..30 => 900,
        30..40 => 150,
        _ => 0,
    };
    insta::assert_snapshot!(story(&p, (0..160).step_by(5).map(|s| (s, Some(load(s)), 32))));
}

#[test]
fn a_host_without_room_is_said_so_and_a_source_that_falls_silent_changes_nothing() {
    let p = policy(1, 5, ScaleBy::CpuPercent(70), 30);
    let course = (0..200).step_by(5).map(|s| match s {
        0..20 => (s, Some(300), 2),
        20..40 => (s, Some(300), 4),
        40..150 => (s, None, 4),
        _ => (s, Some(10), 4),
    });
    insta::assert_snapshot!(story(&p, course));
}

prop_compose! {
    fn any_policy()(min in 1..5_u32, more in 0..5_u32, target in 1..200_u64, window in 0..120_u32) -> Autoscale {
        policy(min, min + more, ScaleBy::Queue(target), window)
    }
}

/// Where the number changes under these loads, one a second, and to what.
fn moves(policy: &Autoscale, start: u32, loads: &[u64]) -> Vec<(usize, u32)> {
    let (mut history, mut current, mut moves) = (History::default(), start.clamp(policy.min, policy.max), Vec::new());
    for (second, load) in loads.iter().enumerate() {
        let now = Duration::from_secs(second as u64);
        history.note(policy, now, *load);
        let d = decide(policy, &history, 32, current, now);
        if d.replicas != current {
            moves.push((second, d.replicas));
        }
        current = d.replicas;
    }
    moves
}

proptest! {
    /// Whatever the load, the room and the pauses: within the bounds, never above the room but for the first.
    #[test]
    fn never_below_the_minimum_never_above_maximum_or_room(
        p in any_policy(),
        course in proptest::collection::vec((0..90_u64, proptest::option::of(0..5_000_u64), 0..10_u32), 1..60),
    ) {
        let (mut history, mut current, mut now) = (History::default(), 0, Duration::ZERO);
        for (pause, load, room) in course {
            now += Duration::from_millis(pause * 700);
            if let Some(load) = load {
                history.note(&p, now, load);
            }
            let d = decide(&p, &history, room, current, now);
            prop_assert!(d.replicas <= p.max && d.replicas <= room.max(1), "{d:?}");
            prop_assert!(d.replicas >= p.min.min(room.max(1)), "{d:?}");
            prop_assert!(history.samples.len() <= MAX_SAMPLES);
            current = d.replicas;
        }
    }

    /// A load that stays what it is moves the number once: up at once, or down after the window.
    #[test]
    fn a_constant_load_moves_the_number_once(p in any_policy(), load in 0..5_000_u64, start in 1..10_u32) {
        let moves = moves(&p, start, &[load; 200]);
        prop_assert!(moves.len() <= 1, "{moves:?}");
    }

    /// It goes down only to what nothing measured in the whole window asked for more than.
    #[test]
    fn a_load_that_flutters_goes_down_after_a_quiet_window_only(
        p in any_policy(), load in 0..5_000_u64, noise in proptest::collection::vec(0..3_u64, 200), start in 1..10_u32,
    ) {
        let loads: Vec<_> = noise.iter().map(|noise| load + noise).collect();
        let wanted = |load: u64| load.div_ceil(p.by.target()).clamp(p.min.into(), p.max.into());
        let mut before = start.clamp(p.min, p.max);
        for (second, now) in moves(&p, start, &loads) {
            let window = second.saturating_sub(p.scale_down_after_s as usize)..=second;
            let most = loads[window].iter().map(|load| wanted(*load)).max();
            prop_assert!(now > before || most <= Some(now.into()), "to {now} at {second}, {most:?} was asked for");
            before = now;
        }
    }

    /// More load never gives fewer containers.
    #[test]
    fn more_load_never_asks_for_fewer(p in any_policy(), a in 0..5_000_u64, b in 0..5_000_u64, current in 1..10_u32) {
        let of = |load| {
            let mut history = History::default();
            history.note(&p, Duration::ZERO, load);
            decide(&p, &history, 32, current, Duration::ZERO).replicas
        };
        prop_assert!(of(a.min(b)) <= of(a.max(b)));
    }
}
