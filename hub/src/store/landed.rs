//! Records and streams as operators read them. Rows land elsewhere (`streams`, `records`); nothing here writes.
use super::{Act, Store, StoreError};
use redforge_shared::record::RecordClass;
use time::{Duration, OffsetDateTime};

/// A record with its body as JSON; a vector's components are left out.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct RecordRow {
    pub stream_id: i64,
    pub seq: i64,
    pub received_at: OffsetDateTime,
    pub at: OffsetDateTime,
    pub instance: Option<String>,
    pub key: Option<String>,
    pub host: String,
    pub epoch: Vec<u8>,
    pub body: String,
}

/// Which records.
#[derive(Clone, Debug)]
pub struct RecordFilter {
    pub class: RecordClass,
    pub host: Option<String>,
    pub instance: Option<String>,
    pub key: Option<String>,
    /// Made at this time or later, by the agent's clock.
    pub since: Option<OffsetDateTime>,
}

/// A place in the order (received_at, stream_id, seq).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub received_at: OffsetDateTime,
    pub stream_id: i64,
    pub seq: i64,
}

impl RecordRow {
    /// Where the record is in the order.
    pub fn place(&self) -> Place {
        Place { received_at: self.received_at, stream_id: self.stream_id, seq: self.seq }
    }
}

macro_rules! record_query {
    ($table:literal, $tail:literal) => {
        concat!(
            "SELECT t.stream_id, t.seq, t.received_at, t.at, t.instance, t.key, h.name AS host, s.epoch, ",
            "(to_jsonb(t) - '{stream_id,seq,received_at,at,instance,key,data}'::text[])::text AS body ",
            "FROM ",
            $table,
            " t JOIN stream s ON s.stream_id = t.stream_id JOIN host h ON h.id = s.host_id ",
            "WHERE ($1::text IS NULL OR h.name = $1) AND ($2::text IS NULL OR t.instance = $2) ",
            "AND ($3::text IS NULL OR t.key = $3) AND ($4::timestamptz IS NULL OR t.at >= $4) ",
            $tail
        )
    };
}

macro_rules! of_class {
    ($class:expr, $tail:literal) => {
        match $class {
            RecordClass::Vector => record_query!("record_vector", $tail),
            RecordClass::Log => record_query!("record_log", $tail),
            RecordClass::Event => record_query!("record_event", $tail),
            RecordClass::Measurement => record_query!("record_measurement", $tail),
        }
    };
}

/// Times before which the newest records are looked for, one after the other: a small window costs little on a long table.
const WINDOWS: [Duration; 3] = [Duration::minutes(5), Duration::hours(6), Duration::days(4)];

/// How far an agent's clock may run ahead before its records are missed by `since`.
const AHEAD: Duration = Duration::days(1);

/// A stream with its numbers.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct StreamRow {
    pub host: String,
    pub class: String,
    pub epoch: Vec<u8>,
    pub stream_id: i64,
    pub committed: i64,
    pub max_seq: i64,
    pub gaps: i64,
    pub lost: i64,
    pub resent: i64,
    pub ranges: i64,
    pub first_seen_at: OffsetDateTime,
    pub last_commit_at: Option<OffsetDateTime>,
}

impl Store {
    /// At most `limit` records before `before`, newest first.
    pub async fn records_before(
        &self,
        filter: &RecordFilter,
        before: Place,
        limit: u32,
    ) -> Result<Vec<RecordRow>, StoreError> {
        let sql = of_class!(
            filter.class,
            "AND (t.received_at, t.stream_id, t.seq) < ($5, $6, $7) AND t.received_at >= $8 \
             ORDER BY t.received_at DESC, t.stream_id DESC, t.seq DESC LIMIT $9"
        );
        let since = WINDOWS.iter().filter_map(|w| before.received_at.checked_sub(*w)).map(Some).chain([None]);
        // What was made since then did not arrive much before, unless the agent's clock runs ahead.
        let oldest = filter.since.and_then(|s| s.checked_sub(AHEAD)).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let mut rows = Vec::new();
        for since in since {
            rows = sqlx::query_as(sql)
                .bind(&filter.host)
                .bind(&filter.instance)
                .bind(&filter.key)
                .bind(filter.since)
                .bind(before.received_at)
                .bind(before.stream_id)
                .bind(before.seq)
                .bind(since.unwrap_or(oldest))
                .bind(i64::from(limit))
                .fetch_all(&self.pool)
                .await
                .act("listing records")?;
            if rows.len() >= limit as usize {
                break;
            }
        }
        Ok(rows)
    }

    /// At most `limit` records after `after`, oldest first.
    pub async fn records_after(
        &self,
        filter: &RecordFilter,
        after: Place,
        limit: u32,
    ) -> Result<Vec<RecordRow>, StoreError> {
        let sql = of_class!(
            filter.class,
            "AND (t.received_at, t.stream_id, t.seq) > ($5, $6, $7) AND t.received_at >= $5 \
             ORDER BY t.received_at, t.stream_id, t.seq LIMIT $8"
        );
        sqlx::query_as(sql)
            .bind(&filter.host)
            .bind(&filter.instance)
            .bind(&filter.key)
            .bind(filter.since)
            .bind(after.received_at)
            .bind(after.stream_id)
            .bind(after.seq)
            .bind(i64::from(limit))
            .fetch_all(&self.pool)
            .await
            .act("following records")
    }

    /// Streams of one host or of all, in the order in which they began.
    pub async fn list_streams(&self, host: Option<&str>) -> Result<Vec<StreamRow>, StoreError> {
        sqlx::query_as(
            "SELECT h.name AS host, s.class, s.epoch, s.stream_id, s.max_seq, s.resent, s.first_seen_at, s.last_commit_at, \
             (SELECT coalesce(sum(upper(r) - lower(r)), 0)::bigint FROM unnest(s.committed) r) AS committed, \
             (SELECT coalesce(sum(upper(r) - lower(r)), 0)::bigint FROM unnest(s.lost) r) AS lost, \
             (SELECT count(*) FROM unnest(s.committed) r) AS ranges, \
             (SELECT coalesce(sum(upper(r) - lower(r)), 0)::bigint FROM \
              unnest(int8multirange(int8range(1, s.max_seq + 1)) - s.committed - s.lost) r) AS gaps \
             FROM stream s JOIN host h ON h.id = s.host_id WHERE $1::text IS NULL OR h.name = $1 \
             ORDER BY h.name, s.class, s.first_seen_at, s.stream_id LIMIT 10000",
        )
        .bind(host)
        .fetch_all(&self.pool)
        .await
        .act("listing streams")
    }
}
