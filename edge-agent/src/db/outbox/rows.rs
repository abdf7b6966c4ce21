//! The rows of `outbox.db`: the tables, what a row's id and checksum are, and a stream's row in both directions.
//!
//! It decides nothing: `books` and `room` say what is written.
use super::{
    ranges::Ranges,
    stream::{LostReason, Stream},
};
use redforge_shared::{ids::Epoch, record::RecordClass};
use rusqlite::{Connection, params};

/// Bits of a row's id that hold the sequence number; the rest is the stream's id. So one b-tree is both the table and
/// the order inside every stream.
pub(super) const SEQ_BITS: u32 = 40;
/// What a row costs beside its bytes, about.
pub(super) const ROW_COST: u64 = 100;
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

pub(super) fn number(r: &rusqlite::Row<'_>, i: usize) -> rusqlite::Result<u64> {
    Ok(r.get::<_, i64>(i)?.max(0) as u64)
}

/// How many rows lie in the range and what they weigh.
pub(super) fn weigh(conn: &Connection, stream: i64, first: u64, last: u64) -> rusqlite::Result<(u64, u64)> {
    let (rows, bytes) = conn
        .prepare_cached("SELECT count(*), coalesce(sum(length(data)), 0) FROM record WHERE id BETWEEN ?1 AND ?2")?
        .query_row([row_id(stream, first), row_id(stream, last)], |r| Ok((number(r, 0)?, number(r, 1)?)))?;
    Ok((rows, bytes + rows * ROW_COST))
}

pub(super) fn held_rows(conn: &Connection, stream: i64, first: u64, last: u64) -> rusqlite::Result<Ranges> {
    let mut held = Ranges::default();
    let mut rows = conn.prepare_cached("SELECT id FROM record WHERE id BETWEEN ?1 AND ?2")?;
    for id in rows.query_map([row_id(stream, first), row_id(stream, last)], |r| r.get(0))? {
        let (_, seq) = of_row(id?);
        held.insert(seq, seq);
    }
    Ok(held)
}

/// A stream's row as [`read_stream`] wants it.
pub(super) const STREAM_COLUMNS: &str =
    "id, class, epoch, opened_s, next_seq, acked, dropped, quarantined, salvage, waiting,
    waiting_bytes, changed_s";

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
