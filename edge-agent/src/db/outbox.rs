//! `outbox.db`: what was released and is not yet known to be safe at the hub. Steps "append (commit)" and "ack" of the flow up.
//!
//! A record gets its stream's next number in the transaction that inserts it, and the caller hears of it after the commit.
//! An ack marks, pruning deletes later, so that a hub restored from an older backup can be sent the rest again. Streams are
//! born at the first append after each open, under an epoch that was never used before: a restored copy of this file cannot
//! give an old name to a new record. It accepts only `Released` and hands out opaque bytes; it knows neither broker nor hub.
mod books;
mod lanes;
mod peek;
mod ranges;
mod reserve;
mod room;
mod rows;
mod salvage;
mod session;
mod stream;
mod writer;

use self::{
    books::Books,
    reserve::Reserve,
    stream::{Counters, Stream},
    writer::{Job, Outcome, Work, Writer},
};
use super::{OpenError, Shape, worker::Worker};
use crate::privacy::Released;
use redforge_shared::{clock::SharedClock, record::RecordClass};
use rusqlite::Connection;
use rusqlite_migration::{M, Migrations};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, RwLock, mpsc},
    time::{Duration, Instant},
};
use tokio::sync::{Semaphore, oneshot, watch};
use tokio_util::sync::CancellationToken;

pub use self::{
    peek::peek,
    ranges::Ranges,
    session::Session,
    stream::{ClassStatus, LostReason, OpenStream, Room, SealedBatch, StreamName},
};

const APPLICATION_ID: i32 = 0x5246_4f31; // "RFO1"
const SCHEMA_VERSION: usize = 1;
/// KiB of records that may wait for the writer; more callers wait in turn.
const QUEUE_KIB: u32 = 32 << 10;

/// What went wrong, by what the caller can do about it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum OutboxError {
    #[error("opening the outbox")]
    Open(#[source] Arc<OpenError>),
    /// Nothing was taken; later it may be.
    #[error("the disk is full")]
    DiskFull,
    /// Nothing was taken; later it may be.
    #[error("the outbox has no room for more records of class {0}")]
    ClassFull(RecordClass),
    #[error("writing the outbox")]
    Write(#[source] Arc<rusqlite::Error>),
    #[error("reading the outbox")]
    Read(#[source] Arc<rusqlite::Error>),
    #[error("the outbox has been given up after a disk error, or closed")]
    Stopped,
}

/// What became of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// Stored under this number.
    New(u64),
    /// A record of this class and key is here already; counted, not stored.
    Repeat,
}

/// Where a collector stands; committed together with what it read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CursorUpdate {
    pub key: String,
    pub value: Vec<u8>,
}

/// Caps. Bytes count a record's sealed bytes and about 100 for its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// All records together, acked ones too while they are kept.
    pub max_bytes: u64,
    /// How long and how much of what is acked is kept for a hub that is restored from a backup. The time is counted up to
    /// when the hub was last heard: while it is away, nothing acked is deleted but for want of room.
    pub hub_rpo: Duration,
    pub hub_rpo_bytes: u64,
    /// Waiting logs and measurements older than this are dropped; vectors and events never are.
    pub max_age: Duration,
    /// Disk space kept back for acks and state; at most a twentieth of the file system is taken.
    pub reserve_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_bytes: 8 << 30,
            hub_rpo: Duration::from_hours(24),
            hub_rpo_bytes: 1 << 30,
            max_age: Duration::from_hours(24 * 30),
            reserve_bytes: 64 << 20,
        }
    }
}

impl Limits {
    /// Logs and measurements give way, oldest first and counted. Vectors and events push back instead.
    fn may_drop(class: RecordClass) -> bool {
        matches!(class, RecordClass::Log | RecordClass::Measurement)
    }

    fn class_bytes(&self, class: RecordClass) -> u64 {
        if Self::may_drop(class) { self.max_bytes / 4 } else { self.max_bytes }
    }
}

/// Draws a never-used epoch.
pub fn random_epoch() -> [u8; 16] {
    let mut epoch = [0; 16];
    aws_lc_rs::rand::fill(&mut epoch).expect("the kernel's random source works");
    epoch
}

/// What everybody sees of the books, as of the last commit.
#[derive(Debug, Default)]
struct View {
    streams: BTreeMap<i64, Stream>,
    counters: BTreeMap<RecordClass, Counters>,
    disk_full: bool,
}

