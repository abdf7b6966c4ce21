//! Dropping landed records that are older than they are to be kept: whole days, never a row at a time.
//!
//! Stream rows stay: what was delivered stays delivered. A day of vectors is dropped only when the index has all of it, for
//! then nothing is lost but the way it came.
use super::{
    Act, Store, StoreError,
    events::{self, NewEvent},
    vector_tables,
};
use redforge_shared::record::RecordClass;
use sqlx::{AssertSqlSafe, PgConnection};
use time::{Date, Month, OffsetDateTime};

/// What became of a day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// Gone with so many rows.
    Rows(u64),
    /// Somebody is at work on the table: the next look is the retry.
    Busy,
    /// Must stay, and why.
    Held(String),
}

impl Store {
    /// Days of a class that have a partition, oldest first.
    pub async fn partition_days(&self, class: RecordClass) -> Result<Vec<Date>, StoreError> {
        let names: Vec<String> = sqlx::query_scalar(
            "SELECT c.relname::text FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid \
             WHERE i.inhparent = to_regclass($1) ORDER BY 1",
        )
        .bind(format!("record_{class}"))
        .fetch_all(&self.pool)
        .await
        .act("listing partitions")?;
        Ok(names.iter().filter_map(|name| day_of(name.rsplit('_').next()?)).collect())
    }

    /// Drops a day of a class. Tells of it in an event if it held anything.
    pub async fn drop_day(&self, class: RecordClass, day: Date, now: OffsetDateTime) -> Result<Dropped, StoreError> {
        let mut tx = self.pool.begin().await.act("dropping a day")?;
        match drop_within(&mut tx, class, day, now).await {
            Ok(Dropped::Rows(rows)) => {
                tx.commit().await.act("dropping a day")?;
                Ok(Dropped::Rows(rows))
            }
            Err(StoreError::Act { source, .. }) if is_contended(&source) => Ok(Dropped::Busy),
            other => other,
        }
    }
}

async fn drop_within(
    tx: &mut PgConnection,
    class: RecordClass,
    day: Date,
    now: OffsetDateTime,
) -> Result<Dropped, StoreError> {
    let act = "dropping a day";
    let table = format!("record_{class}");
    let name = format!("{table}_{}{:02}{:02}", day.year(), u8::from(day.month()), day.day());
    // The ingest of other days waits behind us while we wait for the whole table, so that is not for long. From here on
    // nobody writes into this day.
    let sql = format!("SET LOCAL lock_timeout = '1s'; LOCK TABLE {name} IN SHARE MODE");
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *tx).await.act(act)?;
    if class == RecordClass::Vector
        && let Some(why) = needed(tx, &name).await?
    {
        return Ok(Dropped::Held(why));
    }
    let count = format!("SELECT count(*) FROM {name}");
    let rows: i64 = sqlx::query_scalar(AssertSqlSafe(count)).fetch_one(&mut *tx).await.act(act)?;
    sqlx::raw_sql(AssertSqlSafe(format!("DROP TABLE {name}"))).execute(&mut *tx).await.act(act)?;
    if rows > 0 {
        sqlx::query(
            "INSERT INTO landing_pruned AS p (class, before, rows) VALUES ($1, $2, $3)
             ON CONFLICT (class) DO UPDATE
                SET before = greatest(p.before, excluded.before), rows = p.rows + excluded.rows",
        )
        .bind(class.as_str())
        .bind(day.next_day().unwrap_or(day).midnight().assume_utc())
        .bind(rows)
        .execute(&mut *tx)
        .await
        .act(act)?;
        let event = NewEvent {
            at: now,
            reason: "LANDING_PRUNED",
            warning: false,
            resource: table,
            actor: "hub".into(),
            message: format!("the {class} records of {day} were dropped at the end of their retention: {rows} rows"),
        };
        events::insert(tx, &event).await?;
    }
    Ok(Dropped::Rows(rows.unsigned_abs()))
}

/// Why a day of vectors must stay.
async fn needed(tx: &mut PgConnection, name: &str) -> Result<Option<String>, StoreError> {
    let act = "looking for vectors that are not indexed";
    let untaken = format!(
        "SELECT EXISTS (SELECT 1 FROM {name} v LEFT JOIN vector_taken t ON t.stream_id = v.stream_id
                         WHERE NOT coalesce(t.taken, '{{}}') @> v.seq)"
    );
    if sqlx::query_scalar(AssertSqlSafe(untaken)).fetch_one(&mut *tx).await.act(act)? {
        return Ok(Some("the index has not taken all of its vectors".into()));
    }
    let collections = format!("SELECT DISTINCT collection FROM {name} ORDER BY 1");
    let collections: Vec<String> = sqlx::query_scalar(AssertSqlSafe(collections)).fetch_all(&mut *tx).await.act(act)?;
    for collection in collections {
        let table = vector_tables::of(tx, &collection).await?;
        if !table.is_some_and(|t| t.serves()) {
            return Ok(Some(format!("collection '{collection}' is not searched by an index")));
        }
    }
    Ok(None)
}

/// The day of a partition's name, such as 20261123.
fn day_of(digits: &str) -> Option<Date> {
    let number = |range: std::ops::Range<usize>| digits.get(range)?.parse::<u16>().ok();
    let (year, month, day) = (number(0..4)?, number(4..6)?, number(6..8)?);
    let month = Month::try_from(u8::try_from(month).ok()?).ok()?;
    (digits.len() == 8).then(|| Date::from_calendar_date(i32::from(year), month, u8::try_from(day).ok()?).ok())?
}

/// Did a lock not come in time, or would it never have?
fn is_contended(e: &sqlx::Error) -> bool {
    e.as_database_error().and_then(|e| e.code()).is_some_and(|c| c == "55P03" || c == "40P01")
}
