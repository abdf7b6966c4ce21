//! Flows of a runtime that is down, that gave no answer, or that is to have none.
use super::*;

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
