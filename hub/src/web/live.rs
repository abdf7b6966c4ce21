//! The page's heartbeat: the parts of it that change, sent once a second to everybody who watches.
use super::{Web, overview::parts};
use axum::{
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures_util::stream;
use std::{convert::Infallible, time::Duration};

/// How often the house is looked at while somebody watches.
pub const EVERY: Duration = Duration::from_secs(1);

/// After so many looks the login is looked at again.
const ADMIT_AGAIN: u64 = 30;

/// Sends `{id: html}` until the watcher leaves or the hub stops; the browser dials again by itself.
pub async fn stream(State(web): State<Web>, headers: HeaderMap) -> Response {
    if web.admit(&headers).await.is_err() {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let Ok(place) = web.watchers.clone().try_acquire_owned() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "too many watch already").into_response();
    };
    let stop = web.parts.stop.clone();
    let events = stream::unfold((web, place, 0_u64), move |(web, place, looks)| {
        let (stop, headers) = (stop.clone(), headers.clone());
        async move {
            if looks > 0 {
                tokio::select! {
                    () = stop.cancelled() => return None,
                    () = tokio::time::sleep(EVERY) => {}
                }
            }
            // A login that ended ends its stream too.
            if looks % ADMIT_AGAIN == ADMIT_AGAIN - 1 && web.admit(&headers).await.is_err() {
                return None;
            }
            let event = Event::default().event("parts").data(parts(&*web.overview().await));
            Some((Ok::<_, Infallible>(event), (web, place, looks + 1)))
        }
    });
    Sse::new(events).keep_alive(KeepAlive::default()).into_response()
}
