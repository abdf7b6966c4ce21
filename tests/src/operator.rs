//! The operators' public gRPC API, as any tool would use it: TLS by the hub's root, a bearer token.
use crate::wait::{eventually, when};
use hyper_util::rt::TokioIo;
use redforge_shared::{
    tls::{HUB_NAME, Trust, client_config},
    wire::pb::{self, admin_client::AdminClient},
};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use std::{path::Path, sync::Arc};
use tokio::net::TcpStream;
use tonic::{
    Request, Status,
    metadata::MetadataValue,
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};

/// Puts the token into every call.
#[derive(Clone)]
pub struct Bearer(String);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if !self.0.is_empty() {
            let value = MetadataValue::try_from(format!("Bearer {}", self.0)).expect("a token is ASCII");
            request.metadata_mut().insert("authorization", value);
        }
        Ok(request)
    }
}

/// A connected operator.
#[derive(Clone)]
pub struct Operator {
    pub admin: AdminClient<InterceptedService<Channel, Bearer>>,
}

/// A TLS channel to one of the hub's doors, whatever name was dialled.
pub async fn channel(port: u16, config: rustls::ClientConfig) -> Result<Channel, tonic::transport::Error> {
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let connect = tower_service(port, connector);
    Endpoint::from_static("http://hub.redforge.internal").connect_with_connector(connect).await
}

fn tower_service(
    port: u16,
    connector: tokio_rustls::TlsConnector,
) -> impl tonic::codegen::Service<
    tonic::codegen::http::Uri,
    Response = TokioIo<tokio_rustls::client::TlsStream<TcpStream>>,
    Error = std::io::Error,
    Future = impl Future<Output = std::io::Result<TokioIo<tokio_rustls::client::TlsStream<TcpStream>>>> + Send,
> + Send
+ 'static {
    tower::service_fn(move |_| {
        let connector = connector.clone();
        async move {
            let tcp = TcpStream::connect(("127.0.0.1", port)).await?;
            let name = ServerName::try_from(HUB_NAME).expect("the fixed name is a DNS name");
            Ok(TokioIo::new(connector.connect(name, tcp).await?))
        }
    })
}

/// Roots in a PEM file.
pub fn roots(pem: &Path) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_file_iter(pem).expect("the hub wrote root.pem").map(|c| c.expect("a certificate")).collect()
}

impl Operator {
    /// Connects with this token, or without one when it is empty.
    pub async fn connect(port: u16, root_pem: &Path, token: &str) -> Self {
        redforge_shared::daemon::install_crypto();
        let floor = time::OffsetDateTime::UNIX_EPOCH;
        let config = client_config(Trust::Roots(roots(root_pem)), None, floor).expect("the roots are good");
        let channel = eventually("the operators' door answers", async || channel(port, config.clone()).await).await;
        let admin = AdminClient::with_interceptor(channel, Bearer(token.to_owned()));
        Self { admin: admin.max_decoding_message_size(64 << 20) }
    }

    /// Applies manifests; panics with the hub's text when it refuses.
    pub async fn apply(&mut self, manifests: &str) -> pb::ApplyResponse {
        self.try_apply(manifests).await.unwrap_or_else(|s| panic!("apply was refused: {s}\n{manifests}"))
    }

    pub async fn try_apply(&mut self, manifests: &str) -> Result<pb::ApplyResponse, Status> {
        let request = pb::ApplyRequest { manifests: manifests.to_owned(), validate_only: false, ..Default::default() };
        Ok(self.admin.apply(request).await?.into_inner())
    }

    /// A site with this name.
    pub async fn site(&mut self, name: &str) {
        self.apply(&format!("apiVersion: redforge.io/v1\nkind: Site\nmetadata:\n  name: {name}\nspec: {{}}\n")).await;
    }

    /// A token for one host.
    pub async fn enroll_token(&mut self, site: &str) -> pb::CreateTokenResponse {
        let request = pb::CreateTokenRequest { site: format!("sites/{site}"), ..Default::default() };
        self.admin.create_token(request).await.expect("an admin may make tokens").into_inner()
    }

    pub async fn host(&mut self, name: &str) -> Result<pb::Host, Status> {
        Ok(self.admin.get_host(pb::GetHostRequest { name: format!("hosts/{name}") }).await?.into_inner())
    }

    pub async fn instance(&mut self, host: &str, name: &str) -> Result<pb::Instance, Status> {
        let name = format!("hosts/{host}/instances/{name}");
        Ok(self.admin.get_instance(pb::GetInstanceRequest { name }).await?.into_inner())
    }

    /// Waits until an instance is Running and Healthy; gives its status.
    pub async fn running(&mut self, host: &str, name: &str) -> pb::InstanceStatus {
        let what = format!("{name} on {host} is Running and Healthy");
        self.instance_when(host, name, &what, |s| s.phase() == pb::Phase::Running && s.health() == pb::Health::Healthy)
            .await
    }

    /// Waits until an instance's status satisfies `holds`.
    pub async fn instance_when(
        &mut self,
        host: &str,
        name: &str,
        what: &str,
        holds: impl Fn(&pb::InstanceStatus) -> bool,
    ) -> pb::InstanceStatus {
        eventually(what, async || {
            let instance = self.instance(host, name).await.map_err(|s| s.to_string())?;
            let status = instance.status.ok_or("no report yet")?;
            when(holds(&status), &status)?;
            Ok::<_, String>(status)
        })
        .await
    }

    /// Waits until a host satisfies `holds`.
    pub async fn host_when(&mut self, name: &str, what: &str, holds: impl Fn(&pb::Host) -> bool) -> pb::Host {
        eventually(what, async || {
            let host = self.host(name).await.map_err(|s| s.to_string())?;
            when(holds(&host), &host)?;
            Ok::<_, String>(host)
        })
        .await
    }

    /// Pushes a flow set made from an editor export; gives the hub's answer.
    pub async fn push_flows(&mut self, name: &str, export: &[u8]) -> Result<pb::PushFlowSetResponse, Status> {
        let (flows, names) = redforge_shared::flows::Flows::parse(export).expect("the story's own flows");
        self.push_tar(name, &redforge_shared::flows::pack(&flows, &names)).await
    }

    /// Pushes these bytes as a flow set, whatever they are.
    pub async fn push_tar(&mut self, name: &str, tar: &[u8]) -> Result<pb::PushFlowSetResponse, Status> {
        use pb::push_flow_set_request::Message;
        let header = pb::PushFlowSetHeader {
            name: format!("flowsets/{name}"),
            digest: redforge_shared::ids::Digest::of(tar).0.to_vec().into(),
            size_bytes: tar.len() as u64,
            ..Default::default()
        };
        let mut messages = vec![pb::PushFlowSetRequest { message: Some(Message::Header(header)) }];
        for chunk in tar.chunks(256 * 1024) {
            let chunk = bytes::Bytes::copy_from_slice(chunk);
            messages.push(pb::PushFlowSetRequest { message: Some(Message::Chunk(chunk)) });
        }
        Ok(self.admin.push_flow_set(tokio_stream::iter(messages)).await?.into_inner())
    }
}
