//! Taking landed vectors into the index: newest wins per (collection, source, ordinal), a tombstone deletes.
//!
//! What is still to be taken is `stream.committed` minus `vector_taken`, never "everything after this time": times are drawn
//! before a transaction commits, and a number enters `committed` in the very moment its row can be seen. Row, table and
//! `taken` change in one transaction, so that a step that is cut off has not been.
use super::{
    Act, Store, StoreError, components,
    vector_tables::{self, MAX_HALF, Shape, VectorTable},
};
use sqlx::{AssertSqlSafe, PgConnection};
use std::collections::{BTreeMap, HashMap};
use time::OffsetDateTime;

/// Most rows of one step: a few MiB as they come, tens at the worst.
const STEP_ROWS: usize = 256;
/// Runs looked at in one step.
const STEP_RUNS: i64 = 64;

/// What became of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Taken {
    /// Another hub is at it.
    Busy,
    /// All that is committed is in.
    Nothing,
    /// So many rows, and what keeps a collection out of the index, newly found: (collection, why).
    Rows(u64, Vec<(String, String)>),
}

/// Numbers of a stream that are committed and not taken: `first` to `end`, without `end`.
#[derive(Clone, Debug, sqlx::FromRow)]
pub(in crate::store) struct Run {
    pub stream_id: i64,
    pub began_at: OffsetDateTime,
    pub first: i64,
    pub end: i64,
}

/// A landed vector.
#[derive(Clone, Debug, sqlx::FromRow)]
pub(in crate::store) struct LandedVector {
    pub seq: i64,
    pub received_at: OffsetDateTime,
    pub collection: String,
    pub source: String,
    pub ordinal: i32,
    pub encoding: String,
    pub scale: f32,
    pub data: Vec<u8>,
    pub text: String,
    pub tombstone: bool,
    /// It is what its collection says.
    pub fits: bool,
    pub collection_dim: i32,
    pub metric: String,
}

/// Runs that are not taken yet, oldest stream first.
pub(in crate::store) async fn runs(tx: &mut PgConnection, most: i64) -> Result<Vec<Run>, StoreError> {
    sqlx::query_as(
        "SELECT s.stream_id, s.first_seen_at AS began_at, lower(r) AS first, upper(r) AS \"end\"
           FROM stream s LEFT JOIN vector_taken t ON t.stream_id = s.stream_id,
                LATERAL unnest(s.committed - coalesce(t.taken, '{}')) AS r
          WHERE s.class = 'vector' AND s.committed <> coalesce(t.taken, '{}')
          ORDER BY 2, 1, 3 LIMIT $1",
    )
    .bind(most)
    .fetch_all(tx)
    .await
    .act("looking for vectors to index")
}

/// Rows of a run in order, of one collection or of all.
pub(in crate::store) async fn rows(
    tx: &mut PgConnection,
    run: &Run,
    collection: Option<&str>,
    most: usize,
) -> Result<Vec<LandedVector>, StoreError> {
    sqlx::query_as(
        "SELECT v.seq, v.received_at, v.collection, v.source, v.ordinal, v.encoding, v.scale, v.data, v.text, v.tombstone,
                v.dim = c.dim AND lower(v.model_digest) = c.model_digest AS fits, c.dim AS collection_dim, c.metric
           FROM record_vector v JOIN collection c ON c.name = v.collection
          WHERE v.stream_id = $1 AND v.seq >= $2 AND v.seq < $3
            -- Days before the stream began need not be looked at. A day's grace is for hubs whose clocks differ.
            AND v.received_at >= $4 AND ($5::text IS NULL OR v.collection = $5)
          ORDER BY v.seq LIMIT $6",
    )
    .bind(run.stream_id)
    .bind(run.first)
    .bind(run.end)
    .bind(run.began_at.saturating_sub(time::Duration::DAY))
    .bind(collection)
    .bind(most as i64)
    .fetch_all(tx)
    .await
    .act("reading vectors to index")
}

