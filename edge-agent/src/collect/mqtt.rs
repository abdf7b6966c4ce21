//! Records that flows publish to the host's brokers. One persistent session per broker, QoS 1, acked by hand.
//!
//! A message is acked after its record's commit or after its refusal was counted, so a broker keeps what we have not made
//! durable. The loop that reads the socket only ever hands messages over and never waits for an ack to be taken: a client
//! that does can wait for itself for ever. Each connection has its own queue of acks, which dies with it: an ack must not
//! meet another message that got the same packet id on the next connection.
use super::{OFFER_AGAIN, Tools, broker::Broker, payload, queues};
use crate::{
    db::outbox::OutboxError,
    privacy::Released,
    runtime::{BrokerEndpoint, BrokersHeard, QueuesHeard},
};
use backon::{BackoffBuilder as _, ExponentialBuilder};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use redforge_shared::{
    error::Chain,
    ids::{Digest, HostId, Name},
    record::RecordClass,
    scale::SCALE_TOPIC,
};
use rumqttc::{
    AsyncClient, ClientError, ConnectionError, Event, EventLoop, MqttOptions, Packet, Publish, QoS, SubscribeFilter,
    SubscribeReasonCode,
};
use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

/// Packet ids are 16 bits, so a broker cannot have more unacked; acks always find room.
const REQUESTS: usize = 65_536;
/// Messages handed over and not yet looked at; beyond it a broker ignores its own in-flight limit.
const MAX_QUEUED: usize = 65_536;
/// Messages that are released and appended together.
const TOGETHER: usize = 500;
/// MQTT's own limit; the broker's `message_size_limit` is what bounds a message.
const MAX_PACKET: usize = 268_435_455;
/// Unacked messages without an ack for so long, while the outbox takes records, mean that the link hangs.
const STALL: Duration = Duration::from_secs(60);
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// Where a broker says how many messages it has thrown away.
const DROPPED: &str = "$SYS/broker/publish/messages/dropped";

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error("the connection to the broker broke")]
    Connection(#[from] Box<ConnectionError>),
    #[error("the client takes no requests")]
    Request(#[from] Box<ClientError>),
    #[error("the broker refuses the subscription to records")]
    Subscription,
    #[error("the broker sends more unacked messages than a client may have")]
    Flood,
    #[error("no message was acked for {} s", STALL.as_secs())]
    Stalled,
    #[error("the outbox is gone")]
    Outbox(#[source] OutboxError),
}

/// Collects from every broker that is named, until stopped; says in `heard` which of them hold the session.
pub async fn run(
    mut brokers: watch::Receiver<Vec<BrokerEndpoint>>,
    tools: Tools,
    host: HostId,
    heard: watch::Sender<BrokersHeard>,
    stop: CancellationToken,
) {
    let mut links = FuturesUnordered::new();
    let mut running = BTreeMap::<Name, (BrokerEndpoint, CancellationToken)>::new();
    loop {
        let wanted = brokers.borrow_and_update().clone();
        running.retain(|_, (endpoint, stop)| {
            let stays = wanted.contains(endpoint);
            if !stays {
                stop.cancel();
            }
            stays
        });
        for endpoint in wanted {
            running.entry(endpoint.instance.clone()).or_insert_with(|| {
                let stop = stop.child_token();
                links.push(keep(endpoint.clone(), tools.clone(), client_id(host), heard.clone(), stop.clone()));
                (endpoint, stop)
            });
        }
        tokio::select! {
            changed = brokers.changed() => if changed.is_err() { stop.cancelled().await },
            Some(()) = links.next() => {}
            () = stop.cancelled() => {}
        }
        if stop.is_cancelled() {
            return;
        }
    }
}

/// The same for ever, so that the broker keeps the session while the agent is away.
fn client_id(host: HostId) -> String {
    format!("redforge-edge-{}", &Digest::of(host.to_string().as_bytes()).hex()[..8])
}

/// One broker, connected again for as long as it is wanted.
async fn keep(
    endpoint: BrokerEndpoint,
    tools: Tools,
    client_id: String,
    heard: watch::Sender<BrokersHeard>,
    stop: CancellationToken,
) {
    let pauses = || {
        let bounds = ExponentialBuilder::default().with_min_delay(Duration::from_millis(200));
        bounds.with_max_delay(Duration::from_secs(15)).without_max_times().with_jitter().build()
    };
    let mut pause = pauses();
    loop {
        let began = Instant::now();
        let ended = tokio::select! {
            ended = connection(&endpoint, &tools, &client_id, &heard) => ended,
            () = stop.cancelled() => return,
        };
        let Err(e) = ended;
        tracing::warn!(instance.name = %endpoint.instance, error = %Chain(&e), "broker: connecting again");
        if began.elapsed() > Duration::from_secs(30) {
            pause = pauses();
        }
        tokio::select! {
            () = tokio::time::sleep(pause.next().unwrap_or(KEEP_ALIVE)) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// What the parts of a connection share.
#[derive(Debug, Default)]
struct Progress {
    taken: AtomicU64,
    acked: AtomicU64,
    /// The outbox takes nothing now: waiting is right.
    held: AtomicBool,
}

async fn connection(
    endpoint: &BrokerEndpoint,
    tools: &Tools,
    client_id: &str,
    heard: &watch::Sender<BrokersHeard>,
) -> Result<Infallible, LinkError> {
    let broker = Broker::open(endpoint, tools, heard.clone()).await.map_err(LinkError::Outbox)?;
    let mut options = MqttOptions::new(client_id, endpoint.addr.ip().to_string(), endpoint.addr.port());
    options.set_keep_alive(KEEP_ALIVE).set_clean_session(false).set_manual_acks(true);
    options.set_credentials(&endpoint.user, &endpoint.password).set_max_packet_size(MAX_PACKET, MAX_PACKET);
    let (client, mut events) = AsyncClient::new(options, REQUESTS);
    let (hand_over, queue) = mpsc::unbounded_channel();
    let progress = Progress::default();
    // All of them run at once; the first to end ends the others, and with them the queue of acks.
    tokio::select! {
        ended = listen(&mut events, &client, &hand_over, &progress, (&broker, &tools.queues)) => ended,
        ended = take(queue, &client, tools, &progress, &endpoint.instance) => ended,
        ended = watch_for_stall(&progress) => ended,
        ended = broker.count() => ended.map_err(LinkError::Outbox),
    }
}

/// Reads the socket and hands messages over; waits for nothing else.
async fn listen(
    events: &mut EventLoop,
    client: &AsyncClient,
    hand_over: &mpsc::UnboundedSender<Publish>,
    progress: &Progress,
    (broker, told): (&Broker, &watch::Sender<QueuesHeard>),
) -> Result<Infallible, LinkError> {
    loop {
        match events.poll().await.map_err(Box::new)? {
            Event::Incoming(Packet::ConnAck(ack)) => {
                broker.connected(ack.session_present);
                let records = SubscribeFilter::new(format!("{}+", payload::TOPIC), QoS::AtLeastOnce);
                let sys = SubscribeFilter::new(DROPPED.into(), QoS::AtMostOnce);
                let queues = SubscribeFilter::new(format!("{SCALE_TOPIC}+"), QoS::AtMostOnce);
                client.try_subscribe_many([records, sys, queues]).map_err(Box::new)?;
            }
            // The broker may keep its own numbers from us; records it may not.
            Event::Incoming(Packet::SubAck(a)) => match a.return_codes.first() {
                Some(SubscribeReasonCode::Success(_)) => broker.subscribed(),
                _ => return Err(LinkError::Subscription),
            },
            Event::Incoming(Packet::Publish(p)) if p.topic == DROPPED => broker.said(&p.payload),
            Event::Incoming(Packet::Publish(p)) if queues::take(&p.topic, &p.payload, told) => {}
            Event::Incoming(Packet::Publish(p)) => {
                let taken = progress.taken.fetch_add(1, Ordering::Relaxed);
                if taken - progress.acked.load(Ordering::Relaxed) > MAX_QUEUED as u64 {
                    return Err(LinkError::Flood);
                }
                // The other end lives as long as this does.
                drop(hand_over.send(p));
            }
            _ => {}
        }
    }
}

/// Messages of a class that wait for the outbox.
#[derive(Default)]
struct Waiting {
    records: Vec<Released>,
    messages: Vec<Publish>,
    /// Not records; they are acked when that is counted.
    refused: Vec<Publish>,
}

/// Releases, appends, then acks.
async fn take(
    mut queue: mpsc::UnboundedReceiver<Publish>,
    client: &AsyncClient,
    tools: &Tools,
    progress: &Progress,
    instance: &Name,
) -> Result<Infallible, LinkError> {
    let mut waiting = BTreeMap::<RecordClass, Waiting>::new();
    let mut arrived = Vec::new();
    loop {
        if waiting.is_empty() {
            if queue.recv_many(&mut arrived, TOGETHER).await == 0 {
                std::future::pending::<()>().await;
            }
        } else {
            progress.held.store(true, Ordering::Relaxed);
            tokio::time::sleep(OFFER_AGAIN).await;
            while arrived.len() < TOGETHER
                && let Ok(p) = queue.try_recv()
            {
                arrived.push(p);
            }
        }
        for p in arrived.drain(..) {
            sort(p, instance, tools, &mut waiting);
        }
        // A class without room must not hold up the others.
        for (class, mut w) in std::mem::take(&mut waiting) {
            match offer(class, &mut w, tools).await {
                Ok(()) => {
                    fail::fail_point!("puback.before");
                    for p in w.messages.iter().chain(&w.refused) {
                        client.try_ack(p).map_err(Box::new)?;
                        progress.acked.fetch_add(1, Ordering::Relaxed);
                    }
                }
                Err(e @ (OutboxError::Stopped | OutboxError::Open(_))) => return Err(LinkError::Outbox(e)),
                Err(e) => {
                    tracing::warn!(record.class = %class, error = %Chain(&e), "records wait at the broker");
                    waiting.insert(class, w);
                }
            }
        }
        if waiting.is_empty() {
            progress.held.store(false, Ordering::Relaxed);
        }
    }
}

/// Makes a record of a message, or a refusal.
fn sort(p: Publish, instance: &Name, tools: &Tools, waiting: &mut BTreeMap<RecordClass, Waiting>) {
    // A topic that names no class is counted where people look first.
    let class = payload::class_of(&p.topic).unwrap_or(RecordClass::Event);
    let w = waiting.entry(class).or_default();
    match payload::read(&p.topic, &p.payload, p.dup, tools.clock.now()) {
        Ok(raw) => match tools.gate.release(raw) {
            Ok(released) => {
                w.records.push(released);
                w.messages.push(p);
            }
            Err(e) => {
                tools.refusals.at_the_gate(instance, class, &e);
                w.refused.push(p);
            }
        },
        Err(e) => {
            tools.refusals.unreadable(instance, class, &e);
            w.refused.push(p);
        }
    }
}

async fn offer(class: RecordClass, w: &mut Waiting, tools: &Tools) -> Result<(), OutboxError> {
    if !w.records.is_empty() {
        tools.outbox.append(w.records.clone(), None).await?;
        w.records.clear();
    }
    if !w.refused.is_empty() {
        tools.outbox.count_refused(class, w.refused.len() as u64).await?;
    }
    Ok(())
}

/// Ends when messages wait and none is acked, though the outbox takes records.
async fn watch_for_stall(progress: &Progress) -> Result<Infallible, LinkError> {
    let mut last = (0, Instant::now());
    loop {
        tokio::time::sleep(STALL / 12).await;
        let (taken, acked) = (progress.taken.load(Ordering::Relaxed), progress.acked.load(Ordering::Relaxed));
        if acked != last.0 || taken == acked || progress.held.load(Ordering::Relaxed) {
            last = (acked, Instant::now());
        } else if last.1.elapsed() >= STALL {
            return Err(LinkError::Stalled);
        }
    }
}

#[cfg(test)]
mod tests;
