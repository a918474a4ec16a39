//! From command codes to handlers.

pub mod send;

use qmq_protocol::{CommandCode, ResultCode};
use qmq_remoting::{Request, Responder, Service};

use crate::server::DelayServer;

impl Service for DelayServer {
    async fn call(&self, request: Request, responder: Responder) {
        const SEND: i16 = CommandCode::SendMessage.code();
        match request.header.code {
            SEND => send::handle(self, request, responder).await,
            _ => responder.send_empty(ResultCode::UnknownCode),
        }
    }
}
