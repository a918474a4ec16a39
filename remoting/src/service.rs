//! What a server hands to the code that answers: requests, alone or in groups, responders, the
//! service trait.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Bytes, BytesMut};
use qmq_protocol::{Header, ResultCode};

use crate::budget::Charge;
use crate::connection::{Connection, ConnectionHandle};
use crate::outbox::Frames;

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

    /// Whether requests of this kind that arrive together are handed over together, with
    /// [`Self::call_group`].
    fn is_grouped(&self, _header: &Header) -> bool {
        false
    }

    /// Takes requests that arrived together, at least one, all of a kind that [`Self::is_grouped`]
    /// names. Called as [`Self::call`] is; unless it is overridden it leaves them unanswered.
    fn call_group(&self, group: Group) -> impl Future<Output = ()> + Send {
        async move { drop(group) }
    }
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
        self.send_parts(code, &[], vec![body]);
    }

    /// Answers with `code` and a body made of `head` and `parts` in order. Large parts are not
    /// copied.
    pub fn send_parts(self, code: i16, head: &[u8], parts: Vec<Bytes>) {
        if !self.header.is_one_way() {
            self.connection
                .push_parts(&self.header.response(code), head, parts);
        }
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.connection.pending.fetch_sub(1, Ordering::SeqCst);
        self.connection.give_back(&mut self.charge);
    }
}

/// Requests of one connection that arrived together, in their order.
#[derive(Debug)]
pub struct Group {
    /// The headers, and where the bodies are in `bytes`.
    pub requests: Vec<(Header, Range<usize>)>,
    /// What was read: all frames of the group. It stays in memory as long as a slice of it is held.
    pub bytes: Bytes,
    /// Who sent them.
    pub peer: SocketAddr,
    /// Answers them.
    pub responder: GroupResponder,
}

/// Answers the requests of a group, from any thread, all at once.
///
/// As a [`Responder`] it stands for their bytes until it is used or dropped.
#[derive(Debug)]
pub struct GroupResponder {
    connection: Arc<Connection>,
    requests: usize,
    charge: Charge,
}

impl GroupResponder {
    pub(crate) fn new(connection: Arc<Connection>, requests: usize, charge: Charge) -> Self {
        connection.pending.fetch_add(requests, Ordering::SeqCst);
        Self {
            connection,
            requests,
            charge,
        }
    }

    /// Number of the connection, unique while the server runs.
    #[must_use]
    pub fn connection_id(&self) -> u64 {
        self.connection.id
    }

    /// Bytes of the requests, frames included.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.charge.bytes()
    }

    /// Sends the answers that `answer` gives. Never blocks: they are put into the connection's
    /// outbox under its lock, so `answer` should only encode. A full outbox closes the connection.
    pub fn send(self, answer: impl FnOnce(&mut Answers<'_, '_>)) {
        self.connection
            .push_frames(|frames| answer(&mut Answers { frames }));
    }
}

impl Drop for GroupResponder {
    fn drop(&mut self) {
        self.connection
            .pending
            .fetch_sub(self.requests, Ordering::SeqCst);
        self.connection.give_back(&mut self.charge);
    }
}

/// Takes the answers to a group.
pub struct Answers<'a, 'b> {
    frames: &'a mut Frames<'b>,
}

impl Answers<'_, '_> {
    /// Answers the request with this header, as [`Responder::send`] does.
    pub fn push(&mut self, request: &Header, code: i16, write: impl FnOnce(&mut BytesMut)) {
        if !request.is_one_way() {
            self.frames.push(&request.response(code), write);
        }
    }
}

/// Answers a request whose code nobody handles.
pub fn answer_unknown(responder: Responder) {
    responder.send_empty(ResultCode::UnknownCode);
}
