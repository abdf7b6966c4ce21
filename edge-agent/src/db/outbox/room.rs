//! What gives way: acked rows when the hub's window is over or room is short, then logs and measurements by size and age.
//!
//! Acked rows stand on a list in the order of their acks; the oldest go first. What gives way without an ack is lost, for a
//! reason. Runs inside the writer's transaction.
use super::{
    Limits,
    books::{Books, Desk},
    ranges::Ranges,
    rows::{SEQ_BITS, number, of_row, row_id, weigh},
    stream::LostReason,
};
use redforge_shared::record::RecordClass;
use rusqlite::{Connection, OptionalExtension as _, params};
use std::collections::BTreeMap;

/// Rows that one step of dropping or pruning may delete: an append waits no longer than that.
const STEP_ROWS: u64 = 2_000;
/// Small acks that follow one another share a row of the prune list while it is this young, in seconds, and this small.
const SHARED_ACK_S: i64 = 60;
const SHARED_ACK_BYTES: u64 = 4 << 20;

impl Books {
    /// Makes room for more bytes of some classes, or names one that has none; then nothing was dropped.
    pub(super) fn make_room(
        &mut self,
        desk: &Desk<'_>,
        need: &BTreeMap<RecordClass, u64>,
    ) -> rusqlite::Result<Result<(), RecordClass>> {
        let (max, all) = (desk.limits.max_bytes, need.values().sum::<u64>());
        // Acked rows go first: the hub has them.
        while self.waiting_bytes(None) + self.kept_bytes + all > max && self.prune_oldest(desk)? {}
        let short = |books: &Self, class: RecordClass, bytes: u64| {
            books.waiting_bytes(Some(class)) + bytes > desk.limits.class_bytes(class)
        };
        if self.waiting_bytes(None) + all <= max && !need.iter().any(|(class, bytes)| short(self, *class, *bytes)) {
            return Ok(Ok(()));
        }
        let logs_only = need.keys().all(|c| *c == RecordClass::Log);
        let victims: &[RecordClass] =
            if logs_only { &[RecordClass::Log] } else { &[RecordClass::Log, RecordClass::Measurement] };
        // What can never fit must not cost anything, however often it is offered.
        let fixed: u64 =
            RecordClass::ALL.into_iter().filter(|c| !victims.contains(c)).map(|c| self.waiting_bytes(Some(c))).sum();
        for (class, bytes) in need {
            let cap = desk.limits.class_bytes(*class);
            let own = if Limits::may_drop(*class) { 0 } else { self.waiting_bytes(Some(*class)) };
            if fixed + all > max || own + bytes > cap {
                return Ok(Err(*class));
            }
        }
        // What is in flight is not dropped, so it may turn out only now that there is no room.
        let before = (self.streams.clone(), self.counters.clone());
        desk.conn.execute_batch("SAVEPOINT room")?;
        for (class, bytes) in need {
            while self.waiting_bytes(None) + all > max || short(self, *class, *bytes) {
                let full = self.waiting_bytes(None) + all > max;
                let own = [*class];
                if !self.drop_first_of(desk, if full { victims } else { &own })? {
                    desk.conn.execute_batch("ROLLBACK TO room; RELEASE room")?;
                    (self.streams, self.counters) = before;
                    return Ok(Err(*class));
                }
            }
        }
        desk.conn.execute_batch("RELEASE room")?;
        Ok(Ok(()))
    }

