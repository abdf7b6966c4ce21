//! Stream rows: which numbers of a stream are committed, which are lost, and how often something came twice.
//!
//! The row is the whole memory of what a host delivered; `records` extends it in the transaction that lands the rows.
//! First step of the flow up on the hub: the hello is answered from here.
use super::{Act, Store, StoreError};
use redforge_shared::{
    ids::{Epoch, HostId},
    record::RecordClass,
};
use sqlx::PgConnection;
use time::OffsetDateTime;

/// A stream's name: (host, class, epoch).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StreamKey {
    pub host: HostId,
    pub class: RecordClass,
    pub epoch: Epoch,
}

/// Highest number a stream can have: its successor must still be a bigint.
pub const MAX_SEQ: u64 = i64::MAX as u64 - 1;

/// Numbers from `first` to `last`, both included; 1 <= first <= last <= [`MAX_SEQ`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeqRange {
    first: u64,
    last: u64,
}

impl SeqRange {
    /// A range, unless it is empty or out of bounds.
    pub fn new(first: u64, last: u64) -> Option<Self> {
        (1 <= first && first <= last && last <= MAX_SEQ).then_some(Self { first, last })
    }
    /// First number.
    pub fn first(self) -> u64 {
        self.first
    }
    /// Last number.
    pub fn last(self) -> u64 {
        self.last
    }
    /// Is the number inside?
    pub fn contains(self, seq: u64) -> bool {
        (self.first..=self.last).contains(&seq)
    }
}

/// What an agent says about one of its streams.
#[derive(Clone, Debug)]
pub struct Announced {
    pub stream: StreamKey,
    /// Highest number ever appended.
    pub max_seq: u64,
    pub lost: Vec<SeqRange>,
}

/// Why nothing of a host is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostRefusal {
    #[error("the host is fenced until an operator decides and says `redforgectl resume HOST`")]
    Fenced,
    #[error("the host is not known")]
    Unknown,
}

/// Most committed ranges told for one stream: what is not told is sent again and dropped.
const MAX_TOLD_RANGES: i64 = 10_000;

impl Store {
    /// Takes a hello: makes the rows of new streams, in the given order, unions what is lost, and tells what is committed.
    pub async fn open_streams(
        &self,
        host: HostId,
        announced: &[Announced],
        now: OffsetDateTime,
    ) -> Result<Result<Vec<Vec<SeqRange>>, HostRefusal>, StoreError> {
        let mut tx = self.pool.begin().await.act("opening streams")?;
        if let Err(refusal) = admit(&mut tx, host).await? {
            return Ok(Err(refusal));
        }
        let mut committed = Vec::with_capacity(announced.len());
        for a in announced {
            committed.push(announce(&mut tx, a, now).await?);
        }
        tx.commit().await.act("opening streams")?;
        Ok(Ok(committed))
    }
}

/// May this host deliver? Asked in every transaction of the ingest.
async fn admit(tx: &mut PgConnection, host: HostId) -> Result<Result<(), HostRefusal>, StoreError> {
    let fenced: Option<bool> = sqlx::query_scalar("SELECT fenced_at IS NOT NULL FROM host WHERE id = $1")
        .bind(host.0)
        .fetch_optional(tx)
        .await
        .act("reading the host's fence")?;
    Ok(match fenced {
        None => Err(HostRefusal::Unknown),
        Some(true) => Err(HostRefusal::Fenced),
        Some(false) => Ok(()),
    })
}

#[derive(sqlx::FromRow)]
struct Ranges {
    lower: Vec<i64>,
    upper: Vec<i64>,
}

impl Ranges {
    fn ranges(self) -> Vec<SeqRange> {
        // A multirange's upper bounds are excluded.
        let pairs = self.lower.into_iter().zip(self.upper);
        pairs.filter_map(|(l, u)| SeqRange::new(l.unsigned_abs(), u.unsigned_abs() - 1)).collect()
    }
}

