//! One connection of a server: what its reader, its writer and its responders share.

mod reader;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::{Bytes, BytesMut};
use qmq_protocol::Header;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error};

use crate::budget::Charge;
use crate::connection::reader::Reader;
use crate::outbox::{Frames, Limits, Outbox, Refused};
use crate::server::ServerConfig;
use crate::service::Service;
use crate::stats::{CloseReason, ServerStats};
use crate::writer::{Patience, WriteEnd, write_out};

/// What all connections of a server share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: ServerConfig,
    pub(crate) stats: Arc<ServerStats>,
}

#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) id: u64,
    pub(crate) peer: SocketAddr,
    pub(crate) shared: Arc<Shared>,
    pub(crate) outbox: Outbox,
    /// Requests started and not answered.
    pub(crate) pending: AtomicUsize,
    /// Bytes read and not answered.
    in_flight: AtomicUsize,
    /// One of the two above went down, or something left the outbox. The reader waits for it.
    changed: Notify,
    pub(crate) closed: CancellationToken,
    reason: OnceLock<CloseReason>,
}

impl Connection {
    pub(crate) fn new(id: u64, peer: SocketAddr, shared: Arc<Shared>) -> Self {
        let config = &shared.config;
        let limits = Limits {
            bytes: config.outbox_bytes_max,
            frames: config.outbox_frames_max,
        };
        let outbox = Outbox::new(limits, Arc::clone(&shared.stats.outbox_bytes));
        Self {
            id,
            peer,
            outbox,
            shared,
            pending: AtomicUsize::new(0),
            in_flight: AtomicUsize::new(0),
            changed: Notify::new(),
            closed: CancellationToken::new(),
            reason: OnceLock::new(),
        }
    }

    /// Ends the connection. The first reason counts.
    pub(crate) fn close(&self, reason: CloseReason) {
        if self.reason.set(reason).is_ok() {
            self.outbox.close();
            self.closed.cancel();
        }
    }

    /// Whether it has ended, or is about to.
    pub(crate) fn is_closed(&self) -> bool {
        self.reason.get().is_some()
    }

    /// Queues a frame; a full outbox closes the connection.
    pub(crate) fn push(&self, header: &Header, write: impl FnOnce(&mut BytesMut)) {
        let pushed = self.outbox.push(header, write);
        self.close_when_full(pushed);
    }

    /// As [`Self::push`], for several frames.
    pub(crate) fn push_frames(&self, write: impl FnOnce(&mut Frames<'_>)) {
        let pushed = self.outbox.push_frames(write);
        self.close_when_full(pushed);
    }

    /// As [`Self::push`], for a body in parts.
    pub(crate) fn push_parts(&self, header: &Header, head: &[u8], parts: Vec<Bytes>) {
        let pushed = self.outbox.push_parts(header, head, parts);
        self.close_when_full(pushed);
    }

    fn close_when_full(&self, pushed: Result<u64, Refused>) {
        if pushed == Err(Refused::Full) {
            self.close(CloseReason::OutboxFull);
        }
    }

    fn charge(&self, bytes: usize) {
        self.in_flight.fetch_add(bytes, Ordering::SeqCst);
    }

    /// Bytes that may still be read before something is answered.
    fn room(&self) -> usize {
        let in_flight = self.in_flight.load(Ordering::SeqCst);
        self.shared
            .config
            .connection_bytes_max
            .saturating_sub(in_flight)
    }

    /// Whether the client should take replies before more are made. Half of the outbox is left to
    /// the requests that were started.
    fn is_untaken(&self) -> bool {
        self.outbox.unwritten() > self.shared.config.outbox_bytes_max / 2
    }

    /// Whether the client should await or take replies before it is read again.
    fn is_backed_up(&self) -> bool {
        self.room() == 0 || self.is_untaken()
    }

    /// Whether every request is answered and every reply taken by the socket. In this order: an
    /// answer is queued before its request counts as answered.
    fn is_settled(&self) -> bool {
        self.pending.load(Ordering::SeqCst) == 0 && self.outbox.unwritten() == 0
    }

    /// Takes back what was charged for a request or a frame nobody wants.
    pub(crate) fn give_back(&self, charge: &mut Charge) {
        self.in_flight.fetch_sub(charge.bytes(), Ordering::SeqCst);
        self.shared.stats.budget.give_back(charge);
        self.changed.notify_one();
    }
}

/// Names a connection and tells whether it lives.
#[derive(Clone, Debug)]
pub struct ConnectionHandle(pub(crate) Arc<Connection>);

impl ConnectionHandle {
    /// Unique among the connections of its server.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.0.id
    }

    /// Whether it has ended.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.0.is_closed()
    }

    /// Waits until it has ended.
    pub async fn closed(&self) {
        self.0.closed.cancelled().await;
    }
}

/// Serves one connection until it ends. A panic of the service unwinds through here.
pub(crate) async fn run<S: Service>(
    connection: Arc<Connection>,
    stream: TcpStream,
    service: Arc<S>,
    stop: CancellationToken,
) {
    let _ended = Ended(&connection);
    let config = &connection.shared.config;
    let patience = Patience {
        timeout: config.write_timeout,
        total_bytes_max: config.outbox_total_bytes_max,
    };
    let (read, write) = stream.into_split();
    let reader = async {
        let reason = Reader::new(&connection, read, stop).run(&*service).await;
        connection.close(reason);
    };
    let writer = async {
        let flushed = || connection.changed.notify_one();
        let end = write_out(
            &connection.outbox,
            write,
            &connection.closed,
            patience,
            flushed,
        );
        match end.await {
            WriteEnd::Closed => {}
            WriteEnd::Stalled => connection.close(CloseReason::WriteTimeout),
            WriteEnd::Failed => connection.close(CloseReason::Peer),
        }
    };
    tokio::join!(reader, writer);
}

/// Settles the accounts of a connection however its task ends.
struct Ended<'a>(&'a Arc<Connection>);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        let Connection {
            id,
            peer,
            shared,
            outbox,
            pending,
            reason,
            ..
        } = &**self.0;
        let panicked = std::thread::panicking();
        self.0.close(if panicked {
            CloseReason::Panicked
        } else {
            CloseReason::Cut
        });
        outbox.clear();
        let reason = *reason.get().expect("closed above");
        let unanswered = pending.load(Ordering::SeqCst);
        let stats = &shared.stats;
        stats.closed[reason as usize].fetch_add(1, Ordering::Relaxed);
        if reason == CloseReason::Cut {
            stats
                .unanswered
                .fetch_add(unanswered as u64, Ordering::Relaxed);
        }
        stats.open.fetch_sub(1, Ordering::Relaxed);
        if panicked {
            error!(%peer, connection = id, "service panicked, connection closed");
        } else {
            debug!(%peer, connection = id, reason = reason.name(), unanswered, "connection closed");
        }
    }
}
