//! `AddBroker`, `ReplaceBroker`, `SwapBrokers`, `ListBrokers`, `ListBrokerGroups`: which servers there
//! are.

use anyhow::{Result, bail};
use clap::Args;

use super::paging::Page;
use crate::action::{Action, Parameter};

/// Roles whose brokers have no sync port.
const BACKUP_ROLES: [i32; 2] = [4, 7];

/// One broker.
#[derive(Args, Debug)]
struct Broker {
    /// Name of the broker group.
    #[arg(long = "brokerGroup")]
    broker_group: String,
    /// 0 master, 1 slave, 4 backup, 5 delay master, 6 delay slave, 7 delay backup.
    #[arg(long, allow_negative_numbers = true)]
    role: i32,
    /// Host name the broker reports for itself.
    #[arg(long, alias = "host-name")]
    hostname: String,
    /// Address that clients use.
    #[arg(long)]
    ip: String,
    /// Port that clients use.
    #[arg(long = "servePort", allow_negative_numbers = true)]
    serve_port: i32,
    /// Port that slaves use. Adding a backup (roles 4 and 7) needs none.
    #[arg(long = "syncPort", allow_negative_numbers = true)]
    sync_port: Option<i32>,
}

impl Broker {
    fn parameters(self) -> Vec<Parameter> {
        let mut parameters = vec![
            ("brokerGroup", self.broker_group),
            ("role", self.role.to_string()),
            ("hostname", self.hostname),
            ("ip", self.ip),
            ("servePort", self.serve_port.to_string()),
        ];
        parameters.extend(self.sync_port.map(|port| ("syncPort", port.to_string())));
        parameters
    }
}

#[derive(Args, Debug)]
pub(crate) struct AddBroker {
    #[command(flatten)]
    broker: Broker,
}

impl Action for AddBroker {
    const NAME: &'static str = "AddBroker";

    fn parameters(self) -> Result<Vec<Parameter>> {
        let Broker {
            role, sync_port, ..
        } = self.broker;
        if sync_port.is_none() && !BACKUP_ROLES.contains(&role) {
            bail!("AddBroker needs --syncPort for role {role}");
        }
        Ok(self.broker.parameters())
    }
}

#[derive(Args, Debug)]
pub(crate) struct ReplaceBroker {
    #[command(flatten)]
    broker: Broker,
}

impl Action for ReplaceBroker {
    const NAME: &'static str = "ReplaceBroker";

    fn parameters(self) -> Result<Vec<Parameter>> {
        if self.broker.sync_port.is_none() {
            bail!("ReplaceBroker needs --syncPort");
        }
        Ok(self.broker.parameters())
    }
}

#[derive(Args, Debug)]
pub(crate) struct SwapBrokers {
    /// The group whose master and slave change places.
    #[arg(long = "brokerGroup")]
    broker_group: String,
}

impl Action for SwapBrokers {
    const NAME: &'static str = "SwapBrokers";

    fn parameters(self) -> Result<Vec<Parameter>> {
        Ok(vec![("brokerGroup", self.broker_group)])
    }
}

#[derive(Args, Debug)]
pub(crate) struct ListBrokers {
    /// Only brokers of this group.
    #[arg(long = "brokerGroup", default_value = "", hide_default_value = true)]
    broker_group: String,
    #[command(flatten)]
    page: Page,
}

impl Action for ListBrokers {
    const NAME: &'static str = "ListBrokers";

    fn parameters(self) -> Result<Vec<Parameter>> {
        let mut parameters = vec![("brokerGroup", self.broker_group)];
        parameters.extend(self.page.parameters());
        Ok(parameters)
    }
}

#[derive(Args, Debug)]
pub(crate) struct ListBrokerGroups {
    #[command(flatten)]
    page: Page,
}

impl Action for ListBrokerGroups {
    const NAME: &'static str = "ListBrokerGroups";

    fn parameters(self) -> Result<Vec<Parameter>> {
        Ok(self.page.parameters())
    }
}
