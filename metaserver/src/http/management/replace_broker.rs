//! `ReplaceBroker`: another host or other ports for a broker; group and role stay.

use qmq_model::BrokerRole;
use tracing::info;

use super::action::{Action, Call};
use super::add_broker::{PARAMETERS, check};
use super::broker_meta::BrokerMeta;
use crate::db::DbError;
use crate::db::broker::BrokerRow;
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
        let Some(old) = group.iter().find(|row| row.role == new.role).cloned() else {
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
                // The documented way to swap master and slave begins like this.
                if let Some(other) = group.iter().find(|row| changes_places(&old, row, &new)) {
                    match db.swap_brokers(&old, other).await {
                        Ok(true) => {
                            let address = new.serve_address();
                            info!(group = new.group, role, address, "brokers swapped");
                            return Reply::done(BrokerMeta::from(old));
                        }
                        Ok(false) => continue,
                        Err(error) => return call.failed(&error),
                    }
                }
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

/// Whether `old` is to get exactly the place of `other`, the slave of a master or the other way round.
fn changes_places(old: &BrokerRow, other: &BrokerRow, new: &BrokerRow) -> bool {
    let are_pair = matches!(
        (old.role, other.role),
        (BrokerRole::Master, BrokerRole::Slave)
            | (BrokerRole::Slave, BrokerRole::Master)
            | (BrokerRole::DelayMaster, BrokerRole::DelaySlave)
            | (BrokerRole::DelaySlave, BrokerRole::DelayMaster)
    );
    let place = |row: &BrokerRow| (row.hostname.clone(), row.ip, row.serve_port, row.sync_port);
    are_pair && place(other) == place(new)
}
