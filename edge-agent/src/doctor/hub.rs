//! The way to the hub: its name, its port, whose certificate is presented there, and what time it is there.
//!
//! Nothing is said to whoever answers but TLS, and no certificate of ours is shown: the question takes no session over from
//! the running agent.
use super::{Finding, judge};
use crate::{
    config::Config,
    identity::{BUILD_FLOOR, Enrolled},
    link::dial::HubUrl,
};
use http_body_util::Empty;
use hyper_util::rt::{TokioExecutor, TokioIo};
use redforge_shared::tls::{self, HUB_NAME, Trust};
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use std::{
    io,
    sync::{Arc, Mutex},
    time::Duration,
};
use time::{OffsetDateTime, format_description::well_known::Rfc2822};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

const PATIENCE: Duration = Duration::from_secs(8);

/// Every hub that is dialled; what is wrong with one is wrong although another answers.
pub(super) async fn examine(config: &Config, enrolled: &Enrolled, now: OffsetDateTime) -> Vec<Finding> {
    let urls = if config.hub_urls.is_empty() {
        enrolled.hub_url.parse().into_iter().collect()
    } else {
        config.hub_urls.clone()
    };
    let mut all = Vec::new();
    for url in &urls {
        one(url, enrolled, now, &mut all).await;
    }
    if urls.is_empty() {
        all.push(Finding::fail("hub", "no hub is known", "hub_url in the agent's settings"));
    }
    all
}

async fn one(url: &HubUrl, enrolled: &Enrolled, now: OffsetDateTime, all: &mut Vec<Finding>) {
    let (host, port) = url.address();
    if host.parse::<std::net::IpAddr>().is_err() {
        let looked = tokio::time::timeout(PATIENCE, tokio::net::lookup_host((host, port))).await;
        let next = format!("getent hosts {host}; cat /etc/resolv.conf");
        all.push(match looked {
            Ok(Ok(found)) => {
                let found: Vec<String> = found.map(|a| a.ip().to_string()).collect();
                Finding::ok("dns", format!("{host} is {}", found.join(", ")))
            }
            Ok(Err(e)) => Finding::fail("dns", format!("{host} has no address: {e}"), next),
            Err(_) => Finding::fail("dns", format!("no name server answers for {host}"), next),
        });
        if all.last().is_some_and(|f| f.verdict == super::Verdict::Fail) {
            return;
        }
    }
    let tcp = match tokio::time::timeout(PATIENCE, TcpStream::connect((host, port))).await {
        Ok(Ok(tcp)) => tcp,
        Ok(Err(e)) => return all.push(unreachable(url, &e.to_string())),
        Err(_) => return all.push(unreachable(url, "no answer")),
    };
    match shake(tcp, enrolled).await {
        Ok(stream) => {
            all.push(Finding::ok("hub", format!("{url} answers")));
            all.push(Finding::ok("hub.tls", "the chain is the hub's own"));
            all.push(match hub_time(stream).await {
                Some(there) => judge::clock((now - there).whole_seconds()),
                None => Finding::warn("clock", "the hub does not say what time it is there", "timedatectl status"),
            });
        }
        Err(e) => {
            all.push(Finding::ok("hub", format!("{url} takes connections")));
            all.push(foreign(url, &e).await);
        }
    }
}

fn unreachable(url: &HubUrl, why: &str) -> Finding {
    let (host, port) = url.address();
    let next = format!("nc -vz {host} {port}; is the hub up, and may this host dial out to port {port}?");
    Finding::fail("hub", format!("{url} cannot be reached: {why}"), next)
}

async fn shake(tcp: TcpStream, enrolled: &Enrolled) -> io::Result<TlsStream<TcpStream>> {
    let config = tls::client_config(Trust::Roots(enrolled.roots()), None, BUILD_FLOOR).map_err(io::Error::other)?;
    connect(tcp, config).await
}

async fn connect(tcp: TcpStream, config: ClientConfig) -> io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(HUB_NAME).expect("the fixed name is a DNS name");
    let shaking = TlsConnector::from(Arc::new(config)).connect(name, tcp);
    tokio::time::timeout(PATIENCE, shaking).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

/// The date that any answer of the hub bears.
async fn hub_time(stream: TlsStream<TcpStream>) -> Option<OffsetDateTime> {
    let asking = async {
        let io = TokioIo::new(stream);
        let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.ok()?;
        let request = hyper::Request::post(format!("https://{HUB_NAME}/redforge.v1.Nothing/Nothing"))
            .header("content-type", "application/grpc")
            .body(Empty::<bytes::Bytes>::new())
            .ok()?;
        let exchange = async { sender.send_request(request).await.ok() };
        tokio::select! {
            answer = exchange => answer,
            _ = connection => None,
        }
    };
    let answer = tokio::time::timeout(PATIENCE, asking).await.ok()??;
    let date = answer.headers().get(hyper::header::DATE)?.to_str().ok()?;
    // HTTP writes the zone as GMT, which is RFC 2822's old form of +0000.
    OffsetDateTime::parse(&date.replace("GMT", "+0000"), &Rfc2822).ok()
}

/// Who answers, when it is not our hub: a second look that believes whatever is shown, and says nothing.
async fn foreign(url: &HubUrl, why: &io::Error) -> Finding {
    const CHECK: &str = "hub.tls";
    let (host, port) = url.address();
    let shown = Arc::new(Shown::default());
    let looked = async {
        let tcp = tokio::time::timeout(PATIENCE, TcpStream::connect((host, port))).await.ok()?.ok()?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().ok()?;
        let verifier = Arc::clone(&shown) as Arc<dyn ServerCertVerifier>;
        let config = config.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
        connect(tcp, config).await.ok()
    };
    drop(looked.await);
    let chain = shown.0.lock().expect("no panic while the lock is held").clone();
    let Some(leaf) = chain.first() else {
        let next = format!("openssl s_client -connect {host}:{port}; is the agents' door on this port?");
        return Finding::fail(CHECK, format!("{url} does not speak TLS with us: {why}"), next);
    };
    let issuer = tls::issuer_of(leaf).unwrap_or_else(|_| "an unreadable certificate".into());
    Finding::fail(
        CHECK,
        format!(
            "{url} presents another chain than the hub's (issued by: {issuer}): something between intercepts TLS, or this is another hub"
        ),
        format!("except {host}:{port} from TLS inspection (it must pass through); or enroll with this hub"),
    )
}

/// Remembers what is shown and lets everything pass. Only [`foreign`] uses it, on a connection that carries nothing.
#[derive(Debug, Default)]
struct Shown(Mutex<Vec<CertificateDer<'static>>>);

impl ServerCertVerifier for Shown {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let all = std::iter::once(end_entity).chain(intermediates).map(|c| c.clone().into_owned());
        *self.0.lock().expect("no panic while the lock is held") = all.collect();
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
