//! Consumes a subject on behalf of a group: pulls, hands out, confirms.

mod ack_queue;
mod builder;
mod delivery;
mod group_queue;
mod inbox;
mod listener;
mod puller;
mod queue;

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use qmq_model::Message;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::TaskTracker;

use crate::error::DrainError;
pub use builder::ConsumerBuilder;
use builder::{Session, Subscription};
pub use delivery::Delivery;
use listener::Listener;
use queue::Works;

/// Most messages of one [`Consumer::pull`].
const PULL_MAX: usize = 10_000;
/// Shortest wait of [`Consumer::pull`]: a round trip has to fit.
const PULL_WAIT_MIN: Duration = Duration::from_millis(100);
/// Longest wait of [`Consumer::pull`].
const PULL_WAIT_MAX: Duration = Duration::from_secs(5 * 60);
/// Most handlers of one [`Consumer::run`] at a time.
const CONCURRENCY_MAX: u32 = 65_536;

/// A member of a consumer group. Cheap to clone; when the last clone is dropped it stops at once,
/// without the care of [`Self::close`].
#[derive(Clone)]
pub struct Consumer(Arc<Shared>);

struct Shared {
    subscription: Subscription,
    session: Arc<Session>,
    works: Arc<Works>,
    handlers: TaskTracker,
    has_ended: AtomicBool,
}

impl Consumer {
    /// Begins consumers for the cluster whose metaserver answers at `meta_url`, normally
    /// `http://host:8080/meta/address`. `app_code` names the application.
    #[must_use]
    pub fn builder(meta_url: impl Into<String>, app_code: impl Into<String>) -> ConsumerBuilder {
        ConsumerBuilder::new(meta_url.into(), app_code.into())
    }

    /// Takes up to `max` messages (at most 10 000), waiting up to `wait` (100 ms to 5 minutes) for
    /// the first of them. Empty when none came, or the consumer is closed.
    ///
    /// Every delivery must be acknowledged with [`Delivery::ack`]. Brokers are asked for what is
    /// wanted and not more, each of them though: what several deliver at once is kept for the next
    /// call.
    pub async fn pull(&self, max: usize, wait: Duration) -> Vec<Delivery> {
        let works = &self.0.works;
        let max = max.min(PULL_MAX);
        if max == 0 || works.stop.is_cancelled() {
            return Vec::new();
        }
        let until = Instant::now() + wait.clamp(PULL_WAIT_MIN, PULL_WAIT_MAX);
        let mut wish = works.inbox.wish(max, Some(until));
        let taken = timeout_at(until, wish.take(max));
        let taken = works.stop.run_until_cancelled(taken).await;
        match taken {
            Some(Ok(deliveries)) => deliveries,
            Some(Err(_)) | None => Vec::new(),
        }
    }

    /// Runs `handler` for every message, up to `concurrency` (1 to 65 536) at a time, until the
    /// consumer is closed; then waits for the running handlers.
    ///
    /// `Ok` acknowledges the message. After `Err` or a panic the message is given to the handler
    /// again, first after 100 ms, later every 5 s, until it succeeds or the consumer stops; this
    /// holds up the confirmation of what was pulled after it from the same broker group.
    pub async fn run<H, F, E>(&self, handler: H, concurrency: usize)
    where
        H: Fn(Message) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), E>> + Send,
        E: Display,
    {
        let works = &self.0.works;
        let concurrency = u32::try_from(concurrency)
            .unwrap_or(u32::MAX)
            .clamp(1, CONCURRENCY_MAX);
        let slots = Arc::new(Semaphore::new(concurrency as usize));
        let stock = works.limits.batch.max(concurrency as usize);
        let mut wish = works.inbox.wish(stock, None);
        let stop = works.stop.clone();
        let listener = Arc::new(Listener {
            handler,
            slots: Arc::clone(&slots),
            stop,
        });
        while let Some(mut taken) = works.stop.run_until_cancelled(wish.take(1)).await {
            let Some(delivery) = taken.pop() else {
                continue;
            };
            // Not while waiting for a message: failed ones need the slot for another turn.
            let slot = works
                .stop
                .run_until_cancelled(Arc::clone(&slots).acquire_owned())
                .await;
            let Some(Ok(slot)) = slot else {
                delivery.leave_open();
                break;
            };
            let listener = Arc::clone(&listener);
            self.0
                .handlers
                .spawn(async move { listener.handle(delivery, slot).await });
        }
        // Failed handlers end by themselves; running ones keep their slots.
        let _ = slots.acquire_many(concurrency).await;
    }

    /// Whether [`Self::close`] was called.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.0.works.stop.is_cancelled()
    }

    /// Stops pulling, waits for running handlers, and confirms what is finished. Messages that were
    /// pulled and not acknowledged come again when a consumer with this client id starts.
    ///
    /// # Errors
    /// When handlers still run or acks are not confirmed after `wait`. Nothing more happens then.
    pub async fn close(&self, wait: Duration) -> Result<(), DrainError> {
        let works = &self.0.works;
        let deadline = Instant::now() + wait;
        works.stop.cancel();
        self.0.handlers.close();
        let handled = timeout_at(deadline, self.0.handlers.wait()).await;
        self.0.leave_open();
        works.pulls.close();
        works.pulls.wait().await;
        works.drain.cancel();
        works.ackers.close();
        let confirmed = timeout_at(deadline, works.ackers.wait()).await;
        let drained = match (handled, confirmed) {
            (Ok(()), Ok(())) => Ok(()),
            (Err(_), _) => Err(("handlers still running", self.0.handlers.len())),
            (Ok(()), Err(_)) => Err(("acknowledged messages not confirmed", works.confirmable())),
        };
        self.0.end();
        drained.map_err(|(what, left)| DrainError {
            what,
            left,
            waited: wait,
        })
    }
}

impl Shared {
    fn leave_open(&self) {
        self.works
            .inbox
            .clear()
            .into_iter()
            .for_each(Delivery::leave_open);
    }

    fn end(&self) {
        self.works.end();
        // Once only: the same subscription may have been opened again since.
        if !self.has_ended.swap(true, Ordering::SeqCst) {
            lock(&self.session.open).remove(&self.subscription);
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.end();
        self.leave_open();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
