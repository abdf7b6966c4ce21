//! Plans that a reviewer can read.
use super::{room::Claim, *};
use redforge_shared::ids::Digest;
use std::collections::BTreeMap;

mod flows;
mod guards;
mod modules;
mod properties;
mod replicas;

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
            slots: (0..2).map(|n| format!("rf-{instance}-{n}")).collect(),
            replicas: 1,
            hash: hash.into(),
            exclusive: true,
            data: [format!("rf-{instance}-data")].into(),
            ..Shape::default()
        })),
        flow_set: None,
        clears: None,
        drift: Drift::Enforce,
        waits: None,
        refused: false,
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
        replica: 0,
        claim: Claim::default(),
        hash: hash.into(),
        life,
        started_at: "T1".into(),
        outside: false,
        named: true,
        ready: life == Life::Running,
        volumes: [format!("rf-{instance}-data")].into(),
        home: String::new(),
    }
}

fn desired(instances: impl IntoIterator<Item = Wanted>) -> Desired {
    let instances = instances.into_iter().collect();
    Desired { network: "rf".into(), outside: "rf-out".into(), held: Held::default(), instances, capacity: None }
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

/// Every pass until nothing is left to do, as text.
fn passes(desired: &Desired, actual: &mut Actual, after: impl Fn(usize, &mut Actual)) -> String {
    let (mut memory, mut text) = (Memory::default(), String::new());
    for pass in 1.. {
        let steps = plan(desired, &memory, actual);
        if steps.is_empty() && pass > 3 {
            break;
        }
        let lines: Vec<_> = steps.iter().map(|s| format!("  {s}\n")).collect();
        text += &format!("pass {pass}\n{}", lines.concat());
        apply(&steps, desired, &mut memory, actual);
        after(pass, actual);
    }
    text
}

#[test]
fn where_two_can_stand_side_by_side_the_new_one_is_healthy_before_the_old_one_goes() {
    let mut w = wanted("web", 2, "h2");
    shape(&mut w).exclusive = false;
    shape(&mut w).data.clear();
    let mut actual = running([found("web", "h1", Life::Running)]);
    let slow = |pass: usize, actual: &mut Actual| {
        actual.containers.iter_mut().for_each(|c| c.ready = c.hash == "h2" && pass >= 2);
    };
    insta::assert_snapshot!(passes(&desired([w]), &mut actual, slow));
}

#[test]
fn where_they_share_a_volume_the_old_one_ends_first() {
    let mut w = wanted("db", 2, "h2");
    shape(&mut w).config = Some("rf-db-cfg-2".into());
    let mut actual = running([found("db", "h1", Life::Running)]);
    insta::assert_snapshot!(passes(&desired([w]), &mut actual, |_, _| ()));
}

#[test]
fn a_container_that_takes_long_to_end_holds_up_nobody_else() {
    let mut actual = running([found("slow", "h1", Life::Running), found("quick", "h1", Life::Running)]);
    actual.busy = [job_key::stop("id-slow")].into();
    let both = desired([wanted("slow", 2, "h2"), wanted("quick", 2, "h1"), wanted("fresh", 2, "h1")]);
    insta::assert_snapshot!(text(&both, &Memory::default(), &actual));
    actual.containers[0].life = Life::Down;
    actual.busy.clear();
    insta::assert_snapshot!(text(&desired([wanted("slow", 2, "h2")]), &Memory::default(), &actual));
}

#[test]
fn going_back_takes_down_the_one_that_never_came_up_and_touches_nothing_else() {
    let mut w = wanted("web", 2, "h1");
    shape(&mut w).exclusive = false;
    let new = Found {
        id: "id-new".into(),
        name: "rf-web-1".into(),
        named: false,
        ready: false,
        ..found("web", "h2", Life::Running)
    };
    let actual = running([found("web", "h1", Life::Running), new]);
    assert_eq!(text(&desired([w]), &Memory::default(), &actual), "web: stop rf-web-1");
}

#[test]
fn a_foreign_object_stands_in_the_way_only_of_who_needs_its_name() {
    let actual = Actual { foreign: ["rf-a-1".to_owned()].into(), ..running([found("a", "h", Life::Running)]) };
    assert_eq!(blocked_by(&wanted("a", 2, "h"), &actual), Vec::<String>::new(), "the right one is there");
    assert_eq!(blocked_by(&wanted("a", 2, "other"), &actual), Vec::<String>::new(), "it ends before it is made again");
    let mut beside = wanted("a", 2, "other");
    shape(&mut beside).exclusive = false;
    assert_eq!(blocked_by(&beside, &actual), ["rf-a-1"]);
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
fn what_is_held_is_not_removed_though_nobody_wants_it_any_more() {
    let actual = running([found("a", "h", Life::Running), found("b", "h", Life::Running)]);
    let mut wish = desired([]);
    wish.held.instances = [name("a")].into();
    assert_eq!(text(&wish, &Memory::default(), &actual), "b: stop rf-b-0");
    wish.held.host = true;
    assert_eq!(text(&wish, &Memory::default(), &actual), "");
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
    let busy = Actual { busy: [job_key::image("a:1")].into(), ..actual };
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
    actual.live = [("id-broker".to_owned(), digest("users 1"))].into();
    let mut memory = Memory { applied: [(name("broker"), applied("users 1"))].into(), ..Memory::default() };
    insta::assert_snapshot!(text(&desired, &memory, &actual));
    // Written and not yet reread: a crash in between.
    actual.live = [("id-broker".to_owned(), digest("users 2"))].into();
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
    actual.flows = [("id-f".to_owned(), seen("nothing", "r0"))].into();
    assert_eq!(text(&desired, &memory, &actual), format!("f: deploy full {short}"));
    let given = Given::new(digest("set"), "r1".into());
    memory.deployed = BTreeMap::from([(name("f"), BTreeMap::from([(String::new(), given)]))]);
    actual.flows = [("id-f".to_owned(), seen("edited", "r2"))].into();
    assert_eq!(text(&desired, &memory, &actual), format!("f: deploy flows {short}"), "an edit by hand is put back");
    actual.flows = [("id-f".to_owned(), seen("other form", "r1"))].into();
    assert_eq!(text(&desired, &memory, &actual), "", "what was given is not given for ever");
    actual.flows = [("id-f".to_owned(), FlowsSeen { stopped: true, ..seen("content", "r1") })].into();
    assert_eq!(text(&desired, &memory, &actual), "f: start flows");
    actual.flows = [("id-f".to_owned(), FlowsSeen { credentials_wrong: true, ..seen("content", "r1") })].into();
    assert_eq!(text(&desired, &memory, &actual), format!("f: deploy full {short}"));
    actual.flows = [("id-f".to_owned(), seen("content", "r1"))].into();
    assert_eq!(text(&desired, &memory, &actual), "");
    actual.flow_sets.clear();
    assert_eq!(text(&desired, &memory, &actual), format!("f: want blob {short}"));
}

/// Each kind of edit under each policy: what is put back, and what is left to be told or adopted.
#[test]
fn edits_are_put_back_or_left_as_the_policy_says() {
    let mut flows = wanted("f", 3, "h");
    flows.flow_set = Some(digest("set"));
    let s = shape(&mut flows);
    (s.config, s.config_hash) = (Some("rf-f-cfg-1".into()), Some(digest("settings")));
    let mut actual = running([found("f", "h", Life::Running)]);
    actual.flow_sets = [(digest("set"), digest("content"))].into();
    let given = |home: &str| GivenAt::from([(home.to_owned(), Given::new(digest("set"), "r1".into()))]);
    let mut said = String::new();
    let edits = [("nothing", false, false, false), ("flows", true, false, false), ("credentials", false, true, false)];
    let both = ("flows and credentials", true, true, false);
    for drift in [Drift::Enforce, Drift::Report, Drift::Adopt] {
        flows.drift = drift;
        for (what, edited, credentials_wrong, settings) in
            edits.into_iter().chain([both, ("settings", false, false, true)])
        {
            let (content, rev) = if edited { ("edited", "r2") } else { ("content", "r1") };
            let (hash, rev) = (Some(digest(content)), rev.to_owned());
            let seen = FlowsSeen { hash, rev, credentials_wrong, home: "home".into(), ..FlowsSeen::default() };
            actual.flows = [("id-f".to_owned(), seen)].into();
            let config = if settings { "other settings" } else { "settings" };
            actual.config = [("id-f".to_owned(), digest(config))].into();
            for (where_given, home) in [("", "home"), (" in another volume", "other")] {
                let memory = Memory { deployed: [(name("f"), given(home))].into(), ..Memory::default() };
                let steps = text(&desired([flows.clone()]), &memory, &actual);
                said += &format!("{drift:?}, {what}{where_given}: {}\n", if steps.is_empty() { "-" } else { &steps });
            }
        }
    }
    insta::assert_snapshot!(said);
    // It ended to be started with what it shall have.
    actual.containers[0].life = Life::Down;
    assert_eq!(text(&desired([flows]), &Memory::default(), &actual), "f: put config into rf-f-cfg-1\nf: start rf-f-0",);
}

#[test]
fn what_never_ran_is_made_and_not_started_before_its_broker_listens_and_what_ran_goes_on() {
    let mut flows = wanted("a-flows", 3, "f1");
    flows.waits = Some(name("broker"));
    let mut all = desired([flows, wanted("broker", 0, "b1")]);
    let mut actual = Actual::default();
    let first = passes(&all, &mut actual, |_, _| ());
    all.instances[0].waits = None;
    insta::assert_snapshot!(format!("waiting\n{first}then\n{}", passes(&all, &mut actual, |_, _| ())));

    // With a session that is gone again: who ran before is started again, and who serves is not replaced.
    all.instances[0].waits = Some(name("broker"));
    let down = running([found("a-flows", "f1", Life::Down), found("broker", "b1", Life::Running)]);
    assert_eq!(text(&all, &Memory::default(), &down), "a-flows: start rf-a-flows-0");
    let outdated = running([found("a-flows", "f0", Life::Running), found("broker", "b1", Life::Running)]);
    assert_eq!(text(&all, &Memory::default(), &outdated), "");
}

#[test]
fn lacking_models_are_pulled_once_at_a_time() {
    let desired = desired([wanted("o", 1, "h")]);
    let mut actual = running([found("o", "h", Life::Running)]);
    actual.models_lacking = [("id-o".to_owned(), vec!["m".to_owned(), "n".to_owned()])].into();
    actual.busy = [job_key::model(&name("o"), "m")].into();
    assert_eq!(text(&desired, &Memory::default(), &actual), "o: pull model n");
}

/// Carries steps out on plain data, as a perfect engine would; what is done in the background is done when this returns.
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
            Step::ResolveImage { image, .. } => drop(actual.busy.insert(job_key::image(image))),
            Step::EnsureVolume { instance, volume, purpose } => {
                let found = VolumeFound { instance: instance.clone(), purpose: *purpose };
                actual.volumes.insert(volume.clone(), found);
            }
            Step::SafeMode { .. } => {}
            Step::PutConfig { volume, .. } | Step::PutModules { volume, .. } => {
                assert!(actual.volumes.contains_key(volume));
            }
            Step::PutLive { instance, volume } => {
                assert!(actual.volumes.contains_key(volume));
                let hash = shape_of(instance).live_hash.expect("live files");
                let of_instance = actual.containers.iter().filter(|c| c.instance == *instance);
                let ids: Vec<_> = of_instance.map(|c| c.id.clone()).collect();
                actual.live.extend(ids.into_iter().map(|id| (id, hash)));
            }
            Step::Stop { id, .. } => {
                actual.containers.iter_mut().filter(|c| c.id == *id).for_each(|c| {
                    c.life = Life::Down;
                    c.ready = false;
                });
            }
            Step::Remove { id, .. } => {
                assert!(actual.containers.iter().all(|c| c.id != *id || !c.life.may_run()), "removed while running");
                actual.containers.retain(|c| c.id != *id);
            }
            Step::Create { instance, container, replica, named } => {
                let shape = shape_of(instance);
                assert_eq!(*container, shape.slots[*replica as usize]);
                create((instance, *replica), container, *named, &shape, desired, actual);
            }
            Step::TakeName { container, .. } => {
                actual.containers.iter_mut().filter(|c| c.name == *container).for_each(|c| c.named = true);
            }
            Step::ConnectOutside { container, .. } => {
                assert!(actual.networks.contains(&desired.outside));
                actual.containers.iter_mut().filter(|c| c.name == *container).for_each(|c| c.outside = true);
            }
            Step::Start { container, .. } => {
                let c = actual.containers.iter_mut().find(|c| c.name == *container).expect("started, so created");
                c.life = Life::Running;
                c.started_at = "T2".into();
                c.ready = true;
                // It reads what lies where it keeps its flows.
                let (id, home, instance) = (c.id.clone(), c.home.clone(), c.instance.clone());
                let lies = memory.deployed.get(&instance).and_then(|at| at.get(&home));
                let hash = lies.and_then(|given| actual.flow_sets.get(&given.digest)).copied();
                let rev = lies.map(|given| given.rev.clone()).unwrap_or_default();
                actual.flows.insert(id, FlowsSeen { hash, rev, home, ..FlowsSeen::default() });
            }
            Step::Reload { instance, applied, .. } => drop(memory.applied.insert(instance.clone(), applied.clone())),
            Step::RemoveVolume { volume, .. } => {
                assert!(!is_mounted(volume, actual));
                actual.volumes.remove(volume);
            }
            other => inside(other, memory, actual),
        }
    }
}

