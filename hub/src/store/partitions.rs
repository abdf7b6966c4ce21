//! Partitions of the landing tables: one a day by the hub's clock, made ahead, and a default one that should stay empty.
use super::{Act, Store, StoreError};
use redforge_shared::record::RecordClass;
use sqlx::{AssertSqlSafe, PgConnection};
use time::{Date, Duration, OffsetDateTime};

/// Serialises the makers of partitions among hubs.
const LOCK: i64 = 0x7265_6466_7061_7274;

/// A landing table whose default partition had rows, and how many were moved where they belong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Strayed {
    pub table: String,
    pub rows: u64,
}

impl Store {
    /// Makes the partitions of `today` and the `days` after it. Rows of those days that strayed into the default
    /// partition move to their own. Safe to run again and by several hubs at once.
    pub async fn ensure_partitions(&self, today: Date, days: u16) -> Result<Vec<Strayed>, StoreError> {
        let mut strayed = Vec::new();
        for class in RecordClass::ALL {
            let mut rows = 0;
            for day in (0..=i64::from(days)).filter_map(|d| today.checked_add(Duration::days(d))) {
                let mut tx = self.pool.begin().await.act("making a partition")?;
                rows += ensure(&mut tx, class, day).await?;
                tx.commit().await.act("making a partition")?;
            }
            if rows > 0 {
                strayed.push(Strayed { table: format!("record_{class}"), rows });
            }
        }
        Ok(strayed)
    }

    /// Rows that lie in default partitions still: of days that have no partition.
    pub async fn default_rows(&self) -> Result<Vec<Strayed>, StoreError> {
        let mut found = Vec::new();
        for class in RecordClass::ALL {
            let sql = format!("SELECT count(*) FROM (SELECT 1 FROM record_{class}_default LIMIT 10000) AS t");
            let rows: i64 = sqlx::query_scalar(AssertSqlSafe(sql))
                .fetch_one(&self.pool)
                .await
                .act("counting the rows of a default partition")?;
            if rows > 0 {
                found.push(Strayed { table: format!("record_{class}"), rows: rows.unsigned_abs() });
            }
        }
        Ok(found)
    }

    /// Streams with more than `limit` committed ranges, as (host name, class, ranges): their rows have become costly.
    pub async fn crowded_streams(&self, limit: i64) -> Result<Vec<(String, String, i64)>, StoreError> {
        sqlx::query_as(
            "SELECT h.name, s.class, n.ranges FROM stream s JOIN host h ON h.id = s.host_id,
                    LATERAL (SELECT count(*) AS ranges FROM unnest(s.committed)) AS n
              WHERE n.ranges > $1",
        )
        .bind(limit)
        .fetch_all(&self.pool)
        .await
        .act("counting ranges")
    }

    /// Writes a warning about the landing unless the same one was written within the last day.
    pub async fn warn_of_landing(
        &self,
        reason: &str,
        resource: &str,
        message: &str,
        now: OffsetDateTime,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO event (at, reason, warning, resource, actor, message)
             SELECT $1, $2, true, $3, 'hub', $4
              WHERE NOT EXISTS (SELECT 1 FROM event WHERE resource = $3 AND reason = $2 AND at > $5)",
        )
        .bind(now)
        .bind(reason)
        .bind(resource)
        .bind(message)
        .bind(now - Duration::days(1))
        .execute(&self.pool)
        .await
        .act("writing a warning")?;
        Ok(())
    }
}

async fn ensure(tx: &mut PgConnection, class: RecordClass, day: Date) -> Result<u64, StoreError> {
    let act = "making a partition";
    let Some(next) = day.next_day() else { return Ok(0) };
    let name = format!("record_{class}_{}{:02}{:02}", day.year(), u8::from(day.month()), day.day());
    let there = "SELECT to_regclass($1) IS NOT NULL";
    if sqlx::query_scalar::<_, bool>(there).bind(&name).fetch_one(&mut *tx).await.act(act)? {
        return Ok(0);
    }
    sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(LOCK).execute(&mut *tx).await.act(act)?;
    if sqlx::query_scalar::<_, bool>(there).bind(&name).fetch_one(&mut *tx).await.act(act)? {
        return Ok(0);
    }
    // Only our own words and a date go into these texts.
    let (from, to) = (format!("'{day} 00:00:00+00'"), format!("'{next} 00:00:00+00'"));
    let run = |sql: String| AssertSqlSafe(sql);
    sqlx::raw_sql(run(format!("CREATE TABLE {name} (LIKE record_{class} INCLUDING ALL)")))
        .execute(&mut *tx)
        .await
        .act(act)?;
    let moved = sqlx::query(run(format!(
        "WITH strayed AS (DELETE FROM record_{class}_default WHERE received_at >= {from} AND received_at < {to} \
         RETURNING *) INSERT INTO {name} SELECT * FROM strayed"
    )))
    .execute(&mut *tx)
    .await
    .act(act)?
    .rows_affected();
    sqlx::raw_sql(run(format!(
        "ALTER TABLE record_{class} ATTACH PARTITION {name} FOR VALUES FROM ({from}) TO ({to})"
    )))
    .execute(&mut *tx)
    .await
    .act(act)?;
    Ok(moved)
}
