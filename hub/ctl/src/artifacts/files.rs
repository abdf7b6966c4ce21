//! What files hold: an image in a tar of `docker save`, a model in a folder of Ollama's or in a tar of one. Nothing is
//! unpacked: a blob is a place in a file.
use crate::failure::{Exit, Failure, Outcome};
use redforge_shared::{
    artifact::{MAX_MODEL_MANIFEST_BYTES, manifest_path, model_blobs},
    ids::Digest,
};
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
};

/// Most entries of a tar; images have some dozens.
const MAX_ENTRIES: usize = 20_000;
/// Largest `manifest.json` of an image.
const MAX_MANIFEST_BYTES: u64 = 4 << 20;

/// A blob's place.
#[derive(Clone, Debug)]
pub struct Piece {
    pub digest: Digest,
    pub bytes: u64,
    path: PathBuf,
    offset: u64,
}

/// An open blob.
pub struct Reader<'a> {
    piece: &'a Piece,
    file: File,
}

fn unreadable(path: &Path, e: &dyn std::fmt::Display) -> Failure {
    Failure::error(format!("{} cannot be read: {e}", path.display()))
}

impl Piece {
    pub fn open(&self) -> Outcome<Reader<'_>> {
        let file = File::open(&self.path).map_err(|e| unreadable(&self.path, &e))?;
        Ok(Reader { piece: self, file })
    }
}

impl Reader<'_> {
    /// At most `most` bytes from `at` on.
    pub fn read(&mut self, at: u64, most: usize) -> Outcome<Vec<u8>> {
        let piece = self.piece;
        let mut data = vec![0; usize::try_from(piece.bytes.saturating_sub(at)).unwrap_or(most).min(most)];
        let read = self.file.seek(SeekFrom::Start(piece.offset + at)).and_then(|_| self.file.read_exact(&mut data));
        read.map_err(|e| unreadable(&piece.path, &e))?;
        Ok(data)
    }
}

/// An image in a tar.
#[derive(Debug)]
pub struct Image {
    pub tar: Piece,
    pub tar_digest: Digest,
    /// The digest of its configuration, which engines call it by.
    pub id: String,
    pub references: Vec<String>,
}

/// The one image in a tar of `docker save`.
pub fn image(path: &Path) -> Outcome<Image> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Entry {
        config: String,
        #[serde(default)]
        repo_tags: Option<Vec<String>>,
    }
    let tar = Source::open(path)?;
    let Source::Tar { entries, .. } = &tar else {
        return Err(Failure::new(Exit::Usage, format!("{} is a folder, not the tar of an image", path.display())));
    };
    let Some(manifest) = entries.get("manifest.json") else {
        let failure = Failure::error(format!("{} is no tar of `docker save`: it has no manifest.json", path.display()));
        return Err(failure.hint("docker save -o image.tar REFERENCE writes one"));
    };
    let bytes = tar.read("manifest.json", manifest.1, MAX_MANIFEST_BYTES)?;
    let listed: Vec<Entry> = serde_json::from_slice(&bytes).map_err(|e| unreadable(path, &e))?;
    let [one] = &listed[..] else {
        let failure = Failure::error(format!("{} holds {} images", path.display(), listed.len()));
        return Err(failure.hint("save each image into a tar of its own"));
    };
    let Some((_, size)) = entries.get(&one.config) else {
        return Err(Failure::error(format!("{} lacks its image's configuration {}", path.display(), one.config)));
    };
    let id = Digest::of(&tar.read(&one.config, *size, MAX_MANIFEST_BYTES)?).to_string();
    let file = File::open(path).map_err(|e| unreadable(path, &e))?;
    let bytes = file.metadata().map_err(|e| unreadable(path, &e))?.len();
    let tar_digest = Digest::of_reader(file).map_err(|e| unreadable(path, &e))?;
    let tar = Piece { digest: tar_digest, bytes, path: path.to_owned(), offset: 0 };
    Ok(Image { tar, tar_digest, id, references: one.repo_tags.clone().unwrap_or_default() })
}

/// A folder, or a tar of one with the place of each file.
#[derive(Debug)]
pub enum Source {
    Folder(PathBuf),
    Tar { path: PathBuf, entries: BTreeMap<String, (u64, u64)> },
}

