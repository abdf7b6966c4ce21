//! The nearest vectors through the index, completed by those that landed after it was last extended.
//!
//! Everything is read in one snapshot: what the index has taken and what is still to be taken fit together, so that a chunk
//! is neither missed nor shown in an old form. Scores are not computed here; what is nearest of all is the caller's to say.
use super::{
    Act, Store, StoreError, components,
    search::CollectionRow,
    vector_tables::{self, MAX_HALF, Shape, VectorTable},
    vector_taking::{self, LandedVector, Run},
};
use redforge_shared::record::Metric;
use sqlx::{AssertSqlSafe, PgConnection};
use std::collections::HashMap;
use time::OffsetDateTime;

/// An index that lacks more landed vectors than this is not fresh enough: they are read and scored one by one.
pub const MAX_PENDING: i64 = 10_000;
/// And neither is one that lacks more bytes than this: they are held at once.
const MAX_PENDING_BYTES: usize = 64 << 20;
/// Rows read at once.
const PAGE: usize = 500;
/// Runs that are looked at: an index that lacks more is far behind.
const MAX_RUNS: i64 = 1_000;
/// More candidates than are asked for make a missed neighbour unlikely.
const LEAST_CANDIDATES: i64 = 400;
/// pgvector's own bound of `hnsw.ef_search`.
const MOST_CANDIDATES: i64 = 1_000;

/// A vector that may be among the nearest.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct Candidate {
    pub source: String,
    pub ordinal: i32,
    pub stream_id: i64,
    pub seq: i64,
    pub text: String,
    pub components: Vec<f32>,
}

/// Why the index cannot be used for a search.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoIndex {
    #[error("it has no index, because PostgreSQL's extension pgvector is not installed")]
    Extension,
    #[error("it has no index, because its vectors have more than {} dimensions", vector_tables::MAX_HALFVEC_DIM)]
    TooWide,
    #[error("its index is not made yet")]
    NotMade,
    #[error("its index lacks more landed vectors than can be looked at beside it (more than {MAX_PENDING}, or {} MiB)", MAX_PENDING_BYTES >> 20)]
    Behind,
    #[error("its index is not whole: {0}")]
    Problem(String),
    #[error("its index cannot hold this query")]
    Query,
}

/// Order among records of one chunk: the greatest counts.
type Place = (OffsetDateTime, i64, i64);

impl Store {
    /// At least the `limit` nearest of a collection, in no particular order, or why the index cannot say.
    pub async fn nearest_indexed(
        &self,
        collection: &CollectionRow,
        vector: &[f32],
        limit: u32,
    ) -> Result<Result<Vec<Candidate>, NoIndex>, StoreError> {
        let act = "searching the vector index";
        let mut tx = self.pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await.act(act)?;
        let table = vector_tables::of(&mut tx, &collection.name).await?;
        let (shape, table) = match usable(&mut tx, collection, table).await? {
            Ok(found) => found,
            Err(why) => return Ok(Err(why)),
        };
        // Zeros have no direction: no cosine index knows them.
        let nowhere = shape.metric == Metric::Cosine && vector.iter().all(|c| *c == 0.0);
        if nowhere || shape.half() && vector.iter().any(|c| c.abs() > MAX_HALF) {
            return Ok(Err(NoIndex::Query));
        }
        let runs = vector_taking::runs(&mut tx, MAX_RUNS + 1).await?;
        if runs.len() as i64 > MAX_RUNS || runs.iter().map(|r| r.end - r.first).sum::<i64>() > MAX_PENDING {
            return Ok(Err(NoIndex::Behind));
        }
        let Some(mut pending) = Pending::read(&mut tx, &collection.name, runs).await? else {
            return Ok(Err(NoIndex::Behind));
        };
        let replaced = pending.compare(&mut tx, &table.relation).await?;
        let wanted = i64::from(limit) + replaced;
        let mut found = through_index(&mut tx, &table.relation, shape, vector, wanted).await?;
        found.retain(|c| !pending.newest.contains_key(&(c.source.clone(), c.ordinal)));
        match pending.candidates(shape) {
            Ok(fresh) => found.extend(fresh),
            Err(why) => return Ok(Err(why)),
        }
        Ok(Ok(found))
    }

    /// Landed vectors that the index has not taken, by collection; at most [`MAX_PENDING`] are counted in all.
    pub async fn pending_vectors(&self) -> Result<HashMap<String, i64>, StoreError> {
        let counts: Vec<(String, i64)> = sqlx::query_as(
            "SELECT collection, count(*) FROM (
                 SELECT v.collection FROM stream s LEFT JOIN vector_taken t ON t.stream_id = s.stream_id,
                        LATERAL unnest(s.committed - coalesce(t.taken, '{}')) AS r,
                        LATERAL (SELECT v.collection FROM record_vector v
                                  WHERE v.stream_id = s.stream_id AND v.seq >= lower(r) AND v.seq < upper(r)
                                  LIMIT $1) AS v
                  WHERE s.class = 'vector' AND s.committed <> coalesce(t.taken, '{}') LIMIT $1) AS pending
              GROUP BY 1",
        )
        .bind(MAX_PENDING)
        .fetch_all(&self.pool)
        .await
        .act("counting vectors that are not indexed")?;
        Ok(counts.into_iter().collect())
    }

    /// The host that a stream comes from.
    pub async fn stream_host(&self, stream_id: i64) -> Result<Option<String>, StoreError> {
        sqlx::query_scalar("SELECT h.name FROM stream s JOIN host h ON h.id = s.host_id WHERE s.stream_id = $1")
            .bind(stream_id)
            .fetch_optional(&self.pool)
            .await
            .act("reading the host of a stream")
    }
}

