//! A runtime asks who may use its editor: the question is read and carried to the desk, nothing is decided here.
//!
//! Each instance asks with its own token and so for itself only. A password is read, handed on and forgotten.
use super::door::{Answer, Door, Problem, answer};
use crate::editor::Closed;
use http_body_util::{BodyExt as _, Limited};
use hyper::{Method, Request, StatusCode, body::Incoming, header};
use redforge_shared::error::Chain;
use serde::Deserialize;
use serde_json::json;
use std::time::Duration;

const MAX_BYTES: usize = 4 << 10;
const PATIENCE: Duration = Duration::from_secs(5);
/// When to ask again while the ledger does not answer.
const LATER_S: u32 = 5;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Question {
    /// May somebody with this password come in?
    Login,
    /// May who is in stay?
    Stay,
}

/// The question that a path asks.
pub(super) fn question(path: &str) -> Option<Question> {
    match path {
        "/v1/editor/login" => Some(Question::Login),
        "/v1/editor/stay" => Some(Question::Stay),
        _ => None,
    }
}

/// Has no `Debug`: a password is not to be printed.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    user: String,
    #[serde(default)]
    password: String,
}

impl Door {
    /// 200 with the end of developer mode, or 403 with why not.
    pub(super) async fn editor(&self, question: Question, request: Request<Incoming>) -> Result<Answer, Problem> {
        if request.method() != Method::POST {
            return Err(Problem::new(StatusCode::METHOD_NOT_ALLOWED, "the editor is asked for by POST"));
        }
        let instance = self.who(request.headers().get(header::AUTHORIZATION))?;
        let reading = tokio::time::timeout(PATIENCE, Limited::new(request.into_body(), MAX_BYTES).collect()).await;
        let broken = || Problem::new(StatusCode::BAD_REQUEST, "the body is not {\"user\": ..., \"password\": ...}");
        let body = reading.ok().and_then(Result::ok).ok_or_else(broken)?.to_bytes();
        let asked: Asked = serde_json::from_slice(&body).map_err(|_| broken())?;
        let verdict = match question {
            Question::Login => self.desk.login(&instance, &asked.user, &asked.password).await,
            Question::Stay => self.desk.stay(&instance, &asked.user).await,
        };
        let verdict =
            verdict.map_err(|e| Problem::later(StatusCode::SERVICE_UNAVAILABLE, Chain(&e).to_string(), LATER_S))?;
        match verdict {
            Ok(until) => {
                let until_ms = until.unix_timestamp_nanos() / 1_000_000;
                Ok(answer(StatusCode::OK, "application/json", &json!({"until_ms": until_ms as i64})))
            }
            Err(why) => Err(Problem::new(StatusCode::FORBIDDEN, words(why))),
        }
    }
}

fn words(why: Closed) -> &'static str {
    match why {
        Closed::Fleet => "the instance is not in developer mode, or its time is over",
        Closed::Stranger => "this developer mode knows another user",
        Closed::WrongPassword => "another password opens this editor",
        Closed::Used => "the password was used: `redforgectl editor` gives another",
    }
}
