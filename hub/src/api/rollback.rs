//! Rollback: what an earlier revision of an instance was becomes its newest one. The flow down goes on as after an apply.
//!
//! Revisions are only added: going back is a new revision too, and can be gone back from. What the earlier one asked for is
//! checked again, against what the host runs today. Who may use an editor, and until when, is not gone back to: a rollback opens
//! none that was closed and closes none that is open.
use super::{Api, ApiError, Caller, Role, apply, guests, names};
use redforge_shared::{
    manifest::{InstanceManifest, InstanceSpec, Kind},
    wire::pb,
};

impl Api {
    /// Brings an earlier revision of an instance back.
    pub async fn rollback_instance(
        &self,
        caller: &Caller,
        request: pb::RollbackInstanceRequest,
    ) -> Result<pb::RollbackInstanceResponse, ApiError> {
        caller.needs(Role::Operator)?;
        let (host, name) = names::instance("name", &request.name)?;
        let missing = || ApiError::NotFound(format!("hosts/{host}/instances/{name}"));
        let resource = format!("hosts/{host}/instances/{name}");
        let mut changes = self.store.begin_changes(&caller.name, self.clock.now()).await?;
        let id = changes.host(&host).await?.ok_or_else(missing)?;
        let newest = changes.newest(id, &name).await?.ok_or_else(missing)?;
        let Some(earlier) = changes.earlier(id, &name, request.to_revision).await? else {
            let message = match request.to_revision {
                0 => format!("{resource} has never been another than it is at revision {}", newest.revision),
                to => format!("{resource} has no revision {to} before its revision {}", newest.revision),
            };
            return Err(ApiError::Precondition { reason: "NO_EARLIER_REVISION", message });
        };
        let read = |revision: u64, spec| {
            serde_json::from_value::<InstanceSpec>(spec).map_err(|e| ApiError::Precondition {
                reason: "REVISION_NOT_UNDERSTOOD",
                message: format!("revision {revision} of {resource} cannot be read by this hub: {e}"),
            })
        };
        let mut spec = read(earlier.revision, earlier.spec)?;
        let open = read(newest.revision, newest.spec)?.node_red.and_then(|n| n.developer);
        if open.is_some() && spec.kind == Kind::NodeRed {
            spec.node_red.get_or_insert_default().developer = open;
        } else if let Some(flows) = &mut spec.node_red {
            flows.developer = None;
        }
        let manifest = InstanceManifest { name: name.clone(), labels: newest.labels, spec };
        let (_, _, revision) = apply::put_instance(&mut changes, &manifest, false)
            .await?
            .map_err(|(path, problem)| ApiError::invalid(format!("revision {}: {path}", earlier.revision), problem))?;
        let mut violations = apply::fits(&host, &changes.instances(id).await?);
        violations.extend(guests::merge(&mut changes, id, &host).await?);
        if !violations.is_empty() {
            return Err(ApiError::Invalid { violations });
        }
        changes.tell_rolled_back(resource, newest.revision, earlier.revision).await?;
        changes.commit().await?;
        let instance = self.get_instance(caller, pb::GetInstanceRequest { name: request.name }).await?;
        Ok(pb::RollbackInstanceResponse { instance: Some(instance), from_revision: earlier.revision, revision })
    }
}