/// What is done inside a container, and in its volume.
fn inside(step: &Step, memory: &mut Memory, actual: &mut Actual) {
    match step {
        Step::DeployFlows { instance, id, home, digest, .. } => {
            assert!(actual.containers.iter().any(|c| c.id == *id && c.life == Life::Running), "{id} cannot answer");
            let rev = format!("given {digest}");
            let seen = FlowsSeen {
                hash: actual.flow_sets.get(digest).copied(),
                rev: rev.clone(),
                home: home.clone(),
                ..FlowsSeen::default()
            };
            actual.flows.insert(id.clone(), seen);
            give(memory, instance, home, Given::new(*digest, rev));
        }
        Step::PutFlows { instance, id, home, digest } => {
            let down = |c: &Found| c.id != *id || !c.life.may_run();
            assert!(actual.containers.iter().all(down), "it would write over what is put there");
            give(memory, instance, home, Given::begun(*digest));
        }
        Step::StartFlows { id, .. } => actual.flows.entry(id.clone()).or_default().stopped = false,
        Step::PullModel { id, model, .. } => {
            actual.models_lacking.entry(id.clone()).or_default().retain(|m| m != model);
        }
        Step::LoadModel { id, model, .. } => {
            actual.models_unloaded.entry(id.clone()).or_default().retain(|m| m != model);
        }
        other => panic!("{other} is none of these"),
    }
}

