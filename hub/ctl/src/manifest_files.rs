//! Manifests from files, folders and standard input: read, checked here with file and line, joined for the hub.
//!
//! The hub gets the documents as they were written. A FlowSet whose flows are a file is taken out: its flows are packed
//! and pushed first, since only this machine can read the file.
use crate::{
    failure::{Exit, Failure, Outcome},
    flow_files::{self, FLOWS_FILE},
    node_modules::{self, Source, Tarball},
};
use redforge_shared::{
    flows,
    ids::{Digest, Name},
    manifest::{self, FlowSource, MAX_MANIFEST_BYTES, Manifest},
};
use std::{
    io::Read as _,
    path::{Path, PathBuf},
};

/// Modules that are part of the images that a host is meant to run.
const IN_IMAGES: [&str; 2] = ["node-red", "node-red-contrib-redforge"];

/// A flow set that is ready to be pushed.
#[derive(Debug)]
pub struct Packed {
    pub name: Name,
    pub tar: Vec<u8>,
    pub digest: Digest,
    pub node_count: usize,
    /// Node types that the runtime must know.
    pub node_types: Vec<String>,
    /// Node modules that come with it, as `name@version`.
    pub modules: Vec<String>,
    /// Those among them that hold compiled code.
    pub modules_compiled: Vec<String>,
    /// Modules that the editor noted as used, and that do not come with it.
    pub modules_elsewhere: Vec<String>,
    /// Credentials that stayed out, by name.
    pub credential_names: Vec<String>,
}

/// Everything that is to be applied.
#[derive(Debug, Default)]
pub struct Manifests {
    pub flow_sets: Vec<Packed>,
    /// Documents for the hub, joined.
    pub text: String,
    /// Instances among them: hosts/{host}/instances/{name}.
    pub instances: Vec<String>,
    /// Every document, as it was understood.
    pub parsed: Vec<Manifest>,
    /// File and first line of every document in `text`, in order.
    documents: Vec<(String, usize)>,
    /// (first line in `text`, lines, where they came from), in order.
    origins: Vec<(usize, usize, String)>,
}

/// Reads, checks and packs. Every error of every file comes back at once.
pub fn read(paths: &[PathBuf]) -> Outcome<Manifests> {
    let mut all = Manifests::default();
    let mut errors = Vec::new();
    for path in paths {
        for (file, text) in texts(path)? {
            all.add(&file, &text, &mut errors);
        }
    }
    if !errors.is_empty() {
        return Err(Failure { exit: Exit::Error, errors, hints: vec!["nothing was changed".into()], example: None });
    }
    Ok(all)
}

impl Manifests {
    fn add(&mut self, file: &Path, text: &str, errors: &mut Vec<String>) {
        let shown = file.display().to_string();
        let parsed = match manifest::parse(text) {
            Ok(parsed) => parsed,
            Err(bad) => {
                let place = |line: u64| if line > 0 { format!("{shown}:{line}: ") } else { format!("{shown}: ") };
                let path = |p: &str| if p.is_empty() { String::new() } else { format!("{p}: ") };
                errors.extend(bad.iter().map(|e| format!("{}{}{}", place(e.line), path(&e.path), e.problem)));
                return;
            }
        };
        let mut taken_out = vec![false; parsed.len()];
        for (taken, manifest) in taken_out.iter_mut().zip(&parsed) {
            match manifest {
                Manifest::FlowSet(f) => {
                    if let FlowSource::Path(path) = &f.spec.flows {
                        *taken = true;
                        let beside = file.parent().unwrap_or(Path::new("")).join(path);
                        match pack(f.name.clone(), &beside, &Source::Beside) {
                            Ok(packed) => self.flow_sets.push(packed),
                            Err(failure) => {
                                let said = failure.errors.into_iter().chain(failure.hints);
                                errors.extend(said.map(|e| format!("{shown}: {e}")));
                            }
                        }
                    }
                }
                Manifest::Instance(_) => self.instances.push(manifest.resource_name()),
                Manifest::Site(_) => {}
            }
        }
        let (kept, first_lines) = blank(text, &taken_out);
        self.documents.extend(first_lines.into_iter().map(|line| (shown.clone(), line)));
        self.parsed.extend(parsed);
        if taken_out.iter().any(|t| !t) {
            if !self.text.is_empty() {
                self.text += "---\n";
            }
            self.origins.push((self.text.lines().count(), kept.lines().count(), shown));
            self.text += &kept;
            if !self.text.ends_with('\n') {
                self.text.push('\n');
            }
        }
    }