/// What the writer, the handles and the sessions share.
#[derive(Debug)]
struct Shared {
    path: PathBuf,
    limits: Limits,
    view: RwLock<View>,
    /// Runs that were sent and not acked, by stream.
    in_flight: Mutex<BTreeMap<i64, Ranges>>,
    changed: watch::Sender<u64>,
    appended_bytes: std::sync::atomic::AtomicU64,
    opened: Instant,
    broken: CancellationToken,
    closed: CancellationToken,
}

impl Shared {
    fn in_flight(&self) -> BTreeMap<i64, Ranges> {
        self.in_flight.lock().expect("no panic while the lock is held").clone()
    }

    fn publish(&self, books: &Books, changed: &[i64], full: bool) {
        let mut view = self.view.write().expect("no panic while the lock is held");
        for id in changed {
            match books.streams.get(id) {
                Some(s) => drop(view.streams.insert(*id, s.clone())),
                None => drop(view.streams.remove(id)),
            }
        }
        view.counters.clone_from(&books.counters);
        view.disk_full = full;
    }

    fn set_full(&self, full: bool) {
        self.view.write().expect("no panic while the lock is held").disk_full = full;
    }

    /// Leaves a mark by which the next start salvages the file, if its content is broken.
    fn note_damage(&self, e: &rusqlite::Error) {
        if super::is_damage(e) {
            mark_damaged(&self.path);
        }
    }
}

/// A handle to `outbox.db`; clones share one writer thread.
#[derive(Clone, Debug)]
pub struct Outbox {
    jobs: mpsc::Sender<Job>,
    room: Arc<Semaphore>,
    reader: Worker,
    shared: Arc<Shared>,
}

impl Outbox {
    /// Opens or creates the file; what a damaged one still holds is salvaged. After an unclean stop the file is checked in
    /// the background.
    pub async fn open(path: &Path, limits: Limits, clock: SharedClock) -> Result<Self, OutboxError> {
        Self::open_with(path, limits, clock, random_epoch).await
    }

    /// Like `open`, with the source of epochs given.
    pub async fn open_with(
        path: &Path,
        limits: Limits,
        clock: SharedClock,
        draw: fn() -> [u8; 16],
    ) -> Result<Self, OutboxError> {
        let (jobs, queue) = mpsc::channel();
        let (opened, opening) = oneshot::channel();
        let file = path.to_path_buf();
        std::thread::Builder::new()
            .name("outbox".into())
            .spawn(move || match prepare(&file, limits, clock, draw) {
                Ok(writer) => {
                    if opened.send(Ok(Arc::clone(&writer.shared))).is_ok() {
                        writer.serve(&queue);
                    }
                }
                Err(e) => drop(opened.send(Err(e))),
            })
            .map_err(|e| OutboxError::Open(Arc::new(OpenError::Thread(e))))?;
        let shared = opening
            .await
            .map_err(|_| OpenError::Gone)
            .and_then(|opened| opened)
            .map_err(|e| OutboxError::Open(Arc::new(e)))?;
        let file = path.to_path_buf();
        let open_reader = move || match super::connect(&file) {
            Ok(conn) => Ok((conn, ())),
            Err(source) => Err(OpenError::Open { path: file, source }),
        };
        let (reader, ()) =
            Worker::start("outbox-read", open_reader).await.map_err(|e| OutboxError::Open(Arc::new(e)))?;
        Ok(Self { jobs, room: Arc::new(Semaphore::new(QUEUE_KIB as usize)), reader, shared })
    }

    /// Resolves when the file can no longer be trusted: the process must end, the next start checks it.
    pub async fn broken(&self) {
        tokio::select! {
            () = self.shared.broken.cancelled() => {}
            () = self.reader.broken() => {}
        }
    }

    /// Ends the writer in good order, so that the next start need not check the file.
    pub async fn close(&self) {
        if self.ask(Work::Close, 0).await.is_err() {
            return;
        }
        tokio::select! {
            () = self.shared.closed.cancelled() => {}
            () = self.shared.broken.cancelled() => {}
        }
    }

