//! What each deed does to the rows: append, ack, lose, reconcile, prune. Runs inside the writer's transaction.
//!
//! Invariants, which the model test asserts: a number is given once and numbers are dense; every given number is acked, lost
//! or waiting; `waiting` and `acked` rows are in the file until pruned. Memory follows the file: what a transaction changed
//! here is undone when it does not commit.
use super::{
    Appended, CursorUpdate, Limits, OutboxError,
    ranges::Ranges,
    stream::{Counters, LostReason, Stream},
};
use crate::privacy::Released;
use redforge_shared::{ids::Epoch, record::RecordClass};
use rusqlite::{Connection, OptionalExtension as _, params};
use std::collections::BTreeMap;

/// Bits of a row's id that hold the sequence number; the rest is the stream's id. So one b-tree is both the table and
/// the order inside every stream.
const SEQ_BITS: u32 = 40;
/// What a row costs beside its bytes, about.
pub(super) const ROW_COST: u64 = 100;
/// Rows that one step of dropping or pruning may delete: an append waits no longer than that.
const STEP_ROWS: u64 = 2_000;
/// Small acks that follow one another share a row of the prune list while it is this young, in seconds, and this small.
const SHARED_ACK_S: i64 = 60;
const SHARED_ACK_BYTES: u64 = 4 << 20;

pub(super) const SCHEMA: &str = "
CREATE TABLE stream (id INTEGER PRIMARY KEY AUTOINCREMENT, class INTEGER NOT NULL, epoch BLOB NOT NULL,
    opened_s INTEGER NOT NULL, next_seq INTEGER NOT NULL, acked BLOB NOT NULL, dropped BLOB NOT NULL,
    quarantined BLOB NOT NULL, salvage BLOB NOT NULL, waiting INTEGER NOT NULL, waiting_bytes INTEGER NOT NULL,
    changed_s INTEGER NOT NULL, UNIQUE (class, epoch)) STRICT;
CREATE TABLE record (id INTEGER PRIMARY KEY, class INTEGER NOT NULL, key_hash BLOB, appended_s INTEGER NOT NULL,
    checksum INTEGER NOT NULL, data BLOB NOT NULL) STRICT;
CREATE UNIQUE INDEX record_key ON record (class, key_hash) WHERE key_hash IS NOT NULL;
CREATE TABLE acked_batch (id INTEGER PRIMARY KEY AUTOINCREMENT, stream INTEGER NOT NULL, first INTEGER NOT NULL,
    last INTEGER NOT NULL, acked_s INTEGER NOT NULL, bytes INTEGER NOT NULL) STRICT;
