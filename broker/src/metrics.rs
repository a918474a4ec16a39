//! What the broker counts.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use qmq_store::NewMessage;

/// Counters of one broker, without labels that clients choose.
#[derive(Debug)]
pub struct Metrics {
    /// Messages appended.
    pub stored: Counter,
    /// Payload bytes appended.
    pub stored_bytes: Counter,
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
}

impl Metrics {
    /// Registers all of them.
    #[must_use]
    pub fn register(registry: &qmq_daemon::metrics::Metrics) -> Self {
        let metrics = Self {
            stored: Counter::default(),
            stored_bytes: Counter::default(),
            refused: Counter::default(),
            undecodable: Counter::default(),
            pulls: Counter::default(),
            pulled: Counter::default(),
            acks: Counter::default(),
            read_errors: Counter::default(),
            given_back: Counter::default(),
            dead_letters: Counter::default(),
            commit_seconds: Histogram::new(exponential_buckets(0.000_05, 2.0, 18)),
        };
        let counters = [
            ("qmq_messages_stored", "Messages appended", &metrics.stored),
            (
                "qmq_message_bytes_stored",
                "Payload bytes appended",
                &metrics.stored_bytes,
            ),
            (
                "qmq_messages_refused",
                "Messages refused with a result code",
                &metrics.refused,
            ),
            (
                "qmq_requests_undecodable",
                "Requests that could not be read",
                &metrics.undecodable,
            ),
            ("qmq_pulls", "Pull requests", &metrics.pulls),
            (
                "qmq_messages_pulled",
                "Messages handed out, repeats included",
                &metrics.pulled,
            ),
            (
                "qmq_acks",
                "Ack requests, keep-alives included",
                &metrics.acks,
            ),
            (
                "qmq_read_errors",
                "Pulls that failed on reading",
                &metrics.read_errors,
            ),
            (
                "qmq_messages_given_back",
                "Messages of dead consumers and lost acks copied to retry subjects",
                &metrics.given_back,
            ),
            (
                "qmq_messages_dead",
                "Messages given back that went to a dead-letter subject",
                &metrics.dead_letters,
            ),
        ];
        for (name, help, counter) in counters {
            registry.register(name, help, counter.clone());
        }
        let help = "Time to make a batch durable";
        registry.register("qmq_commit_seconds", help, metrics.commit_seconds.clone());
        metrics
    }

    /// Counts appended messages.
    pub fn count_stored(&self, messages: &[NewMessage]) {
        self.stored.inc_by(messages.len() as u64);
        let bytes: usize = messages.iter().map(|message| message.payload.len()).sum();
        self.stored_bytes.inc_by(bytes as u64);
    }
}