async fn announce(tx: &mut PgConnection, a: &Announced, now: OffsetDateTime) -> Result<Vec<SeqRange>, StoreError> {
    let bounds = |f: fn(&SeqRange) -> u64| a.lost.iter().map(|r| f(r) as i64).collect::<Vec<_>>();
    let told: Ranges = sqlx::query_as(
        "INSERT INTO stream AS s (host_id, class, epoch, max_seq, first_seen_at, lost)
         SELECT $1, $2, $3, $4, $5, coalesce(range_agg(int8range(f, l, '[]')), '{}')
           FROM unnest($6::bigint[], $7::bigint[]) AS t (f, l)
         ON CONFLICT (host_id, class, epoch) DO UPDATE
            SET max_seq = greatest(s.max_seq, excluded.max_seq), lost = s.lost + excluded.lost
         RETURNING ARRAY(SELECT lower(r) FROM unnest(s.committed) AS r ORDER BY 1 LIMIT $8) AS lower,
                   ARRAY(SELECT upper(r) FROM unnest(s.committed) AS r ORDER BY 1 LIMIT $8) AS upper",
    )
    .bind(a.stream.host.0)
    .bind(a.stream.class.as_str())
    .bind(a.stream.epoch.0.as_slice())
    .bind(a.max_seq as i64)
    .bind(now)
    .bind(bounds(|r| r.first))
    .bind(bounds(|r| r.last))
    .bind(MAX_TOLD_RANGES)
    .fetch_one(tx)
    .await
    .act("announcing a stream")?;
    Ok(told.ranges())
}

/// A stream row that is locked until the transaction ends.
#[derive(Debug)]
pub(in crate::store) struct Claimed {
    pub stream_id: i64,
    /// What of the claimed range was committed before, in order.
    pub committed: Vec<SeqRange>,
}

#[derive(sqlx::FromRow)]
struct ClaimedRow {
    stream_id: i64,
    #[sqlx(flatten)]
    ranges: Ranges,
}

/// Locks the stream's row, making it if it is new, writes down that `range` is committed, and tells what of it had been
/// before: that much came again. All in one statement, because an ingest is mostly round trips; it holds if and only if
/// the transaction commits, and with it the rows.
pub(in crate::store) async fn claim(
    tx: &mut PgConnection,
    stream: &StreamKey,
    range: SeqRange,
    now: OffsetDateTime,
) -> Result<Result<Claimed, HostRefusal>, StoreError> {
    for made in [false, true] {
        let row: Option<ClaimedRow> = sqlx::query_as(
            "UPDATE stream s
                SET committed = s.committed + int8multirange(int8range($4, $5, '[]')),
                    max_seq = greatest(s.max_seq, $5),
                    resent = s.resent + (SELECT coalesce(sum(upper(r) - lower(r)), 0) FROM unnest(had.ranges) AS r),
                    last_commit_at = $6
               FROM (SELECT o.stream_id, o.committed * int8multirange(int8range($4, $5, '[]')) AS ranges
                       FROM stream o JOIN host h ON h.id = o.host_id
                      WHERE o.host_id = $1 AND o.class = $2 AND o.epoch = $3 AND h.fenced_at IS NULL
                        FOR UPDATE OF o) AS had
              WHERE s.stream_id = had.stream_id
             RETURNING s.stream_id,
                       ARRAY(SELECT lower(r) FROM unnest(had.ranges) AS r ORDER BY 1) AS lower,
                       ARRAY(SELECT upper(r) FROM unnest(had.ranges) AS r ORDER BY 1) AS upper",
        )
        .bind(stream.host.0)
        .bind(stream.class.as_str())
        .bind(stream.epoch.0.as_slice())
        .bind(range.first as i64)
        .bind(range.last as i64)
        .bind(now)
        .fetch_optional(&mut *tx)
        .await
        .act("claiming a stream's numbers")?;
        match row {
            Some(row) => return Ok(Ok(Claimed { stream_id: row.stream_id, committed: row.ranges.ranges() })),
            None if made => break,
            None => {}
        }
        // The stream is new, or the host may not deliver.
        if let Err(refusal) = admit(tx, stream.host).await? {
            return Ok(Err(refusal));
        }
        announce(tx, &Announced { stream: *stream, max_seq: 0, lost: Vec::new() }, now).await?;
    }
    // Fenced between the two looks.
    Ok(Err(HostRefusal::Fenced))
}
