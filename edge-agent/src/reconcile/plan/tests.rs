//! Plans that a reviewer can read.
use super::*;
use redforge_shared::ids::Digest;
use std::collections::BTreeMap;

fn name(s: &str) -> Name {
    s.parse().expect("a name")
}

fn digest(s: &str) -> Digest {
    Digest::of(s.as_bytes())
}

fn wanted(instance: &str, rank: u8, hash: &str) -> Wanted {
    Wanted {
        name: name(instance),
        spec: digest(hash),
        rank,
        hold: false,
        suspend: false,
        image: format!("{instance}:1"),
        blueprint: Blueprint::Ready(Box::new(Shape {
            container: format!("rf-{instance}-0"),
            hash: hash.into(),
            data: [format!("rf-{instance}-data")].into(),
            ..Shape::default()
        })),
        flow_set: None,
    }
}

fn shape(w: &mut Wanted) -> &mut Shape {
    match &mut w.blueprint {
        Blueprint::Ready(shape) => shape,
        other => panic!("{other:?} is not ready"),
    }
}

fn found(instance: &str, hash: &str, life: Life) -> Found {
    Found {
        id: format!("id-{instance}"),
        name: format!("rf-{instance}-0"),
        instance: name(instance),
        hash: hash.into(),
        life,
        started_at: "T1".into(),
        outside: false,
        volumes: [format!("rf-{instance}-data")].into(),
    }
}

fn desired(instances: impl IntoIterator<Item = Wanted>) -> Desired {
    Desired { network: "rf".into(), outside: "rf-out".into(), instances: instances.into_iter().collect() }
}

