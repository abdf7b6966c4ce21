//! What containers print, each line once: the place reached is committed together with the lines.
//!
//! The engine can only be asked for lines since a whole second, so lines are read again and skipped up to the cursor. Both
//! outputs have a place of their own: each is in order, but the two are stamped before they are put together, and a line of
//! one may follow a younger line of the other.
//!
//! A container that is no longer named may still be ending: it is read until its log ends, once, and not opened again.
use super::{OFFER_AGAIN, Tools, payload};
use crate::{
    db::outbox::{CursorUpdate, OutboxError},
    privacy::{RawRecord, Released},
    runtime::{LogLine, LogSource, LogStream, Runtime, RuntimeError},
};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use redforge_shared::{
    error::Chain,
    ids::Name,
    record::{Body, Log, RecordClass},
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Lines that are committed together at most.
const TOGETHER: usize = 500;
/// How far one output may lag behind the other.
const SKEW_S: i64 = 5;
/// Pause before a log that ended is opened again.
const OPEN_AGAIN: Duration = Duration::from_secs(2);
/// How long a container that is no longer named may take to end: twice the longest stop.
const LAST_WORDS: Duration = Duration::from_secs(120);

/// How far a container's output has been read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Cursor {
    stdout: Place,
    stderr: Place,
}

/// How far one output has been read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    /// Time of the last item.
    at_ns: i64,
    /// Items at that time.
    items: u64,
    /// The last item was the part of a line that goes on.
    inside: bool,
}

/// Reads one container's items in order and says which are new.
#[derive(Debug)]
struct Reader {
    cursor: Cursor,
    /// Items of the cursor's time seen again; `None` once past the cursor.
    again: [Option<u64>; 2],
}

/// What to do with an item.
#[derive(Debug, PartialEq, Eq)]
enum Item {
    /// Read before.
    Seen,
    /// The rest of a line whose beginning was taken.
    Rest,
    Line(String, bool),
}

impl Reader {
    fn new(cursor: Option<Cursor>) -> Self {
        let again = cursor.map(|_| 0);
        Self { cursor: cursor.unwrap_or_default(), again: [again, again] }
    }

    /// From which second to read.
    fn since_s(&self) -> i64 {
        let youngest = self.cursor.stdout.at_ns.max(self.cursor.stderr.at_ns);
        (youngest / 1_000_000_000 - SKEW_S).max(0)
    }

    fn read(&mut self, item: &LogLine) -> Item {
        let (place, again) = match item.stream {
            LogStream::Stdout => (&mut self.cursor.stdout, &mut self.again[0]),
            LogStream::Stderr => (&mut self.cursor.stderr, &mut self.again[1]),
        };
        if let Some(seen) = again {
            if item.at_ns < place.at_ns {
                return Item::Seen;
            }
            if item.at_ns == place.at_ns && *seen < place.items {
                *seen += 1;
                return Item::Seen;
            }
            *again = None;
        }
        let rest = place.inside;
        place.items = if item.at_ns == place.at_ns { place.items + 1 } else { 1 };
        place.at_ns = item.at_ns;
        place.inside = item.partial;
        if rest {
            return Item::Rest;
        }
        let (line, cut) = payload::cut(String::from_utf8_lossy(&item.bytes).into_owned());
        Item::Line(line, cut || item.partial)
    }
}

/// Collects the output of every container that is named with `collect`, until stopped.
pub async fn run(
    mut sources: watch::Receiver<Vec<LogSource>>,
    runtime: Arc<dyn Runtime>,
    tools: Tools,
    stop: CancellationToken,
) {
    let mut logs = FuturesUnordered::new();
    let mut running = BTreeMap::<String, Ends>::new();
    loop {
        let named = sources.borrow_and_update().clone();
        for (id, ends) in &running {
            match named.iter().find(|s| s.container_id == *id) {
                Some(source) if source.collect => {}
                Some(_) => ends.stop.cancel(),
                None => ends.gone.cancel(),
            }
        }
        for source in named.into_iter().filter(|s| s.collect) {
            running.entry(source.container_id.clone()).or_insert_with(|| {
                let ends = Ends { gone: CancellationToken::new(), stop: stop.child_token() };
                logs.push(keep(source, Arc::clone(&runtime), tools.clone(), ends.clone()));
                ends
            });
        }
        tokio::select! {
            changed = sources.changed() => if changed.is_err() { stop.cancelled().await },
            Some(id) = logs.next() => drop(running.remove(&id)),
            () = stop.cancelled() => {}
        }
        if stop.is_cancelled() {
            return;
        }
    }
}

/// One container's output, opened again whenever it ends.
async fn keep(source: LogSource, runtime: Arc<dyn Runtime>, tools: Tools, ends: Ends) -> String {
    let id = source.container_id.clone();
    loop {
        let last = ends.gone.is_cancelled();
        tokio::select! {
            ended = follow(&source, &*runtime, &tools) => {
                if let Err(OutboxError::Stopped) = ended {
                    // Nothing will be taken any more; the process is ending.
                    ends.stop.cancelled().await;
                    return id;
                }
            }
            () = ends.overdue() => {
                tracing::warn!(instance.name = %source.instance, "container log: it does not end, the rest is left");
                return id;
            }
            () = ends.stop.cancelled() => return id,
        }
        // Opened before it was gone and ended since: all was read. Opened after: there is nothing to open again.
        if last || ends.gone.is_cancelled() {
            return id;
        }
        tokio::select! {
            () = tokio::time::sleep(OPEN_AGAIN) => {}
            // It may have said more since.
            () = ends.gone.cancelled() => {}
            () = ends.stop.cancelled() => return id,
        }
    }
}

