//! Hosts and instances, read: what is wanted beside what was last reported, and how old that is.
use super::{Api, ApiError, Caller, Role, names};
use crate::{
    fleet::liveness,
    store::overview::{HostRow, InstanceRow},
};
use redforge_shared::{
    report::{Health, Link, Phase, Reason, Sync},
    wire::{pb, timestamp},
};
use time::OffsetDateTime;

impl Api {
    /// Hosts by name, of one site or of all.
    pub async fn list_hosts(
        &self,
        _: &Caller,
        request: pb::ListHostsRequest,
    ) -> Result<pb::ListHostsResponse, ApiError> {
        let size = names::page_size(request.page_size)?;
        let site = names::optional("site", "sites", &request.site)?;
        let after = names::after(&request.page_token)?;
        let mut rows = self.store.list_hosts(site.as_ref().map(|s| s.as_str()), &after, size + 1).await?;
        let more = names::cut(&mut rows, size);
        let next_page_token = rows.last().filter(|_| more).map(|r| names::page_token(&r.name)).unwrap_or_default();
        Ok(pb::ListHostsResponse { hosts: rows.into_iter().map(|r| self.host(r)).collect(), next_page_token })
    }

    /// One host.
    pub async fn get_host(&self, _: &Caller, request: pb::GetHostRequest) -> Result<pb::Host, ApiError> {
        let name = names::single("name", "hosts", &request.name)?;
        let row = self.store.host_overview(name.as_str()).await?;
        row.map(|r| self.host(r)).ok_or_else(|| ApiError::NotFound(format!("hosts/{name}")))
    }

    /// Lets a fenced host in again, or lifts the pause of one whose agent is ahead of a restored hub. They are two
    /// decisions: the second one replaces what the host runs.
    pub async fn resume_host(&self, caller: &Caller, request: pb::ResumeHostRequest) -> Result<pb::Host, ApiError> {
        caller.needs(Role::Operator)?;
        let name = names::single("name", "hosts", &request.name)?;
        let row = self.store.host_overview(name.as_str()).await?;
        let row = row.ok_or_else(|| ApiError::NotFound(format!("hosts/{name}")))?;
        let id = redforge_shared::ids::HostId(row.id);
        let now = self.clock.now();
        if !self.store.unfence_host(id, &caller.name, now).await?
            && !self.store.resume_host(id, &caller.name, now).await?
        {
            return Err(ApiError::Precondition {
                reason: "HOST_NOT_PAUSED",
                message: format!(
                    "hosts/{name} is not paused: it is not fenced, and its agent is not ahead of this hub"
                ),
            });
        }
        self.get_host(caller, pb::GetHostRequest { name: request.name }).await
    }

    /// Instances by host and name.
    pub async fn list_instances(
        &self,
        _: &Caller,
        request: pb::ListInstancesRequest,
    ) -> Result<pb::ListInstancesResponse, ApiError> {
        let size = names::page_size(request.page_size)?;
        let host = names::optional("parent", "hosts", &request.parent)?;
        let after = names::after(&request.page_token)?;
        let after = after.split_once('/').unwrap_or((&after, ""));
        let mut rows = self.store.list_instances(host.as_ref().map(|h| h.as_str()), after, size + 1).await?;
        let more = names::cut(&mut rows, size);
        let last = rows.last().filter(|_| more).map(|r| names::page_token(&format!("{}/{}", r.host, r.name)));
        let instances = rows.into_iter().map(|r| self.instance(r)).collect();
        Ok(pb::ListInstancesResponse { instances, next_page_token: last.unwrap_or_default() })
    }

    /// One instance.
    pub async fn get_instance(&self, _: &Caller, request: pb::GetInstanceRequest) -> Result<pb::Instance, ApiError> {
        let (host, name) = names::instance("name", &request.name)?;
        let row = self.store.instance(host.as_str(), name.as_str()).await?;
        row.map(|r| self.instance(r)).ok_or_else(|| ApiError::NotFound(format!("hosts/{host}/instances/{name}")))
    }

    fn link(&self, last_seen: Option<OffsetDateTime>) -> Link {
        liveness::link(last_seen, self.clock.now(), self.heartbeat)
    }

    fn age_s(&self, at: Option<OffsetDateTime>) -> i64 {
        at.map_or(-1, |at| (self.clock.now() - at).whole_seconds().max(0))
    }

