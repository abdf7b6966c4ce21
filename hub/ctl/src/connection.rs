//! The gRPC channel: TLS by the hub's own root, a token in every call.
use crate::{
    config::Connection,
    failure::{Exit, Failure, Outcome, root_cause},
};
use redforge_shared::{
    clock::{Clock as _, SystemClock},
    error::Chain,
    tls,
    wire::pb::admin_client::AdminClient,
};
use std::{sync::Arc, time::Duration};
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint, Uri},
};

/// The operators' API.
pub type Admin = AdminClient<InterceptedService<Channel, Bearer>>;

/// Puts the token into every call.
#[derive(Clone, Debug)]
pub struct Bearer(MetadataValue<Ascii>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

/// Dials the hub; a hub that is away is told at once.
pub async fn connect(settings: &Connection) -> Outcome<Admin> {
    let resolved = settings.resolve()?;
    let mut bearer: MetadataValue<Ascii> = format!("Bearer {}", resolved.token)
        .parse()
        .map_err(|_| Failure::new(Exit::Denied, "the token holds characters that no token has"))?;
    bearer.set_sensitive(true);
    let tls = tls::client_config(resolved.trust, None, SystemClock.now())
        .map_err(|e| Failure::error(Chain(&e).to_string()))?;
    let tls = tokio_rustls::TlsConnector::from(Arc::new(tls));
    let unreachable = |why: String| {
        let failure = Failure::new(Exit::Unreachable, format!("the hub at {} cannot be reached: {why}", resolved.url));
        if why.contains(tls::PIN_MISMATCH) || why.contains("UnknownIssuer") {
            return failure.hint("this is another hub, or its root changed: check --ca-file or --ca-pin");
        }
        failure.hint("is the hub running, and is --hub (or REDFORGE_HUB) its operators' address?")
    };
    // TLS is ours, below the channel: for the channel the address is a plain one.
    let plain = resolved.url.replacen("https://", "http://", 1);
    let endpoint = Endpoint::from_shared(plain)
        .map_err(|e| unreachable(e.to_string()))?
        .connect_timeout(Duration::from_secs(10))
        .http2_keep_alive_interval(Duration::from_secs(20))
        .user_agent(concat!("redforgectl/", env!("CARGO_PKG_VERSION")))
        .map_err(|e| unreachable(e.to_string()))?;
    let dial = tower::service_fn(move |uri: Uri| {
        let tls = tls.clone();
        async move {
            let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
            let tcp = tokio::net::TcpStream::connect((host, uri.port_u16().unwrap_or(443))).await?;
            tcp.set_nodelay(true)?;
            let name = rustls_pki_types::ServerName::try_from(tls::HUB_NAME).expect("the fixed name is a DNS name");
            Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(tls.connect(name, tcp).await?))
        }
    });
    let channel = endpoint.connect_with_connector(dial).await.map_err(|e| unreachable(root_cause(&e)))?;
    Ok(AdminClient::with_interceptor(channel, Bearer(bearer)).max_decoding_message_size(64 << 20))
}