fn text(desired: &Desired, memory: &Memory, actual: &Actual) -> String {
    plan(desired, memory, actual).iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

fn running(containers: impl IntoIterator<Item = Found>) -> Actual {
    let containers: Vec<_> = containers.into_iter().collect();
    let data = containers.iter().map(|c| {
        let volume = VolumeFound { instance: c.instance.clone(), purpose: Purpose::Data };
        (format!("rf-{}-data", c.instance), volume)
    });
    Actual {
        networks: ["rf".to_owned(), "rf-out".to_owned()].into(),
        volumes: data.collect(),
        containers,
        ..Actual::default()
    }
}

#[test]
fn an_empty_host_gets_broker_and_models_before_the_flows() {
    let mut flows = wanted("a-flows", 3, "f1");
    flows.flow_set = Some(digest("set"));
    shape(&mut flows).config = Some("rf-a-flows-cfg-1".into());
    shape(&mut flows).outside = true;
    let mut broker = wanted("broker", 0, "b1");
    shape(&mut broker).live = Some("rf-broker-live".into());
    shape(&mut broker).live_hash = Some(digest("users"));
    let models = wanted("models", 1, "m1");
    insta::assert_snapshot!(text(&desired([flows, broker, models]), &Memory::default(), &Actual::default()));
}

#[test]
fn an_equal_hash_is_left_alone_and_another_is_replaced() {
    let actual = running([found("a", "h1", Life::Running), found("b", "old", Life::Running)]);
    let both = desired([wanted("a", 2, "h1"), wanted("b", 2, "h2")]);
    insta::assert_snapshot!(text(&both, &Memory::default(), &actual));
}

#[test]
fn stopped_by_hand_is_started_and_dead_is_made_again() {
    let actual = running([found("a", "h", Life::Down), found("b", "h", Life::Dead), found("c", "h", Life::Between)]);
    let all = desired([wanted("a", 2, "h"), wanted("b", 2, "h"), wanted("c", 2, "h")]);
    insta::assert_snapshot!(text(&all, &Memory::default(), &actual));
}

#[test]
fn what_is_no_longer_desired_goes_and_its_data_stays() {
    let mut actual = running([found("gone", "h", Life::Running)]);
    let volume = |purpose| VolumeFound { instance: name("gone"), purpose };
    actual.volumes.insert("rf-gone-cfg-1".into(), volume(Purpose::Config));
    actual.volumes.insert("rf-gone-live".into(), volume(Purpose::Live));
    actual.helpers = vec!["h1".into()];
    insta::assert_snapshot!(text(&desired([]), &Memory::default(), &actual));
}

#[test]
fn suspended_is_stopped_and_kept() {
    let mut w = wanted("a", 2, "h");
    w.suspend = true;
    let actual = running([found("a", "h", Life::Running)]);
    assert_eq!(text(&desired([w.clone()]), &Memory::default(), &actual), "a: stop rf-a-0");
    let actual = running([found("a", "h", Life::Down)]);
    assert_eq!(text(&desired([w]), &Memory::default(), &actual), "");
}

#[test]
fn held_failed_foreign_unmet_and_busy_instances_wait() {
    let actual = running([found("a", "old", Life::Running)]);
    let plan_of = |w: Wanted, memory: Memory, actual: &Actual| text(&desired([w]), &memory, actual);
    let mut held = wanted("a", 2, "h");
    held.hold = true;
    assert_eq!(plan_of(held, Memory::default(), &actual), "");
    // A failed spec waits until it changes: a serving container is not stopped for it again.
    let failed = Memory { failed: [(name("a"), digest("h"))].into(), ..Memory::default() };
    assert_eq!(plan_of(wanted("a", 2, "h"), failed.clone(), &actual), "");
    assert_ne!(plan_of(wanted("a", 2, "h2"), failed, &actual), "");
    for taken in ["rf-a-0", "rf-a-data"] {
        let actual = Actual { foreign: [taken.to_owned()].into(), ..Actual::default() };
        assert_eq!(plan_of(wanted("a", 2, "h"), Memory::default(), &actual), "");
    }
    let mut unmet = wanted("a", 2, "h");
    unmet.blueprint = Blueprint::Unmet;
    assert_eq!(plan_of(unmet, Memory::default(), &actual), "");
    let mut no_image = wanted("a", 2, "h");
    no_image.blueprint = Blueprint::NoImage;
    assert_eq!(plan_of(no_image.clone(), Memory::default(), &actual), "a: resolve image a:1");
    let busy = Actual { busy: [fetch_key::image("a:1")].into(), ..actual };
    assert_eq!(plan_of(no_image, Memory::default(), &busy), "");
}

#[test]
fn live_files_are_rewritten_and_reread_without_a_new_container() {
    let mut broker = wanted("broker", 0, "b1");
    shape(&mut broker).live = Some("rf-broker-live".into());
    shape(&mut broker).live_hash = Some(digest("users 2"));
    let desired = desired([broker]);
    let mut actual = running([found("broker", "b1", Life::Running)]);
    let applied = |what: &str| format!("T1 {}", digest(what).hex());
    let live = VolumeFound { instance: name("broker"), purpose: Purpose::Live };
    actual.volumes.insert("rf-broker-live".into(), live);
    actual.live = [(name("broker"), digest("users 1"))].into();
    let mut memory = Memory { applied: [(name("broker"), applied("users 1"))].into(), ..Memory::default() };
    insta::assert_snapshot!(text(&desired, &memory, &actual));
    // Written and not yet reread: a crash in between.
    actual.live = [(name("broker"), digest("users 2"))].into();
    assert_eq!(text(&desired, &memory, &actual), "broker: reload live files in id-broker");
    memory.applied = [(name("broker"), applied("users 2"))].into();
    assert_eq!(text(&desired, &memory, &actual), "");
}

#[test]
fn flows_are_deployed_while_the_container_runs() {
    let mut flows = wanted("f", 3, "h");
    flows.flow_set = Some(digest("set"));
    let desired = desired([flows]);
    let short = &digest("set").hex()[..12];
    let mut actual = running([found("f", "h", Life::Running)]);
    actual.flow_sets = [(digest("set"), digest("content"))].into();
    let seen = |hash: &str, rev: &str| FlowsSeen { hash: Some(digest(hash)), rev: rev.into(), ..FlowsSeen::default() };
    let mut memory = Memory::default();

    assert_eq!(text(&desired, &memory, &actual), "", "a runtime that does not answer yet is left alone");
    actual.flows = [(name("f"), seen("nothing", "r0"))].into();
    assert_eq!(text(&desired, &memory, &actual), format!("f: deploy full {short}"));
    memory.deployed = BTreeMap::from([(name("f"), (digest("set"), "r1".to_owned()))]);
    actual.flows = [(name("f"), seen("edited", "r2"))].into();
    assert_eq!(text(&desired, &memory, &actual), format!("f: deploy flows {short}"), "an edit by hand is put back");
    actual.flows = [(name("f"), seen("other form", "r1"))].into();
    assert_eq!(text(&desired, &memory, &actual), "", "what was given is not given for ever");
    actual.flows = [(name("f"), FlowsSeen { stopped: true, ..seen("content", "r1") })].into();
    assert_eq!(text(&desired, &memory, &actual), "f: start flows");
    actual.flows = [(name("f"), FlowsSeen { credentials_missing: true, ..seen("content", "r1") })].into();
    assert_eq!(text(&desired, &memory, &actual), format!("f: deploy flows {short}"));
    actual.flows = [(name("f"), seen("content", "r1"))].into();
    assert_eq!(text(&desired, &memory, &actual), "");
    actual.flow_sets.clear();
    assert_eq!(text(&desired, &memory, &actual), format!("f: want blob {short}"));
}

#[test]
fn lacking_models_are_pulled_once_at_a_time() {
    let desired = desired([wanted("o", 1, "h")]);
    let mut actual = running([found("o", "h", Life::Running)]);
    actual.models_lacking = [(name("o"), vec!["m".to_owned(), "n".to_owned()])].into();
    actual.busy = [fetch_key::model(&name("o"), "m")].into();
    assert_eq!(text(&desired, &Memory::default(), &actual), "o: pull model n");
}

/// Carries steps out on plain data, as a perfect engine would.
fn apply(steps: &[Step], desired: &Desired, memory: &mut Memory, actual: &mut Actual) {
    for step in steps {
        let of = |i: &Name| desired.instances.iter().find(|w| w.name == *i);
        let shape_of = |i: &Name| match &of(i).expect("a step for a desired instance").blueprint {
            Blueprint::Ready(shape) => (**shape).clone(),
            other => panic!("a step for an instance that is {other:?}"),
        };
        match step {
            Step::RemoveHelper { id } => actual.helpers.retain(|h| h != id),
            Step::EnsureNetwork { name, .. } => drop(actual.networks.insert(name.clone())),
            Step::WantBlob { digest: d, .. } => drop(actual.flow_sets.insert(*d, *d)),
            Step::ResolveImage { image, .. } => drop(actual.busy.insert(fetch_key::image(image))),
            Step::EnsureVolume { instance, volume, purpose } => {
                let found = VolumeFound { instance: instance.clone(), purpose: *purpose };
                actual.volumes.insert(volume.clone(), found);
            }
            Step::PutConfig { volume, .. } => assert!(actual.volumes.contains_key(volume)),
            Step::PutLive { instance, volume } => {
                assert!(actual.volumes.contains_key(volume));
                actual.live.insert(instance.clone(), shape_of(instance).live_hash.expect("live files"));
            }
            Step::Stop { id, .. } => {
                actual.containers.iter_mut().filter(|c| c.id == *id).for_each(|c| c.life = Life::Down);
            }
            Step::Remove { id, .. } => {
                assert!(actual.containers.iter().all(|c| c.id != *id || !c.life.may_run()), "removed while running");
                actual.containers.retain(|c| c.id != *id);
            }
            Step::Create { instance, container } => {
                assert!(actual.networks.contains(&desired.network));
                assert!(actual.containers.iter().all(|c| c.name != *container), "a name is taken twice");
                let shape = shape_of(instance);
                let volumes: BTreeSet<_> = shape.names().filter(|n| *n != container).cloned().collect();
                assert!(volumes.iter().all(|v| actual.volumes.contains_key(v)), "a volume is missing");
                actual.containers.push(Found {
                    id: format!("new-{instance}"),
                    volumes,
                    ..found(instance.as_str(), &shape.hash, Life::Down)
                });
            }
            Step::ConnectOutside { container, .. } => {
                assert!(actual.networks.contains(&desired.outside));
                actual.containers.iter_mut().filter(|c| c.name == *container).for_each(|c| c.outside = true);
            }
            Step::Start { container, .. } => {
                let c = actual.containers.iter_mut().find(|c| c.name == *container).expect("started, so created");
                c.life = Life::Running;
            }
            Step::Reload { instance, applied, .. } => drop(memory.applied.insert(instance.clone(), applied.clone())),
            Step::RemoveVolume { volume, .. } => {
                assert!(!is_mounted(volume, actual));
                actual.volumes.remove(volume);
            }
            Step::DeployFlows { .. } | Step::StartFlows { .. } | Step::PullModel { .. } => {}
        }
    }
}

mod properties {
    use super::*;
    use proptest::prelude::*;

    prop_compose! {
        fn any_wanted()(who in 0..4_usize, rank in 0..4_u8, hash in 0..3_u8, flags in any::<[bool; 6]>()) -> Wanted {
            let [hold, suspend, config, live, outside, image] = flags;
            let instance = ["a", "b", "c", "d"][who];
            let mut w = wanted(instance, rank, &format!("h{hash}"));
            let s = shape(&mut w);
            s.outside = outside;
            s.config = config.then(|| format!("rf-{instance}-cfg-{hash}"));
            s.live = live.then(|| format!("rf-{instance}-live"));
            s.live_hash = live.then(|| digest(&hash.to_string()));
            w.hold = hold && suspend;
            w.suspend = suspend && !hold;
            if image && hold {
                w.blueprint = Blueprint::NoImage;
            }
            w
        }
    }

    prop_compose! {
        fn any_found()(who in 0..5_usize, hash in 0..3_u8, life in 0..4_usize, outside in any::<bool>()) -> Found {
            let life = [Life::Down, Life::Running, Life::Between, Life::Dead][life];
            Found { outside, ..found(["a", "b", "c", "d", "gone"][who], &format!("h{hash}"), life) }
        }
    }

    fn unique<T>(items: Vec<T>, key: impl Fn(&T) -> Name) -> Vec<T> {
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
            let desired = desired(unique(wanteds, |w| w.name.clone()));
            let mut actual = running(unique(founds, |c| c.instance.clone()));
            if !networks {
                actual.networks.clear();
            }
            let mut memory = Memory::default();
            // Three passes: replace; remove what the old containers held; nothing.
            for _ in 0..3 {
                let steps = plan(&desired, &memory, &actual);
                apply(&steps, &desired, &mut memory, &mut actual);
            }
            prop_assert_eq!(plan(&desired, &memory, &actual), vec![]);
            for w in &desired.instances {
                let c = actual.containers.iter().find(|c| c.instance == w.name);
                if let (Blueprint::Ready(shape), false, false) = (&w.blueprint, w.hold, w.suspend) {
                    let c = c.expect("a container");
                    prop_assert_eq!(&c.hash, &shape.hash);
                    prop_assert!(c.life.may_run());
                    prop_assert!(!shape.outside || c.outside || c.life == Life::Between || c.id.starts_with("id-"));
                }
                if w.suspend {
                    prop_assert!(c.is_none_or(|c| !c.life.may_run()));
                }
            }
            prop_assert!(actual.containers.iter().all(|c| c.instance.as_str() != "gone"));
        }

        #[test]
        fn data_volumes_are_never_removed_and_equal_hashes_never_touched(
            wanteds in proptest::collection::vec(any_wanted(), 0..5),
            founds in proptest::collection::vec(any_found(), 0..5),
        ) {
            let desired = desired(unique(wanteds, |w| w.name.clone()));
            let actual = running(unique(founds, |c| c.instance.clone()));
            for step in plan(&desired, &Memory::default(), &actual) {
                match &step {
                    Step::RemoveVolume { volume, .. } => {
                        prop_assert_ne!(actual.volumes[volume].purpose, Purpose::Data);
                    }
                    Step::Stop { id, instance, .. } | Step::Remove { id, instance, .. } => {
                        let c = actual.containers.iter().find(|c| c.id == *id).expect("only what is there");
                        let w = desired.instances.iter().find(|w| w.name == *instance);
                        let same = w.is_some_and(|w| matches!(&w.blueprint, Blueprint::Ready(s) if s.hash == c.hash));
                        prop_assert!(!same || c.life == Life::Dead || w.is_some_and(|w| w.suspend), "{step}");
                    }
                    _ => {}
                }
            }
        }
    }
}
