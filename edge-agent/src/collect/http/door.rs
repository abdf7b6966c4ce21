//! What the gateway answers: who asks, what they hand in, and 202 once it is committed. A refusal names the field and is
//! counted; what cannot be taken now is answered 429 or 503 with a time to come back, and nothing of it was taken.
use super::{
    super::{
        Tools,
        payload::{self, TOPIC, Unreadable},
    },
    editor,
};
use crate::{
    db::outbox::{Appended, OutboxError},
    editor::Desk,
    privacy::{Refusal, Released},
    runtime::IngestDoor,
};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{self, HeaderValue},
};
use redforge_shared::{
    error::Chain,
    ids::{Digest, Name},
    record::RecordClass,
};
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};
use tokio::sync::{Semaphore, watch};

/// Where records are handed in; a class may follow.
const PATH: &str = "/v1/records";
/// Largest body, and most records in it.
const MAX_BODY_BYTES: usize = 4 << 20;
const MAX_RECORDS: usize = 1_000;
/// Bytes of all bodies that are in memory together.
const BODIES_BYTES: usize = 16 << 20;
/// A body that takes longer is given up.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// When to come back: once another body is through, once the agent is up, once there is room.
const SOON_S: u32 = 1;
const STARTING_S: u32 = 2;
const FULL_S: u32 = 5;

pub(super) type Answer = Response<Full<Bytes>>;

/// What answers one request needs.
#[derive(Clone, Debug)]
pub(super) struct Door {
    door: watch::Receiver<Option<IngestDoor>>,
    tools: watch::Receiver<Option<Tools>>,
    pub(super) desk: Desk,
    bodies: Arc<Semaphore>,
}

/// Why a request is not taken.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    detail: String,
    /// Which record of a batch, from 0, and which of its fields.
    index: Option<usize>,
    field: Option<String>,
    retry_after_s: Option<u32>,
}

impl Problem {
    pub(super) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into(), index: None, field: None, retry_after_s: None }
    }

    pub(super) fn later(status: StatusCode, detail: impl Into<String>, after_s: u32) -> Self {
        Self { retry_after_s: Some(after_s), ..Self::new(status, detail) }
    }

    fn of_field(status: StatusCode, field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { field: Some(field.into()), ..Self::new(status, detail) }
    }

    fn answer(self) -> Answer {
        let mut body = json!({
            "type": "about:blank", "title": self.status.canonical_reason().unwrap_or_default(),
            "status": self.status.as_u16(), "detail": self.detail,
        });
        if let Some(index) = self.index {
            body["index"] = json!(index);
        }
        if let Some(field) = self.field.as_ref().filter(|f| !f.is_empty()) {
            body["field"] = json!(field);
        }
        let mut answer = answer(self.status, "application/problem+json", &body);
        let headers = answer.headers_mut();
        if let Some(after) = self.retry_after_s {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(after));
        }
        let more = match self.status {
            StatusCode::UNAUTHORIZED => Some((header::WWW_AUTHENTICATE, "Bearer")),
            StatusCode::METHOD_NOT_ALLOWED => Some((header::ALLOW, "POST")),
            _ => None,
        };
        if let Some((name, value)) = more {
            headers.insert(name, HeaderValue::from_static(value));
        }
        answer
    }
}

pub(super) fn answer(status: StatusCode, kind: &'static str, body: &Value) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body.to_string())));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

/// How a body is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// One object, or a list of them.
    Json,
    /// An object a line.
    Lines,
}

impl Door {
    pub(super) fn new(
        door: watch::Receiver<Option<IngestDoor>>,
        tools: watch::Receiver<Option<Tools>>,
        desk: Desk,
    ) -> Self {
        Self { door, tools, desk, bodies: Arc::new(Semaphore::new(BODIES_BYTES)) }
    }

    pub(super) async fn answer(&self, request: Request<Incoming>) -> Answer {
        if let Some(question) = editor::question(request.uri().path()) {
            return self.editor(question, request).await.unwrap_or_else(Problem::answer);
        }
        match self.take(request).await {
            Ok((new, repeats)) => {
                answer(StatusCode::ACCEPTED, "application/json", &json!({"accepted": new, "repeats": repeats}))
            }
            Err(problem) => problem.answer(),
        }
    }