impl Source {
    pub fn open(path: &Path) -> Outcome<Self> {
        if path.is_dir() {
            return Ok(Self::Folder(path.to_owned()));
        }
        let mut file = File::open(path).map_err(|e| unreadable(path, &e))?;
        let mut magic = [0; 2];
        if file.read_exact(&mut magic).is_ok() && magic == [0x1f, 0x8b] {
            let failure = Failure::error(format!("{} is compressed", path.display()));
            return Err(failure.hint("unpack it first: gunzip FILE"));
        }
        file.seek(SeekFrom::Start(0)).map_err(|e| unreadable(path, &e))?;
        let mut entries = BTreeMap::new();
        let mut archive = tar::Archive::new(file);
        for entry in archive.entries_with_seek().map_err(|e| unreadable(path, &e))? {
            let entry = entry.map_err(|e| unreadable(path, &format!("it is no tar: {e}")))?;
            if entries.len() >= MAX_ENTRIES {
                return Err(Failure::error(format!("{} has more than {MAX_ENTRIES} entries", path.display())));
            }
            let name = String::from_utf8_lossy(&entry.path_bytes()).trim_start_matches("./").to_owned();
            if entry.header().entry_type().is_file() {
                entries.insert(name, (entry.raw_file_position(), entry.size()));
            }
        }
        Ok(Self::Tar { path: path.to_owned(), entries })
    }

    /// The file of this name, which may lie below further folders, as a blob.
    fn find(&self, name: &str) -> Option<(PathBuf, u64, u64)> {
        match self {
            Self::Folder(folder) => ["", "models"].iter().find_map(|below| {
                let path = folder.join(below).join(name);
                let found = std::fs::metadata(&path).ok().filter(std::fs::Metadata::is_file)?;
                Some((path, 0, found.len()))
            }),
            Self::Tar { path, entries } => {
                let tail = format!("/{name}");
                let (_, (offset, size)) = entries.iter().find(|(n, _)| *n == name || n.ends_with(&tail))?;
                Some((path.clone(), *offset, *size))
            }
        }
    }

    fn read(&self, name: &str, size: u64, most: u64) -> Outcome<Vec<u8>> {
        let (path, offset, _) = self.find(name).ok_or_else(|| Failure::error(format!("{name} is not there")))?;
        if size > most {
            return Err(Failure::error(format!("{name} in {} has {size} bytes, more than {most}", path.display())));
        }
        let piece = Piece { digest: Digest::of(b""), bytes: size, path, offset };
        piece.open()?.read(0, usize::try_from(size).unwrap_or(usize::MAX))
    }
}

