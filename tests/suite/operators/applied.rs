//! Every manifest that a reader could copy, from the documents and the examples, is applied to a real hub.
use super::docs::plain;
use redforge_shared::manifest::{FlowSource, Manifest, parse};
use redforge_shared::wire::pb;
use redforge_tests::{agent::TestAgent, ctl::Ctl, hub::TestHub, operator::Operator};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("below the workspace").to_path_buf()
}

fn files(folder: &Path, ending: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            files(&path, ending, found);
        } else if path.extension().is_some_and(|e| e == ending) {
            found.push(path);
        }
    }
}

/// How many manifests each file has, by the words that everyone begins with, wherever they stand: in a block of whatever name, in a
/// command, in a folder that nobody thought of.
fn manifests_of(root: &Path) -> BTreeMap<PathBuf, usize> {
    let mut all = vec![root.join("README.md")];
    for ending in ["md", "yaml", "yml", "sh", "json"] {
        files(&root.join("docs"), ending, &mut all);
        files(&root.join("examples"), ending, &mut all);
    }
    let begins = |l: &&str| l.trim_start_matches([' ', '-', '"', '{']).starts_with("apiVersion");
    let count = |file: &PathBuf| fs::read_to_string(file).expect("text").lines().filter(begins).count();
    all.into_iter().map(|f| (f.clone(), count(&f))).filter(|(_, n)| *n > 0).collect()
}

/// What of `declared` was not applied, and what was applied that nobody declared.
fn left_out(declared: &BTreeMap<PathBuf, usize>, applied: &BTreeMap<PathBuf, usize>) -> Vec<String> {
    let files: BTreeSet<_> = declared.keys().chain(applied.keys()).collect();
    let differs = |f: &&PathBuf| declared.get(*f) != applied.get(*f);
    let tell = |f: &PathBuf| format!("{}: {:?} declared, {:?} applied", f.display(), declared.get(f), applied.get(f));
    files.into_iter().filter(differs).map(tell).collect()
}

/// The YAML blocks of a page.
fn blocks(page: &str) -> Vec<String> {
    page.split("```yaml\n").skip(1).map(|b| plain(b.split("```").next().unwrap_or_default())).collect()
}

/// A hub with the hosts that manifests name.
struct Reader {
    operator: Operator,
    ctl: Ctl,
    hub: TestHub,
    hosts: BTreeMap<String, TestAgent>,
}

impl Reader {
    /// Makes what the manifests name and do not define: hosts, flow sets, files beside them. Says which instances there are.
    async fn prepare(&mut self, folder: &Path, text: &str) -> Result<Vec<String>, String> {
        const FLOWS: &[u8] = br#"[{"id":"t","type":"tab","label":"t"}]"#;
        let mut instances = Vec::new();
        for manifest in parse(text).map_err(|e| format!("{e:?}"))? {
            match &manifest {
                Manifest::Instance(i) => {
                    self.host(i.spec.host.as_str()).await;
                    if let Some(set) = i.spec.flow_set() {
                        self.operator.push_flows(set.as_str(), FLOWS).await.map_err(|s| s.to_string())?;
                    }
                    instances.push(manifest.resource_name());
                }
                Manifest::FlowSet(f) => {
                    if let FlowSource::Path(path) = &f.spec.flows {
                        let beside = folder.join(path);
                        if !beside.exists() && folder.starts_with(self.ctl.dir()) {
                            fs::create_dir_all(beside.parent().expect("a folder")).expect("own folder");
                            fs::write(beside, FLOWS).expect("own folder");
                        }
                    }
                }
                Manifest::Site(_) => {}
            }
        }
        Ok(instances)
    }

    /// Applies a file or a folder of them.
    fn apply(&self, path: &Path) -> Result<(), String> {
        let said = self.ctl.run(&["apply", "-f", &path.display().to_string()]);
        if said.code == 0 { Ok(()) } else { Err(said.err) }
    }

    async fn take_back(&mut self, instances: Vec<String>) {
        for name in instances {
            // The same one may stand on a page twice.
            drop(self.operator.admin.delete_instance(pb::DeleteInstanceRequest { name }).await);
        }
    }

    async fn host(&mut self, name: &str) {
        if !self.hosts.contains_key(name) {
            let mut agent = TestAgent::prepare(name);
            agent.enroll_at(&self.hub).await;
            self.hosts.insert(name.to_owned(), agent);
        }
    }
}

