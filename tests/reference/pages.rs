//! The reference pages of `docs/reference`, made from what the programs say and from the sources that define their files:
//! help texts from the binaries, settings and manifest kinds from the Rust types with their comments, the wire from proto.
//!
//! Only renders; `main` writes or compares.
use super::{proto, sources};
use std::{collections::BTreeMap, fs, path::Path, process::Command};

/// The banner of every page.
const MADE: &str = "<!-- Made by `make reference` from the programs. Edit the sources, not this page. -->\n\n";

/// Every page by its path below `docs/reference`.
pub fn all(root: &Path, programs: &Path) -> BTreeMap<String, String> {
    let mut pages = BTreeMap::new();
    for program in ["redforgectl", "redforge-hub", "redforge-edge"] {
        pages.insert(format!("{program}.md"), format!("{MADE}# {program}\n\n{}", help(programs, program)));
    }
    pages.extend(manual(programs));
    let source = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
    let hub = sources::settings(&source("hub/src/config/raw.rs"), "Raw", "REDFORGE_HUB__");
    pages.insert(
        "hub-config.md".into(),
        format!("{MADE}# Hub settings\n\nTOML, by `--config FILE`. A key that cannot be used ends the program with 64 before a port opens.\n\n{hub}"),
    );
    let edge = sources::settings(&source("edge-agent/src/config.rs"), "Written", "REDFORGE_EDGE__");
    pages.insert(
        "edge-config.md".into(),
        format!("{MADE}# Edge settings\n\nTOML: `/etc/redforge/edge.toml` and `conf.d` beside it, or `--config FILE`.\n\n{edge}"),
    );
    let kinds = sources::kinds(
        &["manifest.rs", "manifest/probe.rs", "manifest/services.rs", "desired/developer.rs"]
            .map(|f| source(&format!("shared/src/{f}"))),
        &source("shared/src/desired.rs"),
    );
    pages.insert("manifests.md".into(), format!("{MADE}{kinds}"));
    let mut wire = String::new();
    for name in ["admin", "model", "enrollment", "control", "telemetry", "artifacts"] {
        let path = root.join(format!("proto/redforge/v1/{name}.proto"));
        if let Ok(text) = fs::read_to_string(path) {
            wire += &proto::page(name, &text);
        }
    }
    pages.insert("api.md".into(), format!("{MADE}# Wire contract\n\n{wire}"));
    pages
}

/// The manual pages of every program and every verb, as the programs write them.
fn manual(programs: &Path) -> BTreeMap<String, String> {
    let dir = tempfile::tempdir().expect("a folder");
    let at = dir.path().to_str().expect("a plain path");
    for program in ["redforgectl", "redforge-hub", "redforge-edge"] {
        printed(programs, program, &["man", "--dir", at]);
    }
    let entries = fs::read_dir(dir.path()).expect("a folder").flatten();
    let page = |e: fs::DirEntry| {
        (format!("man/{}", e.file_name().display()), fs::read_to_string(e.path()).expect("a page is text"))
    };
    entries.map(page).collect()
}

fn printed(programs: &Path, program: &str, args: &[&str]) -> String {
    // The width of the terminal must not decide about the page.
    let out = Command::new(programs.join(program)).args(args).env_clear().env("COLUMNS", "100").output();
    let out = out.unwrap_or_else(|e| panic!("{program} is not built: {e}"));
    assert!(out.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).expect("help is text")
}

/// The help of a program and of every command below it.
fn help(programs: &Path, program: &str) -> String {
    let mut page = String::new();
    let mut open = vec![Vec::new()];
    while let Some(words) = open.pop() {
        let words: Vec<String> = words;
        let args: Vec<&str> = words.iter().map(String::as_str).chain(["--help"]).collect();
        let text = printed(programs, program, &args);
        if !words.is_empty() {
            page += &format!("## {program} {}\n\n", words.join(" "));
        }
        page +=
            &format!("```text\n{}\n```\n\n", text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n").trim_end());
        let below = text.split("\nCommands:\n").nth(1).unwrap_or_default();
        let names = below.lines().take_while(|l| l.starts_with("  ")).filter(|l| !l.starts_with("   "));
        let names: Vec<&str> = names.filter_map(|l| l.split_whitespace().next()).filter(|n| *n != "help").collect();
        open.extend(names.into_iter().rev().map(|n| [&words[..], &[n.to_owned()]].concat()));
    }
    page
}
