//! `search`: vectors by meaning, by likeness to a stored one, or by components from a file.
use crate::{
    cli::Search,
    config::Connection,
    connection,
    failure::{Exit, Failure, Outcome},
    output::{self, Listing, cell},
    words,
};
use redforge_shared::{standin, wire::pb};
use serde_json::{Value, json};
use std::path::Path;

/// Largest file of components.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// Searches and lists the hits.
pub async fn run(settings: &Connection, a: &Search) -> Outcome {
    use pb::search_request::Query;
    let query = match (&a.text, &a.like, &a.vector) {
        (Some(text), ..) => Query::Text(text.clone()),
        (_, Some(record), _) => Query::Like(record_name(record)?),
        (_, _, Some(file)) => Query::Vector(pb::QueryVector { components: components(file)? }),
        _ => return Err(Failure::new(Exit::Usage, "nothing to search for")),
    };
    let request =
        pb::SearchRequest { collection: a.collection.clone().unwrap_or_default(), query: Some(query), limit: a.limit };
    let mut admin = connection::connect(settings).await?;
    let named = a.collection.is_some();
    let found = match admin.search(request).await {
        Ok(found) => found.into_inner(),
        Err(status) => {
            let failure = Failure::from(status);
            return Err(match failure.exit {
                Exit::NotFound if named => failure.hint("`redforgectl get collections` lists them"),
                Exit::NotFound => failure.hint("flows publish vectors on redforge/records/vector"),
                _ => failure,
            });
        }
    };
    if found.standin {
        output::say(&format!("{}: it made these vectors; meanings are rough", standin::NAME));
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

/// A record as `records` and `search` name it.
fn record_name(typed: &str) -> Outcome<String> {
    let parts: Vec<&str> = typed.split('/').collect();
    let number = |s: &str| s.parse::<u64>().is_ok();
    if matches!(parts[..], ["records", stream, seq] if number(stream) && number(seq)) {
        return Ok(typed.to_owned());
    }
    Err(Failure::new(Exit::Usage, format!("'{typed}' does not name a record: records/STREAM/SEQ"))
        .hint("`redforgectl records --class vector -o name` lists some, and so does `redforgectl search TEXT -o name`"))
}

fn components(file: &Path) -> Outcome<Vec<f32>> {
    let bad = |e: &dyn std::fmt::Display| Failure::error(format!("{}: {e}", file.display()));
    let unreadable = |e: std::io::Error| {
        let exit = if e.kind() == std::io::ErrorKind::NotFound { Exit::NotFound } else { Exit::Error };
        Failure::new(exit, format!("{} cannot be read: {e}", file.display()))
    };
    let size = std::fs::metadata(file).map_err(unreadable)?.len();
    if size > MAX_FILE_BYTES {
        return Err(bad(&format!("has {size} bytes, more than {MAX_FILE_BYTES}")));
    }
    let bytes = std::fs::read(file).map_err(unreadable)?;
    serde_json::from_slice(&bytes)
        .map_err(|e| bad(&e).hint("the file must hold a JSON array of numbers, as Ollama's /api/embed gives it"))
}
