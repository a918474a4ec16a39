//! `AddSubjectBrokerGroup`: one more group for a subject. Answers without an envelope.

use serde::Serialize;
use tracing::info;
use utoipa::ToSchema;

use super::action::{Action, Call};
use super::name;
use super::route_view::SubjectRoute;
use super::routes::{Change, Refusal};
use crate::db::DbResult;
use crate::db::broker_group::GroupKind;
use crate::http::openapi::{Shape, parameter};
use crate::http::reply::Reply;

pub(super) static ACTION: Action = Action {
    name: "AddSubjectBrokerGroup",
    about: "Adds a group to the route of a subject.",
    reply: |rows| Shape::Either(rows.one::<SubjectRoute>(), rows.one::<NotAdded>()),
    needs_token: true,
    parameters: &[
        parameter("subject", "Subject"),
        parameter("brokerGroup", "Broker group"),
    ],
    run: |call| Box::pin(run(call)),
};

/// The answer when it was not done.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct NotAdded {
    error: String,
    /// The route as it is.
    subject_route: Option<SubjectRoute>,
}

/// Answers the route as it is afterwards. A group that is there already is no error.
async fn run(call: &Call) -> Reply {
    let (subject, group) = (call.text("subject"), call.text("brokerGroup"));
    if subject.is_empty() {
        return Reply::error("subject is empty");
    }
    match add(call, subject, group).await {
        Ok(reply) => reply,
        Err(error) => Reply::error(call.failure(&error)),
    }
}

async fn add(call: &Call, subject: &str, group: &str) -> DbResult<Reply> {
    if let Err(refusal) = check_normal_group(call, "brokerGroup", group).await? {
        return Ok(Reply::error(refusal));
    }
    let (db, snapshots) = (&call.state.db, &call.state.snapshots);
    let Some(route) = db.route(subject).await? else {
        return Ok(Reply::error(format!("subject {subject:?} has no route")));
    };
    let outcome = call.change_route(subject, route, Change::Add(group)).await;
    if let Err(Refusal::Db(error)) = outcome {
        return Err(error);
    }
    if outcome.is_ok() {
        info!(subject, group, "group added to a route");
        snapshots.refreshed().await;
    }
    let route = db.route_row(subject).await?.map(SubjectRoute::from);
    Ok(match outcome {
        Ok(_) => Reply::raw(route),
        Err(refusal) => Reply::raw(NotAdded {
            error: refusal.to_string(),
            subject_route: route,
        }),
    })
}

/// Refuses a group that is unknown, or for delayed messages: subjects have no use for it.
///
/// # Errors
/// When the database fails.
pub(super) async fn check_normal_group(
    call: &Call,
    key: &str,
    group: &str,
) -> DbResult<Result<(), String>> {
    if let Err(refusal) = name::check_group(key, group) {
        return Ok(Err(refusal));
    }
    Ok(match call.state.db.group(group).await? {
        None => Err(format!("group {group:?} is unknown: it was never online")),
        Some(row) if row.kind == GroupKind::Delay => Err(format!(
            "group {group} is for delayed messages: subjects are not routed to it"
        )),
        Some(_) => Ok(()),
    })
}
