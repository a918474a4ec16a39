//! What the rules know of a message that waits: everything but its bytes.

use qmq_model::UnixMillis;

/// Names a message inside one server: counts what was ever accepted, from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AcceptSequence(pub u64);

/// Names a subject inside one server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DelaySubject(pub u32);

/// A message that waits for its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending {
    /// It must not leave before.
    pub due: UnixMillis,
    /// Its name.
    pub sequence: AcceptSequence,
    /// The subject it goes to.
    pub subject: DelaySubject,
    /// Bytes it takes, about.
    pub bytes: u32,
}
