//! Management of waiting messages over HTTP, with a token in the header `X-Api-Token`.
//!
//! | Call | Parameters | Answer |
//! | --- | --- | --- |
//! | `POST /delay/cancel` | subject, messageId | entries with due, answer |
//! | `POST /delay/reschedule` | subject, messageId, due | entries with due, answer |
//! | `GET /delay/find` | subject, messageId | entries with due, state |
//! | `GET /delay/count` | subject, from, until; all may be missing | pending |
//! | `GET /delay/list` | the same, and max | entries with subject, messageId, due |
//!
//! Parameters stand in the query or in a form, times are milliseconds since 1970. Every answer names
//! the broker group of this server; no entry means that it does not know the message.

use std::ops::Range;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{RawQuery, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use qmq_daemon::parameters::Parameters;
use qmq_daemon::tokens::Tokens;
use qmq_model::{Clock, Subject, UnixMillis};
use serde_json::{Value, json};

use crate::control::{CallError, Control, Entry, LIST_MAX};

/// What answers calls once the store is open.
pub struct Desk {
    /// Broker group of this server.
    pub group: String,
    /// Carries the calls out.
    pub control: Control,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// How far ahead a message may be moved.
    pub delay_max: Duration,
}

/// The desk, once there is one.
pub type LateDesk = Arc<OnceLock<Desk>>;

#[derive(Clone)]
struct Shared {
    desk: LateDesk,
    tokens: Tokens,
}

/// Why a call is refused: the status and what people are told.
type Refusal = (StatusCode, String);

/// The paths of this module.
pub fn router(desk: LateDesk, tokens: Tokens) -> Router {
    Router::new()
        .route("/delay/cancel", post(cancel))
        .route("/delay/reschedule", post(reschedule))
        .route("/delay/find", get(find))
        .route("/delay/count", get(count))
        .route("/delay/list", get(list))
        .with_state(Shared { desk, tokens })
}

impl Shared {
    async fn admit(&self, headers: &HeaderMap, action: &'static str) -> Result<&Desk, Refusal> {
        let authorized = self.tokens.authorize(headers, action).await;
        authorized.map_err(|what| (StatusCode::UNAUTHORIZED, what))?;
        self.desk.get().ok_or_else(|| {
            let what = "the store is not open yet".to_owned();
            (StatusCode::SERVICE_UNAVAILABLE, what)
        })
    }
}

async fn cancel(
    State(shared): State<Shared>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let call = async {
        let desk = shared.admit(&headers, "delay cancel").await?;
        let parameters = Parameters::read(query.as_deref(), &headers, &body);
        let (subject, id) = message(&parameters)?;
        let entries = desk.control.cancel(subject, id).await;
        desk.answer("entries", entries.map(|entries| listed(&entries, "answer")))
    };
    respond(call.await)
}

async fn reschedule(
    State(shared): State<Shared>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let call = async {
        let desk = shared.admit(&headers, "delay reschedule").await?;
        let parameters = Parameters::read(query.as_deref(), &headers, &body);
        let (subject, id) = message(&parameters)?;
        let due = UnixMillis(parameters.number("due").map_err(bad)?);
        let now = desk.clock.now();
        if due > now.plus(desk.delay_max) {
            return Err(bad("due is later than delay.max.days allows".to_owned()));
        }
        // What has passed is due now, as in a send.
        let entries = desk.control.reschedule(subject, id, due.max(now)).await;
        desk.answer("entries", entries.map(|entries| listed(&entries, "answer")))
    };
    respond(call.await)
}

async fn find(
    State(shared): State<Shared>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let call = async {
        let desk = shared.admit(&headers, "delay find").await?;
        let (subject, id) = message(&Parameters::read(query.as_deref(), &headers, &[]))?;
        let entries = desk.control.find(subject, id).await;
        desk.answer("entries", entries.map(|entries| listed(&entries, "state")))
    };
    respond(call.await)
}

async fn count(
    State(shared): State<Shared>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let call = async {
        let desk = shared.admit(&headers, "delay count").await?;
        let parameters = Parameters::read(query.as_deref(), &headers, &[]);
        let pending = desk
            .control
            .count(subject(&parameters)?, range(&parameters)?);
        desk.answer("pending", pending.await.map(Value::from))
    };
    respond(call.await)
}

async fn list(
    State(shared): State<Shared>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let call = async {
        let desk = shared.admit(&headers, "delay list").await?;
        let parameters = Parameters::read(query.as_deref(), &headers, &[]);
        let max = match parameters.get("max") {
            Some(_) => parameters.number("max").map_err(bad)?,
            None => LIST_MAX,
        };
        let (subject, range) = (subject(&parameters)?, range(&parameters)?);
        let messages = desk.control.list(subject, range, max).await;
        let shown = messages.map(|messages| {
            let shown = messages.iter().map(|message| {
                json!({
                    "subject": message.subject.as_str(),
                    "messageId": String::from_utf8_lossy(&message.message_id),
                    "due": message.entry.due.0,
                })
            });
            shown.collect::<Value>()
        });
        desk.answer("entries", shown)
    };
    respond(call.await)
}

impl Desk {
    fn answer(&self, name: &str, result: Result<Value, CallError>) -> Result<Value, Refusal> {
        let value = result.map_err(|error| {
            let status = match error {
                CallError::Contended | CallError::Stopping | CallError::NotDone(_) => {
                    StatusCode::SERVICE_UNAVAILABLE
                }
                CallError::Store(_) => StatusCode::INTERNAL_SERVER_ERROR,
            };
            (status, error.to_string())
        })?;
        Ok(json!({ "group": self.group, name: value }))
    }
}

fn respond(result: Result<Value, Refusal>) -> Response {
    let (status, value) = match result {
        Ok(value) => (StatusCode::OK, value),
        Err((status, what)) => (status, json!({ "error": what })),
    };
    let headers = [(CONTENT_TYPE, "application/json")];
    (status, headers, format!("{value}\n")).into_response()
}

fn listed(entries: &[Entry], name: &str) -> Value {
    let shown = entries
        .iter()
        .map(|entry| json!({ "due": entry.due.0, name: entry.answer }));
    shown.collect()
}

fn message(parameters: &Parameters) -> Result<(Subject, String), Refusal> {
    let subject = subject(parameters)?.ok_or_else(|| bad("subject is missing".to_owned()))?;
    match parameters.text("messageId") {
        "" => Err(bad("messageId is missing".to_owned())),
        id => Ok((subject, id.to_owned())),
    }
}

fn subject(parameters: &Parameters) -> Result<Option<Subject>, Refusal> {
    match parameters.text("subject") {
        "" => Ok(None),
        name => Subject::new(name)
            .map(Some)
            .map_err(|error| bad(format!("subject: {error}"))),
    }
}

fn range(parameters: &Parameters) -> Result<Range<UnixMillis>, Refusal> {
    let bound = |key, missing| match parameters.get(key) {
        Some(_) => parameters.number(key).map(UnixMillis).map_err(bad),
        None => Ok(UnixMillis(missing)),
    };
    Ok(bound("from", 0)?..bound("until", i64::MAX)?)
}

fn bad(what: String) -> Refusal {
    (StatusCode::BAD_REQUEST, what)
}