impl Store {
    /// Takes a few hundred vectors.
    pub async fn take_vectors(&self, now: OffsetDateTime) -> Result<Taken, StoreError> {
        let act = "taking vectors into the index";
        let mut tx = self.pool.begin().await.act(act)?;
        if !vector_tables::try_lock(&mut tx).await? {
            return Ok(Taken::Busy);
        }
        let mut step = Step { now, tables: HashMap::new(), sets: BTreeMap::new(), problems: Vec::new() };
        let mut count = 0;
        let runs = runs(&mut tx, STEP_RUNS).await?;
        if runs.is_empty() {
            // Said aloud: a transaction that is only dropped holds its lock a moment longer, and the next would find it taken.
            tx.rollback().await.act(act)?;
            return Ok(Taken::Nothing);
        }
        for run in runs {
            let room = STEP_ROWS - count;
            let rows = rows(&mut tx, &run, None, room).await?;
            // Fewer than asked for: the run is at its end.
            let end = rows.last().filter(|_| rows.len() == room).map_or(run.end, |last| last.seq + 1);
            count += rows.len();
            for row in rows {
                step.sort(&mut tx, &run, row).await?;
            }
            extend(&mut tx, run.stream_id, run.first, end).await?;
            if count >= STEP_ROWS {
                break;
            }
        }
        for (collection, set) in &step.sets {
            let change = set.write(&mut tx).await?;
            sqlx::query("UPDATE vector_table SET live = live + $2 WHERE collection = $1")
                .bind(collection)
                .bind(change)
                .execute(&mut *tx)
                .await
                .act(act)?;
        }
        tx.commit().await.act(act)?;
        Ok(Taken::Rows(count as u64, step.problems))
    }
}

/// What a step writes into one collection's table.
struct Set {
    relation: String,
    shape: Shape,
    /// By chunk (source, ordinal); none is a tombstone. Rows come oldest first, so what is put in last is the newest.
    chunks: BTreeMap<(String, i32), (Run, LandedVector, Option<Vec<f32>>)>,
}

impl Set {
    /// Writes it in one statement: by how many chunks the table has more than before.
    async fn write(&self, tx: &mut PgConnection) -> Result<i64, StoreError> {
        let (relation, dim) = (&self.relation, self.shape.dim);
        // Components come as one long array, cut into vectors there: an array of arrays would have to be even.
        let sql = format!(
            "WITH given AS (
                 SELECT * FROM unnest($1::text[], $2::int[], $3::timestamptz[], $4::bigint[], $5::bigint[],
                                      $6::timestamptz[], $7::text[], $8::int[])
                     AS g (source, ordinal, began_at, stream_id, seq, received_at, text, at)),
             old AS (SELECT source, ordinal, t.embedding IS NOT NULL AS live
                       FROM {relation} t JOIN given USING (source, ordinal)),
             put AS (
                 INSERT INTO {relation} AS t (source, ordinal, began_at, stream_id, seq, received_at, text, embedding)
                 SELECT source, ordinal, began_at, stream_id, seq, received_at, text,
                        ($9::real[])[at + 1 : at + {dim}]::vector({dim})
                   FROM given
                 ON CONFLICT (source, ordinal) DO UPDATE
                    SET began_at = excluded.began_at, stream_id = excluded.stream_id, seq = excluded.seq,
                        received_at = excluded.received_at, text = excluded.text, embedding = excluded.embedding
                  -- Else what the index has is newer.
                  WHERE (t.began_at, t.stream_id, t.seq) < (excluded.began_at, excluded.stream_id, excluded.seq)
                 RETURNING t.source, t.ordinal, t.embedding IS NOT NULL AS live)
             SELECT coalesce(sum(put.live::int - coalesce(old.live::int, 0)), 0)
               FROM put LEFT JOIN old USING (source, ordinal)"
        );
        let (mut components, mut places) = (Vec::<f32>::new(), Vec::with_capacity(self.chunks.len()));
        for (_, _, vector) in self.chunks.values() {
            places.push(vector.as_ref().map(|_| components.len() as i32));
            components.extend(vector.iter().flatten());
        }
        let rows = || self.chunks.values();
        sqlx::query_scalar(AssertSqlSafe(sql))
            .bind(self.chunks.keys().map(|(source, _)| source.as_str()).collect::<Vec<_>>())
            .bind(self.chunks.keys().map(|(_, ordinal)| *ordinal).collect::<Vec<_>>())
            .bind(rows().map(|(run, ..)| run.began_at).collect::<Vec<_>>())
            .bind(rows().map(|(run, ..)| run.stream_id).collect::<Vec<_>>())
            .bind(rows().map(|(_, row, _)| row.seq).collect::<Vec<_>>())
            .bind(rows().map(|(_, row, _)| row.received_at).collect::<Vec<_>>())
            .bind(rows().map(|(_, row, _)| row.text.as_str()).collect::<Vec<_>>())
            .bind(places)
            .bind(components)
            .fetch_one(tx)
            .await
            .act("writing vectors into the index")
    }
}

