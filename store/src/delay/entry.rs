//! What a delay store takes and gives: messages, their keys, what becomes of them.

use bytes::Bytes;
use qmq_model::{Subject, UnixMillis};

/// Number of an accepted message: from 1, rising, never used twice in a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AcceptSequence(pub u64);

/// Number of a subject in one delay store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DelaySubject(pub u32);

/// A message to be stored until it is due.
#[derive(Clone, Debug)]
pub struct NewDelayed {
    /// Its subject, which is the one in the payload.
    pub subject: Subject,
    /// When it is due; 0 or above. What is in the past is due at once.
    pub due: UnixMillis,
    /// The message as on the wire behind its CRC; its id is in there.
    pub payload: Bytes,
    /// CRC-32 of the payload; the caller has verified it.
    pub crc: u32,
}

/// A message that waits. Its key is (due, sequence); everything else can be found with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pending {
    /// When it is due.
    pub due: UnixMillis,
    /// Its number.
    pub sequence: AcceptSequence,
    /// Its subject.
    pub subject: DelaySubject,
    /// Bytes of its record on disk: a little more than the payload.
    pub bytes: u32,
}

const _: () = assert!(
    size_of::<Pending>() <= 24,
    "many of them are loaded at a time"
);

impl Pending {
    pub(crate) fn key(&self) -> Key {
        Key {
            due: self.due.0,
            sequence: self.sequence.0,
        }
    }
}

/// Order of messages: by due time, then by arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    /// Milliseconds since 1970, 0 or above.
    pub(crate) due: i64,
    pub(crate) sequence: u64,
}

impl Key {
    /// The lowest key due at `time` or later.
    pub(crate) fn first_at(time: UnixMillis) -> Self {
        Self {
            due: time.0.max(0),
            sequence: 0,
        }
    }
}

/// A message with its payload, read and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DelayedMessage {
    /// Its number.
    pub sequence: AcceptSequence,
    /// When it is due.
    pub due: UnixMillis,
    /// When it was accepted, by the server's clock.
    pub stored_at: UnixMillis,
    /// Its subject.
    pub subject: Subject,
    /// The message, byte for byte as it was accepted.
    pub payload: Bytes,
    /// CRC-32 of the payload.
    pub crc: u32,
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryState {
    /// It waits.
    Pending,
    /// It is being sent to a broker, or was and the outcome is unknown.
    Dispatching,
    /// A broker confirmed it.
    Delivered,
    /// It was cancelled.
    Cancelled,
    /// It was dropped because it was overdue for longer than the configured limit.
    Expired,
}

/// A message that was looked up by subject and id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its key.
    pub entry: Pending,
    /// What had become of it.
    pub state: EntryState,
}

/// A message of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its key.
    pub entry: Pending,
    /// Its subject.
    pub subject: Subject,
    /// Its id.
    pub message_id: Bytes,
    /// [`EntryState::Pending`] or [`EntryState::Dispatching`].
    pub state: EntryState,
}

/// What a cancellation found. Always true at the moment it was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CancelAnswer {
    /// It was pending and will not be delivered.
    Cancelled,
    /// It is being sent, or the outcome of that is unknown: too late.
    Dispatching,
    /// A broker confirmed it: too late.
    Delivered,
    /// It was cancelled before.
    AlreadyCancelled,
    /// It got another due time since it was looked up: look it up again.
    Moved,
    /// It was dropped as overdue before.
    Expired,
    /// The store does not hold it any more.
    Unknown,
}

/// What a change of the due time found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RescheduleAnswer {
    /// It waits under this key now; the old one is gone.
    Rescheduled(Pending),
    /// It is not pending: too late.
    NotPending(EntryState),
    /// It got another due time since it was looked up: look it up again.
    Moved,
    /// The store does not hold it any more.
    Unknown,
}

/// Where [`DelayReader::load`](crate::DelayReader::load) goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadCursor(pub(crate) Key);
