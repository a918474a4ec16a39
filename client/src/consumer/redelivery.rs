//! What becomes of a message that was not handled: a copy for the retry subject, for a delay server,
//! or for the dead-letter subject.

use std::time::Duration;

use qmq_model::message::property;
use qmq_model::{Message, UnixMillis};
use tracing::warn;

use super::delivery::Delivery;
use super::subscription::FailedNames;
use crate::error::{SendError, SendErrorKind};
use crate::producer::Producer;

/// Longest wait for a delay server: without one a message goes to the retry subject instead.
const DELAY_ROUTE_WAIT: Duration = Duration::from_secs(1);
/// Longest time [`Delivery::nack_after`] can ask for, two years: a delay server takes no more.
pub(crate) const RETRY_AFTER_MAX: Duration = Duration::from_secs(730 * 24 * 60 * 60);

/// Where a message went that was not handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Redelivery {
    /// To the retry subject: its group gets it again after the retry delay of the broker (5 s).
    Retry,
    /// To a delay server: its group gets it again at the time asked for.
    Delayed,
    /// To the dead-letter subject: it was delivered as often as it may be.
    DeadLetter,
}

/// A message that could not be handed on. It is not acknowledged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NackError {
    /// No broker confirmed the copy.
    #[error(
        "the copy for {subject:?} was not confirmed, the message stays unacknowledged \
         (into_delivery() and nack() again, or keep it): {source}"
    )]
    Send {
        /// Where the copy was to go.
        subject: String,
        /// Why it did not.
        source: SendError,
        /// What may be tried again.
        delivery: Box<Delivery>,
    },
    /// A dead-letter subject has no retry subject.
    #[error(
        "messages of the dead-letter subject {subject:?} cannot be retried: handle it again, \
         or acknowledge it"
    )]
    NoRetrySubject {
        /// The dead-letter subject.
        subject: String,
        /// What may be acknowledged.
        delivery: Box<Delivery>,
    },
    /// The consumer takes every message at most once, so it was acknowledged when it was handed
    /// out.
    #[error("the message was acknowledged when it was handed out (consume_most_once)")]
    AlreadyAcked,
}

impl NackError {
    /// The message, to try again or to acknowledge.
    #[must_use]
    pub fn into_delivery(self) -> Option<Delivery> {
        match self {
            Self::Send { delivery, .. } | Self::NoRetrySubject { delivery, .. } => Some(*delivery),
            Self::AlreadyAcked => None,
        }
    }
}

/// Hands on what one subscription did not handle.
pub(crate) struct Redeliverer {
    producer: Producer,
    names: Option<FailedNames>,
    group: String,
    max_retries: u32,
}

/// What one message asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    /// It failed: again after the retry delay of the broker.
    Retry,
    /// It failed: again after this time.
    RetryAfter(Duration),
    /// It was not tried: again, without counting.
    GiveBack,
}

impl Redeliverer {
    /// `max_retries` is for messages without a maximum of their own.
    pub(crate) fn new(
        producer: Producer,
        names: Option<FailedNames>,
        group: String,
        max_retries: u32,
    ) -> Self {
        Self {
            producer,
            names,
            group,
            max_retries,
        }
    }

    /// Sends nothing more.
    pub(crate) fn end(&self) {
        self.producer.end();
    }

