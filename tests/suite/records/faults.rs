//! Fault points are compiled out of what is shipped; the programs of the stories that aim their kills have them all.
use redforge_tests::place::{binary, fault_binary};
use std::{fs, path::Path};

const POINTS: [(&str, &[&str]); 2] = [
    (
        "redforge-edge",
        &["puback.before", "ingest.before-answer", "upload.before-send", "upload.before-mark", "reconcile.before-step"],
    ),
    ("redforge-hub", &["ack.before"]),
];
/// What crate `fail` reads; it stands in every program that it is compiled into.
const SETTING: &str = "FAILPOINTS";

fn holds(program: &Path, words: &str) -> bool {
    let bytes = fs::read(program).expect("it was built");
    bytes.windows(words.len()).any(|w| w == words.as_bytes())
}

#[test]
fn shipped_programs_hold_no_fault_point_and_the_stories_programs_hold_all() {
    for (name, points) in POINTS {
        let (shipped, faults) = (binary(name), fault_binary(&format!("{name}-faults")));
        for words in points.iter().chain([&SETTING]) {
            assert!(!holds(&shipped, words), "{} holds '{words}'", shipped.display());
            assert!(holds(&faults, words), "{} lacks '{words}': the search finds nothing", faults.display());
        }
    }
}
