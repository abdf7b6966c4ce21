//! Node modules inside a flow set: tarballs as `npm pack` writes them, checked file by file and unpacked in memory.
//!
//! They come from operators' machines and from the network, and end in a folder that a runtime executes: every path, size
//! and kind of entry is bounded and refused by name. Deliberately absent: npm, and where the files are put.
use crate::ids::Digest;
use flate2::read::GzDecoder;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    io::Read,
};

/// Folder of the tarballs inside a flow set.
pub const FOLDER: &str = "modules/";
/// Most modules of a flow set.
pub const MAX_MODULES: usize = 512;
/// Most files of all modules of a flow set.
pub const MAX_FILES: usize = 20_000;
/// Most bytes of all unpacked modules of a flow set.
pub const MAX_UNPACKED_BYTES: u64 = 64 << 20;
/// Longest path of a file below its module.
const MAX_PATH_BYTES: usize = 240;

/// A module of a flow set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Module {
    /// As in its package.json, such as `node-red-contrib-example` or `@site/nodes`.
    pub name: String,
    pub version: String,
    /// Of the tarball.
    pub digest: Digest,
}

impl Module {
    /// The tarball's name inside the flow set.
    pub fn entry(&self) -> String {
        // `+` stands in no name: no two modules share an entry.
        format!("{FOLDER}{}-{}.tgz", self.name.replace('/', "+"), self.version)
    }
}

/// A file of a module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModuleFile {
    /// Below `node_modules`: the module's name, then the path inside it.
    pub path: String,
    pub bytes: Vec<u8>,
}

/// Why a module is refused.
#[derive(Debug, thiserror::Error)]
pub enum InvalidModule {
    #[error("module '{0}' is not a gzipped tar as `npm pack` writes it: {1}")]
    Tar(String, String),
    #[error("module '{0}', entry '{1}': {2}")]
    Entry(String, String, &'static str),
    #[error("module '{0}': package.json {1}")]
    Package(String, String),
    #[error("the modules have more than {MAX_FILES} files")]
    TooManyFiles,
    #[error("the unpacked modules have more than {MAX_UNPACKED_BYTES} bytes")]
    TooLarge,
    #[error("{0} modules, more than {MAX_MODULES}")]
    TooMany(usize),
    #[error("module '{0}' is there twice")]
    Twice(String),
}

/// What may still be unpacked.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    files: usize,
    bytes: u64,
}

impl Default for Room {
    fn default() -> Self {
        Self { files: MAX_FILES, bytes: MAX_UNPACKED_BYTES }
    }
}

/// Reads one tarball; `shown` is what errors call it. Gives the module and its files, the files in order of their paths.
pub fn read(shown: &str, tgz: &[u8], room: &mut Room) -> Result<(Module, Vec<ModuleFile>), InvalidModule> {
    let broken = |e: std::io::Error| InvalidModule::Tar(shown.to_owned(), e.to_string());
    // One byte more than there is room for tells "too much" from "just enough".
    let mut archive = tar::Archive::new(GzDecoder::new(tgz).take(room.bytes + (room.files as u64 + 2) * 1024));
    let mut files: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for entry in archive.entries().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        let raw = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let bad = |what| InvalidModule::Entry(shown.to_owned(), raw.chars().take(120).collect(), what);
        let kind = entry.header().entry_type();
        if kind.is_dir() || kind == tar::EntryType::XGlobalHeader {
            continue;
        }
        if !kind.is_file() {
            return Err(bad("is not a plain file: links and devices are not taken"));
        }
        let path = inside(&raw).ok_or_else(|| bad("has a path that leaves its folder, or is no plain path"))?;
        if room.files == 0 {
            return Err(InvalidModule::TooManyFiles);
        }
        room.files -= 1;
        let mut bytes = Vec::new();
        entry.by_ref().take(room.bytes + 1).read_to_end(&mut bytes).map_err(broken)?;
        room.bytes = room.bytes.checked_sub(bytes.len() as u64).ok_or(InvalidModule::TooLarge)?;
        if bytes.len() as u64 != entry.size() {
            return Err(InvalidModule::TooLarge);
        }
        if files.insert(path, bytes).is_some() {
            return Err(bad("occurs twice"));
        }
    }
    let (name, version) = package(shown, files.get("package.json"))?;
    let files = files.into_iter().map(|(path, bytes)| ModuleFile { path: format!("{name}/{path}"), bytes });
    Ok((Module { name: name.clone(), version, digest: Digest::of(tgz) }, files.collect()))
}

