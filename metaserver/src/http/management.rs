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
use serde::Serialize;
use tracing::{info, warn};

use super::parameters::Parameters;
use crate::state::State;

const TOKEN_HEADER: &str = "X-Api-Token";

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
    let token = headers
        .get(TOKEN_HEADER)
        .and_then(|value| value.to_str().ok());
    match parameters.text("action") {
        "" => "the parameter action is missing\n".into_response(),
        "AddBroker" => match authorize(&state, token, "AddBroker").await {
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

/// Takes calls with a valid token, and notes whose it was.
async fn authorize(state: &State, token: Option<&str>, action: &'static str) -> Outcome<()> {
    let tokens = state.tokens.clone();
    let presented = token.unwrap_or_default().to_owned();
    let owner = tokio::task::spawn_blocking(move || tokens.owner(&presented)).await;
    match owner {
        Ok(Some(owner)) => {
            info!(action, owner, "management call");
            Ok(())
        }
        _ => {
            warn!(
                action,
                has_token = token.is_some(),
                "management call without a valid token"
            );
            Err(format!("no valid api token in the header {TOKEN_HEADER}"))
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
