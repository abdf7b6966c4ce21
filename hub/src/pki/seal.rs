//! The key file (KEK) that all replicas share, and what is sealed under it: AES-256-GCM, a random nonce in front.
use super::PkiError;
use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey},
    rand,
};
use std::{
    fs::OpenOptions,
    io::{ErrorKind, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};
use zeroize::Zeroizing;

/// Binds sealed bytes to their purpose.
const CONTEXT: &[u8] = b"redforge hub authority key v1";

/// The key that seals the authorities' keys.
pub struct Kek {
    path: PathBuf,
    key: RandomizedNonceKey,
}

impl std::fmt::Debug for Kek {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kek").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Kek {
    /// Reads the key file; refuses one that others can read.
    pub fn read(path: &Path) -> Result<Self, PkiError> {
        let bad = |problem: String| PkiError::KeyFile { path: path.display().to_string(), problem };
        let file = OpenOptions::new().read(true).open(path).map_err(|e| bad(e.to_string()))?;
        let meta = file.metadata().map_err(|e| bad(e.to_string()))?;
        if meta.mode() & 0o077 != 0 {
            return Err(bad(format!("its mode is {:03o}, others can read it; 600 is needed", meta.mode() & 0o777)));
        }
        let mut text = Zeroizing::new(String::new());
        file.take(1024).read_to_string(&mut text).map_err(|e| bad(e.to_string()))?;
        let mut key = Zeroizing::new([0_u8; 32]);
        hex::decode_to_slice(text.trim(), &mut *key).map_err(|_| bad("64 hex digits are expected".into()))?;
        let key = RandomizedNonceKey::new(&AES_256_GCM, &*key).map_err(|_| bad("is not a key".into()))?;
        Ok(Self { path: path.to_owned(), key })
    }

    /// Reads the key file or makes it, 0600, if there is none.
    pub fn read_or_make(path: &Path) -> Result<Self, PkiError> {
        let bad = |e: std::io::Error| PkiError::KeyFile { path: path.display().to_string(), problem: e.to_string() };
        let mut key = Zeroizing::new([0_u8; 32]);
        rand::fill(&mut *key).map_err(|_| PkiError::Random)?;
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
            Ok(mut file) => {
                let text = Zeroizing::new(hex::encode(*key));
                file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(bad)?;
                sync_parent(path).map_err(bad)?;
            }
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            Err(e) => return Err(bad(e)),
        }
        Self::read(path)
    }

    pub(super) fn seal(&self, plain: &[u8]) -> Result<Vec<u8>, PkiError> {
        let mut body = plain.to_vec();
        let nonce = self.key.seal_in_place_append_tag(Aad::from(CONTEXT), &mut body).map_err(|_| PkiError::Random)?;
        let mut sealed = nonce.as_ref().to_vec();
        sealed.extend_from_slice(&body);
        Ok(sealed)
    }

    pub(super) fn open(&self, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, PkiError> {
        let wrong = || PkiError::Unseal(self.path.display().to_string());
        let (nonce, body) = sealed.split_at_checked(NONCE_LEN).ok_or_else(wrong)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| wrong())?;
        let mut body = Zeroizing::new(body.to_vec());
        let plain = self.key.open_in_place(nonce, Aad::from(CONTEXT), &mut body).map_err(|_| wrong())?.len();
        body.truncate(plain);
        Ok(body)
    }
}

fn sync_parent(path: &Path) -> std::io::Result<()> {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => std::fs::File::open(dir)?.sync_all(),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_key_file_does_not_open_what_was_sealed() {
        let dir = tempfile::tempdir().expect("a folder");
        let a = Kek::read_or_make(&dir.path().join("a")).expect("a key");
        let b = Kek::read_or_make(&dir.path().join("b")).expect("a key");
        let sealed = a.seal(b"secret").expect("sealed");
        assert_eq!(&**a.open(&sealed).expect("own"), b"secret");
        assert!(matches!(b.open(&sealed), Err(PkiError::Unseal(_))));
        let mut torn = sealed.clone();
        torn[NONCE_LEN] ^= 1;
        assert!(a.open(&torn).is_err());
        assert!(a.open(&sealed[..4]).is_err());
    }

    #[test]
    fn a_key_file_that_others_can_read_is_refused_with_its_mode() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("kek");
        drop(Kek::read_or_make(&path).expect("made"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("chmod");
        let e = Kek::read(&path).expect_err("too open").to_string();
        assert!(e.contains("644") && e.contains("kek"), "{e}");
    }
}
