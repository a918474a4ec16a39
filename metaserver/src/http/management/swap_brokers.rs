//! `SwapBrokers`: master and slave of a group exchange their places, hosts and ports.

use qmq_model::BrokerRole;
use tracing::info;

use super::action::{Action, Call};
use super::broker_meta::BrokerMeta;
use crate::db::broker::BrokerRow;
use crate::http::openapi::{Shape, parameter};
use crate::http::reply::Reply;

pub(super) static ACTION: Action = Action {
    name: "SwapBrokers",
    about: "Exchanges the hosts and ports of master and slave at once.",
    reply: |rows| Shape::Enveloped(rows.list::<BrokerMeta>()),
    needs_token: true,
    parameters: &[parameter("brokerGroup", "Broker group")],
    run: |call| Box::pin(run(call)),
};

/// Answers the master and the slave as they are afterwards. The brokers learn it at their next
/// start.
async fn run(call: &Call) -> Reply {
    let name = call.text("brokerGroup");
    if name.is_empty() {
        return Reply::refused("brokerGroup is empty");
    }
    let db = &call.state.db;
    let group = match db.brokers_of(name).await {
        Ok(group) => group,
        Err(error) => return call.failed(&error),
    };
    let of = |roles: [BrokerRole; 2]| group.iter().find(|row| roles.contains(&row.role));
    let master = of([BrokerRole::Master, BrokerRole::DelayMaster]);
    let slave = of([BrokerRole::Slave, BrokerRole::DelaySlave]);
    let (Some(master), Some(slave)) = (master, slave) else {
        return Reply::refused(format!("group {name:?} has not both a master and a slave"));
    };
    match db.swap_brokers(master, slave).await {
        Ok(true) => {
            info!(
                group = name,
                master = slave.serve_address(),
                slave = master.serve_address(),
                "brokers swapped"
            );
            let swapped = [moved(master, slave), moved(slave, master)];
            Reply::done(swapped.map(BrokerMeta::from))
        }
        Ok(false) => Reply::refused(format!("group {name} was changed meanwhile: try again")),
        Err(error) => call.failed(&error),
    }
}

/// `broker` at the place of `other`.
fn moved(broker: &BrokerRow, other: &BrokerRow) -> BrokerRow {
    BrokerRow {
        group: broker.group.clone(),
        role: broker.role,
        ..other.clone()
    }
}
