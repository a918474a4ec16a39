//! From command codes to handlers.

pub mod send;

use qmq_protocol::{CommandCode, Header};
use qmq_remoting::{Group, Request, Responder, Service, answer_unknown};

use crate::server::DelayServer;

impl Service for DelayServer {
    async fn call(&self, _request: Request, responder: Responder) {
        answer_unknown(responder);
    }

    fn is_grouped(&self, header: &Header) -> bool {
        header.code == CommandCode::SendMessage.code()
    }

    async fn call_group(&self, group: Group) {
        send::handle(self, group).await;
    }
}
