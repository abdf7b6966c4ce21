//! Sends drafts of flow sets up, each once per process; the hub knows a draft it has by its digest.
//!
//! A draft that the hub does not take now (its own view of the instance may be older than ours) is offered again later, as
//! long as the edit is there.
use super::dial::explain;
use crate::{db::ledger::Ledger, drafts::Draft};
use redforge_shared::{
    error::Chain,
    ids::{Digest, Name},
    wire::pb,
};
use std::{collections::BTreeSet, convert::Infallible, time::Duration};
use tokio::sync::watch;
use tonic::{Status, transport::Channel};

/// A draft that was not taken is offered again after this long.
const RETRY: Duration = Duration::from_secs(10);
/// Bytes of one message.
const CHUNK_BYTES: usize = 256 << 10;

/// Sends whatever is offered, until the connection ends.
pub async fn run(channel: Channel, mut offered: watch::Receiver<Vec<Draft>>, ledger: Ledger) -> Infallible {
    let mut client = pb::drafts_client::DraftsClient::new(channel);
    let mut taken: BTreeSet<(Name, Digest)> = BTreeSet::new();
    let mut refused = String::new();
    loop {
        let drafts = offered.borrow_and_update().clone();
        let key = |d: &Draft| (d.instance().clone(), d.digest());
        taken.retain(|t| drafts.iter().any(|d| key(d) == *t));
        for draft in drafts.iter().filter(|d| !taken.contains(&key(d))).collect::<Vec<_>>() {
            match send(&mut client, draft).await {
                Ok(number) => {
                    tracing::info!(instance.name = %draft.instance(), draft.number = number, "the hub has the draft");
                    taken.insert(key(draft));
                    if let Err(e) = ledger.drop_kept_draft(draft.instance(), draft.digest()).await {
                        tracing::warn!(error = %Chain(&e), "a draft that the hub has cannot be dropped here");
                    }
                }
                Err(status) => {
                    let why = explain(&status);
                    if refused != why {
                        tracing::warn!(instance.name = %draft.instance(), error = why, "the hub does not take the draft now");
                        refused = why;
                    }
                }
            }
        }
        tokio::select! {
            // Without a sender nothing new comes; what is there is still offered.
            changed = offered.changed() => if changed.is_err() { tokio::time::sleep(RETRY).await },
            () = tokio::time::sleep(RETRY) => {}
        }
    }
}

async fn send(client: &mut pb::drafts_client::DraftsClient<Channel>, draft: &Draft) -> Result<u64, Status> {
    use pb::push_draft_request::Message;
    let header = pb::PushDraftHeader {
        instance: draft.instance().to_string(),
        base: draft.base().0.to_vec().into(),
        digest: draft.digest().0.to_vec().into(),
        size_bytes: draft.bytes().len() as u64,
    };
    let bytes = draft.bytes().clone();
    let chunks = (0..bytes.len()).step_by(CHUNK_BYTES);
    let chunks: Vec<_> = chunks.map(|at| bytes.slice(at..bytes.len().min(at + CHUNK_BYTES))).collect();
    let messages = std::iter::once(Message::Header(header)).chain(chunks.into_iter().map(Message::Chunk));
    let messages: Vec<_> = messages.map(|m| pb::PushDraftRequest { message: Some(m) }).collect();
    Ok(client.push(tokio_stream::iter(messages)).await?.into_inner().number)
}
