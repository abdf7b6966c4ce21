//! Who this host is: the folder `identity/` with its long-lived keys, its certificate and one pending request.
//!
//! The identity key (Ed25519) and the sealing key (X25519) are made once and never change. A TLS key is made for each
//! certificate; the request for it is kept until its answer is stored, and repeated unchanged, so that a lost reply costs
//! nothing. Files are 0600 in a folder of 0700, written beside and renamed, fsynced with their folder. Deliberately
//! absent: talking to a hub (`enroll` and `link::renew` do).
use aws_lc_rs::{
    agreement,
    encoding::AsBigEndian,
    encoding::Curve25519SeedBin,
    signature::{Ed25519KeyPair, KeyPair as _},
};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use redforge_shared::{
    ids::{Digest, HostId, Name},
    tls,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};
use time::OffsetDateTime;
use zeroize::Zeroizing;

/// A certificate that this build accepts was made to be valid after this moment: the clock's floor before the first hello.
pub const BUILD_FLOOR: OffsetDateTime = time::macros::datetime!(2026-11-01 00:00 UTC);

/// What went wrong with the identity folder.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("{path} cannot be {act}")]
    File {
        act: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} is damaged: {problem}; restore it from a backup, or move the state folder away and enroll again")]
    Damaged { path: PathBuf, problem: String },
    #[error("a key cannot be made")]
    MakeKey,
    #[error("a certificate request cannot be made")]
    Request(#[source] rcgen::Error),
    #[error("the hub's answer cannot be used: {0}")]
    Answer(String),
}

/// Bytes in a JSON file.
#[derive(Clone, PartialEq, Eq)]
struct Blob(Zeroizing<Vec<u8>>);

impl Serialize for Blob {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&BASE64.encode(&*self.0))
    }
}
impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = Zeroizing::new(String::deserialize(d)?);
        let bytes = BASE64.decode(text.as_bytes()).map_err(serde::de::Error::custom)?;
        Ok(Self(Zeroizing::new(bytes)))
    }
}
impl std::fmt::Debug for Blob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// A certificate request that waits for its answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pending {
    csr: Blob,
    key: Blob,
}

impl Pending {
    /// PKCS#10, DER.
    pub fn csr(&self) -> &[u8] {
        &self.csr.0
    }
}

/// What the hub answered to an enrollment or renewal.
#[derive(Clone, Debug)]
pub struct Issued {
    pub certificate: Vec<u8>,
    pub chain: Vec<Vec<u8>>,
    pub roots: Vec<Vec<u8>>,
}

/// A host that is enrolled: everything it needs to dial its hub.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Enrolled {
    pub host_id: HostId,
    pub name: Name,
    pub site: Name,
    /// The hub as it was dialled.
    pub hub_url: String,
    certificate: Blob,
    chain: Vec<Blob>,
    roots: Vec<Blob>,
    key: Blob,
}

impl Enrolled {
    /// Joins a request and its answer. Refused if the certificate does not belong to the request's key.
    pub fn new(
        (host_id, name, site): (HostId, Name, Name),
        hub_url: String,
        pending: &Pending,
        issued: Issued,
    ) -> Result<Self, IdentityError> {
        let bad = |text: String| IdentityError::Answer(text);
        let leaf = CertificateDer::from(issued.certificate.as_slice());
        tls::validity_of(&leaf).map_err(|e| bad(format!("certificate: {e}")))?;
        if issued.roots.is_empty() {
            return Err(bad("it holds no root certificate".into()));
        }
        for root in &issued.roots {
            tls::pin_of(&CertificateDer::from(root.as_slice())).map_err(|e| bad(format!("roots: {e}")))?;
        }
        let blob = |b: Vec<u8>| Blob(Zeroizing::new(b));
        let enrolled = Self {
            host_id,
            name,
            site,
            hub_url,
            certificate: blob(issued.certificate),
            chain: issued.chain.into_iter().map(blob).collect(),
            roots: issued.roots.into_iter().map(blob).collect(),
            key: pending.key.clone(),
        };
        // rustls compares the certificate's public key with the private one.
        enrolled.client_config(BUILD_FLOOR).map_err(|e| bad(redforge_shared::error::Chain(&e).to_string()))?;
        Ok(enrolled)
    }

    /// The same host with its next certificate.
    pub fn renewed(&self, pending: &Pending, issued: Issued) -> Result<Self, IdentityError> {
        Self::new((self.host_id, self.name.clone(), self.site.clone()), self.hub_url.clone(), pending, issued)
    }

