//! The one thread that appends: takes batches, writes, syncs once, publishes, wakes, answers. While
//! more is waiting, it writes the next batch during the sync of the one before.
//!
//! It waits for the disk and for nothing else. A full disk refuses sends with a clear result and
//! keeps actions until there is room; any failed write or sync ends the broker, because the store
//! then no longer knows what is on disk.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use qmq_daemon::receive::{self, Refused};
use qmq_model::{Clock, UnixMillis};
use qmq_remoting::Responder;
use qmq_store::{
    Action, AppendError, BorrowedMessage, Error, PULL_SEQUENCES_UNSYNCED_MAX, Placed, StoreReader,
    StoreWriter, SubjectId, SyncNeeds,
};
use tracing::{error, info, warn};

use crate::inbox::{
    ActionDone, Actions, CopyBatch, CopyDone, CopyRefused, Inbox, Ordered, SendBatch, Taken,
};
use crate::metrics::Metrics;
use crate::waiting::Waiting;

/// Pull sequences handed out whose actions are written but not durable: when there are more, the
/// actionlog is synced. Those still queued come on top.
pub const PULL_SEQUENCES_WRITTEN_MAX: u64 = 1 << 18;
/// Longest sleep of an idle writer.
const PATIENCE_MAX: Duration = Duration::from_secs(1);
/// How soon actions are tried again after the disk was full.
const NO_SPACE_PAUSE: Duration = Duration::from_millis(200);

/// While batches overlap, how often the writer lets the last one end before it takes the next:
/// runs, checkpoints and seals begin when nothing is half done.
const REST_INTERVAL: Duration = Duration::from_millis(50);

// After an unclean stop counters jump by 2^20: no more than that may be unsynced at any time.
const _: () = assert!(
    PULL_SEQUENCES_WRITTEN_MAX + 2 * crate::inbox::ACTIONS_QUEUED_WEIGHT_MAX as u64
        <= PULL_SEQUENCES_UNSYNCED_MAX
);

/// The writing half of the broker.
pub struct Writer {
    store: StoreWriter,
    reader: StoreReader,
    inbox: Arc<Inbox>,
    waiting: Arc<Waiting>,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
    /// Actions and controls that are not in the log yet, because the disk was full. They keep
    /// their order, so nothing is taken behind them.
    stuck: VecDeque<Ordered>,
    /// Actions of those at the front.
    unwritten: Vec<Action>,
    placed: Vec<Placed>,
    actions: Vec<Action>,
    published: Vec<SubjectId>,
    /// What is answered when the commit that was begun is finished.
    begun: Option<Begun>,
    /// When nothing was half done.
    rested_at: Instant,
    /// What the store forgot too early, as far as it is counted.
    forgotten: u64,
}

/// What a commit was begun with.
struct Begun {
    sends: Vec<SendBatch>,
    copied: Vec<CopyDone>,
    actions: Vec<Ordered>,
    started: Instant,
}

