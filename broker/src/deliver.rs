//! From positions to a pull reply: reads the messages and encodes the answer.
//!
//! Messages still in the writer's recent buffers are copied at once. Older ones are read by a task
//! of their own as far as the page cache has them, a piece at a time, and what the disk has to be
//! asked for on the blocking pool, so that no async worker waits for a disk. A read error fails this
//! reply only, and the consumer gets the same messages again with its next pull.

use std::num::NonZero;
use std::pin::Pin;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use qmq_model::payload::FLAG_DELAY;
use qmq_model::{Payload, PullSequence};
use qmq_protocol::ResultCode;
use qmq_protocol::command::pull::{
    PULL_HEADER_BYTES, put_payload_without_delay_bit, put_pull_header,
};
use qmq_protocol::frame::VERSION_TAGS;
use qmq_remoting::Responder;
use qmq_store::{Located, ReadError, StoreReader};
use tokio::sync::Semaphore;
use tracing::{error, warn};

use crate::metrics::Metrics;
use crate::turns::Turns;

/// Replies that may be read from disk at the same time; more wait in line.
pub const COLD_READS_MAX: usize = 32;
/// Bytes that are read from memory before others get their turn.
const PIECE_BYTES_MAX: usize = 256 << 10;
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
    turns: Turns,
    cold_reads: Arc<Semaphore>,
    metrics: Arc<Metrics>,
}

impl Deliverer {
    /// Reads from `reader`.
    #[must_use]
    pub fn new(reader: StoreReader, metrics: Arc<Metrics>) -> Self {
        // Each keeps one core busy.
        let turns = thread::available_parallelism().map_or(1, NonZero::get);
        Self {
            reader,
            turns: Turns::new(turns),
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
            Some(payloads) => answer_copied(delivery.responder, delivery.first, &payloads),
            None => {
                tokio::spawn(self.clone().deliver_older(delivery));
            }
        }
    }

    async fn deliver_older(self, delivery: Delivery) {
        let Delivery {
            responder,
            first,
            located,
            unreadable,
        } = delivery;
        // The blocking pool is going down with the process: no answer is an answer.
        let Some((payloads, error)) = self.read(located).await else {
            return;
        };
        match error {
            // What could be read goes out; the rest comes again with the next pull.
            _ if !payloads.is_empty() => answer(responder, first, payloads),
            Some(error) if is_permanent(&error) => {
                error!(%error, pull = first.0, "message is passed over: it cannot be read");
                self.metrics.read_errors.inc();
                unreadable(first).await;
                responder.send_empty(ResultCode::NoMessage);
            }
            Some(error) => self.fail(responder, &error).await,
            None => responder.send_empty(ResultCode::NoMessage),
        }
    }

    /// Reads messages up to the first one that cannot be read, and says why; `None` when the
    /// process is ending.
    async fn read(&self, located: Vec<Located>) -> Option<(Vec<Bytes>, Option<ReadError>)> {
        let mut payloads = Vec::with_capacity(located.len());
        let turn = self.turns.take(located.first()?.offset.0).await;
        while payloads.len() < located.len() {
            let rest = &located[payloads.len()..];
            let piece = &rest[..piece_of(rest)];
            match self.reader.read_many_cached(piece, &mut payloads) {
                Ok(true) => tokio::task::yield_now().await,
                Ok(false) => {
                    drop(turn);
                    return self.read_disk(located, payloads).await;
                }
                Err(error) => return Some((payloads, Some(error))),
            }
        }
        Some((payloads, None))
    }

    /// As [`Self::read`], behind what is in `payloads` already, from the blocking pool.
    async fn read_disk(
        &self,
        located: Vec<Located>,
        mut payloads: Vec<Bytes>,
    ) -> Option<(Vec<Bytes>, Option<ReadError>)> {
        // The semaphore is never closed, so there always is a permit in the end.
        let permit = self.cold_reads.acquire().await;
        let reader = self.reader.clone();
        let read = tokio::task::spawn_blocking(move || {
            let error = reader.read_many(&located[payloads.len()..], &mut payloads);
            (payloads, error)
        });
        let read = read.await.ok();
        drop(permit);
        read
    }

    async fn fail(&self, responder: Responder, error: &ReadError) {
        warn!(%error, "messages cannot be read; the consumer will ask again");
        self.metrics.read_errors.inc();
        tokio::time::sleep(ERROR_HOLD).await;
        responder.send_empty(ResultCode::BrokerError);
    }
}

/// How many of `located`, at least the first, are read before others get their turn.
fn piece_of(located: &[Located]) -> usize {
    let mut bytes = 0;
    let is_part = |at: &&Located| {
        bytes += at.bytes as usize;
        bytes <= PIECE_BYTES_MAX
    };
    located.iter().take_while(is_part).count().max(1)
}

/// Whether reading again cannot help. The message is then as good as quarantined.
pub(crate) fn is_permanent(error: &ReadError) -> bool {
    matches!(error, ReadError::Corrupt { .. } | ReadError::Gone { .. })
}

/// Answers with slices of what was read.
fn answer(responder: Responder, first: PullSequence, payloads: Vec<Bytes>) {
    let is_delayed = |payload: &Bytes| payload[Payload::FLAG_AT] & FLAG_DELAY != 0;
    if responder.header().version < VERSION_TAGS || payloads.iter().any(is_delayed) {
        return answer_copied(responder, first, &payloads);
    }
    let mut header = [0; PULL_HEADER_BYTES];
    put_pull_header(first, &mut &mut header[..]);
    responder.send_parts(ResultCode::Success.code(), &header, payloads);
}

/// Answers with copies: of slices of something larger that must not stay in memory for as long as
/// the client takes, or of messages that it gets in another form than they are stored.
fn answer_copied(responder: Responder, first: PullSequence, payloads: &[Bytes]) {
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
