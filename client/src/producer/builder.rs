//! Settings of a producer, and their bounds.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use qmq_model::{Clock, SystemClock};
use qmq_protocol::frame::BODY_BYTES_MAX;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::dispatch::{DispatchLimits, Dispatcher};
use super::lanes::LaneLimits;
use super::{Producer, Shared};
use crate::error::BuildError;
use crate::identity::{MessageIds, check_client_id, default_client_id};
use crate::link::{Cluster, Link};

/// Upper bound of [`ProducerBuilder::queue_max`] and [`ProducerBuilder::queue_bytes_max`].
const QUEUE_LIMIT: usize = u32::MAX as usize / 2;

const _: () = assert!(QUEUE_LIMIT <= Semaphore::MAX_PERMITS);

/// Settings of a [`Producer`].
#[derive(Clone)]
pub struct ProducerBuilder {
    cluster: Cluster,
    app_code: String,
    client_id: Option<String>,
    queue_max: usize,
    queue_bytes_max: usize,
    route_wait: Duration,
    limits: DispatchLimits,
    clock: Arc<dyn Clock>,
    environment: Option<(String, String)>,
}

impl ProducerBuilder {
    pub(crate) fn new(cluster: Cluster, app_code: String) -> Self {
        Self {
            cluster,
            app_code,
            client_id: None,
            queue_max: 10_000,
            queue_bytes_max: 64 * 1024 * 1024,
            route_wait: Duration::from_secs(3),
            limits: DispatchLimits {
                attempts_max: 10,
                same_group_max: 6,
                request_wait: Duration::from_secs(5),
                lane: LaneLimits {
                    batch_max: 30,
                    batch_bytes_max: 1024 * 1024,
                    in_flight_max: 4,
                },
            },
            clock: Arc::new(SystemClock),
            environment: None,
        }
    }

    /// The id the metaserver lists this producer under. Default: host name and a hash of the
    /// program's path.
    #[must_use]
    pub fn client_id(mut self, id: impl Into<String>) -> Self {
        self.client_id = Some(id.into());
        self
    }

    /// Most messages without a result. A further [`Producer::send`] waits. Default: 10 000.
    #[must_use]
    pub fn queue_max(mut self, messages: usize) -> Self {
        self.queue_max = messages;
        self
    }

    /// Most bytes of messages without a result. Default: 64 MiB, at least one longest message.
    #[must_use]
    pub fn queue_bytes_max(mut self, bytes: usize) -> Self {
        self.queue_bytes_max = bytes;
        self
    }

    /// Most messages of one request. Default: 30, as the Java client.
    #[must_use]
    pub fn batch_max(mut self, messages: usize) -> Self {
        self.limits.lane.batch_max = messages;
        self
    }

    /// Most bytes of one request; a longer message travels alone. Default: 1 MiB.
    #[must_use]
    pub fn batch_bytes_max(mut self, bytes: usize) -> Self {
        self.limits.lane.batch_bytes_max = bytes;
        self
    }

    /// Most requests under way to one broker. With 1, messages of one task reach a broker in the
    /// order they were sent as long as nothing is repeated. Default: 4.
    #[must_use]
    pub fn in_flight_max(mut self, requests: usize) -> Self {
        self.limits.lane.in_flight_max = requests;
        self
    }

    /// Requests that may carry one message, the first included. Default: 10.
    #[must_use]
    pub fn attempts_max(mut self, attempts: u32) -> Self {
        self.limits.attempts_max = attempts;
        self
    }

    /// Of these, how many go to a broker group that may have stored the message without confirming
    /// it, before another group gets it: a broker notices a repeat, another one stores a second
    /// copy. Default: 6, which lasts about a second beside the time-outs.
    #[must_use]
    pub fn same_group_attempts_max(mut self, attempts: u32) -> Self {
        self.limits.same_group_max = attempts;
        self
    }

    /// Environment and sub-environment that messages are marked with (`qmq_env`, `qmq_subEnv`), so
    /// that consumers of that environment only get them where brokers isolate environments.
    /// Default: none.
    #[must_use]
    pub fn environment(mut self, env: impl Into<String>, sub_env: impl Into<String>) -> Self {
        self.environment = Some((env.into(), sub_env.into()));
        self
    }

    /// Longest wait for the reply to one request. Default: 5 s.
    #[must_use]
    pub fn request_timeout(mut self, wait: Duration) -> Self {
        self.limits.request_wait = wait;
        self
    }

    /// Longest wait for the first brokers of a subject. Default: 3 s.
    #[must_use]
    pub fn route_wait(mut self, wait: Duration) -> Self {
        self.route_wait = wait;
        self
    }

    /// Where the times of messages come from. Default: the clock of the machine.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Makes the producer. Nothing is sent yet.
    ///
    /// # Errors
    /// When a setting is outside its bounds, the URL or the client id cannot be used, or there is
    /// no tokio runtime.
    pub fn build(self) -> Result<Producer, BuildError> {
        let link = Arc::new(Link::new(&self.cluster, &self.app_code)?);
        self.build_on(link)
    }

    /// As [`Self::build`], on connections that exist.
    pub(crate) fn build_on(self, link: Arc<Link>) -> Result<Producer, BuildError> {
        self.check()?;
        let client_id = self.client_id.unwrap_or_else(default_client_id);
        check_client_id(&client_id)?;
        let abort = CancellationToken::new();
        let dispatcher = Dispatcher::new(Arc::clone(&link), self.limits, abort.clone());
        let shared = Shared {
            link,
            client_id,
            app_code: self.app_code,
            queue_max: self.queue_max,
            room: Arc::new(Semaphore::new(self.queue_max)),
            room_bytes: Arc::new(Semaphore::new(self.queue_bytes_max)),
            route_wait: self.route_wait,
            clock: self.clock,
            environment: self.environment,
            ids: MessageIds::starting_at(rand::random()),
            destinations: Mutex::default(),
            uses: AtomicU64::new(0),
            dispatcher: Arc::new(dispatcher),
            closed: CancellationToken::new(),
            abort: abort.clone(),
            _abort_on_drop: abort.drop_guard(),
        };
        Ok(Producer(Arc::new(shared)))
    }

    fn check(&self) -> Result<(), BuildError> {
        let setting = |what, bounds| Err(BuildError::Setting { what, bounds });
        let lane = self.limits.lane;
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(BuildError::NoRuntime);
        }
        if !(1..=QUEUE_LIMIT).contains(&self.queue_max) {
            return setting("queue_max", "1..=2147483647");
        }
        if !(BODY_BYTES_MAX..=QUEUE_LIMIT).contains(&self.queue_bytes_max) {
            return setting("queue_bytes_max", "16 MiB..=2 GiB");
        }
        if !(1..=10_000).contains(&lane.batch_max) {
            return setting("batch_max", "1..=10000");
        }
        if !(1..=BODY_BYTES_MAX).contains(&lane.batch_bytes_max) {
            return setting("batch_bytes_max", "1..=16 MiB");
        }
        if !(1..=1_000).contains(&lane.in_flight_max) {
            return setting("in_flight_max", "1..=1000");
        }
        if !(1..=1_000).contains(&self.limits.attempts_max) {
            return setting("attempts_max", "1..=1000");
        }
        if !(1..=1_000).contains(&self.limits.same_group_max) {
            return setting("same_group_attempts_max", "1..=1000");
        }
        Ok(())
    }
}