struct Step {
    now: OffsetDateTime,
    tables: HashMap<String, VectorTable>,
    sets: BTreeMap<String, Set>,
    problems: Vec<(String, String)>,
}

impl Step {
    /// Puts a row to those of its collection.
    async fn sort(&mut self, tx: &mut PgConnection, run: &Run, row: LandedVector) -> Result<(), StoreError> {
        let Some(shape) = Shape::of(row.collection_dim, &row.metric) else { return Ok(()) };
        let relation = self.table(tx, &row.collection, shape).await?;
        match vector_of(&row, shape) {
            Ok(vector) => {
                let set = self.sets.entry(row.collection.clone());
                let set = set.or_insert_with(|| Set { relation, shape, chunks: BTreeMap::new() });
                set.chunks.insert((row.source.clone(), row.ordinal), (run.clone(), row, vector));
                Ok(())
            }
            Err(problem) => self.problem(tx, &row, format!("records/{}/{} {problem}", run.stream_id, row.seq)).await,
        }
    }

    async fn table(&mut self, tx: &mut PgConnection, collection: &str, shape: Shape) -> Result<String, StoreError> {
        if let Some(known) = self.tables.get(collection) {
            return Ok(known.relation.clone());
        }
        if vector_tables::of(tx, collection).await?.is_none() {
            vector_tables::make(tx, collection, shape, self.now).await?;
        }
        let table = vector_tables::of(tx, collection).await?;
        let table = table.ok_or_else(|| StoreError::Corrupt {
            act: "taking vectors into the index",
            what: "vector table",
            problem: "it is not there".into(),
        })?;
        let relation = table.relation.clone();
        self.tables.insert(collection.to_owned(), table);
        Ok(relation)
    }

    /// The collection's table is not whole from now on. The first reason is kept.
    async fn problem(&mut self, tx: &mut PgConnection, row: &LandedVector, why: String) -> Result<(), StoreError> {
        let table = self.tables.get_mut(&row.collection);
        if table.as_ref().is_some_and(|t| t.problem.is_some()) {
            return Ok(());
        }
        sqlx::query("UPDATE vector_table SET problem = $2 WHERE collection = $1")
            .bind(&row.collection)
            .bind(&why)
            .execute(tx)
            .await
            .act("noting what keeps a collection out of the index")?;
        if let Some(table) = table {
            table.problem = Some(why.clone());
        }
        self.problems.push((row.collection.clone(), why));
        Ok(())
    }
}

/// The components to index, none for a tombstone.
fn vector_of(row: &LandedVector, shape: Shape) -> Result<Option<Vec<f32>>, &'static str> {
    if row.tombstone {
        return Ok(None);
    }
    if !row.fits {
        return Err("is not of its collection's model");
    }
    let vector = components::decode(&row.encoding, shape.dim as usize, row.scale, &row.data);
    let vector = vector.ok_or("is not a readable vector")?;
    if shape.half() && vector.iter().any(|c| c.abs() > MAX_HALF) {
        return Err("has a component that the index of such wide vectors cannot hold");
    }
    Ok(Some(vector))
}

async fn extend(tx: &mut PgConnection, stream_id: i64, first: i64, end: i64) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO vector_taken AS t (stream_id, taken) VALUES ($1, int8multirange(int8range($2, $3)))
         ON CONFLICT (stream_id) DO UPDATE SET taken = t.taken + excluded.taken",
    )
    .bind(stream_id)
    .bind(first)
    .bind(end)
    .execute(tx)
    .await
    .act("noting what the index has taken")?;
    Ok(())
}

#[cfg(test)]
mod tests;
