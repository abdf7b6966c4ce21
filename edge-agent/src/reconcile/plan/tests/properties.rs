//! What holds of every plan: it reaches the desired state and then ends, and on the way nothing is lost.
use super::{
    room::{Ask, Capacity, allot},
    *,
};
use proptest::prelude::*;

prop_compose! {
    fn any_wanted()(
        who in 0..4_usize, rank in 0..4_u8, hash in 0..3_u8, flags in any::<[bool; 8]>(), replicas in 0..5_u32,
    ) -> Wanted {
        let [hold, suspend, config, live, outside, image, alone, waits] = flags;
        let instance = ["a", "b", "c", "d"][who];
        let mut w = wanted(instance, rank, &format!("h{hash}"));
        let s = shape(&mut w);
        s.outside = outside;
        s.config = config.then(|| format!("rf-{instance}-cfg-{hash}"));
        s.live = live.then(|| format!("rf-{instance}-live"));
        s.live_hash = live.then(|| digest(&hash.to_string()));
        s.exclusive = alone || live;
        if !s.exclusive {
            s.data.clear();
        }
        // Some have replicas, of which one may be all that is wanted now.
        if replicas > 0 && !s.exclusive {
            replicate(s, instance, replicas);
        }
        w.waits = waits.then(|| name("broker"));
        w.hold = hold && suspend;
        w.suspend = suspend && !hold;
        if image && hold {
            w.blueprint = Blueprint::NoImage;
        }
        w
    }
}

fn replicate(s: &mut Shape, instance: &str, replicas: u32) {
    (s.replicas, s.replicated) = (replicas, true);
    s.slots = (0..=replicas).map(|n| format!("rf-{instance}-{n}")).collect();
    s.own = (0..=replicas).map(|n| [format!("rf-{instance}-own-{n}")].into()).collect();
    s.claim = Claim { cpu_millicores: 0, memory_bytes: 1 };
}

prop_compose! {
    fn any_found()(
        who in 0..5_usize, slot in 0..5_u32, hash in 0..3_u8, life in 0..4_usize, flags in any::<[bool; 3]>(),
    ) -> Found {
        let [outside, named, ready] = flags;
        let life = [Life::Down, Life::Running, Life::Between, Life::Dead][life];
        let who = ["a", "b", "c", "d", "gone"][who];
        Found {
            id: format!("id-{who}-{slot}"),
            name: format!("rf-{who}-{slot}"),
            replica: slot,
            claim: Claim { cpu_millicores: 0, memory_bytes: 1 },
            volumes: [format!("rf-{who}-data"), format!("rf-{who}-own-{slot}")].into(),
            outside,
            named,
            ready: ready && life == Life::Running,
            ..found(who, &format!("h{hash}"), life)
        }
    }
}

/// What the engine brings back is up again, and what is up does what it shall.
fn settle(c: &mut Found) {
    if c.life == Life::Between {
        c.life = Life::Running;
    }
    c.ready = c.life == Life::Running;
}

fn unique<T, K: Ord>(items: Vec<T>, key: impl Fn(&T) -> K) -> Vec<T> {
    let mut seen = BTreeSet::new();
    items.into_iter().filter(|i| seen.insert(key(i))).collect()
}