CREATE TABLE cursor (key TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT;
CREATE TABLE counter (class INTEGER PRIMARY KEY, refused INTEGER NOT NULL, absorbed INTEGER NOT NULL,
    lost INTEGER NOT NULL) STRICT;
CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT;
";

/// A class's number in the file; never changes.
pub(super) fn class_code(class: RecordClass) -> i64 {
    match class {
        RecordClass::Vector => 1,
        RecordClass::Log => 2,
        RecordClass::Event => 3,
        RecordClass::Measurement => 4,
    }
}

pub(super) fn class_of(code: i64) -> Option<RecordClass> {
    RecordClass::ALL.into_iter().find(|c| class_code(*c) == code)
}

/// The id of a record's row.
pub(super) fn row_id(stream: i64, seq: u64) -> i64 {
    (stream << SEQ_BITS) | seq as i64
}

/// Stream id and number of a record's row.
pub(super) fn of_row(id: i64) -> (i64, u64) {
    (id >> SEQ_BITS, (id & ((1 << SEQ_BITS) - 1)) as u64)
}

/// Changes with any single bit of the row's place or content: each step is a bijection of the state before.
pub(super) fn checksum(id: i64, data: &[u8]) -> i64 {
    let mut h = 0x9E37_79B9_7F4A_7C15 ^ id as u64 ^ ((data.len() as u64) << 48);
    let mut words = data.chunks_exact(8);
    let mut mix =
        |word: [u8; 8]| h = (h ^ u64::from_le_bytes(word)).wrapping_mul(0x9FB2_1C65_1E98_DF25).rotate_left(29);
    for word in &mut words {
        mix(word.try_into().expect("exact chunks have 8 bytes"));
    }
    let mut tail = [0; 8];
    tail[..words.remainder().len()].copy_from_slice(words.remainder());
    mix(tail);
    (h ^ (h >> 32)) as i64
}

/// The streams as they are in the file, plus what the running transaction changed.
#[derive(Debug, Default)]
pub(super) struct Books {
    pub streams: BTreeMap<i64, Stream>,
    pub counters: BTreeMap<RecordClass, Counters>,
    /// Bytes of acked rows that are still kept.
    pub kept_bytes: u64,
    /// Streams born since the file was opened: the only ones that grow.
    current: BTreeMap<RecordClass, i64>,
    epoch: Option<[u8; 16]>,
    undo: Undo,
}

/// What stands as before the transaction.
#[derive(Debug, Default)]
struct Undo {
    streams: BTreeMap<i64, Option<Stream>>,
    counters: BTreeMap<RecordClass, Counters>,
    kept_bytes: u64,
    current: BTreeMap<RecordClass, i64>,
}

/// What a deed needs beside the books.
pub(super) struct Desk<'a> {
    pub conn: &'a Connection,
    pub limits: &'a Limits,
    pub now_s: i64,
    /// Sent and not acked: not dropped, the hub may have them already.
    pub in_flight: &'a BTreeMap<i64, Ranges>,
    /// Draws the epoch.
    pub draw: fn() -> [u8; 16],
}

impl Books {
    /// Reads the books from the file.
    pub(super) fn load(conn: &Connection) -> rusqlite::Result<Self> {
        let mut books = Self::default();
        let mut rows = conn.prepare("SELECT id, class, epoch, opened_s, next_seq, acked, dropped, quarantined, salvage, waiting, waiting_bytes, changed_s FROM stream")?;
        let mut rows = rows.query([])?;
        while let Some(r) = rows.next()? {
            let s = read_stream(r)?;
            books.streams.insert(s.id, s);
        }
        let mut rows = conn.prepare("SELECT class, refused, absorbed, lost FROM counter")?;
        let mut rows = rows.query([])?;
        while let Some(r) = rows.next()? {
            let c = Counters { refused: number(r, 1)?, absorbed: number(r, 2)?, lost: number(r, 3)? };
            if let Some(class) = class_of(r.get(0)?) {
                books.counters.insert(class, c);
            }
        }
        books.kept_bytes = kept(conn)?;
        Ok(books)
    }

    /// Begins a transaction's changes.
    pub(super) fn begin(&mut self) {
        self.undo = Undo {
            streams: BTreeMap::new(),
            counters: self.counters.clone(),
            kept_bytes: self.kept_bytes,
            current: self.current.clone(),
        };
    }

    /// Writes the changed streams and counters; call right before the commit. Returns which streams changed.
    pub(super) fn write_back(&mut self, desk: &Desk<'_>) -> rusqlite::Result<Vec<i64>> {
        let changed: Vec<i64> = self.undo.streams.keys().copied().collect();
        for id in &changed {
            let Some(s) = self.streams.get_mut(id) else { continue };
            s.changed_s = desk.now_s;
            write_stream(desk.conn, s)?;
        }
        for (class, c) in self.counters.iter().filter(|(class, c)| self.undo.counters.get(class) != Some(c)) {
            desk.conn
                .prepare_cached(
                    "INSERT OR REPLACE INTO counter (class, refused, absorbed, lost) VALUES (?1, ?2, ?3, ?4)",
                )?
                .execute(params![class_code(*class), c.refused as i64, c.absorbed as i64, c.lost as i64])?;
        }
        Ok(changed)
    }

