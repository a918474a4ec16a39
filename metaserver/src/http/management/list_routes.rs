//! `ListSubjectRoutes`: which groups serve which subject, without an envelope.

use super::action::{Action, Call};
use super::page::{AFTER, LIMIT, Page};
use super::route_view::SubjectRoute;
use crate::http::openapi::Shape;
use crate::http::reply::Reply;

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
    match call.state.db.routes_after(page.after, page.limit).await {
        Ok((rows, _)) => {
            let routes: Vec<_> = rows.into_iter().map(SubjectRoute::from).collect();
            Reply::raw(routes)
        }
        Err(error) => call.failed(&error),
    }
}
