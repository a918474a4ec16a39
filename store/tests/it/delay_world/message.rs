//! What the model of a delay store knows about one message.

use bytes::Bytes;
use qmq_store::Pending;

/// What the model says about a message.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fate {
    Pending,
    Begun(&'static str),
    Delivered,
    Cancelled,
    /// Another one took its place.
    Moved,
}

impl Fate {
    pub(super) fn is_done(&self) -> bool {
        matches!(self, Self::Delivered | Self::Cancelled | Self::Moved)
    }
}

/// A message whose number was handed out.
#[derive(Clone, Debug)]
pub(super) struct Message {
    pub(super) entry: Pending,
    pub(super) subject: &'static str,
    pub(super) id: String,
    pub(super) payload: Bytes,
    pub(super) fate: Fate,
    /// What it may be after a power cut: everything it was since it was last surely durable.
    pub(super) since_durable: Vec<Fate>,
    /// What it may be after the process died: everything it was since the last commit.
    pub(super) since_commit: Vec<Fate>,
    /// The commit of its acceptance returned.
    pub(super) is_acked: bool,
    /// It survives a power cut.
    pub(super) is_durable: bool,
}

/// What a message was when a commit was begun.
pub(super) struct InCommit {
    pub(super) number: u64,
    pub(super) fate: Fate,
    /// How much it was since, including what it is.
    pub(super) since_durable: usize,
    pub(super) since_commit: usize,
}

impl InCommit {
    pub(super) fn of((number, message): (&u64, &Message)) -> Self {
        Self {
            number: *number,
            fate: message.fate.clone(),
            since_durable: message.since_durable.len(),
            since_commit: message.since_commit.len(),
        }
    }
}