    /// Forgets what the transaction changed.
    pub(super) fn roll_back(&mut self) {
        let undo = std::mem::take(&mut self.undo);
        for (id, before) in undo.streams {
            match before {
                Some(s) => self.streams.insert(id, s),
                None => self.streams.remove(&id),
            };
        }
        self.counters = undo.counters;
        self.kept_bytes = undo.kept_bytes;
        self.current = undo.current;
    }

    fn touch(&mut self, id: i64) -> Option<&mut Stream> {
        let s = self.streams.get_mut(&id)?;
        self.undo.streams.entry(id).or_insert_with(|| Some(s.clone()));
        Some(s)
    }

    /// The stream of this name.
    pub(super) fn find(&self, name: super::StreamName) -> Option<i64> {
        self.streams.values().find(|s| s.name() == name).map(|s| s.id)
    }

    fn waiting_bytes(&self, class: Option<RecordClass>) -> u64 {
        self.streams.values().filter(|s| class.is_none_or(|c| c == s.class)).map(|s| s.waiting_bytes).sum()
    }

    /// Appends records and moves a cursor, or refuses all of it because a class is full.
    pub(super) fn append(
        &mut self,
        desk: &Desk<'_>,
        records: &[Released],
        cursor: Option<&CursorUpdate>,
    ) -> rusqlite::Result<Result<Vec<Appended>, OutboxError>> {
        let mut need = BTreeMap::<RecordClass, u64>::new();
        for r in records {
            *need.entry(r.class()).or_default() += r.sealed().len() as u64 + ROW_COST;
        }
        for (class, bytes) in need {
            if !self.make_room(desk, class, bytes)? {
                return Ok(Err(OutboxError::ClassFull(class)));
            }
        }
        let mut insert = desk.conn.prepare_cached(
            "INSERT INTO record (id, class, key_hash, appended_s, checksum, data) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT DO NOTHING",
        )?;
        let mut done = Vec::with_capacity(records.len());
        for r in records {
            let stream = self.current_stream(desk, r.class())?;
            let s = self.touch(stream).expect("the current stream is in the books");
            let id = row_id(s.id, s.next_seq);
            let key = r.key_hash().map(|k| k.0);
            let sum = checksum(id, r.sealed());
            let new = insert.execute(params![id, class_code(r.class()), key, desk.now_s, sum, &r.sealed()[..]])? == 1;
            if new {
                done.push(Appended::New(s.next_seq));
                s.next_seq += 1;
                s.waiting += 1;
                s.waiting_bytes += r.sealed().len() as u64 + ROW_COST;
            } else {
                done.push(Appended::Repeat);
                self.counters.entry(r.class()).or_default().absorbed += 1;
            }
        }
        if let Some(c) = cursor {
            desk.conn
                .prepare_cached("INSERT OR REPLACE INTO cursor (key, value) VALUES (?1, ?2)")?
                .execute(params![c.key, c.value])?;
        }
        Ok(Ok(done))
    }

    /// Counts raw records that were refused.
    pub(super) fn refuse(&mut self, class: RecordClass, count: u64) {
        self.counters.entry(class).or_default().refused += count;
    }

    fn current_stream(&mut self, desk: &Desk<'_>, class: RecordClass) -> rusqlite::Result<i64> {
        if let Some(id) = self.current.get(&class) {
            return Ok(*id);
        }
        let epoch = *self.epoch.get_or_insert_with(desk.draw);
        let mut s = Stream::new(0, class, epoch, desk.now_s);
        s.id = insert_stream(desk.conn, &s)?;
        let id = s.id;
        self.undo.streams.insert(id, None);
        self.streams.insert(id, s);
        self.current.insert(class, id);
        Ok(id)
    }

