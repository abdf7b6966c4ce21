//! What holds of every plan: it reaches the desired state and then ends, and on the way nothing is lost.
use super::*;
use proptest::prelude::*;

prop_compose! {
    fn any_wanted()(who in 0..4_usize, rank in 0..4_u8, hash in 0..3_u8, flags in any::<[bool; 8]>()) -> Wanted {
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
        w.waits = waits.then(|| name("broker"));
        w.hold = hold && suspend;
        w.suspend = suspend && !hold;
        if image && hold {
            w.blueprint = Blueprint::NoImage;
        }
        w
    }
}

prop_compose! {
    fn any_found()(
        who in 0..5_usize, slot in 0..2_usize, hash in 0..3_u8, life in 0..4_usize, flags in any::<[bool; 3]>(),
    ) -> Found {
        let [outside, named, ready] = flags;
        let life = [Life::Down, Life::Running, Life::Between, Life::Dead][life];
        let who = ["a", "b", "c", "d", "gone"][who];
        Found {
            id: format!("id-{who}-{slot}"),
            name: format!("rf-{who}-{slot}"),
            outside,
            named,
            ready: ready && life == Life::Running,
            ..found(who, &format!("h{hash}"), life)
        }
    }
}

fn unique<T, K: Ord>(items: Vec<T>, key: impl Fn(&T) -> K) -> Vec<T> {
    let mut seen = BTreeSet::new();
    items.into_iter().filter(|i| seen.insert(key(i))).collect()
}

proptest! {
    #[test]
    fn applying_plans_reaches_the_desired_state_and_then_nothing_is_left(
        wanteds in proptest::collection::vec(any_wanted(), 0..5),
        founds in proptest::collection::vec(any_found(), 0..5),
        networks in any::<bool>(),
    ) {
        let mut desired = desired(unique(wanteds, |w| w.name.clone()));
        let mut actual = running(unique(founds, |c| c.name.clone()));
        if !networks {
            actual.networks.clear();
        }
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
        for _ in 0..8 {
            let steps = plan(&desired, &memory, &actual);
            apply(&steps, &desired, &mut memory, &mut actual);
            // What came up stays up for long enough.
            actual.containers.iter_mut().for_each(|c| c.ready = c.life == Life::Running);
        }
        prop_assert_eq!(plan(&desired, &memory, &actual), vec![]);
        for w in &desired.instances {
            let c = actual.containers.iter().find(|c| c.instance == w.name);
            if let (Blueprint::Ready(shape), false, false) = (&w.blueprint, w.hold, w.suspend) {
                let c = c.expect("a container");
                let own = actual.containers.iter().filter(|c| c.instance == w.name);
                prop_assert_eq!(own.count(), 1, "more than one container of {}", w.name);
                prop_assert_eq!(&c.hash, &shape.hash);
                prop_assert!(c.life.may_run() && c.named);
                prop_assert!(!shape.outside || c.outside || c.life == Life::Between || c.id.starts_with("id-"));
            }
            if w.suspend {
                prop_assert!(c.is_none_or(|c| !c.life.may_run()));
            }
        }
        prop_assert!(actual.containers.iter().all(|c| c.instance.as_str() != "gone"));
    }

    #[test]
    fn a_host_that_serves_is_never_left_without_a_server_where_two_can_stand_side_by_side(
        ready_after in 0..4_usize, hash in 1..3_u8, slot in 0..2_usize, outside in any::<bool>(),
    ) {
        let mut w = wanted("a", 2, &format!("h{hash}"));
        let s = shape(&mut w);
        (s.exclusive, s.outside) = (false, outside);
        s.data.clear();
        let desired = desired([w]);
        let old = Found { name: format!("rf-a-{slot}"), volumes: BTreeSet::new(), ..found("a", "h0", Life::Running) };
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
                    let is_right = |c: &Found| {
                        w.is_some_and(|w| matches!(&w.blueprint, Blueprint::Ready(s) if s.hash == c.hash))
                            && c.life != Life::Dead
                    };
                    let another = actual.containers.iter().any(|o| {
                        o.id != c.id && o.instance == c.instance && is_right(o)
                    });
                    prop_assert!(!is_right(c) || another || w.is_some_and(|w| w.suspend), "{step}");
                }
                _ => {}
            }
        }
    }
}
