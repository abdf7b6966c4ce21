//! Who an agent's request comes from: checked on every request, not only at the handshake.
//!
//! The handshake verified the certificate's chain; here its end, its serial and the host's fence are looked at again, so
//! that a live connection ends with the host's right to it.
use super::store_status;
use crate::{door::Connection, pki::leaf, store::Store};
use redforge_shared::{clock::SharedClock, ids::HostId};
use time::OffsetDateTime;
use tonic::{Request, Status};

/// Checks agents' requests. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Peers {
    store: Store,
    clock: SharedClock,
}

/// The host that a request comes from.
#[derive(Clone, Debug)]
pub struct PeerHost {
    pub id: HostId,
    pub name: String,
    /// Serial and end of the certificate it came with.
    pub serial: Vec<u8>,
    pub certificate_not_after: OffsetDateTime,
}

impl Peers {
    /// Checks against this store.
    pub fn new(store: Store, clock: SharedClock) -> Self {
        Self { store, clock }
    }

    /// The request's host, or the refusal that the agent's user should read.
    pub async fn check<T>(&self, request: &Request<T>) -> Result<PeerHost, Status> {
        let connection = request.extensions().get::<Connection>();
        let certificate = connection.and_then(|c| c.certificate.as_ref());
        let certificate = certificate
            .ok_or_else(|| Status::unauthenticated("a host certificate is needed: enroll this host first"))?;
        let presented = leaf::read_presented(certificate)
            .ok_or_else(|| Status::unauthenticated("the client certificate is not a host's"))?;
        if presented.not_after <= self.clock.now() {
            return Err(Status::unauthenticated("the host's certificate has expired: renew it or enroll again"));
        }
        let row = self.store.peer(presented.host).await.map_err(|e| store_status(&e))?;
        let row = row.ok_or_else(|| Status::unauthenticated("this host is not known to the hub"))?;
        if row.serial_next.as_deref() == Some(presented.serial.as_slice()) {
            // First use of the renewed certificate: from now on the old one is refused.
            self.store.promote_serial(presented.host, &presented.serial).await.map_err(|e| store_status(&e))?;
        } else if row.serial_current != presented.serial {
            return Err(Status::unauthenticated("the host's certificate was replaced by a newer one"));
        }
        if row.fenced_at.is_some() {
            return Err(fenced(&row.name));
        }
        Ok(PeerHost {
            id: presented.host,
            name: row.name,
            serial: presented.serial,
            certificate_not_after: presented.not_after,
        })
    }
}

/// What a fenced host hears.
pub fn fenced(name: &str) -> Status {
    Status::permission_denied(format!(
        "this host is fenced: its state folder was seen on two machines; stop the agent on one of them, then an operator \
         says `redforgectl resume {name}`"
    ))
}
