//! `ExtendSubjectRoute`: a new group beside another, for a subject or wherever the other is.

use tracing::info;

use super::action::{Action, Call};
use super::add_route_group::check_normal_group;
use super::routes::Change;
use crate::http::openapi::{Shape, parameter, reasons, sentence};
use crate::http::reply::Reply;

pub(super) static ACTION: Action = Action {
    name: "ExtendSubjectRoute",
    about: "Adds a group wherever another is.",
    reply: |_| Shape::EnvelopedEither(sentence(), reasons()),
    needs_token: true,
    parameters: &[
        parameter("relatedSubject", "Subject, or * for all"),
        parameter("relatedBrokerGroup", "Group beside which the new one comes"),
        parameter("newBrokerGroup", "The new group"),
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
