//! PostgreSQL alone: rows of a 768-dimensional f32 vector, one connection, one transaction a batch.
//!
//! The table is made like the landing table that lies in the same database, columns, storage and primary key, without its
//! partitions. `Copy` is the limit: binary COPY and a commit, nothing looked up, nothing remembered. `Stage` is how others
//! make repeats harmless: COPY to a staging table, then INSERT .. ON CONFLICT DO NOTHING.
use serde::Deserialize;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};
use std::time::Instant;

/// How the rows go in.
#[derive(Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    Copy,
    Stage,
}

const DIM: usize = 768;
/// Bytes after which rows are sent: the server parses while the next are written.
const FLUSH_BYTES: usize = 64 << 10;
/// Microseconds from PostgreSQL's epoch to some moment of 2026.
const MOMENT: i64 = 830_000_000_000_000;

const COLUMNS: &str = "stream_id, seq, received_at, at, instance, key, collection, source, ordinal, encoding, dim, scale, \
                       data, model, model_digest, text, tombstone";

/// Rows a second.
pub async fn rows(url: &str, method: Method, batch: usize, seconds: f64) -> anyhow::Result<Value> {
    let mut c = PgConnection::connect(url).await?;
    c.execute("DROP TABLE IF EXISTS limit_vector").await?;
    c.execute("CREATE TABLE limit_vector (LIKE record_vector INCLUDING ALL)").await?;
    c.execute("CREATE TEMP TABLE limit_stage (LIKE record_vector INCLUDING STORAGE)").await?;
    c.execute("CHECKPOINT").await?;
    let table = if method == Method::Copy { "limit_vector" } else { "limit_stage" };
    let statement = format!("COPY {table} ({COLUMNS}) FROM STDIN (FORMAT binary)");
    let land = format!("INSERT INTO limit_vector ({COLUMNS}) SELECT {COLUMNS} FROM limit_stage ON CONFLICT DO NOTHING");
    let data = noise();
    let mut seq = 0_i64;
    let begun = Instant::now();
    while begun.elapsed().as_secs_f64() < seconds {
        let mut tx = c.begin().await?;
        let mut copy = tx.copy_in_raw(&statement).await?;
        let mut out = Row(Vec::with_capacity(FLUSH_BYTES + 8192));
        out.0.extend(b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0");
        for _ in 0..batch {
            seq += 1;
            out.row(seq, &data);
            if out.0.len() >= FLUSH_BYTES {
                copy.send(&out.0[..]).await?;
                out.0.clear();
            }
        }
        out.0.extend((-1_i16).to_be_bytes());
        copy.send(&out.0[..]).await?;
        copy.finish().await?;
        if method == Method::Stage {
            tx.execute(AssertSqlSafe(land.clone())).await?;
            tx.execute("TRUNCATE limit_stage").await?;
        }
        tx.commit().await?;
    }
    let rate = seq as f64 / begun.elapsed().as_secs_f64();
    let landed: i64 = sqlx::query_scalar("SELECT count(*) FROM limit_vector").fetch_one(&mut c).await?;
    anyhow::ensure!(landed == seq, "{landed} rows landed of {seq}");
    c.execute("DROP TABLE limit_vector").await?;
    c.close().await?;
    Ok(json!({"per_s": rate}))
}

struct Row(Vec<u8>);

impl Row {
    fn row(&mut self, seq: i64, data: &[u8]) {
        self.0.extend(17_i16.to_be_bytes());
        self.field(&1_i64.to_be_bytes());
        self.field(&seq.to_be_bytes());
        self.field(&MOMENT.to_be_bytes());
        self.field(&MOMENT.to_be_bytes());
        self.field(b"flows");
        self.0.extend((-1_i32).to_be_bytes());
        self.field(b"bench");
        self.field(b"document-1");
        self.field(&1_i32.to_be_bytes());
        self.field(b"f32");
        self.field(&(DIM as i32).to_be_bytes());
        self.field(&1_f32.to_be_bytes());
        self.field(data);
        self.field(b"embed");
        self.field(&[b'a'; 64]);
        self.field(b"");
        self.field(&[0]);
    }

    fn field(&mut self, bytes: &[u8]) {
        self.0.extend((bytes.len() as i32).to_be_bytes());
        self.0.extend(bytes);
    }
}

/// Finite floats that do not compress.
fn noise() -> Vec<u8> {
    let mut x = 88_172_645_463_325_252_u64;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        (x >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..DIM).flat_map(|_| next().to_le_bytes()).collect()
}
