//! Counters of a server, for its metrics.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, atomic::AtomicUsize};

use crate::budget::Budget;

/// Why a server closed a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(usize)]
pub enum CloseReason {
    /// The client did, or the network failed.
    Peer = 0,
    /// What arrived is not a frame of this protocol.
    BadFrame = 1,
    /// No valid frame came in time after the connection was accepted.
    FirstFrameTimeout = 2,
    /// A begun frame was not completed in time.
    FrameTimeout = 3,
    /// Nothing arrived for long, and no request was waiting for its answer.
    Idle = 4,
    /// The client did not take its replies.
    WriteTimeout = 5,
    /// More replies wait than the outbox takes.
    OutboxFull = 6,
    /// The service panicked.
    Panicked = 7,
    /// The server stopped, with every request of the connection answered.
    Drained = 8,
    /// The server stopped and could not wait any longer.
    Cut = 9,
}

impl CloseReason {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Peer,
        Self::BadFrame,
        Self::FirstFrameTimeout,
        Self::FrameTimeout,
        Self::Idle,
        Self::WriteTimeout,
        Self::OutboxFull,
        Self::Panicked,
        Self::Drained,
        Self::Cut,
    ];

    /// A name for metrics and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Peer => "peer",
            Self::BadFrame => "bad_frame",
            Self::FirstFrameTimeout => "first_frame_timeout",
            Self::FrameTimeout => "frame_timeout",
            Self::Idle => "idle",
            Self::WriteTimeout => "write_timeout",
            Self::OutboxFull => "outbox_full",
            Self::Panicked => "panicked",
            Self::Drained => "drained",
            Self::Cut => "cut",
        }
    }
}

/// What a server has done and holds; read at any time.
#[derive(Debug)]
pub struct ServerStats {
    pub(crate) accepted: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) open: AtomicUsize,
    pub(crate) requests: AtomicU64,
    pub(crate) budget_waits: AtomicU64,
    pub(crate) unanswered: AtomicU64,
    pub(crate) closed: [AtomicU64; CloseReason::ALL.len()],
    pub(crate) budget: Budget,
    pub(crate) outbox_bytes: Arc<AtomicUsize>,
}

impl ServerStats {
    pub(crate) fn new(in_flight_bytes_max: usize) -> Self {
        Self {
            accepted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            open: AtomicUsize::new(0),
            requests: AtomicU64::new(0),
            budget_waits: AtomicU64::new(0),
            unanswered: AtomicU64::new(0),
            closed: std::array::from_fn(|_| AtomicU64::new(0)),
            budget: Budget::new(in_flight_bytes_max),
            outbox_bytes: Arc::new(AtomicUsize::new(0)),
        }
    }

    /// Connections accepted and served.
    #[must_use]
    pub fn connections_accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Connections closed at once because too many were open.
    #[must_use]
    pub fn connections_refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Connections open now.
    #[must_use]
    pub fn connections_open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Connections that were closed for this reason.
    #[must_use]
    pub fn connections_closed(&self, reason: CloseReason) -> u64 {
        self.closed[reason as usize].load(Ordering::Relaxed)
    }

    /// Requests received, heartbeats included.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Requests that were never answered because the server stopped first.
    #[must_use]
    pub fn requests_cut(&self) -> u64 {
        self.unanswered.load(Ordering::Relaxed)
    }

    /// How often a connection was not read because the process-wide budget was spent.
    #[must_use]
    pub fn budget_waits(&self) -> u64 {
        self.budget_waits.load(Ordering::Relaxed)
    }

    /// Bytes of requests that are received and not yet answered, begun frames included.
    #[must_use]
    pub fn bytes_in_flight(&self) -> usize {
        self.budget.used()
    }

    /// Bytes of replies that clients have not taken yet.
    #[must_use]
    pub fn outbox_bytes(&self) -> usize {
        self.outbox_bytes.load(Ordering::Relaxed)
    }
}
