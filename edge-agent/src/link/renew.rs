//! Renews the host's certificate between half and two thirds of its life. The request is kept until its answer is stored,
//! so a lost reply is repeated with the same key; hub time decides, the local clock is not asked.
use super::{LinkError, dial::explain, session::Welcome};
use crate::identity::{Enrolled, IdentityDir, IdentityError, Issued};
use redforge_shared::{error::Chain, ids::Digest, wire::pb};
use std::time::Duration;
use time::OffsetDateTime;
use tonic::{Status, transport::Channel};

/// Wait after a failed renewal; there are days left.
const RETRY: Duration = Duration::from_secs(60);
/// Longest single wait, so that a corrected hub time is seen.
const LONGEST_WAIT: Duration = Duration::from_secs(600);

/// Why a renewal failed.
#[derive(Debug, thiserror::Error)]
enum RenewError {
    #[error("the hub does not renew: {}", explain(.0))]
    Rpc(Status),
    #[error("the request or the answer cannot be used")]
    Identity(#[from] IdentityError),
}

/// Waits until renewal is due and renews. `Ok`: there is a new certificate, dial again.
pub async fn run(
    channel: Channel,
    identity: &IdentityDir,
    enrolled: Enrolled,
    welcome: Welcome,
) -> Result<(), LinkError> {
    let Some(validity) = enrolled.validity() else { return std::future::pending().await };
    let due = due(validity, enrolled.certificate_digest());
    loop {
        let hub_now = welcome.hub_time + welcome.heard.elapsed();
        if let Ok(left) = Duration::try_from(due - hub_now)
            && !left.is_zero()
        {
            tokio::time::sleep(left.min(LONGEST_WAIT)).await;
            continue;
        }
        match renew(&channel, identity, &enrolled).await {
            Ok(()) => return Ok(()),
            Err(e) => tracing::warn!(error = %Chain(&e), "certificate not renewed"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn renew(channel: &Channel, identity: &IdentityDir, enrolled: &Enrolled) -> Result<(), RenewError> {
    let pending = identity.pending()?;
    let mut client = pb::enrollment_client::EnrollmentClient::new(channel.clone());
    let request = pb::RenewRequest { csr: pending.csr().to_vec().into() };
    let answer = client.renew(request).await.map_err(RenewError::Rpc)?.into_inner();
    let issued = Issued {
        certificate: answer.certificate.into(),
        chain: answer.chain.into_iter().map(Into::into).collect(),
        roots: answer.roots.into_iter().map(Into::into).collect(),
    };
    let renewed = enrolled.renewed(&pending, issued)?;
    identity.store(&renewed)?;
    tracing::info!(certificate.not_after = ?renewed.validity().map(|(_, end)| end), "certificate renewed");
    Ok(())
}

/// When to renew: half of the life, and up to a sixth more that differs from certificate to certificate, so that hosts
/// enrolled together do not renew together.
fn due((begin, end): (OffsetDateTime, OffsetDateTime), certificate: Digest) -> OffsetDateTime {
    let jitter = f64::from(u16::from_be_bytes([certificate.0[0], certificate.0[1]])) / f64::from(u16::MAX);
    begin + (end - begin) * (0.5 + jitter / 6.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use time::macros::datetime;

    proptest! {
        #[test]
        fn renewal_is_due_between_half_and_two_thirds_of_life(days in 1_i64..400, bytes in any::<[u8; 32]>()) {
            let begin = datetime!(2026-11-01 00:00 UTC);
            let life = time::Duration::days(days);
            let due = due((begin, begin + life), Digest(bytes));
            prop_assert!(due >= begin + life / 2 && due <= begin + life * 2 / 3 + time::Duration::SECOND);
        }
    }
}
