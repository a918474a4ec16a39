//! A client: one connection that carries many requests at a time.

mod link;

use std::fmt::Display;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use qmq_protocol::frame::{BODY_BYTES_MAX, PREFIX_BYTES};
use qmq_protocol::{CommandCode, Frame, FrameError};
use tokio::net::{TcpStream, ToSocketAddrs};
use tokio::time::timeout;

use crate::client::link::Link;

/// Limits of a client's connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientConfig {
    /// How long connecting may take, resolving the name included. Default: 5 s.
    pub connect_timeout: Duration,
    /// Largest body of a reply. Unit: bytes. Default: 16 MiB.
    pub body_bytes_max: usize,
    /// Requests waiting for their replies; more are refused. Default: 10 000.
    pub in_flight_max: usize,
    /// Bytes of requests that the server has not taken yet; more are refused. At least one frame
    /// of `body_bytes_max`. Unit: bytes. Default: 64 MiB.
    pub outbox_bytes_max: usize,
    /// How long the server may take nothing of what waits for it. Default: 60 s.
    pub write_timeout: Duration,
    /// How long nothing may arrive while requests wait. After half of it the server is sent a
    /// heartbeat, so a server that only has nothing to say is not mistaken for a dead one.
    /// Default: 30 s.
    pub silence_timeout: Duration,
    /// How long the connection is kept without requests. Default: 120 s.
    pub idle_timeout: Duration,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            body_bytes_max: BODY_BYTES_MAX,
            in_flight_max: 10_000,
            outbox_bytes_max: 64 * 1024 * 1024,
            write_timeout: Duration::from_secs(60),
            silence_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(120),
        }
    }
}

impl ClientConfig {
    /// Whether the limits fit together.
    ///
    /// # Errors
    /// Says which do not.
    pub fn validate(&self) -> Result<(), &'static str> {
        let frame_bytes_max = self.body_bytes_max.saturating_add(PREFIX_BYTES);
        if frame_bytes_max > i32::MAX as usize {
            return Err("body_bytes_max must be below 2 GiB: lengths have 31 bits");
        }
        if self.outbox_bytes_max < frame_bytes_max {
            return Err("outbox_bytes_max must hold a frame of body_bytes_max");
        }
        if self.in_flight_max == 0 || self.in_flight_max > i32::MAX as usize {
            return Err("in_flight_max must be above zero and below 2^31: ids have 32 bits");
        }
        if self.silence_timeout.is_zero() || self.idle_timeout.is_zero() {
            return Err("silence_timeout and idle_timeout must be above zero");
        }
        Ok(())
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// It took longer than `connect_timeout`.
    #[error("connecting to {addr} took longer than {} ms", limit.as_millis())]
    Timeout {
        /// The server.
        addr: String,
        /// How long it was tried.
        limit: Duration,
    },
    /// It was refused, the name is unknown, or the limits contradict each other.
    #[error("cannot connect to {addr}: {source}")]
    Io {
        /// The server.
        addr: String,
        /// What the system says.
        source: io::Error,
    },
}

/// Why there is no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The deadline passed. The request was sent or may still be.
    #[error("no reply before the deadline")]
    Timeout,
    /// The connection ended.
    #[error("connection closed {}", if *sent { "after the request was sent" } else { "before the request was sent" })]
    Closed {
        /// Whether a part of the request had left.
        sent: bool,
    },
    /// Too many requests wait already, or the server does not take them; this one was not sent.
    #[error("too many requests wait on this connection")]
    Overloaded,
    /// What arrived is no frame of this protocol, so the connection was closed.
    #[error("bad reply: {0}")]
    Frame(FrameError),
}

impl RequestError {
    /// Whether the server may have executed the request, now or later: the outcome is unknown.
    /// When not, it can be repeated anywhere without being done twice.
    #[must_use]
    pub const fn is_sent(&self) -> bool {
        match self {
            Self::Timeout | Self::Frame(_) => true,
            Self::Closed { sent } => *sent,
            Self::Overloaded => false,
        }
    }
}

/// One connection to one server, shared by its clones. It closes when the last of them is
/// dropped, after some time without requests, or when the server is found dead; it is not opened
/// again: that is what the pool does.
#[derive(Clone, Debug)]
pub struct Client(Arc<Owner>);

/// Closes the connection when the last client is dropped; the connection's task is no owner.
#[derive(Debug)]
struct Owner(Arc<Link>);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.close(None);
    }
}

impl Client {
    /// Connects to `addr`, a socket address or `host:port`.
    ///
    /// # Errors
    /// When there is no connection within the configured time.
    pub async fn connect(
        addr: impl ToSocketAddrs + Display,
        config: ClientConfig,
    ) -> Result<Self, ConnectError> {
        let name = addr.to_string();
        let failed = |source| ConnectError::Io {
            addr: name.clone(),
            source,
        };
        config
            .validate()
            .map_err(|what| failed(io::Error::new(io::ErrorKind::InvalidInput, what)))?;
        let limit = config.connect_timeout;
        let Ok(connected) = timeout(limit, TcpStream::connect(addr)).await else {
            return Err(ConnectError::Timeout { addr: name, limit });
        };
        let stream = connected.and_then(|stream| stream.set_nodelay(true).map(|()| stream));
        let link = Arc::new(Link::new(config));
        tokio::spawn(link::run(Arc::clone(&link), stream.map_err(failed)?));
        Ok(Self(Arc::new(Owner(link))))
    }

    /// Whether the connection has ended; all requests will fail.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.0.0.is_closed()
    }

    /// How many replies have arrived.
    #[must_use]
    pub fn replies(&self) -> u64 {
        self.0.0.replies()
    }

    /// Sends a request whose body `write` appends, and waits for its reply, whatever its result
    /// code. Dropping the future gives up waiting and nothing else.
    ///
    /// # Errors
    /// When there is no reply within `deadline`; see [`RequestError::is_sent`].
    pub async fn request(
        &self,
        code: CommandCode,
        write: impl FnOnce(&mut BytesMut),
        deadline: Duration,
    ) -> Result<Frame, RequestError> {
        let mut waiting = self.0.0.send(code, write)?;
        match timeout(deadline, waiting.reply()).await {
            Ok(reply) => reply,
            Err(_) => Err(RequestError::Timeout),
        }
    }
}