    /// Puts file and line of its own in place of `line N` of the joined text.
    pub fn locate(&self, message: &str) -> String {
        let numbered = message.strip_prefix("document ").and_then(|m| m.split_once(", "));
        if let Some((number, rest)) = numbered
            && !rest.starts_with("line ")
            && let Some((file, line)) = number.parse().ok().and_then(|n: usize| self.documents.get(n.wrapping_sub(1)))
        {
            return format!("{file}:{line}: {rest}");
        }
        let Some((before, rest)) = message.split_once("line ") else { return message.into() };
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let Ok(line) = rest[..digits].parse::<usize>() else { return message.into() };
        let origin = self.origins.iter().find(|(first, count, _)| (first + 1..=first + count).contains(&line));
        let Some((first, _, file)) = origin else { return message.into() };
        // `document 3, ` counts the joined documents: file and line say it better.
        let before = before.find("document ").map_or(before, |at| &before[..at]);
        let after = rest[digits..].strip_prefix(", ").map_or_else(|| rest[digits..].to_owned(), |a| format!(": {a}"));
        format!("{before}{file}:{}{after}", line - first)
    }
}

/// Empties the documents that are taken out and keeps every line's number. With the first lines of those that stay.
fn blank(text: &str, taken_out: &[bool]) -> (String, Vec<usize>) {
    let is_content = |l: &str| !l.trim().is_empty() && !l.trim_start().starts_with('#') && !l.starts_with('%');
    let mut document: Option<usize> = None;
    let mut open = false;
    let mut first_lines = Vec::new();
    let mut out = String::with_capacity(text.len());
    for (index, line) in text.lines().enumerate() {
        // `---` at the first column begins a document wherever it stands.
        if line == "---" || line.starts_with("--- ") {
            open = false;
        } else if is_content(line) && !open {
            open = true;
            let this = document.map_or(0, |d| d + 1);
            document = Some(this);
            if !taken_out.get(this).is_some_and(|t| *t) {
                first_lines.push(index + 1);
            }
        }
        let dropped = open && document.and_then(|d| taken_out.get(d)).is_some_and(|t| *t);
        if !dropped {
            out += line;
        }
        out.push('\n');
    }
    (out, first_lines)
}

fn texts(path: &Path) -> Outcome<Vec<(PathBuf, String)>> {
    let bad = |path: &Path, e: std::io::Error| {
        let exit = if e.kind() == std::io::ErrorKind::NotFound { Exit::NotFound } else { Exit::Error };
        Failure::new(exit, format!("{} cannot be read: {e}", path.display()))
    };
    if path == Path::new("-") {
        let mut text = String::new();
        let limit = MAX_MANIFEST_BYTES as u64 + 1;
        std::io::stdin().take(limit).read_to_string(&mut text).map_err(|e| bad(Path::new("standard input"), e))?;
        return Ok(vec![(PathBuf::from("stdin"), text)]);
    }
    let files = if path.is_dir() {
        let entries = std::fs::read_dir(path).map_err(|e| bad(path, e))?;
        let mut files: Vec<PathBuf> = entries.filter_map(|e| Some(e.ok()?.path())).collect();
        files.retain(|f| f.is_file() && f.extension().is_some_and(|e| e == "yaml" || e == "yml"));
        files.sort();
        if files.is_empty() {
            return Err(Failure::error(format!("{} holds no *.yaml or *.yml file", path.display())));
        }
        files
    } else {
        vec![path.to_owned()]
    };
    files
        .into_iter()
        .map(|file| {
            let size = std::fs::metadata(&file).map_err(|e| bad(&file, e))?.len();
            if size > MAX_MANIFEST_BYTES as u64 {
                let text = format!("{} has {size} bytes, more than {MAX_MANIFEST_BYTES}", file.display());
                return Err(Failure::error(text));
            }
            let text = std::fs::read_to_string(&file).map_err(|e| bad(&file, e))?;
            Ok((file, text))
        })
        .collect()
}

/// Reads an editor export, a folder of `flowset pull` or `-`, and packs it; credentials stay out.
pub fn pack(name: Name, path: &Path, modules: &Source) -> Outcome<Packed> {
    let inside = path.join(FLOWS_FILE);
    let path = if path.is_dir() { inside.as_path() } else { path };
    let shown = path.display();
    let limit = flows::MAX_FLOW_SET_BYTES as u64 + 1;
    let mut bytes = Vec::new();
    let read = if path == Path::new("-") {
        std::io::stdin().take(limit).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(path).and_then(|f| f.take(limit).read_to_end(&mut bytes))
    };
    read.map_err(|e| {
        let exit = if e.kind() == std::io::ErrorKind::NotFound { Exit::NotFound } else { Exit::Error };
        Failure::new(exit, format!("{shown} cannot be read: {e}"))
    })?;
    if bytes.len() as u64 == limit {
        return Err(Failure::error(format!("{shown} has more than {} bytes", limit - 1)));
    }
    let refused = |e: flows::InvalidFlows| {
        Failure::error(format!("{shown}: {e}"))
            .hint("export the flows from the editor: menu, Export, all flows, Download")
    };
    let (flows, inline) = flows::Flows::parse(&bytes).map_err(refused)?;
    let credential_names = if inline.is_empty() { flow_files::pulled_credentials(path, &flows) } else { inline };
    let with = with_modules(&flows, &credential_names, &modules.gather(path)?)?;
    Ok(Packed {
        name,
        digest: Digest::of(&with.tar),
        node_count: flows.nodes().len(),
        node_types: flows.node_types().into_iter().collect(),
        modules: with.named,
        modules_compiled: with.compiled,
        modules_elsewhere: with.elsewhere,
        tar: with.tar,
        credential_names,
    })
}

