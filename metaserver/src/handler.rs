//! TCP commands: a table from code to handler.

mod broker_meta;
mod broker_register;
mod client_register;

use std::sync::Arc;

use qmq_protocol::{CommandCode, DecodeError, Header, ResultCode};
use qmq_remoting::{Request, Responder, Service, answer_unknown};
use tracing::warn;

use crate::state::State;

/// Answers the TCP port.
#[derive(Clone, Debug)]
pub(crate) struct Handler(pub(crate) Arc<State>);

impl Service for Handler {
    // Brokers are answered in the order they ask: HEARTBEAT, ONLINE and OFFLINE of one broker must
    // not overtake each other. Questions of clients are independent.
    async fn call(&self, request: Request, responder: Responder) {
        match CommandCode::from_code(request.header.code) {
            Some(CommandCode::ClientRegister) => {
                client_register::handle(&self.0, request, responder);
            }
            Some(CommandCode::BrokerRegister) => {
                broker_register::handle(&self.0, &request, responder).await;
            }
            Some(CommandCode::BrokerAcquireMeta) => {
                broker_meta::handle(&self.0, &request, responder).await;
            }
            _ => answer_unknown(responder),
        }
    }
}

/// Answers a body that cannot be decoded. The connection is kept: it carries a whole process.
fn refuse_body(header: &Header, error: &DecodeError, responder: Responder) {
    warn!(code = header.code, version = header.version, %error, "request cannot be decoded");
    responder.send_empty(ResultCode::BrokerError);
}
