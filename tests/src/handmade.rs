//! A host without an agent: enrolled by hand, it says over the real door whatever a story wants a hub to hear. Knows the wire
//! and nothing of what a report means.
use crate::operator::{channel, roots};
use redforge_shared::{
    flows::{Flows, pack},
    ids::Digest,
    tls::{Identity, Trust, client_config},
    wire::pb::{self, session_request::Message, session_response},
};
use std::path::Path;
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

/// Enrolls a host with a token; its certificate and key.
pub async fn enroll(agents_port: u16, root_pem: &Path, token: String, name: &str) -> Identity {
    redforge_shared::daemon::install_crypto();
    let key = rcgen::KeyPair::generate().expect("a key");
    let csr = rcgen::CertificateParams::default().serialize_request(&key).expect("signed");
    let identity = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("a key");
    let door = channel(agents_port, config(root_pem, None)).await.expect("the agents' door is open");
    let request = pb::EnrollRequest {
        token,
        csr: csr.der().to_vec().into(),
        identity_public_key: identity.public_key_raw().to_vec().into(),
        sealing_public_key: vec![9; 32].into(),
        facts: None,
        name: name.into(),
    };
    let mut client = pb::enrollment_client::EnrollmentClient::new(door);
    let answer = client.enroll(request).await.unwrap_or_else(|s| panic!("enroll was refused: {s}")).into_inner();
    let chain = std::iter::once(answer.certificate).chain(answer.chain).map(|c| c.to_vec().into()).collect();
    let key = rustls_pki_types::PrivateKeyDer::try_from(key.serialize_der()).expect("PKCS#8");
    Identity { chain, key }
}

/// TLS to a hub with this root, as this host or as nobody.
pub fn config(root_pem: &Path, identity: Option<Identity>) -> rustls::ClientConfig {
    let floor = time::OffsetDateTime::UNIX_EPOCH;
    client_config(Trust::Roots(roots(root_pem)), identity, floor).expect("the root is good")
}

/// A session that was greeted, and the desired state that came with it.
pub struct Session {
    out: mpsc::Sender<pb::SessionRequest>,
    answers: Streaming<pb::SessionResponse>,
    pub heartbeat_ms: u32,
    pub desired: pb::Desired,
    reports: u64,
}

impl Session {
    /// Greets, and waits until the host is told what it shall run.
    pub async fn open(port: u16, config: rustls::ClientConfig) -> Result<Self, Status> {
        let door = channel(port, config).await.map_err(|e| Status::unavailable(e.to_string()))?;
        let (out, queue) = mpsc::channel(8);
        let queue = tokio_stream::wrappers::ReceiverStream::new(queue);
        let hello = pb::Hello {
            run_id: vec![7; 16].into(),
            start_no: 1,
            hello_no: 1,
            protocol_min: 1,
            protocol_max: 1,
            ..Default::default()
        };
        drop(out.send(pb::SessionRequest { message: Some(Message::Hello(hello)) }).await);
        let answers = pb::control_client::ControlClient::new(door).session(queue).await?.into_inner();
        let mut session = Self { out, answers, heartbeat_ms: 0, desired: pb::Desired::default(), reports: 0 };
        loop {
            match session.answers.message().await?.and_then(|m| m.message) {
                Some(session_response::Message::Welcome(w)) => {
                    session.heartbeat_ms = w.heartbeat_interval_ms;
                    session.send(Message::Confirm(pb::Confirm { nonce: w.nonce })).await;
                }
                Some(session_response::Message::Desired(desired)) => {
                    session.desired = desired;
                    return Ok(session);
                }
                other => return Err(Status::internal(format!("expected a greeting, got {other:?}"))),
            }
        }
    }

    /// The next desired state, or number of one, that the hub sends; what came with a spec is what is reported from then on.
    pub async fn next_desired(&mut self) -> Result<pb::Desired, Status> {
        loop {
            match self.answers.message().await?.and_then(|m| m.message) {
                Some(session_response::Message::Desired(desired)) => {
                    if !desired.spec.is_empty() {
                        self.desired = desired.clone();
                    }
                    return Ok(desired);
                }
                Some(_) => {}
                None => return Err(Status::aborted("the session has ended")),
            }
        }
    }

    async fn send(&mut self, message: Message) {
        // A session that has ended takes nothing; the next answer tells why.
        drop(self.out.send(pb::SessionRequest { message: Some(message) }).await);
    }

    /// Reports this of the desired state.
    pub async fn report(&mut self, at: time::OffsetDateTime, instances: Vec<pb::InstanceStatus>) {
        self.reports += 1;
        let report = pb::HostReport {
            start_no: 1,
            report_no: self.reports,
            generation: self.desired.generation,
            spec_sha256: self.desired.spec_sha256.clone(),
            health: pb::Health::Error.into(),
            sync: pb::Sync::Failed.into(),
            instances,
            reported_at: Some(redforge_shared::wire::timestamp(at)),
            ..Default::default()
        };
        self.send(Message::Report(report)).await;
    }

    /// Stays Online until the hub ends the session.
    pub async fn beat(&mut self) -> Result<(), Status> {
        let mut beat = tokio::time::interval(std::time::Duration::from_millis(u64::from(self.heartbeat_ms.max(2)) / 2));
        loop {
            tokio::select! {
                answer = self.answers.message() => if answer?.is_none() { return Ok(()) },
                _ = beat.tick() => self.send(Message::Heartbeat(pb::Heartbeat {})).await,
            }
        }
    }
}

/// Sends flows up that were edited at this host, as a draft of what `base` is the tar of; its number.
pub async fn push_draft(
    port: u16,
    config: rustls::ClientConfig,
    instance: &str,
    (base, edited): (&Flows, &Flows),
) -> Result<u64, Status> {
    use pb::push_draft_request::Message;
    let door = channel(port, config).await.map_err(|e| Status::unavailable(e.to_string()))?;
    let digest = |flows: &Flows| -> (Vec<u8>, Vec<u8>) {
        let tar = pack(flows, &[]);
        (Digest::of(&tar).0.to_vec(), tar)
    };
    let ((base, _), (own, tar)) = (digest(base), digest(edited));
    let header = pb::PushDraftHeader {
        instance: instance.into(),
        base: base.into(),
        digest: own.into(),
        size_bytes: tar.len() as u64,
    };
    let messages = [Message::Header(header), Message::Chunk(tar.into())];
    let messages = messages.map(|m| pb::PushDraftRequest { message: Some(m) });
    let mut client = pb::drafts_client::DraftsClient::new(door);
    Ok(client.push(tokio_stream::iter(messages)).await?.into_inner().number)
}
