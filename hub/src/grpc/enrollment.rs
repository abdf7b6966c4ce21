//! Enroll and renew: a host gets its identity and keeps it fresh.
//!
//! The transaction that holds the token reads what is known, the pure `fleet::enroll` decides, the same transaction acts.
use super::{peer::Peers, store_status};
use crate::{
    fleet::enroll::{self, Decision, Refusal},
    pki::{
        Authority, Pki, PkiError,
        leaf::{self, HostKey, HostLeaf},
    },
    store::{
        Store,
        enrollment::{EnrollTx, EnrolledHost, LeafRow, NewLeaf},
    },
};
use redforge_shared::{
    clock::SharedClock,
    error::Chain,
    ids::{Digest, HostId, Name},
    report::HostFacts,
    wire::{pb, timestamp},
};
use std::sync::Arc;
use tonic::{Request, Response, Status};

/// The service.
#[derive(Clone, Debug)]
pub struct Service {
    store: Store,
    peers: Peers,
    pki: Pki,
    clock: SharedClock,
}

/// What both calls answer with.
struct Issued {
    certificate: Vec<u8>,
    chain: Vec<Vec<u8>>,
    roots: Vec<Vec<u8>>,
}

/// Longest token text that is hashed at all.
const MAX_TOKEN_BYTES: usize = 256;

impl Service {
    /// The service with its limits.
    pub fn server(
        store: Store,
        peers: Peers,
        pki: Pki,
        clock: SharedClock,
    ) -> pb::enrollment_server::EnrollmentServer<Self> {
        pb::enrollment_server::EnrollmentServer::new(Self { store, peers, pki, clock })
            .max_decoding_message_size(64 * 1024)
    }

    async fn enroll_with(&self, mut tx: EnrollTx, asked: &Asked) -> Result<pb::EnrollResponse, Status> {
        let now = self.clock.now();
        let authority = self.authority()?;
        let known = tx.host_of_key(&asked.identity_key).await.map_err(|e| store_status(&e))?;
        let token = enroll::Token {
            site_id: tx.token.site_id,
            host_name: tx.token.host_name.clone(),
            uses: tx.token.uses,
            used: tx.token.used,
            expires_at: tx.token.expires_at,
        };
        let known = known.map(|k| enroll::Known {
            id: k.id,
            name: k.name,
            site_id: k.site_id,
            fenced: k.fenced,
            used_with: k.used_with,
        });
        let request =
            enroll::Request { csr_key: asked.csr.id, name: asked.name.clone(), hostname: asked.facts.hostname.clone() };
        let decision = enroll::decide(Some(&token), known.as_ref(), &request, now).map_err(|r| refused(&r))?;
        let name_of = |known: Option<enroll::Known>| known.map(|k| k.name).unwrap_or_default();
        let (id, name) = match decision {
            Decision::Repeat(id) => {
                let stored = tx.leaf_for_key(id, asked.csr.id).await.map_err(|e| store_status(&e))?;
                if let Some(row) = stored.filter(|r| r.not_after > now) {
                    return Ok(self.enrolled(id, name_of(known), &tx.token.site, Issued::again(&authority, row)));
                }
                (id, name_of(known))
            }
            Decision::Again(id) => (id, name_of(known)),
            Decision::New(names) => {
                let taken = tx.names_taken(&names).await.map_err(|e| store_status(&e))?;
                (tx.new_host_id(), enroll::free_name(&names, &taken).map_err(|r| refused(&r))?)
            }
        };
        let leaf = self.pki.issue_host(id, &asked.csr, now).map_err(|e| pki_status(&e))?;
        let row = new_leaf(&leaf, &authority, asked.csr.id);
        let site = tx.token.site.clone();
        let host = EnrolledHost {
            id,
            name: &name,
            identity_key: &asked.identity_key,
            sealing_key: &asked.sealing_key,
            facts: &asked.facts,
            leaf: &row,
        };
        tx.commit(host, now).await.map_err(|e| store_status(&e))?;
        tracing::info!(host.id = %id, host.name = name, site, "host enrolled");
        Ok(self.enrolled(id, name, &site, Issued::now(&authority, &leaf)))
    }

    fn enrolled(&self, id: HostId, name: String, site: &str, issued: Issued) -> pb::EnrollResponse {
        pb::EnrollResponse {
            host_id: id.to_string(),
            name,
            site: site.to_owned(),
            certificate: issued.certificate.into(),
            chain: issued.chain.into_iter().map(Into::into).collect(),
            roots: issued.roots.into_iter().map(Into::into).collect(),
            hub_time: Some(timestamp(self.clock.now())),
        }
    }

    fn authority(&self) -> Result<Arc<Authority>, Status> {
        self.pki.current().map_err(|e| pki_status(&e))
    }
}

/// A checked request to enroll.
struct Asked {
    csr: HostKey,
    identity_key: Vec<u8>,
    sealing_key: Vec<u8>,
    facts: HostFacts,
    name: Option<Name>,
}