    fn host(&self, row: HostRow) -> pb::Host {
        let link = self.link(row.last_seen_at);
        let status = judge(&row, link);
        let report_age_s = self.age_s(row.received_at);
        let running = row.instances.iter().flat_map(|i| &i.0).filter(|i| i.phase == Phase::Running).count();
        pb::Host {
            name: format!("hosts/{}", row.name),
            id: row.id.hyphenated().to_string(),
            site: format!("sites/{}", row.site),
            link: pb::Link::from(link).into(),
            health: pb::Health::from(status.health).into(),
            sync: pb::Sync::from(status.sync).into(),
            reason: status.reason.map_or(0, |r| pb::StatusReason::from(r).into()),
            // Names explain the reported reason, and none that the hub found itself.
            names: row.names.map(|n| n.0).filter(|_| !status.hubs_own).unwrap_or_default(),
            last_seen_at: row.last_seen_at.map(timestamp),
            report_age_s,
            generation: row.generation.unwrap_or_default() as u64,
            observed_generation: row.observed_generation.unwrap_or_default() as u64,
            facts: row.facts.map(|f| (&f.0).into()),
            outbox: row
                .outbox
                .into_iter()
                .flat_map(|o| o.0)
                .map(|o| pb::OutboxStatus {
                    class: pb::RecordClass::from(o.class).into(),
                    waiting: o.waiting,
                    waiting_bytes: o.waiting_bytes,
                    refused: o.refused,
                    absorbed: o.absorbed,
                    lost: o.lost,
                })
                .collect(),
            enrolled_at: Some(timestamp(row.enrolled_at)),
            certificate_not_after: Some(timestamp(row.certificate_not_after)),
            instance_count: row.instance_count as u32,
            instances_running: running as u32,
            spec_sha256: row.spec_sha256.map(hex::encode).unwrap_or_default(),
            clean_up: row.clean_up.map(|c| (&c.0).into()),
        }
    }

    fn instance(&self, row: InstanceRow) -> pb::Instance {
        let kind = row.spec.0.get("kind").and_then(|k| k.as_str()).unwrap_or_default().to_owned();
        let link = self.link(row.last_seen_at);
        let report_age_s = self.age_s(row.received_at);
        pb::Instance {
            name: format!("hosts/{}/instances/{}", row.host, row.name),
            kind,
            revision: row.revision as u64,
            spec_json: row.spec.0.to_string(),
            status: row.status.map(|s| {
                let mut status = s.0;
                // A guest's is its runtime's.
                status.name = row.name.parse().unwrap_or(status.name);
                if link == Link::Offline {
                    // What was healthy when last heard of may be anything by now.
                    status.health = Health::Unknown;
                }
                pb::InstanceStatus::from(&status)
            }),
            host_link: pb::Link::from(link).into(),
            report_age_s,
            created_at: Some(timestamp(row.created_at)),
            updated_at: Some(timestamp(row.updated_at)),
            labels: row.labels.0.into_iter().collect(),
        }
    }
}

struct Judged {
    health: Health,
    sync: Sync,
    reason: Option<Reason>,
    /// The hub found the reason itself: the report's names are not about it.
    hubs_own: bool,
}

/// The host's status words: the report's, unless the hub knows better.
fn judge(row: &HostRow, link: Link) -> Judged {
    let health = row.health.as_deref().and_then(Health::from_word).unwrap_or(Health::Unknown);
    let health = if matches!(link, Link::Offline | Link::NeverSeen) { Health::Unknown } else { health };
    let reason = row.reason.as_deref().and_then(Reason::from_word);
    if row.fenced {
        return Judged { health, sync: Sync::Paused, reason: Some(Reason::Fenced), hubs_own: true };
    }
    if row.agent_ahead {
        return Judged { health, sync: Sync::Paused, reason: Some(Reason::HubBehind), hubs_own: true };
    }
    let reported = row.sync.as_deref().and_then(Sync::from_word).unwrap_or(Sync::OutOfDate);
    let same = row.observed_generation == row.generation && row.observed_sha256 == row.spec_sha256;
    // A host that is as it should be for an older generation is on its way to the newer one, or will be.
    let sync = match reported {
        Sync::UpToDate if !same && link == Link::Online => Sync::Updating,
        Sync::UpToDate if !same => Sync::OutOfDate,
        reported => reported,
    };
    Judged { health, sync, reason, hubs_own: false }
}

#[cfg(test)]
mod tests;