/// The path without its first folder (`package/`), if it stays inside.
fn inside(raw: &str) -> Option<String> {
    let (_, path) = raw.strip_prefix("./").unwrap_or(raw).split_once('/')?;
    let part_ok = |p: &str| !p.is_empty() && p != "." && p != ".." && p.len() <= 200;
    let plain = path.len() <= MAX_PATH_BYTES && !path.chars().any(|c| c.is_control() || c == '\\');
    (plain && !raw.starts_with('/') && !raw.split('/').any(|p| p == "..") && path.split('/').all(part_ok))
        .then(|| path.to_owned())
}

/// Name and version as package.json has them.
fn package(shown: &str, bytes: Option<&Vec<u8>>) -> Result<(String, String), InvalidModule> {
    #[derive(Deserialize)]
    struct Package {
        name: String,
        version: String,
    }
    let bad = |what: String| InvalidModule::Package(shown.to_owned(), what);
    let bytes = bytes.ok_or_else(|| bad("is missing".into()))?;
    let Package { name, version } =
        serde_json::from_slice(bytes).map_err(|e| bad(format!("is not understood: {e}")))?;
    let word = |s: &str| {
        !s.is_empty()
            && !s.starts_with(['.', '_', '-'])
            && s.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-'))
    };
    let named = match name.strip_prefix('@') {
        Some(scoped) => scoped.split_once('/').is_some_and(|(scope, name)| word(scope) && word(name)),
        None => word(&name),
    };
    if !named || name.len() > 120 || name == "node_modules" {
        return Err(bad(format!(
            "has the name '{}', which is not a module's",
            name.chars().take(60).collect::<String>()
        )));
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '+');
    if version.is_empty() || version.len() > 60 || !version.chars().all(plain) {
        return Err(bad(format!("has the version '{}'", version.chars().take(60).collect::<String>())));
    }
    Ok((name, version))
}

