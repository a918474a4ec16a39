//! `AddBroker`: makes a broker known to the metaserver.

use anyhow::{Result, bail};
use clap::Args;

use crate::admin;
use crate::cli::Metaserver;
use crate::output::Outcome;

/// Roles whose brokers have no sync port.
const BACKUP_ROLES: [i32; 2] = [4, 7];

#[derive(Args, Debug)]
pub(crate) struct AddBroker {
    /// HTTP side of the metaserver. Default port: 8080.
    #[arg(long, value_name = "HOST[:PORT]")]
    metaserver: Metaserver,
    /// A token of the metaserver's valid-api-tokens.properties.
    #[arg(long)]
    token: String,
    /// Name of the broker group.
    #[arg(long = "brokerGroup")]
    broker_group: String,
    /// 0 master, 1 slave, 4 backup, 5 delay master, 6 delay slave, 7 delay backup.
    #[arg(long, allow_negative_numbers = true)]
    role: i32,
    /// Host name the broker reports for itself.
    #[arg(long)]
    hostname: String,
    /// Address that clients use.
    #[arg(long)]
    ip: String,
    /// Port that clients use.
    #[arg(long = "servePort", allow_negative_numbers = true)]
    serve_port: i32,
    /// Port that slaves use. Backups (roles 4 and 7) need none.
    #[arg(long = "syncPort", allow_negative_numbers = true)]
    sync_port: Option<i32>,
}

impl AddBroker {
    pub(crate) async fn run(self) -> Result<Outcome> {
        if self.sync_port.is_none() && !BACKUP_ROLES.contains(&self.role) {
            bail!("AddBroker needs --syncPort for role {}", self.role);
        }
        let (role, serve_port) = (self.role.to_string(), self.serve_port.to_string());
        let sync_port = self.sync_port.map(|port| port.to_string());
        let mut parameters = vec![
            ("brokerGroup", self.broker_group.as_str()),
            ("role", &role),
            ("hostname", &self.hostname),
            ("ip", &self.ip),
            ("servePort", &serve_port),
        ];
        parameters.extend(sync_port.as_deref().map(|port| ("syncPort", port)));
        admin::run(&self.metaserver, &self.token, "AddBroker", &parameters).await
    }
}
