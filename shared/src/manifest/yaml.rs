//! YAML text to JSON values that remember on which line each path begins.
//!
//! The text is hostile: depth, nodes, aliases and documents are bounded before anything is built. Knows no kinds.
use super::{MAX_DOCUMENTS, ManifestError};
use serde::{Deserialize, Deserializer, de};
use serde_json::{Map, Value};
use serde_saphyr::{DuplicateKeyPolicy, Spanned};
use std::{collections::BTreeMap, fmt};

/// Deepest nesting of lists and mappings: our kinds need 5, inline flows a few more.
const MAX_DEPTH: usize = 32;

/// One document as JSON, and its lines.
pub struct Located {
    pub value: Value,
    lines: BTreeMap<String, u64>,
}

impl Located {
    /// Line of a path, or of the nearest thing above it that is there.
    pub fn line(&self, path: &str) -> u64 {
        let mut path = path;
        loop {
            if let Some(line) = self.lines.get(path) {
                return *line;
            }
            match path.rfind(['.', '[']) {
                Some(cut) => path = &path[..cut],
                None if path.is_empty() => return 0,
                None => path = "",
            }
        }
    }
}

/// Path of a field below `parent`.
pub fn field(parent: &str, key: &str) -> String {
    if parent.is_empty() { key.to_owned() } else { format!("{parent}.{key}") }
}

/// Path of a list's item.
pub fn item(parent: &str, index: usize) -> String {
    format!("{parent}[{index}]")
}

/// Every document of the text that is not empty.
pub fn documents(text: &str) -> Result<Vec<Located>, ManifestError> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: MAX_DEPTH,
            flow_nesting_limit: MAX_DEPTH,
            max_documents: MAX_DOCUMENTS,
            max_nodes: 200_000,
            max_events: 400_000,
            max_aliases: 200,
            max_anchors: 200,
            max_merge_keys: 200,
            max_inclusion_depth: 0,
        },
        duplicate_keys: DuplicateKeyPolicy::Error,
        strict_booleans: true,
        reject_unsupported_tags: true,
    };
    let parsed: Vec<Spanned<Tree>> = serde_saphyr::from_multiple_with_options(text, options).map_err(|e| {
        let line = e.location().map_or(0, |l| l.line());
        let text = e.without_snippet().to_string();
        let problem = text.lines().next().unwrap_or("not readable").chars().take(300).collect();
        ManifestError { doc: 0, path: String::new(), line, problem }
    })?;
    if parsed.is_empty() {
        let problem = "there is no document in the text".into();
        return Err(ManifestError { doc: 0, path: String::new(), line: 0, problem });
    }
    Ok(parsed.into_iter().map(locate).collect())
}

enum Tree {
    Scalar(Value),
    List(Vec<Spanned<Tree>>),
    Mapping(Vec<(Spanned<String>, Spanned<Tree>)>),
}

fn locate(root: Spanned<Tree>) -> Located {
    let mut lines = BTreeMap::from([(String::new(), root.referenced.line())]);
    let value = convert(root.value, "", &mut lines);
    Located { value, lines }
}

fn convert(tree: Tree, path: &str, lines: &mut BTreeMap<String, u64>) -> Value {
    match tree {
        Tree::Scalar(value) => value,
        Tree::List(items) => {
            let located = items.into_iter().enumerate().map(|(index, node)| {
                let path = item(path, index);
                lines.insert(path.clone(), node.referenced.line());
                convert(node.value, &path, lines)
            });
            Value::Array(located.collect())
        }
        Tree::Mapping(entries) => {
            let mut map = Map::new();
            // Fields of inline flow nodes need no lines: their errors name the node.
            let inside_flows = path.starts_with("spec.flows[");
            for (key, node) in entries {
                let path = if inside_flows { path.to_owned() } else { field(path, &key.value) };
                if !inside_flows {
                    lines.insert(path.clone(), key.referenced.line());
                }
                map.insert(key.value, convert(node.value, &path, lines));
            }
            Value::Object(map)
        }
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> de::Visitor<'de> for TreeVisitor {
    type Value = Tree;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("YAML that JSON can hold")
    }
    fn visit_bool<E: de::Error>(self, v: bool) -> Result<Tree, E> {
        Ok(Tree::Scalar(v.into()))
    }
    fn visit_i64<E: de::Error>(self, v: i64) -> Result<Tree, E> {
        Ok(Tree::Scalar(v.into()))
    }
    fn visit_u64<E: de::Error>(self, v: u64) -> Result<Tree, E> {
        Ok(Tree::Scalar(v.into()))
    }
    fn visit_f64<E: de::Error>(self, v: f64) -> Result<Tree, E> {
        let number = serde_json::Number::from_f64(v).ok_or_else(|| E::custom(format!("{v} is not a finite number")))?;
        Ok(Tree::Scalar(Value::Number(number)))
    }
    fn visit_str<E: de::Error>(self, v: &str) -> Result<Tree, E> {
        Ok(Tree::Scalar(v.into()))
    }
    fn visit_unit<E: de::Error>(self) -> Result<Tree, E> {
        Ok(Tree::Scalar(Value::Null))
    }
    fn visit_none<E: de::Error>(self) -> Result<Tree, E> {
        Ok(Tree::Scalar(Value::Null))
    }
    fn visit_some<D: Deserializer<'de>>(self, d: D) -> Result<Tree, D::Error> {
        Tree::deserialize(d)
    }
    fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<Tree, A::Error> {
        let mut items = Vec::new();
        while let Some(node) = list.next_element()? {
            items.push(node);
        }
        Ok(Tree::List(items))
    }
    fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Tree, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Tree::Mapping(entries))
    }
}
