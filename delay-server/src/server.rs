//! What the handlers of one delay server share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use qmq_model::{Clock, Subject};
use qmq_store::DelayReader;

use crate::inbox::Inbox;
use crate::metrics::Metrics;

/// One delay server, as its handlers see it.
pub struct DelayServer {
    /// Takes sends.
    pub inbox: Arc<Inbox>,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Knows the subjects.
    pub reader: DelayReader,
    /// Largest payload taken, bytes.
    pub message_bytes_max: usize,
    /// Subjects that messages are taken for.
    pub subjects_max: usize,
    /// How far ahead a message may be due.
    pub delay_max: Duration,
    /// Whether messages are taken: the server is online and not stopping.
    pub writable: Arc<AtomicBool>,
}

impl DelayServer {
    /// Whether messages of `subject` are taken. Requests under way may pass the bound together:
    /// it keeps memory in check, it is no quota.
    #[must_use]
    pub fn has_room_for(&self, subject: &Subject) -> bool {
        self.reader.subject_count() < self.subjects_max || self.reader.subject(subject).is_some()
    }

    /// Whether messages are taken.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.writable.load(Ordering::Relaxed)
    }
}
