//! The agent's two SQLite files: how one is opened, checked, written by one thread, and given up.
//!
//! `ledger` holds what the host should be, `outbox` what it has not delivered. This file knows pragmas, file modes and
//! which errors mean that the process must end; it knows no table. All SQL of the agent is in this room.
use rusqlite::{Connection, ErrorCode, OpenFlags};
use rusqlite_migration::{Migrations, SchemaVersion};
use std::{
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

pub mod ledger;
pub mod outbox;
mod worker;

/// First SQLite without the WAL-reset bug that loses commits when a file has two connections.
const OLDEST_SQLITE: i32 = 3_051_003;

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("SQLite {0} has the WAL-reset bug; 3.51.3 or newer is needed")]
    OldSqlite(&'static str),
    #[error("{}: the file cannot be created", path.display())]
    Create { path: PathBuf, source: io::Error },
    #[error("{}: the file cannot be opened", path.display())]
    Open { path: PathBuf, source: rusqlite::Error },
    #[error("{}: this is not a file of this agent (application id {found:#x})", path.display())]
    Foreign { path: PathBuf, found: i32 },
    #[error("{}: the file was written by a newer agent (schema {found}, this agent knows {known})", path.display())]
    Newer { path: PathBuf, found: usize, known: usize },
    #[error("{}: the schema cannot be brought up to date", path.display())]
    Migrate { path: PathBuf, source: rusqlite_migration::Error },
    #[error("{}: the file is damaged: {problem}", path.display())]
    Damaged { path: PathBuf, problem: String },
    #[error("the writer thread cannot be started")]
    Thread(#[source] io::Error),
    #[error("the writer thread ended while it opened the file")]
    Gone,
}

impl OpenError {
    /// Is the file's content broken, so that only a salvage helps?
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Damaged { .. } => true,
            Self::Open { source, .. } => is_damage(source),
            Self::Migrate { source: rusqlite_migration::Error::RusqliteError { err, .. }, .. } => is_damage(err),
            _ => false,
        }
    }
}

/// What one of our files looks like.
pub(crate) struct Shape {
    /// Stands in the file's header.
    pub application_id: i32,
    pub migrations: Migrations<'static>,
    pub schema_version: usize,
}

/// What an error means for the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gravity {
    /// No space: nothing was committed, the same call may work later.
    Full,
    /// The disk or the file lies: what was committed is unknown. The process must end and check at its next start.
    Fatal,
    /// The statement failed, the file is as before.
    Statement,
}

/// Grows the -shm file; fails with an I/O error of its own when the disk is full.
const SQLITE_IOERR_SHMSIZE: i32 = 10 | (19 << 8);

/// What this error means for the process. After a failed fsync the kernel may have thrown the pages away and report
/// success the next time, so such a call is never repeated.
pub(crate) fn gravity(e: &rusqlite::Error) -> Gravity {
    let rusqlite::Error::SqliteFailure(f, _) = e else { return Gravity::Statement };
    match f.code {
        ErrorCode::DiskFull => Gravity::Full,
        ErrorCode::SystemIoFailure if f.extended_code == SQLITE_IOERR_SHMSIZE => Gravity::Full,
        ErrorCode::SystemIoFailure | ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => Gravity::Fatal,
        _ => Gravity::Statement,
    }
}

fn is_damage(e: &rusqlite::Error) -> bool {
    e.sqlite_error_code().is_some_and(|c| matches!(c, ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
}

/// Opens or creates one of our files, mode 0600, durable before the first commit, its schema up to date.
pub(crate) fn open(path: &Path, shape: &Shape) -> Result<Connection, OpenError> {
    if rusqlite::version_number() < OLDEST_SQLITE {
        return Err(OpenError::OldSqlite(rusqlite::version()));
    }
    create_durably(path).map_err(|source| OpenError::Create { path: path.into(), source })?;
    let mut conn = connect(path).map_err(|source| OpenError::Open { path: path.into(), source })?;
    adopt(&conn, path, shape)?;
    match shape.migrations.current_version(&conn) {
        Ok(SchemaVersion::Outside(found)) => {
            return Err(OpenError::Newer { path: path.into(), found: found.get(), known: shape.schema_version });
        }
        Ok(_) => {}
        Err(source) => return Err(OpenError::Migrate { path: path.into(), source }),
    }
    shape.migrations.to_latest(&mut conn).map_err(|source| OpenError::Migrate { path: path.into(), source })?;
    Ok(conn)
}

/// A connection with this room's pragmas to a file that exists.
pub(crate) fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags)?;
    conn.busy_timeout(Duration::from_secs(10))?;
    // Only works before the first page is written, and so before the switch to WAL.
    conn.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    conn.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    conn.pragma_update(None, "synchronous", "FULL")?;
    conn.pragma_update(None, "foreign_keys", true)?;
    conn.pragma_update(None, "trusted_schema", false)?;
    // SQLite's own checkpoints swallow I/O errors; ours are made where an error ends the process.
    conn.pragma_update(None, "wal_autocheckpoint", 0)?;
    conn.set_prepared_statement_cache_capacity(64);
    Ok(conn)
}

/// Moves committed pages from the log into the file. Readers may hold it back; the next call goes on.
pub(crate) fn checkpoint(conn: &Connection) -> rusqlite::Result<()> {
    conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))
}

/// `None` when SQLite finds the whole file in order, else its first complaint.
pub(crate) fn quick_check(conn: &Connection) -> rusqlite::Result<Option<String>> {
    let verdict: String = conn.query_row("PRAGMA quick_check(1)", [], |r| r.get(0))?;
    Ok((verdict != "ok").then_some(verdict))
}

/// Reads a file that somebody else may be writing, whole, and changes nothing in it: its first complaint, or why it cannot
/// be read.
pub fn examine(path: &Path) -> Result<Option<String>, String> {
    let look = || {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let conn = Connection::open_with_flags(path, flags)?;
        conn.busy_timeout(Duration::from_secs(10))?;
        quick_check(&conn)
    };
    match look() {
        Ok(verdict) => Ok(verdict),
        Err(e) if is_damage(&e) => Ok(Some(e.to_string())),
        Err(e) => Err(e.to_string()),
    }
}

fn adopt(conn: &Connection, path: &Path, shape: &Shape) -> Result<(), OpenError> {
    let read = || -> rusqlite::Result<(i32, bool)> {
        let id = conn.pragma_query_value(None, "application_id", |r| r.get(0))?;
        Ok((id, conn.query_row("SELECT EXISTS(SELECT 1 FROM sqlite_schema)", [], |r| r.get(0))?))
    };
    let (found, used) = read().map_err(|source| OpenError::Open { path: path.into(), source })?;
    if found == shape.application_id {
        return Ok(());
    }
    if found != 0 || used {
        return Err(OpenError::Foreign { path: path.into(), found });
    }
    conn.pragma_update(None, "application_id", shape.application_id)
        .map_err(|source| OpenError::Open { path: path.into(), source })
}

/// Creates the file so that neither it nor its name is lost with the power.
fn create_durably(path: &Path) -> io::Result<()> {
    match std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(file) => file.sync_all()?,
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        Err(e) => return Err(e),
    }
    sync_parent(path)
}

/// Makes the names in the file's folder durable.
pub(crate) fn sync_parent(path: &Path) -> io::Result<()> {
    let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::File::open(dir)?.sync_all()
}
