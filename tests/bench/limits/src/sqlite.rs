//! SQLite alone: one connection, one prepared INSERT, a commit a batch. The pragmas, the columns and the checkpoints are
//! those a durable outbox needs; nothing is counted, checked, answered or handed to another thread.
use crate::p50_p99;
use rusqlite::{Connection, params};
use serde_json::{Value, json};
use std::{
    path::{Path, PathBuf},
    time::Instant,
};

const SCHEMA: &str = "
PRAGMA auto_vacuum = INCREMENTAL;
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
PRAGMA foreign_keys = ON;
PRAGMA trusted_schema = OFF;
PRAGMA wal_autocheckpoint = 0;
CREATE TABLE record (id INTEGER PRIMARY KEY, class INTEGER NOT NULL, key_hash BLOB, appended_s INTEGER NOT NULL,
    checksum INTEGER NOT NULL, data BLOB NOT NULL) STRICT;
CREATE UNIQUE INDEX record_key ON record (class, key_hash) WHERE key_hash IS NOT NULL;
";

/// Bytes of rows after which the log is copied into the file.
const CHECKPOINT_BYTES: usize = 4 << 20;

struct Scratch(PathBuf);

impl Scratch {
    fn remove(&self) {
        for ending in ["", "-wal", "-shm"] {
            let mut path = self.0.clone().into_os_string();
            path.push(ending);
            // What was never made need not go.
            drop(std::fs::remove_file(path));
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Rows a second, and milliseconds of a batch.
pub fn insert(dir: &Path, batch: usize, bytes: usize, seconds: f64) -> anyhow::Result<Value> {
    let scratch = Scratch(dir.join("limit.db"));
    scratch.remove();
    let conn = Connection::open(&scratch.0)?;
    conn.execute_batch(SCHEMA)?;
    let mut insert = conn.prepare(
        "INSERT INTO record (id, class, key_hash, appended_s, checksum, data) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?;
    let (mut begin, mut commit) = (conn.prepare("BEGIN IMMEDIATE")?, conn.prepare("COMMIT")?);
    let data: Vec<u8> = (0..bytes).map(|i| (i * 31 % 251) as u8).collect();
    let none: Option<&[u8]> = None;
    let (mut id, mut dirty, mut took) = (1_i64 << 40, 0, Vec::new());
    let first = id;
    let begun = Instant::now();
    while begun.elapsed().as_secs_f64() < seconds {
        let batch_begun = Instant::now();
        begin.execute([])?;
        for _ in 0..batch {
            insert.execute(params![id, 3_i64, none, 1_700_000_000_i64, id ^ 0x5555, data])?;
            id += 1;
        }
        commit.execute([])?;
        dirty += batch * (bytes + 200);
        if dirty >= CHECKPOINT_BYTES {
            dirty = 0;
            conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))?;
        }
        took.push(batch_begun.elapsed().as_secs_f64() * 1e3);
    }
    let rate = (id - first) as f64 / begun.elapsed().as_secs_f64();
    let (p50, p99) = p50_p99(took);
    drop((insert, begin, commit));
    drop(conn);
    Ok(json!({"per_s": rate, "p50_ms": p50, "p99_ms": p99}))
}
