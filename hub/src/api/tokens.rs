//! Enrollment tokens, and the list of events.
use super::{Api, ApiError, Caller, Role, names};
use crate::store::{enrollment::NewToken, events::NewEvent};
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use redforge_shared::{
    ids::Digest,
    wire::{pb, timestamp},
};

impl Api {
    /// Makes a token and the whole command that uses it. The token is shown here and nowhere again.
    pub async fn create_token(
        &self,
        caller: &Caller,
        request: pb::CreateTokenRequest,
    ) -> Result<pb::CreateTokenResponse, ApiError> {
        caller.needs(Role::Operator)?;
        let site = names::single("site", "sites", &request.site)?;
        let ttl_s = within("ttl_s", request.ttl_s, 3_600, 60, 2_592_000)?;
        let uses = within("uses", request.uses, 1, 1, 1_000)?;
        let host_name = match request.host_name.as_str() {
            "" => None,
            name => Some(name.parse().map_err(|e| ApiError::invalid("host_name", format!("{e}")))?),
        };
        if host_name.is_some() && uses > 1 {
            return Err(ApiError::invalid("uses", "a token for one host name has one use"));
        }
        let row = self.store.site(site.as_str()).await?;
        let row = row.ok_or_else(|| ApiError::NotFound(format!("sites/{site}")))?;
        let ca_pin = self.pki.ca_pin()?.to_string();

        let mut secret = [0_u8; 32];
        SystemRandom::new().fill(&mut secret).map_err(|_| ApiError::Random)?;
        let token = format!("rft_{}", URL_SAFE_NO_PAD.encode(secret));
        let now = self.clock.now();
        let expires_at = now + time::Duration::seconds(i64::from(ttl_s));
        let new = NewToken {
            hash: Digest::of(token.as_bytes()),
            site_id: row.id,
            host_name: host_name.as_ref().map(|n: &redforge_shared::ids::Name| n.to_string()),
            uses,
            created_by: caller.name.clone(),
            expires_at,
        };
        self.store.insert_enroll_token(&new, now).await?;
        let event = NewEvent {
            at: now,
            reason: "TOKEN_CREATED",
            warning: false,
            resource: format!("sites/{site}"),
            actor: caller.name.clone(),
            message: format!("an enrollment token for {uses} host(s), good for {ttl_s} seconds"),
        };
        self.store.record_event(&event).await?;
        let hub_url = self.public_url.clone();
        let name = host_name.map(|n| format!(" --name {n}")).unwrap_or_default();
        let command = format!("redforge-edge enroll --hub {hub_url} --token {token} --ca-pin {ca_pin}{name}");
        Ok(pb::CreateTokenResponse { token, ca_pin, hub_url, expires_at: Some(timestamp(expires_at)), command })
    }

    /// What the hub noticed, newest first.
    pub async fn list_events(
        &self,
        _: &Caller,
        request: pb::ListEventsRequest,
    ) -> Result<pb::ListEventsResponse, ApiError> {
        let limit = within("limit", request.limit, 50, 1, 1_000)?;
        let host = names::optional("host", "hosts", &request.host)?.map(|h| format!("hosts/{h}"));
        let rows = self.store.list_events(host.as_deref(), limit).await?;
        let events = rows.into_iter().map(|r| pb::Event {
            at: Some(timestamp(r.at)),
            reason: r.reason,
            warning: r.warning,
            resource: r.resource,
            actor: r.actor,
            message: r.message,
        });
        Ok(pb::ListEventsResponse { events: events.collect() })
    }
}

/// A number of a request: 0 is the default, everything else must be within bounds.
pub(super) fn within(field: &str, value: u32, default: u32, min: u32, max: u32) -> Result<u32, ApiError> {
    match value {
        0 => Ok(default),
        v if (min..=max).contains(&v) => Ok(v),
        v => Err(ApiError::invalid(field, format!("{v} is not within {min} to {max}"))),
    }
}
