//! The way to the writer: bounded queues of sends and of orders, taken in batches.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use qmq_daemon::lanes::Lanes;
use qmq_daemon::mailbox::{Mailbox, Stopped};
use qmq_daemon::receive::Received;
use qmq_model::UnixMillis;
use qmq_store::{CancelAnswer, Found, Pending, RescheduleAnswer};
use tokio::sync::{Semaphore, oneshot};

use crate::dispatch::RequestId;

/// Batches of send requests that may wait for the writer; their bytes are bounded by the server's budget.
pub const SENDS_QUEUED_MAX: usize = 16_384;
/// Payload bytes the writer takes at a time: short enough to look soon whether the disk is done.
pub const WRITE_PIECE_BYTES_MAX: usize = 256 << 10;
/// Payload bytes from which on no more is taken for a commit: enough to fill the disk, short enough
/// to answer soon.
pub const COMMIT_BYTES_MAX: usize = 1 << 20;

/// Send requests that arrived together.
pub type SendBatch = Received<Incoming>;

/// What the store needs to know of a message beside its subject and payload.
#[derive(Clone, Copy, Debug)]
pub struct Incoming {
    /// When it is due.
    pub due: UnixMillis,
    /// CRC-32 of the payload, verified.
    pub crc: u32,
}

/// Why nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotDone {
    /// There is no room; later there may be.
    #[error("disk of the delay server is full")]
    DiskFull,
    /// The message could not be read.
    #[error("the message cannot be read; the log of the server says why")]
    Failed,
}

/// What is written down about messages that are stored. Who gives orders bounds them: the
/// scheduler by its requests under way, people by [`crate::control::CALLS_MAX`].
#[derive(Debug)]
pub enum Order {
    /// They leave for the group; the scheduler is told.
    Begin {
        /// The scheduler's name for it.
        request: RequestId,
        /// Where they go.
        group: Arc<str>,
        /// What is to leave.
        entries: Arc<[Pending]>,
    },
    /// A broker has them.
    Confirm(Vec<Pending>),
    /// They are pending again.
    Refuse(Vec<Pending>),
    /// It is not to be delivered.
    Cancel(Found, oneshot::Sender<Result<CancelAnswer, NotDone>>),
    /// It gets another due time.
    Reschedule(
        Found,
        UnixMillis,
        oneshot::Sender<Result<RescheduleAnswer, NotDone>>,
    ),
}

/// Work taken at once.
#[derive(Debug, Default)]
pub struct Taken {
    /// Send requests, connection by connection in turns.
    pub sends: Vec<SendBatch>,
    /// Orders, as they were given.
    pub orders: VecDeque<Order>,
}

/// Queue between connections, scheduler and people on one side and the writer on the other.
#[derive(Debug)]
pub struct Inbox {
    queues: Mailbox<Queues>,
    send_room: Semaphore,
}

#[derive(Debug, Default)]
struct Queues {
    sends: Lanes<SendBatch>,
    orders: VecDeque<Order>,
}

impl Queues {
    fn is_idle(&self) -> bool {
        self.sends.is_empty() && self.orders.is_empty()
    }
}

impl Default for Inbox {
    fn default() -> Self {
        Self {
            queues: Mailbox::default(),
            send_room: Semaphore::new(SENDS_QUEUED_MAX),
        }
    }
}

impl Inbox {
    /// Queues send requests; waits for room.
    ///
    /// # Errors
    /// When the writer has stopped; the requests get no answer then, their outcome is "not stored".
    pub async fn put_send(&self, batch: SendBatch) -> Result<(), Stopped> {
        // The permit is given back when the writer takes the request.
        self.send_room
            .acquire()
            .await
            .map_err(|_| Stopped)?
            .forget();
        let connection = batch.responder.connection_id();
        let bytes = batch.bytes.len();
        self.queues
            .put(|queues| queues.sends.push(connection, bytes, batch))
    }

    /// Queues an order.
    ///
    /// # Errors
    /// When the writer has stopped.
    pub fn put_order(&self, order: Order) -> Result<(), Stopped> {
        self.queues.put(|queues| queues.orders.push_back(order))
    }

    /// Takes what is there, sleeping up to `patience` for it. `None` once it is closed and empty.
    pub fn take(&self, patience: Duration) -> Option<Taken> {
        let taken = self
            .queues
            .take(patience, Queues::is_idle, |queues, closed| {
                if closed && queues.is_idle() {
                    return None;
                }
                let mut taken = Taken::default();
                queues.sends.take(WRITE_PIECE_BYTES_MAX, &mut taken.sends);
                taken.orders = std::mem::take(&mut queues.orders);
                Some(taken)
            })?;
        self.send_room.add_permits(taken.sends.len());
        Some(taken)
    }

    /// Whether there is nothing to take.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.queues.look_into(|queues| queues.is_idle())
    }

    /// Takes no more; what is queued is still written.
    pub fn close(&self) {
        self.queues.close();
        self.send_room.close();
    }
}