/// Why a log is read no longer.
#[derive(Clone)]
struct Ends {
    /// Its container is no longer named: read what it still says, then end.
    gone: CancellationToken,
    /// End at once.
    stop: CancellationToken,
}

impl Ends {
    async fn overdue(&self) {
        self.gone.cancelled().await;
        tokio::time::sleep(LAST_WORDS).await;
    }
}

/// Reads until the engine ends the log.
async fn follow(source: &LogSource, runtime: &dyn Runtime, tools: &Tools) -> Result<(), OutboxError> {
    let key = format!("log/{}", source.container_id);
    let stored = tools.outbox.cursor(&key).await?;
    // A cursor that cannot be read is like none: lines come twice rather than not at all.
    let mut reader = Reader::new(stored.and_then(|c| serde_json::from_slice(&c).ok()));
    let mut items = runtime.logs(&source.container_id, reader.since_s()).ready_chunks(TOGETHER);
    while let Some(chunk) = items.next().await {
        let mut records = Vec::new();
        let (mut refused, mut ended) = (0, false);
        let before = reader.cursor;
        for item in chunk {
            let item = match item {
                Ok(item) => item,
                // It was removed, and was read before.
                Err(RuntimeError::NotFound { .. }) => {
                    ended = true;
                    break;
                }
                Err(e) => {
                    tracing::warn!(instance.name = %source.instance, error = %Chain(&e), "container log ended");
                    ended = true;
                    break;
                }
            };
            if let Item::Line(line, truncated) = reader.read(&item) {
                match release(&source.instance, &item, line, truncated, tools) {
                    Some(r) => records.push(r),
                    None => refused += 1,
                }
            }
        }
        if reader.cursor != before {
            commit(&key, records, reader.cursor, tools).await?;
        }
        if refused > 0 {
            tools.outbox.count_refused(RecordClass::Log, refused).await?;
        }
        if ended {
            return Ok(());
        }
    }
    Ok(())
}

fn release(instance: &Name, item: &LogLine, line: String, truncated: bool, tools: &Tools) -> Option<Released> {
    let at = OffsetDateTime::from_unix_timestamp_nanos(item.at_ns.into()).unwrap_or_else(|_| tools.clock.now());
    let body = Body::Log(Log { level: None, line, stream: item.stream.as_str().into(), truncated });
    let raw = RawRecord { at, instance: Some(instance.clone()), key: None, repeat_of: None, body };
    match tools.gate.release(raw) {
        Ok(released) => Some(released),
        Err(e) => {
            tools.refusals.at_the_gate(instance, RecordClass::Log, &e);
            None
        }
    }
}

/// Lines and cursor in one transaction, offered until the outbox takes them: the engine keeps what was not read.
async fn commit(key: &str, records: Vec<Released>, cursor: Cursor, tools: &Tools) -> Result<(), OutboxError> {
    let value = serde_json::to_vec(&cursor).expect("numbers are JSON");
    loop {
        let update = CursorUpdate { key: key.to_owned(), value: value.clone() };
        match tools.outbox.append(records.clone(), Some(update)).await {
            Ok(_) => return Ok(()),
            Err(OutboxError::DiskFull | OutboxError::ClassFull(_)) => tokio::time::sleep(OFFER_AGAIN).await,
            Err(e) => return Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;

    fn item(at_ns: i64, stderr: bool, text: &str, partial: bool) -> LogLine {
        let stream = if stderr { LogStream::Stderr } else { LogStream::Stdout };
        LogLine { at_ns, stream, bytes: Bytes::copy_from_slice(text.as_bytes()), partial }
    }

    fn lines(reader: &mut Reader, items: &[LogLine]) -> Vec<String> {
        items
            .iter()
            .filter_map(|i| match reader.read(i) {
                Item::Line(line, _) => Some(line),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn a_long_line_is_cut_once_and_its_rest_is_swallowed_also_after_a_restart() {
        let items = [
            item(5, false, "head", true),
            item(5, false, "rest", true),
            item(5, false, "end", false),
            item(6, false, "next", false),
        ];
        let mut reader = Reader::new(None);
        assert_eq!(reader.read(&items[0]), Item::Line("head".into(), true));
        assert_eq!(reader.read(&items[1]), Item::Rest);
        let mut again = Reader::new(Some(reader.cursor));
        assert_eq!(lines(&mut again, &items), ["next"]);
    }

    proptest! {
        /// Wherever the agent dies, reading again from the cursor gives every line once.
        #[test]
        fn every_line_once_across_restarts(
            gaps in prop::collection::vec((0..3_i64, any::<bool>(), -2..1_i64), 1..60),
            deaths in prop::collection::vec(1..10_usize, 0..12),
        ) {
            let (mut at, mut last) = (6_000_000_000, [0; 2]);
            let items: Vec<_> = gaps.iter().enumerate().map(|(n, (gap, stderr, lag))| {
                at += gap;
                // Each output is in order; against the other it may lag.
                let own = (at + lag).max(last[usize::from(*stderr)]);
                last[usize::from(*stderr)] = own;
                item(own, *stderr, &n.to_string(), false)
            }).collect();
            let mut cursor = None;
            let mut read = Vec::new();
            for new in deaths.into_iter().chain([usize::MAX]) {
                let mut reader = Reader::new(cursor);
                let since = reader.since_s() * 1_000_000_000;
                let mut taken = 0;
                for i in items.iter().filter(|i| i.at_ns >= since) {
                    if let Item::Line(line, _) = reader.read(i) {
                        read.push(line);
                        taken += 1;
                    }
                    if taken == new {
                        break;
                    }
                }
                cursor = Some(reader.cursor);
            }
            let all: Vec<_> = (0..items.len()).map(|n| n.to_string()).collect();
            prop_assert_eq!(read, all);
        }
    }
}
