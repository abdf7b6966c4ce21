//! What is still readable of a damaged outbox goes into a new one; every number that is gone is lost for reason Salvage.
//!
//! The damaged file is kept beside, for people. Nothing here decides that a file is damaged.
use super::{
    ranges::Ranges,
    room::relist_acked,
    rows::{STREAM_COLUMNS, checksum, class_code, insert_stream, of_row, read_stream, row_id, weigh, write_stream},
    stream::{LostReason, Stream},
};
use crate::db::connect;
use rusqlite::{Connection, OptionalExtension as _, params};
use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

/// Unreadable places of the table that are stepped over before the rest is given up.
const MAX_STEPS: u32 = 4_096;

/// Moves the damaged file and its log away; returns where it lies now.
pub(super) fn put_aside(path: &Path, now_s: i64) -> io::Result<PathBuf> {
    let with = |base: &Path, suffix: &str| {
        let mut name = base.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let aside = with(path, &format!(".damaged-{now_s}"));
    for suffix in ["-wal", "-shm", ""] {
        match std::fs::rename(with(path, suffix), with(&aside, suffix)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    crate::db::sync_parent(path)?;
    Ok(aside)
}

/// Copies what can be read; tells how many records were kept and how many are lost.
pub(super) fn copy(aside: &Path, into: &mut Connection) -> rusqlite::Result<(u64, u64)> {
    let Ok(old) = connect(aside) else { return Ok((0, 0)) };
    let mut streams = BTreeMap::<i64, Stream>::new();
    if let Ok(mut rows) = old.prepare(&format!("SELECT {STREAM_COLUMNS} FROM stream"))
        && let Ok(mut rows) = rows.query([])
    {
        while let Ok(Some(r)) = rows.next() {
            if let Ok(s) = read_stream(r) {
                streams.insert(s.id, s);
            }
        }
    }
    let tx = into.transaction()?;
    copy_small(&old, &tx)?;
    let (mut kept, mut lost) = (0, 0);
    for s in streams.values_mut() {
        insert_stream(&tx, s)?;
        let held = copy_rows(&old, &tx, s)?;
        let mut gone = s.pending(1, s.max_seq());
        gone = gone.minus(&held);
        lost += gone.count();
        kept += held.count();
        s.lost.entry(LostReason::Salvage).or_default().union(&gone);
        recount(&tx, s)?;
        write_stream(&tx, s)?;
        tx.execute(
            "INSERT INTO counter (class, refused, absorbed, lost) VALUES (?1, 0, 0, ?2)
             ON CONFLICT (class) DO UPDATE SET lost = lost + ?2",
            params![class_code(s.class), gone.count() as i64],
        )?;
    }
    tx.commit()?;
    Ok((kept, lost))
}

/// Cursors and counters; a lost cursor means that a log is read again from its beginning.
fn copy_small(old: &Connection, tx: &Connection) -> rusqlite::Result<()> {
    if let Ok(mut rows) = old.prepare("SELECT key, value FROM cursor")
        && let Ok(mut rows) = rows.query([])
    {
        while let Ok(Some(r)) = rows.next() {
            if let (Ok(key), Ok(value)) = (r.get::<_, String>(0), r.get::<_, Vec<u8>>(1)) {
                tx.execute("INSERT OR REPLACE INTO cursor (key, value) VALUES (?1, ?2)", params![key, value])?;
            }
        }
    }
    if let Ok(mut rows) = old.prepare("SELECT class, refused, absorbed, lost FROM counter")
        && let Ok(mut rows) = rows.query([])
    {
        while let Ok(Some(r)) = rows.next() {
            if let (Ok(c), Ok(f), Ok(a), Ok(l)) =
                (r.get::<_, i64>(0), r.get::<_, i64>(1), r.get::<_, i64>(2), r.get::<_, i64>(3))
            {
                tx.execute("INSERT OR REPLACE INTO counter VALUES (?1, ?2, ?3, ?4)", [c, f, a, l])?;
            }
        }
    }
    Ok(())
}

/// Copies a stream's rows one by one, stepping over what cannot be read; returns the numbers that were kept.
fn copy_rows(old: &Connection, tx: &Connection, s: &Stream) -> rusqlite::Result<Ranges> {
    let end = row_id(s.id, s.next_seq) - 1;
    let (mut at, mut steps, mut stride) = (row_id(s.id, 1), 0, 1);
    let mut held = Ranges::default();
    while at <= end && steps < MAX_STEPS {
        let row = old
            .prepare_cached(
                "SELECT id, class, key_hash, appended_s, checksum, data FROM record WHERE id BETWEEN ?1 AND ?2 ORDER BY id LIMIT 1",
            )
            .and_then(|mut q| {
                q.query_row([at, end], |r| {
                    Ok((
                        r.get::<_, i64>(0)?,
                        r.get::<_, i64>(1)?,
                        r.get::<_, Option<Vec<u8>>>(2)?,
                        r.get::<_, i64>(3)?,
                        r.get::<_, i64>(4)?,
                        r.get::<_, Vec<u8>>(5)?,
                    ))
                })
                .optional()
            });
        match row {
            Ok(None) => break,
            Ok(Some((id, class, key, appended_s, sum, data))) => {
                at = id + 1;
                stride = 1;
                if sum == checksum(id, &data) {
                    let new = tx
                        .prepare_cached("INSERT INTO record (id, class, key_hash, appended_s, checksum, data) VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT DO NOTHING")?
                        .execute(params![id, class, key, appended_s, sum, data])?;
                    if new == 1 {
                        let (_, seq) = of_row(id);
                        held.insert(seq, seq);
                    }
                }
            }
            Err(_) => {
                at += stride;
                stride = (stride * 2).min(1_024);
                steps += 1;
            }
        }
    }
    Ok(held)
}

/// Counts a stream's waiting rows anew and puts its acked rows on the prune list.
fn recount(tx: &Connection, s: &mut Stream) -> rusqlite::Result<()> {
    let now_s = s.changed_s;
    let pending = s.pending(1, s.max_seq());
    s.waiting = pending.count();
    s.waiting_bytes = 0;
    for (f, l) in pending.iter() {
        s.waiting_bytes += weigh(tx, s.id, f, l)?.1;
    }
    relist_acked(tx, s.id, &s.acked, now_s)
}
