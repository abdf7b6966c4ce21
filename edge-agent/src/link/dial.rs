//! Dials a hub: TCP, TLS 1.3 with the fixed name, HTTP/2. One `Channel` is one connection; a dead one is not revived
//! behind our back, `link` dials again and says hello anew.
use hyper_util::rt::TokioIo;
use redforge_shared::tls::{HUB_NAME, PIN_MISMATCH};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use std::{
    error::Error as StdError,
    fmt, io,
    str::FromStr,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::{Channel, Endpoint};

/// Longest wait for TCP, and again for TLS and HTTP/2.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for the first word of a hub that has our certificate.
const FIRST_WORD: Duration = Duration::from_secs(3);
/// A silent peer is asked after this long...
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
/// ...and given up this much later.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// `https://HOST:PORT` of a hub's agents' door.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubUrl {
    host: String,
    port: u16,
}

/// What is wrong with a hub's URL.
#[derive(Debug, thiserror::Error)]
#[error("'{0}' is not https://HOST[:PORT]")]
pub struct InvalidHubUrl(String);

impl FromStr for HubUrl {
    type Err = InvalidHubUrl;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let bad = || InvalidHubUrl(s.chars().take(200).collect());
        let rest = s.strip_prefix("https://").ok_or_else(bad)?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = match rest.rsplit_once(':') {
            // `[::1]` without a port ends in a bracket.
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().map_err(|_| bad())?),
            _ => (rest, 7443),
        };
        let bracketed = host.starts_with('[') && host.ends_with(']');
        let allowed = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c) || (bracketed && "[]:%".contains(c));
        if host.is_empty() || port == 0 || !host.chars().all(allowed) {
            return Err(bad());
        }
        Ok(Self { host: host.to_owned(), port })
    }
}

impl HubUrl {
    /// What is dialled: a name or an address, and the port.
    pub fn address(&self) -> (&str, u16) {
        (self.host.trim_start_matches('[').trim_end_matches(']'), self.port)
    }
}

impl fmt::Display for HubUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}:{}", self.host, self.port)
    }
}

/// Why a hub could not be dialled.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    #[error("{url} cannot be reached")]
    Connect {
        url: HubUrl,
        #[source]
        source: io::Error,
    },
    #[error("{url} did not answer within {} s", CONNECT_TIMEOUT.as_secs())]
    Timeout { url: HubUrl },
    #[error("{url} is not the hub whose CA was pinned: none of its certificates matches the CA pin")]
    Pin { url: HubUrl },
    #[error("{url} does not prove to be our hub")]
    Tls {
        url: HubUrl,
        #[source]
        source: io::Error,
    },
    #[error("{url} refuses this host's certificate ({alert})")]
    Refused { url: HubUrl, alert: String },
    #[error("{url} does not speak HTTP/2")]
    Http2 {
        url: HubUrl,
        #[source]
        source: tonic::transport::Error,
    },
}

/// Opens one connection.
pub async fn dial(url: &HubUrl, tls: Arc<ClientConfig>) -> Result<Channel, DialError> {
    let late = |_| DialError::Timeout { url: url.clone() };
    let connecting = TcpStream::connect(url.address());
    let tcp = tokio::time::timeout(CONNECT_TIMEOUT, connecting).await.map_err(late)?;
    let tcp = tcp.map_err(|source| DialError::Connect { url: url.clone(), source })?;
    // A refused option costs latency, not the connection.
    drop(tcp.set_nodelay(true));
    let name = ServerName::try_from(HUB_NAME).expect("the fixed name is a DNS name");
    let shaking = TlsConnector::from(tls).connect(name, tcp);
    let stream = tokio::time::timeout(CONNECT_TIMEOUT, shaking).await.map_err(late)?;
    let stream = stream.map_err(|source| {
        if says(&source, PIN_MISMATCH) {
            return DialError::Pin { url: url.clone() };
        }
        DialError::Tls { url: url.clone(), source }
    })?;
    let stream = admitted(stream, url).await?;
    let endpoint = endpoint();
    let opening = endpoint.connect_with_connector(once(stream));
    let channel = tokio::time::timeout(CONNECT_TIMEOUT, opening).await.map_err(late)?;
    channel.map_err(|source| DialError::Http2 { url: url.clone(), source })
}