    fn drop_first_of(&mut self, desk: &Desk<'_>, classes: &[RecordClass]) -> rusqlite::Result<bool> {
        for class in classes {
            if self.drop_oldest(desk, *class)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The oldest run of waiting records of a class that may be dropped, and how many wait in its stream.
    fn oldest_run(&self, desk: &Desk<'_>, class: RecordClass) -> Option<(i64, u64, u64, u64)> {
        self.streams.values().filter(|s| s.class == class && s.waiting > 0).find_map(|s| {
            let mut pending = s.pending(1, s.max_seq());
            if let Some(flying) = desk.in_flight.get(&s.id) {
                pending = pending.minus(flying);
            }
            pending.iter().next().map(|(first, last)| (s.id, first, last.min(first + STEP_ROWS - 1), s.waiting))
        })
    }

    /// Drops some of the oldest waiting records of a class; false if there is none.
    fn drop_oldest(&mut self, desk: &Desk<'_>, class: RecordClass) -> rusqlite::Result<bool> {
        let Some((id, first, last, waiting)) = self.oldest_run(desk, class) else { return Ok(false) };
        // A tenth at a time, so that a full outbox is not a delete per append.
        let last = last.min(first + (waiting / 10).max(1) - 1);
        self.lose(desk, id, first, last, LostReason::Dropped)?;
        Ok(true)
    }

    /// Drops waiting records older than their class may get; true if it should be called again soon.
    pub(super) fn expire(&mut self, desk: &Desk<'_>) -> rusqlite::Result<bool> {
        let due_s = desk.now_s - desk.limits.max_age.as_secs() as i64;
        let mut more = false;
        for class in RecordClass::ALL.into_iter().filter(|c| Limits::may_drop(*c)) {
            let Some((id, first, last, _)) = self.oldest_run(desk, class) else { continue };
            let young: Option<i64> = desk
                .conn
                .prepare_cached("SELECT min(id) FROM record WHERE id BETWEEN ?1 AND ?2 AND appended_s >= ?3")?
                .query_row([row_id(id, first), row_id(id, last), due_s], |r| r.get(0))?;
            let end = young.map_or(last, |young| of_row(young).1 - 1);
            if end >= first {
                self.lose(desk, id, first, end, LostReason::Dropped)?;
                more |= end == last;
            }
        }
        Ok(more)
    }

    /// Deletes acked rows that the hub can no longer ask for; true if it should be called again soon.
    pub(super) fn prune(&mut self, desk: &Desk<'_>) -> rusqlite::Result<bool> {
        let limit = desk.limits.hub_rpo_bytes;
        let due_s = self.due_s(desk);
        for _ in 0..4 {
            let due: bool = desk
                .conn
                .prepare_cached("SELECT acked_s < ?1 FROM acked_batch ORDER BY id LIMIT 1")?
                .query_row([due_s], |r| r.get(0))
                .optional()?
                .unwrap_or(false);
            if !(due || self.kept_bytes > limit) || !self.prune_oldest(desk)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What was acked before this is no longer kept. The window ends when the hub was last heard, not now: a hub that is away
    /// for days may come back from a backup that was made an hour before it went.
    fn due_s(&self, desk: &Desk<'_>) -> i64 {
        let heard_s = self.heard_s.map_or(i64::MIN, |heard_s| heard_s.min(desk.now_s));
        heard_s.saturating_sub(desk.limits.hub_rpo.as_secs() as i64)
    }

    /// Deletes the rows of the oldest ack; false if none is kept.
    pub(super) fn prune_oldest(&mut self, desk: &Desk<'_>) -> rusqlite::Result<bool> {
        let oldest = desk
            .conn
            .prepare_cached("SELECT id, stream, first, last, bytes FROM acked_batch ORDER BY id LIMIT 1")?
            .query_row([], |r| Ok((r.get::<_, i64>(0)?, r.get(1)?, number(r, 2)?, number(r, 3)?, number(r, 4)?)))
            .optional()?;
        let Some((id, stream, first, last, bytes)) = oldest else { return Ok(false) };
        if let Some(s) = self.streams.get(&stream) {
            for (f, l) in s.acked.within(first, last).iter() {
                desk.conn
                    .prepare_cached("DELETE FROM record WHERE id BETWEEN ?1 AND ?2")?
                    .execute([row_id(stream, f), row_id(stream, l)])?;
            }
        }
        desk.conn.prepare_cached("DELETE FROM acked_batch WHERE id = ?1")?.execute([id])?;
        self.kept_bytes = self.kept_bytes.saturating_sub(bytes);
        Ok(true)
    }

    /// Removes streams that hold nothing, cannot grow and have been quiet for the hub's recovery window; never one that lost
    /// records of which the hub has not heard.
    pub(super) fn drop_empty_streams(&mut self, desk: &Desk<'_>) -> rusqlite::Result<()> {
        let due_s = self.due_s(desk);
        let quiet: Vec<i64> = self
            .streams
            .values()
            .filter(|s| {
                s.waiting == 0 && s.is_told() && s.changed_s < due_s && !self.current.values().any(|c| *c == s.id)
            })
            .map(|s| s.id)
            .collect();
        for id in quiet {
            let (rows, _) = weigh(desk.conn, id, 0, (1 << SEQ_BITS) - 1)?;
            if rows == 0 {
                self.forget(desk, id)?;
            }
        }
        Ok(())
    }
}

pub(super) fn kept(conn: &Connection) -> rusqlite::Result<u64> {
    conn.query_row("SELECT coalesce(sum(bytes), 0) FROM acked_batch", [], |r| number(r, 0))
}

/// Puts an acked run on the prune list, where it can into the list's last row.
pub(super) fn note_acked(desk: &Desk<'_>, stream: i64, first: u64, last: u64, bytes: u64) -> rusqlite::Result<()> {
    let shared = desk
        .conn
        .prepare_cached(
            "UPDATE acked_batch SET last = ?3, bytes = bytes + ?4
             WHERE id = (SELECT max(id) FROM acked_batch) AND stream = ?1 AND last = ?2 - 1 AND acked_s > ?5 AND bytes < ?6",
        )?
        .execute(params![
            stream,
            first as i64,
            last as i64,
            bytes as i64,
            desk.now_s - SHARED_ACK_S,
            SHARED_ACK_BYTES as i64
        ])?;
    if shared == 0 {
        desk.conn
            .prepare_cached(
                "INSERT INTO acked_batch (stream, first, last, acked_s, bytes) VALUES (?1, ?2, ?3, ?4, ?5)",
            )?
            .execute(params![stream, first as i64, last as i64, desk.now_s, bytes as i64])?;
    }
    Ok(())
}

/// Puts everything acked of a stream on the prune list anew.
pub(super) fn relist_acked(conn: &Connection, stream: i64, acked: &Ranges, now_s: i64) -> rusqlite::Result<()> {
    conn.execute("DELETE FROM acked_batch WHERE stream = ?1", [stream])?;
    for (first, last) in acked.iter() {
        let (_, bytes) = weigh(conn, stream, first, last)?;
        if bytes > 0 {
            conn.execute(
                "INSERT INTO acked_batch (stream, first, last, acked_s, bytes) VALUES (?1, ?2, ?3, ?4, ?5)",
                params![stream, first as i64, last as i64, now_s, bytes as i64],
            )?;
        }
    }
    Ok(())
}
