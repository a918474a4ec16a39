//! Copies messages that a consumer did not finish to where its group gets them again.

use std::ops::Range;
use std::sync::Arc;

use qmq_model::{ConsumerId, MessageSequence};
use qmq_store::{Located, NewMessage, ReadError, StoreReader, Unacked};
use tokio::sync::{Semaphore, oneshot};
use tracing::{error, warn};

use super::SubscriptionKey;
use crate::copy::{CopyError, copy_for_retry};
use crate::deliver::is_permanent;
use crate::desk::Desk;
use crate::inbox::CopyBatch;
use crate::metrics::Metrics;
use crate::subscription::Overdue;

/// Bytes that are copied at a time; the rest follows with the next look.
const COPY_BYTES_MAX: usize = 4 << 20;

/// What became of messages that were to be copied.
pub(super) struct GivenBack {
    /// Whose they were.
    pub(super) consumer: ConsumerId,
    /// Pull sequences that are dealt with: copied durably, or gone for good.
    pub(super) done: Vec<Range<i64>>,
}

/// What a job needs of its surroundings.
pub(super) struct Copier {
    pub(super) reader: StoreReader,
    pub(super) desk: Arc<Desk>,
    pub(super) jobs: Arc<Semaphore>,
    pub(super) metrics: Arc<Metrics>,
}

/// Copies that are ready to be stored, and what is done once they are.
#[derive(Debug, Default)]
pub struct Copies {
    /// The copies, in order.
    pub batch: Vec<NewMessage>,
    /// Pull sequences that are dealt with once the copies are durable, ascending.
    pub done: Vec<Range<i64>>,
    /// How many of them are dead letters.
    dead: u64,
    bytes: usize,
}

impl Copier {
    /// Copies what is overdue, as far as it goes at once. Nothing is done in the answer that was not
    /// made durable before.
    pub(super) async fn copy(self, key: SubscriptionKey, overdue: Overdue) -> GivenBack {
        let Overdue { consumer, runs } = overdue;
        let done = self.try_copy(key, runs).await.unwrap_or_default();
        GivenBack { consumer, done }
    }

    async fn try_copy(self, key: SubscriptionKey, runs: Vec<Unacked>) -> Option<Vec<Range<i64>>> {
        // The semaphore is never closed, so there always is a permit in the end.
        let _permit = self.jobs.acquire().await;
        let reader = self.reader.clone();
        let read = tokio::task::spawn_blocking(move || read_copies(&reader, &key, &runs)).await;
        let copies = read.ok()?;
        let count = copies.batch.len() as u64;
        if !copies.batch.is_empty() {
            let (tell, told) = oneshot::channel();
            let batch = CopyBatch {
                messages: copies.batch,
                then: tell,
            };
            self.desk.put_copies(batch).await.ok()?;
            if let Err(refused) = told.await.ok()? {
                warn!(?refused, "messages of a consumer cannot be copied now");
                return None;
            }
        }
        self.metrics.given_back.inc_by(count);
        self.metrics.dead_letters.inc_by(copies.dead);
        Some(copies.done)
    }
}

/// Reads messages and makes their copies, up to the first one that cannot be read just now, and
/// not many bytes at a time. Blocks.
#[must_use]
pub fn read_copies(reader: &StoreReader, key: &SubscriptionKey, runs: &[Unacked]) -> Copies {
    let mut copies = Copies::default();
    for run in runs {
        if let Err(error) = copy_run(reader, key, run, &mut copies) {
            warn!(%error, subject = %key.subject, "a message of a consumer cannot be read now");
            break;
        }
        if copies.bytes >= COPY_BYTES_MAX {
            break;
        }
    }
    copies
}

fn copy_run(
    reader: &StoreReader,
    key: &SubscriptionKey,
    run: &Unacked,
    copies: &mut Copies,
) -> Result<(), ReadError> {
    let Some(id) = reader.subject(key.subject.as_str()) else {
        return Ok(());
    };
    let end = run.message + run.count;
    let pull_of = |message: i64| run.pull + (message - run.message);
    let mut next = run.message;
    while next < end && copies.bytes < COPY_BYTES_MAX {
        let mut located = Vec::new();
        let wanted = MessageSequence(next)..MessageSequence(end);
        let skipped = reader.locate(id, wanted, usize::MAX, COPY_BYTES_MAX, &mut located);
        for at in &located {
            // What lies between is gone: expired, or quarantined.
            copies.done.push(pull_of(next)..pull_of(at.sequence.0));
            next = at.sequence.0;
            if copies.bytes >= COPY_BYTES_MAX {
                return Ok(());
            }
            if copy_one(reader, key, at, copies)? {
                copies.done.push(pull_of(next)..pull_of(next + 1));
            }
            next += 1;
        }
        copies
            .done
            .push(pull_of(next)..pull_of(skipped.next.0.max(next)));
        next = next.max(skipped.next.0);
        if let Some(cold) = skipped.cold {
            reader.load_index(id, cold)?;
        }
    }
    copies.done.retain(|pulls| !pulls.is_empty());
    Ok(())
}

/// Whether a message is dealt with. One that has no retry subject stays with its consumer.
fn copy_one(
    reader: &StoreReader,
    key: &SubscriptionKey,
    at: &Located,
    copies: &mut Copies,
) -> Result<bool, ReadError> {
    let payload = match reader.read(at) {
        Ok(payload) => payload,
        Err(error) if is_permanent(&error) => {
            error!(%error, subject = %key.subject, group = %key.group, "message is passed over");
            return Ok(true);
        }
        Err(error) => return Err(error),
    };
    copies.bytes += payload.len();
    match copy_for_retry(&payload, &key.subject, &key.group) {
        Ok(copy) => {
            copies.dead += u64::from(copy.is_dead);
            copies.batch.push(copy.message);
            Ok(true)
        }
        Err(error @ CopyError::NoMessage) => {
            error!(%error, subject = %key.subject, group = %key.group, "message is passed over");
            Ok(true)
        }
        Err(CopyError::Name) => Ok(false),
    }
}