/// Waits for the hub's first word. With TLS 1.3 our side of the handshake is over before the hub has looked at our
/// certificate; were we to speak at once, its refusal would be lost in a broken connection.
async fn admitted(mut stream: TlsStream<TcpStream>, url: &HubUrl) -> Result<TlsStream<TcpStream>, DialError> {
    let (tcp, tls) = stream.get_mut();
    // A hub that waits for us to begin has not refused us.
    if tokio::time::timeout(FIRST_WORD, tcp.readable()).await.is_err() {
        return Ok(stream);
    }
    let failed = |source| DialError::Tls { url: url.clone(), source };
    match tls.read_tls(&mut Socket(tcp)) {
        Ok(0) => return Err(failed(io::ErrorKind::UnexpectedEof.into())),
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(stream),
        Err(e) => return Err(failed(e)),
    }
    match tls.process_new_packets() {
        Ok(_) => Ok(stream),
        Err(rustls::Error::AlertReceived(alert)) => {
            Err(DialError::Refused { url: url.clone(), alert: format!("{alert:?}") })
        }
        Err(e) => Err(failed(io::Error::other(e))),
    }
}

/// What has arrived on a socket, without waiting.
struct Socket<'a>(&'a TcpStream);

impl io::Read for Socket<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }
}

fn endpoint() -> Endpoint {
    // The scheme that tonic sees is http because TLS is already done; requests say https.
    let origin = http_origin("https://hub.redforge.internal");
    Endpoint::from_static("http://hub.redforge.internal")
        .origin(origin)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(2 << 20)
        .http2_max_header_list_size(16 << 10)
        .buffer_size(64)
}

fn http_origin(text: &'static str) -> tonic::codegen::http::Uri {
    tonic::codegen::http::Uri::from_static(text)
}

/// A connector that hands out one stream and then refuses: the end of the connection is the end of the channel.
fn once(
    stream: TlsStream<TcpStream>,
) -> impl tower::Service<
    tonic::codegen::http::Uri,
    Response = TokioIo<TlsStream<TcpStream>>,
    Error = io::Error,
    Future = std::future::Ready<io::Result<TokioIo<TlsStream<TcpStream>>>>,
> + Send
+ 'static {
    let stream = Arc::new(Mutex::new(Some(stream)));
    tower::service_fn(move |_| {
        let taken = stream.lock().expect("nobody panics while holding the stream").take();
        std::future::ready(
            taken
                .map(TokioIo::new)
                .ok_or_else(|| io::Error::new(io::ErrorKind::NotConnected, "the connection is over")),
        )
    })
}

/// Does any error of the chain contain this text?
fn says(error: &(dyn StdError + 'static), text: &str) -> bool {
    chain(Some(error)).iter().any(|line| line.contains(text))
}

/// The texts of an error and its causes.
fn chain(error: Option<&(dyn StdError + 'static)>) -> Vec<String> {
    let mut texts = Vec::new();
    let mut next = error;
    while let Some(e) = next {
        texts.push(e.to_string());
        next = e.source();
    }
    texts
}

/// What a failed call means for a person. With TLS 1.3 a hub that refuses our certificate says so only at the first
/// call, as a transport error.
pub fn explain(status: &tonic::Status) -> String {
    let refused = ["CertificateRevoked", "CertificateUnknown", "BadCertificate", "CertificateExpired", "UnknownCA"];
    let chain = chain(status.source());
    if let Some(word) = refused.iter().find(|w| chain.iter().any(|c| c.contains(**w))) {
        return format!("the hub refuses this host's certificate ({word})");
    }
    match chain.last() {
        Some(last) if status.message().is_empty() || status.message() == "transport error" => last.clone(),
        _ => format!("{} ({:?})", bounded(status.message()), status.code()),
    }
}

fn bounded(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hub_urls_are_https_with_host_and_port() {
        for (text, shown) in [
            ("https://hub.example:7443", "https://hub.example:7443"),
            ("https://hub.example/", "https://hub.example:7443"),
            ("https://127.0.0.1:1", "https://127.0.0.1:1"),
            ("https://[::1]:9", "https://[::1]:9"),
            ("https://[::1]", "https://[::1]:7443"),
        ] {
            assert_eq!(text.parse::<HubUrl>().expect(text).to_string(), shown);
        }
        for bad in
            ["", "hub:1", "http://h:1", "https://", "https://h:0", "https://h:x", "https://a b:1", "https://u@h:1"]
        {
            assert!(bad.parse::<HubUrl>().is_err(), "{bad}");
        }
    }
}
