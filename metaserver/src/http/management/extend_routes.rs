//! `ExtendSubjectRoute`: a new group beside another, for a subject or wherever the other is.

use tracing::info;

use super::action::{Action, Call, parameter};
use super::add_route_group::check_normal_group;
use super::routes::Change;
use crate::http::reply::Reply;

pub(super) static ACTION: Action = Action {
    name: "ExtendSubjectRoute",
    needs_token: true,
    parameters: &[
        parameter("relatedSubject"),
        parameter("relatedBrokerGroup"),
        parameter("newBrokerGroup"),
    ],
    run: |call| Box::pin(run(call)),
};

async fn run(call: &Call) -> Reply {
    let subject = call.text("relatedSubject");
    let related = call.text("relatedBrokerGroup");
    let added = call.text("newBrokerGroup");
    if subject.is_empty() || related.is_empty() {
        return Reply::refused("relatedSubject or relatedBrokerGroup is empty");
    }
    match check_normal_group(call, "newBrokerGroup", added).await {
        Ok(Ok(())) => {}
        Ok(Err(refusal)) => return Reply::refused(refusal),
        Err(error) => return call.failed(&error),
    }
    let change = Change::AddBeside { related, added };
    match call.change_routes(subject, change).await {
        Ok(changed) => {
            let changed = changed.unwrap_or_default();
            let count = changed.count;
            info!(subject, related, added, routes = count, "routes extended");
            if changed.refused.is_empty() {
                return Reply::done(format!("{count} routes extended"));
            }
            changed.refusal()
        }
        Err(error) => call.failed(&error),
    }
}
