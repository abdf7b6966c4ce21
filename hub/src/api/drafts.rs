//! Drafts of flow sets: listed, and adopted as the newest revision.
use super::{Api, ApiError, Caller, Role, guests, names};
use crate::store::{
    changes::{Changed, NewFlowSet},
    drafts::DraftRow,
};
use redforge_shared::{
    ids::{Digest, Name},
    wire::{pb, timestamp},
};

impl Api {
    /// Drafts, the newest first.
    pub async fn list_flow_set_drafts(
        &self,
        _: &Caller,
        request: pb::ListFlowSetDraftsRequest,
    ) -> Result<pb::ListFlowSetDraftsResponse, ApiError> {
        let flow_set = names::optional("parent", "flowsets", &request.parent)?;
        let rows = self.store.list_drafts(flow_set.as_ref()).await?;
        Ok(pb::ListFlowSetDraftsResponse { drafts: rows.into_iter().map(draft).collect() })
    }

    /// Makes a draft the newest revision of its flow set.
    pub async fn adopt_flow_set_draft(
        &self,
        caller: &Caller,
        request: pb::AdoptFlowSetDraftRequest,
    ) -> Result<pb::PushFlowSetResponse, ApiError> {
        caller.needs(Role::Operator)?;
        let (name, number) = names::draft("name", &request.name)?;
        let Some(row) = self.store.draft(&name, number).await? else { return Err(ApiError::NotFound(request.name)) };
        let digest = Digest::try_from(&row.digest[..]).map_err(|_| ApiError::NotFound(request.name.clone()))?;
        let mut changes = self.store.begin_changes(&caller.name, self.clock.now()).await?;
        let (change, next) = changes.flow_set_change(&name, digest).await?;
        // Next is the number that it would get; the newest is the one before.
        let newest = if change == Changed::Unchanged { next } else { next - 1 };
        if change != Changed::Unchanged && newest != row.base_revision as u64 && !request.force {
            let message = format!(
                "flowsets/{name} is at revision {newest} by now, the draft was made from revision {}: compare them, then adopt \
                 it with --force, which replaces what came since",
                row.base_revision
            );
            return Err(ApiError::Precondition { reason: "DRAFT_OUTDATED", message });
        }
        let Some(bytes) = changes.staged(digest).await? else { return Err(ApiError::NotFound(request.name)) };
        let set = NewFlowSet {
            name: name.clone(),
            digest,
            bytes,
            node_count: row.node_count as u32,
            credential_names: row.credential_names.0,
        };
        let (changed, revision) = changes.put_flow_set(&set).await?;
        changes.adopted(&name, number, revision).await?;
        guests::merge_where_run(&mut changes, &name).await?;
        changes.commit().await?;
        self.pushed(&name, changed).await
    }
}

impl Api {
    /// Brings an earlier revision of a flow set back, as a revision of its own.
    pub async fn rollback_flow_set(
        &self,
        caller: &Caller,
        request: pb::RollbackFlowSetRequest,
    ) -> Result<pb::RollbackFlowSetResponse, ApiError> {
        caller.needs(Role::Operator)?;
        let name = names::single("name", "flowsets", &request.name)?;
        let newest = self.store.flow_set(name.as_str()).await?.ok_or(ApiError::NotFound(request.name))?;
        let row = match i64::try_from(request.to_revision).unwrap_or(i64::MAX) {
            0 => self.store.flow_set_before(name.as_str()).await?,
            to => self.store.flow_set_revision(name.as_str(), to).await?,
        };
        let Some(row) = row else {
            let message = match request.to_revision {
                0 => format!("flowsets/{name} has never been another than it is at revision {}", newest.revision),
                to => format!("flowsets/{name} has no revision {to}; its newest is {}", newest.revision),
            };
            return Err(ApiError::Precondition { reason: "NO_EARLIER_REVISION", message });
        };
        let missing = || ApiError::NotFound(format!("flowsets/{name}/revisions/{}", row.revision));
        let digest = Digest::try_from(&row.digest[..]).map_err(|_| missing())?;
        let mut changes = self.store.begin_changes(&caller.name, self.clock.now()).await?;
        let bytes = changes.staged(digest).await?.ok_or_else(missing)?;
        let set = NewFlowSet {
            name: name.clone(),
            digest,
            bytes,
            node_count: row.node_count as u32,
            credential_names: row.credential_names.0,
        };
        let (changed, _) = changes.put_flow_set(&set).await?;
        guests::merge_where_run(&mut changes, &name).await?;
        changes.commit().await?;
        let pushed = self.pushed(&name, changed).await?;
        Ok(pb::RollbackFlowSetResponse {
            flow_set: pushed.flow_set,
            from_revision: row.revision as u64,
            changed: pushed.changed,
            instances: pushed.instances,
        })
    }
}

/// A draft as the API shows it.
fn draft(row: DraftRow) -> pb::FlowSetDraft {
    pb::FlowSetDraft {
        name: format!("flowsets/{}/drafts/{}", row.flow_set, row.number),
        instance: format!("hosts/{}/instances/{}", row.host, row.instance),
        base_revision: row.base_revision as u64,
        digest: hex::encode(&row.digest),
        size_bytes: row.size_bytes as u64,
        node_count: row.node_count as u32,
        created_at: Some(timestamp(row.created_at)),
        adopted_revision: row.adopted_revision.unwrap_or(0) as u64,
    }
}

impl Api {
    /// What is told of a flow set that was pushed or adopted.
    pub(super) async fn pushed(&self, name: &Name, changed: Changed) -> Result<pb::PushFlowSetResponse, ApiError> {
        let row = self.store.flow_set(name.as_str()).await?;
        let users = self.store.flow_set_users(name.as_str()).await?;
        Ok(pb::PushFlowSetResponse {
            flow_set: row.map(super::sites::flow_set),
            changed: changed != Changed::Unchanged,
            instances: users.into_iter().map(|(host, i)| format!("hosts/{host}/instances/{i}")).collect(),
        })
    }
}
