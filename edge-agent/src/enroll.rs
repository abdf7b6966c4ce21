//! `redforge-edge enroll`: trades a token for an identity, once. The hub is known by its CA pin alone, and what is stored
//! afterwards is what the agent runs on. Repeating the command after a lost answer, or after success, is harmless. A host
//! that was dark for longer than its certificate lives enrolls again with the same keys and stays who it is.
use crate::{
    db::ledger::Ledger,
    facts,
    identity::{BUILD_FLOOR, Enrolled, IdentityDir, IdentityError, Issued},
    link::{
        HUB_TIME,
        dial::{DialError, HubUrl, dial, explain},
    },
};
use redforge_shared::{
    ids::Name,
    tls::{self, CaPin, Trust},
    wire::pb,
};
use secrecy::{ExposeSecret, SecretString};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use time::OffsetDateTime;
use tonic::{Code, Status};

/// Longest wait for the hub's answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// What the command line says.
#[derive(Debug)]
pub struct Request {
    pub hub: HubUrl,
    pub token: SecretString,
    pub ca_pin: CaPin,
    pub name: Option<Name>,
    pub state_dir: PathBuf,
    /// By this machine's clock.
    pub now: OffsetDateTime,
}

/// How it went well.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    Enrolled(Box<Enrolled>),
    /// It was enrolled with this hub before; nothing was sent.
    Already(Box<Enrolled>),
}

/// Why the host is not enrolled.
#[derive(Debug, thiserror::Error)]
pub enum EnrollError {
    #[error("the identity cannot be used")]
    Identity(#[from] IdentityError),
    #[error("this host is already enrolled as '{name}' with {hub}: to move it, give it another state folder")]
    OtherHub { name: Name, hub: String },
    #[error("TLS cannot be set up")]
    Tls(#[from] tls::TlsError),
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("{hub} did not answer within {} s", ANSWER_TIMEOUT.as_secs())]
    Silent { hub: HubUrl },
    #[error("the hub did not enroll this host: {}", explain(.0))]
    Unavailable(Status),
    #[error("the hub refuses to enroll this host: {}", explain(.0))]
    Refused(Status),
}

impl EnrollError {
    /// The command's exit code; `redforge-edge enroll --help` lists them.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Refused(_) => 3,
            Self::Dial(DialError::Pin { .. }) => 4,
            Self::OtherHub { .. } => 5,
            Self::Dial(_) | Self::Silent { .. } | Self::Unavailable(_) => 8,
            Self::Identity(_) | Self::Tls(_) => 1,
        }
    }
}

/// Enrolls the host whose state folder this is.
pub async fn enroll(request: &Request) -> Result<Outcome, EnrollError> {
    let identity = IdentityDir::open(&request.state_dir)?;
    if let Some(enrolled) = identity.enrolled()? {
        if enrolled.hub_url != request.hub.to_string() && !enrolled.trusts(request.ca_pin) {
            return Err(EnrollError::OtherHub { name: enrolled.name, hub: enrolled.hub_url });
        }
        let now = request.now.max(last_hub_time(&request.state_dir).await);
        if enrolled.validity().is_some_and(|(_, end)| end > now) {
            return Ok(Outcome::Already(Box::new(enrolled)));
        }
    }
    let keys = identity.keys()?;
    let pending = identity.pending()?;
    let tls = tls::client_config(Trust::Pin(request.ca_pin), None, BUILD_FLOOR)?;
    let channel = dial(&request.hub, Arc::new(tls)).await?;
    let mut client = pb::enrollment_client::EnrollmentClient::new(channel);
    let sending = client.enroll(pb::EnrollRequest {
        token: request.token.expose_secret().to_owned(),
        csr: pending.csr().to_vec().into(),
        identity_public_key: keys.identity.into(),
        sealing_public_key: keys.sealing.into(),
        facts: Some((&facts::measure(&request.state_dir)).into()),
        name: request.name.as_ref().map(ToString::to_string).unwrap_or_default(),
    });
    let answer = tokio::time::timeout(ANSWER_TIMEOUT, sending).await;
    let answer = answer.map_err(|_| EnrollError::Silent { hub: request.hub.clone() })?;
    let answer = answer.map_err(sort)?.into_inner();
    let bad = |field: &str| IdentityError::Answer(format!("{field} is not valid"));
    let who = (
        answer.host_id.parse().map_err(|_| bad("host_id"))?,
        answer.name.parse().map_err(|_| bad("name"))?,
        answer.site.parse().map_err(|_| bad("site"))?,
    );
    let issued = Issued {
        certificate: answer.certificate.into(),
        chain: answer.chain.into_iter().map(Into::into).collect(),
        roots: answer.roots.into_iter().map(Into::into).collect(),
    };
    let enrolled = Enrolled::new(who, request.hub.to_string(), &pending, issued)?;
    if !enrolled.trusts(request.ca_pin) {
        return Err(IdentityError::Answer("its roots do not hold the pinned one".into()).into());
    }
    identity.store(&enrolled)?;
    Ok(Outcome::Enrolled(Box::new(enrolled)))
}

/// The latest time that a hub told this host; a clock that is behind does not make an ended certificate good.
async fn last_hub_time(state_dir: &Path) -> OffsetDateTime {
    let path = state_dir.join("ledger.db");
    if !path.exists() {
        return OffsetDateTime::UNIX_EPOCH;
    }
    // A ledger that cannot be read says nothing; the clock alone decides then.
    let Ok(ledger) = Ledger::open(&path).await else { return OffsetDateTime::UNIX_EPOCH };
    let told = ledger.kv_get(HUB_TIME).await.ok().flatten();
    let seconds = told.and_then(|b| b.try_into().ok()).map(i64::from_be_bytes);
    seconds.and_then(|s| OffsetDateTime::from_unix_timestamp(s).ok()).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

/// A refusal is final, everything else may be tried again.
fn sort(status: Status) -> EnrollError {
    match status.code() {
        Code::Unauthenticated
        | Code::PermissionDenied
        | Code::InvalidArgument
        | Code::FailedPrecondition
        | Code::AlreadyExists
        | Code::NotFound => EnrollError::Refused(status),
        _ => EnrollError::Unavailable(status),
    }
}
