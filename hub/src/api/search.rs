//! Search by meaning: a text, a stored record or a vector in, the nearest chunks out. No text is ever matched.
//!
//! Through the collection's index where it is fresh enough. Else exact: every vector that counts is read once and scored,
//! which is refused above [`MAX_EXACT`] stored ones with the reason. Either way what is shown is scored here, so that both
//! give the same scores. A collection whose vectors do not all come from its model is refused by name.
use super::{
    Api, ApiError, Caller, names,
    score::{Best, score},
    tokens::within,
};
use crate::{
    embed::{EmbedError, MAX_QUERY_BYTES},
    store::{
        components::decode,
        search::{CollectionRow, VectorRow},
        vector_search::NoIndex,
        vector_tables::VectorTable,
    },
};
use redforge_shared::{record::Metric, standin, wire::pb};
use std::{
    collections::{BTreeMap, HashMap},
    ops::ControlFlow,
    time::Instant,
};

/// Most stored vectors that are searched one by one.
const MAX_EXACT: u64 = 200_000;

/// Records of a collection without an index that are counted one by one; beyond it the number is an estimate.
const COUNTED: u64 = 10_000;
/// How a search was made.
const HNSW: &str = "hnsw";
const EXACT: &str = "exact";

/// A vector to look for, and what it took to get it.
struct Query {
    collection: CollectionRow,
    vector: Vec<f32>,
    standin: bool,
    embed_ms: f64,
}

/// A chunk that was scored. Equal scores are told apart by these in their order.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Found {
    source: String,
    ordinal: i32,
    stream_id: i64,
    seq: i64,
    /// None: still to be read.
    text: Option<String>,
}

impl Api {
    /// Every collection with how much is in it.
    pub async fn list_collections(
        &self,
        _: &Caller,
        _: pb::ListCollectionsRequest,
    ) -> Result<pb::ListCollectionsResponse, ApiError> {
        let tables: BTreeMap<String, VectorTable> =
            self.store.vector_tables().await?.into_iter().map(|t| (t.collection.clone(), t)).collect();
        let mut pending = if tables.is_empty() { HashMap::new() } else { self.store.pending_vectors().await? };
        let mut collections = Vec::new();
        for row in self.store.list_collections().await? {
            let (index, vectors, vectors_estimated) = match tables.get(&row.name) {
                Some(table) if table.serves() => (HNSW, table.live.unsigned_abs(), false),
                _ => {
                    let landed = self.store.count_landed_vectors(&row.name, MAX_EXACT + 1).await?;
                    let few = landed <= COUNTED;
                    (EXACT, if few { self.store.count_vectors(&row.name).await? } else { landed }, !few)
                }
            };
            let waiting = pending.remove(&row.name).unwrap_or(0).unsigned_abs();
            collections.push(pb::Collection {
                name: row.name,
                model: row.model,
                model_digest: row.model_digest,
                dim: row.dim as u32,
                metric: row.metric,
                vectors,
                index: index.into(),
                pending: if index == HNSW { waiting } else { 0 },
                document_prefix: row.document_prefix,
                query_prefix: row.query_prefix,
                vectors_estimated,
            });
        }
        Ok(pb::ListCollectionsResponse { collections })
    }

    /// The nearest chunks of a collection.
    pub async fn search(&self, _: &Caller, request: pb::SearchRequest) -> Result<pb::SearchResponse, ApiError> {
        let limit = within("limit", request.limit, 10, 1, 100)?;
        let query = self.query(request).await?;
        let Query { collection, vector, standin, embed_ms } = query;
        let begun = Instant::now();
        let (index, best) = match self.store.nearest_indexed(&collection, &vector, limit).await? {
            Ok(candidates) => {
                let mut best = Best::new(limit as usize);
                let metric = metric_of(&collection);
                for c in candidates {
                    let found = Found {
                        source: c.source,
                        ordinal: c.ordinal,
                        stream_id: c.stream_id,
                        seq: c.seq,
                        text: Some(c.text),
                    };
                    best.offer(score(metric, &vector, &c.components), found);
                }
                (HNSW, best)
            }
            Err(why) => (EXACT, self.nearest_exact(&collection, &vector, limit as usize, &why).await?),
        };
        let hits = self.hits(best).await?;
        let search_ms = begun.elapsed().as_secs_f64() * 1000.0;
        Ok(pb::SearchResponse { hits, collection: collection.name, index: index.into(), standin, embed_ms, search_ms })
    }

    async fn hits(&self, best: Best<Found>) -> Result<Vec<pb::Hit>, ApiError> {
        let mut hits = Vec::new();
        for (score, found) in best.into_vec() {
            let Found { source, ordinal, stream_id, seq, text } = found;
            let (text, host) = match text {
                Some(text) => (text, self.store.stream_host(stream_id).await?.unwrap_or_default()),
                None => match self.store.hit(stream_id, seq).await? {
                    Some(hit) => (hit.text, hit.host),
                    // It was dropped since it was scored: then it is no hit any more.
                    None => continue,
                },
            };
            hits.push(pb::Hit {
                rank: hits.len() as u32 + 1,
                score,
                source,
                ordinal: ordinal as u32,
                text,
                record: format!("records/{stream_id}/{seq}"),
                host: format!("hosts/{host}"),
            });
        }
        Ok(hits)
    }

