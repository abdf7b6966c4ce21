//! Twenty sentences of invented documents, found by meaning: the document that holds the sentence comes first.
use crate::words::{broker, node_red};
use redforge_shared::wire::pb;
use redforge_tests::{
    agent::TestAgent,
    flowless::{Embedder, MODEL, broker_of},
    hub::TestHub,
    operator::Operator,
    publisher::Publisher,
    wait::{eventually, when},
};
use serde_json::json;

/// Ten invented notes of two sentences each.
const NOTES: &[(&str, [&str; 2])] = &[
    (
        "press-7",
        ["The hydraulic press lost pressure during the night shift.", "A worn seal in the main cylinder was replaced."],
    ),
    (
        "oven-2",
        [
            "The curing oven drifted twelve degrees above its set point.",
            "We calibrated the thermocouple and logged the offset.",
        ],
    ),
    (
        "belt-4",
        [
            "The conveyor belt stopped because a bearing had seized.",
            "Grease was applied and the motor current returned to normal.",
        ],
    ),
    (
        "paint-1",
        [
            "Paint viscosity was too high after the weekend.",
            "The thinner valve was stuck half open and had to be cleaned.",
        ],
    ),
    (
        "robot-9",
        [
            "The welding robot reported a collision with the fixture.",
            "Its torch neck was bent and the path was taught again.",
        ],
    ),
    (
        "water-3",
        ["Cooling water flow dropped below the alarm limit.", "A blocked strainer in the basement was flushed."],
    ),
    ("scale-5", ["The checkweigher rejected every third carton.", "Dust under the load cell had shifted the zero."]),
    (
        "label-6",
        [
            "Labels were printed without the batch number.",
            "The template on the printer had been overwritten by an update.",
        ],
    ),
    (
        "air-8",
        [
            "Compressed air consumption doubled on Sunday.",
            "An open purge nozzle behind the packing line was found and closed.",
        ],
    ),
    (
        "dock-1",
        [
            "The loading dock door would not close in the storm.",
            "A photo sensor was covered with snow and was wiped clean.",
        ],
    ),
];

async fn best(operator: &mut Operator, sentence: &str) -> pb::Hit {
    let request = pb::SearchRequest {
        query: Some(pb::search_request::Query::Text(sentence.to_owned())),
        limit: 3,
        ..Default::default()
    };
    let answer = operator.admin.search(request).await.unwrap_or_else(|s| panic!("search failed: {s}")).into_inner();
    assert!(answer.standin, "the stand-in is not named as such");
    answer.hits.into_iter().next().expect("a hit")
}

#[tokio::test]
async fn docker_search_puts_the_document_that_holds_the_sentence_first() {
    let embedder = Embedder::start("rft-search-embedder").await;
    let mut hub = TestHub::start().await;
    hub.stop().await;
    hub.env = vec![
        ("REDFORGE_HUB__SEARCH__EMBED_URL".into(), embedder.url.clone()),
        ("REDFORGE_HUB__SEARCH__STANDIN".into(), "true".into()),
    ];
    hub.up().await;
    let agent = TestAgent::start(&hub, "press-1").await;
    let mut operator = hub.operator().await;
    operator.apply(&(broker("press-1") + &node_red("press-1", "flows", None))).await;
    let at = broker_of(&mut operator, &agent).await;
    let mut publisher = Publisher::new(&at, "rft-publisher", &agent.dir().join("acked.jsonl"));
    for (source, sentences) in NOTES {
        for (ordinal, text) in sentences.iter().enumerate() {
            let vector = embedder.embed(text).await;
            let key = format!("{source}#{ordinal}");
            let record = json!({"key": key, "collection": "notes", "source": source, "ordinal": ordinal, "model": MODEL,
                "model_digest": embedder.digest, "dim": vector.len(), "vector": vector, "text": text});
            publisher.publish_record("vector", &key, &record).await;
        }
    }
    publisher.all_acked().await;
    let pool = hub.postgres.pool().await;
    eventually("all vectors are committed", async || {
        let n: i64 = sqlx::query_scalar("SELECT count(*) FROM record_vector").fetch_one(&pool).await.expect("there");
        when(n == 20, n)
    })
    .await;
    for (source, sentences) in NOTES {
        for sentence in sentences {
            let hit = best(&mut operator, sentence).await;
            assert_eq!((hit.source.as_str(), hit.rank), (*source, 1), "{sentence}");
        }
    }
    // The checker makes each chunk's vector itself, from what was published.
    let texts = agent.dir().join("texts.jsonl");
    let line = |(source, sentences): &(&str, [&str; 2])| {
        let one =
            |ordinal: usize| json!({"key": format!("{source}#{ordinal}"), "text": sentences[ordinal]}).to_string();
        one(0) + "\n" + &one(1) + "\n"
    };
    std::fs::write(&texts, NOTES.iter().map(line).collect::<String>()).expect("the story's own folder");
    let asked = ["--embed-url", &embedder.url, "--texts", &texts.display().to_string()];
    let checked = hub.checker(&asked);
    assert!(checked.good, "{}", checked.text);
    assert_eq!(checked.number("vectors_embedded"), 20);
    // No text matching: with every stored text blanked the answers are the same.
    sqlx::query("UPDATE record_vector SET text = ''").execute(&pool).await.expect("the story's own database");
    for (source, sentences) in NOTES {
        for sentence in sentences {
            assert_eq!(best(&mut operator, sentence).await.source, *source, "{sentence}");
        }
    }
    // Negative control: a vector of another chunk, and a digest of another model.
    for damage in [
        "UPDATE record_vector SET data = (SELECT data FROM record_vector WHERE key = 'dock-1#0') WHERE key = 'oven-2#1'",
        "UPDATE record_vector SET model_digest = repeat('0', 64) WHERE key = 'press-7#0'",
    ] {
        sqlx::query(damage).execute(&pool).await.expect("the story's own database");
    }
    let named = hub.checker(&asked).differences();
    assert_eq!(named.len(), 2, "{named:?}");
    assert!(named[0].starts_with("vectors_unlike: vector 'oven-2#1' is not that of its chunk"), "{named:?}");
    assert!(named[1].starts_with("vectors_unlike: vector 'press-7#0' names digest 0000"), "{named:?}");
}
