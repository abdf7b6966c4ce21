//! Node-RED flow files and flow sets: parse, strip credentials, hash, pack and unpack.
//!
//! A flow set is a deterministic tar of `flowset.json`, `flows.json` and `modules/*.tgz`; its digest is the SHA-256 of the
//! tar. Flow files come from editors and from the network: everything is bounded and refused by name. Deliberately absent:
//! Node-RED's own `rev` (opaque to us) and talking to a runtime (the agent's `workload/node_red` does).
use crate::ids::Digest;
use modules::{InvalidModule, Module, ModuleFile};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::{
    collections::{BTreeMap, BTreeSet},
    io::Read,
};

pub mod diff;
pub mod merge;
pub mod modules;

/// Largest flow set in bytes.
pub const MAX_FLOW_SET_BYTES: usize = 16 << 20;
/// Most nodes in a flow file.
pub const MAX_NODES: usize = 20_000;

/// A parsed flow file without credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flows {
    nodes: Vec<Map<String, Value>>,
}

/// What stands in `flowset.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlowSetManifest {
    /// Always 1.
    pub schema: u32,
    pub node_count: u32,
    /// Credential fields that were left out, as `name (id): field`.
    pub credential_names: Vec<String>,
    /// Node modules that come with the flows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub modules: Vec<Module>,
}

/// A flow set that was unpacked and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowSet {
    pub manifest: FlowSetManifest,
    pub flows: Flows,
    /// Identity of the flows' content.
    pub hash: Digest,
    /// Files of its modules below `node_modules`, by path.
    pub module_files: BTreeMap<String, Digest>,
}

impl FlowSet {
    /// Identity of the modules' files; none where there is no module.
    pub fn modules_hash(&self) -> Option<Digest> {
        (!self.module_files.is_empty()).then(|| files_hash(&self.module_files))
    }
}

/// Identity of files by path and content.
pub fn files_hash(files: &BTreeMap<String, Digest>) -> Digest {
    Digest::of(&serde_json_canonicalizer::to_vec(files).expect("paths and digests can be written as JSON"))
}

