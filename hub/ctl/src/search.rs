//! `search`: vectors by meaning, by likeness to a stored one, or by components from a file.
use crate::{
    cli::Search,
    config::Connection,
    connection,
    failure::{Failure, Outcome},
    output::{self, Listing, cell},
    words,
};
use redforge_shared::wire::pb;
use serde_json::{Value, json};
use std::path::Path;

/// Largest file of components.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// Searches and lists the hits.
pub async fn run(settings: &Connection, a: &Search) -> Outcome {
    use pb::search_request::Query;
    let query = match (&a.text, &a.like, &a.vector) {
        (Some(text), ..) => Query::Text(text.clone()),
        (_, Some(record), _) => Query::Like(record.clone()),
        (_, _, Some(file)) => Query::Vector(pb::QueryVector { components: components(file)? }),
        _ => return Err(Failure::new(crate::failure::Exit::Usage, "nothing to search for")),
    };
    let request =
        pb::SearchRequest { collection: a.collection.clone().unwrap_or_default(), query: Some(query), limit: a.limit };
    let mut admin = connection::connect(settings).await?;
    let found = admin.search(request).await?.into_inner();
    if found.standin {
        output::say("Ollama stand-in: it embedded this query; meanings are rough");
    }
    let row = |h: &pb::Hit| {
        vec![
            cell(h.rank.to_string()),
            cell(format!("{:.4}", h.score)),
            cell(format!("{}#{}", h.source, h.ordinal)),
            cell(words::last(&h.host)),
            cell(h.text.chars().take(100).collect::<String>()),
        ]
    };
    let object = |h: &pb::Hit| {
        json!({"rank": h.rank, "score": h.score, "source": h.source, "ordinal": h.ordinal, "text": h.text,
               "record": h.record, "host": h.host})
    };
    let objects: Vec<Value> = found.hits.iter().map(object).collect();
    let listing = Listing {
        head: vec!["RANK", "SCORE", "SOURCE", "HOST", "TEXT"],
        rows: found.hits.iter().map(row).collect(),
        names: found.hits.iter().map(|h| h.record.clone()).collect(),
        manifests: objects.clone(),
        objects,
        single: false,
        empty: "Nothing was found.",
    };
    listing.print(a.output)?;
    output::say(&format!(
        "collection {}, {} search, embedding {:.1} ms, search {:.1} ms",
        found.collection, found.index, found.embed_ms, found.search_ms
    ));
    Ok(())
}

fn components(file: &Path) -> Outcome<Vec<f32>> {
    let bad = |e: &dyn std::fmt::Display| Failure::error(format!("{}: {e}", file.display()));
    let size = std::fs::metadata(file).map_err(|e| bad(&e))?.len();
    if size > MAX_FILE_BYTES {
        return Err(bad(&format!("has {size} bytes, more than {MAX_FILE_BYTES}")));
    }
    let bytes = std::fs::read(file).map_err(|e| bad(&e))?;
    serde_json::from_slice(&bytes)
        .map_err(|e| bad(&e).hint("the file must hold a JSON array of numbers, as Ollama's /api/embed gives it"))
}
