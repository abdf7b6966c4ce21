//! One message to a broker and the one that comes back: a session of its own, gone with the connection.
use super::{super::mosquitto::ECHO_TOPIC, Login, contains};
use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Packet, QoS, SubscribeReasonCode};
use std::time::Duration;

/// Largest answer that is read.
const MAX_PACKET: usize = 1 << 20;

/// Does the broker pass on to us what we publish?
pub async fn echoes(login: &Login) -> bool {
    let message = format!("echo-{}", drawn());
    round_trip(login, ECHO_TOPIC, ECHO_TOPIC, &message, &message).await.is_some()
}

/// Does somebody answer `message` on `answer_topic` with what is expected?
pub async fn answers(login: &Login, topic: &str, answer_topic: &str, message: &str, expect: &str) -> bool {
    round_trip(login, topic, answer_topic, message, expect).await.is_some()
}

fn drawn() -> String {
    let mut bytes = [0; 8];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system has random bytes");
    hex::encode(bytes)
}

/// None: the connection or the subscription was refused.
async fn round_trip(login: &Login, topic: &str, answer_topic: &str, message: &str, expect: &str) -> Option<()> {
    // Never the id of the session that records are collected by: two of one id throw each other out.
    let id = format!("redforge-probe-{}", drawn());
    let mut options = MqttOptions::new(id, login.address.ip().to_string(), login.address.port());
    options.set_keep_alive(Duration::from_secs(30)).set_clean_session(true);
    options.set_credentials(&login.user, &login.password).set_max_packet_size(MAX_PACKET, MAX_PACKET);
    let (client, mut events) = AsyncClient::new(options, 8);
    client.try_subscribe(answer_topic, QoS::AtMostOnce).ok()?;
    let heard = hear(&client, &mut events, (topic, message), expect).await;
    if heard.is_some() && client.try_disconnect().is_ok() {
        // Said so that the broker logs no broken connection; whether it arrives changes nothing.
        drop(tokio::time::timeout(Duration::from_secs(1), events.poll()).await);
    }
    heard
}

async fn hear(client: &AsyncClient, events: &mut EventLoop, say: (&str, &str), expect: &str) -> Option<()> {
    loop {
        match events.poll().await.ok()? {
            Event::Incoming(Packet::SubAck(ack)) => {
                if !matches!(ack.return_codes.first(), Some(SubscribeReasonCode::Success(_))) {
                    return None;
                }
                client.try_publish(say.0, QoS::AtMostOnce, false, say.1).ok()?;
            }
            // What was retained from earlier is no answer to this.
            Event::Incoming(Packet::Publish(p)) if !p.retain && contains(&p.payload, expect.as_bytes()) => {
                return Some(());
            }
            _ => {}
        }
    }
}
