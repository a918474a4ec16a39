//! What people may do with messages that wait: cancel, reschedule, find, count and list them.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use qmq_model::{Subject, UnixMillis};
use qmq_store::{CancelAnswer, DelayReader, EntryState, Error, Found, Listed, RescheduleAnswer};
use tokio::sync::{Semaphore, oneshot};

use crate::inbox::{Inbox, NotDone, Order};

/// Calls carried out at a time; further ones wait.
pub const CALLS_MAX: usize = 16;
/// How often a message is looked up again whose due time somebody else changes meanwhile.
const LOOK_UPS_MAX: usize = 5;
/// Messages of one list.
pub const LIST_MAX: usize = 1000;

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The store cannot be read.
    #[error("the store cannot be read: {0}")]
    Store(#[from] Error),
    /// Some of it was not done; what was before stays done.
    #[error(transparent)]
    NotDone(#[from] NotDone),
    /// Somebody else changed the due time each time it was looked up.
    #[error("the due time of the message is being changed by others; try again")]
    Contended,
    /// The server is stopping.
    #[error("the delay server is stopping")]
    Stopping,
}

/// What became of one copy of a message, and when it is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// When it is due; after a change the new time.
    pub due: UnixMillis,
    /// What became of it.
    pub answer: &'static str,
}

/// Carries out calls. Cheap to clone.
#[derive(Clone)]
pub struct Control {
    reader: DelayReader,
    inbox: Arc<Inbox>,
    calls: Arc<Semaphore>,
}

impl Control {
    /// Works on the store behind `reader` and `inbox`.
    #[must_use]
    pub fn new(reader: DelayReader, inbox: Arc<Inbox>) -> Self {
        Self {
            reader,
            inbox,
            calls: Arc::new(Semaphore::new(CALLS_MAX)),
        }
    }

    /// Cancels every copy of a message that is not too late. The answer is durable.
    ///
    /// # Errors
    /// When something of it was not done.
    pub async fn cancel(&self, subject: Subject, id: String) -> Result<Vec<Entry>, CallError> {
        let mut entries = Vec::new();
        let mut asked = HashSet::new();
        for _ in 0..LOOK_UPS_MAX {
            let mut was_moved = false;
            for found in self.look_up(&subject, &id).await? {
                if !asked.insert(found.entry.sequence) {
                    continue;
                }
                let answer = self.order(|tell| Order::Cancel(found, tell)).await?;
                was_moved |= matches!(answer, CancelAnswer::Moved | CancelAnswer::Unknown);
                if let Some(answer) = cancelled(answer) {
                    let due = found.entry.due;
                    entries.push(Entry { due, answer });
                }
            }
            if !was_moved {
                return Ok(entries);
            }
        }
        Err(CallError::Contended)
    }

    /// Gives every copy of a message that is not too late another due time. The answer is durable.
    ///
    /// # Errors
    /// When something of it was not done.
    pub async fn reschedule(
        &self,
        subject: Subject,
        id: String,
        due: UnixMillis,
    ) -> Result<Vec<Entry>, CallError> {
        let mut entries = Vec::new();
        let mut asked = HashSet::new();
        for _ in 0..LOOK_UPS_MAX {
            let mut was_moved = false;
            for found in self.look_up(&subject, &id).await? {
                if !asked.insert(found.entry.sequence) {
                    continue;
                }
                let order = self.order(|tell| Order::Reschedule(found, due, tell));
                let (due, answer) = match order.await? {
                    RescheduleAnswer::Rescheduled(entry) => {
                        asked.insert(entry.sequence);
                        (entry.due, "rescheduled")
                    }
                    RescheduleAnswer::NotPending(state) => (found.entry.due, too_late(state)),
                    // It is there under another key, or done and forgotten.
                    RescheduleAnswer::Moved | RescheduleAnswer::Unknown => {
                        was_moved = true;
                        continue;
                    }
                };
                entries.push(Entry { due, answer });
            }
            if !was_moved {
                return Ok(entries);
            }
        }
        Err(CallError::Contended)
    }

    /// Every copy of a message that the store still holds.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn find(&self, subject: Subject, id: String) -> Result<Vec<Entry>, CallError> {
        let found = self.look_up(&subject, &id).await?;
        let entries = found.into_iter().map(|found| Entry {
            due: found.entry.due,
            answer: state(found.state),
        });
        Ok(entries.collect())
    }

    /// How many messages wait.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn count(
        &self,
        subject: Option<Subject>,
        due: Range<UnixMillis>,
    ) -> Result<u64, CallError> {
        self.read(move |reader| reader.count(subject.as_ref(), due))
            .await
    }

    /// The first messages that wait, by due time; at most `max` and [`LIST_MAX`].
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn list(
        &self,
        subject: Option<Subject>,
        due: Range<UnixMillis>,
        max: usize,
    ) -> Result<Vec<Listed>, CallError> {
        self.read(move |reader| {
            let mut listed = Vec::new();
            let max = max.min(LIST_MAX);
            reader.list(subject.as_ref(), due, None, max, &mut listed)?;
            Ok(listed)
        })
        .await
    }

    async fn look_up(&self, subject: &Subject, id: &str) -> Result<Vec<Found>, CallError> {
        let (subject, id) = (subject.clone(), id.to_owned());
        self.read(move |reader| reader.find(&subject, id.as_bytes()))
            .await
    }

    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&DelayReader) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, CallError> {
        let calls = Arc::clone(&self.calls);
        let Ok(permit) = calls.acquire_owned().await else {
            return Err(CallError::Stopping);
        };
        let reader = self.reader.clone();
        let read = tokio::task::spawn_blocking(move || {
            let result = read(&reader);
            drop(permit);
            result
        });
        match read.await {
            Ok(result) => Ok(result?),
            Err(_) => Err(CallError::Stopping),
        }
    }

    async fn order<T>(
        &self,
        order: impl FnOnce(oneshot::Sender<Result<T, NotDone>>) -> Order,
    ) -> Result<T, CallError> {
        let (tell, told) = oneshot::channel();
        let put = self.inbox.put_order(order(tell));
        put.map_err(|_| CallError::Stopping)?;
        match told.await {
            Ok(result) => Ok(result?),
            Err(_) => Err(CallError::Stopping),
        }
    }
}

/// `None`: the store holds it no more, or it is to be looked up again.
fn cancelled(answer: CancelAnswer) -> Option<&'static str> {
    Some(match answer {
        CancelAnswer::Cancelled => "cancelled",
        CancelAnswer::Dispatching => too_late(EntryState::Dispatching),
        CancelAnswer::Delivered => too_late(EntryState::Delivered),
        CancelAnswer::AlreadyCancelled => too_late(EntryState::Cancelled),
        CancelAnswer::Expired => too_late(EntryState::Expired),
        CancelAnswer::Moved | CancelAnswer::Unknown => return None,
    })
}

fn too_late(found: EntryState) -> &'static str {
    match found {
        EntryState::Cancelled => "already cancelled",
        other => state(other),
    }
}

fn state(state: EntryState) -> &'static str {
    match state {
        EntryState::Pending => "pending",
        EntryState::Dispatching => "dispatching",
        EntryState::Delivered => "delivered",
        EntryState::Cancelled => "cancelled",
        EntryState::Expired => "expired",
    }
}