    /// Makes room for `need` more bytes of a class. Acked rows go first, then classes that may be dropped.
    fn make_room(&mut self, desk: &Desk<'_>, class: RecordClass, need: u64) -> rusqlite::Result<bool> {
        let max = desk.limits.max_bytes;
        while self.waiting_bytes(None) + self.kept_bytes + need > max && self.prune_oldest(desk)? {}
        while self.waiting_bytes(None) + need > max {
            let victims: &[RecordClass] = match class {
                RecordClass::Log => &[RecordClass::Log],
                _ => &[RecordClass::Log, RecordClass::Measurement],
            };
            if !self.drop_first_of(desk, victims)? {
                return Ok(false);
            }
        }
        while self.waiting_bytes(Some(class)) + need > desk.limits.class_bytes(class) {
            if !Limits::may_drop(class) || !self.drop_first_of(desk, &[class])? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn drop_first_of(&mut self, desk: &Desk<'_>, classes: &[RecordClass]) -> rusqlite::Result<bool> {
        for class in classes {
            if self.drop_oldest(desk, *class)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Drops some of the oldest waiting records of a class; false if there is none.
    fn drop_oldest(&mut self, desk: &Desk<'_>, class: RecordClass) -> rusqlite::Result<bool> {
        let oldest = self.streams.values().filter(|s| s.class == class && s.waiting > 0).find_map(|s| {
            let mut pending = s.pending(1, s.max_seq());
            if let Some(flying) = desk.in_flight.get(&s.id) {
                pending = pending.minus(flying);
            }
            // A tenth at a time, so that a full outbox is not a delete per append.
            let most = (s.waiting / 10).clamp(1, STEP_ROWS);
            pending.iter().next().map(|(f, l)| (s.id, f, l.min(f + most - 1)))
        });
        let Some((id, first, last)) = oldest else { return Ok(false) };
        self.lose(desk, id, first, last, LostReason::Dropped)?;
        Ok(true)
    }

    /// Drops waiting records older than their class may get; true if it should be called again soon.
    pub(super) fn expire(&mut self, desk: &Desk<'_>) -> rusqlite::Result<bool> {
        let mut more = false;
        for class in RecordClass::ALL.into_iter().filter(|c| Limits::may_drop(*c)) {
            let oldest = self.streams.values().find(|s| s.class == class && s.waiting > 0);
            let Some((id, (first, _))) = oldest.and_then(|s| Some((s.id, s.pending(1, s.max_seq()).iter().next()?)))
            else {
                continue;
            };
            let at: Option<i64> = desk
                .conn
                .prepare_cached("SELECT appended_s FROM record WHERE id = ?1")?
                .query_row([row_id(id, first)], |r| r.get(0))
                .optional()?;
            if at.is_some_and(|at| at + (desk.limits.max_age.as_secs() as i64) < desk.now_s) {
                more |= self.drop_oldest(desk, class)?;
            }
        }
        Ok(more)
    }

    /// Gives up the waiting records of `first..=last`: their rows go, their numbers are lost for a reason.
    pub(super) fn lose(
        &mut self,
        desk: &Desk<'_>,
        stream: i64,
        first: u64,
        last: u64,
        reason: LostReason,
    ) -> rusqlite::Result<()> {
        let Some(s) = self.touch(stream) else { return Ok(()) };
        let (class, pending) = (s.class, s.pending(first, last));
        for (f, l) in pending.iter() {
            let (_, bytes) = weigh(desk.conn, stream, f, l)?;
            desk.conn
                .prepare_cached("DELETE FROM record WHERE id BETWEEN ?1 AND ?2")?
                .execute([row_id(stream, f), row_id(stream, l)])?;
            s.waiting = s.waiting.saturating_sub(l - f + 1);
            s.waiting_bytes = if s.waiting == 0 { 0 } else { s.waiting_bytes.saturating_sub(bytes) };
        }
        if !pending.is_empty() {
            s.lost.entry(reason).or_default().union(&pending);
            s.lost_revision += 1;
            self.counters.entry(class).or_default().lost += pending.count();
        }
        Ok(())
    }

    /// The hub has `first..=last`. The rows stay until they are pruned.
    pub(super) fn ack(&mut self, desk: &Desk<'_>, stream: i64, first: u64, last: u64) -> rusqlite::Result<()> {
        let Some(s) = self.touch(stream) else { return Ok(()) };
        let (first, last) = (first.max(1), last.min(s.max_seq()));
        let mut bytes = 0;
        for (f, l) in s.pending(first, last).iter() {
            bytes += weigh(desk.conn, stream, f, l)?.1;
            s.waiting = s.waiting.saturating_sub(l - f + 1);
        }
        s.waiting_bytes = if s.waiting == 0 { 0 } else { s.waiting_bytes.saturating_sub(bytes) };
        s.acked.insert(first, last);
        // A batch was on its way while its records were dropped: the hub has them after all.
        s.lost.values_mut().for_each(|lost| lost.remove(first, last));
        s.lost.retain(|_, lost| !lost.is_empty());
        if bytes > 0 {
            self.kept_bytes += bytes;
            note_acked(desk, stream, first, last, bytes)?;
        }
        Ok(())
    }

    /// The hub says what it has of a stream: more than we thought is acked, and what it lacks (a hub restored from a backup)
    /// waits again, as far as its rows are still here.
    pub(super) fn reconcile(&mut self, desk: &Desk<'_>, stream: i64, committed: &Ranges) -> rusqlite::Result<()> {
        let Some(s) = self.streams.get(&stream) else { return Ok(()) };
        let committed = committed.within(1, s.max_seq());
        let lacking = s.acked.minus(&committed);
        for (f, l) in committed.minus(&s.acked).iter() {
            self.ack(desk, stream, f, l)?;
        }
        let mut held = Ranges::default();
        for (f, l) in lacking.iter() {
            held.union(&held_rows(desk.conn, stream, f, l)?);
        }
        let Some(s) = self.touch(stream).filter(|_| !held.is_empty()) else { return Ok(()) };
        s.acked = s.acked.minus(&held);
        for (f, l) in held.iter() {
            let (rows, bytes) = weigh(desk.conn, stream, f, l)?;
            s.waiting += rows;
            s.waiting_bytes += bytes;
        }
        let acked = s.acked.clone();
        relist_acked(desk.conn, stream, &acked, desk.now_s)?;
        self.kept_bytes = kept(desk.conn)?;
        Ok(())
    }

    /// Deletes acked rows that the hub can no longer ask for; true if it should be called again soon.
    pub(super) fn prune(&mut self, desk: &Desk<'_>) -> rusqlite::Result<bool> {
        let limit = desk.limits.hub_rpo_bytes;
        let due_s = desk.now_s - desk.limits.hub_rpo.as_secs() as i64;
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

    /// Removes streams that hold nothing, cannot grow and have been quiet for the hub's recovery window.
    pub(super) fn drop_empty_streams(&mut self, desk: &Desk<'_>) -> rusqlite::Result<()> {
        let due_s = desk.now_s - desk.limits.hub_rpo.as_secs() as i64;
        let quiet: Vec<i64> = self
            .streams
            .values()
            .filter(|s| s.waiting == 0 && s.changed_s < due_s && !self.current.values().any(|c| *c == s.id))
            .map(|s| s.id)
            .collect();
        for id in quiet {
            let (rows, _) = weigh(desk.conn, id, 0, (1 << SEQ_BITS) - 1)?;
            if rows == 0 {
                desk.conn.execute("DELETE FROM stream WHERE id = ?1", [id])?;
                self.undo.streams.entry(id).or_insert(self.streams.remove(&id));
            }
        }
        Ok(())
    }
}

fn number(r: &rusqlite::Row<'_>, i: usize) -> rusqlite::Result<u64> {
    Ok(r.get::<_, i64>(i)?.max(0) as u64)
}

/// How many rows lie in the range and what they weigh.
pub(super) fn weigh(conn: &Connection, stream: i64, first: u64, last: u64) -> rusqlite::Result<(u64, u64)> {
    let (rows, bytes) = conn
        .prepare_cached("SELECT count(*), coalesce(sum(length(data)), 0) FROM record WHERE id BETWEEN ?1 AND ?2")?
        .query_row([row_id(stream, first), row_id(stream, last)], |r| Ok((number(r, 0)?, number(r, 1)?)))?;
    Ok((rows, bytes + rows * ROW_COST))
}

fn held_rows(conn: &Connection, stream: i64, first: u64, last: u64) -> rusqlite::Result<Ranges> {
    let mut held = Ranges::default();
    let mut rows = conn.prepare_cached("SELECT id FROM record WHERE id BETWEEN ?1 AND ?2")?;
    for id in rows.query_map([row_id(stream, first), row_id(stream, last)], |r| r.get(0))? {
        let (_, seq) = of_row(id?);
        held.insert(seq, seq);
    }
    Ok(held)
}

fn kept(conn: &Connection) -> rusqlite::Result<u64> {
    conn.query_row("SELECT coalesce(sum(bytes), 0) FROM acked_batch", [], |r| number(r, 0))
}

/// Puts an acked run on the prune list, where it can into the list's last row.
fn note_acked(desk: &Desk<'_>, stream: i64, first: u64, last: u64, bytes: u64) -> rusqlite::Result<()> {
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

fn damaged(what: &'static str) -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(
        rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT),
        Some(format!("a stream's row has no valid {what}")),
    )
}

pub(super) fn read_stream(r: &rusqlite::Row<'_>) -> rusqlite::Result<Stream> {
    let class = class_of(r.get(1)?).ok_or_else(|| damaged("class"))?;
    let mut s = Stream::new(r.get(0)?, class, r.get(2)?, r.get(3)?);
    s.next_seq = number(r, 4)?.max(1);
    s.acked = Ranges::decode(&r.get::<_, Vec<u8>>(5)?).ok_or_else(|| damaged("acked ranges"))?;
    for (i, reason) in LostReason::ALL.into_iter().enumerate() {
        let lost = Ranges::decode(&r.get::<_, Vec<u8>>(6 + i)?).ok_or_else(|| damaged("lost ranges"))?;
        if !lost.is_empty() {
            s.lost.insert(reason, lost);
        }
    }
    s.waiting = number(r, 9)?;
    s.waiting_bytes = number(r, 10)?;
    s.changed_s = r.get(11)?;
    s.epoch = Epoch(r.get(2)?);
    Ok(s)
}

fn lost_code(s: &Stream, reason: LostReason) -> Vec<u8> {
    s.lost.get(&reason).map(Ranges::encode).unwrap_or_default()
}

pub(super) fn insert_stream(conn: &Connection, s: &Stream) -> rusqlite::Result<i64> {
    conn.execute(
        "INSERT INTO stream (id, class, epoch, opened_s, next_seq, acked, dropped, quarantined, salvage, waiting,
                             waiting_bytes, changed_s)
         VALUES (nullif(?1, 0), ?2, ?3, ?4, 1, x'', x'', x'', x'', 0, 0, ?4)",
        params![s.id, class_code(s.class), s.epoch.0, s.opened_s],
    )?;
    Ok(conn.last_insert_rowid())
}

pub(super) fn write_stream(conn: &Connection, s: &Stream) -> rusqlite::Result<()> {
    conn.prepare_cached(
        "UPDATE stream SET next_seq = ?2, acked = ?3, dropped = ?4, quarantined = ?5, salvage = ?6, waiting = ?7,
                           waiting_bytes = ?8, changed_s = ?9 WHERE id = ?1",
    )?
    .execute(params![
        s.id,
        s.next_seq as i64,
        s.acked.encode(),
        lost_code(s, LostReason::Dropped),
        lost_code(s, LostReason::Quarantined),
        lost_code(s, LostReason::Salvage),
        s.waiting as i64,
        s.waiting_bytes as i64,
        s.changed_s
    ])?;
    Ok(())
}
