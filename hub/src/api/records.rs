//! Records and streams, read: newest first, or oldest first and going on.
use super::{Api, ApiError, Caller, names, tokens::within};
use crate::store::{
    Store,
    landed::{Place, RecordFilter, RecordRow},
};
use futures_util::{Stream, stream::try_unfold};
use redforge_shared::{
    clock::SharedClock,
    record::RecordClass,
    wire::{from_timestamp, pb, timestamp},
};
use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

/// Records read from the store at once: at most a few MiB.
const PAGE: u32 = 200;
/// How often a follower looks for more.
const LOOK_AGAIN: Duration = Duration::from_millis(700);
/// A batch's `received_at` is taken before it commits: a follower looks back this far for what committed late.
const LATE: time::Duration = time::Duration::seconds(10);
/// Places a follower remembers as seen, at most.
const MAX_SEEN: usize = 200_000;

impl Api {
    /// Records of a class.
    pub fn list_records(
        &self,
        _: &Caller,
        request: pb::ListRecordsRequest,
    ) -> Result<impl Stream<Item = Result<pb::Record, ApiError>> + Send + use<>, ApiError> {
        let class = RecordClass::from_wire(request.class)
            .ok_or_else(|| ApiError::invalid("class", "expected vector, log, event or measurement"))?;
        let limit = within("limit", request.limit, 100, 1, 10_000)?;
        // A follower holds its first page to turn it round, so it begins with at most one.
        let limit = if request.follow { limit.min(PAGE) } else { limit };
        let host = names::optional("host", "hosts", &request.host)?.map(|h| h.to_string());
        let text = |field: &str, s: String| match s {
            s if s.is_empty() => Ok(None),
            s if s.len() > 128 || s.contains('\0') => Err(ApiError::invalid(field, "is longer than 128 bytes")),
            s => Ok(Some(s)),
        };
        let since = request.since.as_ref().map(|t| from_timestamp("since", Some(t)));
        let since = since.transpose().map_err(|e| ApiError::invalid("since", e.to_string()))?;
        let filter = RecordFilter {
            class,
            host,
            instance: text("instance", request.instance)?,
            key: text("key", request.key)?,
            since,
        };
        let reader = Reader {
            store: self.store.clone(),
            clock: self.clock.clone(),
            filter,
            left: limit,
            follow: request.follow,
            before: Place { received_at: self.clock.now() + time::Duration::days(1), stream_id: 0, seq: 0 },
            ready: VecDeque::new(),
            seen: None,
        };
        Ok(try_unfold(reader, |mut reader| async move {
            Ok(reader.next().await?.map(|row| (record(reader.filter.class, row), reader)))
        }))
    }

    /// Streams of one host or of all, with what is missing in each.
    pub async fn list_streams(
        &self,
        _: &Caller,
        request: pb::ListStreamsRequest,
    ) -> Result<pb::ListStreamsResponse, ApiError> {
        let host = names::optional("host", "hosts", &request.host)?;
        let rows = self.store.list_streams(host.as_ref().map(|h| h.as_str())).await?;
        let streams = rows.into_iter().map(|r| pb::Stream {
            host: format!("hosts/{}", r.host),
            class: RecordClass::from_word(&r.class).map_or(0, |c| pb::RecordClass::from(c).into()),
            epoch: hex::encode(&r.epoch),
            stream_id: r.stream_id as u64,
            committed: r.committed as u64,
            max_seq: r.max_seq as u64,
            gaps: r.gaps as u64,
            lost: r.lost as u64,
            resent: r.resent as u64,
            ranges: r.ranges as u32,
            first_seen_at: Some(timestamp(r.first_seen_at)),
            last_commit_at: r.last_commit_at.map(timestamp),
        });
        Ok(pb::ListStreamsResponse { streams: streams.collect() })
    }
}

