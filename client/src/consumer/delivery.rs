//! A message handed to the application.

use std::sync::Arc;

use qmq_model::Message;
use tracing::warn;

use super::group_queue::GroupQueue;

/// A pulled message that waits to be acknowledged.
///
/// Messages of one broker group are confirmed in the order they were pulled: an open delivery holds
/// up the confirmation of those after it. Dropping it without [`Self::ack`] leaves it open. It then
/// comes again when a consumer with this client id starts.
#[derive(Debug)]
pub struct Delivery {
    message: Message,
    queue: Arc<GroupQueue>,
    sequence: i64,
    is_settled: bool,
}

impl Delivery {
    pub(crate) fn new(message: Message, queue: Arc<GroupQueue>, sequence: i64) -> Self {
        Self {
            message,
            queue,
            sequence,
            is_settled: false,
        }
    }

    /// The message. Its subject is the real one, also for messages that came by a retry subject.
    #[must_use]
    pub fn message(&self) -> &Message {
        &self.message
    }

    /// Name of the broker group it came from.
    #[must_use]
    pub fn broker_group(&self) -> &str {
        &self.queue.broker_group
    }

    /// Pull sequence within (broker group, pulled subject, consumer group, client id).
    #[must_use]
    pub fn pull_sequence(&self) -> i64 {
        self.sequence
    }

    /// Done: it shall not come again. The confirmation is sent in the background; should this
    /// process die before, the message comes again.
    pub fn ack(mut self) {
        self.is_settled = true;
        self.queue.complete(self.sequence);
    }

    /// Leaves it open on purpose, because the consumer stops.
    pub(crate) fn leave_open(mut self) {
        self.is_settled = true;
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if !self.is_settled {
            let (subject, message_id) = (&self.message.subject, &self.message.message_id);
            warn!(
                subject,
                message_id, "delivery dropped without ack, acks behind it have to wait"
            );
        }
    }
}
