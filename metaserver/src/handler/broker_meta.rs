//! BROKER_ACQUIRE_META: who a broker is and whom it copies from.

use qmq_model::BrokerRole;
use qmq_protocol::command::broker_acquire_meta::{
    BrokerAcquireMetaRequest, BrokerAcquireMetaResponse,
};
use qmq_protocol::{Decode, Encode, ResultCode};
use qmq_remoting::{Request, Responder};
use tracing::{error, info, warn};

use super::refuse_body;
use crate::db::broker::BrokerRow;
use crate::db::{Db, DbResult};
use crate::state::State;

/// Answers with the entry of the broker, or 51.
pub(super) async fn handle(state: &State, request: &Request, responder: Responder) {
    let version = request.header.version;
    let question = match BrokerAcquireMetaRequest::decode(version, &request.body) {
        Ok(question) => question,
        Err(error) => return refuse_body(&request.header, &error, responder),
    };
    let BrokerAcquireMetaRequest { hostname, port } = question;
    let peer = request.peer;
    match state.db.broker_at(hostname, port).await {
        Ok(Some(broker)) => match find_source(&state.db, &broker).await {
            Ok(Some(master)) => {
                info!(
                    hostname,
                    port,
                    group = broker.group,
                    role = broker.role.name(),
                    "a broker learnt who it is"
                );
                let response = BrokerAcquireMetaResponse {
                    name: &broker.group,
                    master: &master,
                    role: broker.role,
                };
                let code = ResultCode::Success.code();
                return responder.send(code, |out| response.encode(version, out));
            }
            Ok(None) => error!(
                hostname, port, group = broker.group, role = broker.role.name(), %peer,
                "a broker asks whom to copy from, but its group has no such broker: \
                 add it with AddBroker"
            ),
            Err(error) => warn!(hostname, port, %error, "cannot look up a broker"),
        },
        Ok(None) => error!(
            hostname, port, %peer,
            "a broker asks who it is, but no broker has this host name and port: \
             add it with AddBroker"
        ),
        Err(error) => warn!(hostname, port, %error, "cannot look up a broker"),
    }
    responder.send_empty(ResultCode::BrokerError);
}

/// Where a broker copies from: a slave from its master, a backup from the slave, a master from
/// nobody. `None` when the group has no such broker.
async fn find_source(db: &Db, broker: &BrokerRow) -> DbResult<Option<String>> {
    let source: fn(BrokerRole) -> bool = match broker.role {
        BrokerRole::Slave | BrokerRole::DelaySlave => {
            |role| matches!(role, BrokerRole::Master | BrokerRole::DelayMaster)
        }
        BrokerRole::Backup | BrokerRole::DelayBackup => {
            |role| matches!(role, BrokerRole::Slave | BrokerRole::DelaySlave)
        }
        BrokerRole::Master | BrokerRole::Standby | BrokerRole::Delay | BrokerRole::DelayMaster => {
            return Ok(Some(String::new()));
        }
    };
    let group = db.brokers_of(&broker.group).await?;
    Ok(group
        .iter()
        .find(|row| source(row.role))
        .map(BrokerRow::sync_address))
}
