//! The page that explains the status words has every word there is, and no other.
use redforge_shared::report::{
    Health, Link, Phase, Reason, Sync,
    preflight::{ChangeStep, Check, Verdict},
};
use std::{collections::BTreeSet, path::Path};

/// Words of the first column below a heading, by heading's first word.
fn explained(page: &str, heading: &str) -> BTreeSet<String> {
    let (mut inside, mut words) = (false, BTreeSet::new());
    for line in page.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            inside = title.starts_with(&format!("{heading}:"));
        } else if inside && let Some(rest) = line.strip_prefix("| `") {
            let cells: Vec<&str> = rest.split(" | ").collect();
            assert!(cells.len() == 3 && cells[1].len() > 1, "{line}");
            let word = cells[0].strip_suffix('`').unwrap_or(cells[0]).to_owned();
            assert!(words.insert(word), "explained twice: {line}");
        }
    }
    words
}

#[test]
fn every_status_word_is_explained_and_none_that_does_not_exist() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/explanation/status-words.md");
    let page = std::fs::read_to_string(path).expect("the page is there");
    let words = |all: &[&'static str]| all.iter().map(|w| (*w).to_owned()).collect::<BTreeSet<_>>();
    macro_rules! compare {
        ($($heading:literal: $word:ident),+ $(,)?) => {
            $(
                let all: Vec<&'static str> = $word::ALL.iter().map(|w| w.as_str()).collect();
                assert_eq!(explained(&page, $heading), words(&all), "{}", $heading);
            )+
        };
    }
    compare!(
        "Link": Link, "Phase": Phase, "Health": Health, "Sync": Sync, "Reason": Reason, "Preflight": Verdict, "Check": Check,
        "ChangeStep": ChangeStep,
    );
    // What the comparison would say of a word that is left out.
    assert_ne!(explained(&page.replace("| `OutOfMemory`", "| OutOfMemory"), "Reason"), explained(&page, "Reason"));
}
