//! Earlier revisions of an instance: what it can go back to. Rows are only added, never changed.
use super::{ACT, Changes};
use crate::store::{Act, StoreError};
use redforge_shared::ids::{HostId, Name};
use serde_json::Value;
use sqlx::types::Json;
use std::collections::BTreeMap;

/// An instance as it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Newest {
    pub revision: u64,
    pub labels: BTreeMap<String, String>,
    pub spec: Value,
}

/// An instance as it stood.
#[derive(Clone, Debug, PartialEq)]
pub struct Earlier {
    pub revision: u64,
    pub spec: Value,
}

impl Changes {
    /// The instance as it stands; none = there is no such instance.
    pub async fn newest(&mut self, host: HostId, name: &Name) -> Result<Option<Newest>, StoreError> {
        let row: Option<(i64, Json<BTreeMap<String, String>>, Json<Value>)> =
            sqlx::query_as("SELECT revision, labels, spec FROM instance WHERE host_id = $1 AND name = $2")
                .bind(host.0)
                .bind(name.as_str())
                .fetch_optional(&mut *self.tx)
                .await
                .act(ACT)?;
        Ok(row.map(|(revision, labels, spec)| Newest { revision: revision as u64, labels: labels.0, spec: spec.0 }))
    }

    /// Revision `to` of an instance that stands; with 0 the newest that was another than it is now. That its editor was open or
    /// closed makes it no other.
    pub async fn earlier(&mut self, host: HostId, name: &Name, to: u64) -> Result<Option<Earlier>, StoreError> {
        let row: Option<(i64, Json<Value>)> = sqlx::query_as(
            "SELECT r.revision, r.spec FROM instance_revision r JOIN instance i USING (host_id, name) \
             WHERE host_id = $1 AND name = $2 AND r.revision < i.revision \
             AND CASE WHEN $3 = 0 THEN \
             r.spec || jsonb_build_object('nodeRed', coalesce(r.spec -> 'nodeRed', '{}') - 'developer') <> \
             i.spec || jsonb_build_object('nodeRed', coalesce(i.spec -> 'nodeRed', '{}') - 'developer') \
             ELSE r.revision = $3 END \
             ORDER BY r.revision DESC LIMIT 1",
        )
        .bind(host.0)
        .bind(name.as_str())
        .bind(i64::try_from(to).unwrap_or(i64::MAX))
        .fetch_optional(&mut *self.tx)
        .await
        .act(ACT)?;
        Ok(row.map(|(revision, spec)| Earlier { revision: revision as u64, spec: spec.0 }))
    }

    /// Leaves an event beside that of the new revision.
    pub async fn tell_rolled_back(&mut self, resource: String, from: u64, to: u64) -> Result<(), StoreError> {
        self.tell("INSTANCE_ROLLED_BACK", resource, format!("from revision {from} to what revision {to} was")).await
    }
}
