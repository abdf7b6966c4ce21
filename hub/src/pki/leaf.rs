//! Leaves: one for the doors, one per host and renewal; and what a presented leaf says.
use super::{Authority, PkiError, authority::BACKDATE};
use aws_lc_rs::rand;
use rcgen::{
    CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use redforge_shared::{
    ids::{Digest, HostId},
    tls::HUB_NAME,
};
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use std::time::Duration;
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// Largest certificate request in bytes.
pub const MAX_CSR_BYTES: usize = 4096;

/// The public key of a request that was signed with it. Everything else in the request is ignored.
#[derive(Debug)]
pub struct HostKey {
    key: rcgen::PublicKey,
    /// SHA-256 of the SubjectPublicKeyInfo: what makes a repeat a repeat.
    pub id: Digest,
}

/// A host's certificate.
#[derive(Clone, Debug)]
pub struct HostLeaf {
    pub certificate: CertificateDer<'static>,
    pub serial: Vec<u8>,
    pub not_after: OffsetDateTime,
}

/// The doors' certificate with its key.
#[derive(Debug)]
pub struct ServerLeaf {
    /// Names and addresses beside the fixed one.
    pub names: Vec<String>,
    /// Leaf, issuing authority, root: the root is sent so that an agent can compare it with its pin.
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
    pub not_before: OffsetDateTime,
    pub not_after: OffsetDateTime,
}

/// What a client certificate says. Its chain was verified by the handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Presented {
    pub host: HostId,
    pub serial: Vec<u8>,
    pub not_after: OffsetDateTime,
}

/// 16 random bytes, positive as a DER integer and never shortened.
pub(super) fn serial() -> Result<[u8; 16], PkiError> {
    let mut serial = [0; 16];
    rand::fill(&mut serial).map_err(|_| PkiError::Random)?;
    serial[0] = (serial[0] & 0x7f) | 0x40;
    Ok(serial)
}

/// Reads a PKCS#10 request and checks that it was signed with its own key.
pub fn read_csr(der: &[u8]) -> Result<HostKey, PkiError> {
    if der.len() > MAX_CSR_BYTES {
        return Err(PkiError::Csr("more than 4096 bytes"));
    }
    let csr = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(der))
        .map_err(|_| PkiError::Csr("not a PKCS#10 request signed with its own key"))?;
    let id = Digest::of(&csr.public_key.subject_public_key_info());
    Ok(HostKey { key: csr.public_key, id })
}

pub(super) fn issue_host(
    authority: &Authority,
    host: HostId,
    key: &HostKey,
    now: OffsetDateTime,
    life: Duration,
) -> Result<HostLeaf, PkiError> {
    let uri = format!("redforge://host/{host}").try_into().map_err(PkiError::Make)?;
    let mut params = leaf_params(&host.to_string(), SanType::URI(uri), authority, now, life)?;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let serial = params.serial_number.as_ref().map(SerialNumber::to_bytes).unwrap_or_default();
    let cert = params.signed_by(&key.key, authority.issuer()).map_err(PkiError::Make)?;
    Ok(HostLeaf { certificate: cert.der().clone(), serial, not_after: params.not_after })
}

/// A new certificate for the doors. Agents look for the fixed name; `names` are what browsers dial, addresses or names.
pub fn issue_server(
    authority: &Authority,
    names: &[String],
    now: OffsetDateTime,
    life: Duration,
) -> Result<ServerLeaf, PkiError> {
    let key = KeyPair::generate().map_err(PkiError::Make)?;
    let name = HUB_NAME.try_into().map_err(PkiError::Make)?;
    let mut params = leaf_params(HUB_NAME, SanType::DnsName(name), authority, now, life)?;
    for name in names {
        params.subject_alt_names.push(match name.parse() {
            Ok(ip) => SanType::IpAddress(ip),
            Err(_) => SanType::DnsName(name.as_str().try_into().map_err(PkiError::Make)?),
        });
    }
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let cert = params.signed_by(&key, authority.issuer()).map_err(PkiError::Make)?;
    let mut chain = vec![cert.der().clone(), authority.issuing.clone()];
    chain.extend(authority.roots.first().cloned());
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let names = names_of(cert.der());
    Ok(ServerLeaf { names, chain, key, not_before: params.not_before, not_after: params.not_after })
}

/// The names and addresses of a doors' certificate, without the fixed one.
pub fn names_of(der: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, cert)) = X509Certificate::from_der(der) else { return Vec::new() };
    let Ok(Some(san)) = cert.subject_alternative_name() else { return Vec::new() };
    let name = |n: &GeneralName<'_>| match n {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(ip) => match ip.len() {
            4 => <[u8; 4]>::try_from(*ip).ok().map(|b| std::net::Ipv4Addr::from(b).to_string()),
            _ => <[u8; 16]>::try_from(*ip).ok().map(|b| std::net::Ipv6Addr::from(b).to_string()),
        },
        _ => None,
    };
    san.value.general_names.iter().filter_map(name).filter(|n| n != HUB_NAME).collect()
}