    /// A hint after each commit that put records or lost ranges in.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.shared.changed.subscribe()
    }

    /// Stores records and moves the collector's cursor, all or nothing; resolves after the commit.
    pub async fn append(
        &self,
        records: Vec<Released>,
        cursor: Option<CursorUpdate>,
    ) -> Result<Vec<Appended>, OutboxError> {
        let bytes: usize = records.iter().map(|r| r.sealed().len()).sum();
        match self.ask(Work::Append { records, cursor }, bytes).await? {
            Outcome::Appended(done) => {
                self.shared.appended_bytes.fetch_add(bytes as u64, std::sync::atomic::Ordering::Relaxed);
                Ok(done)
            }
            Outcome::Done { .. } => Ok(Vec::new()),
        }
    }

    /// Counts raw records of a class that were refused; resolves after the commit.
    pub async fn count_refused(&self, class: RecordClass, count: u64) -> Result<(), OutboxError> {
        self.ask(Work::Refused { class, count }, 0).await.map(|_| ())
    }

    /// The hub has committed `first..=last` of a stream.
    pub async fn ack(&self, stream: StreamName, first: u64, last: u64) -> Result<(), OutboxError> {
        self.ask(Work::Ack { stream, first, last }, 0).await.map(|_| ())
    }

    /// The hub answers a hello that named this stream: what it lacks and is still here will be sent again, and what was
    /// lost when the hello was made is noted.
    pub async fn reconcile_committed(&self, named: &OpenStream, committed: Ranges) -> Result<(), OutboxError> {
        let work = Work::Reconcile { stream: named.name, committed, noted: named.lost_revision };
        self.ask(work, 0).await.map(|_| ())
    }

    /// The hub has answered a hello and all of it was reconciled: from now on what it has is known.
    pub async fn note_heard(&self) -> Result<(), OutboxError> {
        self.ask(Work::Heard, 0).await.map(|_| ())
    }

    /// Gives up waiting records; they are counted and told to the hub as lost.
    pub async fn lose(&self, stream: StreamName, first: u64, last: u64, reason: LostReason) -> Result<(), OutboxError> {
        self.ask(Work::Lose { stream, first, last, reason }, 0).await.map(|_| ())
    }

    /// For how long the hub wants acked records to be kept.
    pub async fn set_hub_rpo(&self, window: Duration) -> Result<(), OutboxError> {
        self.ask(Work::HubRpo(window), 0).await.map(|_| ())
    }

    /// Every stream of which something is still here, oldest first.
    pub fn open_streams(&self) -> Vec<OpenStream> {
        self.view().streams.values().map(Stream::open).collect()
    }

    /// Streams whose lost ranges grew since the revision that `told` has of them.
    pub fn lost_news(&self, told: &BTreeMap<StreamName, u64>) -> Vec<OpenStream> {
        let view = self.view();
        let news = view.streams.values().filter(|s| s.lost_revision > told.get(&s.name()).copied().unwrap_or(0));
        news.map(Stream::open).collect()
    }

    /// Where a collector stood at its last commit.
    pub async fn cursor(&self, key: &str) -> Result<Option<Vec<u8>>, OutboxError> {
        use rusqlite::OptionalExtension as _;
        let key = key.to_owned();
        self.read(move |c| c.query_row("SELECT value FROM cursor WHERE key = ?1", [key], |r| r.get(0)).optional()).await
    }

    /// Each class in numbers.
    pub async fn status(&self) -> Result<Vec<ClassStatus>, OutboxError> {
        let (mut classes, oldest) = {
            let view = self.view();
            peek::count(&view.streams, &view.counters)
        };
        let at = self.read(move |c| peek::ages(c, &oldest)).await.unwrap_or_default();
        for c in &mut classes {
            c.oldest_at = at.get(&c.class).copied();
        }
        Ok(classes)
    }

    /// How much room there is.
    pub fn room(&self) -> Room {
        let view = self.view();
        let age = self.shared.opened.elapsed().as_secs_f64();
        let appended = self.shared.appended_bytes.load(std::sync::atomic::Ordering::Relaxed);
        Room {
            max_bytes: self.shared.limits.max_bytes,
            waiting_bytes: view.streams.values().map(|s| s.waiting_bytes).sum(),
            appended_bytes_per_s: (age > 60.0).then(|| appended as f64 / age),
            disk_full: view.disk_full,
        }
    }

    fn view(&self) -> std::sync::RwLockReadGuard<'_, View> {
        self.shared.view.read().expect("no panic while the lock is held")
    }

    async fn ask(&self, work: Work, bytes: usize) -> Result<Outcome, OutboxError> {
        let kib = u32::try_from(bytes / 1024 + 1).unwrap_or(QUEUE_KIB).min(QUEUE_KIB);
        let _room = self.room.acquire_many(kib).await.map_err(|_| OutboxError::Stopped)?;
        let (answer, outcome) = oneshot::channel();
        self.jobs.send(Job { work, answer }).map_err(|_| OutboxError::Stopped)?;
        outcome.await.map_err(|_| OutboxError::Stopped)?
    }

    async fn read<T: Send + 'static>(
        &self,
        f: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, OutboxError> {
        self.reader.call(f).await.map_err(|e| match e {
            super::worker::CallError::Sql(e) => {
                self.shared.note_damage(&e);
                OutboxError::Read(Arc::new(e))
            }
            super::worker::CallError::Stopped => OutboxError::Stopped,
        })
    }
}

