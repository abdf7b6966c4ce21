//! The hub's own certificate authority: a root for 20 years, an issuing authority for 2, leaves for days.
//!
//! Holds what is loaded and makes certificates; where authorities are kept (the store) and when they are renewed
//! (`tasks/keep_certificates`) is decided elsewhere. Nothing but the public key is taken from a request. Part of enroll and
//! renew, and of both doors' TLS.
use arc_swap::ArcSwapOption;
use rcgen::{Issuer, KeyPair};
use redforge_shared::{
    ids::HostId,
    tls::{CaPin, TlsError, pin_of},
};
use rustls_pki_types::CertificateDer;
use std::{sync::Arc, time::Duration};
use time::OffsetDateTime;

pub mod authority;
pub mod leaf;
pub mod seal;
pub mod server_tls;

pub use seal::Kek;

/// What went wrong with keys or certificates.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error("making a certificate failed")]
    Make(#[source] rcgen::Error),
    #[error("drawing random bytes failed")]
    Random,
    #[error("a stored certificate cannot be read")]
    Read(#[source] TlsError),
    #[error("the stored issuing key does not open with the key file {0}: it belongs to another hub")]
    Unseal(String),
    #[error("the key file {path}: {problem}")]
    KeyFile { path: String, problem: String },
    #[error("TLS cannot be set up")]
    Tls(#[source] rustls::Error),
    #[error("the client certificate verifier cannot be built")]
    Verifier(#[source] rustls::server::VerifierBuilderError),
    #[error("there is no certificate authority yet")]
    NotReady,
    #[error("csr: {0}")]
    Csr(&'static str),
}

/// How long certificates live.
#[derive(Clone, Copy, Debug)]
pub struct Lifetimes {
    pub host: Duration,
    pub server: Duration,
}

/// The issuing authority in use, and every root that hosts trust.
pub struct Authority {
    /// Row of the issuing certificate.
    pub issuing_id: i64,
    pub issuing: CertificateDer<'static>,
    pub issuing_not_after: OffsetDateTime,
    /// Root that signed the issuing certificate first.
    pub roots: Vec<CertificateDer<'static>>,
    issuer: Issuer<'static, KeyPair>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("issuing_id", &self.issuing_id).finish_non_exhaustive()
    }
}

/// The authority as the whole process sees it; empty until it was loaded.
#[derive(Clone, Debug)]
pub struct Pki {
    current: Arc<ArcSwapOption<Authority>>,
    pub lifetimes: Lifetimes,
}

impl Pki {
    /// Nothing loaded yet.
    pub fn new(lifetimes: Lifetimes) -> Self {
        Self { current: Arc::new(ArcSwapOption::empty()), lifetimes }
    }

    /// Puts an authority in use.
    pub fn set(&self, authority: Authority) {
        self.current.store(Some(Arc::new(authority)));
    }

    /// The authority in use.
    pub fn current(&self) -> Result<Arc<Authority>, PkiError> {
        self.current.load_full().ok_or(PkiError::NotReady)
    }

    /// What agents pin: the SPKI of the root.
    pub fn ca_pin(&self) -> Result<CaPin, PkiError> {
        let authority = self.current()?;
        pin_of(authority.roots.first().ok_or(PkiError::NotReady)?).map_err(PkiError::Read)
    }

    /// A host's leaf for the key of `csr`.
    pub fn issue_host(
        &self,
        host: HostId,
        csr: &leaf::HostKey,
        now: OffsetDateTime,
    ) -> Result<leaf::HostLeaf, PkiError> {
        leaf::issue_host(&*self.current()?, host, csr, now, self.lifetimes.host)
    }
}
