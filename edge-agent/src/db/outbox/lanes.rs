//! Which run of which stream goes up next. PURE: it sees streams as sets of numbers and reads no row.
//!
//! Live first: what was appended since the session began goes ahead of the backlog, and at most one backlog batch goes
//! between two live ones. Order holds inside a lane.
use super::{ranges::Ranges, stream::Stream};
use redforge_shared::record::{MAX_BATCH_RECORDS, RecordClass};
use std::collections::BTreeMap;

/// Above so many ranges the hub's stream row gets slow: such a stream is only sent oldest first, which closes its gaps.
const MAX_RANGES: usize = 1_000;

/// What a session remembers to choose fairly.
#[derive(Clone, Debug, Default)]
pub(super) struct Turns {
    /// First live number of the streams that could still grow when the session began.
    pub live_from: BTreeMap<i64, u64>,
    /// Highest stream id when the session began; later streams are live as a whole.
    pub born_before: i64,
    pub last_was_backlog: bool,
    pub last_live_class: Option<RecordClass>,
}

/// A run that may be read and sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pick {
    pub stream: i64,
    pub first: u64,
    /// At most; the batch ends earlier where bytes or a missing row end it.
    pub last: u64,
    pub live: bool,
}

/// Chooses the next run; `in_flight` are runs sent and not yet acked.
pub(super) fn pick<'a>(
    streams: impl Iterator<Item = &'a Stream> + Clone,
    in_flight: &BTreeMap<i64, Ranges>,
    turns: &Turns,
) -> Option<Pick> {
    let backlog = || {
        streams.clone().find_map(|s| {
            let until = turns.live_start(s).min(s.next_seq) - 1;
            free_run(s, in_flight.get(&s.id), 1, until).map(|run| run.into_pick(s.id, false))
        })
    };
    let live = || {
        let mut classes: Vec<_> = RecordClass::ALL.into();
        let after_last = turns.last_live_class.and_then(|c| classes.iter().position(|o| *o == c)).map_or(0, |i| i + 1);
        classes.rotate_left(after_last % RecordClass::ALL.len());
        classes.into_iter().find_map(|class| {
            streams.clone().filter(|s| s.class == class).find_map(|s| {
                let run = free_run(s, in_flight.get(&s.id), turns.live_start(s), s.next_seq - 1)?;
                Some(run.into_pick(s.id, true))
            })
        })
    };
    // A session begins with a live batch; after each live one, one of the backlog may go.
    if turns.last_was_backlog || turns.last_live_class.is_none() {
        live().or_else(backlog)
    } else {
        backlog().or_else(live)
    }
}

impl Turns {
    /// Remembers what was sent.
    pub(super) fn sent(&mut self, pick: &Pick, class: RecordClass) {
        self.last_was_backlog = !pick.live;
        if pick.live {
            self.last_live_class = Some(class);
        }
    }

    fn live_start(&self, s: &Stream) -> u64 {
        if s.acked.len() > MAX_RANGES {
            return u64::MAX;
        }
        if s.id > self.born_before { 1 } else { self.live_from.get(&s.id).copied().unwrap_or(u64::MAX) }
    }
}

struct Run(u64, u64);

impl Run {
    fn into_pick(self, stream: i64, live: bool) -> Pick {
        Pick { stream, first: self.0, last: self.1, live }
    }
}

/// The first run within `from..=until` that is neither acked, lost nor in flight, cut to a batch's number of records.
fn free_run(s: &Stream, in_flight: Option<&Ranges>, from: u64, until: u64) -> Option<Run> {
    let taken = || [Some(&s.acked), in_flight].into_iter().flatten().chain(s.lost.values());
    let mut first = from;
    while first <= until {
        match taken().filter_map(|t| t.end_of(first)).max() {
            Some(end) => first = end.checked_add(1)?,
            None => {
                let stop = taken().filter_map(|t| t.next_start(first)).min().map_or(until, |n| n - 1);
                return Some(Run(first, stop.min(until).min(first + MAX_BATCH_RECORDS as u64 - 1)));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(id: i64, class: RecordClass, next_seq: u64, acked: &[(u64, u64)]) -> Stream {
        Stream { next_seq, acked: acked.iter().copied().collect(), ..Stream::new(id, class, [id as u8; 16], 0) }
    }

    /// Sends until nothing is left and tells the runs as `stream:first-last` with `+` for live.
    fn send_all(streams: &[Stream], mut turns: Turns) -> Vec<String> {
        let (mut flying, mut said) = (BTreeMap::<i64, Ranges>::new(), Vec::new());
        while let Some(p) = pick(streams.iter(), &flying, &turns) {
            let s = streams.iter().find(|s| s.id == p.stream).expect("is one of ours");
            turns.sent(&p, s.class);
            flying.entry(p.stream).or_default().insert(p.first, p.last);
            said.push(format!("{}{}:{}-{}", if p.live { "+" } else { "" }, p.stream, p.first, p.last));
        }
        said
    }

    #[test]
    fn live_goes_first_and_one_backlog_batch_between_two_live_ones() {
        let streams = [
            stream(1, RecordClass::Log, 2_501, &[(1, 10), (500, 500)]),
            stream(2, RecordClass::Log, 2_101, &[(1, 50)]),
        ];
        let turns = Turns { live_from: [(2, 101)].into(), born_before: 2, ..Turns::default() };
        assert_eq!(
            send_all(&streams, turns),
            ["+2:101-1100", "1:11-499", "+2:1101-2100", "1:501-1500", "1:1501-2500", "2:51-100"]
        );
    }

    #[test]
    fn classes_take_turns_in_the_live_lane_and_lost_numbers_are_skipped() {
        let mut vectors = stream(1, RecordClass::Vector, 1_201, &[]);
        vectors.lost.entry(super::super::LostReason::Dropped).or_default().insert(1, 100);
        let streams = [vectors, stream(2, RecordClass::Log, 1_101, &[])];
        let said = send_all(&streams, Turns::default());
        assert_eq!(said, ["+1:101-1100", "+2:1-1000", "+1:1101-1200", "+2:1001-1100"]);
    }

    #[test]
    fn a_stream_with_too_many_ranges_is_sent_oldest_first() {
        let acked: Vec<_> = (1..=1_001).map(|n| (n * 3, n * 3)).collect();
        let streams = [stream(1, RecordClass::Log, 4_000, &acked)];
        let turns = Turns { live_from: [(1, 3_500)].into(), born_before: 1, ..Turns::default() };
        assert_eq!(
            pick(streams.iter(), &BTreeMap::new(), &turns),
            Some(Pick { stream: 1, first: 1, last: 2, live: false })
        );
    }
}