fn shape() -> Shape {
    Shape {
        application_id: APPLICATION_ID,
        migrations: Migrations::new(vec![M::up(rows::SCHEMA)]),
        schema_version: SCHEMA_VERSION,
    }
}

fn damage_mark(path: &Path) -> PathBuf {
    path.with_extension("damaged")
}

fn mark_damaged(path: &Path) {
    let marked = std::fs::write(damage_mark(path), b"").and_then(|()| super::sync_parent(path));
    if let Err(e) = marked {
        tracing::error!(error = %e, "the damage could not be noted for the next start");
    }
}

/// Gives up the reserve of this outbox where the disk has no room at all, before anything is opened there.
pub fn give_way(path: &Path) {
    if let Ok(reserve) = Reserve::beside(path, u64::MAX)
        && reserve.is_low()
    {
        reserve.release();
    }
}

/// Opens the file on the writer's thread.
fn prepare(path: &Path, limits: Limits, clock: SharedClock, draw: fn() -> [u8; 16]) -> Result<Writer, OpenError> {
    let create = |source| OpenError::Create { path: path.into(), source };
    let sql = |source| OpenError::Open { path: path.into(), source };
    let reserve = Reserve::beside(path, limits.reserve_bytes).map_err(create)?;
    if reserve.is_low() {
        reserve.release();
    }
    let marked = damage_mark(path).exists();
    let opened = if marked { None } else { Some(open_sound(path)) };
    let (conn, books) = match opened {
        Some(Ok(opened)) => opened,
        Some(Err(e)) if !e.is_damage() => return Err(e),
        damaged => {
            let why = damaged.and_then(|d| d.err()).map_or_else(|| "found by a check".to_owned(), |e| e.to_string());
            let aside = salvage::put_aside(path, clock.now().unix_timestamp()).map_err(create)?;
            let mut conn = super::open(path, &shape())?;
            let (kept, lost) = salvage::copy(&aside, &mut conn).map_err(sql)?;
            drop(std::fs::remove_file(damage_mark(path)));
            tracing::error!(why, records.kept = kept, records.lost = lost, aside = %aside.display(), "outbox salvaged");
            let books = Books::load(&conn).map_err(sql)?;
            (conn, books)
        }
    };
    let full = !reserve.restore();
    let shared = Arc::new(Shared {
        path: path.into(),
        limits,
        view: RwLock::new(View { streams: books.streams.clone(), counters: books.counters.clone(), disk_full: full }),
        in_flight: Mutex::default(),
        changed: watch::Sender::new(0),
        appended_bytes: 0.into(),
        opened: Instant::now(),
        broken: CancellationToken::new(),
        closed: CancellationToken::new(),
    });
    check_if_unclean(&conn, &shared).map_err(sql)?;
    Ok(Writer { conn, books, limits, clock, draw, reserve, shared, full })
}

fn open_sound(path: &Path) -> Result<(Connection, Books), OpenError> {
    let conn = super::open(path, &shape())?;
    let books = Books::load(&conn).map_err(|source| OpenError::Open { path: path.into(), source })?;
    Ok((conn, books))
}

/// After an unclean stop the whole file is read once, beside the running agent; damage ends the process, and the next start
/// salvages.
fn check_if_unclean(conn: &Connection, shared: &Arc<Shared>) -> rusqlite::Result<()> {
    let clean =
        conn.query_row("SELECT count(*) FROM meta WHERE key = 'clean' AND value = 0", [], |r| r.get::<_, i64>(0))? == 0;
    match conn.execute("INSERT OR REPLACE INTO meta (key, value) VALUES ('clean', 0)", []) {
        // On a full disk the mark of the last run stands, at worst as clean.
        Err(e) if super::gravity(&e) != super::Gravity::Full => return Err(e),
        _ => {}
    }
    if clean {
        return Ok(());
    }
    let shared = Arc::clone(shared);
    let check = move || {
        let verdict = super::connect(&shared.path).and_then(|c| super::quick_check(&c));
        let problem = match verdict {
            Ok(None) => return,
            Ok(Some(problem)) => problem,
            Err(e) if super::is_damage(&e) => e.to_string(),
            Err(e) => return tracing::warn!(error = %e, "outbox: the check after an unclean stop did not run"),
        };
        tracing::error!(problem, "outbox: damaged, the process ends and the next start salvages");
        mark_damaged(&shared.path);
        shared.broken.cancel();
    };
    if let Err(e) = std::thread::Builder::new().name("outbox-check".into()).spawn(check) {
        tracing::warn!(error = %e, "outbox: the check after an unclean stop did not run");
    }
    Ok(())
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
