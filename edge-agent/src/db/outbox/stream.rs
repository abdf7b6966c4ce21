//! A stream's row as it is in memory, and the plain data that the outbox tells others.
use super::ranges::Ranges;
use redforge_shared::{ids::Epoch, record::RecordClass};
use std::{collections::BTreeMap, fmt};
use time::OffsetDateTime;

/// (class, epoch); the host is understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamName {
    pub class: RecordClass,
    pub epoch: Epoch,
}

impl fmt::Display for StreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.class, self.epoch)
    }
}

/// Why a record will never reach the hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LostReason {
    /// A size or age cap of its class was reached.
    Dropped,
    /// The hub refused it repeatedly.
    Quarantined,
    /// The file was damaged.
    Salvage,
}

impl LostReason {
    /// Every reason, in the order of their coded form.
    pub const ALL: [Self; 3] = [Self::Dropped, Self::Quarantined, Self::Salvage];
}

/// A stream of which the outbox still holds records or lost ranges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenStream {
    pub name: StreamName,
    /// Highest number ever given.
    pub max_seq: u64,
    pub lost: Vec<(LostReason, u64, u64)>,
    /// When its first record was appended.
    pub opened_at: OffsetDateTime,
    /// Grows with every change of `lost`.
    pub lost_revision: u64,
}

/// A run of one stream, ready to be sent. The records are opaque.
#[derive(Clone, Debug)]
pub struct SealedBatch {
    pub stream: StreamName,
    pub first_seq: u64,
    pub records: Vec<bytes::Bytes>,
    pub live: bool,
}

impl SealedBatch {
    /// The number of its last record.
    pub fn last_seq(&self) -> u64 {
        self.first_seq + self.records.len() as u64 - 1
    }
}

/// One class in numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassStatus {
    pub class: RecordClass,
    /// Records not yet acked by the hub.
    pub waiting: u64,
    /// Their bytes as stored.
    pub waiting_bytes: u64,
    /// Raw records refused, since the outbox was made.
    pub refused: u64,
    /// Repeats acked to the sender and not stored, since the outbox was made.
    pub absorbed: u64,
    /// Records dropped, quarantined or not salvaged, since the outbox was made.
    pub lost: u64,
    /// When the oldest waiting record was appended.
    pub oldest_at: Option<OffsetDateTime>,
}

/// How much room the outbox has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Room {
    pub max_bytes: u64,
    pub waiting_bytes: u64,
    /// Bytes appended a second since this process opened the file; `None` in its first minute.
    pub appended_bytes_per_s: Option<f64>,
    /// Appends are refused until space is freed.
    pub disk_full: bool,
}

/// Counters of a class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counters {
    pub refused: u64,
    pub absorbed: u64,
    pub lost: u64,
}

/// A stream's row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stream {
    pub id: i64,
    pub class: RecordClass,
    pub epoch: Epoch,
    pub opened_s: i64,
    pub next_seq: u64,
    pub acked: Ranges,
    pub lost: BTreeMap<LostReason, Ranges>,
    /// Records neither acked nor lost, and their bytes with the row's cost.
    pub waiting: u64,
    pub waiting_bytes: u64,
    /// When it last changed; an empty stream is kept for the hub's recovery window after that.
    pub changed_s: i64,
    /// Not stored: grows when `lost` does.
    pub lost_revision: u64,
    /// Not stored: the revision that a hub is known to have noted.
    pub lost_noted: Option<u64>,
}

impl Stream {
    pub(super) fn new(id: i64, class: RecordClass, epoch: [u8; 16], now_s: i64) -> Self {
        Self {
            id,
            class,
            epoch: Epoch(epoch),
            opened_s: now_s,
            next_seq: 1,
            acked: Ranges::default(),
            lost: BTreeMap::new(),
            waiting: 0,
            waiting_bytes: 0,
            changed_s: now_s,
            lost_revision: 0,
            lost_noted: None,
        }
    }

    pub(super) fn name(&self) -> StreamName {
        StreamName { class: self.class, epoch: self.epoch }
    }

    pub(super) fn max_seq(&self) -> u64 {
        self.next_seq - 1
    }

    /// What of `first..=last` was given and is neither acked nor lost.
    pub(super) fn pending(&self, first: u64, last: u64) -> Ranges {
        let mut set = Ranges::default();
        set.insert(first.max(1), last.min(self.max_seq()));
        self.lost.values().fold(set.minus(&self.acked), |set, lost| set.minus(lost))
    }

    /// Does the hub know of everything that is lost?
    pub(super) fn is_told(&self) -> bool {
        self.lost.is_empty() || self.lost_noted == Some(self.lost_revision)
    }

    pub(super) fn open(&self) -> OpenStream {
        OpenStream {
            name: self.name(),
            max_seq: self.max_seq(),
            lost: self.lost.iter().flat_map(|(r, set)| set.iter().map(|(f, l)| (*r, f, l))).collect(),
            opened_at: OffsetDateTime::from_unix_timestamp(self.opened_s).unwrap_or(OffsetDateTime::UNIX_EPOCH),
            lost_revision: self.lost_revision,
        }
    }
}
