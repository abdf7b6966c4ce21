//! Who an operator's call comes from: a bearer token becomes an `api::Caller`. Health needs none; reflection does, unless
//! the hub runs as `dev`.
use super::store_status;
use crate::api::callers::Callers;
use axum::{
    body::Body,
    extract::{Request, State},
    http::header::AUTHORIZATION,
    middleware::Next,
    response::Response,
};
use tonic::Status;

/// What the check needs.
#[derive(Clone, Debug)]
pub struct Gate {
    pub callers: Callers,
    /// Reflection answers without a token.
    pub open_reflection: bool,
}

/// Lets a call through with its `Caller`, or answers with the refusal.
pub async fn check(State(gate): State<Gate>, mut request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let free =
        path.starts_with("/grpc.health.v1.Health/") || (gate.open_reflection && path.starts_with("/grpc.reflection."));
    if free {
        return next.run(request).await;
    }
    let bearer = request.headers().get(AUTHORIZATION).and_then(|v| v.to_str().ok());
    let Some(token) = bearer.and_then(|b| b.strip_prefix("Bearer ").or_else(|| b.strip_prefix("bearer "))) else {
        return refuse(Status::unauthenticated("a token is needed: authorization: Bearer <token>"));
    };
    match gate.callers.by_token(token.trim()).await {
        Ok(Some(caller)) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Ok(None) => refuse(Status::unauthenticated("this token is not known, or it has ended")),
        Err(e) => refuse(store_status(&e)),
    }
}

fn refuse(status: Status) -> Response {
    status.into_http::<Body>()
}
