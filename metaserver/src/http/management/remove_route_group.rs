//! `RemoveSubjectBrokerGroup`: takes a group from the route of a subject, or of every subject.

use std::collections::BTreeMap;

use tracing::info;

use super::action::{Action, Call};
use super::routes::Change;
use crate::http::openapi::{Shape, parameter, reasons};
use crate::http::reply::Reply;

pub(super) static ACTION: Action = Action {
    name: "RemoveSubjectBrokerGroup",
    about: "Takes a group from the route of a subject, or of every subject, for good.",
    reply: |_| Shape::Enveloped(reasons()),
    needs_token: true,
    parameters: &[
        parameter("subject", "Subject"),
        parameter("brokerGroup", "Broker group"),
    ],
    run: |call| Box::pin(run(call)),
};

/// The data of the answer are the subjects whose routes were not changed, and why. The group is not
/// put back when a route is short of groups, only by AddSubjectBrokerGroup and ExtendSubjectRoute.
async fn run(call: &Call) -> Reply {
    let (subject, group) = (call.text("subject"), call.text("brokerGroup"));
    if subject.is_empty() || group.is_empty() {
        return Reply::refused("subject or brokerGroup is empty");
    }
    let nothing: BTreeMap<String, String> = BTreeMap::new();
    match call.change_routes(subject, Change::Remove(group)).await {
        Ok(None) => Reply::refused_with(format!("subject {subject:?} has no route"), nothing),
        Ok(Some(changed)) if changed.refused.is_empty() => {
            info!(
                subject,
                group,
                routes = changed.count,
                "group removed from routes"
            );
            Reply::done(nothing)
        }
        Ok(Some(changed)) => changed.refusal(),
        Err(error) => call.failed(&error),
    }
}
