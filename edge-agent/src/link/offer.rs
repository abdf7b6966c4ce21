//! Judges a desired state that the hub sent: is it whole, is it ours, does this build understand all of it? Pure.
use redforge_shared::{
    desired::{DesiredState, InvalidDesired, MAX_SPEC_BYTES},
    ids::{Digest, HostId},
    wire::pb,
};

/// Why an offered desired state is not taken over. The host keeps running what it ran.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("spec_sha256: is not 32 bytes")]
    ShaLength,
    #[error("spec: has {0} bytes, more than {MAX_SPEC_BYTES}")]
    TooLarge(usize),
    #[error("spec: does not match spec_sha256")]
    ShaMismatch,
    #[error("spec: is for host {0}, not for this one")]
    OtherHost(HostId),
    #[error("spec.{path}: {problem}")]
    NotUnderstood { path: String, problem: String },
    #[error("raise_only: the hub means other content than this host holds")]
    RaiseOther,
    #[error("generation: is 0")]
    NoGeneration,
}

impl Refusal {
    /// What a report names.
    pub fn name(&self) -> String {
        match self {
            Self::NotUnderstood { path, .. } => path.clone(),
            Self::ShaLength | Self::ShaMismatch => "spec_sha256".into(),
            Self::TooLarge(_) => "spec".into(),
            Self::OtherHost(_) => "host".into(),
            Self::RaiseOther => "raise_only".into(),
            Self::NoGeneration => "generation".into(),
        }
    }
}

/// What to do with a `Desired` message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Offer {
    /// The hub is behind this host: hold what is there.
    HubBehind,
    /// Same content under a higher number.
    Raise { generation: u64 },
    /// A document to commit.
    Take { generation: u64, sha256: Digest },
}

/// Judges a message for `host`, which holds `held`.
pub fn judge(desired: &pb::Desired, host: HostId, held: Option<Digest>) -> Result<Offer, Refusal> {
    if desired.hub_behind {
        return Ok(Offer::HubBehind);
    }
    let sha256 = Digest::try_from(&desired.spec_sha256[..]).map_err(|_| Refusal::ShaLength)?;
    if desired.generation == 0 {
        return Err(Refusal::NoGeneration);
    }
    if desired.raise_only {
        return if held == Some(sha256) {
            Ok(Offer::Raise { generation: desired.generation })
        } else {
            Err(Refusal::RaiseOther)
        };
    }
    if desired.spec.len() > MAX_SPEC_BYTES {
        return Err(Refusal::TooLarge(desired.spec.len()));
    }
    if Digest::of(&desired.spec) != sha256 {
        return Err(Refusal::ShaMismatch);
    }
    let state = DesiredState::parse(&desired.spec).map_err(|e| not_understood(&desired.spec, e))?;
    if state.host != host {
        return Err(Refusal::OtherHost(state.host));
    }
    Ok(Offer::Take { generation: desired.generation, sha256 })
}

fn not_understood(spec: &[u8], error: InvalidDesired) -> Refusal {
    let problem = error.to_string();
    let path = match &error {
        InvalidDesired::Json(text) => position(text).map(|(line, column)| path_at(spec, line, column)),
        InvalidDesired::Schema(_) => Some("schema".into()),
        InvalidDesired::Value { path, .. } => Some(path.clone()),
        InvalidDesired::DuplicateInstance(name) => Some(format!("instances.{name}")),
        InvalidDesired::TooLarge(_) | InvalidDesired::HashMismatch => None,
    };
    let path = path.filter(|p| !p.is_empty()).unwrap_or_else(|| "spec".into());
    Refusal::NotUnderstood { path, problem: problem.chars().take(300).collect() }
}

/// `... at line 1 column 17` of a JSON error.
fn position(text: &str) -> Option<(usize, usize)> {
    let (_, place) = text.rsplit_once(" at line ")?;
    let (line, column) = place.split_once(" column ")?;
    Some((line.parse().ok()?, column.parse().ok()?))
}

