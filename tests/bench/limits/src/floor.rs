//! The least that a connected agent can weigh and the soonest it can be connected: a runtime with two workers, two SQLite
//! files in WAL mode, a connection to Docker's socket and a TLS 1.3 connection to the hub's door. It does nothing with them.
use anyhow::Context as _;
use rusqlite::Connection;
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{self, CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use std::{
    io::Write as _,
    net::TcpStream,
    os::unix::net::UnixStream,
    path::Path,
    sync::{Arc, mpsc},
};

/// Opens it all, prints `floor ready`, and stays until it is killed.
pub fn stand(dir: &Path, socket: &Path, hub: &str) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let files = [open(&dir.join("a.db"))?, open(&dir.join("b.db"))?];
    let engine = UnixStream::connect(socket).context("no engine")?;
    let provider = Arc::new(crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        // The floor trusts whom it is told to dial: it sends nothing.
        .with_custom_certificate_verifier(Arc::new(Anyone(provider)))
        .with_no_client_auth();
    let mut tcp = TcpStream::connect(hub).context("no hub")?;
    let mut tls = ClientConnection::new(Arc::new(config), ServerName::try_from("hub.redforge.internal")?)?;
    while tls.is_handshaking() {
        tls.complete_io(&mut tcp)?;
    }
    println!("floor ready");
    std::io::stdout().flush()?;
    let (_never, wait) = mpsc::channel::<()>();
    let _ = wait.recv();
    drop((runtime, files, engine, tcp, tls));
    Ok(())
}

fn open(path: &Path) -> anyhow::Result<Connection> {
    let conn = Connection::open(path)?;
    conn.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
         CREATE TABLE IF NOT EXISTS kept (id INTEGER PRIMARY KEY, data BLOB NOT NULL);
         INSERT INTO kept (data) VALUES (zeroblob(1024));",
    )?;
    Ok(conn)
}

#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
