//! How agents and tools check a hub: chain and the fixed name, whatever address was dialled, and a clock that may be wrong.
//!
//! Trust is a root certificate, known either by its SPKI pin (before enrollment) or as stored roots. Deliberately absent:
//! the server's side (hub `doors` own their acceptors), issuing (hub `pki`), and who may do what.
use crate::ids::{Digest, InvalidDigest};
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::CryptoProvider,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use std::{fmt, str::FromStr, sync::Arc, time::Duration};
use time::OffsetDateTime;
use x509_parser::prelude::FromDer;

/// The name every hub's server certificate bears.
pub const HUB_NAME: &str = "hub.redforge.internal";

/// SHA-256 of a root certificate's SubjectPublicKeyInfo, written `sha256:<64 hex digits>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CaPin(pub Digest);

impl fmt::Display for CaPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
impl FromStr for CaPin {
    type Err = InvalidDigest;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        s.parse().map(Self)
    }
}

/// What the caller trusts.
#[derive(Clone, Debug)]
pub enum Trust {
    /// The chain that the server sends must hold a root with this pin.
    Pin(CaPin),
    /// One of these roots.
    Roots(Vec<CertificateDer<'static>>),
}

/// The caller's own certificate.
#[derive(Debug)]
pub struct Identity {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
}

/// Why a client configuration cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("a root certificate cannot be used")]
    Root(#[source] rustls::Error),
    #[error("the certificate verifier cannot be built")]
    Verifier(#[source] rustls::client::VerifierBuilderError),
    #[error("the client certificate and its key cannot be used")]
    Identity(#[source] rustls::Error),
    #[error("TLS 1.3 is not available")]
    Version(#[source] rustls::Error),
    #[error("the certificate is not readable X.509")]
    Certificate,
}

/// The pin of a root certificate.
pub fn pin_of(der: &CertificateDer<'_>) -> Result<CaPin, TlsError> {
    let (_, cert) = x509_parser::certificate::X509Certificate::from_der(der).map_err(|_| TlsError::Certificate)?;
    Ok(CaPin(Digest::of(cert.public_key().raw)))
}

/// Who issued a certificate, as it says itself; printable and bounded.
pub fn issuer_of(der: &CertificateDer<'_>) -> Result<String, TlsError> {
    let (_, cert) = x509_parser::certificate::X509Certificate::from_der(der).map_err(|_| TlsError::Certificate)?;
    Ok(crate::report::printable(&cert.issuer().to_string(), 120))
}

/// Begin and end of a certificate's life.
pub fn validity_of(der: &CertificateDer<'_>) -> Result<(OffsetDateTime, OffsetDateTime), TlsError> {
    let (_, cert) = x509_parser::certificate::X509Certificate::from_der(der).map_err(|_| TlsError::Certificate)?;
    let v = cert.validity();
    Ok((v.not_before.to_datetime(), v.not_after.to_datetime()))
}

/// TLS 1.3 towards a hub. `floor` is the latest time the caller can be sure has passed (build date, last hub time): a
/// server certificate must outlive it; the local clock is not asked, so a wrong one locks nobody out.
pub fn client_config(
    trust: Trust,
    identity: Option<Identity>,
    floor: OffsetDateTime,
) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::Version)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(HubVerifier { trust, floor, provider }));
    let mut config = match identity {
        Some(id) => builder.with_client_auth_cert(id.chain, id.key).map_err(TlsError::Identity)?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// The reason that is shown when the pin is not in the chain; callers look for it to give a clear text.
pub const PIN_MISMATCH: &str = "no certificate in the hub's chain matches the CA pin";

#[derive(Debug)]
struct HubVerifier {
    trust: Trust,
    floor: OffsetDateTime,
    provider: Arc<CryptoProvider>,
}

impl HubVerifier {
    fn roots(&self, sent: &[CertificateDer<'_>]) -> Result<RootCertStore, rustls::Error> {
        let mut store = RootCertStore::empty();
        match &self.trust {
            Trust::Roots(roots) => {
                for root in roots {
                    store.add(root.clone())?;
                }
            }
            Trust::Pin(pin) => {
                let root = sent.iter().find(|c| pin_of(c).is_ok_and(|p| p == *pin));
                let root = root.ok_or_else(|| rustls::Error::General(PIN_MISMATCH.into()))?;
                store.add(root.clone().into_owned())?;
            }
        }
        Ok(store)
    }
}

impl ServerCertVerifier for HubVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let bad = || rustls::Error::InvalidCertificate(rustls::CertificateError::BadEncoding);
        let mut at = self.floor;
        for cert in std::iter::once(end_entity).chain(intermediates) {
            let (not_before, _) = validity_of(cert).map_err(|_| bad())?;
            at = at.max(not_before);
        }
        let at = UnixTime::since_unix_epoch(Duration::from_secs(at.unix_timestamp().max(0).unsigned_abs()));
        let store = Arc::new(self.roots(intermediates)?);
        let verifier = WebPkiServerVerifier::builder_with_provider(store, self.provider.clone())
            .build()
            .map_err(|e| rustls::Error::General(e.to_string()))?;
        let name = ServerName::try_from(HUB_NAME).expect("the fixed name is a DNS name");
        verifier.verify_server_cert(end_entity, intermediates, &name, ocsp, at)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not offered".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
