//! What instances say that waits for them: numbers by which the reconciler scales. They go no further than this host.
//!
//! One retained message per instance on `redforge/scale/<instance>`, `{"queue": 240}`. The broker lets each instance write
//! its own only. What cannot be read is handed on as any message that is no record: refused, counted and said once.
use crate::runtime::{QueueHeard, QueuesHeard};
use redforge_shared::{ids::Name, scale::SCALE_TOPIC};
use serde::Deserialize;
use tokio::{sync::watch, time::Instant};

/// Longest message.
const MAX_BYTES: usize = 256;
/// Instances that are kept apart; a host has fewer.
const MAX_INSTANCES: usize = 1_000;
/// Largest number that means something.
const MAX_WAITING: u64 = 1 << 53;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Message {
    queue: u64,
}

/// The instance and its number; none = it cannot be read.
fn read(topic: &str, payload: &[u8]) -> Option<(Name, u64)> {
    let instance = topic.strip_prefix(SCALE_TOPIC)?.parse().ok()?;
    let fits = payload.len() <= MAX_BYTES;
    let Message { queue } = fits.then(|| serde_json::from_slice(payload).ok()).flatten()?;
    (queue <= MAX_WAITING).then_some((instance, queue))
}

/// Takes a message; false = it is none.
pub fn take(topic: &str, payload: &[u8], heard: &watch::Sender<QueuesHeard>) -> bool {
    let Some((instance, waiting)) = read(topic, payload) else { return false };
    let news = QueueHeard { waiting, at: Instant::now() };
    heard.send_if_modified(|all| {
        if all.len() >= MAX_INSTANCES && !all.contains_key(&instance) {
            return false;
        }
        // The same number again is no news, but it is still true.
        all.insert(instance.clone(), news).map(|h| h.waiting) != Some(waiting)
    });
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_number_of_an_instance_is_taken() {
        let heard = watch::Sender::new(QueuesHeard::new());
        let topic = format!("{SCALE_TOPIC}flows");
        assert!(take(&topic, br#"{"queue": 240}"#, &heard));
        let long = format!(r#"{{"queue": 1{}}}"#, " ".repeat(MAX_BYTES));
        let bad: [(&str, &[u8]); 9] = [
            (&topic, b""),
            (&topic, b"240"),
            (&topic, br#"{"queue": -1}"#),
            (&topic, br#"{"queue": 1.5}"#),
            (&topic, br#"{"queue": 99999999999999999}"#),
            (&topic, br#"{"queue": 1, "of": "me"}"#),
            (&topic, long.as_bytes()),
            ("redforge/scale/Not A Name", br#"{"queue": 1}"#),
            ("redforge/scale/flows/deeper", br#"{"queue": 1}"#),
        ];
        for (topic, payload) in bad {
            assert!(!take(topic, payload, &heard), "{topic} {}", String::from_utf8_lossy(payload));
        }
        let all = heard.borrow();
        assert_eq!(all.iter().map(|(n, h)| (n.as_str(), h.waiting)).collect::<Vec<_>>(), [("flows", 240)]);
    }
}
