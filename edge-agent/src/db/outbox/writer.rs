//! The thread that writes `outbox.db`: it collects what many callers want, does it in one transaction, commits, then answers.
//!
//! A commit that fails for want of space answers `DiskFull` to appends and does everything else again on the reserve. Any
//! other I/O error ends the thread and with it the process: what is on the disk is then unknown and is read anew.
use super::{
    Appended, CursorUpdate, Limits, OutboxError, Shared,
    books::{Books, Desk},
    ranges::Ranges,
    reserve::Reserve,
    stream::{LostReason, StreamName},
};
use crate::{
    db::{Gravity, checkpoint, gravity},
    privacy::Released,
};
use redforge_shared::{clock::SharedClock, record::RecordClass};
use rusqlite::Connection;
use std::{
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

/// Rows after which a group is committed without waiting for more.
const GROUP_ROWS: usize = 1_000;
/// Longest wait for the callers that were in the last group.
const GROUP_WAIT: Duration = Duration::from_millis(2);
/// How often the thread looks for what is due when nobody calls.
const TICK: Duration = Duration::from_secs(1);
/// Written bytes after which the log goes into the file.
const CHECKPOINT_BYTES: u64 = 4 << 20;

/// What a caller wants.
#[derive(Debug)]
pub(super) enum Work {
    Append {
        records: Vec<Released>,
        cursor: Option<CursorUpdate>,
    },
    Refused {
        class: RecordClass,
        count: u64,
    },
    Ack {
        stream: StreamName,
        first: u64,
        last: u64,
    },
    Reconcile {
        stream: StreamName,
        committed: Ranges,
        noted: u64,
    },
    Lose {
        stream: StreamName,
        first: u64,
        last: u64,
        reason: LostReason,
    },
    HubRpo(Duration),
    /// The hub has answered a hello, for every stream.
    Heard,
    /// Delete what is due.
    Tidy,
    /// Everything before this is done; the file is closed in good order.
    Close,
}

impl Work {
    fn rows(&self) -> usize {
        match self {
            Self::Append { records, .. } => records.len(),
            _ => 1,
        }
    }
}

/// What came of it.
#[derive(Debug)]
pub(super) enum Outcome {
    Appended(Vec<Appended>),
    Done { more: bool },
}

pub(super) type Answer = oneshot::Sender<Result<Outcome, OutboxError>>;

/// A wish and who waits for it.
pub(super) struct Job {
    pub work: Work,
    pub answer: Answer,
}

/// The thread's state.
pub(super) struct Writer {
    pub conn: Connection,
    pub books: Books,
    pub limits: Limits,
    pub clock: SharedClock,
    pub draw: fn() -> [u8; 16],
    pub reserve: Reserve,
    pub shared: Arc<Shared>,
    pub full: bool,
}

impl Writer {
    /// Serves until every handle is gone, `Close` comes, or the file can no longer be trusted.
    pub(super) fn serve(mut self, jobs: &mpsc::Receiver<Job>) {
        let mut last_size = 1;
        let mut tidied = Instant::now();
        let mut dirty = 0;
        loop {
            let mut group = Vec::new();
            match jobs.recv_timeout(TICK) {
                Ok(job) => group.push(job),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
            }
            if !group.is_empty() {
                gather(jobs, &mut group, last_size);
                last_size = group.len();
            }
            let closing = group.iter().any(|j| matches!(j.work, Work::Close));
            dirty += group.iter().map(|j| weight(&j.work)).sum::<u64>();
            let sound = self.commit(group) && (tidied.elapsed() < TICK || self.tidy(&mut tidied));
            let sound = sound && (dirty < CHECKPOINT_BYTES || self.checkpoint(&mut dirty));
            if !sound {
                self.shared.broken.cancel();
                return;
            }
            if closing {
                break;
            }
        }
        self.close();
    }

    /// False if the file can no longer be trusted.
    fn commit(&mut self, group: Vec<Job>) -> bool {
        if group.is_empty() {
            return true;
        }
        let result = self.attempt(group.iter().map(|j| &j.work));
        let e = match result {
            Ok(outcomes) => {
                self.tell(group, outcomes);
                return true;
            }
            Err(e) => e,
        };
        match gravity(&e) {
            Gravity::Full => {
                self.enter_full();
                // Once more, without the appends: they are refused now.
                match self.attempt(group.iter().map(|j| &j.work)) {
                    Ok(outcomes) => self.tell(group, outcomes),
                    Err(e) if gravity(&e) == Gravity::Fatal => return self.fatal(&e),
                    Err(_) => group.into_iter().for_each(|j| drop(j.answer.send(Err(OutboxError::DiskFull)))),
                }
                true
            }
            Gravity::Statement => {
                let e = Arc::new(e);
                for j in group {
                    drop(j.answer.send(Err(OutboxError::Write(Arc::clone(&e)))));
                }
                true
            }
            Gravity::Fatal => self.fatal(&e),
        }
    }

    fn fatal(&self, e: &rusqlite::Error) -> bool {
        tracing::error!(error = %e, "outbox: a disk error, the file can no longer be trusted");
        self.shared.note_damage(e);
        false
    }

    /// One transaction with all of these, or nothing of it.
    fn attempt<'w>(
        &mut self,
        works: impl Iterator<Item = &'w Work>,
    ) -> rusqlite::Result<Vec<Result<Outcome, OutboxError>>> {
        let in_flight = self.shared.in_flight();
        self.books.begin();
        let now_s = self.clock.now().unix_timestamp();
        let (full, mut rpo) = (self.full, None);
        let desk = Desk { conn: &self.conn, limits: &self.limits, now_s, in_flight: &in_flight, draw: self.draw };
        let books = &mut self.books;
        let run = || {
            self.conn.execute_batch("BEGIN IMMEDIATE")?;
            let mut outcomes = Vec::new();
            for work in works {
                if let Work::HubRpo(window) = work {
                    rpo = Some(*window);
                }
                outcomes.push(perform(books, &desk, work, full)?);
            }
            let changed = books.write_back(&desk)?;
            self.conn.execute_batch("COMMIT")?;
            Ok((outcomes, changed))
        };
        let result: rusqlite::Result<_> = run();
        match result {
            Ok((outcomes, changed)) => {
                if let Some(window) = rpo {
                    self.limits.hub_rpo = window;
                }
                self.shared.publish(&self.books, &changed, self.full);
                Ok(outcomes)
            }
            Err(e) => {
                if !self.conn.is_autocommit() {
                    // A rollback writes nothing; if it fails the next BEGIN fails too and says so.
                    drop(self.conn.execute_batch("ROLLBACK"));
                }
                self.books.roll_back();
                Err(e)
            }
        }
    }

    /// After the commit: hint first, so that whoever is answered finds the hint already given.
    fn tell(&self, group: Vec<Job>, outcomes: Vec<Result<Outcome, OutboxError>>) {
        if group.iter().any(|j| matches!(j.work, Work::Append { .. } | Work::Lose { .. } | Work::Reconcile { .. })) {
            self.shared.changed.send_modify(|n| *n += 1);
        }
        for (job, outcome) in group.into_iter().zip(outcomes) {
            drop(job.answer.send(outcome));
        }
    }

    fn enter_full(&mut self) {
        if !self.full {
            tracing::error!("disk full: records are refused until space is freed");
        }
        self.full = true;
        self.reserve.release();
        self.shared.set_full(true);
    }

    /// Deletes what is due and looks after the reserve. False if the file can no longer be trusted.
    fn tidy(&mut self, tidied: &mut Instant) -> bool {
        if !self.full && self.reserve.is_low() {
            self.enter_full();
        }
        match self.attempt(std::iter::once(&Work::Tidy)) {
            Ok(outcomes) => {
                let more = outcomes.iter().any(|o| matches!(o, Ok(Outcome::Done { more: true })));
                *tidied = if more { *tidied } else { Instant::now() };
            }
            Err(e) if gravity(&e) == Gravity::Fatal => return self.fatal(&e),
            Err(e) => {
                tracing::warn!(error = %e, "outbox: tidying failed, it is tried again");
                *tidied = Instant::now();
            }
        }
        if let Err(e) = self.shrink()
            && gravity(&e) == Gravity::Fatal
        {
            return self.fatal(&e);
        }
        if self.full && self.reserve.restore() {
            tracing::info!("space is free again: records are taken again");
            self.full = false;
            self.shared.set_full(false);
        }
        true
    }

    /// Gives free pages back to the disk when there are many.
    fn shrink(&self) -> rusqlite::Result<()> {
        let pragma = |name| self.conn.pragma_query_value(None, name, |r| r.get::<_, i64>(0));
        let (free, all) = (pragma("freelist_count")?, pragma("page_count")?);
        if free > 256 && (self.full || free > all / 4) {
            let mut steps = self.conn.prepare_cached("PRAGMA incremental_vacuum(2000)")?;
            let mut rows = steps.query([])?;
            while rows.next()?.is_some() {}
            checkpoint(&self.conn)?;
        }
        Ok(())
    }

    fn checkpoint(&self, dirty: &mut u64) -> bool {
        *dirty = 0;
        match checkpoint(&self.conn) {
            Err(e) if gravity(&e) == Gravity::Fatal => self.fatal(&e),
            _ => true,
        }
    }

    /// Marks that nothing needs checking at the next start.
    fn close(self) {
        let closed = self
            .conn
            .execute("INSERT OR REPLACE INTO meta (key, value) VALUES ('clean', 1)", [])
            .and_then(|_| checkpoint(&self.conn));
        if let Err(e) = closed {
            tracing::warn!(error = %e, "outbox: not closed in good order, it is checked at the next start");
        }
        self.shared.closed.cancel();
    }
}

