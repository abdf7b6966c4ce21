//! From text to checked documents: each is read by its kind, and every error keeps its document, path and line.
use super::{
    API_VERSION, FlowSetManifest, FlowSetSpec, InstanceManifest, InstanceSpec, MAX_ERRORS, MAX_MANIFEST_BYTES,
    Manifest, ManifestError, SiteManifest, SiteSpec, check, yaml,
};
use crate::ids::Name;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Document<M, S> {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    metadata: M,
    spec: S,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Metadata {
    name: Name,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NameOnly {
    name: Name,
}

/// Reads a set of manifests. All errors that can be told apart come back at once, in the order of the text.
pub fn parse(text: &str) -> Result<Vec<Manifest>, Vec<ManifestError>> {
    if text.len() > MAX_MANIFEST_BYTES {
        let problem = format!("the manifests have {} bytes, more than {MAX_MANIFEST_BYTES}", text.len());
        return Err(vec![ManifestError { doc: 0, path: String::new(), line: 0, problem }]);
    }
    let documents = yaml::documents(text).map_err(|e| vec![e])?;
    let mut manifests = Vec::with_capacity(documents.len());
    let mut errors = Vec::new();
    let mut seen = BTreeSet::new();
    for (index, document) in documents.iter().enumerate() {
        let located = |(path, problem): (String, String)| ManifestError {
            doc: index + 1,
            line: document.line(&path),
            path,
            problem: problem.chars().take(400).collect(),
        };
        match one(&document.value) {
            Ok(manifest) => {
                let mut problems = check::problems(&manifest);
                let name = manifest.resource_name();
                if !seen.insert(name.clone()) {
                    problems.push(("metadata.name".into(), format!("{name} occurs twice")));
                }
                errors.extend(problems.into_iter().map(located));
                manifests.push(manifest);
            }
            Err(problem) => errors.push(located(problem)),
        }
    }
    if errors.is_empty() {
        return Ok(manifests);
    }
    errors.sort_by_key(|e| (e.doc, e.line));
    errors.truncate(MAX_ERRORS);
    Err(errors)
}

fn one(value: &Value) -> Result<Manifest, (String, String)> {
    let at = |path: &str, problem: String| (path.to_owned(), problem);
    let Value::Object(top) = value else {
        return Err(at("", "expected a mapping with apiVersion, kind, metadata and spec".into()));
    };
    match top.get("apiVersion").and_then(Value::as_str) {
        Some(API_VERSION) => {}
        Some(other) => return Err(at("apiVersion", format!("'{other}' is not known, expected {API_VERSION}"))),
        None => return Err(at("", format!("apiVersion is missing, expected {API_VERSION}"))),
    }
    match top.get("kind").and_then(Value::as_str) {
        Some("Site") => {
            let mut with_spec = top.clone();
            with_spec.entry("spec").or_insert_with(|| Value::Object(Default::default()));
            let d: Document<Metadata, SiteSpec> = typed(&Value::Object(with_spec))?;
            Ok(Manifest::Site(SiteManifest { name: d.metadata.name, labels: d.metadata.labels, spec: d.spec }))
        }
        Some("FlowSet") => {
            let d: Document<NameOnly, FlowSetSpec> = typed(value)?;
            Ok(Manifest::FlowSet(FlowSetManifest { name: d.metadata.name, spec: d.spec }))
        }
        Some("Instance") => {
            let d: Document<Metadata, InstanceSpec> = typed(value)?;
            Ok(Manifest::Instance(InstanceManifest { name: d.metadata.name, labels: d.metadata.labels, spec: d.spec }))
        }
        Some(other) => Err(at("kind", format!("'{other}' is not known, expected Site, FlowSet or Instance"))),
        None => Err(at("", "kind is missing, expected Site, FlowSet or Instance".into())),
    }
}

fn typed<T: DeserializeOwned>(value: &Value) -> Result<T, (String, String)> {
    serde_path_to_error::deserialize(value).map_err(|e| {
        let mut path = String::new();
        for segment in e.path() {
            path = match segment {
                serde_path_to_error::Segment::Seq { index } => yaml::item(&path, *index),
                serde_path_to_error::Segment::Map { key } => yaml::field(&path, key),
                serde_path_to_error::Segment::Enum { variant } => yaml::field(&path, variant),
                serde_path_to_error::Segment::Unknown => path,
            };
        }
        (path, e.inner().to_string())
    })
}