    async fn take(&self, request: Request<Incoming>) -> Result<(usize, usize), Problem> {
        let class = route(request.method(), request.uri().path())?;
        let instance = self.who(request.headers().get(header::AUTHORIZATION))?;
        let form = form(request.headers().get(header::CONTENT_TYPE))?;
        let tools = self.tools.borrow().clone();
        let tools = tools.ok_or_else(|| {
            Problem::later(StatusCode::SERVICE_UNAVAILABLE, "the agent starts; its outbox is not open yet", STARTING_S)
        })?;
        let body = self.body(request).await?;
        let pieces = pieces(&body, form)?;
        let mut released = Vec::with_capacity(pieces.len());
        for (index, piece) in pieces.into_iter().enumerate() {
            match release(&tools, &instance, class, piece) {
                Ok(record) => released.push(record),
                Err((class, problem)) => {
                    // Nothing of the batch is taken; what is wrong with it is counted once it is on disk.
                    tools.outbox.count_refused(class, 1).await.map_err(full)?;
                    return Err(Problem { index: Some(index), ..problem });
                }
            }
        }
        let appended = tools.outbox.append(released, None).await.map_err(full)?;
        fail::fail_point!("ingest.before-answer");
        let repeats = appended.iter().filter(|a| **a == Appended::Repeat).count();
        Ok((appended.len() - repeats, repeats))
    }

    /// Whose token it is.
    pub(super) fn who(&self, header: Option<&HeaderValue>) -> Result<Name, Problem> {
        let denied = || {
            Problem::new(
                StatusCode::UNAUTHORIZED,
                "Authorization: Bearer with the instance's own REDFORGE_INGEST_TOKEN is needed",
            )
        };
        let token = header.and_then(|h| h.to_str().ok()).and_then(|h| h.strip_prefix("Bearer ")).ok_or_else(denied)?;
        // Looked up by its hash: how long it takes says nothing about tokens.
        let digest = Digest::of(token.trim().as_bytes());
        self.door.borrow().as_ref().and_then(|d| d.tokens.get(&digest).cloned()).ok_or_else(denied)
    }

    async fn body(&self, request: Request<Incoming>) -> Result<Bytes, Problem> {
        let too_long = || {
            Problem::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("a body has {MAX_BODY_BYTES} bytes at most: send less at once"),
            )
        };
        let said = request.headers().get(header::CONTENT_LENGTH).and_then(|l| l.to_str().ok()?.parse::<usize>().ok());
        if said.is_some_and(|s| s > MAX_BODY_BYTES) {
            return Err(too_long());
        }
        let room = u32::try_from(said.unwrap_or(MAX_BODY_BYTES)).unwrap_or(u32::MAX);
        let _room = self.bodies.try_acquire_many(room).map_err(|_| {
            Problem::later(StatusCode::TOO_MANY_REQUESTS, "too much is being handed in at once", SOON_S)
        })?;
        let reading = Limited::new(request.into_body(), MAX_BODY_BYTES).collect();
        match tokio::time::timeout(BODY_TIMEOUT, reading).await {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(e)) if e.is::<LengthLimitError>() => Err(too_long()),
            Ok(Err(_)) => Err(Problem::new(StatusCode::BAD_REQUEST, "the body broke off")),
            Err(_) => Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time")),
        }
    }
}

/// The class that the path names, if it does.
fn route(method: &Method, path: &str) -> Result<Option<RecordClass>, Problem> {
    let class = match path.strip_prefix(PATH).map(|rest| (rest, rest.strip_prefix('/'))) {
        Some(("" | "/", _)) => None,
        Some((_, Some(word))) => RecordClass::from_word(word).map(Some).ok_or_else(|| unknown_class(word))?,
        _ => return Err(Problem::new(StatusCode::NOT_FOUND, format!("only POST {PATH} and {PATH}/CLASS are here"))),
    };
    if method != Method::POST {
        return Err(Problem::new(StatusCode::METHOD_NOT_ALLOWED, "records are handed in by POST"));
    }
    Ok(class)
}

fn unknown_class(word: &str) -> Problem {
    let known: Vec<&str> = RecordClass::ALL.iter().map(|c| c.as_str()).collect();
    let word: String = word.chars().take(32).collect();
    Problem::of_field(
        StatusCode::UNPROCESSABLE_ENTITY,
        "class",
        format!("'{word}' is not a class of records; there are {}", known.join(", ")),
    )
}

fn form(kind: Option<&HeaderValue>) -> Result<Form, Problem> {
    let kind = kind.and_then(|k| k.to_str().ok()).unwrap_or("application/json");
    match kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
        "application/json" => Ok(Form::Json),
        "application/x-ndjson" | "application/jsonl" | "application/ndjson" => Ok(Form::Lines),
        _ => Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "a body is application/json (an object or a list) or application/x-ndjson (an object a line)",
        )),
    }
}

