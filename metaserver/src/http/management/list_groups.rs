//! `ListBrokerGroups`: what clients are told about the groups, without an envelope.

use qmq_model::BrokerState;
use serde::Serialize;
use utoipa::ToSchema;

use super::action::{Action, Call};
use super::page::{AFTER, LIMIT, Page};
use crate::db::broker_group::{GroupKind, GroupRow};
use crate::http::openapi::Shape;
use crate::http::reply::Reply;

pub(super) static ACTION: Action = Action {
    name: "ListBrokerGroups",
    about: "Lists what clients are told about groups.",
    reply: |rows| Shape::Bare(rows.list::<BrokerGroupView>()),
    needs_token: false,
    parameters: &[LIMIT, AFTER],
    run: |call| Box::pin(run(call)),
};

/// A row of table `broker_group`; the order of the fields is part of the API.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct BrokerGroupView {
    group_name: String,
    /// `ip:port`.
    master: String,
    /// Always null, as in the Java metaserver.
    slaves: Option<Vec<String>>,
    /// Milliseconds since 1970.
    update_time: i64,
    broker_state: &'static str,
    tag: String,
    kind: &'static str,
    /// Always null: the column is absent from many databases, and nobody uses it.
    ext: Option<String>,
}

impl From<GroupRow> for BrokerGroupView {
    fn from(row: GroupRow) -> Self {
        let state: BrokerState = row.state;
        Self {
            group_name: row.name,
            master: row.master,
            slaves: None,
            update_time: row.updated_ms,
            broker_state: state.name(),
            tag: row.tag,
            kind: match row.kind {
                GroupKind::Normal => "NORMAL",
                GroupKind::Delay => "DELAY",
            },
            ext: None,
        }
    }
}

/// By name, also the pages.
async fn run(call: &Call) -> Reply {
    let page = match Page::of(call) {
        Ok(page) => page,
        Err(refusal) => return Reply::refused(refusal),
    };
    match call.state.db.groups_after(page.after, page.limit).await {
        Ok(rows) => {
            let groups: Vec<_> = rows.into_iter().map(BrokerGroupView::from).collect();
            Reply::raw(groups)
        }
        Err(error) => call.failed(&error),
    }
}