fn give(memory: &mut Memory, instance: &Name, home: &str, given: Given) {
    memory.deployed.entry(instance.clone()).or_default().insert(home.to_owned(), given);
}

fn create(
    (instance, replica): (&Name, u32),
    container: &str,
    named: bool,
    shape: &Shape,
    desired: &Desired,
    actual: &mut Actual,
) {
    assert!(actual.networks.contains(&desired.network));
    assert!(actual.containers.iter().all(|c| c.name != *container), "a name is taken twice");
    let volumes: BTreeSet<_> = shape.volumes().chain(shape.own_volumes(replica)).cloned().collect();
    assert!(volumes.iter().all(|v| actual.volumes.contains_key(v)), "a volume is missing");
    let own: BTreeSet<_> = shape.own_volumes(replica).collect();
    let exclusive = |v: &&String| (shape.exclusive && shape.config.as_ref() != Some(*v)) || own.contains(v);
    let held = |v: &String| actual.containers.iter().any(|c| c.life.may_run() && c.volumes.contains(v));
    assert!(!volumes.iter().filter(exclusive).any(held), "two containers hold an exclusive volume");
    let live = shape.live_hash.map(|h| (format!("new-{container}-{}", shape.hash), h));
    actual.live.extend(live);
    actual.containers.push(Found {
        id: format!("new-{container}-{}", shape.hash),
        name: container.into(),
        named,
        started_at: String::new(),
        volumes,
        replica,
        claim: shape.claim,
        ..found(instance.as_str(), &shape.hash, Life::Down)
    });
}
