//! The tables of the vector index: one pgvector table per collection, made at run time where PostgreSQL has the extension.
//!
//! Owns which tables there are, whether they are sound, and their HNSW index. What goes into them is `vector_taking`'s,
//! what comes out `vector_search`'s. All of it can be dropped: the landing says everything again.
use super::{Act, Store, StoreError};
use redforge_shared::{ids::Digest, record::Metric};
use sqlx::{AssertSqlSafe, PgConnection};
use time::OffsetDateTime;

/// Only one hub at a time changes tables of the index. Taken by trying: whoever comes second has nothing to do.
const LOCK: i64 = 0x7265_6466_7665_6374;
/// Only one hub at a time makes the extension.
const EXTENSION_LOCK: i64 = LOCK + 1;
/// Older versions of pgvector could damage an HNSW index when they cleaned up, or read beyond a buffer.
const OLDEST: (u32, u32, u32) = (0, 8, 4);
/// HNSW takes so many dimensions of 4 bytes each, and so many of 2.
const MAX_VECTOR_DIM: i32 = 2_000;
pub(in crate::store) const MAX_HALFVEC_DIM: i32 = 4_000;
/// Largest component that a halfvec can hold.
pub(in crate::store) const MAX_HALF: f32 = 65_504.0;

/// Can vectors be indexed here?
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Extension {
    Ready,
    /// Why not.
    Missing(String),
}

/// A collection's table as it is.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct VectorTable {
    pub collection: String,
    pub relation: String,
    pub live: i64,
    pub problem: Option<String>,
    /// The table and its column are there.
    pub sound: bool,
    /// A whole HNSW index is there.
    pub indexed: bool,
}

impl VectorTable {
    /// May a search rely on it?
    pub fn serves(&self) -> bool {
        self.sound && self.indexed && self.problem.is_none()
    }
}

macro_rules! tables {
    ($tail:literal) => {
        concat!(
            "SELECT t.collection, t.relation, t.live, t.problem, ",
            "EXISTS (SELECT 1 FROM pg_attribute a WHERE a.attrelid = to_regclass(t.relation) ",
            "AND a.attname = 'embedding' AND NOT a.attisdropped) AS sound, ",
            "EXISTS (SELECT 1 FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am m ON m.oid = c.relam ",
            "WHERE i.indrelid = to_regclass(t.relation) AND i.indisvalid AND m.amname = 'hnsw') AS indexed ",
            "FROM vector_table t ",
            $tail
        )
    };
}

/// What SQL says of a collection's vectors.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) struct Shape {
    pub dim: i32,
    pub metric: Metric,
}

impl Shape {
    /// None where HNSW cannot hold such vectors: they are searched one by one.
    pub fn of(dim: i32, metric: &str) -> Option<Self> {
        let metric = Metric::from_word(metric)?;
        (1..=MAX_HALFVEC_DIM).contains(&dim).then_some(Self { dim, metric })
    }

    /// Are its components halved for the index?
    pub fn half(self) -> bool {
        self.dim > MAX_VECTOR_DIM
    }

    /// What is indexed.
    pub fn indexed(self) -> String {
        if self.half() { format!("(embedding::halfvec({}))", self.dim) } else { "embedding".into() }
    }

    /// The first parameter, a real[], as what is indexed can be compared with.
    pub fn asked(self) -> String {
        format!("$1::real[]::{}({})", if self.half() { "halfvec" } else { "vector" }, self.dim)
    }

    /// The operator that sorts the nearest first.
    pub fn operator(self) -> &'static str {
        match self.metric {
            Metric::Cosine => "<=>",
            Metric::L2 => "<->",
            Metric::Dot => "<#>",
        }
    }

    fn opclass(self) -> String {
        let name = match self.metric {
            Metric::Cosine => "cosine",
            Metric::L2 => "l2",
            Metric::Dot => "ip",
        };
        format!("{}_{name}_ops", if self.half() { "halfvec" } else { "vector" })
    }
}

impl Store {
    /// Makes the extension if PostgreSQL has it and this role may.
    pub async fn ensure_vector_extension(&self) -> Result<Extension, StoreError> {
        let act = "looking for pgvector";
        let mut tx = self.pool.begin().await.act(act)?;
        sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(EXTENSION_LOCK).execute(&mut *tx).await.act(act)?;
        let found: Option<(String, Option<String>)> = sqlx::query_as(
            "SELECT default_version, installed_version FROM pg_available_extensions WHERE name = 'vector'",
        )
        .fetch_optional(&mut *tx)
        .await
        .act(act)?;
        let Some((available, installed)) = found else {
            return Ok(Extension::Missing("this PostgreSQL has no extension pgvector".into()));
        };
        let version = installed.as_ref().unwrap_or(&available);
        if parsed(version) < Some(OLDEST) {
            let (a, b, c) = OLDEST;
            return Ok(Extension::Missing(format!("pgvector {version} is older than {a}.{b}.{c}")));
        }
        if installed.is_none() {
            let made = sqlx::raw_sql("CREATE EXTENSION IF NOT EXISTS vector").execute(&mut *tx).await.act(act);
            match made {
                Ok(_) => tx.commit().await.act(act)?,
                Err(e) if e.is_unavailable() => return Err(e),
                Err(e) => {
                    let why = redforge_shared::error::Chain(&e).to_string();
                    let ask = "an administrator of the database must run CREATE EXTENSION vector";
                    return Ok(Extension::Missing(format!("{ask} ({why})")));
                }
            }
        }
        Ok(Extension::Ready)
    }

