//! The way to the writer: bounded queues of sends, of copies, and of actions with controls among
//! them, taken in batches. Behind it is the [desk](crate::desk).

use std::collections::VecDeque;
use std::time::Duration;

use qmq_daemon::lanes::Lanes;
use qmq_daemon::mailbox::{Mailbox, Stopped};
use qmq_daemon::receive::Received;
use qmq_remoting::Responder;
use qmq_store::{Action, Control, Fingerprint, NewMessage};
use tokio::sync::{Semaphore, SemaphorePermit, oneshot};

/// Batches of send requests that may wait for the writer; their bytes are bounded by the server's
/// budget.
pub const SENDS_QUEUED_MAX: usize = 16_384;
/// Weight of the actions that may wait for the writer. A pull of `n` messages weighs `n`, anything
/// at least [`ACTION_WEIGHT_MIN`].
pub const ACTIONS_QUEUED_WEIGHT_MAX: u32 = 1 << 18;
/// Least weight of a batch of actions: bounds their number to 8192.
pub const ACTION_WEIGHT_MIN: u32 = 32;
/// Payload bytes of copies that may wait for the writer; a message counts for at least
/// [`COPY_BYTES_MIN`], a larger batch takes all of it.
pub const COPY_BYTES_QUEUED_MAX: u32 = 64 << 20;
/// What a copy counts for at least: bounds the number of messages waiting.
pub const COPY_BYTES_MIN: usize = 256;
/// Payload bytes the writer takes at a time: short enough to look soon whether the disk is done.
pub const WRITE_PIECE_BYTES_MAX: usize = 256 << 10;
/// Payload bytes from which on no more is taken for a commit: enough to fill the disk, short enough
/// to answer soon.
pub const COMMIT_BYTES_MAX: usize = 1 << 20;

/// Bytes of send requests that are so little that the writer's thread need not be woken for them.
pub const LITTLE_BYTES_MAX: usize = 32 << 10;
/// Batches of actions that are so little.
pub const LITTLE_ACTIONS_MAX: usize = 16;

/// Send requests that arrived together.
pub type SendBatch = Received<Incoming>;

/// What the store needs to know of a message beside its subject and payload.
#[derive(Clone, Copy, Debug)]
pub struct Incoming {
    /// CRC-32 of the payload, verified.
    pub crc: u32,
    /// What tells it apart, if it may be a repeat.
    pub fingerprint: Option<Fingerprint>,
    /// Whether it asks not to be stored. Such a message never gets as far as here.
    pub is_unretained: bool,
}

/// Actions that belong together.
#[derive(Debug)]
pub struct ActionBatch {
    /// To be appended, in order. Not empty.
    pub actions: Vec<Action>,
    /// What happens when they are in the log.
    pub then: ActionDone,
}

/// What happens when actions are in the log.
#[derive(Debug)]
pub enum ActionDone {
    /// Nothing: the reply did not wait.
    Nothing,
    /// An ack is answered.
    Answer(Responder),
    /// They must be durable; then this is told.
    TellDurable(oneshot::Sender<()>),
}

/// What is appended in the order in which it was queued.
#[derive(Debug)]
pub enum Ordered {
    /// To the actionlog.
    Actions(ActionBatch),
    /// A control, and whom to tell when it is durable. It is dropped untold when it can never be
    /// stored.
    Control(Control, oneshot::Sender<()>),
}

/// Messages the broker itself stores: copies for retry and dead-letter subjects.
#[derive(Debug)]
pub struct CopyBatch {
    /// To be appended, in order, all or none.
    pub messages: Vec<NewMessage>,
    /// Told when they are visible and durable, in async mode too.
    pub then: CopyDone,
}

/// Who is told what became of copies.
pub type CopyDone = oneshot::Sender<Result<(), CopyRefused>>;

/// Why copies were not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CopyRefused {
    /// There is no room; later there may be.
    #[error("disk of the broker is full")]
    DiskFull,
    /// One of them can never be stored.
    #[error("a copy does not fit the store: {0}")]
    Unstorable(&'static str),
}

