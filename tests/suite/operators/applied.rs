//! Every manifest that a reader could copy, from the documents and the examples, is applied to a real hub.
use super::docs::plain;
use redforge_shared::manifest::{FlowSource, Manifest, parse};
use redforge_shared::wire::pb;
use redforge_tests::{agent::TestAgent, ctl::Ctl, hub::TestHub, operator::Operator};
use std::{
    collections::BTreeMap,
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

#[tokio::test]
async fn every_manifest_in_the_documents_and_examples_can_be_applied() {
    let hub = TestHub::start().await;
    let mut operator = hub.operator().await;
    operator.site("plant").await;
    let ctl = Ctl::new(&hub);
    let mut reader = Reader { operator, ctl, hub, hosts: BTreeMap::new() };
    let (mut applied, mut refused) = (0, Vec::new());
    for folder in ["first", "rag", "rag-ollama"].map(|f| root().join("examples").join(f)) {
        let (mut all, mut instances) = (Vec::new(), Vec::new());
        files(&folder, "yaml", &mut all);
        for file in &all {
            let text = fs::read_to_string(file).expect("text");
            match reader.prepare(&folder, &text).await {
                Ok(more) => instances.extend(more),
                Err(e) => refused.push(format!("{}: {e}", file.display())),
            }
        }
        applied += all.len();
        refused.extend(reader.apply(&folder).err().map(|e| format!("{}: {e}", folder.display())));
        reader.take_back(instances).await;
    }
    let mut pages = vec![root().join("README.md")];
    files(&root().join("docs"), "md", &mut pages);
    for page in pages {
        let mut instances = Vec::new();
        for (n, block) in blocks(&fs::read_to_string(&page).expect("text")).into_iter().enumerate() {
            let file = reader.ctl.file("page/manifest.yaml", &block);
            let done = match reader.prepare(file.parent().expect("a folder"), &block).await {
                Ok(more) => {
                    instances.extend(more);
                    reader.apply(&file)
                }
                Err(e) => Err(e),
            };
            applied += 1;
            refused.extend(done.err().map(|e| format!("{}, block {}: {e}", page.display(), n + 1)));
        }
        reader.take_back(instances).await;
    }
    assert!(refused.is_empty(), "{}", refused.join("\n"));
    assert!(applied > 12, "only {applied} manifests were found");
    // Negative control: a field that nobody knows.
    let wrong = "apiVersion: redforge.io/v1\nkind: Site\nmetadata: {name: plant}\nspec: {timezone: UTC}\n";
    let file = reader.ctl.file("page/manifest.yaml", wrong);
    let told = reader.apply(&file).expect_err("it is refused");
    assert!(told.contains("timezone"), "{told}");
}
