//! `ReplaceBroker`: another host or other ports for a broker; group and role stay.

use tracing::info;

use super::action::{Action, Call};
use super::add_broker::{PARAMETERS, check};
use super::broker_meta::BrokerMeta;
use crate::db::DbError;
use crate::http::openapi::Shape;
use crate::http::reply::Reply;

pub(super) static ACTION: Action = Action {
    name: "ReplaceBroker",
    about: "Gives a broker another host or other ports.",
    reply: |rows| Shape::Enveloped(rows.one::<BrokerMeta>()),
    needs_token: true,
    parameters: &PARAMETERS,
    run: |call| Box::pin(run(call)),
};

/// How often a change of somebody else may come in between.
const ROUNDS_MAX: usize = 20;

async fn run(call: &Call) -> Reply {
    let new = match check(call) {
        Ok(new) => new,
        Err(refusal) => return Reply::refused(refusal),
    };
    let (db, role) = (&call.state.db, new.role.name());
    for _ in 0..ROUNDS_MAX {
        let group = match db.brokers_of(&new.group).await {
            Ok(group) => group,
            Err(error) => return call.failed(&error),
        };
        let Some(old) = group.into_iter().find(|row| row.role == new.role) else {
            let message = format!("group {} has no broker with role {role}", new.group);
            return Reply::refused(message);
        };
        match db.replace_broker(&old, &new).await {
            Ok(true) => {
                info!(
                    group = new.group,
                    role,
                    hostname = new.hostname,
                    address = new.serve_address(),
                    "broker replaced"
                );
                return Reply::done(BrokerMeta::from(old));
            }
            Ok(false) => {}
            Err(DbError::Duplicate) => {
                return Reply::refused(format!(
                    "another broker has {}:{}; SwapBrokers exchanges master and slave",
                    new.hostname, new.serve_port
                ));
            }
            Err(error) => return call.failed(&error),
        }
    }
    Reply::refused("others change this broker all the time: try again")
}
