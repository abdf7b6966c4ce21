//! Modules that come with a flow set: there before the container, put back when somebody edits them, never hot.
use super::*;

/// An instance whose flow set brings modules, and the host on which it runs with them.
fn with_modules(life: Life, drift: Drift) -> (Wanted, Actual) {
    let mut w = wanted("flows", 3, "h1");
    (w.flow_set, w.drift) = (Some(digest("set")), drift);
    shape(&mut w).modules = Some(("rf-flows-cfg-mod".into(), digest("files")));
    let mut c = found("flows", "h1", life);
    c.volumes.insert("rf-flows-cfg-mod".into());
    let mut actual = running([c]);
    let config = VolumeFound { instance: name("flows"), purpose: Purpose::Config };
    actual.volumes.insert("rf-flows-cfg-mod".into(), config);
    actual.flow_sets.insert(digest("set"), digest("content"));
    (w, actual)
}

fn seen(actual: Actual, files: &str) -> Actual {
    Actual { modules: [("id-flows".to_owned(), digest(files))].into(), ..actual }
}

#[test]
fn modules_are_in_their_volume_before_the_container_is_made() {
    let (w, there) = with_modules(Life::Running, Drift::Enforce);
    let host = Actual { flow_sets: there.flow_sets, ..Actual::default() };
    let steps = text(&desired([w]), &Memory::default(), &host);
    insta::assert_snapshot!(steps, @r"
    ensure internal network rf
    flows: ensure Data volume rf-flows-data
    flows: ensure Config volume rf-flows-cfg-mod
    flows: put modules into rf-flows-cfg-mod
    flows: create rf-flows-0
    flows: start rf-flows-0
    ");
}

#[test]
fn edited_modules_are_put_back_at_a_start_unless_they_are_only_to_be_told() {
    for (drift, files, then) in [
        (Drift::Enforce, "files", ""),
        (Drift::Enforce, "edited", "flows: stop rf-flows-0"),
        // They are nobody's to adopt.
        (Drift::Adopt, "edited", "flows: stop rf-flows-0"),
        (Drift::Report, "edited", ""),
    ] {
        let (w, actual) = with_modules(Life::Running, drift);
        assert_eq!(text(&desired([w]), &Memory::default(), &seen(actual, files)), then, "{drift:?} {files}");
    }
    let (w, actual) = with_modules(Life::Down, Drift::Enforce);
    let steps = text(&desired([w]), &Memory::default(), &actual);
    assert_eq!(steps, "flows: put modules into rf-flows-cfg-mod\nflows: start rf-flows-0");
    // Nothing was read yet: nothing is known, and nothing is done.
    let (w, actual) = with_modules(Life::Running, Drift::Enforce);
    assert_eq!(text(&desired([w]), &Memory::default(), &actual), "");
}

#[test]
fn a_volume_of_modules_goes_when_nothing_mounts_it() {
    let (mut w, mut actual) = with_modules(Life::Running, Drift::Enforce);
    shape(&mut w).modules = None;
    let with_it = text(&desired([w.clone()]), &Memory::default(), &actual);
    assert_eq!(with_it, "", "it is still mounted");
    actual.containers[0].volumes.remove("rf-flows-cfg-mod");
    assert_eq!(text(&desired([w]), &Memory::default(), &actual), "flows: remove volume rf-flows-cfg-mod");
}

#[test]
fn a_runtime_that_its_flows_end_starts_without_them() {
    let (w, mut actual) = with_modules(Life::Down, Drift::Enforce);
    actual.safe.insert("id-flows".into());
    let steps = text(&desired([w.clone()]), &Memory::default(), &actual);
    assert!(steps.ends_with("flows: begin the next start in safe mode\nflows: start rf-flows-0"), "{steps}");
    // Not before it has rested.
    actual.resting.insert("id-flows".into());
    assert_eq!(text(&desired([w]), &Memory::default(), &actual), "");
}
