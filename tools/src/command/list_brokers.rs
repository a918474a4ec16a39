//! `ListBrokers`: what the metaserver knows of brokers.

use anyhow::Result;
use clap::Args;

use crate::admin;
use crate::cli::Metaserver;
use crate::output::Outcome;

#[derive(Args, Debug)]
pub(crate) struct ListBrokers {
    /// HTTP side of the metaserver. Default port: 8080.
    #[arg(long, value_name = "HOST[:PORT]")]
    metaserver: Metaserver,
    /// Only brokers of this group.
    #[arg(long = "brokerGroup", default_value = "")]
    broker_group: String,
}

impl ListBrokers {
    pub(crate) async fn run(self) -> Result<Outcome> {
        let parameters = [("brokerGroup", self.broker_group.as_str())];
        admin::run(&self.metaserver, "", "ListBrokers", &parameters).await
    }
}
