//! Sites and flow sets, read.
use super::{Api, ApiError, Caller, names};
use crate::store::{flow_sets::FlowSetRow, sites::SiteRow};
use redforge_shared::wire::{pb, timestamp};

impl Api {
    /// Sites by name.
    pub async fn list_sites(
        &self,
        _: &Caller,
        request: pb::ListSitesRequest,
    ) -> Result<pb::ListSitesResponse, ApiError> {
        let size = names::page_size(request.page_size)?;
        let mut rows = self.store.list_sites(&names::after(&request.page_token)?, size + 1).await?;
        let more = names::cut(&mut rows, size);
        let next_page_token = rows.last().filter(|_| more).map(|r| names::page_token(&r.name)).unwrap_or_default();
        Ok(pb::ListSitesResponse { sites: rows.into_iter().map(site).collect(), next_page_token })
    }

    /// One site.
    pub async fn get_site(&self, _: &Caller, request: pb::GetSiteRequest) -> Result<pb::Site, ApiError> {
        let name = names::single("name", "sites", &request.name)?;
        let row = self.store.site(name.as_str()).await?;
        row.map(site).ok_or_else(|| ApiError::NotFound(format!("sites/{name}")))
    }

    /// Flow sets by name, each in its newest revision.
    pub async fn list_flow_sets(
        &self,
        _: &Caller,
        request: pb::ListFlowSetsRequest,
    ) -> Result<pb::ListFlowSetsResponse, ApiError> {
        let size = names::page_size(request.page_size)?;
        let mut rows = self.store.list_flow_sets(&names::after(&request.page_token)?, size + 1).await?;
        let more = names::cut(&mut rows, size);
        let next_page_token = rows.last().filter(|_| more).map(|r| names::page_token(&r.name)).unwrap_or_default();
        Ok(pb::ListFlowSetsResponse { flow_sets: rows.into_iter().map(flow_set).collect(), next_page_token })
    }
}

fn site(row: SiteRow) -> pb::Site {
    pb::Site {
        name: format!("sites/{}", row.name),
        labels: row.labels.0.into_iter().collect(),
        time_zone: row.time_zone,
        policy: row.policy,
        host_count: row.host_count as u32,
        created_at: Some(timestamp(row.created_at)),
    }
}

/// A flow set as the API shows it.
pub(super) fn flow_set(row: FlowSetRow) -> pb::FlowSet {
    pb::FlowSet {
        name: format!("flowsets/{}", row.name),
        digest: hex::encode(&row.digest),
        revision: row.revision as u64,
        size_bytes: row.size_bytes as u64,
        node_count: row.node_count as u32,
        credential_names: row.credential_names.0,
        created_at: Some(timestamp(row.created_at)),
        draft_count: row.draft_count as u32,
    }
}
