//! A host that exists twice, from the fence to the word that lets it in again, on a real PostgreSQL.
use crate::{
    api::{
        ApiError, Caller, Role,
        tests::{VIEWER, bench},
    },
    store::{
        hosts::{Claimed, SessionClaim},
        testing::TestDatabase,
    },
};
use redforge_shared::{
    clock::Clock as _,
    ids::{HostId, RunId},
    report::HostFacts,
    wire::pb,
};
use time::OffsetDateTime;

#[tokio::test]
async fn a_fence_is_shown_and_lifted_for_the_superseded_process_and_falls_again_for_a_second_one() {
    let b = bench(None).await;
    let id = b.db.host("hall", "press-4").await;
    let now = b.clock.now();
    let operator = Caller { name: "ops".into(), role: Role::Operator };
    let claim = async |run: u8, start_no, hello_no| {
        let claim =
            SessionClaim { host: id, run_id: RunId([run; 16]), start_no, hello_no, facts: HostFacts::default() };
        b.db.store.claim_session(&claim, now).await.expect("claims")
    };
    let get =
        async || b.api.get_host(&VIEWER, pb::GetHostRequest { name: "hosts/press-4".into() }).await.expect("reads");
    let resume = async || b.api.resume_host(&operator, pb::ResumeHostRequest { name: "hosts/press-4".into() }).await;
    let paused = (pb::Sync::Paused, pb::StatusReason::Fenced);

    // The copy started later than the original, which speaks again.
    assert_eq!((claim(1, 4, 1).await, claim(2, 5, 1).await), (Claimed::Yes, Claimed::Yes));
    assert_ne!(get().await.reason(), pb::StatusReason::Fenced);
    assert_eq!((claim(1, 4, 2).await, claim(2, 5, 2).await), (Claimed::Clone, Claimed::Fenced));
    let seen = get().await;
    assert_eq!((seen.sync(), seen.reason()), paused);
    // Ahead as well: two decisions, one word for each.
    agent_ahead(&b.db, id, now).await;
    let lifted = resume().await.expect("lifts the fence");
    assert_eq!(lifted.reason(), pb::StatusReason::HubBehind);
    assert_eq!(claim(1, 4, 3).await, Claimed::Yes, "the superseded process is kept out");
    assert_ne!(resume().await.expect("resumes").sync(), pb::Sync::Paused);
    assert!(matches!(resume().await, Err(ApiError::Precondition { reason: "HOST_NOT_PAUSED", .. })));
    let events = b.api.list_events(&VIEWER, pb::ListEventsRequest { limit: 20, ..Default::default() }).await;
    let events: Vec<(String, String)> =
        events.expect("reads").events.into_iter().rev().map(|e| (e.reason, e.actor)).collect();
    let expected = [("HOST_FENCED", "hub"), ("HUB_BEHIND", "hub"), ("HOST_UNFENCED", "ops"), ("HOST_RESUMED", "ops")];
    assert_eq!(events, expected.map(|(r, a)| (r.to_owned(), a.to_owned())));

    // The copy was not stopped after all: it speaks, and so does the first one again.
    assert_eq!(claim(2, 5, 3).await, Claimed::Clone);
    let seen = get().await;
    assert_eq!((seen.sync(), seen.reason()), paused);
    let refused = b.api.resume_host(&VIEWER, pb::ResumeHostRequest { name: "hosts/press-4".into() }).await;
    assert!(matches!(refused, Err(ApiError::Denied { .. })), "{refused:?}");
    assert_eq!(get().await.reason(), pb::StatusReason::Fenced);
}

/// The host's agent holds more than this hub knows.
async fn agent_ahead(db: &TestDatabase, id: HostId, now: OffsetDateTime) {
    let publish = db.store.begin_publish(id).await.expect("locks").expect("the host");
    let name = |n: &str| n.parse().expect("a name");
    let state = redforge_shared::desired::DesiredState {
        schema: 1,
        host: id,
        host_name: name("press-4"),
        site: name("hall"),
        policy: redforge_shared::policy::Policy::Open,
        instances: vec![],
    };
    publish.commit(&state.canonical().expect("canonical"), now).await.expect("commits");
    db.store.pause_behind(id, 9, now).await.expect("pauses");
}
