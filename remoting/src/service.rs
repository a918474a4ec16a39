//! What a server hands to the code that answers: requests, responders, the service trait.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Bytes, BytesMut};
use qmq_protocol::{Header, ResultCode};

use crate::budget::Charge;
use crate::connection::{Connection, ConnectionHandle};

/// Answers requests.
pub trait Service: Send + Sync + 'static {
    /// Takes one request. Called on the connection's task in the order of arrival and awaited, so
    /// that waiting is back-pressure on this connection and on no other. What takes long moves the
    /// responder elsewhere and returns.
    ///
    /// A call that was started is completed even when the connection closes meanwhile; only the
    /// end of the drain time of a stopping server drops it at an await. A panic closes the
    /// connection.
    fn call(&self, request: Request, responder: Responder) -> impl Future<Output = ()> + Send;
}

/// One request as it arrived.
#[derive(Clone, Debug)]
pub struct Request {
    /// Its header. Dispatch on the code, and decode the body by the version.
    pub header: Header,
    /// Its body: a slice of what was read from the socket, which stays in memory as long as the
    /// slice is held. Do not keep it for longer than the responder.
    pub body: Bytes,
    /// Who sent it.
    pub peer: SocketAddr,
    /// The connection it came on.
    pub connection: ConnectionHandle,
}

/// Answers one request, from any thread, at most once.
///
/// Until it is used or dropped the bytes of the request count against the server's budgets, and a
/// stopping server waits for it. It knows its own request: opaques need not be unique.
#[derive(Debug)]
pub struct Responder {
    header: Header,
    connection: Arc<Connection>,
    charge: Charge,
}

impl Responder {
    pub(crate) fn new(header: Header, connection: Arc<Connection>, charge: Charge) -> Self {
        connection.pending.fetch_add(1, Ordering::SeqCst);
        Self {
            header,
            connection,
            charge,
        }
    }

    /// The header of the request.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Number of the connection, unique while the server runs.
    #[must_use]
    pub fn connection_id(&self) -> u64 {
        self.connection.id
    }

    /// Whether an answer could still be sent.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        !self.connection.is_closed()
    }

    /// How many bytes the connection's outbox still takes. A larger answer closes the connection,
    /// so who can choose how much to send looks here. Others may answer meanwhile: leave a margin.
    #[must_use]
    pub fn room(&self) -> usize {
        self.connection.outbox.room()
    }

    /// Answers with `code` and the body that `write` appends. Never blocks: the frame is put into
    /// the connection's outbox, under a lock, so `write` should only encode. A full outbox closes
    /// the connection. Nothing is sent to a client that is gone or wants no answer; `write` is not
    /// called then.
    pub fn send(self, code: i16, write: impl FnOnce(&mut BytesMut)) {
        if !self.header.is_one_way() {
            self.connection.push(&self.header.response(code), write);
        }
    }

    /// Answers with `code` and no body.
    pub fn send_empty(self, code: ResultCode) {
        self.send(code.code(), |_| {});
    }

    /// Answers with `code` and `body`, which is not copied when it is large.
    pub fn send_bytes(self, code: i16, body: Bytes) {
        self.send_parts(code, vec![body]);
    }

    /// Answers with `code` and a body made of `parts` in order. Large parts are not copied.
    pub fn send_parts(self, code: i16, parts: Vec<Bytes>) {
        if !self.header.is_one_way() {
            self.connection
                .push_parts(&self.header.response(code), parts);
        }
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.connection.pending.fetch_sub(1, Ordering::SeqCst);
        self.connection.give_back(&mut self.charge);
    }
}

/// Answers a request whose code nobody handles.
pub fn answer_unknown(responder: Responder) {
    responder.send_empty(ResultCode::UnknownCode);
}
