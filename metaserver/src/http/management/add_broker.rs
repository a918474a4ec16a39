//! `AddBroker`: enters a broker process before its first start.

use std::net::Ipv4Addr;

use qmq_model::BrokerRole;
use tracing::info;

use super::action::{Action, Call};
use super::broker_meta::BrokerMeta;
use super::name;
use crate::db::broker::{BrokerRow, HOSTNAME_MAX};
use crate::http::openapi::{Parameter, Shape, parameter};
use crate::http::reply::Reply;

/// A master, a slave and a backup.
const BROKERS_PER_GROUP_MAX: usize = 3;
const PORT_MAX: i32 = 65_535;

pub(super) static ACTION: Action = Action {
    name: "AddBroker",
    about: "Enters a broker before its first start.",
    reply: |rows| Shape::Enveloped(rows.one::<BrokerMeta>()),
    needs_token: true,
    parameters: &PARAMETERS,
    run: |call| Box::pin(run(call)),
};

/// What describes a broker.
pub(super) const PARAMETERS: [Parameter; 6] = [
    parameter("brokerGroup", "Broker group"),
    parameter(
        "role",
        "Number of the role: 0 master, 1 slave, 4 backup; 5, 6, 7 for delay",
    )
    .number(),
    parameter("hostname", "Host name the broker is looked up by"),
    parameter("ip", "Dotted IPv4 address clients use"),
    parameter("servePort", "Port clients use").number(),
    parameter("syncPort", "Port slaves use; not read for backups")
        .number()
        .optional(),
];

/// Checks the parameters in the documented order, then the group, then inserts.
async fn run(call: &Call) -> Reply {
    let broker = match check(call) {
        Ok(broker) => broker,
        Err(refusal) => return Reply::refused(refusal),
    };
    let group = match call.state.db.brokers_of(&broker.group).await {
        Ok(group) => group,
        Err(error) => return call.failed(&error),
    };
    if let Err(refusal) = check_group(&broker, &group) {
        return Reply::refused(refusal);
    }
    match call.state.db.add_broker(&broker).await {
        Ok(true) => {
            info!(
                group = broker.group,
                role = broker.role.name(),
                hostname = broker.hostname,
                address = broker.serve_address(),
                "broker added"
            );
            Reply::done(BrokerMeta::from(broker))
        }
        Ok(false) => Reply::refused(format!(
            "the role {} of group {} is taken, or another broker has {}:{}",
            broker.role.name(),
            broker.group,
            broker.hostname,
            broker.serve_port
        )),
        Err(error) => call.failed(&error),
    }
}

/// The broker that the parameters describe.
///
/// # Errors
/// The first thing that is wrong with them.
pub(super) fn check(call: &Call) -> Result<BrokerRow, String> {
    let bad_number = |what: String| format!("{} failed: {what}", call.name());
    let code = call.number("role").map_err(bad_number)?;
    let role =
        BrokerRole::from_code(code).ok_or_else(|| bad_number(format!("role {code} is unknown")))?;
    let serve_port = call.number("servePort").map_err(bad_number)?;
    let is_backup = matches!(role, BrokerRole::Backup | BrokerRole::DelayBackup);
    let sync_port = if is_backup {
        -1
    } else {
        call.number("syncPort").map_err(bad_number)?
    };
    let group = call.text("brokerGroup");
    name::check_group("brokerGroup", group)?;
    if matches!(role, BrokerRole::Standby | BrokerRole::Delay) {
        return Err(format!("role {code} ({}) cannot be added", role.name()));
    }
    let hostname = call.text("hostname");
    name::check("hostname", hostname, HOSTNAME_MAX)?;
    let ip = call.text("ip");
    if ip.is_empty() {
        return Err("ip is empty".to_owned());
    }
    let ip: Ipv4Addr = ip
        .parse()
        .map_err(|_| format!("ip {ip:?} is no dotted IPv4 address"))?;
    let is_port = |port| (1..=PORT_MAX).contains(&port);
    if !is_port(serve_port) || !(is_backup || is_port(sync_port)) || serve_port == sync_port {
        return Err("servePort and syncPort must differ and be within 1..=65535".to_owned());
    }
    let (group, hostname) = (group.to_owned(), hostname.to_owned());
    Ok(BrokerRow {
        group,
        role,
        hostname,
        ip,
        serve_port,
        sync_port,
    })
}

fn check_group(broker: &BrokerRow, group: &[BrokerRow]) -> Result<(), String> {
    if group.len() >= BROKERS_PER_GROUP_MAX {
        return Err(format!("group {} exists and is complete", broker.group));
    }
    if group.iter().any(|row| row.role == broker.role) {
        return Err(format!(
            "group {} has a broker with role {} already: use another group name",
            broker.group,
            broker.role.name()
        ));
    }
    if group
        .iter()
        .any(|row| row.role.is_delay() != broker.role.is_delay())
    {
        return Err(format!(
            "group {} cannot hold both realtime and delay brokers",
            broker.group
        ));
    }
    Ok(())
}
