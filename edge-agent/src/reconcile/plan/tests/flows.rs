//! Flows of a runtime that is down, that gave no answer, or that is to have none.
use super::*;
use proptest::prelude::*;

/// What a runtime was given last, or may have been, lies in its volume when it is down.
#[test]
fn flows_that_may_have_ended_their_runtime_are_replaced_before_it_starts() {
    let mut flows = wanted("f", 3, "h");
    flows.flow_set = Some(digest("old"));
    let old = &digest("old").hex()[..12];
    let mut actual = running([Found { home: "rf-f-data 1".into(), ..found("f", "h", Life::Down) }]);
    actual.flow_sets = [(digest("old"), digest("content")), (digest("nothing"), digest("no content"))].into();
    let memory = |given: Given| Memory {
        deployed: [(name("f"), GivenAt::from([("rf-f-data 1".to_owned(), given)]))].into(),
        ..Memory::default()
    };
    let put = format!("f: put flows {old} where it finds them\nf: start rf-f-0");
    for given in [Given::new(digest("new"), "r2".into()), Given::begun(digest("new"))] {
        assert_eq!(text(&desired([flows.clone()]), &memory(given), &actual), put);
    }
    let right = memory(Given::new(digest("old"), "r1".into()));
    assert_eq!(text(&desired([flows.clone()]), &right, &actual), "f: start rf-f-0");
    assert_eq!(text(&desired([flows.clone()]), &Memory::default(), &actual), "f: start rf-f-0", "nothing was given");

    // While it runs, what was begun and has no answer is given again, whatever the policy says of edits.
    actual.containers[0].life = Life::Running;
    let seen = |hash: &str| FlowsSeen {
        hash: Some(digest(hash)),
        rev: "r0".into(),
        home: "rf-f-data 1".into(),
        ..FlowsSeen::default()
    };
    actual.flows = [("id-f".to_owned(), seen("other"))].into();
    flows.drift = Drift::Report;
    let begun = memory(Given::begun(digest("old")));
    assert_eq!(text(&desired([flows.clone()]), &begun, &actual), format!("f: deploy full {old}"));
    assert_eq!(text(&desired([flows.clone()]), &right, &actual), "", "that is an edit");

    // Without a flow set: what was given goes, once, and what somebody makes then is theirs.
    (flows.flow_set, flows.clears) = (None, Some(digest("nothing")));
    let nothing = &digest("nothing").hex()[..12];
    for given in [Given::new(digest("old"), "r1".into()), Given::begun(digest("nothing"))] {
        let said = text(&desired([flows.clone()]), &memory(given), &actual);
        assert_eq!(said, format!("f: deploy full {nothing}"));
    }
    let cleared = memory(Given::new(digest("nothing"), "r3".into()));
    for memory in [cleared, Memory::default()] {
        assert_eq!(text(&desired([flows.clone()]), &memory, &actual), "");
    }
}

const SETS: [&str; 3] = ["first", "second", "third"];

prop_compose! {
    /// What may be remembered of an instance: a flow set that was given or only begun, or nothing; and a spec that failed.
    fn any_memory()(given in proptest::option::of((0..3_usize, any::<bool>())), failed in 0..4_u8) -> Memory {
        let of = |(set, is): (usize, bool)| {
            let set = digest(SETS[set]);
            if is { Given::new(set, "r1".into()) } else { Given::begun(set) }
        };
        let given = given.map(|given| (name("f"), GivenAt::from([(String::new(), of(given))])));
        let failed = (failed < 2).then(|| (name("f"), digest(&format!("h{failed}"))));
        Memory {
            deployed: given.into_iter().collect(),
            failed: failed.into_iter().collect(),
            ..Memory::default()
        }
    }
}