/// A flow set with its modules, and what is to be said of them.
struct With {
    tar: Vec<u8>,
    named: Vec<String>,
    compiled: Vec<String>,
    elsewhere: Vec<String>,
}

fn with_modules(flows: &flows::Flows, credential_names: &[String], tarballs: &[Tarball]) -> Outcome<With> {
    let refused = |e: flows::InvalidFlows| {
        let what = "a module is a .tgz as `npm pack` writes it: package/package.json and plain files";
        Failure::error(e.to_string()).hint(what)
    };
    let tar = flows::pack_with(flows, credential_names, tarballs).map_err(refused)?;
    if tar.len() > flows::MAX_FLOW_SET_BYTES {
        let failure = Failure::error(flows::InvalidFlows::TooLarge(tar.len()).to_string());
        return Err(
            failure.hint("modules that many flow sets need belong into the hosts' image; push with --no-modules then")
        );
    }
    let files = flows::unpack_modules(&tar).map_err(refused)?;
    let modules = flows::unpack(&tar, None).map_err(refused)?.manifest.modules;
    let unmet = node_modules::unmet(&modules, &files);
    if !unmet.is_empty() {
        let hint = "name a folder in which `npm install --omit=dev` has installed everything, or the missing .tgz too";
        return Err(Failure { exit: Exit::Error, errors: unmet, hints: vec![hint.into()], example: None });
    }
    let comes = |name: &String| modules.iter().any(|m| m.name == *name) || IN_IMAGES.contains(&name.as_str());
    Ok(With {
        named: modules.iter().map(|m| format!("{}@{}", m.name, m.version)).collect(),
        compiled: node_modules::compiled(&files).into_iter().collect(),
        elsewhere: flows.modules_named().into_iter().filter(|n| !comes(n)).collect(),
        tar,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SITE: &str = "apiVersion: redforge.io/v1\nkind: Site\nmetadata:\n  name: hall\n";
    const FLOWS: &str =
        "apiVersion: redforge.io/v1\nkind: FlowSet\nmetadata:\n  name: intake\nspec:\n  flows: flows.json\n";

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a folder");
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).expect("a file");
        }
        dir
    }

    #[test]
    fn flow_files_are_packed_and_their_documents_stay_here() {
        let flows = r#"[{"id":"a","type":"http request","name":"erp","credentials":{"password":"s3cret"}}]"#;
        let both = format!("# first\n---\n{FLOWS}---\n{SITE}");
        let dir =
            folder(&[("a.yaml", SITE.replace("hall", "yard").as_str()), ("b.yaml", &both), ("flows.json", flows)]);
        let all = read(&[dir.path().to_owned()]).expect("good manifests");
        assert_eq!(all.flow_sets.len(), 1);
        assert_eq!(all.flow_sets[0].credential_names, ["erp (a): password"]);
        assert!(!String::from_utf8_lossy(&all.flow_sets[0].tar).contains("s3cret"));
        let kept = manifest::parse(&all.text).expect("still manifests");
        let names: Vec<_> = kept.iter().map(Manifest::resource_name).collect();
        assert_eq!(names, ["sites/yard", "sites/hall"]);
        // a.yaml has 4 lines, then `---`; line 9 of b.yaml is line 14 of the joined text.
        let located = all.locate("document 2, line 14, spec.policy: is not known");
        assert_eq!(located, format!("{}:9: spec.policy: is not known", dir.path().join("b.yaml").display()));
        let located = all.locate("document 2, sites/hall spec: is refused");
        assert_eq!(located, format!("{}:10: sites/hall spec: is refused", dir.path().join("b.yaml").display()));
    }

    #[test]
    fn every_error_has_its_file_path_and_line() {
        let unknown = format!("{SITE}spec:\n  polcy: open\n");
        let dir = folder(&[("a.yaml", &unknown), ("b.yaml", FLOWS), ("c.yaml", "kind: [")]);
        let failure = read(&[dir.path().to_owned()]).expect_err("must be refused");
        let text = failure.text(false).replace(&dir.path().display().to_string(), "DIR");
        insta::assert_snapshot!(text);
    }
}
