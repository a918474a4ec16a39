//! `AddNewSubject`: gives a subject a tag before its first use. Answers without an envelope.

use serde::Serialize;
use tracing::info;
use utoipa::ToSchema;

use super::action::{Action, Call};
use super::name;
use crate::db::DbResult;
use crate::db::subject_info::{SubjectRow, TAG_MAX};
use crate::http::openapi::{Shape, parameter};
use crate::http::reply::Reply;

pub(super) static ACTION: Action = Action {
    name: "AddNewSubject",
    about: "Gives a subject a tag before its first use.",
    reply: |rows| Shape::Bare(rows.one::<Added>()),
    needs_token: true,
    parameters: &[
        parameter("subject", "Subject"),
        parameter("tag", "Groups with the same tag serve it"),
    ],
    run: |call| Box::pin(run(call)),
};

/// A row of table `subject_info`; the order of the fields is part of the API.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct SubjectInfo {
    name: String,
    tag: String,
    /// Milliseconds since 1970.
    update_time: i64,
}

/// The answer.
#[derive(Serialize, ToSchema)]
struct Added {
    /// Only when it was not done.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'static str>,
    /// The subject as it is now.
    data: Option<SubjectInfo>,
}

impl From<SubjectRow> for SubjectInfo {
    fn from(row: SubjectRow) -> Self {
        Self {
            name: row.name,
            tag: row.tag,
            update_time: row.updated_ms,
        }
    }
}

async fn run(call: &Call) -> Reply {
    let (subject, tag) = (call.text("subject"), call.text("tag"));
    let checked = name::check_real_subject("subject", subject)
        .and_then(|()| name::check("tag", tag, TAG_MAX));
    if let Err(refusal) = checked {
        return Reply::error(refusal);
    }
    match add(call, subject, tag).await {
        Ok((is_new, row)) => {
            let data = row.map(SubjectInfo::from);
            let error = if is_new {
                info!(subject, tag, "subject added");
                None
            } else {
                Some("the subject exists")
            };
            Reply::raw(Added { error, data })
        }
        Err(error) => Reply::error(call.failure(&error)),
    }
}

/// Whether it was new, and the row.
async fn add(call: &Call, subject: &str, tag: &str) -> DbResult<(bool, Option<SubjectRow>)> {
    let db = &call.state.db;
    let is_new = db.add_subject(subject, tag).await?;
    if is_new {
        // Until the tag is seen here, the subject would be given groups of another.
        call.state.snapshots.refreshed().await;
    }
    Ok((is_new, db.subject(subject).await?))
}
