//! What may stand in a file: names, headers, sizes, SQL text, senders, and nothing from outside the clone.
use super::{
    Breach,
    sources::{Parsed, Source, in_room, module_of},
};

const BANNED_NAMES: &[&str] = &["util", "utils", "helper", "helpers", "common", "misc", "manager", "types"];

/// Files longer than [`MAX_LINES`], each with its reason. There is none.
const LONG_FILES: &[(&str, &str)] = &[];
const MAX_LINES: usize = 500;

/// Rooms that hold the project's SQL. A private cluster's one database is made before there is anything to connect to.
const SQL_ROOMS: &[&str] = &["hub/src/store", "edge-agent/src/db", "hub/src/dev_postgres"];

/// Everything that leaves a host, by the generated client it uses, and the only rooms that may.
const SENDERS: &[(&str, &[&str])] = &[
    // Records: only what the gate released and the outbox stored.
    ("telemetry_client", &["edge-agent/src/link"]),
    // Hello and report: enums, numbers and names of the desired state.
    ("control_client", &["edge-agent/src/link"]),
    // Digests that the desired state names.
    ("artifacts_client", &["edge-agent/src/link"]),
    // Edited flows where edits are adopted: only what the gate released.
    ("drafts_client", &["edge-agent/src/link"]),
    // Enroll and renew: keys, a token, facts.
    ("enrollment_client", &["edge-agent/src/link", "edge-agent/src/enroll"]),
];

/// Rooms that send; each must exist, or it guards nothing.
pub fn rooms_that_send() -> impl Iterator<Item = &'static str> {
    SENDERS.iter().flat_map(|(_, rooms)| *rooms).copied()
}

/// Rules that need no parser.
pub fn check_text(file: &Source, found: &mut Vec<Breach>) {
    let mut add = |rule, line, what: String| found.push(Breach { rule, path: file.path.clone(), line, what });
    // Written in two halves so that this file does not hold what it looks for.
    let founders = concat!("..", "/shared");
    for (index, line) in file.text.lines().enumerate() {
        let in_manifest = file.path.ends_with("Cargo.toml") && line.contains("path = ");
        if line.contains(founders) && !in_manifest {
            add("nothing-outside-the-clone", index + 1, format!("names {founders}"));
        }
    }
    // A dependency by path, or on a package of ours, would make the limits of what they limit.
    if file.path == "tests/bench/limits/Cargo.toml" {
        let dependencies = file.text.lines().enumerate().skip_while(|(_, l)| !l.contains("dependencies"));
        for (index, line) in dependencies.filter(|(_, l)| l.contains("path") || l.contains("redforge")) {
            add("limits-need-nothing-of-ours", index + 1, format!("depends on {line}"));
        }
    }
    if !file.path.ends_with(".rs") {
        return;
    }
    let mut parts = file.path.trim_end_matches(".rs").split('/').peekable();
    while let Some(part) = parts.next() {
        if BANNED_NAMES.contains(&part) {
            add("banned-name", 1, format!("'{part}' says nothing"));
        }
        if part == "mod" && parts.peek().is_none() {
            add("no-mod-rs", 1, "name the file after its room".into());
        }
    }
    let first = file.text.lines().next().unwrap_or_default();
    if !first.starts_with("//! ") || first.len() < 24 {
        add("file-header", 1, "the first line does not say what the file owns".into());
    }
    let lines = file.text.lines().count();
    if lines > MAX_LINES && !LONG_FILES.iter().any(|(path, _)| *path == file.path) {
        add("file-length", lines, format!("{lines} lines; above {MAX_LINES} needs a reason in LONG_FILES"));
    }
}

/// Rules about what a Rust file says.
pub fn check_parsed(file: &Source, parsed: &Parsed, found: &mut Vec<Breach>) {
    let mut add = |rule, line, what: String| found.push(Breach { rule, path: file.path.clone(), line, what });
    let product = module_of(&file.path).is_some_and(|(name, _)| name != "redforge_tests");
    if !product {
        return;
    }
    if !SQL_ROOMS.iter().any(|r| in_room(&file.path, r)) {
        for (line, text) in parsed.strings.iter().filter(|(_, t)| is_sql(t)) {
            add("sql-only-in-store", *line, format!("holds SQL: {}", text.chars().take(40).collect::<String>()));
        }
    }
    for (client, rooms) in SENDERS {
        if !file.path.starts_with("edge-agent/") || rooms.iter().any(|r| in_room(&file.path, r)) {
            continue;
        }
        for (line, path) in parsed.paths.iter().filter(|(_, p)| p.split("::").any(|s| s == *client)) {
            add("senders", *line, format!("sends through {path}"));
        }
    }
    if !in_room(&file.path, "edge-agent/src/privacy") {
        for (line, _) in parsed.made.iter().filter(|(_, name)| name == "Released" || name == "ReleasedDraft") {
            add("released-only-by-the-gate", *line, "makes what only the gate releases".into());
        }
    }
}

/// Text that a database would run.
fn is_sql(text: &str) -> bool {
    let text = text.trim_start();
    let upper = text.to_ascii_uppercase();
    let begins = |words: &[&str]| words.iter().any(|w| text.starts_with(w));
    begins(&["PRAGMA ", "VACUUM", "LISTEN ", "NOTIFY ", "BEGIN IMMEDIATE", "BEGIN;", "ATTACH "])
        || text.starts_with("SELECT ")
        || upper.starts_with("SELECT ") && upper.contains(" FROM ") && upper.contains(['*', ',', '$', '='])
        || upper.starts_with("INSERT INTO ")
        || upper.starts_with("DELETE FROM ")
        || upper.starts_with("UPDATE ") && upper.contains(" SET ")
        || ["TABLE ", "INDEX ", "DATABASE ", "ROLE ", "EXTENSION ", "SCHEMA "].iter().any(|what| {
            ["CREATE ", "DROP ", "ALTER ", "CREATE UNIQUE "]
                .iter()
                .any(|verb| text.starts_with(&format!("{verb}{what}")))
        })
        || upper.starts_with("COPY ") && (upper.contains(" FROM STDIN") || upper.contains(" TO STDOUT"))
        || upper.starts_with("WITH ") && upper.contains(" AS (")
}