    /// Every table of the index.
    pub async fn vector_tables(&self) -> Result<Vec<VectorTable>, StoreError> {
        sqlx::query_as(tables!("ORDER BY t.collection")).fetch_all(&self.pool).await.act("listing the vector tables")
    }

    /// Forgets tables that somebody dropped or cut, so that everything is taken anew. Tells their collections.
    pub async fn mend_vector_tables(&self) -> Result<Vec<String>, StoreError> {
        let act = "mending the vector tables";
        let mut tx = self.pool.begin().await.act(act)?;
        let tables: Vec<VectorTable> = sqlx::query_as(tables!("")).fetch_all(&mut *tx).await.act(act)?;
        let broken: Vec<&VectorTable> = tables.iter().filter(|t| !t.sound).collect();
        if broken.is_empty() || !try_lock(&mut tx).await? {
            return Ok(Vec::new());
        }
        for table in &broken {
            let sql = format!("DROP TABLE IF EXISTS {}", table.relation);
            sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *tx).await.act(act)?;
            sqlx::query("DELETE FROM vector_table WHERE collection = $1")
                .bind(&table.collection)
                .execute(&mut *tx)
                .await
                .act(act)?;
        }
        // A stream holds vectors of any collection: all are read again, and what is there already stays as it is.
        sqlx::query("DELETE FROM vector_taken").execute(&mut *tx).await.act(act)?;
        tx.commit().await.act(act)?;
        Ok(broken.into_iter().map(|t| t.collection.clone()).collect())
    }

    /// Builds the HNSW index of a table that has none. False when another hub is at work.
    pub async fn build_vector_index(&self, table: &VectorTable) -> Result<bool, StoreError> {
        let act = "building a vector index";
        let mut tx = self.pool.begin().await.act(act)?;
        if !try_lock(&mut tx).await? {
            return Ok(false);
        }
        let row: Option<(i32, String)> = sqlx::query_as("SELECT dim, metric FROM collection WHERE name = $1")
            .bind(&table.collection)
            .fetch_optional(&mut *tx)
            .await
            .act(act)?;
        let Some(shape) = row.and_then(|(dim, metric)| Shape::of(dim, &metric)) else {
            tx.rollback().await.act(act)?;
            return Ok(true);
        };
        // A parallel build needs shared memory of that size, which containers seldom have.
        sqlx::raw_sql("SET LOCAL maintenance_work_mem = '256MB'; SET LOCAL max_parallel_maintenance_workers = 0")
            .execute(&mut *tx)
            .await
            .act(act)?;
        let (relation, on, opclass) = (&table.relation, shape.indexed(), shape.opclass());
        let sql = format!("CREATE INDEX IF NOT EXISTS {relation}_hnsw ON {relation} USING hnsw ({on} {opclass})");
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *tx).await.act(act)?;
        tx.commit().await.act(act)?;
        Ok(true)
    }
}

/// Tries to become the only one who changes the index; given back when the transaction ends.
pub(in crate::store) async fn try_lock(tx: &mut PgConnection) -> Result<bool, StoreError> {
    sqlx::query_scalar("SELECT pg_try_advisory_xact_lock($1)")
        .bind(LOCK)
        .fetch_one(tx)
        .await
        .act("locking the vector index")
}

/// The table of one collection, if it has one.
pub(in crate::store) async fn of(tx: &mut PgConnection, collection: &str) -> Result<Option<VectorTable>, StoreError> {
    sqlx::query_as(tables!("WHERE t.collection = $1"))
        .bind(collection)
        .fetch_optional(tx)
        .await
        .act("reading a vector table")
}

/// Makes a collection's table.
pub(in crate::store) async fn make(
    tx: &mut PgConnection,
    collection: &str,
    shape: Shape,
    now: OffsetDateTime,
) -> Result<String, StoreError> {
    let act = "making a vector table";
    let relation = format!("vec_{}", &Digest::of(collection.as_bytes()).hex()[..16]);
    // Only a hash and a number go into this text.
    let sql = format!(
        "CREATE TABLE {relation} (
             source text NOT NULL, ordinal int NOT NULL,
             -- Which record it is, and its place among those of the same chunk: (began_at, stream_id, seq).
             began_at timestamptz NOT NULL, stream_id bigint NOT NULL, seq bigint NOT NULL,
             received_at timestamptz NOT NULL, text text NOT NULL,
             -- NULL: the chunk was deleted; what is older must not bring it back.
             embedding vector({}),
             PRIMARY KEY (source, ordinal))",
        shape.dim
    );
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *tx).await.act(act)?;
    sqlx::query("INSERT INTO vector_table (collection, relation, made_at) VALUES ($1, $2, $3)")
        .bind(collection)
        .bind(&relation)
        .bind(now)
        .execute(tx)
        .await
        .act(act)?;
    Ok(relation)
}

fn parsed(version: &str) -> Option<(u32, u32, u32)> {
    let mut parts = version.split('.').map(|p| p.parse().ok());
    Some((parts.next()??, parts.next()??, parts.next().flatten().unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(parsed("0.8.10") > Some(OLDEST) && parsed("0.8.4") == Some(OLDEST));
        assert!(parsed("0.8") < Some(OLDEST) && parsed("unknown") < Some(OLDEST));
    }

    #[test]
    fn wide_vectors_are_halved_and_the_widest_have_no_index() {
        let shape = |dim| Shape::of(dim, "dot");
        assert_eq!(shape(2_000).expect("fits").opclass(), "vector_ip_ops");
        assert_eq!(shape(2_001).expect("fits").opclass(), "halfvec_ip_ops");
        assert!(shape(4_001).is_none() && shape(0).is_none());
        assert_eq!(shape(3_000).expect("fits").asked(), "$1::real[]::halfvec(3000)");
    }
}