proptest! {
    #[test]
    fn applying_plans_reaches_the_desired_state_and_then_nothing_is_left(
        wanteds in proptest::collection::vec(any_wanted(), 0..5),
        founds in proptest::collection::vec(any_found(), 0..8),
        networks in any::<bool>(),
        unproven in any::<u8>(),
    ) {
        let mut desired = desired(unique(wanteds, |w| w.name.clone()));
        let mut actual = running(unique(founds, |c| c.name.clone()));
        if !networks {
            actual.networks.clear();
        }
        let marked = actual.containers.iter().enumerate().filter(|(n, _)| unproven >> n & 1 == 1);
        actual.unproven = marked.map(|(_, c)| c.id.clone()).collect();
        let mut memory = Memory::default();
        // Nobody whose broker lacks the session is started for the first time, and nobody who waits loses what serves.
        let waiting = |i: &Name| desired.instances.iter().any(|w| w.name == *i && w.waits.is_some() && !w.suspend);
        for _ in 0..4 {
            let ran: BTreeSet<_> = actual.containers.iter().filter(|c| c.life.may_run()).map(|c| c.instance.clone()).collect();
            let steps = plan(&desired, &memory, &actual);
            apply(&steps, &desired, &mut memory, &mut actual);
            actual.containers.iter_mut().for_each(|c| c.ready = c.life == Life::Running);
            for i in ran.iter().filter(|i| waiting(i)) {
                prop_assert!(actual.containers.iter().any(|c| c.instance == *i && c.life.may_run()), "{i} was ended");
            }
            let new = actual.containers.iter().filter(|c| c.id.starts_with("new-") && c.life.may_run());
            prop_assert_eq!(new.map(|c| &c.instance).find(|i| waiting(i)), None);
        }
        desired.instances.iter_mut().for_each(|w| w.waits = None);
        // Stop what is in the way, remove it, replace, give the name, stop the old one, remove it, remove its files.
        for _ in 0..40 {
            let steps = plan(&desired, &memory, &actual);
            apply(&steps, &desired, &mut memory, &mut actual);
            // What came up stays up for long enough.
            actual.containers.iter_mut().for_each(settle);
        }
        prop_assert_eq!(plan(&desired, &memory, &actual), vec![]);
        for w in &desired.instances {
            let c = actual.containers.iter().find(|c| c.instance == w.name);
            if let (Blueprint::Ready(shape), false, false) = (&w.blueprint, w.hold, w.suspend) {
                let c = c.expect("a container");
                let own = actual.containers.iter().filter(|c| c.instance == w.name);
                prop_assert_eq!(own.clone().count(), shape.replicas as usize, "the number of {}", w.name);
                let mut numbers: Vec<_> = own.clone().map(|c| c.replica).collect();
                numbers.sort_unstable();
                prop_assert!(!shape.replicated || numbers == (0..shape.replicas).collect::<Vec<_>>(), "{numbers:?}");
                for c in own {
                    prop_assert_eq!(&c.hash, &shape.hash);
                    prop_assert!(c.life.may_run() && c.named);
                    prop_assert!(!shape.outside || c.outside || c.id.starts_with("id-"));
                }
                prop_assert_eq!(&c.hash, &shape.hash);
            }
            if w.suspend {
                prop_assert!(c.is_none_or(|c| !c.life.may_run()));
            }
        }
        prop_assert!(actual.containers.iter().all(|c| c.instance.as_str() != "gone"));
    }

    /// However the number and the version change: nothing is begun that the host has no room for, but for the first
    /// container of an instance; and as many as are wanted serve all the time, where there is room for one more.
    #[test]
    fn there_are_never_more_than_the_host_has_room_for(
        wishes in proptest::collection::vec((1..5_u32, 0..2_u8), 1..4),
        founds in proptest::collection::vec(any_found(), 0..8),
        capacity in 1..9_u64,
    ) {
        let mut all = Vec::new();
        for (i, (replicas, hash)) in wishes.iter().enumerate() {
            let instance = ["a", "b", "c"][i];
            let mut w = wanted(instance, 0, &format!("h{hash}"));
            let s = shape(&mut w);
            s.exclusive = false;
            s.data.clear();
            replicate(s, instance, *replicas);
            all.push(w);
        }
        let capacity = Capacity { cpu_millicores: 0, memory_bytes: capacity };
        let asks: BTreeMap<_, _> = all
            .iter_mut()
            .map(|w| (w.name.clone(), shape(w)))
            .map(|(n, s)| (n, Ask { claim: s.claim, least: s.replicas, wish: s.replicas }))
            .collect();
        let given = allot(Some(capacity), &asks);
        prop_assert!(given.values().all(|n| *n >= 1));
        prop_assert!(u64::from(given.values().sum::<u32>()) <= capacity.memory_bytes.max(given.len() as u64));
        for w in &mut all {
            let (name, n) = (w.name.to_string(), given[&w.name]);
            replicate(shape(w), &name, n);
        }
        let desired = Desired { capacity: Some(capacity), ..desired(all) };
        let mut actual = running(unique(founds, |c| c.name.clone()));
        let mut memory = Memory::default();
        let count = |actual: &Actual| {
            let mut count = BTreeMap::<Name, u64>::new();
            actual.containers.iter().filter(|c| c.life.may_run()).for_each(|c| *count.entry(c.instance.clone()).or_default() += 1);
            count
        };
        for _ in 0..40 {
            let before = count(&actual);
            let steps = plan(&desired, &memory, &actual);
            // Every start may come before any of the stops is through.
            let starts: Vec<_> = steps.iter().filter(|s| matches!(s, Step::Start { .. })).cloned().collect();
            let began: BTreeSet<_> = starts.iter().filter_map(|s| s.instance()).collect();
            let firsts = began.into_iter().filter(|i| !before.contains_key(*i)).count() as u64;
            let now = before.values().sum::<u64>();
            let most = capacity.memory_bytes.max(now + firsts);
            prop_assert!(now + starts.len() as u64 <= most, "{now} and {} more of {}", starts.len(), capacity.memory_bytes);
            apply(&steps, &desired, &mut memory, &mut actual);
            actual.containers.iter_mut().for_each(settle);
        }
        prop_assert_eq!(plan(&desired, &memory, &actual), vec![]);
        let reached: BTreeMap<_, _> = count(&actual).into_iter().map(|(n, c)| (n, c as u32)).collect();
        prop_assert_eq!(reached, given);
    }

    #[test]
    fn while_replicas_are_replaced_as_many_serve_as_are_wanted(replicas in 1..6_u32, ready_after in 0..3_usize) {
        let mut w = wanted("a", 2, "h1");
        let s = shape(&mut w);
        s.exclusive = false;
        s.data.clear();
        replicate(s, "a", replicas);
        let old = |n: u32| Found {
            id: format!("id-{n}"),
            name: format!("rf-a-{n}"),
            replica: n,
            volumes: [format!("rf-a-own-{n}")].into(),
            ..found("a", "h0", Life::Running)
        };
        let desired = desired([w]);
        let mut actual = running((0..replicas).map(old));
        let mut memory = Memory::default();
        let mut since = BTreeMap::<String, usize>::new();
        for _ in 0..60 {
            let steps = plan(&desired, &memory, &actual);
            let new = steps.iter().filter(|s| matches!(s, Step::Create { .. })).count();
            prop_assert!(new <= 1, "more than one at a time");
            apply(&steps, &desired, &mut memory, &mut actual);
            for c in &mut actual.containers {
                let seen = since.entry(c.id.clone()).or_default();
                *seen += 1;
                c.ready = c.life == Life::Running && (c.hash == "h0" || *seen > ready_after);
            }
            let serving = actual.containers.iter().filter(|c| c.ready).count();
            prop_assert!(serving >= replicas as usize, "{serving} of {replicas} serve");
            prop_assert!(actual.containers.len() <= replicas as usize + 1, "more than one beside the others");
        }
        prop_assert_eq!(plan(&desired, &memory, &actual), vec![]);
        prop_assert!(actual.containers.iter().all(|c| c.hash == "h1"));
        prop_assert_eq!(actual.containers.len(), replicas as usize);
    }

    /// Those that never served go at once, however many; of those that do, none goes before another serves in its place.
    #[test]
    fn replicas_wait_only_for_those_that_ever_served(
        replicas in 1..6_u32, marks in any::<[bool; 6]>(), ready_after in 0..3_usize,
    ) {
        let mut w = wanted("a", 2, "h1");
        let s = shape(&mut w);
        s.exclusive = false;
        s.data.clear();
        replicate(s, "a", replicas);
        let old = |n: u32| Found {
            id: format!("id-{n}"),
            name: format!("rf-a-{n}"),
            replica: n,
            volumes: [format!("rf-a-own-{n}")].into(),
            ..found("a", "h0", Life::Running)
        };
        let desired = desired([w]);
        let mut actual = running((0..replicas).map(old));
        actual.unproven = (0..replicas).filter(|n| marks[*n as usize]).map(|n| format!("id-{n}")).collect();
        let served = replicas as usize - actual.unproven.len();
        let (mut memory, mut since) = (Memory::default(), BTreeMap::<String, usize>::new());
        let mut took = None;
        for pass in 0..80 {
            let steps = plan(&desired, &memory, &actual);
            if pass == 0 {
                let ends = |id: &String| steps.iter().any(|s| matches!(s, Step::Stop { id: i, .. } if i == id));
                prop_assert!(actual.unproven.iter().all(ends), "one that never served waits: {steps:?}");
            }
            if steps.is_empty() && actual.containers.iter().all(|c| c.hash == "h1" && c.ready) {
                took.get_or_insert(pass);
            }
            apply(&steps, &desired, &mut memory, &mut actual);
            for c in &mut actual.containers {
                let seen = since.entry(c.id.clone()).or_default();
                *seen += 1;
                c.ready = c.life == Life::Running && (c.hash == "h0" || *seen > ready_after);
            }
            let serves = |c: &&Found| c.ready && !actual.unproven.contains(&c.id);
            let serving = actual.containers.iter().filter(serves).count();
            prop_assert!(serving >= served, "{serving} of {served} serve");
        }
        prop_assert_eq!(plan(&desired, &memory, &actual), vec![]);
        prop_assert_eq!(actual.containers.len(), replicas as usize);
        // Where none serves all are replaced at once: how many there are costs no time.
        let took = took.expect("it was reached");
        prop_assert!(served > 0 || took <= 6 + ready_after, "{took} passes for {replicas}");
    }

    #[test]
    fn a_host_that_serves_is_never_left_without_a_server_where_two_can_stand_side_by_side(
        ready_after in 0..4_usize, hash in 1..3_u8, slot in 0..2_u32, outside in any::<bool>(),
    ) {
        let mut w = wanted("a", 2, &format!("h{hash}"));
        let s = shape(&mut w);
        (s.exclusive, s.outside) = (false, outside);
        s.data.clear();
        let desired = desired([w]);
        let old = Found { name: format!("rf-a-{slot}"), replica: slot, volumes: BTreeSet::new(), ..found("a", "h0", Life::Running) };
        let mut actual = running([old]);
        let mut memory = Memory::default();
        for pass in 0..10 {
            let steps = plan(&desired, &memory, &actual);
            apply(&steps, &desired, &mut memory, &mut actual);
            let new = format!("h{hash}");
            let is_ready = |c: &Found| c.hash == new && pass >= ready_after && c.life == Life::Running;
            actual.containers.iter_mut().for_each(|c| c.ready = is_ready(c));
            let serves = |c: &Found| c.named && c.life == Life::Running && (c.hash == "h0" || pass > ready_after);
            prop_assert!(actual.containers.iter().any(serves), "nobody serves after pass {pass}: {actual:?}");
        }
        prop_assert_eq!(plan(&desired, &memory, &actual), vec![]);
        prop_assert_eq!(actual.containers.len(), 1);
    }

    #[test]
    fn data_volumes_are_never_removed_and_equal_hashes_never_touched(
        wanteds in proptest::collection::vec(any_wanted(), 0..5),
        founds in proptest::collection::vec(any_found(), 0..5),
    ) {
        let desired = desired(unique(wanteds, |w| w.name.clone()));
        let actual = running(unique(founds, |c| c.name.clone()));
        for step in plan(&desired, &Memory::default(), &actual) {
            match &step {
                Step::RemoveVolume { volume, .. } => {
                    prop_assert_ne!(actual.volumes[volume].purpose, Purpose::Data);
                }
                Step::Stop { id, instance, .. } | Step::Remove { id, instance, .. } => {
                    let c = actual.containers.iter().find(|c| c.id == *id).expect("only what is there");
                    let w = desired.instances.iter().find(|w| w.name == *instance);
                    let shape = w.and_then(|w| match &w.blueprint {
                        Blueprint::Ready(s) => Some(s),
                        _ => None,
                    });
                    let is_right = |c: &Found| shape.is_some_and(|s| super::is_right(c, s));
                    let beyond = shape.is_some_and(|s| s.replicated && c.replica >= s.replicas);
                    let another = actual.containers.iter().any(|o| {
                        o.id != c.id && o.instance == c.instance && is_right(o)
                    });
                    prop_assert!(!is_right(c) || another || beyond || w.is_some_and(|w| w.suspend), "{step}");
                }
                _ => {}
            }
        }
    }
}
