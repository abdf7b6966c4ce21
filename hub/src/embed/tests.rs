//! The client against a server that answers as Ollama does, and as a broken one does.
use super::*;
use axum::{
    Json, Router,
    routing::{get, post},
};
use serde_json::{Value, json};

const DIGEST: &str = "ef64fdd5543f6ada177c0a11b2bf52b87f8578d3fcfd2d9ef36318ed78fcaabe";

/// An embedding server with one model; its vector is the text's length and 1.
pub(crate) async fn server(digest: &'static str) -> String {
    let tags = move || async move { Json(json!({"models": [{"name": "words:latest", "digest": digest}]})) };
    let embed = |Json(q): Json<Value>| async move {
        let length = q["input"].as_str().map_or(0, str::len);
        Json(json!({"embeddings": [[length, 1.0]]}))
    };
    let app = Router::new().route("/api/tags", get(tags)).route("/api/embed", post(embed));
    serve(app).await
}

async fn serve(app: Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    #[expect(clippy::disallowed_methods, reason = "the server of a test ends with it")]
    tokio::spawn(async move { axum::serve(listener, app).await.expect("serves") });
    format!("http://{address}")
}

#[tokio::test]
async fn a_text_becomes_a_vector_of_the_right_model_only() {
    let embed = Embed::new(&server(DIGEST).await, false).expect("an address");
    assert_eq!(embed.embed("words", DIGEST, "four").await.expect("embeds"), [4.0, 1.0]);
    let other = "0".repeat(64);
    let e = embed.embed("words", &other, "four").await.expect_err("another digest").to_string();
    assert!(e.contains(DIGEST) && e.contains(&other), "{e}");
    assert!(matches!(embed.embed("verbs", DIGEST, "four").await, Err(EmbedError::NoModel(m)) if m == "verbs"));
}

#[tokio::test]
async fn a_broken_server_is_refused_by_name() {
    let huge = || async { "x".repeat(MAX_ANSWER_BYTES + 1) };
    let embed = Embed::new(&serve(Router::new().route("/api/tags", get(huge))).await, false).expect("an address");
    assert!(matches!(embed.embed("words", DIGEST, "a").await, Err(EmbedError::Answer(_))));
    let embed = Embed::new(&serve(Router::new()).await, false).expect("an address");
    assert!(matches!(embed.embed("words", DIGEST, "a").await, Err(EmbedError::Status(404))));
    let embed = Embed::new("http://127.0.0.1:1", false).expect("an address");
    assert!(matches!(embed.embed("words", DIGEST, "a").await, Err(EmbedError::Ask(_))));
    for bad in ["", "127.0.0.1:11434", "https://a", "http://", "file:///etc"] {
        assert!(matches!(Embed::new(bad, false), Err(EmbedError::Address(_))), "{bad}");
    }
}
