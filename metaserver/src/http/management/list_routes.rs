//! `ListSubjectRoutes`: which groups serve which subject, without an envelope.
//!
//! There may be a million. They are read a few at a time, and sent before more are read: memory
//! holds a few parts of the list for each caller, however slowly it reads.

use tokio::sync::mpsc;
use tracing::warn;

use super::action::{Action, Call};
use super::page::{AFTER, LIMIT, Page};
use super::route_view::SubjectRoute;
use crate::db::{Db, DbError, DbResult};
use crate::http::openapi::Shape;
use crate::http::reply::Reply;

/// Routes that are read by one statement and sent as one part.
const PART_ROWS: i64 = 1_000;
/// Parts that wait to be sent.
const PARTS_WAITING_MAX: usize = 2;

pub(super) static ACTION: Action = Action {
    name: "ListSubjectRoutes",
    about: "Lists which groups serve which subject.",
    reply: |rows| Shape::Bare(rows.list::<SubjectRoute>()),
    needs_token: false,
    parameters: &[LIMIT, AFTER],
    run: |call| Box::pin(run(call)),
};

/// By subject, also the pages.
async fn run(call: &Call) -> Reply {
    let page = match Page::of(call) {
        Ok(page) => page,
        Err(refusal) => return Reply::refused(refusal),
    };
    let mut list = List {
        db: call.state.db.clone(),
        after: Some(page.after.to_owned()),
        left: page.limit,
    };
    // Once the answer has begun it can only be cut off: whoever may be told of a failure, is.
    let first = match list.next().await {
        Ok(first) => first,
        Err(error) => return call.failed(&error),
    };
    if list.after.is_none() {
        return Reply::raw(first);
    }
    let (parts, waiting) = mpsc::channel(PARTS_WAITING_MAX);
    call.state.tasks.spawn(send(list, first, parts));
    Reply::parts(waiting)
}

/// Sends a list until its end, or until nobody reads it any more.
async fn send(
    mut list: List,
    first: Vec<SubjectRoute>,
    parts: mpsc::Sender<Result<String, DbError>>,
) {
    let mut begin = "[";
    let mut rows = first;
    loop {
        if !rows.is_empty() {
            let text = format!("{begin}{}", items(&rows));
            begin = ",";
            if parts.send(Ok(text)).await.is_err() {
                return;
            }
        }
        if list.after.is_none() {
            break;
        }
        match list.next().await {
            Ok(next) => rows = next,
            Err(error) => {
                warn!(%error, "a list of routes is cut off");
                drop(parts.send(Err(error)).await);
                return;
            }
        }
    }
    let end = if begin == "[" { "[]\n" } else { "]\n" };
    drop(parts.send(Ok(end.to_owned())).await);
}

/// Rows in JSON, without the brackets around them.
fn items(rows: &[SubjectRoute]) -> String {
    let mut json = serde_json::to_string(rows).expect("our replies are always JSON");
    json.pop();
    json.remove(0);
    json
}

/// What is still to be read of a list.
struct List {
    db: Db,
    /// The last subject that was read; none at the end of the list.
    after: Option<String>,
    /// Rows that are still wanted.
    left: i64,
}

impl List {
    async fn next(&mut self) -> DbResult<Vec<SubjectRoute>> {
        let Some(after) = self.after.take() else {
            return Ok(Vec::new());
        };
        let wanted = self.left.min(PART_ROWS);
        let page = self.db.routes_after(&after, wanted).await?;
        self.left -= wanted;
        self.after = page.next.filter(|_| self.left > 0);
        Ok(page.rows.into_iter().map(SubjectRoute::from).collect())
    }
}
