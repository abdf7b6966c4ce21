//! How far a transfer is, in bytes, summed over its parts (layers of an image, blobs of a model). Written by whoever
//! transfers, read by passes; it knows neither.
use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

/// More parts than any image has.
const MAX_PARTS: usize = 1024;

/// The sums of one transfer.
#[derive(Debug, Default)]
pub struct Meter {
    /// Bytes that are there, and in all, by part.
    parts: Mutex<BTreeMap<String, (u64, u64)>>,
}

impl Meter {
    /// Notes how far a part is. A part never goes back: an engine counts a layer once more while it unpacks it.
    pub fn part(&self, id: &str, done: u64, total: u64) {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        if parts.len() >= MAX_PARTS && !parts.contains_key(id) {
            return;
        }
        let part = parts.entry(id.to_owned()).or_default();
        part.1 = part.1.max(total);
        part.0 = part.0.max(done.min(part.1));
    }

    /// A part is whole.
    pub fn whole(&self, id: &str) {
        if let Some(part) = self.parts.lock().unwrap_or_else(PoisonError::into_inner).get_mut(id) {
            part.0 = part.1;
        }
    }

    /// Bytes that are there, and in all as far as is known.
    pub fn read(&self) -> (u64, u64) {
        let parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        parts.values().fold((0, 0), |(d, t), (done, total)| (d.saturating_add(*done), t.saturating_add(*total)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_add_up_and_never_go_back() {
        let meter = Meter::default();
        assert_eq!(meter.read(), (0, 0));
        meter.part("a", 10, 100);
        meter.part("b", 5, 50);
        meter.part("a", 40, 100);
        assert_eq!(meter.read(), (45, 150));
        // Unpacking begins at nought again; a total that shrinks is a lie.
        meter.part("a", 0, 100);
        meter.part("b", 60, 1);
        assert_eq!(meter.read(), (90, 150));
        meter.whole("a");
        meter.whole("unheard of");
        assert_eq!(meter.read(), (150, 150));
    }

    #[test]
    fn an_endless_list_of_parts_takes_no_endless_memory() {
        let meter = Meter::default();
        (0..5_000).for_each(|i| meter.part(&i.to_string(), 1, 1));
        assert_eq!(meter.read(), (MAX_PARTS as u64, MAX_PARTS as u64));
    }
}
