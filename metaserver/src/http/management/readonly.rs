//! `MarkReadonlyBrokerGroup`, `UnMarkReadonlyBrokerGroup`, `ListReadonly`: groups that producers
//! shall not use, for one subject or for all.

use serde::Serialize;
use tracing::info;
use utoipa::ToSchema;

use super::action::{Action, Call};
use super::name;
use super::page::{AFTER, LIMIT, Page};
use crate::http::openapi::{Parameter, Shape, parameter, sentence};
use crate::http::reply::Reply;
use crate::routing::ANY;

const PARAMETERS: [Parameter; 2] = [
    parameter("subject", "Subject"),
    parameter("brokerGroup", "Broker group"),
];

pub(super) static MARK: Action = Action {
    name: "MarkReadonlyBrokerGroup",
    about: "Keeps producers of a subject, or of all, off a group.",
    reply: |_| Shape::Enveloped(sentence()),
    needs_token: true,
    parameters: &PARAMETERS,
    run: |call| Box::pin(mark(call)),
};

pub(super) static UNMARK: Action = Action {
    name: "UnMarkReadonlyBrokerGroup",
    about: "Takes such a mark away.",
    reply: |_| Shape::Enveloped(sentence()),
    needs_token: true,
    parameters: &PARAMETERS,
    run: |call| Box::pin(unmark(call)),
};

pub(super) static LIST: Action = Action {
    name: "ListReadonly",
    about: "Lists such marks.",
    reply: |rows| Shape::Enveloped(rows.list::<ReadonlyMark>()),
    needs_token: true,
    parameters: &[LIMIT, AFTER],
    run: |call| Box::pin(list(call)),
};

/// What the reference answers when it was done.
const DONE: &str = "success";

/// A mark that is there already is no error. Says so when producers have no group left: they go on
/// with those they know.
async fn mark(call: &Call) -> Reply {
    let (subject, group) = (call.text("subject"), call.text("brokerGroup"));
    // On MySQL this column is narrower than others with names of groups.
    let group_max = call.state.db.widths().readonly_group;
    let checked = name::check_subject_or_any("subject", subject)
        .and_then(|()| name::check("brokerGroup", group, group_max));
    if let Err(refusal) = checked {
        return Reply::refused(refusal);
    }
    match call.state.db.mark_readonly(subject, group).await {
        Ok(_) => {
            info!(subject, group, "group marked readonly");
            call.state.snapshots.refreshed().await;
            Reply::done_with(warning(call, subject, group), Some(DONE))
        }
        Err(error) => call.failed(&error),
    }
}

fn warning(call: &Call, subject: &str, group: &str) -> String {
    let snapshot = call.state.snapshots.current();
    let view = &snapshot.view;
    if !view.groups.contains_key(group) {
        return format!("warning: group {group} was never online");
    }
    if subject == ANY {
        let has_any = view.has_group_for_new_subjects();
        return match has_any {
            true => String::new(),
            false => "warning: no group is left that takes messages; producers go on with those \
                      they know"
                .to_owned(),
        };
    }
    let route = call.state.snapshots.route(subject);
    let mut groups = route.iter().flat_map(|route| &route.groups).peekable();
    if groups.peek().is_some() && groups.all(|group| view.is_readonly(subject, group)) {
        return format!(
            "warning: every group of {subject} is marked readonly; producers go on with those \
             they know"
        );
    }
    String::new()
}

/// Takes away exactly this mark: one for every subject is another. A mark that is not there is no
/// error.
async fn unmark(call: &Call) -> Reply {
    let (subject, group) = (call.text("subject"), call.text("brokerGroup"));
    if subject.is_empty() || group.is_empty() {
        return Reply::refused("subject or brokerGroup is empty");
    }
    match call.state.db.unmark_readonly(subject, group).await {
        Ok(was_marked) => {
            info!(
                subject,
                group, was_marked, "group no longer marked readonly"
            );
            call.state.snapshots.refreshed().await;
            Reply::done(DONE)
        }
        Err(error) => call.failed(&error),
    }
}

/// A row of table `readonly_broker_group_setting`.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct ReadonlyMark {
    /// `*` stands for every subject.
    subject: String,
    broker_group: String,
}

/// Pages by subject.
async fn list(call: &Call) -> Reply {
    let page = match Page::of(call) {
        Ok(page) => page,
        Err(refusal) => return Reply::refused(refusal),
    };
    match call.state.db.readonly_marks().await {
        Ok(marks) => {
            let marks = page.cut(marks, |(subject, _)| subject).into_iter();
            let marks = marks.map(|(subject, broker_group)| ReadonlyMark {
                subject,
                broker_group,
            });
            Reply::done(marks.collect::<Vec<_>>())
        }
        Err(error) => call.failed(&error),
    }
}
