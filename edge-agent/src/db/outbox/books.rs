//! What each deed does to the rows: append, ack, lose, reconcile. Runs inside the writer's transaction; `room` says what gives
//! way, `rows` what a row is.
//!
//! Invariants, which the model test asserts: a number is given once and numbers are dense; every given number is acked, lost
//! or waiting; `waiting` and `acked` rows are in the file until pruned. Memory follows the file: what a transaction changed
//! here is undone when it does not commit.
use super::{
    Appended, CursorUpdate, Limits, OutboxError,
    ranges::Ranges,
    room::{kept, note_acked, relist_acked},
    rows::{
        ROW_COST, STREAM_COLUMNS, checksum, class_code, class_of, held_rows, insert_stream, number, read_stream,
        row_id, weigh, write_stream,
    },
    stream::{Counters, LostReason, Stream},
};
use crate::privacy::Released;
use redforge_shared::record::RecordClass;
use rusqlite::{Connection, params};
use std::collections::BTreeMap;

/// The streams as they are in the file, plus what the running transaction changed.
#[derive(Debug, Default)]
pub(super) struct Books {
    pub streams: BTreeMap<i64, Stream>,
    pub counters: BTreeMap<RecordClass, Counters>,
    /// Bytes of acked rows that are still kept.
    pub kept_bytes: u64,
    /// Streams born since the file was opened: the only ones that grow.
    pub current: BTreeMap<RecordClass, i64>,
    /// When the hub last acked, or answered a hello, in this process. A hub that came back from a backup says so in its
    /// answer to the hello: until then nothing is sure to be there.
    pub heard_s: Option<i64>,
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
        let mut rows = conn.prepare(&format!("SELECT {STREAM_COLUMNS} FROM stream"))?;
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
        for (id, before) in &self.undo.streams {
            let Some(s) = self.streams.get_mut(id) else { continue };
            let same = |b: &Stream| Stream { lost_noted: s.lost_noted, ..b.clone() } == *s;
            // What only memory notes does not make a quiet stream young again.
            if !before.as_ref().is_some_and(same) {
                s.changed_s = desk.now_s;
                write_stream(desk.conn, s)?;
            }
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

    /// A stream that this transaction changes.
    fn touch(&mut self, id: i64) -> Option<&mut Stream> {
        let s = self.streams.get_mut(&id)?;
        self.undo.streams.entry(id).or_insert_with(|| Some(s.clone()));
        Some(s)
    }

    /// The stream of this name.
    pub(super) fn find(&self, name: super::StreamName) -> Option<i64> {
        self.streams.values().find(|s| s.name() == name).map(|s| s.id)
    }

    /// Removes a stream's row.
    pub(super) fn forget(&mut self, desk: &Desk<'_>, id: i64) -> rusqlite::Result<()> {
        desk.conn.execute("DELETE FROM stream WHERE id = ?1", [id])?;
        self.undo.streams.entry(id).or_insert(self.streams.remove(&id));
        Ok(())
    }

    pub(super) fn waiting_bytes(&self, class: Option<RecordClass>) -> u64 {
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
        if let Err(class) = self.make_room(desk, &need)? {
            return Ok(Err(OutboxError::ClassFull(class)));
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
        self.heard_s = Some(desk.now_s);
        self.mark(desk, stream, first, last)
    }

    fn mark(&mut self, desk: &Desk<'_>, stream: i64, first: u64, last: u64) -> rusqlite::Result<()> {
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
    pub(super) fn reconcile(
        &mut self,
        desk: &Desk<'_>,
        stream: i64,
        committed: &Ranges,
        noted: u64,
    ) -> rusqlite::Result<()> {
        let Some(s) = self.touch(stream) else { return Ok(()) };
        s.lost_noted = Some(noted);
        let committed = committed.within(1, s.max_seq());
        let lacking = s.acked.minus(&committed);
        for (f, l) in committed.minus(&s.acked).iter() {
            self.mark(desk, stream, f, l)?;
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
}