impl TryFrom<pb::EnrollRequest> for Asked {
    type Error = Status;
    fn try_from(r: pb::EnrollRequest) -> Result<Self, Status> {
        let key = |field: &str, bytes: bytes::Bytes| match bytes.len() {
            32 => Ok(bytes.to_vec()),
            n => Err(Status::invalid_argument(format!("{field}: expected 32 bytes, got {n}"))),
        };
        let name = match r.name.as_str() {
            "" => None,
            text => Some(text.parse().map_err(|e| Status::invalid_argument(format!("name: {e}")))?),
        };
        Ok(Self {
            csr: leaf::read_csr(&r.csr).map_err(|e| pki_status(&e))?,
            identity_key: key("identity_public_key", r.identity_public_key)?,
            sealing_key: key("sealing_public_key", r.sealing_public_key)?,
            facts: r.facts.unwrap_or_default().into(),
            name,
        })
    }
}

impl Issued {
    fn now(authority: &Authority, leaf: &HostLeaf) -> Self {
        Self {
            certificate: leaf.certificate.to_vec(),
            chain: vec![authority.issuing.to_vec()],
            roots: authority.roots.iter().map(|r| r.to_vec()).collect(),
        }
    }

    fn again(authority: &Authority, row: LeafRow) -> Self {
        let roots = authority.roots.iter().map(|r| r.to_vec()).collect();
        Self { certificate: row.certificate, chain: vec![row.issuer], roots }
    }
}

fn new_leaf(leaf: &HostLeaf, authority: &Authority, csr_key: Digest) -> NewLeaf {
    NewLeaf {
        serial: leaf.serial.clone(),
        certificate: leaf.certificate.to_vec(),
        issuer_id: authority.issuing_id,
        csr_key,
        not_after: leaf.not_after,
    }
}

#[tonic::async_trait]
impl pb::enrollment_server::Enrollment for Service {
    async fn enroll(&self, request: Request<pb::EnrollRequest>) -> Result<Response<pb::EnrollResponse>, Status> {
        let request = request.into_inner();
        if request.token.len() > MAX_TOKEN_BYTES {
            return Err(refused(&Refusal::UnknownToken));
        }
        let hash = Digest::of(request.token.trim().as_bytes());
        let asked = Asked::try_from(request)?;
        let tx = self.store.begin_enroll(hash).await.map_err(|e| store_status(&e))?;
        let tx = tx.ok_or_else(|| refused(&Refusal::UnknownToken))?;
        self.enroll_with(tx, &asked).await.map(Response::new)
    }

    async fn renew(&self, request: Request<pb::RenewRequest>) -> Result<Response<pb::RenewResponse>, Status> {
        let peer = self.peers.check(&request).await?;
        let now = self.clock.now();
        let authority = self.authority()?;
        let csr = leaf::read_csr(&request.into_inner().csr).map_err(|e| pki_status(&e))?;
        let stored = self.store.leaf_for_key(peer.id, csr.id).await.map_err(|e| store_status(&e))?;
        let issued = match stored.filter(|row| row.not_after > now) {
            Some(row) => Issued::again(&authority, row),
            None => {
                let leaf = self.pki.issue_host(peer.id, &csr, now).map_err(|e| pki_status(&e))?;
                let row = new_leaf(&leaf, &authority, csr.id);
                let known = self.store.store_next_leaf(peer.id, &row, now).await.map_err(|e| store_status(&e))?;
                if !known {
                    return Err(Status::unauthenticated("this host is not known to the hub"));
                }
                tracing::info!(host.id = %peer.id, host.name = peer.name, "certificate renewed");
                Issued::now(&authority, &leaf)
            }
        };
        Ok(Response::new(pb::RenewResponse {
            certificate: issued.certificate.into(),
            chain: issued.chain.into_iter().map(Into::into).collect(),
            roots: issued.roots.into_iter().map(Into::into).collect(),
            hub_time: Some(timestamp(now)),
        }))
    }
}

fn refused(r: &Refusal) -> Status {
    let text = r.to_string();
    tracing::info!(reason = text, "enrollment refused");
    match r {
        Refusal::UnknownToken => Status::unauthenticated(text),
        Refusal::NameTaken(_) | Refusal::AlreadyEnrolled(_) => Status::already_exists(text),
        Refusal::OtherName(_) => Status::invalid_argument(text),
        Refusal::Expired(_) | Refusal::UsedUp(_) | Refusal::OtherKey | Refusal::Fenced => {
            Status::permission_denied(text)
        }
    }
}

fn pki_status(e: &PkiError) -> Status {
    match e {
        PkiError::Csr(_) => Status::invalid_argument(e.to_string()),
        PkiError::NotReady => Status::unavailable("the hub has no certificate authority yet; ask again later"),
        _ => {
            tracing::error!(error = %Chain(e), "a certificate could not be made");
            Status::internal("the hub could not make a certificate; its log says why")
        }
    }
}
