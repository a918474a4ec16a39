//! The way to the writer: bounded queues of sends and of actions, taken in batches.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use qmq_remoting::Responder;
use qmq_store::{Action, NewMessage};
use tokio::sync::{Semaphore, SemaphorePermit, oneshot};

use crate::handler::send::Refused;

/// Send requests that may wait for the writer; their bytes are bounded by the server's budget.
pub const SENDS_QUEUED_MAX: usize = 16_384;
/// Weight of the actions that may wait for the writer. A pull of `n` messages weighs `n`, anything
/// at least [`ACTION_WEIGHT_MIN`].
pub const ACTIONS_QUEUED_WEIGHT_MAX: u32 = 1 << 18;
/// Least weight of a batch of actions: bounds their number to 8192.
pub const ACTION_WEIGHT_MIN: u32 = 32;
/// Payload bytes the writer takes at a time: enough to fill the disk, short enough to answer soon.
pub const WRITE_BATCH_BYTES_MAX: usize = 8 << 20;

/// Messages of one send request that passed all checks.
#[derive(Debug)]
pub struct SendBatch {
    /// To be appended, in order. Not empty.
    pub messages: Vec<NewMessage>,
    /// How many those are; the writer takes them out before it answers.
    pub count: usize,
    /// Those of the same request that were refused.
    pub refused: Vec<Refused>,
    /// Gets the answer.
    pub responder: Responder,
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

/// The writer has stopped: nothing more is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the store has stopped")]
pub struct Stopped;

/// Work taken at once.
#[derive(Debug, Default)]
pub struct Taken {
    /// Send requests in arrival order.
    pub sends: Vec<SendBatch>,
    /// Actions in arrival order.
    pub actions: Vec<ActionBatch>,
}

/// Queue between the connections and shards on one side and the writer thread on the other.
#[derive(Debug)]
pub struct Inbox {
    queues: Mutex<Queues>,
    work: Condvar,
    send_room: Semaphore,
    action_room: Semaphore,
}

#[derive(Debug, Default)]
struct Queues {
    sends: VecDeque<SendBatch>,
    actions: VecDeque<ActionBatch>,
    writer_sleeps: bool,
    closed: bool,
}

impl Default for Inbox {
    fn default() -> Self {
        Self {
            queues: Mutex::default(),
            work: Condvar::new(),
            send_room: Semaphore::new(SENDS_QUEUED_MAX),
            action_room: Semaphore::new(ACTIONS_QUEUED_WEIGHT_MAX as usize),
        }
    }
}

impl Inbox {
    /// Queues a send request; waits for room.
    ///
    /// # Errors
    /// When the writer has stopped; the request gets no answer then, its outcome is "not stored".
    pub async fn put_send(&self, batch: SendBatch) -> Result<(), Stopped> {
        forget(self.send_room.acquire().await)?;
        self.put(|queues| queues.sends.push_back(batch))
    }

    /// Queues actions; waits for room.
    ///
    /// # Errors
    /// When the writer has stopped.
    pub async fn put_actions(&self, batch: ActionBatch) -> Result<(), Stopped> {
        forget(self.action_room.acquire_many(weight(&batch)).await)?;
        self.put(|queues| queues.actions.push_back(batch))
    }

    /// Takes what is there, sleeping up to `patience` for it. Actions only with `and_actions`.
    /// `None` once it is closed and empty.
    pub fn take(&self, patience: Duration, and_actions: Actions) -> Option<Taken> {
        let mut queues = self.lock();
        if queues.is_idle(and_actions) && !queues.closed {
            queues.writer_sleeps = true;
            let waited = self.work.wait_timeout_while(queues, patience, |queues| {
                queues.is_idle(and_actions) && !queues.closed
            });
            queues = waited.unwrap_or_else(PoisonError::into_inner).0;
            queues.writer_sleeps = false;
        }
        if queues.closed && queues.sends.is_empty() && queues.actions.is_empty() {
            return None;
        }
        let taken = queues.take(and_actions);
        drop(queues);
        self.send_room.add_permits(taken.sends.len());
        self.action_room
            .add_permits(taken.actions.iter().map(|b| weight(b) as usize).sum());
        Some(taken)
    }

    /// Takes no more; what is queued is still written.
    pub fn close(&self) {
        self.lock().closed = true;
        self.send_room.close();
        self.action_room.close();
        self.work.notify_one();
    }

    fn put(&self, push: impl FnOnce(&mut Queues)) -> Result<(), Stopped> {
        let mut queues = self.lock();
        if queues.closed {
            return Err(Stopped);
        }
        push(&mut queues);
        let sleeps = std::mem::take(&mut queues.writer_sleeps);
        drop(queues);
        if sleeps {
            self.work.notify_one();
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Queues> {
        // Pushes and drains leave the queues whole, so a panic elsewhere does not spoil them.
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
        self.sends.is_empty() && (self.actions.is_empty() || and_actions == Actions::Leave)
    }

    fn take(&mut self, and_actions: Actions) -> Taken {
        let mut taken = Taken::default();
        let mut bytes = 0;
        while bytes < WRITE_BATCH_BYTES_MAX {
            let Some(send) = self.sends.pop_front() else {
                break;
            };
            bytes += send
                .messages
                .iter()
                .map(|message| message.payload.len())
                .sum::<usize>();
            taken.sends.push(send);
        }
        if and_actions == Actions::Take {
            taken.actions.extend(self.actions.drain(..));
        }
        taken
    }
}

fn weight(batch: &ActionBatch) -> u32 {
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
