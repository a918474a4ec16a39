//! `ListBrokers`: all brokers, or those of one group.

use super::action::{Action, Call};
use super::broker_meta::BrokerMeta;
use super::page::{AFTER, LIMIT, Page};
use crate::http::openapi::{Shape, parameter};
use crate::http::reply::Reply;

pub(super) static ACTION: Action = Action {
    name: "ListBrokers",
    about: "Lists brokers.",
    reply: |rows| Shape::Enveloped(rows.list::<BrokerMeta>()),
    needs_token: false,
    parameters: &[
        parameter("brokerGroup", "Broker group").optional(),
        LIMIT,
        AFTER,
    ],
    run: |call| Box::pin(run(call)),
};

/// In the order they were added; pages by group.
async fn run(call: &Call) -> Reply {
    let page = match Page::of(call) {
        Ok(page) => page,
        Err(refusal) => return Reply::refused(refusal),
    };
    let group = call.text("brokerGroup");
    let rows = if group.is_empty() {
        call.state.db.brokers().await
    } else {
        call.state.db.brokers_of(group).await
    };
    match rows {
        Ok(rows) => {
            let rows = page.cut(rows, |row| &row.group);
            let brokers: Vec<_> = rows.into_iter().map(BrokerMeta::from).collect();
            Reply::done(brokers)
        }
        Err(error) => call.failed(&error),
    }
}