/// Cuts a body into records, each still as JSON text.
pub(super) fn pieces(body: &Bytes, form: Form) -> Result<Vec<Bytes>, Problem> {
    let broken = |e: &serde_json::Error| {
        Problem::new(StatusCode::BAD_REQUEST, format!("the body is no JSON at line {} column {}", e.line(), e.column()))
    };
    let pieces: Vec<Bytes> = match form {
        Form::Lines => {
            body.split(|b| *b == b'\n').filter(|l| !l.trim_ascii().is_empty()).map(|l| body.slice_ref(l)).collect()
        }
        Form::Json if body.trim_ascii_start().starts_with(b"[") => {
            let list: Vec<Value> = serde_json::from_slice(body).map_err(|e| broken(&e))?;
            list.iter().map(|v| Bytes::from(v.to_string())).collect()
        }
        Form::Json => vec![body.clone()],
    };
    if pieces.is_empty() {
        return Err(Problem::new(StatusCode::BAD_REQUEST, "the body holds no record"));
    }
    if pieces.len() > MAX_RECORDS {
        let detail = format!("{} records at once, {MAX_RECORDS} at most", pieces.len());
        return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail));
    }
    Ok(pieces)
}

/// Takes the class out of a record whose path names none.
fn classified(piece: &[u8]) -> Result<(RecordClass, Vec<u8>), Problem> {
    let parsed = serde_json::from_slice::<Value>(piece);
    let Ok(Value::Object(mut record)) = parsed else {
        return Err(match parsed {
            Ok(_) => Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "a record is a JSON object"),
            Err(_) => Problem::new(StatusCode::BAD_REQUEST, "a record is no JSON"),
        });
    };
    match record.remove("class") {
        Some(Value::String(word)) => {
            let class = RecordClass::from_word(&word).ok_or_else(|| unknown_class(&word))?;
            Ok((class, Value::Object(record).to_string().into_bytes()))
        }
        _ => Err(Problem::of_field(
            StatusCode::UNPROCESSABLE_ENTITY,
            "class",
            format!("it says of which class the record is, unless the path does ({PATH}/event)"),
        )),
    }
}

/// One record through the gate, or what is wrong with it and under which class that is counted.
fn release(
    tools: &Tools,
    instance: &Name,
    class: Option<RecordClass>,
    piece: Bytes,
) -> Result<Released, (RecordClass, Problem)> {
    // What names no class is counted where people look first.
    let (class, piece) = match class {
        Some(class) => (class, piece),
        None => classified(&piece).map(|(c, p)| (c, Bytes::from(p))).map_err(|p| (RecordClass::Event, p))?,
    };
    let unprocessable = StatusCode::UNPROCESSABLE_ENTITY;
    let mut raw = payload::read(&format!("{TOPIC}{class}"), &piece, false, tools.clock.now()).map_err(|e| {
        tools.refusals.unreadable(instance, class, &e);
        let status = match &e {
            Unreadable::Json { source, .. } if !source.is_data() => StatusCode::BAD_REQUEST,
            _ => unprocessable,
        };
        (class, Problem::of_field(status, e.field(), Chain(&e).to_string()))
    })?;
    if raw.instance.as_ref().is_some_and(|named| named != instance) {
        let detail = format!("the token is that of '{instance}': leave the field out, it is filled in");
        return Err((class, Problem::of_field(unprocessable, "instance", detail)));
    }
    raw.instance = Some(instance.clone());
    tools.gate.release(raw).map_err(|e| {
        tools.refusals.at_the_gate(instance, class, &e);
        let problem = match &e {
            Refusal::Malformed(m) => Problem::of_field(unprocessable, m.field.clone(), Chain(&e).to_string()),
            Refusal::TooLarge(_) => Problem::new(StatusCode::PAYLOAD_TOO_LARGE, e.to_string()),
            Refusal::Class(_) => Problem::of_field(unprocessable, "class", e.to_string()),
        };
        (class, problem)
    })
}

/// Nothing was taken.
fn full(e: OutboxError) -> Problem {
    match e {
        OutboxError::DiskFull | OutboxError::ClassFull(_) => {
            Problem::later(StatusCode::TOO_MANY_REQUESTS, e.to_string(), FULL_S)
        }
        _ => Problem::later(StatusCode::SERVICE_UNAVAILABLE, Chain(&e).to_string(), FULL_S),
    }
}