impl Writer {
    /// Takes the store's writing half.
    #[must_use]
    pub fn new(
        store: StoreWriter,
        reader: StoreReader,
        inbox: Arc<Inbox>,
        waiting: Arc<Waiting>,
        metrics: Arc<Metrics>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            store,
            reader,
            inbox,
            waiting,
            metrics,
            clock,
            stuck: VecDeque::new(),
            unwritten: Vec::new(),
            placed: Vec::new(),
            actions: Vec::new(),
            published: Vec::new(),
            begun: None,
            rested_at: Instant::now(),
            forgotten: 0,
        }
    }

    /// Works until the inbox is closed and empty, then closes the store.
    ///
    /// # Errors
    /// The first write or sync that failed. Nothing was answered after it.
    pub fn run(mut self) -> Result<(), Error> {
        let mut patience = Duration::ZERO;
        loop {
            // Whoever waits for a commit that was begun is not kept waiting for more work.
            let wait = self.begun.as_ref().map_or(patience, |_| Duration::ZERO);
            let Some(taken) = self.inbox.take(wait, self.which()) else {
                break;
            };
            patience = self.turn(taken).inspect_err(|error| {
                error!(%error, "store failed; the broker stops so that nothing is lost");
                self.inbox.close();
            })?;
        }
        self.finish()?;
        info!("writer closes the store");
        self.store.close()
    }

    fn which(&self) -> Actions {
        if self.stuck.is_empty() {
            Actions::Take
        } else {
            Actions::Leave
        }
    }

    fn tick(&mut self) -> Result<Duration, Error> {
        let started = Instant::now();
        let now: UnixMillis = self.clock.now();
        let next = self
            .store
            .tick(now)?
            .unwrap_or(PATIENCE_MAX)
            .min(PATIENCE_MAX);
        self.rested_at = Instant::now();
        let took = self.rested_at.duration_since(started);
        self.metrics.upkeep_seconds.observe(took.as_secs_f64());
        Ok(if self.stuck.is_empty() {
            next
        } else {
            next.min(NO_SPACE_PAUSE)
        })
    }

    /// Appends what was taken; says how long there is nothing else to do.
    fn turn(&mut self, taken: Taken) -> Result<Duration, Error> {
        let Taken {
            mut sends,
            copies,
            actions,
        } = taken;
        self.append_sends(&mut sends)?;
        let copied = self.append_copies(copies)?;
        let actions = self.append_ordered(actions)?;
        self.finish()?;
        if !sends.is_empty() || !copied.is_empty() || !actions.is_empty() {
            self.begin(sends, copied, actions)?;
        }
        if self.begun.is_some() {
            return Ok(Duration::ZERO);
        }
        self.tick()
    }

    /// Begins a commit, and finishes it at once unless there is more to append meanwhile.
    fn begin(
        &mut self,
        sends: Vec<SendBatch>,
        copied: Vec<CopyDone>,
        actions: Vec<Ordered>,
    ) -> Result<(), Error> {
        let durable = actions.iter().any(must_be_durable);
        let many = self.store.pull_sequences_unsynced() > PULL_SEQUENCES_WRITTEN_MAX;
        let started = Instant::now();
        let needs = SyncNeeds {
            actions: durable || many,
            // The original is acked next: the copy must not be lost after that.
            messages: !copied.is_empty(),
        };
        let waits = self.store.begin_commit(needs)?;
        self.begun = Some(Begun {
            sends,
            copied,
            actions,
            started,
        });
        let is_rested = started.duration_since(self.rested_at) < REST_INTERVAL;
        if waits && is_rested && !self.inbox.is_idle(self.which()) {
            return self.store.start_sync();
        }
        self.finish()
    }

    /// Finishes the commit that was begun, if one was: wakes and answers.
    fn finish(&mut self) -> Result<(), Error> {
        let Some(begun) = self.begun.take() else {
            return Ok(());
        };
        self.published.clear();
        self.store.finish_commit(&mut self.published)?;
        let took = begun.started.elapsed();
        self.metrics.commit_seconds.observe(took.as_secs_f64());
        self.waiting
            .wake(&self.published, |id| self.reader.name(id));
        begun.sends.into_iter().for_each(SendBatch::answer);
        // Nobody listens any more when the shard is gone: nothing to do.
        for then in begun.copied {
            let _ = then.send(Ok(()));
        }
        begun.actions.into_iter().for_each(answer_ordered);
        Ok(())
    }

    fn append_sends(&mut self, sends: &mut [SendBatch]) -> Result<(), Error> {
        while sends.iter().any(|send| !send.messages.is_empty()) {
            self.placed.clear();
            let messages = sends.iter().flat_map(to_append);
            match self.store.append_borrowed(messages, &mut self.placed) {
                Ok(()) => {
                    let messages = sends.iter().flat_map(SendBatch::iter);
                    let bytes = messages.map(|(_, payload, _)| payload.len() as u64);
                    self.metrics.count_stored(bytes, &self.placed);
                    self.count_forgotten();
                    break;
                }
                Err(AppendError::NoSpace) => {
                    warn!("disk is full: sends are refused");
                    for send in &mut *sends {
                        send.refuse_all(Refused::no_space);
                    }
                }
                Err(AppendError::Unstorable { index, what }) => {
                    warn!(what, "a message cannot be stored");
                    receive::refuse_at(sends, index, Refused::unstorable);
                }
                Err(AppendError::Poisoned) => return Err(Error::Poisoned),
                Err(AppendError::Failed(error)) => return Err(error),
            }
        }
        Ok(())
    }

    fn count_forgotten(&mut self) {
        let forgotten = self.store.duplicates_evicted_young();
        let counted = std::mem::replace(&mut self.forgotten, forgotten);
        self.metrics.forgotten_young.inc_by(forgotten - counted);
    }

    /// Appends copies; returns whom to tell after the commit. Who is refused is told at once.
    fn append_copies(&mut self, batches: Vec<CopyBatch>) -> Result<Vec<CopyDone>, Error> {
        let mut copied = Vec::new();
        for CopyBatch { messages, then } in batches {
            self.placed.clear();
            let refused = match self.store.append_messages(&messages, &mut self.placed) {
                Ok(()) => {
                    copied.push(then);
                    continue;
                }
                Err(AppendError::NoSpace) => CopyRefused::DiskFull,
                Err(AppendError::Unstorable { what, .. }) => CopyRefused::Unstorable(what),
                Err(AppendError::Poisoned) => return Err(Error::Poisoned),
                Err(AppendError::Failed(error)) => return Err(error),
            };
            warn!(messages = messages.len(), %refused, "copies are refused");
            // Nobody listens any more when the shard is gone: nothing to do.
            let _ = then.send(Err(refused));
        }
        Ok(copied)
    }

    /// Appends what was stuck before and `work`, in order; returns what is in the logs.
    fn append_ordered(&mut self, work: Vec<Ordered>) -> Result<Vec<Ordered>, Error> {
        self.stuck.extend(work);
        let mut done = Vec::new();
        while !self.stuck.is_empty() {
            let is_action = |work: &&Ordered| matches!(work, Ordered::Actions(_));
            let run = self.stuck.iter().take_while(is_action).count();
            if !self.append_run(run)? {
                break;
            }
            done.extend(self.stuck.drain(..run));
            if !self.append_control(&mut done)? {
                break;
            }
        }
        Ok(done)
    }

    /// Appends the actions of the first `run` batches; `false` when the disk is full.
    fn append_run(&mut self, run: usize) -> Result<bool, Error> {
        self.actions.clear();
        self.actions.append(&mut self.unwritten);
        for work in self.stuck.iter_mut().take(run) {
            if let Ordered::Actions(batch) = work {
                self.actions.append(&mut batch.actions);
            }
        }
        while !self.actions.is_empty() {
            match self.store.append_actions(&self.actions) {
                Ok(()) => break,
                Err(AppendError::NoSpace) => {
                    let actions = self.actions.len();
                    warn!(actions, "disk is full: pulls and acks wait");
                    std::mem::swap(&mut self.unwritten, &mut self.actions);
                    return Ok(false);
                }
                Err(AppendError::Unstorable { index, what }) => {
                    error!(what, action = ?self.actions[index], "an action cannot be stored");
                    self.actions.remove(index);
                }
                Err(AppendError::Poisoned) => return Err(Error::Poisoned),
                Err(AppendError::Failed(error)) => return Err(error),
            }
        }
        self.actions.clear();
        Ok(true)
    }

    /// Appends the control at the front, if one is there; `false` when the disk is full.
    fn append_control(&mut self, done: &mut Vec<Ordered>) -> Result<bool, Error> {
        let Some(Ordered::Control(control, _)) = self.stuck.front() else {
            return Ok(true);
        };
        match self.store.append_control(control) {
            Ok(()) => done.extend(self.stuck.pop_front()),
            Err(AppendError::NoSpace) => {
                warn!("disk is full: a control entry waits");
                return Ok(false);
            }
            Err(AppendError::Unstorable { what, .. }) => {
                error!(what, ?control, "a control entry cannot be stored");
                self.stuck.pop_front();
            }
            Err(AppendError::Poisoned) => return Err(Error::Poisoned),
            Err(AppendError::Failed(error)) => return Err(error),
        }
        Ok(true)
    }
}

fn to_append(batch: &SendBatch) -> impl Iterator<Item = BorrowedMessage<'_>> + Clone {
    batch
        .iter()
        .map(|(subject, payload, message)| BorrowedMessage {
            subject,
            payload,
            crc: message.crc,
            fingerprint: message.fingerprint,
        })
}

fn must_be_durable(work: &Ordered) -> bool {
    match work {
        Ordered::Actions(batch) => matches!(batch.then, ActionDone::TellDurable(_)),
        // It is already.
        Ordered::Control(..) => false,
    }
}

fn answer_ordered(work: Ordered) {
    // Nobody listens any more when the connection or the shard is gone: nothing to do.
    match work {
        Ordered::Control(_, tell) => drop(tell.send(())),
        Ordered::Actions(batch) => match batch.then {
            ActionDone::Nothing => {}
            ActionDone::Answer(responder) => answer_ack(responder),
            ActionDone::TellDurable(tell) => drop(tell.send(())),
        },
    }
}

fn answer_ack(responder: Responder) {
    responder.send_empty(qmq_protocol::ResultCode::Success);
}
