//! Says what was refused, once per class and field and then now and then: a flow that is wrong is wrong a thousand times a
//! second. The counting is the outbox's; here is only what the log hears.
use super::payload::Unreadable;
use crate::privacy::Refusal;
use redforge_shared::{error::Chain, ids::Name, record::RecordClass};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

/// The same refusal is said again after so long, with how often it happened meanwhile.
const AGAIN: Duration = Duration::from_mins(5);
/// Fields that are told apart; they come from strangers, so there is an end to them.
const MAX_FIELDS: usize = 64;
/// Bytes of a field's name and of a reason that the log gets.
const MAX_FIELD_BYTES: usize = 64;
const MAX_REASON_BYTES: usize = 300;

/// What was said, of every collector. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Refusals(Arc<Mutex<BTreeMap<(RecordClass, String), Said>>>);

#[derive(Debug)]
struct Said {
    at: Instant,
    quiet: u64,
}

impl Refusals {
    /// A message that is no record.
    pub fn unreadable(&self, source: &Name, class: RecordClass, why: &Unreadable) {
        let reason = match why {
            // The parser's own words quote the value that it did not expect, and a log is no way past the gate.
            Unreadable::Json { source, .. } => {
                let kind = if source.is_data() { "a value of another kind" } else { "no JSON" };
                format!("{why}: {kind} at line {} column {}", source.line(), source.column())
            }
            _ => Chain(why).to_string(),
        };
        self.say(source, class, why.field(), &reason);
    }

    /// A record that may not leave.
    pub fn at_the_gate(&self, source: &Name, class: RecordClass, why: &Refusal) {
        let field = match why {
            Refusal::Class(_) => "class",
            Refusal::Malformed(e) => e.field.as_str(),
            Refusal::TooLarge(_) => "size",
        };
        self.say(source, class, field, &Chain(why).to_string());
    }

    fn say(&self, source: &Name, class: RecordClass, field: &str, reason: &str) {
        let (field, reason) = (bounded(field, MAX_FIELD_BYTES), bounded(reason, MAX_REASON_BYTES));
        if let Some(quiet) = self.news(class, field, Instant::now()) {
            tracing::warn!(instance.name = %source, record.class = %class, field, reason, unsaid = quiet,
                "record refused");
        }
    }

    /// Is it worth saying? Then how often it happened since it was said last.
    fn news(&self, class: RecordClass, field: &str, now: Instant) -> Option<u64> {
        let mut all = self.0.lock().expect("no panic while the lock is held");
        let full = all.len() >= MAX_FIELDS && !all.contains_key(&(class, field.to_owned()));
        let key = (class, if full { String::new() } else { field.to_owned() });
        match all.get_mut(&key) {
            Some(said) if now.duration_since(said.at) < AGAIN => {
                said.quiet += 1;
                None
            }
            Some(said) => {
                said.at = now;
                Some(std::mem::take(&mut said.quiet))
            }
            None => {
                all.insert(key, Said { at: now, quiet: 0 });
                Some(0)
            }
        }
    }
}

fn bounded(text: &str, most: usize) -> &str {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_said_once_per_class_and_field_then_with_what_was_not_said() {
        let (refusals, began) = (Refusals::default(), Instant::now());
        let say = |class, field: &str, s| refusals.news(class, field, began + Duration::from_secs(s));
        assert_eq!(say(RecordClass::Log, "line", 0), Some(0));
        assert_eq!(say(RecordClass::Log, "line", 1), None);
        assert_eq!(say(RecordClass::Log, "key", 2), Some(0));
        assert_eq!(say(RecordClass::Vector, "line", 3), Some(0));
        assert_eq!(say(RecordClass::Log, "line", 299), None);
        assert_eq!(say(RecordClass::Log, "line", 301), Some(2));
    }

    /// What the log gets while `body` runs.
    fn logged(body: impl FnOnce()) -> Vec<String> {
        let (lines, all) = std::sync::mpsc::channel();
        let writer = move || Line(lines.clone());
        let log = tracing_subscriber::fmt().with_ansi(false).with_writer(writer).finish();
        tracing::subscriber::with_default(log, body);
        all.into_iter().collect()
    }

    struct Line(std::sync::mpsc::Sender<String>);

    impl std::io::Write for Line {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.send(String::from_utf8_lossy(bytes).into_owned()).expect("the test listens");
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_log_names_instance_class_field_and_reason_once_and_nothing_of_the_message() {
        let now = time::OffsetDateTime::UNIX_EPOCH;
        let why = |text: &str| super::super::payload::read("redforge/records/event", text.as_bytes(), false, now);
        let secret = why(r#"{"name":"n","payload":"patient 4711"}"#).expect_err("a payload is an object");
        let source: Name = "broker".parse().expect("a name");
        let refusals = Refusals::default();
        let lines = logged(|| {
            for _ in 0..1_000 {
                refusals.unreadable(&source, RecordClass::Event, &secret);
                refusals.at_the_gate(&source, RecordClass::Log, &Refusal::TooLarge(9));
            }
        });
        assert_eq!(lines.len(), 2, "a thousand times the same was said more than once: {lines:?}");
        for (line, words) in lines.iter().zip([["event", "payload"], ["log", "size"]]) {
            let said = ["WARN", "record refused", "broker"].iter().chain(&words).all(|w| line.contains(w));
            assert!(said, "{line}");
            assert!(!line.contains("4711"), "the log has what was refused: {line}");
        }
    }

    #[test]
    fn strangers_cannot_fill_the_memory_or_the_log() {
        let (refusals, now) = (Refusals::default(), Instant::now());
        let said = (0..10_000).filter(|n| refusals.news(RecordClass::Event, &n.to_string(), now).is_some()).count();
        assert!(said <= MAX_FIELDS + RecordClass::ALL.len(), "{said}");
        assert!(refusals.0.lock().expect("no panic").len() <= MAX_FIELDS + RecordClass::ALL.len());
        assert_eq!(bounded("äää", 3), "ä");
    }
}
