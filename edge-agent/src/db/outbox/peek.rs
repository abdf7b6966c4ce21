//! The outbox in numbers: of a running one from its books, of a stopped one by reading the file and changing nothing.
use super::{
    APPLICATION_ID, ClassStatus, OutboxError, SCHEMA_VERSION,
    books::Books,
    rows::row_id,
    stream::{Counters, Stream},
};
use crate::db::OpenError;
use redforge_shared::record::RecordClass;
use rusqlite::{Connection, OpenFlags, OptionalExtension as _};
use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};
use time::OffsetDateTime;

/// Each class in numbers, from the file of an agent that may or may not run. Nothing is migrated, checked or written.
pub fn peek(path: &Path) -> Result<Vec<ClassStatus>, OutboxError> {
    let failed = |e| OutboxError::Open(Arc::new(e));
    let sql = |source| failed(OpenError::Open { path: path.into(), source });
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags).map_err(sql)?;
    conn.busy_timeout(Duration::from_secs(2)).map_err(sql)?;
    let pragma = |name| conn.pragma_query_value(None, name, |r| r.get::<_, i32>(0)).map_err(sql);
    let found = pragma("application_id")?;
    if found != APPLICATION_ID {
        return Err(failed(OpenError::Foreign { path: path.into(), found }));
    }
    let schema = usize::try_from(pragma("user_version")?).unwrap_or(0);
    if schema > SCHEMA_VERSION {
        return Err(failed(OpenError::Newer { path: path.into(), found: schema, known: SCHEMA_VERSION }));
    }
    let read = || {
        let books = Books::load(&conn)?;
        let (mut classes, oldest) = count(&books.streams, &books.counters);
        let at = ages(&conn, &oldest)?;
        for c in &mut classes {
            c.oldest_at = at.get(&c.class).copied();
        }
        Ok(classes)
    };
    read().map_err(|e| OutboxError::Read(Arc::new(e)))
}

/// Each class in numbers, without its age, and the row of each class's oldest waiting record.
pub(super) fn count(
    streams: &BTreeMap<i64, Stream>,
    counters: &BTreeMap<RecordClass, Counters>,
) -> (Vec<ClassStatus>, Vec<(RecordClass, i64)>) {
    let mut oldest = Vec::new();
    let classes = RecordClass::ALL.into_iter().map(|class| {
        let streams = || streams.values().filter(move |s| s.class == class);
        let first = streams().find_map(|s| s.pending(1, s.max_seq()).iter().next().map(|(f, _)| (s.id, f)));
        oldest.extend(first.map(|(id, seq)| (class, row_id(id, seq))));
        let c = counters.get(&class).copied().unwrap_or_default();
        ClassStatus {
            class,
            waiting: streams().map(|s| s.waiting).sum(),
            waiting_bytes: streams().map(|s| s.waiting_bytes).sum(),
            refused: c.refused,
            absorbed: c.absorbed,
            lost: c.lost,
            oldest_at: None,
        }
    });
    (classes.collect(), oldest)
}

/// When these rows, or the first ones after them, were appended.
pub(super) fn ages(
    conn: &Connection,
    oldest: &[(RecordClass, i64)],
) -> rusqlite::Result<BTreeMap<RecordClass, OffsetDateTime>> {
    let mut at = BTreeMap::new();
    let mut query = conn.prepare_cached("SELECT appended_s FROM record WHERE id >= ?1 ORDER BY id LIMIT 1")?;
    for (class, id) in oldest {
        let seconds: Option<i64> = query.query_row([id], |r| r.get(0)).optional()?;
        at.extend(seconds.and_then(|s| Some((*class, OffsetDateTime::from_unix_timestamp(s).ok()?))));
    }
    Ok(at)
}
