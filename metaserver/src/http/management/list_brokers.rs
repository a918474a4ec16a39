//! `ListBrokers`: all brokers, or those of one group.

use tracing::warn;

use super::Outcome;
use super::broker_meta::BrokerMeta;
use crate::db::Db;
use qmq_daemon::parameters::Parameters;

/// Reads the optional parameter `brokerGroup`; empty means all.
pub(super) async fn run(db: &Db, parameters: &Parameters) -> Outcome<Vec<BrokerMeta>> {
    let group = parameters.text("brokerGroup");
    let rows = if group.is_empty() {
        db.brokers().await
    } else {
        db.brokers_of(group).await
    };
    match rows {
        Ok(rows) => Ok(rows.into_iter().map(BrokerMeta::from).collect()),
        Err(error) => {
            warn!(%error, "cannot list brokers");
            Err("list brokers failed: the database did not answer".to_owned())
        }
    }
}