/// The path of the value or key that ends at this place of a JSON text, such as `instances[2].workload.flavour`.
fn path_at(json: &[u8], line: usize, column: usize) -> String {
    let line_start = json.split_inclusive(|b| *b == b'\n').take(line.saturating_sub(1)).map(<[u8]>::len).sum::<usize>();
    let end = (line_start + column).min(json.len());
    let mut stack: Vec<Step> = Vec::new();
    let mut at = 0;
    while at < end {
        match json[at] {
            b'{' => stack.push(Step::Key(String::new())),
            b'[' => stack.push(Step::Index(0)),
            // The error may point at the bracket that closes what is at fault: its path is kept then.
            b'}' | b']' if at + 1 < end => drop(stack.pop()),
            b',' => {
                if let Some(Step::Index(n)) = stack.last_mut() {
                    *n += 1;
                }
            }
            b'"' => {
                let (text, next) = string_at(json, at);
                // In an object a string is a key when the value's colon follows.
                if let (Some(Step::Key(key)), Some(b':')) = (stack.last_mut(), json.get(next)) {
                    *key = text;
                }
                at = next;
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    let mut path = String::new();
    for step in &stack {
        match step {
            Step::Key(key) if key.is_empty() => {}
            Step::Key(key) if path.is_empty() => path.push_str(key),
            Step::Key(key) => path.push_str(&format!(".{key}")),
            Step::Index(n) => path.push_str(&format!("[{n}]")),
        }
    }
    path
}

enum Step {
    Key(String),
    Index(usize),
}

/// The string that begins at `at`, and where the text goes on after it and blanks.
fn string_at(json: &[u8], at: usize) -> (String, usize) {
    let mut end = at + 1;
    while end < json.len() && json[end] != b'"' {
        end += if json[end] == b'\\' { 2 } else { 1 };
    }
    let end = end.min(json.len());
    let text = String::from_utf8_lossy(&json[(at + 1).min(end)..end]).chars().take(63).collect();
    let blanks = json[(end + 1).min(json.len())..].iter().take_while(|b| b.is_ascii_whitespace()).count();
    (text, (end + 1 + blanks).min(json.len()).max(at + 1))
}

#[cfg(test)]
mod hostile;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn host() -> HostId {
        "018f0000-0000-7000-8000-000000000001".parse().expect("a host id")
    }

    fn document() -> serde_json::Value {
        json!({
            "schema": 1, "host": host().to_string(), "host_name": "edge-1", "site": "plant", "policy": "open",
            "instances": [
                {"name": "a", "image": "i:1", "workload": {"container": {}}, "resources": {}},
                {"name": "b", "image": "i:1", "workload": {"node-red": {}}, "resources": {}},
            ],
        })
    }

    fn desired(document: &serde_json::Value) -> pb::Desired {
        let spec = serde_json_canonicalizer::to_vec(document).expect("canonical");
        let spec_sha256 = Digest::of(&spec).0.to_vec().into();
        pb::Desired { spec: spec.into(), spec_sha256, generation: 3, ..pb::Desired::default() }
    }

    #[test]
    fn a_whole_document_for_this_host_is_taken() {
        let message = desired(&document());
        let sha256 = Digest::of(&message.spec);
        assert_eq!(judge(&message, host(), None), Ok(Offer::Take { generation: 3, sha256 }));
    }

    #[test]
    fn a_document_that_does_not_match_its_hash_is_refused() {
        let mut message = desired(&document());
        message.spec_sha256 = vec![7; 32].into();
        assert_eq!(judge(&message, host(), None), Err(Refusal::ShaMismatch));
        message.spec_sha256 = vec![7; 31].into();
        assert_eq!(judge(&message, host(), None), Err(Refusal::ShaLength));
    }

    #[test]
    fn another_hosts_document_is_refused() {
        let other = HostId(uuid::Uuid::nil());
        assert_eq!(judge(&desired(&document()), other, None), Err(Refusal::OtherHost(host())));
    }

    #[test]
    fn an_unknown_field_is_named_by_its_path() {
        for (pointer, path) in [
            ("", "flavour"),
            ("/instances/1", "instances[1].flavour"),
            ("/instances/1/workload/node-red", "instances[1].workload.node-red.flavour"),
            ("/instances/0/resources", "instances[0].resources.flavour"),
        ] {
            let mut document = document();
            let target = document.pointer_mut(pointer).and_then(|v| v.as_object_mut()).expect("an object");
            target.insert("flavour".into(), json!({"deep": [1, 2]}));
            let refusal = judge(&desired(&document), host(), None).expect_err(path);
            assert_eq!(refusal.name(), path, "{refusal}");
        }
    }

    #[test]
    fn an_unknown_kind_or_a_bad_value_is_named_by_its_path() {
        let mut unknown = document();
        unknown["instances"][1]["workload"] = json!({"quantum": {}});
        let refusal = judge(&desired(&unknown), host(), None).expect_err("unknown kind");
        assert_eq!(refusal.name(), "instances[1].workload.quantum");
        let mut bad = document();
        bad["instances"][0]["name"] = json!("Not A Name");
        let refusal = judge(&desired(&bad), host(), None).expect_err("bad name");
        assert_eq!(refusal.name(), "instances[0].name");
    }

    #[test]
    fn raising_needs_the_content_that_is_held() {
        let message = pb::Desired { raise_only: true, ..desired(&document()) };
        let held = Digest::of(&message.spec);
        assert_eq!(judge(&message, host(), Some(held)), Ok(Offer::Raise { generation: 3 }));
        assert_eq!(judge(&message, host(), Some(Digest([1; 32]))), Err(Refusal::RaiseOther));
        assert_eq!(judge(&message, host(), None), Err(Refusal::RaiseOther));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_judge_panic(spec in proptest::collection::vec(any::<u8>(), 0..300), text in "\\PC{0,80}") {
            for spec in [spec, text.into_bytes()] {
                let spec_sha256 = Digest::of(&spec).0.to_vec().into();
                let message = pb::Desired { spec: spec.into(), spec_sha256, generation: 1, ..pb::Desired::default() };
                prop_assert!(judge(&message, host(), None).is_err());
            }
        }
    }
}