/// What was applied, and what could not be.
#[derive(Default)]
struct Tried {
    applied: BTreeMap<PathBuf, usize>,
    refused: Vec<String>,
}

impl Tried {
    fn note(&mut self, file: &Path, text: &str, done: Result<(), String>) {
        match done.and_then(|()| parse(text).map_err(|e| format!("{e:?}"))) {
            Ok(manifests) => *self.applied.entry(file.to_path_buf()).or_default() += manifests.len(),
            Err(e) => self.refused.push(format!("{}: {e}", file.display())),
        }
    }
}

impl Reader {
    /// Applies a folder of manifests whole, as `apply -f FOLDER` does.
    async fn try_folder(&mut self, folder: &Path, tried: &mut Tried) {
        let (mut all, mut instances, mut read) = (Vec::new(), Vec::new(), Vec::new());
        files(folder, "yaml", &mut all);
        for file in all {
            let text = fs::read_to_string(&file).expect("text");
            match self.prepare(folder, &text).await {
                Ok(more) => instances.extend(more),
                Err(e) => tried.note(&file, &text, Err(e)),
            }
            read.push((file, text));
        }
        let done = if read.is_empty() { Ok(()) } else { self.apply(folder) };
        for (file, text) in read {
            tried.note(&file, &text, done.clone());
        }
        self.take_back(instances).await;
    }

    /// Applies a page's blocks one by one.
    async fn try_page(&mut self, page: &Path, tried: &mut Tried) {
        let mut instances = Vec::new();
        for block in blocks(&fs::read_to_string(page).expect("text")) {
            let file = self.ctl.file("page/manifest.yaml", &block);
            let done = match self.prepare(file.parent().expect("a folder"), &block).await {
                Ok(more) => {
                    instances.extend(more);
                    self.apply(&file)
                }
                Err(e) => Err(e),
            };
            tried.note(page, &block, done);
        }
        self.take_back(instances).await;
    }
}

#[tokio::test]
async fn every_manifest_in_the_documents_and_examples_can_be_applied() {
    let hub = TestHub::start().await;
    let mut operator = hub.operator().await;
    operator.site("plant").await;
    let ctl = Ctl::new(&hub);
    let mut reader = Reader { operator, ctl, hub, hosts: BTreeMap::new() };
    let mut tried = Tried::default();
    for folder in fs::read_dir(root().join("examples")).expect("a folder").flatten().filter(|f| f.path().is_dir()) {
        reader.try_folder(&folder.path(), &mut tried).await;
    }
    let mut pages = vec![root().join("README.md")];
    files(&root().join("docs"), "md", &mut pages);
    for page in pages {
        reader.try_page(&page, &mut tried).await;
    }
    assert!(tried.refused.is_empty(), "{}", tried.refused.join("\n"));
    let declared = manifests_of(&root());
    assert_eq!(left_out(&declared, &tried.applied), Vec::<String>::new());
    assert!(declared.values().sum::<usize>() > 30, "{declared:?}");

    // Negative controls: a page or a folder that is left out is named; so is a manifest that no block has; and a field that
    // nobody knows is refused.
    for file in declared.keys() {
        let mut less = tried.applied.clone();
        less.remove(file);
        let told = left_out(&declared, &less);
        assert!(told.len() == 1 && told[0].contains(&file.display().to_string()), "{told:?}");
    }
    let wrong = "apiVersion: redforge.io/v1\nkind: Site\nmetadata: {name: plant}\nspec: {timezone: UTC}\n";
    for (page, has) in [("docs/shell.md", format!("```sh\n{wrong}```\n")), ("docs/list.md", format!("- {wrong}"))] {
        let page = reader.ctl.file(&format!("other/{page}"), has);
        reader.ctl.file("other/README.md", "");
        reader.ctl.file("other/examples/first/none.yaml", "");
        let here = manifests_of(page.ancestors().nth(2).expect("below other"));
        assert_eq!((here.get(&page), blocks(&fs::read_to_string(&page).expect("text")).len()), (Some(&1), 0));
    }
    let file = reader.ctl.file("page/manifest.yaml", wrong);
    let told = reader.apply(&file).expect_err("it is refused");
    assert!(told.contains("timezone"), "{told}");
}
