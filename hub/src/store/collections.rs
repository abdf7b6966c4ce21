//! Collections: what the first vector of a name said, and the rule that every later one says the same.
//!
//! Reading them for operators and searching them is `search`'s business.
use super::{
    Act, StoreError,
    records::{Refusal, Stop},
};
use redforge_shared::{ids::Name, record::Vector};
use sqlx::PgConnection;
use std::collections::BTreeMap;
use time::OffsetDateTime;

#[derive(Debug, PartialEq, Eq, sqlx::FromRow)]
struct Collection {
    model: String,
    model_digest: String,
    dim: i32,
    metric: String,
    document_prefix: String,
    query_prefix: String,
}

impl Collection {
    fn of(v: &Vector) -> Self {
        Self {
            model: v.model.clone(),
            model_digest: v.model_digest.to_ascii_lowercase(),
            dim: v.dim as i32,
            metric: v.metric.as_str().into(),
            document_prefix: v.document_prefix.clone(),
            query_prefix: v.query_prefix.clone(),
        }
    }

    /// The first thing that differs, in words.
    fn mismatch(&self, v: &Vector) -> Option<String> {
        // Asked of every vector: what is equal is told without a new text.
        let same = self.dim == v.dim as i32
            && self.model_digest.eq_ignore_ascii_case(&v.model_digest)
            && self.metric == v.metric.as_str()
            && self.model == v.model
            && self.document_prefix == v.document_prefix
            && self.query_prefix == v.query_prefix;
        if same {
            return None;
        }
        let differ = |what: &str, has: &str, got: &str| {
            let cut = |s: &str| s.chars().take(80).collect::<String>();
            (has != got).then(|| format!("its {what} is '{}', not '{}'", cut(has), cut(got)))
        };
        differ("model digest", &self.model_digest, &v.model_digest.to_ascii_lowercase())
            .or_else(|| differ("dim", &self.dim.to_string(), &v.dim.to_string()))
            .or_else(|| differ("metric", &self.metric, v.metric.as_str()))
            .or_else(|| differ("model", &self.model, &v.model))
            .or_else(|| differ("document prefix", &self.document_prefix, &v.document_prefix))
            .or_else(|| differ("query prefix", &self.query_prefix, &v.query_prefix))
    }
}

/// Checks every vector against its collection; a name that is new becomes a collection by its first vector.
pub(in crate::store) async fn ensure<'a>(
    tx: &mut PgConnection,
    vectors: impl Iterator<Item = (u64, &'a Vector)> + Send,
    now: OffsetDateTime,
) -> Result<(), Stop> {
    // In order of name: two batches that need the same rows take them in the same order.
    let mut by_name: BTreeMap<&Name, Vec<(u64, &Vector)>> = BTreeMap::new();
    for (seq, v) in vectors {
        by_name.entry(&v.collection).or_default().push((seq, v));
    }
    for (name, vectors) in by_name {
        let collection = match find(tx, name).await? {
            Some(c) => c,
            None => create(tx, name, Collection::of(vectors[0].1), now).await?,
        };
        for (seq, v) in vectors {
            if let Some(problem) = collection.mismatch(v) {
                return Err(Refusal::Collection { seq, collection: name.clone(), problem }.into());
            }
        }
    }
    Ok(())
}

async fn find(tx: &mut PgConnection, name: &Name) -> Result<Option<Collection>, StoreError> {
    sqlx::query_as(
        "SELECT model, model_digest, dim, metric, document_prefix, query_prefix FROM collection WHERE name = $1",
    )
    .bind(name.as_str())
    .fetch_optional(tx)
    .await
    .act("reading a collection")
}

async fn create(
    tx: &mut PgConnection,
    name: &Name,
    first: Collection,
    now: OffsetDateTime,
) -> Result<Collection, StoreError> {
    // Waits for another transaction that creates the same name, then leaves its row alone.
    sqlx::query(
        "INSERT INTO collection (name, model, model_digest, dim, metric, document_prefix, query_prefix, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (name) DO NOTHING",
    )
    .bind(name.as_str())
    .bind(&first.model)
    .bind(&first.model_digest)
    .bind(first.dim)
    .bind(&first.metric)
    .bind(&first.document_prefix)
    .bind(&first.query_prefix)
    .bind(now)
    .execute(&mut *tx)
    .await
    .act("creating a collection")?;
    Ok(find(tx, name).await?.unwrap_or(first))
}
