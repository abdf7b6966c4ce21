//! How the number of an instance's containers changes, pass by pass.
use super::*;
use crate::reconcile::plan::room::Capacity;

/// Three replicas of `h1` without data, each a hundred bytes.
fn three(replicas: u32, hash: &str) -> Wanted {
    let mut w = wanted("web", 2, hash);
    let s = shape(&mut w);
    s.exclusive = false;
    s.data.clear();
    (s.replicas, s.replicated) = (replicas, true);
    s.slots = (0..=replicas).map(|n| format!("rf-web-{n}")).collect();
    s.own = (0..=replicas).map(|n| [format!("rf-web-own-{n}")].into()).collect();
    s.claim = Claim { cpu_millicores: 0, memory_bytes: 100 };
    w
}

fn replica(number: u32, hash: &str) -> Found {
    Found {
        id: format!("id-web-{number}"),
        name: format!("rf-web-{number}"),
        replica: number,
        claim: Claim { cpu_millicores: 0, memory_bytes: 100 },
        volumes: [format!("rf-web-own-{number}")].into(),
        ..found("web", hash, Life::Running)
    }
}

fn with_volumes(replicas: impl IntoIterator<Item = Found>) -> Actual {
    let mut actual = running(replicas);
    for n in 0..4 {
        let volume = VolumeFound { instance: name("web"), purpose: Purpose::Data };
        actual.volumes.insert(format!("rf-web-own-{n}"), volume);
    }
    actual
}

#[test]
fn one_becomes_three_at_once_and_the_highest_number_goes_first() {
    let mut actual = running([replica(0, "h1")]);
    let up = passes(&desired([three(3, "h1")]), &mut actual, |_, _| ());
    let down = passes(&desired([three(1, "h1")]), &mut actual, |_, _| ());
    insta::assert_snapshot!(format!("from one to three\n{up}and back\n{down}"));
}

#[test]
fn replicas_are_replaced_one_at_a_time_while_one_more_serves() {
    let mut actual = with_volumes((0..3).map(|n| replica(n, "h1")));
    insta::assert_snapshot!(passes(&desired([three(3, "h2")]), &mut actual, |_, _| ()));
}

#[test]
fn without_room_for_one_more_one_ends_before_its_successor_begins() {
    let mut actual = with_volumes((0..2).map(|n| replica(n, "h1")));
    let full = Capacity { cpu_millicores: 0, memory_bytes: 250 };
    let desired = Desired { capacity: Some(full), ..desired([three(2, "h2")]) };
    insta::assert_snapshot!(passes(&desired, &mut actual, |_, _| ()));
}

#[test]
fn a_new_version_that_never_comes_up_holds_up_the_others_and_goes_first_on_the_way_back() {
    let mut actual = with_volumes((0..3).map(|n| replica(n, "h1")));
    let never = |_: usize, actual: &mut Actual| {
        actual.containers.iter_mut().for_each(|c| c.ready = c.hash == "h1");
    };
    let forth = passes(&desired([three(3, "h2")]), &mut actual, never);
    assert_eq!(actual.containers.iter().filter(|c| c.hash == "h1" && c.life == Life::Running).count(), 3);
    let back = passes(&desired([three(3, "h1")]), &mut actual, never);
    insta::assert_snapshot!(format!("forth\n{forth}and back\n{back}"));
}

#[test]
fn those_that_never_served_make_way_together() {
    let mut actual = with_volumes((0..3).map(|n| replica(n, "h1")));
    actual.unproven = (0..3).map(|n| format!("id-web-{n}")).collect();
    let none = passes(&desired([three(3, "h2")]), &mut actual, |_, _| ());
    let mut actual = with_volumes((0..3).map(|n| replica(n, "h1")));
    actual.unproven = ["id-web-0".to_owned(), "id-web-2".to_owned()].into();
    let one = passes(&desired([three(3, "h2")]), &mut actual, |_, _| ());
    insta::assert_snapshot!(format!("none of them ever served\n{none}one of them does\n{one}"));
}
