//! Pushing a flow set by hand: pieces in the wrong order, too much, too little, broken off.
use redforge_shared::{
    flows::{Flows, pack},
    ids::Digest,
    wire::pb::{self, push_flow_set_request::Message},
};
use redforge_tests::{
    hub::TestHub,
    operator::Operator,
    wait::{eventually, when},
};
use tokio::sync::mpsc;
use tonic::{Code, Status};

const PIECE: usize = 64 * 1024;

/// A flow set of a few pieces.
fn tar() -> Vec<u8> {
    // No two pieces are alike.
    let wide: String = (0..PIECE).map(|n| n.to_string()).collect();
    let export = format!(r#"[{{"id":"t1","type":"tab","info":"{wide}"}}]"#);
    let (flows, names) = Flows::parse(export.as_bytes()).expect("the story's own flows");
    pack(&flows, &names)
}

fn header(tar: &[u8]) -> Message {
    Message::Header(pb::PushFlowSetHeader {
        name: "flowsets/notes".into(),
        digest: Digest::of(tar).0.to_vec().into(),
        size_bytes: tar.len() as u64,
        stage_only: false,
    })
}

fn pieces(tar: &[u8]) -> Vec<Message> {
    tar.chunks(PIECE).map(|c| Message::Chunk(bytes::Bytes::copy_from_slice(c))).collect()
}

async fn push(operator: &mut Operator, messages: Vec<Message>) -> Result<pb::PushFlowSetResponse, Status> {
    let messages = messages.into_iter().map(|m| pb::PushFlowSetRequest { message: Some(m) });
    Ok(operator.admin.push_flow_set(tokio_stream::iter(messages.collect::<Vec<_>>())).await?.into_inner())
}

async fn rows(hub: &TestHub) -> i64 {
    let sql = "SELECT (SELECT count(*) FROM artifact) + (SELECT count(*) FROM artifact_chunk) \
               + (SELECT count(*) FROM flow_set)";
    sqlx::query_scalar(sql).fetch_one(&hub.postgres.pool().await).await.expect("the hub's tables are there")
}

#[tokio::test]
async fn a_flow_set_that_does_not_come_as_announced_is_refused_and_leaves_nothing() {
    let hub = TestHub::start().await;
    let mut operator = hub.operator().await;
    let tar = tar();
    let with = |messages: Vec<Message>| [vec![header(&tar)], messages].concat();
    let mut swapped = pieces(&tar);
    swapped.swap(1, 2);
    let mut short = pieces(&tar);
    short.pop();
    let mut long = pieces(&tar);
    long.push(Message::Chunk(bytes::Bytes::from_static(b"more")));
    let mut other = tar.clone();
    other[PIECE] ^= 1;
    let large = vec![Message::Chunk(bytes::Bytes::from(vec![b'x'; 256 * 1024 + 1]))];
    for (messages, told) in [
        (with(swapped), "the flow set's digest is sha256:"),
        (with(pieces(&other)), "the flow set's digest is sha256:"),
        (with(short), "bytes came, the header says"),
        (with(long), "more bytes came than the"),
        (with(large), "has 262145 bytes, more than 262144"),
        (with(vec![header(&tar)]), "the header came twice"),
        (pieces(&tar), "the first message must be the header"),
        (vec![], "the first message must be the header"),
    ] {
        let status = push(&mut operator, messages).await.expect_err(told);
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        assert!(status.message().contains(told), "{told}: {status:?}");
    }
    assert_eq!(rows(&hub).await, 0, "something of a refused flow set stayed");
    let pushed = push(&mut operator, with(pieces(&tar))).await.expect("in order it is taken");
    assert!(pushed.changed);
}

#[tokio::test]
async fn an_upload_that_breaks_off_leaves_no_rows_and_gives_its_place_back() {
    let hub = TestHub::start().await;
    let tar = tar();
    // More than may be on their way at once, each broken off in the middle: every place must come back.
    for _ in 0..6 {
        let mut operator = hub.operator().await;
        let (out, queue) = mpsc::channel(1);
        let messages = tokio_stream::wrappers::ReceiverStream::new(queue);
        let begun = async {
            for message in std::iter::once(header(&tar)).chain(pieces(&tar).into_iter().take(2)) {
                out.send(pb::PushFlowSetRequest { message: Some(message) }).await.expect("is taken");
            }
            // What was sent last has left the queue, so the hub has the header at least.
            out.reserve().await.expect("is taken");
        };
        tokio::select! {
            answer = operator.admin.push_flow_set(messages) => panic!("half of a flow set was answered: {answer:?}"),
            () = begun => {}
        }
    }
    let mut operator = hub.operator().await;
    eventually("places are free again", async || {
        let whole = [vec![header(&tar)], pieces(&tar)].concat();
        let answer = push(&mut operator, whole).await;
        when(answer.is_ok(), answer.err())
    })
    .await;
    let sets: i64 = sqlx::query_scalar("SELECT count(*) FROM artifact")
        .fetch_one(&hub.postgres.pool().await)
        .await
        .expect("the hub's tables are there");
    assert_eq!(sets, 1, "only the whole one is stored");
}