prop_compose! {
    /// A runtime, up or down, of this version or another, with flows of its own, stopped or edited, and what its models are.
    fn any_runtime()(
        hash in 0..2_u8, life in 0..4_usize, runs in proptest::option::of(0..4_usize), flags in any::<[bool; 4]>(),
    ) -> Actual {
        let [stopped, rests, safe, lacks] = flags;
        let life = [Life::Down, Life::Running, Life::Between, Life::Paused][life];
        let mut actual = running([found("f", &format!("h{hash}"), life)]);
        let id = "id-f".to_owned();
        let hash = runs.map(|set| digest(["first", "second", "third", "edited"][set]));
        let rev = "r1".to_owned();
        if life == Life::Running {
            actual.flows.insert(id.clone(), FlowsSeen { hash, rev, stopped, ..FlowsSeen::default() });
            let models = |lacks: bool| if lacks { vec!["m".to_owned(), "n".to_owned()] } else { vec![] };
            (actual.models_lacking, actual.models_unloaded) =
                ([(id.clone(), models(lacks))].into(), [(id.clone(), models(stopped))].into());
        }
        actual.resting.extend(rests.then(|| id.clone()));
        actual.safe.extend(safe.then_some(id));
        actual
    }
}

proptest! {
    /// Whatever is remembered, runs, rests or was stopped: it ends with the flows and models that it shall have, and is then
    /// left alone. What failed is not touched as long as it is the same.
    #[test]
    fn a_runtime_ends_with_what_it_shall_have(
        memory in any_memory(), actual in any_runtime(), hash in 0..2_u8, set in proptest::option::of(0..3_usize),
        here in any::<[bool; 3]>(), suspend in any::<bool>(), rested in 0..4_usize,
    ) {
        let (mut memory, mut actual) = (memory, actual);
        let mut w = wanted("f", 3, &format!("h{hash}"));
        (w.flow_set, w.suspend) = (set.map(|set| digest(SETS[set])), suspend);
        w.clears = set.is_none().then(|| digest("nothing"));
        // The empty flow set lies on no disk and is always here.
        let lie = SETS.iter().zip(here).filter(|(_, here)| *here).map(|(set, _)| digest(set)).chain([digest("nothing")]);
        actual.flow_sets = lie.map(|set| (set, set)).collect();
        // One revision is one content: other flows than those that were given are another one.
        let given = memory.deployed.get(&w.name).and_then(|at| at.get("")).map(|given| given.digest);
        actual.flows.values_mut().filter(|seen| seen.hash != given).for_each(|seen| seen.rev = "r2".into());
        let before = actual.clone();
        let failed = memory.failed.get(&w.name) == Some(&w.spec);
        let desired = desired([w]);
        for pass in 0..20 {
            if pass >= rested {
                actual.resting.clear();
            }
            let steps = plan(&desired, &memory, &actual);
            prop_assert!(steps.is_empty() || !failed || suspend, "what failed is touched: {steps:?}");
            let given: Vec<_> = steps.iter().filter_map(|s| match s {
                Step::DeployFlows { digest, .. } | Step::PutFlows { digest, .. } => Some(*digest),
                _ => None,
            }).collect();
            let shall = desired.instances[0].flow_set.or(desired.instances[0].clears);
            prop_assert!(given.iter().all(|digest| Some(*digest) == shall), "{given:?} is given");
            apply(&steps, &desired, &mut memory, &mut actual);
            actual.containers.iter_mut().filter(|c| c.life == Life::Between).for_each(|c| c.life = Life::Running);
            actual.containers.iter_mut().for_each(|c| c.ready = c.life == Life::Running);
        }
        prop_assert_eq!(plan(&desired, &memory, &actual), vec![]);
        if failed && !suspend {
            prop_assert_eq!(actual.flows, before.flows);
            return Ok(());
        }
        let [c] = &actual.containers[..] else { return Err(TestCaseError::fail(format!("{:?}", actual.containers))) };
        if suspend {
            prop_assert!(!c.life.may_run());
            return Ok(());
        }
        prop_assert_eq!((c.life, &c.hash), (Life::Running, &format!("h{hash}")));
        prop_assert!(actual.models_lacking.get(&c.id).is_none_or(Vec::is_empty));
        prop_assert!(actual.models_unloaded.get(&c.id).is_none_or(Vec::is_empty));
        let Some(seen) = actual.flows.get(&c.id) else { return Ok(()) };
        prop_assert!(!seen.stopped);
        if let Some(set) = set {
            prop_assert_eq!(seen.hash, Some(digest(SETS[set])));
        }
    }
}
