//! What the documents say is what the programs do: the reference is not stale, and every example can be applied.
use redforge_shared::{
    flows::Flows,
    manifest::{FlowSource, Manifest, parse},
};
use redforge_tests::place::{binary, command, folder, run, text};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
    time::Duration,
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("below the workspace").to_path_buf()
}

/// Runs the tool that makes the reference.
fn reference(args: &[&str]) -> Output {
    let tool = binary("redforge-reference");
    let mut c = command(&tool);
    run(c.arg("--programs").arg(tool.parent().expect("a folder")).args(args), Duration::from_secs(60))
}

#[test]
fn the_reference_is_what_the_programs_say() {
    let out = reference(&["--check"]);
    assert!(out.status.success(), "{}", text(&out));
    // Negative control: a page of which one letter differs is named.
    let copy = folder();
    let at = copy.path().display().to_string();
    assert!(reference(&["--folder", &at]).status.success());
    let path = copy.path().join("hub-config.md");
    let page = fs::read_to_string(&path).expect("it was written");
    fs::write(&path, page.replacen("agents", "agent", 1)).expect("own folder");
    let out = reference(&["--check", "--folder", &at]);
    assert_eq!(out.status.code(), Some(1), "{}", text(&out));
    assert_eq!(text(&out).matches("stale: ").count(), 1, "{}", text(&out));
    assert!(text(&out).contains("hub-config.md"), "{}", text(&out));
    for key in ["`public_url`", "`hub_rpo_s`", "`embed_url`"] {
        assert!(page.contains(key), "{key} is not described");
    }
    let bare: Vec<&str> = page.lines().filter(|l| l.starts_with("| `") && l.trim_end().ends_with("|  |")).collect();
    assert!(bare.is_empty(), "not described: {bare:?}");
}

fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path, ending));
        } else if path.extension().is_some_and(|e| e == ending) {
            found.push(path);
        }
    }
    found
}

/// A block without what indents all of it, as inside a list.
pub fn plain(block: &str) -> String {
    let indent = if block.lines().all(|l| l.is_empty() || l.starts_with("   ")) { "   " } else { "" };
    block.lines().map(|l| l.strip_prefix(indent).unwrap_or(l).to_owned() + "\n").collect()
}

#[test]
fn every_example_and_every_manifest_in_the_documents_can_be_read() {
    let mut seen = 0;
    for file in files(&root().join("examples"), "yaml") {
        let manifests = parse(&fs::read_to_string(&file).expect("text"));
        for manifest in manifests.unwrap_or_else(|e| panic!("{}: {e:?}", file.display())) {
            if let Manifest::FlowSet(set) = &manifest
                && let FlowSource::Path(path) = &set.spec.flows
            {
                let flows = fs::read(file.parent().expect("a folder").join(path)).expect("the flows lie beside it");
                Flows::parse(&flows).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
            }
            seen += 1;
        }
    }
    for file in files(&root().join("examples/first"), "json") {
        Flows::parse(&fs::read(&file).expect("bytes")).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    }
    for file in files(&root().join("docs"), "md").into_iter().chain([root().join("README.md")]) {
        let page = fs::read_to_string(&file).expect("text");
        for block in page.split("```yaml\n").skip(1).map(|b| b.split("```").next().unwrap_or_default()) {
            let block = plain(block);
            parse(&block).unwrap_or_else(|e| panic!("{}: {e:?}\n{block}", file.display()));
            seen += 1;
        }
        // Every file that a page points at is there.
        for link in page.split("](").skip(1).map(|l| l.split(')').next().unwrap_or_default()) {
            let path = link.split('#').next().unwrap_or_default();
            if path.is_empty() || path.contains("://") {
                continue;
            }
            assert!(file.parent().expect("a folder").join(path).exists(), "{} points at {link}", file.display());
        }
    }
    assert!(seen > 10, "only {seen} manifests were found");
}

/// Where a page's links within the repository lead that is not there.
fn dead_links(page: &Path, text: &str) -> Vec<String> {
    let links = text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link);
    let path = |link: &str| link.split('#').next().unwrap_or_default().to_owned();
    let within = links.filter(|link| !link.contains("://") && !link.starts_with('#')).map(path);
    within.filter(|link| !page.parent().expect("a folder").join(link).exists()).collect()
}

#[test]
fn the_readme_leads_to_every_page_and_no_link_leads_nowhere() {
    let readme = root().join("README.md");
    let front = fs::read_to_string(&readme).expect("text");
    assert_eq!(
        dead_links(&readme, "[a](docs/how-to/nothing.md) [b](Makefile#x) [c](https://a.b/c)"),
        ["docs/how-to/nothing.md"]
    );
    let mut pages = vec![readme];
    pages.extend(files(&root().join("docs"), "md"));
    let dead: Vec<_> = pages
        .iter()
        .flat_map(|page| {
            dead_links(page, &fs::read_to_string(page).expect("text")).into_iter().map(|to| (page.clone(), to))
        })
        .collect();
    assert!(dead.is_empty(), "{dead:#?}");
    for folder in ["docs/how-to", "docs/explanation"] {
        for page in files(&root().join(folder), "md") {
            let link = page.strip_prefix(root()).expect("below it").display().to_string();
            assert!(front.contains(&format!("]({link})")), "the README does not lead to {link}");
        }
    }
}
