//! Accepts connections and serves each in a task of its own, up to a limit, until told to stop.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use qmq_protocol::frame::{BODY_BYTES_MAX, PREFIX_BYTES};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::budget::BUDGET_BYTES_MAX;
use crate::connection::{Connection, Shared, run};
use crate::inbound::READ_BYTES_MIN;
use crate::service::Service;
use crate::stats::{CloseReason, ServerStats};

/// Pause after a failed accept: mostly no descriptor is free, and trying at once fails again.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Limits of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerConfig {
    /// Connections open at the same time; more are closed at once. Default: 20 000.
    pub connections_max: usize,
    /// Largest body of a request. Unit: bytes. Default: 16 MiB.
    pub body_bytes_max: usize,
    /// Bytes received and not yet answered, of all connections. When it is spent, sockets are not
    /// read, except that one connection may complete one frame. Unit: bytes. Default: 256 MiB.
    pub in_flight_bytes_max: usize,
    /// The same for one connection; at least one frame. Unit: bytes. Default: 32 MiB.
    pub connection_bytes_max: usize,
    /// From the accept to the first valid frame. Default: 30 s.
    pub first_frame_timeout: Duration,
    /// From waiting for the rest of a begun frame to its last byte. Default: 30 s.
    pub frame_completion_timeout: Duration,
    /// How long a client may take nothing of the replies that wait for it. Default: 60 s.
    pub write_timeout: Duration,
    /// How long a client may be silent while no request of it waits for an answer. Default: 300 s.
    pub idle_timeout: Duration,
    /// Bytes of replies that one client has not taken yet. More close the connection; with half of
    /// it the connection is not read. At least one frame of `body_bytes_max`, and more than the
    /// largest reply. Unit: bytes. Default: 64 MiB.
    pub outbox_bytes_max: usize,
    /// Replies that wait behind the write in progress; one more closes the connection.
    /// Default: 100 000.
    pub outbox_frames_max: usize,
    /// Bytes of replies that all clients have not taken yet. Above it, a client that takes nothing
    /// for a second is closed. Unit: bytes. Default: 512 MiB.
    pub outbox_total_bytes_max: usize,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            connections_max: 20_000,
            body_bytes_max: BODY_BYTES_MAX,
            in_flight_bytes_max: 256 * 1024 * 1024,
            connection_bytes_max: 32 * 1024 * 1024,
            first_frame_timeout: Duration::from_secs(30),
            frame_completion_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(300),
            outbox_bytes_max: 64 * 1024 * 1024,
            outbox_frames_max: 100_000,
            outbox_total_bytes_max: 512 * 1024 * 1024,
        }
    }
}

impl ServerConfig {
    /// Whether the limits fit together.
    ///
    /// # Errors
    /// Says which do not.
    pub fn validate(&self) -> Result<(), &'static str> {
        let frame_bytes_max = self.body_bytes_max.saturating_add(PREFIX_BYTES);
        if frame_bytes_max > i32::MAX as usize {
            return Err("body_bytes_max must be below 2 GiB: lengths have 31 bits");
        }
        if self.connection_bytes_max < frame_bytes_max {
            return Err("connection_bytes_max must hold a frame of body_bytes_max");
        }
        if self.outbox_bytes_max < frame_bytes_max {
            return Err("outbox_bytes_max must hold a frame of body_bytes_max");
        }
        if !(self.connection_bytes_max..=BUDGET_BYTES_MAX).contains(&self.in_flight_bytes_max) {
            return Err("in_flight_bytes_max must be at least connection_bytes_max");
        }
        if self.in_flight_bytes_max < READ_BYTES_MIN {
            return Err("in_flight_bytes_max must be at least 4 KiB");
        }
        if self.connections_max == 0 || self.outbox_frames_max == 0 {
            return Err("connections_max and outbox_frames_max must be above zero");
        }
        Ok(())
    }
}

/// What a stop left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DrainReport {
    /// Connections that were open at the stop.
    pub connections: usize,
    /// Those that were cut because the time was up.
    pub cut: usize,
    /// Started requests on them that were never answered.
    pub unanswered: u64,
}

/// A bound socket, ready to serve.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    local_addr: SocketAddr,
    shared: Arc<Shared>,
}

impl Server {
    /// Listens at `addr`; port 0 takes a free one. Clients can connect from now on, and are
    /// answered once [`Self::serve`] runs.
    ///
    /// # Errors
    /// When the address cannot be bound, or as `InvalidInput` when the limits contradict each
    /// other.
    pub async fn bind(addr: SocketAddr, config: ServerConfig) -> io::Result<Self> {
        config
            .validate()
            .map_err(|what| io::Error::new(io::ErrorKind::InvalidInput, what))?;
        let listener = TcpListener::bind(addr).await?;
        let local_addr = listener.local_addr()?;
        let stats = Arc::new(ServerStats::new(config.in_flight_bytes_max));
        Ok(Self {
            listener,
            local_addr,
            shared: Arc::new(Shared { config, stats }),
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Its counters, which outlive it.
    #[must_use]
    pub fn stats(&self) -> Arc<ServerStats> {
        Arc::clone(&self.shared.stats)
    }

    /// Serves until `stop` is cancelled. Then it stops listening and reading, waits at most
    /// `drain` until all started requests are answered and their replies written, and returns
    /// with every connection closed.
    pub async fn serve<S: Service>(
        self,
        service: Arc<S>,
        stop: CancellationToken,
        drain: Duration,
    ) -> DrainReport {
        let stats = self.stats();
        let mut tasks = JoinSet::new();
        self.accept_all(&service, &stop, &mut tasks).await;

        let connections = stats.connections_open();
        let cut_before = stats.connections_closed(CloseReason::Cut);
        let all = async { while tasks.join_next().await.is_some() {} };
        if timeout(drain, all).await.is_err() {
            tasks.shutdown().await;
        }
        let cut = stats.connections_closed(CloseReason::Cut) - cut_before;
        let cut = usize::try_from(cut).expect("no more than were open");
        DrainReport {
            connections,
            cut,
            unanswered: stats.requests_cut(),
        }
    }

    /// Returns, and closes the listener, when `stop` is cancelled.
    async fn accept_all<S: Service>(
        self,
        service: &Arc<S>,
        stop: &CancellationToken,
        tasks: &mut JoinSet<()>,
    ) {
        let mut last_id = 0;
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                // Panics were counted and logged by the task itself.
                Some(_) = tasks.join_next() => continue,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let Some(connection) = self.admit(&stream, peer, last_id + 1) else {
                        continue;
                    };
                    last_id += 1;
                    tasks.spawn(run(
                        connection,
                        stream,
                        Arc::clone(service),
                        stop.child_token(),
                    ));
                }
                Err(error) => {
                    warn!(%error, "accept failed");
                    sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }

    fn admit(&self, stream: &TcpStream, peer: SocketAddr, id: u64) -> Option<Arc<Connection>> {
        let Shared { config, stats } = &*self.shared;
        if stats.connections_open() >= config.connections_max {
            if stats
                .refused
                .fetch_add(1, Ordering::Relaxed)
                .is_power_of_two()
            {
                warn!(%peer, limit = config.connections_max, "too many connections, one refused");
            }
            return None;
        }
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%peer, %error, "connection lost before it was served");
            return None;
        }
        stats.accepted.fetch_add(1, Ordering::Relaxed);
        stats.open.fetch_add(1, Ordering::Relaxed);
        Some(Arc::new(Connection::new(
            id,
            peer,
            Arc::clone(&self.shared),
        )))
    }
}
