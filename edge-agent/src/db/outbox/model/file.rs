//! What should lie in an outbox's file, what does, read from outside, and copies of it as a crash or a power cut leaves them.
use super::world::{CURSOR, Name};
use crate::db::outbox::{
    StreamName,
    rows::{class_of, of_row},
};
use bytes::Bytes;
use redforge_shared::{ids::Epoch, record::RecordClass};
use rusqlite::{Connection, OptionalExtension as _};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

/// What the file should hold.
#[derive(Clone, Debug, Default)]
pub(super) struct Held {
    /// Every stream and its next number.
    pub next: BTreeMap<StreamName, u64>,
    pub rows: BTreeMap<Name, Bytes>,
    pub acked: BTreeSet<Name>,
    pub lost: BTreeSet<Name>,
    pub cursor: Option<u64>,
}

/// What the file holds.
#[derive(Debug, Default)]
pub(super) struct File {
    pub next: BTreeMap<StreamName, u64>,
    pub rows: BTreeMap<Name, Bytes>,
    pub keys: Vec<((RecordClass, Vec<u8>), Name)>,
    pub cursor: Option<u64>,
    /// By the order of their birth.
    pub newest: BTreeMap<RecordClass, StreamName>,
}

/// Where a power cut cuts the log, and what the file held when the log had that length.
pub(super) struct Cut {
    pub file: Vec<u8>,
    pub log: u64,
}

/// Copies the file and its log. The writer may be moving the log into the file meanwhile: what is copied is a moment at
/// which it did not. The log is cut only if nothing behind the cut is in the file, as it cannot be after a real power cut:
/// the log is on the disk before the file is written.
pub(super) fn copy_files(from: &Path, to: &Path, cut: Option<&Cut>) {
    fs::create_dir(to).expect("own folder");
    let file = || fs::read(from.join("outbox.db")).expect("the outbox made it");
    let mut before = file();
    let (file, log) = loop {
        let log = fs::read(from.join("outbox.db-wal")).ok();
        let after = file();
        if after == before {
            break (after, log);
        }
        before = after;
    };
    if let Some(mut log) = log {
        if let Some(cut) = cut.filter(|c| c.file == file) {
            log.truncate(cut.log as usize);
        }
        fs::write(to.join("outbox.db-wal"), log).expect("own folder");
    }
    fs::write(to.join("outbox.db"), file).expect("own folder");
}

impl Held {
    pub(super) fn acked(&mut self, name: Name, displaced: &mut BTreeSet<Name>) {
        self.acked.insert(name);
        if self.lost.remove(&name) {
            // Dropped while it was on its way; the hub has it after all, and there is no other copy.
            displaced.insert(name);
        }
    }
}

impl File {
    pub(super) fn read(dir: &Path) -> Self {
        let conn = Connection::open(dir.join("outbox.db")).expect("opens");
        let mut file = Self::default();
        let mut streams = BTreeMap::new();
        let mut query = conn.prepare("SELECT id, class, epoch, next_seq FROM stream ORDER BY id").expect("our table");
        let mut rows = query.query([]).expect("reads");
        while let Some(r) = rows.next().expect("reads") {
            let class = class_of(r.get(1).expect("a number")).expect("a class");
            let name = StreamName { class, epoch: Epoch(r.get(2).expect("16 bytes")) };
            streams.insert(r.get::<_, i64>(0).expect("a number"), name);
            let next = r.get::<_, i64>(3).expect("a number") as u64;
            // An append of repeats only leaves a stream that has nothing yet.
            if next > 1 {
                file.next.insert(name, next);
            }
            file.newest.insert(class, name);
        }
        let mut query = conn.prepare("SELECT id, key_hash, data FROM record").expect("our table");
        let mut rows = query.query([]).expect("reads");
        while let Some(r) = rows.next().expect("reads") {
            let (stream, seq) = of_row(r.get(0).expect("a number"));
            let stream = streams[&stream];
            file.rows.insert((stream, seq), Bytes::from(r.get::<_, Vec<u8>>(2).expect("bytes")));
            file.keys
                .extend(r.get::<_, Option<Vec<u8>>>(1).expect("bytes").map(|k| ((stream.class, k), (stream, seq))));
        }
        let cursor = conn.query_row("SELECT value FROM cursor WHERE key = ?1", [CURSOR], |r| r.get::<_, Vec<u8>>(0));
        let cursor = cursor.optional().expect("reads");
        file.cursor = cursor.map(|c| u64::from_be_bytes(c.try_into().expect("8 bytes")));
        file
    }
}