/// Work taken at once.
#[derive(Debug, Default)]
pub struct Taken {
    /// Send requests, those of a connection in arrival order.
    pub sends: Vec<SendBatch>,
    /// Copies in arrival order.
    pub copies: Vec<CopyBatch>,
    /// Actions and controls in arrival order.
    pub actions: Vec<Ordered>,
    /// Bytes of sends and copies.
    pub bytes: usize,
}

/// Queue between the connections and shards on one side and the writer thread on the other.
#[derive(Debug)]
pub struct Inbox {
    queues: Mailbox<Queues>,
    send_room: Semaphore,
    copy_room: Semaphore,
    action_room: Semaphore,
}

#[derive(Debug, Default)]
struct Queues {
    sends: Lanes<SendBatch>,
    copies: VecDeque<CopyBatch>,
    actions: VecDeque<Ordered>,
}

impl Default for Inbox {
    fn default() -> Self {
        Self {
            queues: Mailbox::default(),
            send_room: Semaphore::new(SENDS_QUEUED_MAX),
            copy_room: Semaphore::new(COPY_BYTES_QUEUED_MAX as usize),
            action_room: Semaphore::new(ACTIONS_QUEUED_WEIGHT_MAX as usize),
        }
    }
}

impl Inbox {
    /// Queues send requests; waits for room.
    ///
    /// # Errors
    /// When the writer has stopped; the requests get no answer then, their outcome is "not stored".
    pub async fn put_send(&self, batch: SendBatch, wake: Wake) -> Result<(), Stopped> {
        forget(self.send_room.acquire().await)?;
        let connection = batch.responder.connection_id();
        let bytes = batch.bytes.len();
        self.put(wake, |queues| queues.sends.push(connection, bytes, batch))
    }

    /// Queues actions or a control; waits for room.
    ///
    /// # Errors
    /// When the writer has stopped.
    pub async fn put_ordered(&self, work: Ordered, wake: Wake) -> Result<(), Stopped> {
        forget(self.action_room.acquire_many(weight(&work)).await)?;
        self.put(wake, |queues| queues.actions.push_back(work))
    }

    /// Queues copies; waits for room.
    ///
    /// # Errors
    /// When the writer has stopped.
    pub async fn put_copies(&self, batch: CopyBatch) -> Result<(), Stopped> {
        forget(self.copy_room.acquire_many(copy_weight(&batch)).await)?;
        self.put(Wake::Now, |queues| queues.copies.push_back(batch))
    }

    fn put(&self, wake: Wake, push: impl FnOnce(&mut Queues)) -> Result<(), Stopped> {
        match wake {
            Wake::Now => self.queues.put(push),
            Wake::Later => self.queues.put_quietly(push),
        }
    }

    /// Sleeps up to `patience` for something to take; `false` once it is closed and empty.
    pub fn wait(&self, patience: Duration, and_actions: Actions) -> bool {
        let is_idle = |queues: &Queues| queues.is_idle(and_actions);
        self.queues.take(patience, is_idle, |queues, closed| {
            !closed || !queues.is_idle(Actions::Take)
        })
    }

    /// Wakes who sleeps in [`Self::wait`], or is about to.
    pub fn call(&self) {
        self.queues.call();
    }

    /// Takes a piece of what is there. Actions only with `and_actions`.
    pub fn take(&self, and_actions: Actions) -> Taken {
        let taken = self.queues.look_into(|queues| queues.take(and_actions));
        self.make_room(&taken);
        taken
    }

    /// Takes all that is there, if it is little and nobody has to wait for the disk because of it.
    /// Sends only with `and_sends`.
    pub fn take_little(&self, and_sends: bool) -> Option<Taken> {
        let taken = self.queues.look_into(|queues| {
            let is_little = queues.is_little() && (and_sends || queues.sends.is_empty());
            is_little.then(|| queues.take(Actions::Take))
        })?;
        self.make_room(&taken);
        Some(taken)
    }

