//! What a pass learns about edits at the host: which flow set runs where, and which edited flows are to go up as drafts.
//!
//! Whether an edit is put back is planned, and what is said of it is assessed; here only what follows from having looked.
use super::{
    ReconcileError, Reconciler, View,
    memory::Remembered,
    observe::AppSeen,
    plan::{Blueprint, Given},
    reduce::{drift, home_of, last_given, was_given},
    report::principal,
};
use crate::{privacy::RawDraft, workload::node_red::NodeRedSeen};
use redforge_shared::{
    desired::{Drift, InstanceSpec},
    flows,
    ids::Digest,
};

impl Reconciler {
    /// A runtime that has the flows it shall have was given them, whoever gave them: another content there is an edit from
    /// now on.
    pub(super) async fn note_given(&self, view: &View, memory: &mut Remembered) -> Result<(), ReconcileError> {
        let now = self.deps.clock.now();
        for wanted in &view.desired.instances {
            let (Some(digest), Blueprint::Ready(shape)) = (wanted.flow_set.or(wanted.clears), &wanted.blueprint) else {
                continue;
            };
            let Some(set) = self.flow_sets.get(&digest) else { continue };
            for c in view.seen.containers.iter().filter(|c| c.instance == wanted.name && c.hash == shape.hash) {
                let Some(AppSeen::NodeRed(seen)) = view.apps.get(&c.id) else { continue };
                // Of what was never given anything nothing is known.
                if wanted.flow_set.is_none() && last_given(&view.given, c, &view.homes).is_none() {
                    continue;
                }
                if let (true, Some(rev)) = (seen.hash == Some(set.hash) && !seen.credentials_wrong, &seen.rev) {
                    let given = Given::new(digest, rev.clone());
                    memory
                        .set_deployed(&self.deps.ledger, &wanted.name, &home_of(c, &view.homes), (given, now))
                        .await?;
                }
            }
        }
        Ok(())
    }

    /// Offers the flows that were edited where the spec says that edits are adopted.
    pub(super) async fn publish_edited(&self, view: &View) {
        let before = self.edited.borrow().clone();
        let mut drafts = Vec::new();
        for (spec, wanted) in view.chosen.state.instances.iter().zip(&view.desired.instances) {
            let Some(c) = principal(view, wanted).filter(|_| drift(spec) == Drift::Adopt) else { continue };
            let (Some(base), Some(AppSeen::NodeRed(seen))) = (wanted.flow_set, view.apps.get(&c.id)) else { continue };
            if !was_given(&view.given, c, base, &view.homes) {
                continue;
            }
            let content = seen.edited.as_ref().and(seen.hash);
            let same = |d: &&RawDraft| d.instance == spec.name && d.base == base && Some(d.content) == content;
            match before.iter().find(same) {
                Some(known) => drafts.push(known.clone()),
                None => {
                    let path = self.deps.blobs.join("sha256").join(base.hex());
                    let (Some(content), Ok(tar)) = (content, tokio::fs::read(path).await) else { continue };
                    drafts.extend(draft(spec, (base, &tar), content, seen));
                }
            }
        }
        self.edited.send_if_modified(|d| std::mem::replace(d, drafts.clone()) != drafts);
    }
}

/// The flow set that the instance was given, with the flows that it has now.
fn draft(spec: &InstanceSpec, (base, tar): (Digest, &[u8]), content: Digest, seen: &NodeRedSeen) -> Option<RawDraft> {
    let tar = flows::repack(tar, seen.edited.as_ref()?).ok()?.into();
    tracing::info!(instance.name = %spec.name, flows.hash = %content, "flows were edited at the host: a draft goes up");
    Some(RawDraft { instance: spec.name.clone(), base, content, tar })
}
