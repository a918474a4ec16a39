//! Runs a handler for every message, several at a time, again and again until it succeeds.

use std::fmt::Display;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::task::Poll;

use qmq_model::Message;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::delivery::Delivery;
use crate::retry::Backoff;

/// One handler at work for one consumer.
pub(crate) struct Listener<H> {
    /// What the application does with a message.
    pub handler: H,
    /// One permit per handler that may run.
    pub slots: Arc<Semaphore>,
    /// Cancelled when no new run of a handler shall begin.
    pub stop: CancellationToken,
}

impl<H, F, E> Listener<H>
where
    H: Fn(Message) -> F,
    F: Future<Output = Result<(), E>>,
    E: Display,
{
    /// Handles one message to the end. `slot` is given back while a failed one waits for its next
    /// turn, so that messages that always fail do not stop the others.
    pub(crate) async fn handle(&self, delivery: Delivery, slot: OwnedSemaphorePermit) {
        let mut slot = Some(slot);
        let mut failures = 0;
        while slot.is_some() {
            let Err(problem) = self.attempt(delivery.message().clone()).await else {
                delivery.ack();
                return;
            };
            failures += 1;
            let Message {
                subject,
                message_id,
                ..
            } = delivery.message();
            warn!(
                subject,
                message_id, failures, problem, "handler failed, message is kept"
            );
            drop(slot.take());
            slot = self
                .stop
                .run_until_cancelled(self.next_turn(failures))
                .await
                .flatten();
        }
        delivery.leave_open();
    }

    async fn next_turn(&self, failures: u32) -> Option<OwnedSemaphorePermit> {
        tokio::time::sleep(Backoff::CONSUME.delay(failures, rand::random())).await;
        Arc::clone(&self.slots).acquire_owned().await.ok()
    }

    /// One run of the handler. A panic is a failure like any other.
    async fn attempt(&self, message: Message) -> Result<(), String> {
        let run = async { (self.handler)(message).await };
        let mut run = std::pin::pin!(run);
        std::future::poll_fn(|context| {
            // Nothing of a future that panicked is used again: it is dropped with this function.
            let polled = std::panic::catch_unwind(AssertUnwindSafe(|| run.as_mut().poll(context)));
            match polled {
                Ok(Poll::Pending) => Poll::Pending,
                Ok(Poll::Ready(result)) => Poll::Ready(result.map_err(|error| error.to_string())),
                Err(_) => Poll::Ready(Err("the handler panicked".to_owned())),
            }
        })
        .await
    }
}