    fn make_room(&self, taken: &Taken) {
        self.send_room.add_permits(taken.sends.len());
        self.action_room
            .add_permits(taken.actions.iter().map(|w| weight(w) as usize).sum());
        self.copy_room
            .add_permits(taken.copies.iter().map(|b| copy_weight(b) as usize).sum());
    }

    /// Whether there is nothing to take.
    #[must_use]
    pub fn is_idle(&self, and_actions: Actions) -> bool {
        self.queues.look_into(|queues| queues.is_idle(and_actions))
    }

    /// Takes no more; what is queued is still written.
    pub fn close(&self) {
        self.queues.close();
        self.send_room.close();
        self.copy_room.close();
        self.action_room.close();
    }
}

/// Whether the writer's thread is woken for what is put into the inbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// It is.
    Now,
    /// The caller does the work, or calls the thread.
    Later,
}

/// Whether actions are to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Actions {
    /// With the sends.
    Take,
    /// Not now: earlier ones still wait for room on the disk.
    Leave,
}

impl Queues {
    fn is_idle(&self, and_actions: Actions) -> bool {
        let no_actions = self.actions.is_empty() || and_actions == Actions::Leave;
        self.sends.is_empty() && self.copies.is_empty() && no_actions
    }

    fn is_little(&self) -> bool {
        let waits_for_disk = |work: &Ordered| match work {
            Ordered::Actions(batch) => matches!(batch.then, ActionDone::TellDurable(_)),
            Ordered::Control(..) => true,
        };
        self.copies.is_empty()
            && self.sends.bytes() <= LITTLE_BYTES_MAX
            && self.actions.len() <= LITTLE_ACTIONS_MAX
            && !self.actions.iter().any(waits_for_disk)
    }

    fn take(&mut self, and_actions: Actions) -> Taken {
        let mut taken = Taken::default();
        self.sends.take(WRITE_PIECE_BYTES_MAX, &mut taken.sends);
        // Sends do not starve copies: those have a share of their own.
        let mut bytes = 0;
        while bytes < WRITE_PIECE_BYTES_MAX {
            let Some(copies) = self.copies.pop_front() else {
                break;
            };
            let payloads = copies.messages.iter().map(|message| message.payload.len());
            bytes += payloads.sum::<usize>();
            taken.copies.push(copies);
        }
        let sends = taken.sends.iter().map(|send| send.bytes.len());
        taken.bytes = bytes + sends.sum::<usize>();
        if and_actions == Actions::Take {
            taken.actions.extend(self.actions.drain(..));
        }
        taken
    }
}

fn copy_weight(batch: &CopyBatch) -> u32 {
    let of = |message: &NewMessage| message.payload.len().max(COPY_BYTES_MIN);
    let bytes: usize = batch.messages.iter().map(of).sum();
    u32::try_from(bytes).map_or(COPY_BYTES_QUEUED_MAX, |bytes| {
        bytes.min(COPY_BYTES_QUEUED_MAX)
    })
}

fn weight(work: &Ordered) -> u32 {
    let Ordered::Actions(batch) = work else {
        return ACTION_WEIGHT_MIN;
    };
    let pulled = |action: &Action| match action {
        Action::Pull { pulls, .. } => u32::try_from(pulls.end - pulls.start).unwrap_or(u32::MAX),
        Action::Ack { .. } | Action::ForeverOffline { .. } => 0,
    };
    let pulled = batch
        .actions
        .iter()
        .map(pulled)
        .fold(0, u32::saturating_add);
    pulled.clamp(ACTION_WEIGHT_MIN, ACTIONS_QUEUED_WEIGHT_MAX)
}

/// The permit is given back when the writer takes the item, not when this guard would be dropped.
fn forget<E>(permit: Result<SemaphorePermit<'_>, E>) -> Result<(), Stopped> {
    permit.map(SemaphorePermit::forget).map_err(|_| Stopped)
}