/// Reads the host's id, serial and end out of a client certificate.
pub fn read_presented(der: &CertificateDer<'_>) -> Option<Presented> {
    let (_, cert) = X509Certificate::from_der(der).ok()?;
    let san = cert.subject_alternative_name().ok()??;
    let host = san.value.general_names.iter().find_map(|n| match n {
        GeneralName::URI(uri) => uri.strip_prefix("redforge://host/")?.parse().ok(),
        _ => None,
    })?;
    let serial = cert.raw_serial().to_vec();
    Some(Presented { host, serial, not_after: cert.validity().not_after.to_datetime() })
}

fn leaf_params(
    common_name: &str,
    san: SanType,
    authority: &Authority,
    now: OffsetDateTime,
    life: Duration,
) -> Result<CertificateParams, PkiError> {
    let mut params = CertificateParams::default();
    let mut dn = DistinguishedName::new();
    dn.push(DnType::CommonName, common_name);
    params.distinguished_name = dn;
    params.subject_alt_names = vec![san];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    // Not by more than a small part of its life, so that half of a short life is not over when it begins.
    params.not_before = now - BACKDATE.min(time::Duration::try_from(life / 20).unwrap_or(BACKDATE));
    // Whole seconds, as X.509 writes them: what is stored equals what is presented.
    params.not_after = (now + life).min(authority.issuing_not_after).replace_nanosecond(0).unwrap_or(now);
    params.serial_number = Some(SerialNumber::from_slice(&serial()?));
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::{Kek, authority};
    use redforge_shared::clock::{Clock, SystemClock};
    use rustls_pki_types::UnixTime;

    fn authority_in(dir: &std::path::Path) -> Authority {
        let now = SystemClock.now();
        let kek = Kek::read_or_make(&dir.join("kek")).expect("kek");
        let root = authority::make_root(&kek, now).expect("root");
        let issuing = authority::make_issuing(&kek, &root, now).expect("issuing");
        authority::load(&kek, 1, &issuing, vec![root.certificate]).expect("loaded")
    }

    #[test]
    fn only_the_public_key_of_a_request_is_used() {
        let dir = tempfile::tempdir().expect("dir");
        let authority = authority_in(dir.path());
        let key = KeyPair::generate().expect("key");
        let mut wish = CertificateParams::new(vec!["hub.redforge.internal".into()]).expect("params");
        wish.distinguished_name.push(DnType::CommonName, "admin");
        let csr = wish.serialize_request(&key).expect("csr");
        let host: HostId = "0190f2a0-0000-7000-8000-000000000001".parse().expect("id");
        let host_key = read_csr(csr.der()).expect("read");
        let leaf = issue_host(&authority, host, &host_key, SystemClock.now(), Duration::from_secs(60)).expect("leaf");
        let presented = read_presented(&leaf.certificate).expect("ours");
        assert_eq!(presented, Presented { host, serial: leaf.serial, not_after: leaf.not_after });
        let (_, cert) = X509Certificate::from_der(&leaf.certificate).expect("x509");
        assert_eq!(cert.subject().to_string(), format!("CN={host}"));
    }

    #[test]
    fn half_of_a_short_life_still_lies_ahead() {
        let dir = tempfile::tempdir().expect("dir");
        let authority = authority_in(dir.path());
        for life_s in [60, 600, 7 * 86_400] {
            let now = SystemClock.now();
            let leaf = issue_server(&authority, &[], now, Duration::from_secs(life_s)).expect("leaf");
            let half = leaf.not_before + (leaf.not_after - leaf.not_before) / 2;
            let share = (half - now) / time::Duration::seconds(life_s as i64);
            assert!((0.4..0.55).contains(&share), "{life_s} s: renewal is due after {share} of it");
        }
    }

    #[test]
    fn a_request_signed_with_another_key_is_refused() {
        let key = KeyPair::generate().expect("key");
        let mut der = CertificateParams::default().serialize_request(&key).expect("csr").der().to_vec();
        let last = der.len() - 1;
        der[last] ^= 1;
        assert!(matches!(read_csr(&der), Err(PkiError::Csr(_))));
        assert!(matches!(read_csr(&[0; 5000]), Err(PkiError::Csr(_))));
    }

    #[test]
    fn agents_accept_the_server_chain_by_pin() {
        redforge_shared::daemon::install_crypto();
        let dir = tempfile::tempdir().expect("dir");
        let authority = authority_in(dir.path());
        let leaf = issue_server(
            &authority,
            &["127.0.0.1".into(), "::1".into(), "hub.example".into()],
            SystemClock.now(),
            Duration::from_secs(3600),
        )
        .expect("leaf");
        let pin = redforge_shared::tls::pin_of(&leaf.chain[2]).expect("root is third");
        assert_eq!(pin, redforge_shared::tls::pin_of(&authority.roots[0]).expect("root"));
        let mut store = rustls::RootCertStore::empty();
        store.add(leaf.chain[2].clone()).expect("root");
        let verifier = rustls::client::WebPkiServerVerifier::builder(store.into()).build().expect("verifier");
        assert_eq!(leaf.names, ["127.0.0.1", "::1", "hub.example"], "what browsers dial");
        let name = HUB_NAME.try_into().expect("name");
        rustls::client::danger::ServerCertVerifier::verify_server_cert(
            &*verifier,
            &leaf.chain[0],
            &leaf.chain[1..],
            &name,
            &[],
            UnixTime::now(),
        )
        .expect("the chain verifies");
    }
}
