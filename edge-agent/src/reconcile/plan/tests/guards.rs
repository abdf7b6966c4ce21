//! What no plan does, whatever is wanted and whatever is there: what was refused, failed, rests or has not arrived is left.
use super::{super::*, *};
use proptest::prelude::*;

#[derive(Clone, Debug)]
struct Odd {
    hash: u8,
    found: Option<(u8, usize, bool)>,
    refused: bool,
    failed: bool,
    rests: bool,
    flow_set: bool,
    no_image: bool,
    exclusive: bool,
}

prop_compose! {
    fn odd()(
        hash in 0..2_u8,
        found in proptest::option::of((0..2_u8, 0..4_usize, any::<bool>())),
        flags in any::<[bool; 6]>(),
    ) -> Odd {
        let [refused, failed, rests, flow_set, no_image, exclusive] = flags;
        Odd { hash, found, refused, failed, rests, flow_set, no_image, exclusive }
    }
}

fn world(odds: &[Odd]) -> (Desired, Memory, Actual) {
    let (mut wanteds, mut founds, mut memory) = (Vec::new(), Vec::new(), Memory::default());
    let mut resting = BTreeSet::new();
    for (n, o) in odds.iter().enumerate() {
        let who = format!("i{n}");
        let mut w = wanted(&who, 2, &format!("h{}", o.hash));
        let s = shape(&mut w);
        s.exclusive = o.exclusive;
        if !o.exclusive {
            s.data.clear();
        }
        w.refused = o.refused;
        w.flow_set = o.flow_set.then(|| digest("set"));
        if o.no_image {
            w.blueprint = Blueprint::NoImage;
        }
        if o.failed {
            memory.failed.insert(w.name.clone(), w.spec);
        }
        if let Some((hash, life, named)) = o.found {
            let life = [Life::Down, Life::Running, Life::Between, Life::Dead][life];
            founds.push(Found { named, ..found(&who, &format!("h{hash}"), life) });
            if o.rests {
                resting.insert(format!("id-{who}"));
            }
        }
        wanteds.push(w);
    }
    (desired(wanteds), memory, Actual { resting, ..running(founds) })
}

proptest! {
    #[test]
    fn what_is_refused_failed_resting_or_not_here_yet_is_left(odds in proptest::collection::vec(odd(), 1..5)) {
        let (desired, memory, actual) = world(&odds);
        for step in plan(&desired, &memory, &actual) {
            prop_assert!(model::DEEDS.contains(&step.deed()), "{step} has fault points of no known name");
            let Some(who) = step.instance() else { continue };
            let o = &odds[who.as_str()[1..].parse::<usize>().expect("an index")];
            prop_assert!(!o.failed, "a failed spec is retried unchanged: {step}");
            let life = o.found.map(|(_, life, _)| [Life::Down, Life::Running, Life::Between, Life::Dead][life]);
            let right = o.found.is_some_and(|(hash, ..)| hash == o.hash) && life != Some(Life::Dead) && !o.no_image;
            prop_assert!(!o.refused || right, "something is begun that would not fit: {step}");
            if o.rests && right {
                prop_assert!(!matches!(step, Step::Start { .. } | Step::Create { .. }), "{step}");
            }
            let serves = life.is_some_and(Life::may_run);
            if o.flow_set && serves && !right {
                let touches = matches!(step, Step::Stop { .. } | Step::Remove { .. } | Step::Create { .. });
                prop_assert!(!touches, "what serves is touched before everything is here: {step}");
            }
        }
    }

    /// Step by step, not only at the end: an exclusive volume is mounted by one running container at most.
    #[test]
    fn never_two_containers_with_one_exclusive_volume(odds in proptest::collection::vec(odd(), 1..5)) {
        let (desired, mut memory, mut actual) = world(&odds);
        for _ in 0..6 {
            for step in plan(&desired, &memory, &actual) {
                apply(std::slice::from_ref(&step), &desired, &mut memory, &mut actual);
                for w in &desired.instances {
                    let Blueprint::Ready(shape) = &w.blueprint else { continue };
                    for volume in shape.data.iter().filter(|_| shape.exclusive) {
                        let mounts = |c: &&Found| c.life.may_run() && c.volumes.contains(volume);
                        prop_assert!(actual.containers.iter().filter(mounts).count() < 2, "behind {step}");
                    }
                }
            }
        }
    }
}