async fn usable(
    tx: &mut PgConnection,
    collection: &CollectionRow,
    table: Option<VectorTable>,
) -> Result<Result<(Shape, VectorTable), NoIndex>, StoreError> {
    let Some(shape) = Shape::of(collection.dim, &collection.metric) else { return Ok(Err(NoIndex::TooWide)) };
    let installed: bool = sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM pg_extension WHERE extname = 'vector')")
        .fetch_one(tx)
        .await
        .act("looking for pgvector")?;
    Ok(match table {
        _ if !installed => Err(NoIndex::Extension),
        Some(table) if table.serves() => Ok((shape, table)),
        Some(VectorTable { problem: Some(problem), .. }) => Err(NoIndex::Problem(problem)),
        _ => Err(NoIndex::NotMade),
    })
}

async fn through_index(
    tx: &mut PgConnection,
    relation: &str,
    shape: Shape,
    vector: &[f32],
    wanted: i64,
) -> Result<Vec<Candidate>, StoreError> {
    let act = "searching the vector index";
    let candidates = (2 * wanted).clamp(LEAST_CANDIDATES, MOST_CANDIDATES);
    // Without a sequential scan the plan is what the answer says; iterating goes on where too few were found at first.
    let settings = format!(
        "SET LOCAL enable_seqscan = off; SET LOCAL hnsw.ef_search = {candidates}; \
         SET LOCAL hnsw.iterative_scan = strict_order"
    );
    sqlx::raw_sql(AssertSqlSafe(settings)).execute(&mut *tx).await.act(act)?;
    sqlx::query_as(AssertSqlSafe(nearest_sql(relation, shape))).bind(vector).bind(wanted).fetch_all(tx).await.act(act)
}

pub(in crate::store) fn nearest_sql(relation: &str, shape: Shape) -> String {
    format!(
        "SELECT source, ordinal, stream_id, seq, text, embedding::real[] AS components FROM {relation}
          WHERE embedding IS NOT NULL ORDER BY {} {} {} LIMIT $2",
        shape.indexed(),
        shape.operator(),
        shape.asked()
    )
}

/// The newest record of every chunk that landed and is not taken yet.
struct Pending {
    newest: HashMap<(String, i32), (Place, LandedVector)>,
}

impl Pending {
    /// None when it would be too much to hold.
    async fn read(tx: &mut PgConnection, collection: &str, runs: Vec<Run>) -> Result<Option<Self>, StoreError> {
        let mut newest: HashMap<(String, i32), (Place, LandedVector)> = HashMap::new();
        let mut bytes = 0;
        for mut run in runs {
            loop {
                let rows = vector_taking::rows(tx, &run, Some(collection), PAGE).await?;
                let Some(last) = rows.last().map(|r| r.seq) else { break };
                let whole = rows.len() < PAGE;
                run.first = last + 1;
                bytes += rows.iter().map(|r| r.data.len() + r.text.len()).sum::<usize>();
                if bytes > MAX_PENDING_BYTES {
                    return Ok(None);
                }
                for row in rows {
                    let place = (run.began_at, run.stream_id, row.seq);
                    let key = (row.source.clone(), row.ordinal);
                    if newest.get(&key).is_none_or(|(known, _)| *known < place) {
                        newest.insert(key, (place, row));
                    }
                }
                if whole {
                    break;
                }
            }
        }
        Ok(Some(Self { newest }))
    }

    /// Drops what the index has in a newer form; tells how many vectors of the index are replaced by the rest.
    async fn compare(&mut self, tx: &mut PgConnection, relation: &str) -> Result<i64, StoreError> {
        if self.newest.is_empty() {
            return Ok(0);
        }
        let (sources, ordinals): (Vec<String>, Vec<i32>) = self.newest.keys().cloned().unzip();
        let sql = format!(
            "SELECT source, ordinal, began_at, stream_id, seq, embedding IS NOT NULL FROM {relation}
               JOIN unnest($1::text[], $2::int[]) AS k (source, ordinal) USING (source, ordinal)"
        );
        let known: Vec<(String, i32, OffsetDateTime, i64, i64, bool)> = sqlx::query_as(AssertSqlSafe(sql))
            .bind(sources)
            .bind(ordinals)
            .fetch_all(tx)
            .await
            .act("comparing new vectors with the index")?;
        let mut replaced = 0;
        for (source, ordinal, began_at, stream_id, seq, live) in known {
            let key = (source, ordinal);
            if self.newest.get(&key).is_some_and(|(place, _)| *place < (began_at, stream_id, seq)) {
                self.newest.remove(&key);
            } else {
                replaced += i64::from(live);
            }
        }
        Ok(replaced)
    }

    fn candidates(self, shape: Shape) -> Result<Vec<Candidate>, NoIndex> {
        let mut candidates = Vec::new();
        for ((source, ordinal), ((_, stream_id, seq), row)) in self.newest {
            if row.tombstone {
                continue;
            }
            let components = components::decode(&row.encoding, shape.dim as usize, row.scale, &row.data);
            let components = components.filter(|_| row.fits).ok_or_else(|| {
                NoIndex::Problem(format!("records/{stream_id}/{seq} is no readable vector of its collection's model"))
            })?;
            candidates.push(Candidate { source, ordinal, stream_id, seq, text: row.text, components });
        }
        Ok(candidates)
    }
}
