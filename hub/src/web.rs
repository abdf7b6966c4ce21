//! The operators' page: read-only, rendered here, kept fresh by server-sent events, without a request to anywhere else.
//!
//! A door over `api`, as a viewer whatever the token may do. A token, or a link that `dev` prints, becomes a session in a
//! cookie that scripts cannot read; it outlives a restart of the hub, so that a cut can be watched. Deliberately unknown here: SQL, gRPC, listening.
use crate::api::{
    Api,
    callers::{Callers, Session},
};
use axum::{
    Form, Router,
    extract::{DefaultBodyLimit, Query, State},
    http::{
        HeaderMap, HeaderValue, StatusCode,
        header::{self, HeaderName},
    },
    middleware::{self, Next},
    response::{Html, IntoResponse, Redirect, Response},
    routing::get,
};
use redforge_shared::clock::SharedClock;
use serde::Deserialize;
use std::sync::Arc;
use tokio::sync::{Mutex, Semaphore};
use tokio_util::sync::CancellationToken;

mod live;
mod notes;
mod overview;
mod rows;

use overview::{LoginPage, Overview, Page};

/// People who may watch at once.
const MAX_WATCHERS: usize = 64;
/// Largest form that is read.
const MAX_FORM_BYTES: usize = 4096;
const AWAY: &str = "The hub cannot reach its database at the moment.";
const COOKIE: &str = "redforge_session";
/// Nothing but this page's own files, and no script or style inside the page.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; form-action 'self'; \
                      base-uri 'none'; frame-ancestors 'none'";

/// What the page needs.
#[derive(Clone, Debug)]
pub struct Parts {
    pub api: Arc<Api>,
    pub callers: Callers,
    pub clock: SharedClock,
    pub stop: CancellationToken,
}

#[derive(Clone, Debug)]
struct Web {
    parts: Parts,
    /// The last look at the house: shared by everybody who watches.
    last: Arc<Mutex<Option<(tokio::time::Instant, Arc<Overview>)>>>,
    watchers: Arc<Semaphore>,
}

/// The page's routes.
pub fn router(parts: Parts) -> Router {
    let web = Web { parts, last: Arc::default(), watchers: Arc::new(Semaphore::new(MAX_WATCHERS)) };
    Router::new()
        .route("/", get(page))
        .route("/live", get(live::stream))
        .route("/login", get(login_by_link).post(login_by_form))
        .route("/static/page.css", get(|| file("text/css; charset=utf-8", include_str!("../static/page.css"))))
        .route("/static/page.js", get(|| file("text/javascript; charset=utf-8", include_str!("../static/page.js"))))
        .route("/favicon.ico", get(|| async { StatusCode::NO_CONTENT }))
        .layer(DefaultBodyLimit::max(MAX_FORM_BYTES))
        .layer(middleware::from_fn(guard_headers))
        .with_state(web)
}

async fn file(kind: &'static str, text: &'static str) -> Response {
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

/// The same strict headers on every answer.
async fn guard_headers(request: axum::extract::Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let set: [(HeaderName, &'static str); 5] = [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_FRAME_OPTIONS, "DENY"),
    ];
    for (name, value) in set {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

#[derive(Deserialize)]
struct Link {
    link: Option<String>,
}

#[derive(Deserialize)]
struct Login {
    token: String,
}

async fn login_by_link(State(web): State<Web>, Query(link): Query<Link>) -> Response {
    match link.link {
        Some(session) => match web.parts.callers.by_session(&session).await {
            Ok(Some((_, left))) => logged_in(&Session { text: session, left }),
            Ok(None) => login_page(StatusCode::UNAUTHORIZED, "This link is not known, or it has ended."),
            Err(_) => login_page(StatusCode::SERVICE_UNAVAILABLE, AWAY),
        },
        None => login_page(StatusCode::OK, ""),
    }
}

async fn login_by_form(State(web): State<Web>, headers: HeaderMap, Form(login): Form<Login>) -> Response {
    // Nobody is logged in from a page of somebody else.
    if headers.get("sec-fetch-site").is_some_and(|v| v != "same-origin" && v != "none") {
        return login_page(StatusCode::FORBIDDEN, "This form was sent from another page.");
    }
    web.login(&login.token).await
}

impl Web {
    async fn login(&self, token: &str) -> Response {
        match self.parts.callers.session_of(token.trim()).await {
            Ok(Some(session)) => logged_in(&session),
            Ok(None) => login_page(StatusCode::UNAUTHORIZED, "This token is not known, or it has ended."),
            Err(_) => login_page(StatusCode::SERVICE_UNAVAILABLE, AWAY),
        }
    }

    /// Is somebody logged in? The refusal is a page.
    async fn admit(&self, headers: &HeaderMap) -> Result<(), Response> {
        let cookies = headers.get_all(header::COOKIE).iter().filter_map(|c| c.to_str().ok());
        let session = cookies.flat_map(|c| c.split(';')).find_map(|c| c.trim().strip_prefix(COOKIE)?.strip_prefix('='));
        let Some(session) = session else { return Err(login_page(StatusCode::UNAUTHORIZED, "")) };
        match self.parts.callers.by_session(session).await {
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err(login_page(StatusCode::UNAUTHORIZED, "This login has ended.")),
            Err(_) => Err(login_page(StatusCode::SERVICE_UNAVAILABLE, AWAY)),
        }
    }

    /// The house as it is now; at most one look a second, however many watch.
    async fn overview(&self) -> Arc<Overview> {
        let mut last = self.last.lock().await;
        let now = tokio::time::Instant::now();
        if let Some((at, overview)) = last.as_ref()
            && now.duration_since(*at) < live::EVERY
        {
            return Arc::clone(overview);
        }
        let overview = Arc::new(Overview::look(&self.parts.api, &self.parts.clock).await);
        *last = Some((now, Arc::clone(&overview)));
        overview
    }
}

/// To the page, with the session in a cookie. Lax, because a link in a terminal is another site's.
fn logged_in(session: &Session) -> Response {
    let Session { text, left } = session;
    let cookie = format!("{COOKIE}={text}; Path=/; Max-Age={}; HttpOnly; Secure; SameSite=Lax", left.as_secs());
    let Ok(cookie) = HeaderValue::from_str(&cookie) else { return StatusCode::BAD_REQUEST.into_response() };
    let mut response = Redirect::to("/").into_response();
    response.headers_mut().insert(header::SET_COOKIE, cookie);
    response
}

async fn page(State(web): State<Web>, headers: HeaderMap) -> Response {
    if let Err(refusal) = web.admit(&headers).await {
        return refusal;
    }
    html(StatusCode::OK, Page { o: &*web.overview().await })
}

fn login_page(status: StatusCode, problem: &'static str) -> Response {
    html(status, LoginPage { problem })
}

fn html(status: StatusCode, page: impl askama::Template) -> Response {
    match page.render() {
        Ok(text) => (status, Html(text)).into_response(),
        Err(e) => {
            tracing::error!(error = %e, "the page cannot be rendered");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

#[cfg(test)]
mod tests;
