//! What the broker counts.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use qmq_store::Placed;

/// Counters of one broker, without labels that clients choose.
#[derive(Debug)]
pub struct Metrics {
    /// Messages appended.
    pub stored: Counter,
    /// Payload bytes appended.
    pub stored_bytes: Counter,
    /// Messages that were stored before, within the duplicate window.
    pub repeats: Counter,
    /// Messages that were not stored because they asked not to be.
    pub unretained: Counter,
    /// Messages forgotten by the duplicate window too early, for lack of room.
    pub forgotten_young: Counter,
    /// Messages refused with a result code.
    pub refused: Counter,
    /// Requests whose body could not be decoded.
    pub undecodable: Counter,
    /// Pull requests.
    pub pulls: Counter,
    /// Messages handed out, repeated ones included.
    pub pulled: Counter,
    /// Ack requests, keep-alives included.
    pub acks: Counter,
    /// Pulls that failed because messages could not be read.
    pub read_errors: Counter,
    /// Messages copied because their consumer was dead or its acks were lost.
    pub given_back: Counter,
    /// Those of them that went to a dead-letter subject.
    pub dead_letters: Counter,
    /// Time from the first byte written to all of a batch durable (or written, when asynchronous).
    pub commit_seconds: Histogram,
    /// Time of what the writer does between batches: seals, checkpoints, flushes that are due.
    /// Sends wait meanwhile.
    pub upkeep_seconds: Histogram,
}

impl Metrics {
    /// Registers all of them.
    #[must_use]
    pub fn register(registry: &qmq_daemon::metrics::Metrics) -> Self {
        let metrics = Self {
            stored: Counter::default(),
            stored_bytes: Counter::default(),
            repeats: Counter::default(),
            unretained: Counter::default(),
            forgotten_young: Counter::default(),
            refused: Counter::default(),
            undecodable: Counter::default(),
            pulls: Counter::default(),
            pulled: Counter::default(),
            acks: Counter::default(),
            read_errors: Counter::default(),
            given_back: Counter::default(),
            dead_letters: Counter::default(),
            commit_seconds: Histogram::new(exponential_buckets(0.000_05, 2.0, 18)),
            upkeep_seconds: Histogram::new(exponential_buckets(0.000_05, 2.0, 18)),
        };
        for (name, help, counter) in metrics.counters() {
            registry.register(name, help, counter.clone());
        }
        for (legacy, counter) in metrics.legacy() {
            registry.also_as(legacy, "as in the java broker, of all subjects", counter);
        }
        let help = "Time to make a batch durable";
        registry.register("qmq_commit_seconds", help, metrics.commit_seconds.clone());
        let help = "Time of seals, checkpoints and flushes, for which sends wait";
        registry.register("qmq_upkeep_seconds", help, metrics.upkeep_seconds.clone());
        metrics
    }

    /// Those that the Java broker has too, by their names there.
    fn legacy(&self) -> impl IntoIterator<Item = (&'static str, &Counter)> {
        [
            ("receivedMessagesCount", &self.stored),
            ("receivedFailedCount", &self.refused),
            ("brokerReceivedInvalidMessage", &self.undecodable),
            ("pullRequestCount", &self.pulls),
            ("pulledMessagesCount", &self.pulled),
            ("ackRequestCount", &self.acks),
            ("findMessagesErrorCount", &self.read_errors),
            ("putNeedRetryMessagesCount", &self.given_back),
            ("deadLetterQueueCount", &self.dead_letters),
        ]
    }

    /// Name, help and counter of each.
    fn counters(&self) -> impl IntoIterator<Item = (&'static str, &'static str, &Counter)> {
        [
            ("qmq_messages_stored", "Messages appended", &self.stored),
            (
                "qmq_message_bytes_stored",
                "Payload bytes appended",
                &self.stored_bytes,
            ),
            (
                "qmq_messages_repeated",
                "Messages sent again and not stored again",
                &self.repeats,
            ),
            (
                "qmq_messages_unretained",
                "Messages kept in memory only, as they asked for",
                &self.unretained,
            ),
            (
                "qmq_duplicate_window_forgotten_young",
                "Messages the duplicate window forgot before they were 30 seconds old",
                &self.forgotten_young,
            ),
            (
                "qmq_messages_refused",
                "Messages refused with a result code",
                &self.refused,
            ),
            (
                "qmq_requests_undecodable",
                "Requests that could not be read",
                &self.undecodable,
            ),
            ("qmq_pulls", "Pull requests", &self.pulls),
            (
                "qmq_messages_pulled",
                "Messages handed out, repeats included",
                &self.pulled,
            ),
            ("qmq_acks", "Ack requests, keep-alives included", &self.acks),
            (
                "qmq_read_errors",
                "Pulls that failed on reading",
                &self.read_errors,
            ),
            (
                "qmq_messages_given_back",
                "Messages of dead consumers and lost acks copied to retry subjects",
                &self.given_back,
            ),
            (
                "qmq_messages_dead",
                "Messages given back that went to a dead-letter subject",
                &self.dead_letters,
            ),
        ]
    }

    /// Counts messages of so many bytes that the store took, and those of them that it had already.
    pub fn count_stored(&self, bytes: impl Iterator<Item = u64>, placed: &[Placed]) {
        let (mut stored, mut stored_bytes) = (0, 0);
        for (bytes, placed) in bytes.zip(placed) {
            if placed.appended().is_some() {
                stored += 1;
                stored_bytes += bytes;
            }
        }
        self.stored.inc_by(stored);
        self.stored_bytes.inc_by(stored_bytes);
        self.repeats.inc_by(placed.len() as u64 - stored);
    }
}