/// Why a flow file or flow set is refused.
#[derive(Debug, thiserror::Error)]
pub enum InvalidFlows {
    #[error("the flow set has {0} bytes, more than {MAX_FLOW_SET_BYTES}")]
    TooLarge(usize),
    #[error("flows.json is not JSON: {0}")]
    Json(String),
    #[error("flows.json is not an array of nodes (an editor export is)")]
    NotAnArray,
    #[error("flows.json has {0} nodes, more than {MAX_NODES}")]
    TooManyNodes(usize),
    #[error("flows.json, node {index}: {problem}")]
    Node { index: usize, problem: String },
    #[error("the flow set is not a readable tar: {0}")]
    Tar(String),
    #[error("the flow set's entry '{0}' is not expected")]
    UnexpectedEntry(String),
    #[error("the flow set lacks '{0}'")]
    MissingEntry(&'static str),
    #[error("flowset.json is not understood: {0}")]
    Manifest(String),
    #[error(transparent)]
    Module(#[from] InvalidModule),
    #[error("flowset.json does not list the module in '{0}' as it is")]
    OtherModule(String),
    #[error("the flow set's digest is {actual}, expected {expected}")]
    DigestMismatch { expected: Digest, actual: Digest },
}

impl Flows {
    /// Reads a flow file or an editor export. Inline `credentials` are taken out; their names come back.
    pub fn parse(bytes: &[u8]) -> Result<(Self, Vec<String>), InvalidFlows> {
        if bytes.len() > MAX_FLOW_SET_BYTES {
            return Err(InvalidFlows::TooLarge(bytes.len()));
        }
        let value: Value = serde_json::from_slice(bytes).map_err(|e| InvalidFlows::Json(e.to_string()))?;
        Self::from_value(value)
    }

    /// The same for JSON that is already parsed.
    pub fn from_value(value: Value) -> Result<(Self, Vec<String>), InvalidFlows> {
        let Value::Array(items) = value else { return Err(InvalidFlows::NotAnArray) };
        if items.len() > MAX_NODES {
            return Err(InvalidFlows::TooManyNodes(items.len()));
        }
        let mut nodes = Vec::with_capacity(items.len());
        let mut ids = BTreeSet::new();
        let mut credential_names = Vec::new();
        for (index, item) in items.into_iter().enumerate() {
            let bad = |problem: &str| InvalidFlows::Node { index, problem: problem.into() };
            let Value::Object(mut node) = item else { return Err(bad("is not an object")) };
            let id =
                node.get("id").and_then(Value::as_str).filter(|s| !s.is_empty()).ok_or_else(|| bad("has no 'id'"))?;
            if node.get("type").and_then(Value::as_str).is_none_or(str::is_empty) {
                return Err(bad("has no 'type'"));
            }
            if !ids.insert(id.to_owned()) {
                return Err(bad(&format!("id '{id}' occurs twice")));
            }
            let label =
                ["name", "label"].iter().find_map(|k| node.get(*k).and_then(Value::as_str)).filter(|s| !s.is_empty());
            let label = format!("{} ({id})", label.unwrap_or_else(|| node["type"].as_str().unwrap_or_default()));
            if let Some(Value::Object(credentials)) = node.remove("credentials") {
                credential_names.extend(credentials.keys().map(|k| format!("{label}: {k}")));
            }
            nodes.push(node);
        }
        Ok((Self { nodes }, credential_names))
    }

    /// The nodes, in file order.
    pub fn nodes(&self) -> &[Map<String, Value>] {
        &self.nodes
    }

    /// Identity of the flows' content: SHA-256 of their RFC 8785 form. Node order counts, key order does not.
    pub fn hash(&self) -> Digest {
        Digest::of(&self.canonical())
    }

    /// RFC 8785 JSON of the node array.
    pub fn canonical(&self) -> Vec<u8> {
        serde_json_canonicalizer::to_vec(&self.nodes).expect("parsed JSON can be written again")
    }

    /// Every node type that a runtime must know: all but the flow file's own words.
    pub fn node_types(&self) -> BTreeSet<String> {
        let own = |t: &str| {
            matches!(t, "tab" | "subflow" | "group" | "junction" | "global-config") || t.starts_with("subflow:")
        };
        self.types().filter(|t| !own(t)).map(str::to_owned).collect()
    }

    /// Modules that an editor of 4.1 or later notes as used by the flows, by name.
    pub fn modules_named(&self) -> BTreeSet<String> {
        let notes = self.nodes.iter().filter(|n| n.get("type").and_then(Value::as_str) == Some("global-config"));
        let named = notes.filter_map(|n| n.get("modules").and_then(Value::as_object));
        named.flat_map(|modules| modules.keys().cloned()).collect()
    }

    fn types(&self) -> impl Iterator<Item = &str> {
        self.nodes.iter().filter_map(|n| n.get("type").and_then(Value::as_str))
    }

    /// Credentials to post beside the flows: every `mqtt-broker` node whose broker is `${REDFORGE_MQTT_HOST}` reads user
    /// and password from the environment that the agent sets.
    pub fn broker_credentials(&self) -> BTreeMap<String, BTreeMap<&'static str, &'static str>> {
        let ours = |n: &&Map<String, Value>| {
            n.get("type").and_then(Value::as_str) == Some("mqtt-broker")
                && n.get("broker").and_then(Value::as_str) == Some("${REDFORGE_MQTT_HOST}")
        };
        let credentials =
            BTreeMap::from([("user", "${REDFORGE_MQTT_USER}"), ("password", "${REDFORGE_MQTT_PASSWORD}")]);
        let id = |n: &Map<String, Value>| n.get("id").and_then(Value::as_str).map(str::to_owned);
        self.nodes.iter().filter(ours).filter_map(id).map(|id| (id, credentials.clone())).collect()
    }
}

/// Packs flows into a flow set: the same flows give the same bytes on every machine.
pub fn pack(flows: &Flows, credential_names: &[String]) -> Vec<u8> {
    write(flows, credential_names, &BTreeMap::new(), vec![])
}

/// Packs flows with the modules that they need, as tarballs of `npm pack` by what errors call them.
pub fn pack_with(
    flows: &Flows,
    credential_names: &[String],
    tarballs: &[(String, Vec<u8>)],
) -> Result<Vec<u8>, InvalidFlows> {
    let listed = modules::read_all(tarballs.iter().map(|(n, b)| (n.as_str(), b.as_slice())), drop)?;
    let entries = listed.iter().zip(tarballs).map(|(m, (_, tgz))| (m.entry(), tgz.clone())).collect();
    let mut listed = listed;
    listed.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(write(flows, credential_names, &entries, listed))
}

/// The tarballs of a flow set's modules, as [`pack_with`] takes them.
pub fn tarballs(tar: &[u8]) -> Result<Vec<(String, Vec<u8>)>, InvalidFlows> {
    Ok(entries(tar)?.into_iter().filter(|(name, _)| name.starts_with(modules::FOLDER)).collect())
}

/// The same flow set with other flows.
pub fn repack(tar: &[u8], flows: &Flows) -> Result<Vec<u8>, InvalidFlows> {
    let mut entries = entries(tar)?;
    let manifest = manifest(&entries)?;
    entries.retain(|name, _| name.starts_with(modules::FOLDER));
    Ok(write(flows, &manifest.credential_names, &entries, manifest.modules))
}

fn write(
    flows: &Flows,
    credential_names: &[String],
    tarballs: &BTreeMap<String, Vec<u8>>,
    modules: Vec<Module>,
) -> Vec<u8> {
    let manifest = FlowSetManifest {
        schema: 1,
        node_count: flows.nodes.len() as u32,
        credential_names: credential_names.to_vec(),
        modules,
    };
    let manifest = serde_json_canonicalizer::to_vec(&manifest).expect("a manifest can be written as JSON");
    let canonical = flows.canonical();
    let mut tar = tar::Builder::new(Vec::new());
    let first = [("flowset.json", &manifest), ("flows.json", &canonical)];
    for (name, bytes) in first.into_iter().chain(tarballs.iter().map(|(n, b)| (n.as_str(), b))) {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(0);
        header.set_cksum();
        tar.append_data(&mut header, name, bytes.as_slice()).expect("writing to memory does not fail");
    }
    tar.into_inner().expect("writing to memory does not fail")
}

/// The flow set without a flow, the same everywhere: what a runtime has when there is nothing that it shall have.
pub fn nothing() -> (Digest, FlowSet) {
    let tar = pack(&Flows { nodes: vec![] }, &[]);
    (Digest::of(&tar), unpack(&tar, None).expect("what was just packed is a flow set"))
}

/// The entries of a flow set's tar, each once and none that is not expected.
pub fn entries(bytes: &[u8]) -> Result<BTreeMap<String, Vec<u8>>, InvalidFlows> {
    let tar_error = |e: std::io::Error| InvalidFlows::Tar(e.to_string());
    let mut entries = BTreeMap::new();
    for entry in tar::Archive::new(bytes).entries().map_err(tar_error)? {
        let mut entry = entry.map_err(tar_error)?;
        let name = entry.path().map_err(tar_error)?.to_string_lossy().into_owned();
        let module = name.strip_prefix(modules::FOLDER).is_some_and(|n| n.ends_with(".tgz") && !n.contains('/'));
        if !module && !matches!(name.as_str(), "flowset.json" | "flows.json") || entries.contains_key(&name) {
            return Err(InvalidFlows::UnexpectedEntry(name.chars().take(80).collect()));
        }
        // Bounded by the archive's own bytes: a sparse or lying header cannot make it longer.
        let mut content = Vec::new();
        entry.by_ref().take(MAX_FLOW_SET_BYTES as u64).read_to_end(&mut content).map_err(tar_error)?;
        entries.insert(name, content);
    }
    Ok(entries)
}

fn manifest(entries: &BTreeMap<String, Vec<u8>>) -> Result<FlowSetManifest, InvalidFlows> {
    let manifest = entries.get("flowset.json").ok_or(InvalidFlows::MissingEntry("flowset.json"))?;
    let manifest: FlowSetManifest =
        serde_json::from_slice(manifest).map_err(|e| InvalidFlows::Manifest(e.to_string()))?;
    if manifest.schema != 1 {
        return Err(InvalidFlows::Manifest(format!("schema {} is not 1", manifest.schema)));
    }
    Ok(manifest)
}

/// Reads the modules of a flow set; they must be those that the manifest lists.
fn read_modules(
    entries: &BTreeMap<String, Vec<u8>>,
    listed: &[Module],
    each: impl FnMut(ModuleFile),
) -> Result<(), InvalidFlows> {
    let tarballs = entries.iter().filter(|(name, _)| name.starts_with(modules::FOLDER));
    let tarballs: Vec<_> = tarballs.map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
    let found = modules::read_all(tarballs.iter().copied(), each)?;
    let other = found.iter().zip(&tarballs).find(|(m, (name, _))| m.entry() != *name || !listed.contains(m));
    if let Some((_, (name, _))) = other {
        return Err(InvalidFlows::OtherModule(name.chars().take(80).collect()));
    }
    match listed.iter().find(|m| !found.contains(m)) {
        Some(missing) => Err(InvalidFlows::OtherModule(missing.entry().chars().take(80).collect())),
        None => Ok(()),
    }
}

/// Reads a flow set, checking its digest when one is expected.
pub fn unpack(bytes: &[u8], expected: Option<Digest>) -> Result<FlowSet, InvalidFlows> {
    if bytes.len() > MAX_FLOW_SET_BYTES {
        return Err(InvalidFlows::TooLarge(bytes.len()));
    }
    if let Some(expected) = expected {
        let actual = Digest::of(bytes);
        if actual != expected {
            return Err(InvalidFlows::DigestMismatch { expected, actual });
        }
    }
    let entries = entries(bytes)?;
    let manifest = manifest(&entries)?;
    let (flows, inline) = Flows::parse(entries.get("flows.json").ok_or(InvalidFlows::MissingEntry("flows.json"))?)?;
    if let Some(first) = inline.first() {
        return Err(InvalidFlows::Manifest(format!("flows.json holds credentials: {first}")));
    }
    let mut module_files = BTreeMap::new();
    let digest = |f: ModuleFile| {
        module_files.insert(f.path, Digest::of(&f.bytes));
    };
    read_modules(&entries, &manifest.modules, digest)?;
    let hash = flows.hash();
    Ok(FlowSet { manifest, flows, hash, module_files })
}

/// The files of a flow set's modules.
pub fn unpack_modules(bytes: &[u8]) -> Result<Vec<ModuleFile>, InvalidFlows> {
    let entries = entries(bytes)?;
    let manifest = manifest(&entries)?;
    let mut files = Vec::new();
    read_modules(&entries, &manifest.modules, |f| files.push(f))?;
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn export() -> &'static [u8] {
        br#"[{"type":"tab","id":"t1","label":"Flow 1"},
            {"id":"b1","type":"mqtt-broker","name":"site","broker":"${REDFORGE_MQTT_HOST}","credentials":{"user":"u","password":"p"}},
            {"id":"n1","type":"inject","z":"t1","wires":[[]]}]"#
    }

