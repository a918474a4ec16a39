//! Sends messages: checks, queues, batches, repeats, and reports the final result of each.

mod builder;
mod dispatch;
mod lanes;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use qmq_model::message::property;
use qmq_model::{Clock, Message, UnixMillis};
use qmq_protocol::command::client_register::ClientType;
use qmq_protocol::command::send::CRC_BYTES;
use qmq_protocol::frame::BODY_BYTES_MAX;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::balance::RoundRobin;
use crate::error::{DrainError, SendError, SendErrorKind};
use crate::identity::MessageIds;
use crate::link::{Cluster, Link, RouteKey};
use crate::route::Route;
pub use builder::ProducerBuilder;
use dispatch::{Destination, Dispatcher, Pending};

/// How long after its creation a message says it is out of date. Nobody enforces it.
const EXPIRES_AFTER: Duration = Duration::from_secs(15 * 60);
/// Subjects whose routes a producer keeps fresh; beyond that the one used longest ago is dropped.
const SUBJECTS_MAX: usize = 10_000;

/// Sends messages to the brokers of a cluster. Cheap to clone; all clones share queue and
/// connections.
#[derive(Clone)]
pub struct Producer(Arc<Shared>);

struct Shared {
    link: Arc<Link>,
    client_id: String,
    app_code: String,
    queue_max: usize,
    room: Arc<Semaphore>,
    room_bytes: Arc<Semaphore>,
    route_wait: Duration,
    clock: Arc<dyn Clock>,
    environment: Option<(String, String)>,
    ids: MessageIds,
    destinations: Mutex<HashMap<RouteKey, Used>>,
    uses: AtomicU64,
    dispatcher: Arc<Dispatcher>,
    closed: CancellationToken,
    abort: CancellationToken,
    _abort_on_drop: DropGuard,
}

struct Used {
    destination: Arc<Destination>,
    last: u64,
}

/// A checked message.
struct Prepared {
    key: RouteKey,
    message_id: Box<[u8]>,
    payload: Bytes,
}

impl Producer {
    /// Begins a producer for the cluster whose metaserver answers at `meta_url`, normally
    /// `http://host:8080/meta/address`. `app_code` names the application.
    #[must_use]
    pub fn builder(meta_url: impl Into<String>, app_code: impl Into<String>) -> ProducerBuilder {
        ProducerBuilder::new(Cluster::Meta(meta_url.into()), app_code.into())
    }

    /// Begins a producer that sends everything to one broker, `host:port`, and asks no metaserver.
    /// Messages for later go there too, so it has to be a delay server for those.
    #[must_use]
    pub fn direct(broker: impl Into<String>, app_code: impl Into<String>) -> ProducerBuilder {
        ProducerBuilder::new(Cluster::Broker(broker.into()), app_code.into())
    }

    /// A message for `subject` with an id of its own, its times and the application's name.
    #[must_use]
    pub fn message(&self, subject: impl Into<String>) -> Message {
        let now = self.0.clock.now();
        let mut message = Message {
            subject: subject.into(),
            message_id: self.0.ids.next(now),
            created: now,
            ..Message::default()
        };
        message.set_property(property::CREATE_TIME, now.to_string());
        message.set_property(property::EXPIRE_TIME, now.plus(EXPIRES_AFTER).to_string());
        message.set_property(property::APP_CODE, &*self.0.app_code);
        if let Some((env, sub_env)) = &self.0.environment {
            message.set_property(property::ENVIRONMENT, env);
            message.set_property(property::SUB_ENVIRONMENT, sub_env);
        }
        message
    }

    /// Sends one message and waits for its final result: `Ok` once a broker has confirmed it.
    ///
    /// Concurrent sends share requests. While the queue is full this waits for room. Dropping the
    /// future does not take back a message that was queued.
    ///
    /// # Errors
    /// When the message breaks a rule (at once), no broker is known in time, a broker refuses it
    /// for good, or no attempt was confirmed. See [`SendError::outcome_unknown`].
    pub async fn send(&self, message: Message) -> Result<(), SendError> {
        self.send_within(message, self.0.route_wait).await
    }

    /// As [`Self::send`], waiting up to `route_wait` for the first brokers of the subject.
    pub(crate) async fn send_within(
        &self,
        message: Message,
        route_wait: Duration,
    ) -> Result<(), SendError> {
        let prepared = self.0.prepare(message)?;
        let room = self.0.until_closed(self.0.wait_for_room(&prepared)).await?;
        self.0.carry(prepared, room, route_wait).await
    }

    /// As [`Self::send`], but fails at once when the queue is full.
    ///
    /// # Errors
    /// As [`Self::send`], and [`SendErrorKind::QueueFull`].
    pub async fn try_send(&self, message: Message) -> Result<(), SendError> {
        let prepared = self.0.prepare(message)?;
        let room = self.0.try_room(&prepared)?;
        self.0.carry(prepared, room, self.0.route_wait).await
    }

    /// The time now, by the clock of the producer.
    pub(crate) fn now(&self) -> UnixMillis {
        self.0.clock.now()
    }

    /// Ends every send without a result, and all later ones.
    pub(crate) fn end(&self) {
        self.0.closed.cancel();
        self.0.abort.cancel();
        lock(&self.0.destinations).clear();
    }

