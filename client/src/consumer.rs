//! Consumes a subject on behalf of a group: pulls, hands out, confirms.

mod ack_queue;
mod builder;
mod delivery;
mod group_queue;
mod inbox;
mod listener;
mod puller;
mod queue;
mod redelivery;
mod stream;
mod subscription;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use qmq_model::Message;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::TaskTracker;
use tracing::warn;

use crate::error::DrainError;
use crate::link::Cluster;
pub use builder::ConsumerBuilder;
use builder::Session;
pub use delivery::Delivery;
pub use listener::Failure;
use listener::Listener;
pub use queue::Leftovers;
use queue::Works;
pub use redelivery::{NackError, Redelivery};
pub use stream::Deliveries;
use subscription::Subscription;
pub use subscription::TagMatch;

/// Most messages of one [`Consumer::pull`].
const PULL_MAX: usize = 10_000;
/// Shortest wait of [`Consumer::pull`]: a round trip has to fit.
const PULL_WAIT_MIN: Duration = Duration::from_millis(100);
/// Longest wait of [`Consumer::pull`].
const PULL_WAIT_MAX: Duration = Duration::from_secs(5 * 60);
/// Longest time that giving back and confirming may take at the end, beyond the wait that
/// [`Consumer::close`] was given, when handlers have used that up.
const SETTLE_WAIT: Duration = Duration::from_secs(2);
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
        ConsumerBuilder::new(Cluster::Meta(meta_url.into()), app_code.into())
    }

    /// Begins consumers of one broker, `host:port`, that ask no metaserver: nobody else knows of
    /// them, and nobody can take them offline.
    #[must_use]
    pub fn direct(broker: impl Into<String>, app_code: impl Into<String>) -> ConsumerBuilder {
        ConsumerBuilder::new(Cluster::Broker(broker.into()), app_code.into())
    }

    /// Takes up to `max` messages (at most 10 000), waiting up to `wait` (100 ms to 5 minutes) for
    /// the first of them. Empty when none came, or the consumer is closed.
    ///
    /// Every delivery must be settled with [`Delivery::ack`] or [`Delivery::nack`]. Brokers are asked for what is
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
            Some(Ok(deliveries)) => deliveries.into_iter().map(Delivery::handed_out).collect(),
            Some(Err(_)) | None => Vec::new(),
        }
    }

    /// The messages as a stream that ends when the consumer is closed. Every delivery must be
    /// settled with [`Delivery::ack`] or [`Delivery::nack`].
    #[must_use]
    pub fn deliveries(&self) -> Deliveries {
        let works = &self.0.works;
        let wish = works.inbox.wish(works.rules.limits.batch, None);
        Deliveries::new(wish, works.stop.clone())
    }

    /// Runs `handler` for every message, up to `concurrency` (1 to 65 536) at a time, until the
    /// consumer is closed; then waits for the running handlers.
    ///
    /// `Ok` acknowledges the message. After `Err` or a panic it is handed on as by
    /// [`Delivery::nack`], or as by [`Delivery::nack_after`] for [`Failure::retry_after`], for as
    /// long as it takes. Messages of a dead-letter subject have nowhere to go: they are given to the
    /// handler again, first after 100 ms, later every 5 s, until it succeeds or the consumer stops.
    pub async fn run<H, F, E>(&self, handler: H, concurrency: usize)
    where
        H: Fn(Message) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), E>> + Send,
        E: Into<Failure> + Send,
    {
        let works = &self.0.works;
        let concurrency = u32::try_from(concurrency)
            .unwrap_or(u32::MAX)
            .clamp(1, CONCURRENCY_MAX);
        let slots = Arc::new(Semaphore::new(concurrency as usize));
        let stock = works.rules.limits.batch.max(concurrency as usize);
        let mut wish = works.inbox.wish(stock, None);
        let listener = Arc::new(Listener {
            handler,
            slots: Arc::clone(&slots),
            stop: works.stop.clone(),
            abort: works.abort.clone(),
        });
        loop {
            // A slot is not held while waiting for a message, because failed ones need it for
            // another turn; nor a message while waiting for a slot, because it may be given back.
            let turn = async {
                wish.ready().await;
                Arc::clone(&slots).acquire_owned().await
            };
            let Some(Ok(slot)) = works.stop.run_until_cancelled(turn).await else {
                break;
            };
            if works.stop.is_cancelled() {
                break;
            }
            let Some(delivery) = wish.take_ready(1).pop() else {
                continue;
            };
            let (delivery, listener) = (delivery.handed_out(), Arc::clone(&listener));
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
    /// pulled and not handed out are kept or given back, see [`ConsumerBuilder::on_close`];
    /// deliveries that are neither acknowledged nor handed on by then stay open, and come again
    /// when a consumer with this client id starts.
    ///
    /// Handlers get up to `wait`; giving back and confirming get what is left of it, at least 2 s.
    ///
    /// # Errors
    /// When handlers still run, or messages are neither given back nor confirmed, at the end.
    /// Nothing more happens then.
    pub async fn close(&self, wait: Duration) -> Result<(), DrainError> {
        let works = &self.0.works;
        let deadline = Instant::now() + wait;
        works.stop.cancel();
        self.0.handlers.close();
        works.pulls.close();
        works.ackers.close();
        let handled = timeout_at(deadline, self.0.handlers.wait()).await;
        let deadline = deadline.max(Instant::now() + SETTLE_WAIT);
        // Over when it is late: what came of a pull until then is in the inbox.
        let _ = timeout_at(deadline, works.pulls.wait()).await;
        let kept = self.0.settle_leftovers(deadline).await;
        works.drain.cancel();
        let confirmed = timeout_at(deadline, works.ackers.wait()).await;
        let left = [
            (
                "handlers still running",
                handled.map_or(self.0.handlers.len(), |()| 0),
            ),
            ("messages not given back", kept),
            (
                "acknowledged messages not confirmed",
                confirmed.map_or(works.confirmable(), |()| 0),
            ),
        ];
        self.0.end();
        match left.into_iter().find(|(_, left)| *left > 0) {
            Some((what, left)) => Err(DrainError {
                what,
                left,
                waited: wait,
            }),
            None => Ok(()),
        }
    }
}

impl Shared {
    /// Keeps or gives back what nobody has taken; how many should have been given back and were not.
    async fn settle_leftovers(&self, deadline: Instant) -> usize {
        match self.works.rules.leftovers {
            Leftovers::Keep => self.leave_open(),
            Leftovers::GiveBack => {
                let mut returns = JoinSet::new();
                for delivery in self.works.inbox.clear() {
                    returns.spawn(delivery.give_back());
                }
                return give_back_until(deadline, returns).await;
            }
        }
        0
    }

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

/// Waits for copies to be confirmed; how many were not.
async fn give_back_until(
    deadline: Instant,
    mut returns: JoinSet<Result<Redelivery, NackError>>,
) -> usize {
    let mut kept = 0;
    while let Ok(Some(returned)) = timeout_at(deadline, returns.join_next()).await {
        match returned {
            Ok(Ok(_)) => {}
            // A dead-letter subject keeps its messages by itself.
            Ok(Err(error @ NackError::NoRetrySubject { .. })) => {
                error
                    .into_delivery()
                    .into_iter()
                    .for_each(Delivery::leave_open);
            }
            Ok(Err(error)) => {
                warn!(%error, "message not given back");
                kept += 1;
                error
                    .into_delivery()
                    .into_iter()
                    .for_each(Delivery::leave_open);
            }
            Err(_) => kept += 1,
        }
    }
    kept + returns.len()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