    #[test]
    fn credentials_stay_out_and_are_named() {
        let (flows, names) = Flows::parse(export()).expect("a plain export");
        assert_eq!(names, ["site (b1): password", "site (b1): user"]);
        assert!(!String::from_utf8_lossy(&flows.canonical()).contains("\"p\""));
        assert_eq!(flows.broker_credentials()["b1"]["password"], "${REDFORGE_MQTT_PASSWORD}");
        assert_eq!(flows.node_types().into_iter().collect::<Vec<_>>(), ["inject", "mqtt-broker"]);
    }

    #[test]
    fn packing_is_deterministic_and_unpacks_to_the_same() {
        let (flows, names) = Flows::parse(export()).expect("a plain export");
        let tar = pack(&flows, &names);
        assert_eq!(tar, pack(&flows, &names));
        let back = unpack(&tar, Some(Digest::of(&tar))).expect("own flow set");
        assert_eq!((back.manifest.node_count, back.hash, back.flows), (3, flows.hash(), flows));
    }

    /// A tarball as `npm pack` makes it, with nothing but its package.json.
    fn module(name: &str, version: &str) -> (String, Vec<u8>) {
        let json = serde_json::json!({"name": name, "version": version}).to_string();
        let mut tar = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default()));
        let mut header = tar::Header::new_ustar();
        header.set_size(json.len() as u64);
        header.set_cksum();
        tar.append_data(&mut header, "package/package.json", json.as_bytes()).expect("memory");
        (format!("{name}.tgz"), tar.into_inner().and_then(flate2::write::GzEncoder::finish).expect("memory"))
    }

    #[test]
    fn a_flow_set_carries_its_modules_and_only_those_that_it_lists() {
        let (flows, _) = Flows::parse(export()).expect("a plain export");
        let modules = [module("node-red-contrib-b", "2.0.0"), module("@site/a", "1.0.0")];
        let tar = pack_with(&flows, &[], &modules).expect("good modules");
        let turned: Vec<_> = modules.iter().rev().cloned().collect();
        assert_eq!(tar, pack_with(&flows, &[], &turned).expect("good modules"), "their order is of no meaning");
        let set = unpack(&tar, None).expect("own flow set");
        let paths: Vec<_> = set.module_files.keys().map(String::as_str).collect();
        assert_eq!(paths, ["@site/a/package.json", "node-red-contrib-b/package.json"]);
        assert!(
            set.modules_hash().is_some() && unpack(&pack(&flows, &[]), None).expect("own").modules_hash().is_none()
        );
        assert_eq!(unpack_modules(&tar).expect("own flow set").len(), 2);

        let (other, _) = Flows::parse(br#"[{"id":"t","type":"tab"}]"#).expect("flows");
        let edited = unpack(&repack(&tar, &other).expect("own flow set"), None).expect("own flow set");
        assert_eq!((&edited.flows, edited.modules_hash()), (&other, set.modules_hash()));

        // A module that is not listed, one that is listed and missing, and one that is another than the listed.
        let entries: BTreeMap<_, _> =
            modules.iter().map(|(_, tgz)| ("modules/x.tgz".to_owned(), tgz.clone())).collect();
        let refused = |tar: Vec<u8>| unpack(&tar, None).expect_err("must be refused").to_string();
        assert!(refused(write(&flows, &[], &entries, vec![])).contains("modules/x.tgz"));
        let listed = set.manifest.modules.clone();
        assert!(refused(write(&flows, &[], &BTreeMap::new(), listed.clone())).contains("does not list"));
        let mut entries = BTreeMap::from([(listed[1].entry(), module("node-red-contrib-b", "2.0.0").1)]);
        entries.insert(listed[0].entry(), module("@site/a", "1.0.1").1);
        assert!(refused(write(&flows, &[], &entries, listed)).contains("does not list"));
        let deeper = BTreeMap::from([("modules/a/x.tgz".to_owned(), vec![])]);
        assert!(refused(write(&flows, &[], &deeper, vec![])).contains("is not expected"));
    }

    #[test]
    fn nothing_is_a_flow_set_too() {
        let (digest, set) = nothing();
        assert_eq!((nothing().0, set.manifest.node_count), (digest, 0));
        assert_eq!(Flows::parse(b"[]").expect("an empty export").0.hash(), set.hash);
    }

    #[test]
    fn hostile_flow_files_are_refused_by_name() {
        let refused = |b: &[u8]| Flows::parse(b).expect_err("must be refused").to_string();
        insta::assert_snapshot!(
            [
                refused(b"\xff\xfe"),
                refused(b"{}"),
                refused(b"[1]"),
                refused(br#"[{"id":"a"}]"#),
                refused(br#"[{"id":"a","type":"tab"},{"id":"a","type":"tab"}]"#),
            ]
            .join("\n"),
            @r"
        flows.json is not JSON: expected value at line 1 column 1
        flows.json is not an array of nodes (an editor export is)
        flows.json, node 0: is not an object
        flows.json, node 0: has no 'type'
        flows.json, node 1: id 'a' occurs twice
        ");
        assert!(matches!(unpack(b"garbage", None), Err(InvalidFlows::Tar(_) | InvalidFlows::MissingEntry(_))));
    }
}
