//! One connection's view of what to send next: what is in flight, and whose turn it is.
//!
//! `lanes` chooses, this reads the chosen rows. Dropping the session puts everything unacked back.
use super::{
    LostReason, Outbox, OutboxError,
    lanes::{Pick, Turns, pick},
    rows::{checksum, of_row, row_id},
    stream::SealedBatch,
};
use bytes::Bytes;
use redforge_shared::record::MAX_BATCH_BYTES;

/// What a record costs in a batch's frame beside its bytes, at most; and the batch's own frame.
const FRAME_BYTES: usize = 8;
const BATCH_FRAME_BYTES: usize = 128;

/// A sender's session. There is at most one at a time; a new one forgets what an older one had in flight.
#[derive(Debug)]
pub struct Session {
    outbox: Outbox,
    turns: Turns,
}

/// What lay in the rows of a pick.
enum Found {
    /// Rows from the pick's first number on.
    Run(Vec<Bytes>),
    /// The first rows, up to this number, are missing or damaged.
    Damaged(u64),
}

impl Outbox {
    /// Begins a session: what is appended from now on is live, the rest is backlog.
    pub fn session(&self) -> Session {
        self.shared.in_flight.lock().expect("no panic while the lock is held").clear();
        let view = self.view();
        let turns = Turns {
            live_from: view.streams.values().map(|s| (s.id, s.next_seq)).collect(),
            born_before: view.streams.keys().next_back().copied().unwrap_or(0),
            ..Turns::default()
        };
        drop(view);
        Session { outbox: self.clone(), turns }
    }
}

impl Session {
    /// The next batch, of at most so many records, noted as in flight; `None` when everything is acked, lost or in flight.
    pub async fn next_batch(&mut self, most: usize) -> Result<Option<SealedBatch>, OutboxError> {
        loop {
            let Some((pick, name)) = self.pick(most.max(1) as u64) else { return Ok(None) };
            let found = self.outbox.read(move |c| read_run(c, &pick)).await;
            let found = match found {
                Ok(found) => found,
                Err(e) => {
                    self.land(pick.stream, pick.first, pick.last);
                    return Err(e);
                }
            };
            match found {
                Found::Run(records) => {
                    let last = pick.first + records.len() as u64 - 1;
                    self.land(pick.stream, last + 1, pick.last);
                    self.turns.sent(&pick, name.class);
                    return Ok(Some(SealedBatch { stream: name, first_seq: pick.first, records, live: pick.live }));
                }
                Found::Damaged(until) => {
                    self.land(pick.stream, pick.first, pick.last);
                    // Rows that were dropped since the pick are lost already, and stay so.
                    self.outbox.lose(name, pick.first, until, LostReason::Salvage).await?;
                }
            }
        }
    }

    /// The batch is acked, refused or given back: it is no longer in flight.
    pub fn settle(&self, batch: super::StreamName, first: u64, last: u64) {
        let id = self.outbox.view().streams.values().find(|s| s.name() == batch).map(|s| s.id);
        if let Some(id) = id {
            self.land(id, first, last);
        }
    }

    fn pick(&self, most: u64) -> Option<(Pick, super::StreamName)> {
        let view = self.outbox.view();
        let mut flying = self.outbox.shared.in_flight.lock().expect("no panic while the lock is held");
        let mut pick = pick(view.streams.values(), &flying, &self.turns)?;
        pick.last = pick.last.min(pick.first + most - 1);
        flying.entry(pick.stream).or_default().insert(pick.first, pick.last);
        Some((pick, view.streams[&pick.stream].name()))
    }

    fn land(&self, stream: i64, first: u64, last: u64) {
        let mut flying = self.outbox.shared.in_flight.lock().expect("no panic while the lock is held");
        if let Some(runs) = flying.get_mut(&stream) {
            runs.remove(first, last);
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.outbox.shared.in_flight.lock().expect("no panic while the lock is held").clear();
    }
}

/// Reads a run up to the first missing or damaged row or a batch's bytes.
fn read_run(c: &rusqlite::Connection, pick: &Pick) -> rusqlite::Result<Found> {
    let mut query = c.prepare_cached("SELECT id, checksum, data FROM record WHERE id BETWEEN ?1 AND ?2 ORDER BY id")?;
    let mut rows = query.query([row_id(pick.stream, pick.first), row_id(pick.stream, pick.last)])?;
    let (mut records, mut bytes) = (Vec::new(), BATCH_FRAME_BYTES);
    while let Some(r) = rows.next()? {
        let id: i64 = r.get(0)?;
        let (_, seq) = of_row(id);
        let data = r.get_ref(2)?.as_blob()?;
        let expected = pick.first + records.len() as u64;
        let sound = checksum(id, data) == r.get::<_, i64>(1)?;
        if seq != expected || !sound {
            if records.is_empty() {
                return Ok(Found::Damaged(if sound { seq - 1 } else { seq }));
            }
            break;
        }
        bytes += data.len() + FRAME_BYTES;
        if bytes > MAX_BATCH_BYTES && !records.is_empty() {
            break;
        }
        records.push(Bytes::copy_from_slice(data));
    }
    Ok(if records.is_empty() { Found::Damaged(pick.last) } else { Found::Run(records) })
}
