//! Makes roots and issuing authorities and loads them again from their stored form.
use super::{Authority, Kek, PkiError, leaf};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SerialNumber,
};
use redforge_shared::tls::validity_of;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use time::{Duration, OffsetDateTime};
use zeroize::Zeroizing;

/// Life of a root.
const ROOT_LIFE: Duration = Duration::days(20 * 365);
/// Life of an issuing authority; a successor is made at half of it.
const ISSUING_LIFE: Duration = Duration::days(2 * 365);
/// Edge clocks are bad: what was made now is good a little earlier.
pub(super) const BACKDATE: Duration = Duration::minutes(5);

/// An authority as it is stored: its key is sealed.
#[derive(Clone, Debug)]
pub struct SealedAuthority {
    pub certificate: Vec<u8>,
    pub sealed_key: Vec<u8>,
    pub not_before: OffsetDateTime,
    pub not_after: OffsetDateTime,
}

/// A new root.
pub fn make_root(kek: &Kek, now: OffsetDateTime) -> Result<SealedAuthority, PkiError> {
    let key = KeyPair::generate().map_err(PkiError::Make)?;
    let params = ca_params("RedForge Root", 1, now, ROOT_LIFE)?;
    let cert = params.self_signed(&key).map_err(PkiError::Make)?;
    seal(kek, cert.der(), &key, &params)
}

/// A new issuing authority below `root`.
pub fn make_issuing(kek: &Kek, root: &SealedAuthority, now: OffsetDateTime) -> Result<SealedAuthority, PkiError> {
    let key = KeyPair::generate().map_err(PkiError::Make)?;
    let mut params = ca_params("RedForge Issuing", 0, now, ISSUING_LIFE)?;
    params.not_after = params.not_after.min(root.not_after);
    params.use_authority_key_identifier_extension = true;
    let root_cert = CertificateDer::from(root.certificate.clone());
    let issuer = Issuer::from_ca_cert_der(&root_cert, open_key(kek, &root.sealed_key)?).map_err(PkiError::Make)?;
    let cert = params.signed_by(&key, &issuer).map_err(PkiError::Make)?;
    seal(kek, cert.der(), &key, &params)
}

/// Should a successor of this authority be made?
pub fn past_half(authority: &SealedAuthority, now: OffsetDateTime) -> bool {
    now > authority.not_before + (authority.not_after - authority.not_before) / 2
}

/// Opens a stored issuing authority; `roots` are stored certificates, the issuer's own root first.
pub fn load(kek: &Kek, id: i64, issuing: &SealedAuthority, roots: Vec<Vec<u8>>) -> Result<Authority, PkiError> {
    let cert = CertificateDer::from(issuing.certificate.clone());
    let issuer = Issuer::from_ca_cert_der(&cert, open_key(kek, &issuing.sealed_key)?).map_err(PkiError::Make)?;
    let (_, issuing_not_after) = validity_of(&cert).map_err(PkiError::Read)?;
    Ok(Authority {
        issuing_id: id,
        issuing: cert,
        issuing_not_after,
        roots: roots.into_iter().map(CertificateDer::from).collect(),
        issuer,
    })
}

impl Authority {
    pub(super) fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.issuer
    }
}

fn ca_params(name: &str, below: u8, now: OffsetDateTime, life: Duration) -> Result<CertificateParams, PkiError> {
    let mut params = CertificateParams::default();
    let mut dn = DistinguishedName::new();
    // The tail keeps names of successive authorities apart.
    dn.push(DnType::CommonName, format!("{name} {}", hex::encode(&leaf::serial()?[..4])));
    params.distinguished_name = dn;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(below));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = now - BACKDATE;
    params.not_after = now + life;
    params.serial_number = Some(SerialNumber::from_slice(&leaf::serial()?));
    Ok(params)
}

fn seal(
    kek: &Kek,
    cert: &CertificateDer<'_>,
    key: &KeyPair,
    params: &CertificateParams,
) -> Result<SealedAuthority, PkiError> {
    Ok(SealedAuthority {
        certificate: cert.to_vec(),
        sealed_key: kek.seal(&Zeroizing::new(key.serialize_der()))?,
        not_before: params.not_before,
        not_after: params.not_after,
    })
}

fn open_key(kek: &Kek, sealed: &[u8]) -> Result<KeyPair, PkiError> {
    let der = kek.open(sealed)?;
    KeyPair::try_from(&PrivatePkcs8KeyDer::from(der.as_slice())).map_err(PkiError::Make)
}
