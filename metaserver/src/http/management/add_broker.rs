//! `AddBroker`: enters a broker process before its first start.

use std::net::Ipv4Addr;

use qmq_model::BrokerRole;
use tracing::{info, warn};

use super::Outcome;
use super::broker_meta::BrokerMeta;
use crate::db::Db;
use crate::db::broker::{BrokerRow, GROUP_MAX, HOSTNAME_MAX};
use qmq_daemon::parameters::Parameters;

/// A master, a slave and a backup.
const BROKERS_PER_GROUP_MAX: usize = 3;
const PORT_MAX: i32 = 65_535;

/// Checks the parameters in the documented order, then the group, then inserts.
pub(super) async fn run(db: &Db, parameters: &Parameters) -> Outcome<BrokerMeta> {
    let broker = check(parameters)?;
    let group = db
        .brokers_of(&broker.group)
        .await
        .map_err(|error| failed(&error))?;
    check_group(&broker, &group)?;
    match db.add_broker(&broker).await {
        Ok(true) => {
            info!(
                group = broker.group,
                role = broker.role.name(),
                hostname = broker.hostname,
                address = broker.serve_address(),
                "broker added"
            );
            Ok(broker.into())
        }
        Ok(false) => Err(format!(
            "the role {} of group {} is taken, or another broker has {}:{}",
            broker.role.name(),
            broker.group,
            broker.hostname,
            broker.serve_port
        )),
        Err(error) => Err(failed(&error)),
    }
}

fn failed(error: &crate::db::DbError) -> String {
    // What exactly the database said is for the log, not for whoever is on the network.
    warn!(%error, "cannot add a broker");
    "add broker failed: the database did not answer".to_owned()
}

fn check(parameters: &Parameters) -> Outcome<BrokerRow> {
    let bad_number = |what: String| format!("add broker failed: {what}");
    let code = parameters.number("role").map_err(bad_number)?;
    let role =
        BrokerRole::from_code(code).ok_or_else(|| bad_number(format!("role {code} is unknown")))?;
    let serve_port = parameters.number("servePort").map_err(bad_number)?;
    let is_backup = matches!(role, BrokerRole::Backup | BrokerRole::DelayBackup);
    let sync_port = if is_backup {
        -1
    } else {
        parameters.number("syncPort").map_err(bad_number)?
    };
    let group = parameters.text("brokerGroup");
    check_name("brokerGroup", group, GROUP_MAX)?;
    if matches!(role, BrokerRole::Standby | BrokerRole::Delay) {
        return Err(format!("role {code} ({}) cannot be added", role.name()));
    }
    let hostname = parameters.text("hostname");
    check_name("hostname", hostname, HOSTNAME_MAX)?;
    let ip = parameters.text("ip");
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

fn check_name(key: &str, name: &str, max: usize) -> Outcome<()> {
    if name.is_empty() {
        return Err(format!("{key} is empty"));
    }
    if name.chars().count() > max {
        return Err(format!("{key} is longer than {max} characters"));
    }
    if name.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(format!("{key} holds white space or a control character"));
    }
    Ok(())
}

fn check_group(broker: &BrokerRow, group: &[BrokerRow]) -> Outcome<()> {
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