    /// Reads every vector that counts. `why` is what keeps the index from being used.
    async fn nearest_exact(
        &self,
        collection: &CollectionRow,
        vector: &[f32],
        limit: usize,
        why: &NoIndex,
    ) -> Result<Best<Found>, ApiError> {
        if let Some((digest, dim)) = self.store.foreign_vector(collection).await? {
            let message = format!(
                "collection '{}' is mixed: it was made with model digest {} and {} dimensions, and holds a vector of \
                 digest {digest} with {dim}",
                collection.name, collection.model_digest, collection.dim
            );
            return Err(ApiError::Precondition { reason: "COLLECTION_MIXED", message });
        }
        let stored = self.store.count_landed_vectors(&collection.name, MAX_EXACT + 1).await?;
        if stored > MAX_EXACT {
            let message = format!(
                "collection '{}' holds more than {MAX_EXACT} stored vectors and {why}: exact search would read them all",
                collection.name
            );
            return Err(ApiError::Precondition { reason: "COLLECTION_TOO_LARGE", message });
        }
        if self.store.vectors_pruned().await? {
            let message = format!(
                "collection '{}': {why}, and records that were dropped from the landing are in the index only",
                collection.name
            );
            return Err(ApiError::Precondition { reason: "INDEX_NEEDED", message });
        }
        let metric = metric_of(collection);
        let mut best = Best::new(limit);
        let mut unreadable = None;
        let visit = |row: VectorRow| match decode(&row.encoding, vector.len(), row.scale, &row.data) {
            Some(stored) => {
                let VectorRow { source, ordinal, stream_id, seq, .. } = row;
                best.offer(score(metric, vector, &stored), Found { source, ordinal, stream_id, seq, text: None });
                ControlFlow::Continue(())
            }
            None => {
                unreadable = Some(format!("records/{}/{}", row.stream_id, row.seq));
                ControlFlow::Break(())
            }
        };
        self.store.scan_vectors(&collection.name, visit).await?;
        match unreadable {
            Some(record) => {
                let message = format!("{record} of collection '{}' is not a readable vector", collection.name);
                Err(ApiError::Precondition { reason: "VECTOR_UNREADABLE", message })
            }
            None => Ok(best),
        }
    }

    async fn query(&self, request: pb::SearchRequest) -> Result<Query, ApiError> {
        use pb::search_request::Query as Asked;
        let asked = request.query.ok_or_else(|| ApiError::invalid("query", "expected text, like or vector"))?;
        let given = |collection: CollectionRow, vector| {
            let standin = standin::is_model(&collection.model);
            Query { collection, vector, standin, embed_ms: 0.0 }
        };
        match asked {
            Asked::Like(record) => {
                let (stream, seq) = names::record("like", &record)?;
                let row = self.store.vector(stream, seq).await?.ok_or_else(|| ApiError::NotFound(record.clone()))?;
                if !request.collection.is_empty() && request.collection != row.collection {
                    let problem = format!("{record} is of collection '{}'", row.collection);
                    return Err(ApiError::invalid("collection", problem));
                }
                let collection = self.collection(&row.collection).await?;
                let same = row.model_digest == collection.model_digest && row.dim == collection.dim;
                let vector = decode(&row.encoding, collection.dim as usize, row.scale, &row.data);
                let vector = vector.filter(|_| same && !row.tombstone);
                let vector = vector.ok_or_else(|| {
                    ApiError::invalid("like", format!("{record} is a deletion, or no vector of its collection's model"))
                })?;
                Ok(given(collection, vector))
            }
            Asked::Vector(vector) => {
                let collection = self.collection(&request.collection).await?;
                let vector = checked("vector", vector.components, &collection)?;
                Ok(given(collection, vector))
            }
            Asked::Text(text) => {
                if text.trim().is_empty() || text.len() > MAX_QUERY_BYTES {
                    let problem = format!("has {} bytes, allowed are 1 to {MAX_QUERY_BYTES}", text.len());
                    return Err(ApiError::invalid("text", problem));
                }
                let collection = self.collection(&request.collection).await?;
                let embed = self.embed.as_ref().ok_or(EmbedError::NotConfigured)?;
                let begun = Instant::now();
                let text = format!("{}{text}", collection.query_prefix);
                let vector = embed.embed(&collection.model, &collection.model_digest, &text).await?;
                let embed_ms = begun.elapsed().as_secs_f64() * 1000.0;
                let vector = checked("text", vector, &collection)?;
                let standin = embed.standin || standin::is_model(&collection.model);
                Ok(Query { collection, vector, standin, embed_ms })
            }
        }
    }

    /// The collection of this name, or the only one there is.
    async fn collection(&self, name: &str) -> Result<CollectionRow, ApiError> {
        let mut all = self.store.list_collections().await?;
        if !name.is_empty() {
            let found = all.into_iter().find(|c| c.name == name);
            let shown: String = name.chars().take(80).collect();
            return found.ok_or_else(|| ApiError::NotFound(format!("collection '{shown}'")));
        }
        match (all.pop(), all.len()) {
            (Some(only), 0) => Ok(only),
            (None, _) => Err(ApiError::NotFound("a collection (no vector has arrived yet)".into())),
            (Some(last), _) => {
                let names: Vec<String> = all.into_iter().chain([last]).map(|c| c.name).take(20).collect();
                Err(ApiError::invalid("collection", format!("there are several, name one of {}", names.join(", "))))
            }
        }
    }
}

fn metric_of(collection: &CollectionRow) -> Metric {
    Metric::from_word(&collection.metric).unwrap_or_default()
}

fn checked(field: &str, vector: Vec<f32>, collection: &CollectionRow) -> Result<Vec<f32>, ApiError> {
    if vector.len() != collection.dim as usize {
        let problem =
            format!("has {} components, collection '{}' has {}", vector.len(), collection.name, collection.dim);
        return Err(ApiError::invalid(field, problem));
    }
    if vector.iter().any(|c| !c.is_finite()) {
        return Err(ApiError::invalid(field, "holds a component that is not a finite number"));
    }
    Ok(vector)
}

#[cfg(test)]
mod tests;
