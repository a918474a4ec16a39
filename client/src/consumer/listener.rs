//! Runs a handler for every message, several at a time, and hands on what it could not handle.

use std::fmt::Display;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use qmq_model::Message;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::delivery::Delivery;
use super::redelivery::NackError;
use crate::error::SendErrorKind;
use crate::retry::Backoff;

/// Why a handler did not handle a message, and when to try again. Whatever can be displayed becomes
/// one: `Err("out of stock")` is enough.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    reason: String,
    after: Option<Duration>,
}

impl Failure {
    /// The message comes again, not before `after` has passed, see [`Delivery::nack_after`].
    #[must_use]
    pub fn retry_after(after: Duration, reason: impl Display) -> Self {
        Self {
            reason: reason.to_string(),
            after: Some(after),
        }
    }
}

/// The message comes again after the retry delay of the broker, see [`Delivery::nack`].
impl<E: Display> From<E> for Failure {
    fn from(error: E) -> Self {
        Self {
            reason: error.to_string(),
            after: None,
        }
    }
}

/// One handler at work for one consumer.
pub(crate) struct Listener<H> {
    /// What the application does with a message.
    pub handler: H,
    /// One permit per handler that may run.
    pub slots: Arc<Semaphore>,
    /// Cancelled when no new run of a handler shall begin.
    pub stop: CancellationToken,
    /// Cancelled when nothing is sent any more.
    pub abort: CancellationToken,
}

impl<H, F, E> Listener<H>
where
    H: Fn(Message) -> F,
    F: Future<Output = Result<(), E>>,
    E: Into<Failure>,
{
    /// Handles one message to the end. `slot` is given back before a failed one is handed on, so
    /// that messages that always fail do not stop the others.
    pub(crate) async fn handle(&self, delivery: Delivery, slot: OwnedSemaphorePermit) {
        let (mut delivery, mut slot) = (delivery, Some(slot));
        let mut failures = 0;
        while slot.is_some() {
            let Err(failure) = self.attempt(delivery.message().clone()).await else {
                delivery.ack();
                return;
            };
            failures += 1;
            let (message, times) = (delivery.message(), delivery.times());
            let (subject, message_id) = (&message.subject, &message.message_id);
            warn!(
                subject,
                message_id,
                times,
                problem = failure.reason,
                "handler failed"
            );
            drop(slot.take());
            let Some(kept) = self.hand_on(delivery, failure.after).await else {
                return;
            };
            delivery = kept;
            slot = self
                .stop
                .run_until_cancelled(self.next_turn(failures))
                .await
                .flatten();
        }
        delivery.leave_open();
    }

    /// Hands on a message that failed, until somebody takes it or the consumer ends. Returns one
    /// that has to be handled here again, because nothing comes after a dead-letter subject.
    async fn hand_on(&self, delivery: Delivery, after: Option<Duration>) -> Option<Delivery> {
        let mut delivery = delivery;
        let mut failures = 0;
        loop {
            let handed_on = match after {
                Some(after) => delivery.nack_after(after).await,
                None => delivery.nack().await,
            };
            let error = match handed_on {
                Ok(place) => {
                    debug!(?place, "message handed on");
                    return None;
                }
                Err(error) => error,
            };
            let is_closed = match &error {
                NackError::Send { source, .. } => source.kind() == SendErrorKind::Closed,
                NackError::NoRetrySubject { .. } => return error.into_delivery(),
                // It was to be handled once at most.
                NackError::AlreadyAcked => return None,
            };
            warn!(%error, "message not handed on");
            delivery = error.into_delivery()?;
            failures += 1;
            let pause = tokio::time::sleep(Backoff::CONSUME.delay(failures, rand::random()));
            if is_closed || self.abort.run_until_cancelled(pause).await.is_none() {
                delivery.leave_open();
                return None;
            }
        }
    }

    async fn next_turn(&self, failures: u32) -> Option<OwnedSemaphorePermit> {
        tokio::time::sleep(Backoff::CONSUME.delay(failures, rand::random())).await;
        Arc::clone(&self.slots).acquire_owned().await.ok()
    }

    /// One run of the handler. A panic is a failure like any other.
    async fn attempt(&self, message: Message) -> Result<(), Failure> {
        let run = async { (self.handler)(message).await };
        let mut run = std::pin::pin!(run);
        std::future::poll_fn(|context| {
            // Nothing of a future that panicked is used again: it is dropped with this function.
            let polled = std::panic::catch_unwind(AssertUnwindSafe(|| run.as_mut().poll(context)));
            match polled {
                Ok(Poll::Pending) => Poll::Pending,
                Ok(Poll::Ready(result)) => Poll::Ready(result.map_err(Into::into)),
                Err(_) => Poll::Ready(Err("the handler panicked".into())),
            }
        })
        .await
    }
}
