//! What a host removes by itself: what nothing needs any more, when it goes, and what went.
//!
//! Names are references, models, digests and volumes of desired states. It decides nothing: the agent does.
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

words!(
    /// What is left over.
    Leftover { Image, Model, Volume, Blob }
);

/// Most leftovers that a report names.
pub const MAX_UNNEEDED: usize = 32;

/// Something that nothing needs any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unneeded {
    pub kind: Leftover,
    /// The image's reference, instance and model, the volume, or the blob's digest.
    pub name: String,
    /// What it takes, as far as that is known; what it shares with others is counted too.
    #[serde(default)]
    pub bytes: u64,
    /// When it is removed; none: it stays until the settings say something else.
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub removed_at: Option<OffsetDateTime>,
}

/// How many of each were removed since the agent's ledger was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Removed {
    pub images: u64,
    pub models: u64,
    pub volumes: u64,
    pub blobs: u64,
}

impl Removed {
    /// The number of this kind.
    pub fn of(&mut self, kind: Leftover) -> &mut u64 {
        match kind {
            Leftover::Image => &mut self.images,
            Leftover::Model => &mut self.models,
            Leftover::Volume => &mut self.volumes,
            Leftover::Blob => &mut self.blobs,
        }
    }
}

/// The whole of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CleanUp {
    /// What goes next, the soonest first, then what stays; at most [`MAX_UNNEEDED`].
    pub unneeded: Vec<Unneeded>,
    /// How many there are in all.
    pub count: u32,
    pub bytes: u64,
    pub removed: Removed,
    /// Room is short: the reserve is given back, and what can be fetched again goes before its time.
    pub short: bool,
}

impl CleanUp {
    /// Of everything that is left over.
    pub fn of(mut all: Vec<Unneeded>, removed: Removed, short: bool) -> Self {
        all.sort_by(|a, b| {
            (a.removed_at.is_none(), a.removed_at, &a.name).cmp(&(b.removed_at.is_none(), b.removed_at, &b.name))
        });
        let (count, bytes) = (all.len() as u32, all.iter().fold(0, |sum: u64, u| sum.saturating_add(u.bytes)));
        all.truncate(MAX_UNNEEDED);
        Self { unneeded: all, count, bytes, removed, short }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_soonest_is_named_first_and_everything_is_counted() {
        let at = |s: i64| OffsetDateTime::from_unix_timestamp(s).ok();
        let one = |n: usize, removed_at| Unneeded {
            kind: Leftover::Image,
            name: format!("i{n:02}"),
            bytes: u64::MAX / 2,
            removed_at,
        };
        let mut all: Vec<_> = (0..40).map(|n| one(n, at(1_000 - n as i64))).collect();
        all.push(one(40, None));
        let said = CleanUp::of(all, Removed::default(), false);
        assert_eq!((said.count, said.bytes, said.unneeded.len()), (41, u64::MAX, MAX_UNNEEDED));
        assert_eq!((said.unneeded[0].name.as_str(), said.unneeded[31].name.as_str()), ("i39", "i08"));
    }
}
