//! `POST /management`: one action per request, named by the parameter `action`.

mod action;
mod add_broker;
mod add_route_group;
mod add_subject;
mod broker_meta;
mod datasources;
mod extend_routes;
mod list_brokers;
mod list_groups;
mod list_routes;
mod name;
mod page;
mod readonly;
mod remove_route_group;
mod replace_broker;
mod reset_offset;
mod route_view;
mod routes;
mod swap_brokers;

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{RawQuery, State as Shared};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use qmq_daemon::parameters::Parameters;
use serde_json::{Value, json};

use self::action::{Action, Call};
use super::openapi::{Rows, form, json_response, too_large};
use super::reply::Reply;
use crate::state::State;

/// Every action there is.
static ACTIONS: [&Action; 16] = [
    &add_broker::ACTION,
    &replace_broker::ACTION,
    &swap_brokers::ACTION,
    &list_brokers::ACTION,
    &list_groups::ACTION,
    &list_routes::ACTION,
    &add_subject::ACTION,
    &add_route_group::ACTION,
    &remove_route_group::ACTION,
    &extend_routes::ACTION,
    &readonly::MARK,
    &readonly::UNMARK,
    &readonly::LIST,
    &datasources::ADD,
    &datasources::LIST,
    &reset_offset::ACTION,
];

/// The description of this path: one form per action.
pub(super) fn describe(rows: &mut Rows) -> Value {
    let about = |action: &Action| match action.needs_token {
        true => format!("{} Needs a token.", action.about),
        false => action.about.to_owned(),
    };
    let forms = ACTIONS.map(|action| {
        let fixed = [("action", action.name)];
        form(&about(action), &fixed, action.parameters)
    });
    let answers = ACTIONS.map(|action| (action.reply)(rows).schema());
    let forms = json!({ "schema": { "anyOf": forms } });
    let mut understood = json_response(&json!({ "anyOf": answers }));
    understood["content"]["text/plain"] = json!({ "schema": { "type": "string" } });
    json!({
        "summary": "Does what the parameter `action` names.",
        "requestBody": {
            "required": true,
            "content": { "application/x-www-form-urlencoded": forms },
        },
        "responses": { "200": understood, "413": too_large() },
        "security": [{}, { "token": [] }],
    })
}

/// Dispatches an action.
pub(super) async fn post(
    Shared(state): Shared<Arc<State>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let parameters = Parameters::read(query.as_deref(), &headers, &body);
    let name = parameters.text("action");
    if name.is_empty() {
        return "the parameter action is missing\n".into_response();
    }
    let Some(&action) = ACTIONS.iter().find(|action| action.name == name) else {
        let shown: String = name.chars().take(100).collect();
        return format!("unknown action {shown:?}\n").into_response();
    };
    if action.needs_token
        && let Err(refusal) = state.tokens.authorize(&headers, action.name).await
    {
        return Reply::refused(refusal).into_response();
    }
    let call = Call::new(Arc::clone(&state), parameters, action);
    // A task, because the work of a caller who hangs up must not end half-way.
    match state.tasks.spawn(call.run()).await {
        Ok(reply) => reply.into_response(),
        Err(_) => Reply::refused("the action failed: see the log").into_response(),
    }
}
