//! The walls of the house, enforced: this chapter reads every source of the repository and names each breach.
//!
//! `sources` finds and parses files, `walls` says who may import what, `words` says what may stand in a file. Each rule
//! has a planted breach in `planted`; a rule that no plant can trip does not exist. Deliberately absent: what clippy and
//! the compiler already refuse.
mod planted;
mod sources;
mod walls;
mod words;

use sources::Source;
use std::fmt;

/// One broken rule at one place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Breach {
    rule: &'static str,
    path: String,
    line: usize,
    what: String,
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: [{}] {}", self.path, self.line, self.rule, self.what)
    }
}

/// Every breach in these sources.
fn check(files: &[Source]) -> Vec<Breach> {
    let mut found = Vec::new();
    for file in files {
        words::check_text(file, &mut found);
        if !file.path.ends_with(".rs") || sources::is_test_file(&file.path) {
            continue;
        }
        match sources::parse(file) {
            Ok(parsed) => {
                walls::check(file, &parsed, &mut found);
                words::check_parsed(file, &parsed, &mut found);
            }
            Err(e) => found.push(Breach {
                rule: "parses",
                path: file.path.clone(),
                line: e.span().start().line,
                what: e.to_string(),
            }),
        }
    }
    found.sort();
    found.dedup();
    found
}

#[test]
fn every_room_keeps_to_its_walls() {
    let files = sources::of_repository();
    assert!(files.iter().filter(|f| f.path.ends_with(".rs")).count() > 20, "the repository was not found");
    let found = check(&files);
    let list: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert!(list.is_empty(), "{} breaches:\n{}", list.len(), list.join("\n"));
}

#[test]
fn rooms_named_by_the_walls_exist() {
    // A wall around a room that was renamed guards nothing.
    let files = sources::of_repository();
    let there = |room: &&str| files.iter().any(|f| sources::in_room(&f.path, room));
    let missing: Vec<_> =
        walls::rooms_that_must_exist().chain(words::rooms_that_send()).filter(|r| !there(r)).collect();
    assert!(missing.is_empty(), "no file in {missing:?}");
    let came: Vec<_> = walls::rooms_that_came().filter(there).collect();
    assert!(came.is_empty(), "{came:?} are there by now");
}

/// Tasks of the hub whose file the wiring never names: they are compiled, tested, and never run.
fn not_wired(files: &[Source]) -> Vec<&str> {
    let text = |path: &str| files.iter().find(|f| f.path == path).map_or("", |f| f.text.as_str());
    let wiring = text("hub/src/serve.rs");
    let tasks = files.iter().filter_map(|f| f.path.strip_prefix("hub/src/tasks/")?.strip_suffix(".rs"));
    tasks.filter(|t| !t.contains('/') && !wiring.contains(&format!("{t}::"))).collect()
}

#[test]
fn every_task_of_the_hub_is_wired() {
    let mut files = sources::of_repository();
    assert_eq!(not_wired(&files), Vec::<&str>::new(), "nobody starts these");
    // Negative control: retention was once written, tested and never started.
    let serve = files.iter_mut().find(|f| f.path == "hub/src/serve.rs").expect("the wiring");
    serve.text = serve.text.replace("prune::", "");
    assert_eq!(not_wired(&files), ["prune"]);
}
