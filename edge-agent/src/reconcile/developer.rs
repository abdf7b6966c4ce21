//! Developer mode: what somebody edits is kept before it is put back, so that its end throws nothing away.
//!
//! While it lasts edits go up as drafts like under `adopt` (see `drift`). What the last look has not seen, what a new revision
//! replaces, and what the hub was away for is kept in the ledger first; `drafts` offers it from there.
use super::{
    ReconcileError, Reconciler, View, memory::Remembered, observe::AppSeen, reduce::was_given, report::principal,
};
use crate::{db::ledger::KeptDraft, workload::node_red::NodeRedSeen};
use redforge_shared::{
    flows,
    ids::{Digest, Name},
};
use serde::{Deserialize, Serialize};

/// A runtime that is, or lately was, in developer mode.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Developed {
    /// The flow set that is edited, and the hash of its flows.
    pub base: Digest,
    pub hash: Digest,
    pub credential_names: Vec<String>,
    /// The edit that was kept last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<Digest>,
}

/// The edit that has to be kept, if there is one that is not. Pure.
pub fn unkept(developed: Option<&Developed>, seen: &NodeRedSeen) -> Option<Digest> {
    let known = developed?;
    let content = seen.edited.as_ref().and(seen.hash)?;
    (content != known.hash && Some(content) != known.content).then_some(content)
}

impl Reconciler {
    /// Keeps what was edited. Before anything is done to the runtimes.
    pub(super) async fn keep_edits(&self, view: &View, memory: &mut Remembered) -> Result<(), ReconcileError> {
        for (spec, wanted) in view.chosen.state.instances.iter().zip(&view.desired.instances) {
            let Some(c) = principal(view, wanted) else { continue };
            let Some(AppSeen::NodeRed(seen)) = view.apps.get(&c.id) else { continue };
            if !seen.answers {
                continue;
            }
            let mut developed = memory.developed.get(&spec.name).cloned();
            if let (Some(content), Some(known)) = (unkept(developed.as_ref(), seen), &mut developed) {
                self.keep(&spec.name, known, content, seen).await?;
                known.content = Some(content);
            }
            let given = wanted.flow_set.filter(|base| was_given(&view.given, c, *base, &view.homes));
            let open = view.chosen.developing.contains(&spec.name);
            match given.and_then(|base| Some((base, self.flow_sets.get(&base)?))).filter(|_| open) {
                Some((base, set)) if developed.as_ref().is_none_or(|d| d.base != base) => {
                    let credential_names = set.manifest.credential_names.clone();
                    developed = Some(Developed { base, hash: set.hash, credential_names, content: None });
                }
                // Over, and the fleet's flows are back.
                None if !open && seen.edited.is_none() => developed = None,
                _ => {}
            }
            memory.set_developed(&self.deps.ledger, &spec.name, developed).await?;
        }
        Ok(())
    }

    async fn keep(
        &self,
        instance: &Name,
        known: &Developed,
        content: Digest,
        seen: &NodeRedSeen,
    ) -> Result<(), ReconcileError> {
        let Some(edited) = &seen.edited else { return Ok(()) };
        // With the modules of what was edited. Where that is no longer here, the flows alone are better than nothing.
        let base = tokio::fs::read(self.deps.blobs.join("sha256").join(known.base.hex())).await.ok();
        let whole = base.and_then(|tar| flows::repack(&tar, edited).ok());
        let tar = whole.unwrap_or_else(|| flows::pack(edited, &known.credential_names)).into();
        let draft = KeptDraft { instance: instance.clone(), base: known.base, content, tar };
        tracing::info!(instance.name = %instance, flows.hash = %content, "edited flows are kept as a draft");
        self.deps.ledger.keep_draft(draft, known.content).await.map_err(ReconcileError::Ledger)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use redforge_shared::flows::Flows;
    use std::sync::Arc;

    #[test]
    fn only_an_edit_that_is_not_kept_yet_is_kept() {
        let flows = Flows::parse(br#"[{"id":"t","type":"tab"}]"#).expect("flows").0;
        let edit = flows.hash();
        let known = Developed { base: Digest([1; 32]), hash: Digest([2; 32]), credential_names: vec![], content: None };
        let seen =
            NodeRedSeen { answers: true, hash: Some(edit), edited: Some(Arc::new(flows)), ..NodeRedSeen::default() };
        assert_eq!(unkept(Some(&known), &seen), Some(edit));
        assert_eq!(unkept(None, &seen), None, "an edit under another policy is not developer mode's");
        assert_eq!(unkept(Some(&Developed { content: Some(edit), ..known.clone() }), &seen), None);
        // A newer revision is wanted by now: what runs is the old one, and no edit.
        assert_eq!(unkept(Some(&Developed { hash: edit, ..known.clone() }), &seen), None);
        assert_eq!(unkept(Some(&known), &NodeRedSeen { edited: None, ..seen }), None);
    }
}
