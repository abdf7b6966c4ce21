//! TLS of the two doors: TLS 1.3 only, swapped while connections live, and kept in a file for a start without database.
use super::{Authority, PkiError, leaf::ServerLeaf};
use arc_swap::ArcSwapOption;
use rustls::{RootCertStore, ServerConfig, server::WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use std::{fmt::Write as _, fs, io::Write, os::unix::fs::OpenOptionsExt, path::Path, sync::Arc};

/// What both doors' acceptors ask for each handshake; empty until a certificate is there.
#[derive(Debug, Default)]
pub struct DoorTls {
    pub agents: ArcSwapOption<ServerConfig>,
    pub operators: ArcSwapOption<ServerConfig>,
}

impl DoorTls {
    /// Puts a leaf in use on both doors. `roots` are the clients' roots of the agents' door.
    pub fn set(&self, leaf: &ServerLeaf, roots: &[CertificateDer<'static>]) -> Result<(), PkiError> {
        let mut store = RootCertStore::empty();
        for root in roots {
            store.add(root.clone()).map_err(PkiError::Tls)?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        // Enroll comes without a certificate; every other call is refused without one, per request.
        let verifier = WebPkiClientVerifier::builder_with_provider(store.into(), provider)
            .allow_unauthenticated()
            .build()
            .map_err(PkiError::Verifier)?;
        let mut agents = base()?
            .with_client_cert_verifier(verifier)
            .with_single_cert(leaf.chain.clone(), leaf.key.clone_key())
            .map_err(PkiError::Tls)?;
        agents.alpn_protocols = vec![b"h2".to_vec()];
        // A resumed session would skip the check of the client's chain.
        agents.send_tls13_tickets = 0;
        let mut operators = base()?
            .with_no_client_auth()
            .with_single_cert(leaf.chain.clone(), leaf.key.clone_key())
            .map_err(PkiError::Tls)?;
        operators.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        self.agents.store(Some(Arc::new(agents)));
        self.operators.store(Some(Arc::new(operators)));
        Ok(())
    }
}

fn base() -> Result<rustls::ConfigBuilder<ServerConfig, rustls::WantsVerifier>, PkiError> {
    ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(PkiError::Tls)
}

/// Writes the leaf, 0600, so that the hub can open its doors while PostgreSQL is away.
pub fn save(path: &Path, leaf: &ServerLeaf) -> std::io::Result<()> {
    let mut text = String::new();
    for cert in &leaf.chain {
        text.push_str(&pem("CERTIFICATE", cert));
    }
    text.push_str(&pem("PRIVATE KEY", leaf.key.secret_der()));
    replace(path, text.as_bytes(), 0o600)
}

/// Reads what [`save`] wrote; none if there is no usable file.
pub fn load(path: &Path) -> Option<ServerLeaf> {
    let text = fs::read(path).ok()?;
    let chain = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>().ok()?;
    let key = PrivateKeyDer::from_pem_slice(&text).ok()?;
    let (not_before, not_after) = redforge_shared::tls::validity_of(chain.first()?).ok()?;
    let names = super::leaf::names_of(chain.first()?);
    (chain.len() == 3).then_some(ServerLeaf { names, chain, key, not_before, not_after })
}

/// PEM text of one object.
pub fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine as _;
    let body = base64::engine::general_purpose::STANDARD.encode(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in body.as_bytes().chunks(64) {
        // Base64 is ASCII: every chunk is text.
        let _ = writeln!(text, "{}", String::from_utf8_lossy(line));
    }
    let _ = writeln!(text, "-----END {label}-----");
    text
}

/// Replaces a file in one step: readers see the old or the new content.
pub fn replace(path: &Path, content: &[u8], mode: u32) -> std::io::Result<()> {
    let draft = path.with_extension("new");
    match fs::remove_file(&draft) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&draft)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    if let Some(dir) = path.parent() {
        fs::File::open(dir)?.sync_all()?;
    }
    Ok(())
}

/// Certificates' roots as one PEM text.
pub fn roots_pem(authority: &Authority) -> String {
    authority.roots.iter().map(|r| pem("CERTIFICATE", r)).collect()
}