struct Reader {
    store: Store,
    clock: SharedClock,
    filter: RecordFilter,
    /// Records still to be given, newest first.
    left: u32,
    follow: bool,
    before: Place,
    ready: VecDeque<RecordRow>,
    /// What a follower gave already, as far back as it looks; none before its first page.
    seen: Option<BTreeSet<Place>>,
}

impl Reader {
    async fn next(&mut self) -> Result<Option<RecordRow>, ApiError> {
        loop {
            if let Some(row) = self.ready.pop_front() {
                return Ok(Some(row));
            }
            if self.seen.is_some() {
                self.look_again().await?;
                continue;
            }
            if self.left == 0 && !self.follow {
                return Ok(None);
            }
            let rows = self.page().await?;
            if self.follow {
                self.begin_following(rows).await?;
            } else if rows.is_empty() {
                return Ok(None);
            } else {
                self.ready.extend(rows);
            }
        }
    }

    /// The next page of newest records.
    async fn page(&mut self) -> Result<Vec<RecordRow>, ApiError> {
        let rows = self.store.records_before(&self.filter, self.before, self.left.min(PAGE)).await?;
        self.left -= rows.len() as u32;
        if let Some(last) = rows.last() {
            self.before = last.place();
        }
        if rows.is_empty() {
            self.left = 0;
        }
        Ok(rows)
    }

    /// A follower begins with the newest `limit` records, oldest first. They are held at once, which is why a follower's
    /// limit is one page.
    async fn begin_following(&mut self, newest: Vec<RecordRow>) -> Result<(), ApiError> {
        let horizon = self.clock.now() - LATE;
        let mut seen: BTreeSet<Place> = newest.iter().map(RecordRow::place).collect();
        // Older rows of the look-back window were not asked for: they count as seen.
        let mut at = Place { received_at: horizon, stream_id: 0, seq: 0 };
        let newest_place = newest.first().map(RecordRow::place);
        while let Some(end) = newest_place {
            let rows = self.store.records_after(&self.filter, at, PAGE).await?;
            let known = rows.iter().map(RecordRow::place).filter(|p| *p <= end);
            seen.extend(known);
            match rows.last() {
                Some(last) if last.place() < end && seen.len() < MAX_SEEN => at = last.place(),
                _ => break,
            }
        }
        self.left = 0;
        self.ready.extend(newest.into_iter().rev());
        self.seen = Some(seen);
        Ok(())
    }

    /// Waits, then reads what came since, and what committed late.
    async fn look_again(&mut self) -> Result<(), ApiError> {
        tokio::time::sleep(LOOK_AGAIN).await;
        let horizon = self.clock.now() - LATE;
        let seen = self.seen.get_or_insert_default();
        let oldest_kept = Place { received_at: horizon - LATE, stream_id: 0, seq: 0 };
        *seen = seen.split_off(&oldest_kept);
        while seen.len() > MAX_SEEN {
            seen.pop_first();
        }
        let mut at = Place { received_at: horizon, stream_id: 0, seq: 0 };
        loop {
            let rows = self.store.records_after(&self.filter, at, PAGE).await?;
            let Some(last) = rows.last().map(RecordRow::place) else { return Ok(()) };
            self.ready.extend(rows.into_iter().filter(|r| seen.insert(r.place())));
            if !self.ready.is_empty() {
                return Ok(());
            }
            at = last;
        }
    }
}

fn record(class: RecordClass, row: RecordRow) -> pb::Record {
    pb::Record {
        name: format!("records/{}/{}", row.stream_id, row.seq),
        host: format!("hosts/{}", row.host),
        class: pb::RecordClass::from(class).into(),
        epoch: hex::encode(&row.epoch),
        seq: row.seq as u64,
        instance: row.instance.unwrap_or_default(),
        key: row.key.unwrap_or_default(),
        at: Some(timestamp(row.at)),
        received_at: Some(timestamp(row.received_at)),
        body_json: row.body,
    }
}
