//! From command codes to handlers.

pub mod ack;
pub mod browse;
pub mod manage;
pub mod pull;
pub mod send;

use qmq_protocol::{CommandCode, Header, ResultCode};
use qmq_remoting::{Group, Request, Responder, Service};

use crate::broker::Broker;

impl Service for Broker {
    async fn call(&self, request: Request, responder: Responder) {
        const PULL: i16 = CommandCode::PullMessage.code();
        const ACK: i16 = CommandCode::Ack.code();
        const BROWSE: i16 = CommandCode::Browse.code();
        const MANAGE: i16 = CommandCode::ConsumeManage.code();
        match request.header.code {
            PULL => pull::handle(self, request, responder).await,
            MANAGE => manage::handle(self, request, responder).await,
            BROWSE => browse::handle(self, request, responder).await,
            ACK => ack::handle(self, request, responder).await,
            _ => responder.send_empty(ResultCode::UnknownCode),
        }
    }

    fn is_grouped(&self, header: &Header) -> bool {
        header.code == CommandCode::SendMessage.code()
    }

    async fn call_group(&self, group: Group) {
        send::handle(self, group).await;
    }
}
