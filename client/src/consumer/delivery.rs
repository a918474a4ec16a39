//! A message handed to the application.

use std::sync::Arc;
use std::time::Duration;

use qmq_model::Message;
use tracing::warn;

use super::group_queue::GroupQueue;
use super::redelivery::{NackError, Redelivery, Wish};

/// A pulled message that waits to be acknowledged.
///
/// Messages of one broker group are confirmed in the order they were pulled: an open delivery holds
/// up the confirmation of those after it. Dropping it without [`Self::ack`] or [`Self::nack`] leaves
/// it open. It then comes again when a consumer with this client id starts.
#[derive(Debug)]
pub struct Delivery {
    message: Message,
    queue: Arc<GroupQueue>,
    sequence: i64,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nobody has decided.
    Open,
    /// Decided.
    Settled,
    /// Acknowledged when it was handed out.
    AckedBefore,
}

impl Delivery {
    pub(crate) fn new(message: Message, queue: Arc<GroupQueue>, sequence: i64) -> Self {
        Self {
            message,
            queue,
            sequence,
            state: State::Open,
        }
    }

    /// The message. Its subject is the real one, also for messages that came by a retry subject.
    #[must_use]
    pub fn message(&self) -> &Message {
        &self.message
    }

    /// How often it was delivered to its group, this time included. What a broker hands out again
    /// because nobody confirmed it does not count; copies in the retry subject do.
    #[must_use]
    pub fn times(&self) -> u32 {
        self.message.times()
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
        self.complete();
    }

    /// It failed: a copy that counts one delivery more goes to the retry subject, or to the
    /// dead-letter subject if it was delivered as often as it may be, on any broker group. The
    /// original is acknowledged once the copy is confirmed. Should this process die between the two,
    /// the message comes twice.
    ///
    /// Dropping the future keeps the message open, and a copy may come all the same.
    ///
    /// # Errors
    /// When no broker confirmed the copy within the attempts of a producer (4 s and more), or
    /// nothing can be retried. The error holds the delivery.
    pub async fn nack(self) -> Result<Redelivery, NackError> {
        self.hand_on(Wish::Retry).await
    }

    /// As [`Self::nack`], but not to come again before `after` (up to two years) has passed: the
    /// copy goes to a delay server. Where there is none, or none takes it, the copy goes to the
    /// retry subject and comes after the retry delay of the broker; the result says which.
    ///
    /// # Errors
    /// As [`Self::nack`].
    pub async fn nack_after(self, after: Duration) -> Result<Redelivery, NackError> {
        self.hand_on(Wish::RetryAfter(after)).await
    }

    /// Puts it into the retry subject without counting it as delivered, because the consumer stops.
    pub(crate) async fn give_back(self) -> Result<Redelivery, NackError> {
        self.hand_on(Wish::GiveBack).await
    }

    async fn hand_on(mut self, wish: Wish) -> Result<Redelivery, NackError> {
        if self.state == State::AckedBefore {
            return Err(NackError::AlreadyAcked);
        }
        let redeliverer = &self.queue.rules.redeliverer;
        match redeliverer.hand_on(&self.message, wish).await {
            Ok(Some(place)) => {
                self.complete();
                Ok(place)
            }
            Ok(None) => Err(NackError::NoRetrySubject {
                subject: self.message.subject.clone(),
                delivery: Box::new(self),
            }),
            Err((subject, source)) => Err(NackError::Send {
                subject,
                source,
                delivery: Box::new(self),
            }),
        }
    }

    /// It is about to be handed out.
    pub(crate) fn handed_out(mut self) -> Self {
        if self.queue.rules.selection.is_most_once {
            self.complete();
            self.state = State::AckedBefore;
        }
        self
    }

    /// Leaves it open on purpose, because the consumer stops.
    pub(crate) fn leave_open(mut self) {
        self.state = State::Settled;
    }

    fn complete(&mut self) {
        self.state = State::Settled;
        self.queue.complete(self.sequence);
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if self.state == State::Open {
            let (subject, message_id) = (&self.message.subject, &self.message.message_id);
            warn!(
                subject,
                message_id, "delivery dropped without ack, acks behind it have to wait"
            );
        }
    }
}