/// A model's digest, and the places of its blobs: the manifest comes last, so that a push that broke off is not found whole.
pub fn model(model: &str, from: &Source) -> Outcome<(Digest, Vec<Piece>)> {
    let name = manifest_path(model);
    let Some((path, offset, bytes)) = from.find(&name) else {
        let failure = Failure::new(Exit::NotFound, format!("there is no model '{model}': {name} is missing"));
        return Err(failure.hint("`ollama list` shows names and tags; the folder is the one that holds `manifests`"));
    };
    let manifest = from.read(&name, bytes, MAX_MODEL_MANIFEST_BYTES)?;
    let blobs = model_blobs(&manifest).map_err(|e| Failure::error(format!("{name}: {e}")))?;
    let digest = Digest::of(&manifest);
    let mut pieces = vec![];
    for blob in blobs.iter().filter(|b| b.digest != digest) {
        let name = format!("blobs/sha256-{}", blob.digest.hex());
        match from.find(&name) {
            Some((path, offset, bytes)) if bytes == blob.bytes => {
                pieces.push(Piece { digest: blob.digest, bytes, path, offset });
            }
            Some((_, _, bytes)) => {
                return Err(Failure::error(format!("{name} has {bytes} bytes, the manifest says {}", blob.bytes)));
            }
            None => return Err(Failure::error(format!("model '{model}' lacks {name}"))),
        }
    }
    pieces.push(Piece { digest, bytes, path, offset });
    Ok((digest, pieces))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, bytes) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            header.set_cksum();
            tar.append_data(&mut header, name, *bytes).expect("a tar");
        }
        tar.into_inner().expect("a tar")
    }

    fn file(dir: &tempfile::TempDir, name: &str, bytes: &[u8]) -> PathBuf {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().expect("below the folder")).expect("a folder");
        std::fs::write(&path, bytes).expect("a file");
        path
    }

    #[test]
    fn an_image_is_read_out_of_its_tar() {
        let dir = tempfile::tempdir().expect("a folder");
        let manifest = br#"[{"Config":"c.json","RepoTags":["press:1"],"Layers":["l/layer.tar"]}]"#;
        let tar = tar_of(&[("c.json", b"{}"), ("l/layer.tar", b"layer"), ("manifest.json", manifest)]);
        let path = file(&dir, "press.tar", &tar);
        let image = image(&path).expect("an image");
        assert_eq!((image.id, image.references), (Digest::of(b"{}").to_string(), vec!["press:1".to_owned()]));
        assert_eq!((image.tar.bytes, image.tar.digest), (tar.len() as u64, Digest::of(&tar)));
        let mut reader = image.tar.open().expect("opens");
        assert_eq!(reader.read(512, 100).expect("reads"), &tar[512..612]);
        assert!(reader.read(tar.len() as u64, 100).expect("reads").is_empty());
    }

    #[test]
    fn what_is_no_tar_of_one_image_is_refused_with_what_to_do() {
        let dir = tempfile::tempdir().expect("a folder");
        let two = br#"[{"Config":"c"},{"Config":"c"}]"#;
        for (name, bytes, said) in [
            ("a", tar_of(&[("x", b"y")]), "no manifest.json"),
            ("b", tar_of(&[("manifest.json", two)]), "holds 2 images"),
            ("c", vec![0x1f, 0x8b, 8, 0], "is compressed"),
            ("d", vec![7; 600], "is no tar"),
            ("e", tar_of(&[("manifest.json", br#"[{"Config":"gone"}]"#)]), "lacks its image's configuration"),
            ("f", tar_of(&[("manifest.json", b"{")]), "cannot be read"),
        ] {
            let e = image(&file(&dir, name, &bytes)).expect_err(said);
            assert!(e.text(false).contains(said), "{said}: {}", e.text(false));
        }
        assert!(image(Path::new("/nowhere")).is_err() && image(dir.path()).is_err());
    }

    #[test]
    fn a_model_is_found_in_a_folder_and_in_a_tar_of_it() {
        let (config, layer) = (Digest::of(b"{}"), Digest::of(b"weights"));
        let manifest =
            format!(r#"{{"config":{{"digest":"{config}","size":2}},"layers":[{{"digest":"{layer}","size":7}}]}}"#);
        let files = [
            ("models/manifests/registry.ollama.ai/library/m/latest".to_owned(), manifest.as_bytes()),
            (format!("models/blobs/sha256-{}", config.hex()), b"{}"),
            (format!("models/blobs/sha256-{}", layer.hex()), b"weights"),
        ];
        let dir = tempfile::tempdir().expect("a folder");
        for (name, bytes) in &files {
            file(&dir, name, bytes);
        }
        let pairs: Vec<(&str, &[u8])> = files.iter().map(|(n, b)| (n.as_str(), *b)).collect();
        let tar = file(&dir, "m.tar", &tar_of(&pairs));
        for from in [dir.path().to_owned(), dir.path().join("models"), tar] {
            let (digest, pieces) = model("m", &Source::open(&from).expect("opens")).expect("a model");
            assert_eq!(digest, Digest::of(manifest.as_bytes()));
            for piece in &pieces {
                let bytes = piece.open().expect("opens").read(0, 1 << 20).expect("reads");
                assert_eq!(Digest::of(&bytes), piece.digest, "{}", from.display());
            }
            assert_eq!(pieces.iter().map(|p| p.digest).collect::<Vec<_>>(), [config, layer, digest]);
            let e = model("other", &Source::open(&from).expect("opens")).expect_err("unknown");
            assert!(e.text(false).contains("library/other/latest is missing"), "{}", e.text(false));
        }
        std::fs::remove_file(dir.path().join(&files[2].0)).expect("own file");
        let e = model("m", &Source::open(dir.path()).expect("opens")).expect_err("a blob lacks");
        assert!(e.text(false).contains(&layer.hex()), "{}", e.text(false));
    }
}