    /// TLS towards the hub with this host's certificate. `floor`: see `tls::client_config`.
    pub fn client_config(&self, floor: OffsetDateTime) -> Result<rustls::ClientConfig, tls::TlsError> {
        let der = |b: &Blob| CertificateDer::from(b.0.to_vec());
        let mut chain = vec![der(&self.certificate)];
        chain.extend(self.chain.iter().map(der));
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.0.to_vec()));
        tls::client_config(tls::Trust::Roots(self.roots()), Some(tls::Identity { chain, key }), floor)
    }

    /// The roots that this host trusts.
    pub fn roots(&self) -> Vec<CertificateDer<'static>> {
        self.roots.iter().map(|b| CertificateDer::from(b.0.to_vec())).collect()
    }

    /// Begin and end of the certificate.
    pub fn validity(&self) -> Option<(OffsetDateTime, OffsetDateTime)> {
        tls::validity_of(&CertificateDer::from(self.certificate.0.as_slice())).ok()
    }

    /// Is a root with this pin among those that the host trusts?
    pub fn trusts(&self, pin: tls::CaPin) -> bool {
        self.roots.iter().any(|r| tls::pin_of(&CertificateDer::from(r.0.as_slice())).is_ok_and(|p| p == pin))
    }

    /// Digest of the certificate; changes with each renewal.
    pub fn certificate_digest(&self) -> Digest {
        Digest::of(&self.certificate.0)
    }
}

/// Public halves of the long-lived keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKeys {
    /// Ed25519, 32 bytes.
    pub identity: Vec<u8>,
    /// X25519, 32 bytes.
    pub sealing: Vec<u8>,
}

/// The folder `identity/` of a state folder.
#[derive(Clone, Debug)]
pub struct IdentityDir {
    dir: PathBuf,
}

impl IdentityDir {
    /// Opens the folder, making it where it is missing. Its mode is put back to 0700 if someone widened it.
    pub fn open(state_dir: &Path) -> Result<Self, IdentityError> {
        let dir = state_dir.join("identity");
        let file = |act| move |path: &Path, source| IdentityError::File { act, path: path.to_owned(), source };
        make_dir(state_dir).map_err(|e| file("made")(state_dir, e))?;
        make_dir(&dir).map_err(|e| file("made")(&dir, e))?;
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).map_err(|e| file("closed to others")(&dir, e))?;
        Ok(Self { dir })
    }

    /// The host's long-lived keys, made at the first call.
    pub fn keys(&self) -> Result<PublicKeys, IdentityError> {
        let identity_path = self.dir.join("identity.pk8");
        let identity = self.read_or_make(&identity_path, || {
            let key = Ed25519KeyPair::generate().map_err(|_| IdentityError::MakeKey)?;
            let document = key.to_pkcs8().map_err(|_| IdentityError::MakeKey)?;
            Ok(Zeroizing::new(document.as_ref().to_vec()))
        })?;
        let damaged = |path: &Path| IdentityError::Damaged { path: path.to_owned(), problem: "not a key".into() };
        let identity = Ed25519KeyPair::from_pkcs8(&identity).map_err(|_| damaged(&identity_path))?;
        let sealing_path = self.dir.join("sealing.key");
        let sealing = self.read_or_make(&sealing_path, || {
            let key = agreement::PrivateKey::generate(&agreement::X25519).map_err(|_| IdentityError::MakeKey)?;
            let seed: Curve25519SeedBin<'_> = key.as_be_bytes().map_err(|_| IdentityError::MakeKey)?;
            Ok(Zeroizing::new(seed.as_ref().to_vec()))
        })?;
        let sealing = agreement::PrivateKey::from_private_key(&agreement::X25519, &sealing);
        let sealing = sealing.map_err(|_| damaged(&sealing_path))?.compute_public_key();
        let sealing = sealing.map_err(|_| damaged(&sealing_path))?;
        Ok(PublicKeys { identity: identity.public_key().as_ref().to_vec(), sealing: sealing.as_ref().to_vec() })
    }

    /// The request that waits for its answer, made if there is none.
    pub fn pending(&self) -> Result<Pending, IdentityError> {
        if let Some(pending) = self.read_json(&self.pending_path())? {
            return Ok(pending);
        }
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(IdentityError::Request)?;
        let params = rcgen::CertificateParams::new(Vec::new()).map_err(IdentityError::Request)?;
        let csr = params.serialize_request(&key).map_err(IdentityError::Request)?;
        let pending =
            Pending { csr: Blob(Zeroizing::new(csr.der().to_vec())), key: Blob(Zeroizing::new(key.serialize_der())) };
        self.write_json(&self.pending_path(), &pending)?;
        Ok(pending)
    }

    /// The enrollment, if there is one.
    pub fn enrolled(&self) -> Result<Option<Enrolled>, IdentityError> {
        self.read_json(&self.enrolled_path())
    }

    /// Stores an enrollment or a renewed certificate; the pending request is answered then.
    pub fn store(&self, enrolled: &Enrolled) -> Result<(), IdentityError> {
        self.write_json(&self.enrolled_path(), enrolled)?;
        let path = self.pending_path();
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(IdentityError::File { act: "removed", path, source })
            }
            _ => Ok(()),
        }
    }

    fn pending_path(&self) -> PathBuf {
        self.dir.join("pending.json")
    }

    fn enrolled_path(&self) -> PathBuf {
        self.dir.join("enrolled.json")
    }

    fn read_or_make(
        &self,
        path: &Path,
        make: impl FnOnce() -> Result<Zeroizing<Vec<u8>>, IdentityError>,
    ) -> Result<Zeroizing<Vec<u8>>, IdentityError> {
        if let Some(bytes) = read(path)? {
            return Ok(bytes);
        }
        let bytes = make()?;
        self.write(path, &bytes)?;
        Ok(bytes)
    }

    fn read_json<T: serde::de::DeserializeOwned>(&self, path: &Path) -> Result<Option<T>, IdentityError> {
        let Some(bytes) = read(path)? else { return Ok(None) };
        let parsed = serde_json::from_slice(&bytes);
        parsed.map(Some).map_err(|e| IdentityError::Damaged { path: path.to_owned(), problem: e.to_string() })
    }

    fn write_json(&self, path: &Path, value: &impl Serialize) -> Result<(), IdentityError> {
        let bytes = Zeroizing::new(serde_json::to_vec(value).expect("an identity file holds only text and bytes"));
        self.write(path, &bytes)
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), IdentityError> {
        write_private(&self.dir, path, bytes).map_err(|source| IdentityError::File {
            act: "written",
            path: path.to_owned(),
            source,
        })
    }
}

