//! Numbers for a scraper, on a port of their own: is the database there, how many agents are connected.
use crate::{sessions::Sessions, tasks::keep_database::Database};
use axum::{Router, extract::State, http::header::CONTENT_TYPE, response::IntoResponse, routing::get};
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;

/// Where the numbers come from.
#[derive(Clone, Debug)]
pub struct Sources {
    pub database: watch::Receiver<Database>,
    pub sessions: Sessions,
}

/// Answers `GET /metrics` until the stop.
pub async fn run(listener: TcpListener, sources: Sources, stop: CancellationToken) {
    let router = Router::new().route("/metrics", get(text)).with_state(sources);
    let served = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await;
    if let Err(e) = served {
        tracing::error!(error = %e, "metrics are not served any more");
    }
}

async fn text(State(sources): State<Sources>) -> impl IntoResponse {
    let up = u8::from(*sources.database.borrow() == Database::Ready);
    let connected = sources.sessions.connected().len();
    let body = format!(
        "# HELP redforge_hub_database_up 1 while the database answers and has this hub's schema.\n\
         # TYPE redforge_hub_database_up gauge\nredforge_hub_database_up {up}\n\
         # HELP redforge_hub_agents_connected Agents with a live session on this hub.\n\
         # TYPE redforge_hub_agents_connected gauge\nredforge_hub_agents_connected {connected}\n"
    );
    ([(CONTENT_TYPE, "text/plain; version=0.0.4")], body)
}
