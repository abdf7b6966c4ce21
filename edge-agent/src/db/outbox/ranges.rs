//! Sets of sequence numbers as inclusive ranges, and their coded form in a stream's row. PURE.
use std::collections::BTreeMap;

/// Disjoint, never adjacent, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    /// How many ranges, not how many numbers.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Holds no number.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The ranges in order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.0.iter().map(|(f, l)| (*f, *l))
    }

    /// How many numbers.
    pub fn count(&self) -> u64 {
        self.iter().map(|(f, l)| l - f + 1).sum()
    }

    /// Adds `first..=last`; nothing if that is empty.
    pub fn insert(&mut self, mut first: u64, mut last: u64) {
        if first > last {
            return;
        }
        // Everything that overlaps or touches melts into one.
        while let Some((f, l)) = self.0.range(..=last.saturating_add(1)).next_back().map(|(f, l)| (*f, *l)) {
            if l < first.saturating_sub(1) {
                break;
            }
            first = first.min(f);
            last = last.max(l);
            self.0.remove(&f);
        }
        self.0.insert(first, last);
    }

    /// Takes `first..=last` out.
    pub fn remove(&mut self, first: u64, last: u64) {
        if first > last {
            return;
        }
        while let Some((f, l)) = self.0.range(..=last).next_back().map(|(f, l)| (*f, *l)) {
            if l < first {
                break;
            }
            self.0.remove(&f);
            if l > last {
                self.0.insert(last + 1, l);
            }
            if f < first {
                self.0.insert(f, first - 1);
            }
        }
    }

    /// Adds every number of another set.
    pub fn union(&mut self, other: &Self) {
        other.iter().for_each(|(f, l)| self.insert(f, l));
    }

    /// What is here and not there.
    pub fn minus(&self, other: &Self) -> Self {
        let mut left = self.clone();
        other.iter().for_each(|(f, l)| left.remove(f, l));
        left
    }

    /// What of this lies within `first..=last`.
    pub fn within(&self, first: u64, last: u64) -> Self {
        let mut left = self.clone();
        if first > 0 {
            left.remove(0, first - 1);
        }
        if last < u64::MAX {
            left.remove(last + 1, u64::MAX);
        }
        left
    }

    /// The last number of the range that holds `n`.
    pub fn end_of(&self, n: u64) -> Option<u64> {
        self.0.range(..=n).next_back().and_then(|(_, l)| (*l >= n).then_some(*l))
    }

    /// The first range's start after `n`.
    pub fn next_start(&self, n: u64) -> Option<u64> {
        self.0.range(n.saturating_add(1)..).next().map(|(f, _)| *f)
    }

    /// Coded form: per range the distance from the last end and its length, as variable-length numbers.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.len() * 4);
        let mut at = 0;
        for (f, l) in self.iter() {
            prost::encoding::encode_varint(f - at, &mut out);
            prost::encoding::encode_varint(l - f, &mut out);
            at = l;
        }
        out
    }

    /// Reads the coded form; `None` if it is not one.
    pub fn decode(mut coded: &[u8]) -> Option<Self> {
        let mut set = Self::default();
        let mut at = 0_u64;
        while !coded.is_empty() {
            let first = at.checked_add(prost::encoding::decode_varint(&mut coded).ok()?)?;
            let last = first.checked_add(prost::encoding::decode_varint(&mut coded).ok()?)?;
            set.insert(first, last);
            at = last;
        }
        Some(set)
    }
}

impl FromIterator<(u64, u64)> for Ranges {
    fn from_iter<I: IntoIterator<Item = (u64, u64)>>(ranges: I) -> Self {
        let mut set = Self::default();
        ranges.into_iter().for_each(|(f, l)| set.insert(f, l));
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn ranges_behave_like_a_set_of_numbers(acts in prop::collection::vec((any::<bool>(), 1..60_u64, 0..12_u64), 0..60)) {
            let (mut ranges, mut set) = (Ranges::default(), BTreeSet::new());
            for (add, first, more) in acts {
                let last = first + more;
                if add {
                    ranges.insert(first, last);
                    set.extend(first..=last);
                } else {
                    ranges.remove(first, last);
                    set.retain(|n| !(first..=last).contains(n));
                }
            }
            prop_assert_eq!(ranges.count(), set.len() as u64);
            prop_assert!(ranges.iter().all(|(f, l)| (f..=l).all(|n| set.contains(&n))));
            let pairs: Vec<_> = ranges.iter().collect();
            prop_assert!(pairs.windows(2).all(|w| w[0].1 + 1 < w[1].0), "touching ranges melt: {:?}", pairs);
            prop_assert_eq!(Ranges::decode(&ranges.encode()), Some(ranges.clone()));
            for n in 0..80 {
                prop_assert_eq!(ranges.end_of(n).is_some(), set.contains(&n));
                prop_assert_eq!(ranges.within(n, n + 5).count(), (n..=n + 5).filter(|n| set.contains(n)).count() as u64);
            }
        }

        #[test]
        fn garbage_never_panics(coded in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = Ranges::decode(&coded);
        }
    }
}
