//! From positions to a pull reply: reads the messages and encodes the answer.
//!
//! Messages still in the writer's recent buffers are copied at once. Anything older is read on the
//! blocking pool, so that no async worker waits for a disk; a read error fails this reply only, and
//! the consumer gets the same messages again with its next pull.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use qmq_model::PullSequence;
use qmq_protocol::ResultCode;
use qmq_protocol::command::pull::{
    PULL_HEADER_BYTES, put_payload_without_delay_bit, put_pull_header,
};
use qmq_remoting::Responder;
use qmq_store::{Located, ReadError, StoreReader};
use tokio::sync::Semaphore;
use tracing::{error, warn};

use crate::metrics::Metrics;

/// Replies that may be read from disk at the same time; more wait in line.
pub const COLD_READS_MAX: usize = 32;
/// How long an error reply is held back: clients pull again at once after one.
const ERROR_HOLD: Duration = Duration::from_millis(300);

/// Tells the owner of a subscription that the message with this pull sequence cannot be read.
pub type Unreadable = Box<dyn FnOnce(PullSequence) -> BoxFuture + Send>;
type BoxFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

/// One pull reply to be made.
pub struct Delivery {
    /// Gets it.
    pub responder: Responder,
    /// Pull sequence of the first message.
    pub first: PullSequence,
    /// The messages. Not empty.
    pub located: Vec<Located>,
    /// Called when the first message can never be read.
    pub unreadable: Unreadable,
}

/// Turns positions into replies.
#[derive(Clone)]
pub struct Deliverer {
    reader: StoreReader,
    cold_reads: Arc<Semaphore>,
    metrics: Arc<Metrics>,
}

impl Deliverer {
    /// Reads from `reader`.
    #[must_use]
    pub fn new(reader: StoreReader, metrics: Arc<Metrics>) -> Self {
        Self {
            reader,
            cold_reads: Arc::new(Semaphore::new(COLD_READS_MAX)),
            metrics,
        }
    }

    /// Answers a pull.
    pub fn deliver(&self, delivery: Delivery) {
        let recent = delivery
            .located
            .iter()
            .map(|at| self.reader.read_recent(at));
        match recent.collect::<Option<Vec<Bytes>>>() {
            Some(payloads) => answer(delivery.responder, delivery.first, &payloads),
            None => {
                tokio::spawn(self.clone().deliver_cold(delivery));
            }
        }
    }

    async fn deliver_cold(self, delivery: Delivery) {
        let Delivery {
            responder,
            first,
            located,
            unreadable,
        } = delivery;
        // The semaphore is never closed, so there always is a permit in the end.
        let permit = self.cold_reads.acquire().await;
        let reader = self.reader.clone();
        let read = tokio::task::spawn_blocking(move || read_prefix(&reader, &located)).await;
        drop(permit);
        match read {
            Ok((payloads, None)) => answer(responder, first, &payloads),
            // What could be read goes out; the rest comes again with the next pull.
            Ok((payloads, Some(_))) if !payloads.is_empty() => answer(responder, first, &payloads),
            Ok((_, Some(error))) if is_permanent(&error) => {
                error!(%error, pull = first.0, "message is passed over: it cannot be read");
                self.metrics.read_errors.inc();
                unreadable(first).await;
                responder.send_empty(ResultCode::NoMessage);
            }
            Ok((_, Some(error))) => self.fail(responder, &error).await,
            // The blocking pool is going down with the process: no answer is an answer.
            Err(_) => {}
        }
    }

    async fn fail(&self, responder: Responder, error: &ReadError) {
        warn!(%error, "messages cannot be read; the consumer will ask again");
        self.metrics.read_errors.inc();
        tokio::time::sleep(ERROR_HOLD).await;
        responder.send_empty(ResultCode::BrokerError);
    }
}

fn read_prefix(reader: &StoreReader, located: &[Located]) -> (Vec<Bytes>, Option<ReadError>) {
    let mut payloads = Vec::with_capacity(located.len());
    let error = reader.read_many(located, &mut payloads);
    (payloads, error)
}

/// Whether reading again cannot help. The message is then as good as quarantined.
pub(crate) fn is_permanent(error: &ReadError) -> bool {
    matches!(error, ReadError::Corrupt { .. } | ReadError::Gone { .. })
}

fn answer(responder: Responder, first: PullSequence, payloads: &[Bytes]) {
    let version = responder.header().version;
    responder.send(ResultCode::Success.code(), |out: &mut BytesMut| {
        out.reserve(PULL_HEADER_BYTES + payloads.iter().map(Bytes::len).sum::<usize>());
        put_pull_header(first, out);
        for payload in payloads {
            put_payload_without_delay_bit(version, payload, out)
                .expect("what the store holds was a whole message when it was taken");
        }
    });
}
