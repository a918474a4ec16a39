//! What the handlers of one broker share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use qmq_model::{Clock, Subject};
use qmq_protocol::ResultCode;
use qmq_remoting::Responder;
use qmq_store::StoreReader;
use tokio::sync::Semaphore;

use crate::config::BrokerConfig;
use crate::desk::Desk;
use crate::env_rules::RulesInUse;
use crate::handler::browse::BROWSES_MAX;
use crate::metrics::Metrics;
use crate::shard::{Shards, Surroundings};
use crate::unretained::Unretained;

/// Answers that may be held back at a time; beyond that they go out at once.
pub const HELD_ANSWERS_MAX: usize = 10_000;

/// One broker, as its handlers see it.
pub struct Broker {
    /// Takes sends.
    pub desk: Arc<Desk>,
    /// Take pulls and acks.
    pub shards: Shards,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Largest payload taken, bytes.
    pub message_bytes_max: usize,
    /// Knows the subjects.
    pub reader: StoreReader,
    /// Keeps sub-environments apart.
    pub env_rules: RulesInUse,
    /// Subjects that messages are taken for.
    pub subjects_max: usize,
    /// Messages that are not stored.
    pub unretained: Unretained,
    /// Size of an answer with messages; a single larger message still goes out. Unit: bytes.
    pub reply_bytes_max: usize,
    /// Lets few look at messages at a time.
    pub browses: Arc<Semaphore>,
    writable: Arc<AtomicBool>,
    held: Arc<Semaphore>,
}

impl Broker {
    /// A broker whose shards work in `around`; it takes messages while `writable` says so.
    #[must_use]
    pub fn new(
        config: &BrokerConfig,
        shards: Shards,
        around: &Surroundings,
        writable: Arc<AtomicBool>,
        env_rules: RulesInUse,
    ) -> Self {
        Self {
            desk: Arc::clone(&around.desk),
            shards,
            clock: Arc::clone(&around.clock),
            metrics: Arc::clone(&around.metrics),
            message_bytes_max: config.message_bytes_max,
            reader: around.reader.clone(),
            env_rules,
            subjects_max: config.subjects_max,
            unretained: Unretained::new(around.clock.now()),
            reply_bytes_max: config.reply_bytes_max,
            browses: Arc::new(Semaphore::new(BROWSES_MAX)),
            writable,
            held: Arc::new(Semaphore::new(HELD_ANSWERS_MAX)),
        }
    }

    /// Whether messages of `subject` are taken. Requests under way may pass the bound together:
    /// it keeps memory in check, it is no quota.
    #[must_use]
    pub fn has_room_for(&self, subject: &Subject) -> bool {
        self.reader.subject_count() < self.subjects_max
            || self.reader.subject(subject.as_str()).is_some()
    }

    /// Whether messages are taken: the broker is online and not stopping.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.writable.load(Ordering::Relaxed)
    }

    /// Answers after `pause`, so that clients that repeat a bad request at once do not spin.
    pub fn hold(&self, responder: Responder, code: ResultCode, pause: Duration) {
        let Ok(permit) = Arc::clone(&self.held).try_acquire_owned() else {
            return responder.send_empty(code);
        };
        tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            responder.send_empty(code);
            drop(permit);
        });
    }
}