/// Waits shortly for as many callers as the last group had: those that were just answered come back at once, and a lone
/// caller waits for nobody.
fn gather(jobs: &mpsc::Receiver<Job>, group: &mut Vec<Job>, last_size: usize) {
    let deadline = Instant::now() + GROUP_WAIT;
    let mut rows: usize = group.iter().map(|j| j.work.rows()).sum();
    while rows < GROUP_ROWS {
        let next = if group.len() < last_size {
            jobs.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok()
        } else {
            jobs.try_recv().ok()
        };
        let Some(job) = next else { return };
        rows += job.work.rows();
        group.push(job);
    }
}

fn weight(work: &Work) -> u64 {
    match work {
        Work::Append { records, .. } => records.iter().map(|r| r.sealed().len() as u64 + 200).sum(),
        _ => 8_192,
    }
}

fn perform(
    books: &mut Books,
    desk: &Desk<'_>,
    work: &Work,
    full: bool,
) -> rusqlite::Result<Result<Outcome, OutboxError>> {
    let mut more = false;
    match work {
        Work::Append { .. } if full => return Ok(Err(OutboxError::DiskFull)),
        Work::Append { records, cursor } => {
            return Ok(books.append(desk, records, cursor.as_ref())?.map(Outcome::Appended));
        }
        Work::Refused { class, count } => books.refuse(*class, *count),
        Work::Ack { stream, first, last } => {
            if let Some(id) = books.find(*stream) {
                books.ack(desk, id, *first, *last)?;
            }
        }
        Work::Reconcile { stream, committed, noted } => {
            if let Some(id) = books.find(*stream) {
                books.reconcile(desk, id, committed, *noted)?;
            }
        }
        Work::Lose { stream, first, last, reason } => {
            if let Some(id) = books.find(*stream) {
                books.lose(desk, id, *first, *last, *reason)?;
            }
        }
        Work::Tidy => {
            more = books.prune(desk)? | books.expire(desk)?;
            // Unacked data displaces acked data.
            more |= full && books.prune_oldest(desk)?;
            books.drop_empty_streams(desk)?;
        }
        Work::Heard => books.heard_s = Some(desk.now_s),
        Work::HubRpo(_) | Work::Close => {}
    }
    Ok(Ok(Outcome::Done { more }))
}