/// Reads all tarballs of a flow set, in the order of their names; each module once.
pub fn read_all<'a>(
    tarballs: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    mut each: impl FnMut(ModuleFile),
) -> Result<Vec<Module>, InvalidModule> {
    let (mut room, mut modules, mut names) = (Room::default(), Vec::new(), BTreeSet::new());
    for (shown, tgz) in tarballs {
        let (module, files) = read(shown, tgz, &mut room)?;
        if !names.insert(module.name.clone()) {
            return Err(InvalidModule::Twice(module.name));
        }
        modules.push(module);
        if modules.len() > MAX_MODULES {
            return Err(InvalidModule::TooMany(modules.len()));
        }
        files.into_iter().for_each(&mut each);
    }
    Ok(modules)
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};
    use std::io::Write as _;

    type Entry<'a> = (&'a str, &'a [u8], tar::EntryType);

    fn tgz(entries: &[Entry<'_>]) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, bytes, kind) in entries {
            let mut header = tar::Header::new_old();
            // The builder would refuse the paths that are to be refused here.
            let name = &mut header.as_old_mut().name;
            name[..path.len()].copy_from_slice(path.as_bytes());
            header.set_entry_type(*kind);
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            header.set_cksum();
            tar.append(&header, *bytes).expect("memory");
        }
        let mut gz = GzEncoder::new(Vec::new(), Compression::default());
        gz.write_all(&tar.into_inner().expect("memory")).expect("memory");
        gz.finish().expect("memory")
    }

    const PACKAGE: Entry<'_> = ("package/package.json", br#"{"name":"a","version":"1.0.0"}"#, tar::EntryType::Regular);

    fn refused(entries: &[Entry<'_>]) -> String {
        read("a.tgz", &tgz(entries), &mut Room::default()).expect_err("must be refused").to_string()
    }

    #[test]
    fn a_tarball_becomes_files_below_the_modules_name() {
        let file: Entry<'_> = ("package/lib/a.js", b"x", tar::EntryType::Regular);
        let (module, files) = read("a.tgz", &tgz(&[file, PACKAGE]), &mut Room::default()).expect("a module");
        assert_eq!((module.name.as_str(), module.entry().as_str()), ("a", "modules/a-1.0.0.tgz"));
        let paths: Vec<_> = files.iter().map(|f| f.path.as_str()).collect();
        assert_eq!(paths, ["a/lib/a.js", "a/package.json"]);
    }

    #[test]
    fn what_would_leave_its_folder_or_is_no_file_is_refused_by_name() {
        for path in [
            "package/../x",
            "../x",
            "/package/x",
            "package//x",
            "package/./x",
            "x",
            "package/a\\b",
            "package/a/../../x",
        ] {
            let said = refused(&[PACKAGE, (path, b"x", tar::EntryType::Regular)]);
            assert!(said.contains("leaves its folder") && said.contains(path), "{path}: {said}");
        }
        for kind in [tar::EntryType::Symlink, tar::EntryType::Link, tar::EntryType::Char, tar::EntryType::Fifo] {
            let said = refused(&[PACKAGE, ("package/x", b"", kind)]);
            assert!(said.contains("not a plain file"), "{kind:?}: {said}");
        }
        assert!(refused(&[PACKAGE, PACKAGE]).contains("occurs twice"));
        assert!(refused(&[]).contains("package.json is missing"));
        for bad in ["..", "A", "a/b", "@a", "@a/../b", "node_modules", "", ".bin", "a b"] {
            let json = serde_json::json!({"name": bad, "version": "1.0.0"}).to_string();
            let said = refused(&[("package/package.json", json.as_bytes(), tar::EntryType::Regular)]);
            assert!(said.contains("has the name"), "{bad}: {said}");
        }
        let said = read("a.tgz", b"not gzip", &mut Room::default()).expect_err("garbage").to_string();
        assert!(said.contains("not a gzipped tar"), "{said}");
    }

    #[test]
    fn what_is_too_much_is_refused_before_it_fills_memory() {
        let file: Entry<'_> = ("package/x", &[0; 4096], tar::EntryType::Regular);
        let all = tgz(&[PACKAGE, file]);
        let with = |files, bytes| read("a.tgz", &all, &mut Room { files, bytes });
        assert!(matches!(with(1, 1 << 20), Err(InvalidModule::TooManyFiles)));
        assert!(matches!(with(2, 4000), Err(InvalidModule::TooLarge)));
        assert!(with(2, 4096 + 30).is_ok());
        // 200 MB of zeros are 200 KB of gzip.
        let mut gz = GzEncoder::new(Vec::new(), Compression::default());
        let mut header = tar::Header::new_ustar();
        header.set_path("package/bomb").expect("a path");
        header.set_size(200 << 20);
        header.set_entry_type(tar::EntryType::Regular);
        header.set_cksum();
        gz.write_all(header.as_bytes()).expect("memory");
        (0..200).for_each(|_| gz.write_all(&vec![0; 1 << 20]).expect("memory"));
        let bomb = gz.finish().expect("memory");
        assert!(matches!(read("bomb.tgz", &bomb, &mut Room::default()), Err(InvalidModule::TooLarge)));
        let twice = [("1.tgz", all.as_slice()), ("2.tgz", all.as_slice())];
        assert!(matches!(read_all(twice, drop), Err(InvalidModule::Twice(_))));
    }
}
