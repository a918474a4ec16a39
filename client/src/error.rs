//! What can go wrong for an application.

use std::time::Duration;

use qmq_model::NameError;
use qmq_model::message::MessageError;

/// Why a producer or consumer cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The metaserver URL cannot be used.
    #[error("metaserver URL {url:?}: {why}; expected http://host:port/meta/address")]
    Url {
        /// What was given.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// The address of a broker cannot be used.
    #[error("broker address {0:?}: expected host:port")]
    Address(String),
    /// A name breaks a rule.
    #[error("{what} {name:?}: {source}")]
    Name {
        /// Which name.
        what: &'static str,
        /// What was given.
        name: String,
        /// The rule.
        source: NameError,
    },
    /// A setting is outside its bounds.
    #[error("{what} must be within {bounds}")]
    Setting {
        /// Which setting.
        what: &'static str,
        /// Its bounds.
        bounds: &'static str,
    },
    /// This builder has an open consumer for the same subject and group: two with one client id
    /// would confirm each other's messages.
    #[error("subject {subject:?} and group {group:?} already have a consumer with this client id")]
    AlreadySubscribed {
        /// The subject.
        subject: String,
        /// The group.
        group: String,
    },
    /// Producers and consumers start tasks.
    #[error("not called from within a tokio runtime")]
    NoRuntime,
    /// The HTTP client for the metaserver cannot be made.
    #[error("cannot make an HTTP client: {0}")]
    Http(String),
}

/// What made a send fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SendErrorKind {
    /// The message breaks a rule, or no request can hold it. Never sent.
    Message,
    /// The queue of the producer is full ([`Producer::try_send`](crate::Producer::try_send) only).
    /// Never sent.
    QueueFull,
    /// The metaserver named no broker group for the subject in time.
    NoRoute,
    /// The producer was closed before there was a result.
    Closed,
    /// The broker is too busy (result 1).
    Busy,
    /// The broker refuses the subject for good (result 5).
    Blocked,
    /// The broker group takes no writes now (result 4).
    ReadOnly,
    /// The broker does not serve the subject (result 3).
    NotAssigned,
    /// The broker could not store it, or not on its slave (result 6).
    Store,
    /// The broker is no master (reply 52).
    Rejected,
    /// No answer in time, or the connection broke after the request had left.
    Timeout,
    /// No connection to the broker.
    Connect,
    /// Another reply code, or a reply that cannot be read.
    Server,
}

/// A message that was not confirmed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("send failed after {attempts} attempts: {kind:?}: {detail}{}", unknown_note(*.outcome_unknown))]
pub struct SendError {
    kind: SendErrorKind,
    detail: String,
    attempts: u32,
    outcome_unknown: bool,
}

const fn unknown_note(outcome_unknown: bool) -> &'static str {
    if outcome_unknown {
        " (it may have been stored)"
    } else {
        ""
    }
}

impl SendError {
    pub(crate) fn new(kind: SendErrorKind, detail: impl Into<String>) -> Self {
        Self {
            kind,
            detail: detail.into(),
            attempts: 0,
            outcome_unknown: false,
        }
    }

    pub(crate) fn after(mut self, attempts: u32, outcome_unknown: bool) -> Self {
        self.attempts = attempts;
        self.outcome_unknown = outcome_unknown;
        self
    }

    /// What made the last attempt fail.
    #[must_use]
    pub fn kind(&self) -> SendErrorKind {
        self.kind
    }

    /// Requests that carried the message.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Whether some attempt may have stored the message although it was never confirmed: consumers
    /// may see it, and a repeated send may be seen twice.
    #[must_use]
    pub fn outcome_unknown(&self) -> bool {
        self.outcome_unknown
    }

    /// Whether the same send can succeed later without any change to the message.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        !matches!(
            self.kind,
            SendErrorKind::Message | SendErrorKind::Blocked | SendErrorKind::Closed
        )
    }
}

impl From<MessageError> for SendError {
    fn from(error: MessageError) -> Self {
        Self::new(SendErrorKind::Message, error.to_string())
    }
}

/// A drain that did not finish in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{left} {what} after {waited:?}")]
pub struct DrainError {
    /// What is left over.
    pub what: &'static str,
    /// How many of them.
    pub left: usize,
    /// How long the drain was given.
    pub waited: Duration,
}
