//! Records that a hub has acked: landed with a host's certificate and no agent, journalled at the ack, and looked for at
//! the end of a story by the independent checker. Knows nothing of what the story does to the hub meanwhile.
use prost::Message as _;
use redforge_shared::wire::pb::{self, upload_request, upload_response};
use redforge_tests::{hub::TestHub, place::folder, upload::Upload};
use std::{fs, io::Write as _, path::PathBuf};
use tempfile::TempDir;

const BATCH: u64 = 20;

/// What was acked so far, and the host that it was acked to.
pub struct Acked {
    place: TempDir,
    config: rustls::ClientConfig,
    next: u64,
}

impl Acked {
    /// Enrolls a host by hand; nothing has landed yet.
    pub async fn by_hand(hub: &TestHub) -> Self {
        let identity = handmade(hub).await;
        let config = redforge_tests::handmade::config(&hub.root_pem(), Some(identity));
        Self { place: folder(), config, next: 1 }
    }

    /// The host's certificate.
    pub fn config(&self) -> rustls::ClientConfig {
        self.config.clone()
    }

    /// Lands a batch of keyed events and writes their keys down once the hub has acked them.
    pub async fn land(&mut self, hub: &TestHub) {
        let mut upload = Upload::greeted(hub.agents_port, self.config()).await;
        let (first, last) = (self.next, self.next + BATCH - 1);
        let stream = pb::StreamId { class: pb::RecordClass::Event.into(), epoch: vec![5; 16].into() };
        let records = (first..=last).map(event).collect();
        let batch = pb::Batch { stream: Some(stream.clone()), first_seq: first, records, live: true };
        let answer = upload.say(upload_request::Message::Batch(batch)).await.expect("is answered");
        let ack = pb::Ack { stream: Some(stream), first_seq: first, last_seq: last };
        assert_eq!(answer, Some(upload_response::Message::Ack(ack)));
        let mut journal = fs::File::options().create(true).append(true).open(self.journal()).expect("own folder");
        for seq in first..=last {
            writeln!(journal, "{{\"key\": \"{}\"}}", key(seq)).expect("own file");
        }
        self.next = last + 1;
    }

    /// Everything acked lies in PostgreSQL, once.
    pub fn are_all_there(&self, hub: &TestHub) {
        assert!(self.next > 1, "nothing was ever acked");
        let checked = hub.checker(&["--keyed", &self.journal().display().to_string()]);
        assert!(checked.good, "{}", checked.text);
    }

    fn journal(&self) -> PathBuf {
        self.place.path().join("acked.jsonl")
    }
}

fn key(seq: u64) -> String {
    format!("by-hand-{seq}")
}

fn event(seq: u64) -> bytes::Bytes {
    let body = pb::EventRecord { name: "pressed".into(), payload_json: "{}".into() };
    let at = Some(redforge_shared::wire::timestamp(time::OffsetDateTime::UNIX_EPOCH));
    let body = Some(pb::sealed_record::Body::Event(body));
    pb::SealedRecord { at, key: key(seq), body, ..Default::default() }.encode_to_vec().into()
}

/// A host that this story enrolls with its own hands.
async fn handmade(hub: &TestHub) -> redforge_shared::tls::Identity {
    let mut operator = hub.operator().await;
    operator.site("plant").await;
    let token = operator.enroll_token("plant").await;
    redforge_tests::handmade::enroll(hub.agents_port, &hub.root_pem(), token.token, "by-hand").await
}