/// Makes a folder that only its owner may enter, durable in its parent.
fn make_dir(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    dir.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}

fn write_private(dir: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    File::open(dir)?.sync_all()
}

fn read(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, IdentityError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(Zeroizing::new(bytes))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(IdentityError::File { act: "read", path: path.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("it exists").permissions().mode() & 0o777
    }

    #[test]
    fn keys_are_made_once_and_closed_to_others() {
        let state = tempfile::tempdir().expect("a folder");
        let first = IdentityDir::open(state.path()).expect("opened").keys().expect("made");
        let second = IdentityDir::open(state.path()).expect("opened").keys().expect("read");
        assert_eq!(first, second);
        assert_eq!((first.identity.len(), first.sealing.len()), (32, 32));
        let dir = state.path().join("identity");
        assert_eq!(mode(&dir), 0o700);
        assert_eq!(mode(&dir.join("identity.pk8")), 0o600);
        assert_eq!(mode(&dir.join("sealing.key")), 0o600);
    }

    #[test]
    fn a_pending_request_is_repeated_unchanged_until_it_is_answered() {
        let state = tempfile::tempdir().expect("a folder");
        let dir = IdentityDir::open(state.path()).expect("opened");
        let first = dir.pending().expect("made");
        assert_eq!(IdentityDir::open(state.path()).expect("opened").pending().expect("read"), first);
        assert_eq!(mode(&state.path().join("identity/pending.json")), 0o600);

        let enrolled = testing::enrolled(&first);
        dir.store(&enrolled).expect("stored");
        assert_eq!(dir.enrolled().expect("read"), Some(enrolled));
        assert_ne!(dir.pending().expect("made anew").csr(), first.csr(), "the answered request must not be used again");
    }

    #[test]
    fn a_certificate_for_another_key_is_refused() {
        let state = tempfile::tempdir().expect("a folder");
        let dir = IdentityDir::open(state.path()).expect("opened");
        let pending = dir.pending().expect("made");
        let other = rcgen::KeyPair::generate().expect("a key");
        let cert = rcgen::CertificateParams::new(Vec::new()).expect("params").self_signed(&other).expect("signed");
        let issued = Issued { certificate: cert.der().to_vec(), chain: vec![], roots: vec![cert.der().to_vec()] };
        let (id, name) = (HostId(uuid::Uuid::nil()), "a".parse::<Name>().expect("a name"));
        let refused = Enrolled::new((id, name.clone(), name), "https://h:1".into(), &pending, issued);
        assert!(matches!(refused, Err(IdentityError::Answer(_))), "{refused:?}");
    }

    #[test]
    fn a_damaged_file_is_named() {
        let state = tempfile::tempdir().expect("a folder");
        let dir = IdentityDir::open(state.path()).expect("opened");
        fs::write(state.path().join("identity/enrolled.json"), b"\x00garbage").expect("written");
        let error = dir.enrolled().expect_err("damaged").to_string();
        assert!(error.contains("enrolled.json is damaged"), "{error}");
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// An enrollment whose certificate is signed by itself.
    pub(crate) fn enrolled(pending: &Pending) -> Enrolled {
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pending.key.0.to_vec()));
        let key = rcgen::KeyPair::from_der_and_sign_algo(&key, &rcgen::PKCS_ECDSA_P256_SHA256).expect("the key");
        let cert = rcgen::CertificateParams::new(Vec::new()).expect("params").self_signed(&key).expect("signed");
        let issued = Issued { certificate: cert.der().to_vec(), chain: vec![], roots: vec![cert.der().to_vec()] };
        let name: Name = "edge-1".parse().expect("a name");
        let who = (HostId(uuid::Uuid::nil()), name.clone(), name);
        Enrolled::new(who, "https://127.0.0.1:1".into(), pending, issued).expect("consistent")
    }
}