    /// Sends a copy of `message`; `Ok(None)` when it has no place to go. The original must not be
    /// acknowledged before this succeeds.
    pub(crate) async fn hand_on(
        &self,
        message: &Message,
        wish: Wish,
    ) -> Result<Option<Redelivery>, (String, SendError)> {
        let Some(names) = &self.names else {
            return Ok(None);
        };
        let now = self.producer.now();
        let place = choose(message, wish, self.max_retries);
        if let (Redelivery::Delayed, Wish::RetryAfter(after)) = (place, wish) {
            let mut copy = self.copy(message, wish, now);
            copy.due = Some(now.plus(after.min(RETRY_AFTER_MAX)));
            match self.producer.send_within(copy, DELAY_ROUTE_WAIT).await {
                Ok(()) => return Ok(Some(Redelivery::Delayed)),
                Err(error) if error.kind() == SendErrorKind::Closed => {
                    return Err((message.subject.clone(), error));
                }
                Err(error) => {
                    let (subject, message_id) = (&message.subject, &message.message_id);
                    warn!(
                        subject,
                        message_id, %error, "no delay server took a message to retry later, retry subject instead"
                    );
                }
            }
        }
        let mut copy = self.copy(message, wish, now);
        let (name, place) = match place {
            Redelivery::DeadLetter => (&names.dead_letter, Redelivery::DeadLetter),
            Redelivery::Retry | Redelivery::Delayed => (&names.retry, Redelivery::Retry),
        };
        copy.subject.clone_from(name);
        match self.producer.send(copy).await {
            Ok(()) => Ok(Some(place)),
            Err(error) => Err((name.clone(), error)),
        }
    }

    fn copy(&self, message: &Message, wish: Wish, now: UnixMillis) -> Message {
        let mut copy = message.clone();
        copy.created = now;
        copy.due = None;
        copy.set_property(property::CREATE_TIME, now.to_string());
        copy.set_property(property::CONSUMER_GROUP, &*self.group);
        // Noted by a Java consumer on receipt: it is the number of the original.
        copy.properties
            .retain(|(key, _)| key != property::PULL_OFFSET);
        if wish != Wish::GiveBack {
            copy.set_property(property::TIMES, next_times(message).to_string());
        }
        copy
    }
}

fn next_times(message: &Message) -> u32 {
    message.times().saturating_add(1)
}

/// Where a message goes (pure).
fn choose(message: &Message, wish: Wish, max_retries: u32) -> Redelivery {
    let is_spent = next_times(message) > message.max_retries().unwrap_or(max_retries);
    match wish {
        Wish::GiveBack => Redelivery::Retry,
        Wish::Retry | Wish::RetryAfter(_) if is_spent => Redelivery::DeadLetter,
        Wish::RetryAfter(after) if after >= Duration::from_millis(1) => Redelivery::Delayed,
        Wish::Retry | Wish::RetryAfter(_) => Redelivery::Retry,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deliveries_end_at_the_maximum() {
        let mut message = Message::default();
        assert_eq!(choose(&message, Wish::Retry, 32), Redelivery::Retry);
        assert_eq!(choose(&message, Wish::Retry, 1), Redelivery::DeadLetter);
        assert_eq!(choose(&message, Wish::Retry, 0), Redelivery::DeadLetter);
        message.set_property(property::TIMES, "31");
        assert_eq!(choose(&message, Wish::Retry, 32), Redelivery::Retry);
        message.set_property(property::TIMES, "32");
        assert_eq!(choose(&message, Wish::Retry, 32), Redelivery::DeadLetter);
        let later = Wish::RetryAfter(Duration::from_secs(1));
        assert_eq!(choose(&message, later, 32), Redelivery::DeadLetter);
        // The number of the message itself counts first.
        message.set_max_retries(33);
        assert_eq!(choose(&message, Wish::Retry, 32), Redelivery::Retry);
        message.set_property(property::TIMES, u32::MAX.to_string());
        assert_eq!(choose(&message, Wish::Retry, 32), Redelivery::DeadLetter);
    }

    #[test]
    fn a_time_means_a_delay_server_and_no_time_does_not() {
        let message = Message::default();
        let after = |ms| choose(&message, Wish::RetryAfter(Duration::from_millis(ms)), 32);
        assert_eq!(after(1), Redelivery::Delayed);
        assert_eq!(after(0), Redelivery::Retry);
    }

    #[test]
    fn giving_back_never_ends_in_the_dead_letter_subject() {
        let mut message = Message::default();
        message.set_property(property::TIMES, "99");
        assert_eq!(choose(&message, Wish::GiveBack, 32), Redelivery::Retry);
    }
}