    /// Messages without a result.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.0.queue_max - self.0.room.available_permits()
    }

    /// Waits until no message is without a result.
    ///
    /// # Errors
    /// When there are some after `wait`.
    pub async fn flush(&self, wait: Duration) -> Result<(), DrainError> {
        let all = u32::try_from(self.0.queue_max).expect("the builder bounds it");
        let drained = tokio::time::timeout(wait, self.0.room.acquire_many(all)).await;
        match drained {
            Ok(_) => Ok(()),
            Err(_) => Err(DrainError {
                what: "messages without a result",
                left: self.pending(),
                waited: wait,
            }),
        }
    }

    /// Takes no more messages, waits until every one has a result, and stops. After `wait` those
    /// without one end with [`SendErrorKind::Closed`].
    ///
    /// # Errors
    /// When some had no result after `wait`.
    pub async fn close(&self, wait: Duration) -> Result<(), DrainError> {
        self.0.closed.cancel();
        let drained = self.flush(wait).await;
        self.end();
        drained
    }
}

impl Shared {
    /// Checks a message and decides, once, whether it is for a delay server.
    fn prepare(&self, mut message: Message) -> Result<Prepared, SendError> {
        let now = self.clock.now();
        message.due = message.due.filter(|&due| due > now);
        if let Some(due) = message.due {
            message.set_property(property::SCHEDULE_TIME, due.to_string());
        }
        let payload = message.to_payload()?;
        let bytes = CRC_BYTES + payload.len();
        if bytes > BODY_BYTES_MAX {
            let detail =
                format!("message of {bytes} bytes, at most {BODY_BYTES_MAX} fit a request");
            return Err(SendError::new(SendErrorKind::Message, detail));
        }
        let key = RouteKey {
            client_type: client_type(message.due),
            subject: message.subject,
            group: String::new(),
            client_id: self.client_id.clone(),
        };
        Ok(Prepared {
            key,
            message_id: message.message_id.into_bytes().into(),
            payload,
        })
    }

    async fn wait_for_room(
        &self,
        prepared: &Prepared,
    ) -> Result<[OwnedSemaphorePermit; 2], SendError> {
        let closed = |_| SendError::new(SendErrorKind::Closed, "the producer is closed");
        let one = Arc::clone(&self.room)
            .acquire_owned()
            .await
            .map_err(closed)?;
        let bytes = Arc::clone(&self.room_bytes).acquire_many_owned(prepared.permits());
        Ok([one, bytes.await.map_err(closed)?])
    }

    fn try_room(&self, prepared: &Prepared) -> Result<[OwnedSemaphorePermit; 2], SendError> {
        let full = |_| {
            SendError::new(
                SendErrorKind::QueueFull,
                "the queue of the producer is full",
            )
        };
        let one = Arc::clone(&self.room).try_acquire_owned().map_err(full)?;
        let bytes = Arc::clone(&self.room_bytes).try_acquire_many_owned(prepared.permits());
        Ok([one, bytes.map_err(full)?])
    }

    /// Finds the brokers, hands the message over, and waits for the result.
    async fn carry(
        &self,
        prepared: Prepared,
        room: [OwnedSemaphorePermit; 2],
        route_wait: Duration,
    ) -> Result<(), SendError> {
        let Prepared {
            key,
            message_id,
            payload,
        } = prepared;
        let destination = self.destination(key);
        let routed = async {
            let groups = destination.route.first_groups(route_wait).await;
            groups.map_err(|why| SendError::new(SendErrorKind::NoRoute, why))
        };
        self.until_closed(routed).await?;
        let (reply, result) = oneshot::channel();
        let pending = Pending {
            payload,
            message_id,
            destination,
            group: "".into(),
            reply,
            attempts: 0,
            outcome_unknown: false,
            unsure: None,
            room,
        };
        self.dispatcher.submit(pending, None);
        let lost = |_| {
            let error = SendError::new(SendErrorKind::Closed, "the runtime shuts down");
            Err(error.after(0, true))
        };
        result.await.unwrap_or_else(lost)
    }

    async fn until_closed<T>(
        &self,
        work: impl Future<Output = Result<T, SendError>>,
    ) -> Result<T, SendError> {
        let closed = SendError::new(SendErrorKind::Closed, "the producer is closed");
        if self.closed.is_cancelled() {
            return Err(closed);
        }
        self.closed
            .run_until_cancelled(work)
            .await
            .unwrap_or(Err(closed))
    }

    fn destination(&self, key: RouteKey) -> Arc<Destination> {
        let last = self.uses.fetch_add(1, Ordering::Relaxed);
        let mut destinations = lock(&self.destinations);
        if let Some(used) = destinations.get_mut(&key) {
            used.last = last;
            return Arc::clone(&used.destination);
        }
        if destinations.len() >= SUBJECTS_MAX {
            let oldest = destinations.iter().min_by_key(|(_, used)| used.last);
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                destinations.remove(&oldest);
            }
        }
        let destination = Arc::new(Destination {
            route: Route::open(Arc::clone(&self.link), key.clone()),
            turns: Mutex::new(RoundRobin::starting_at(rand::random::<u16>().into())),
        });
        destinations.insert(
            key,
            Used {
                destination: Arc::clone(&destination),
                last,
            },
        );
        destination
    }
}

impl Prepared {
    fn permits(&self) -> u32 {
        u32::try_from(self.payload.len()).expect("prepare() bounds it")
    }
}

/// A message that is due later goes to a delay server, however soon it is due: a broker would
/// deliver it at once.
fn client_type(due: Option<UnixMillis>) -> ClientType {
    if due.is_some() {
        ClientType::DelayProducer
    } else {
        ClientType::Producer
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
