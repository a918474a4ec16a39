//! `POST /management`: one action per request, named by the parameter `action`.
//!
//! Every handled outcome is 200 with an envelope whose `status` is 0 or -1: tools take any other
//! status for a crash.

mod add_broker;
mod broker_meta;
mod list_brokers;

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{RawQuery, State as Shared};
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use qmq_daemon::parameters::Parameters;
use serde::Serialize;

use crate::state::State;

/// What an action answers: the data, or why it was refused.
type Outcome<T> = Result<T, String>;

/// Dispatches an action.
pub(super) async fn post(
    Shared(state): Shared<Arc<State>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let parameters = Parameters::read(query.as_deref(), &headers, &body);
    match parameters.text("action") {
        "" => "the parameter action is missing\n".into_response(),
        "AddBroker" => match state.tokens.authorize(&headers, "AddBroker").await {
            Ok(()) => envelope(add_broker::run(&state.db, &parameters).await),
            Err(refusal) => envelope::<()>(Err(refusal)),
        },
        "ListBrokers" => envelope(list_brokers::run(&state.db, &parameters).await),
        unknown => {
            let shown: String = unknown.chars().take(100).collect();
            format!("unknown action {shown:?}\n").into_response()
        }
    }
}

#[derive(Serialize)]
struct Envelope<T> {
    status: i32,
    message: String,
    data: Option<T>,
}

fn envelope<T: Serialize>(outcome: Outcome<T>) -> Response {
    let envelope = match outcome {
        Ok(data) => Envelope {
            status: 0,
            message: String::new(),
            data: Some(data),
        },
        Err(message) => Envelope {
            status: -1,
            message,
            data: None,
        },
    };
    let json = serde_json::to_string(&envelope).expect("our replies are always JSON");
    ([(CONTENT_TYPE, "application/json")], json + "\n").into_response()
}
