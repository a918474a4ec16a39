//! What appends: takes batches, writes, syncs once, publishes, wakes, answers. While more is waiting,
//! it lays out what comes next during the sync of what came before.
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
    ActionDone, Actions, COMMIT_BYTES_MAX, CopyBatch, CopyDone, CopyRefused, Inbox, Ordered,
    SendBatch, Taken,
};
use crate::metrics::Metrics;
use crate::waiting::Waiting;

/// Pull sequences handed out whose actions are written but not durable: when there are more, the
/// actionlog is synced. Those still queued come on top.
const PULL_SEQUENCES_WRITTEN_MAX: u64 = 1 << 18;
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
pub(crate) struct Writer {
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
    /// What was appended for the commit that is begun next.
    gathered: Gathered,
    /// What is answered when the commit that was begun is finished.
    begun: Option<Begun>,
    /// When nothing was half done the last time.
    rested_at: Instant,
    /// What the store forgot too early, as far as it is counted.
    forgotten: u64,
    /// What failed while somebody else than the thread was at it.
    failed: Option<Error>,
}

/// How long the thread may sleep.
pub(crate) struct Rest {
    /// Unless something arrives.
    pub(crate) patience: Duration,
    /// Whether nothing will fall due unless something is appended.
    pub(crate) nothing_due: bool,
    /// What it waits for.
    pub(crate) which: Actions,
}

impl Rest {
    /// Not at all.
    pub(crate) const NONE: Self = Self {
        patience: Duration::ZERO,
        nothing_due: false,
        which: Actions::Take,
    };
}

/// Whom to answer when what was appended for them is committed.
#[derive(Default)]
struct Gathered {
    sends: Vec<SendBatch>,
    copied: Vec<CopyDone>,
    actions: Vec<Ordered>,
    /// Bytes of sends and copies.
    bytes: usize,
}

impl Gathered {
    fn is_empty(&self) -> bool {
        self.sends.is_empty() && self.copied.is_empty() && self.actions.is_empty()
    }
}

/// A commit that was begun.
struct Begun {
    with: Gathered,
    started: Instant,
}

impl Writer {
    /// Takes the store's writing half.
    pub(crate) fn new(
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
            gathered: Gathered::default(),
            begun: None,
            rested_at: Instant::now(),
            forgotten: 0,
            failed: None,
        }
    }

    /// Does some of what waits in the inbox; says how long there is nothing else to do.
    ///
    /// # Errors
    /// The first write or sync that failed. Nothing was answered after it.
    pub(crate) fn work(&mut self) -> Result<Rest, Error> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        let taken = self.inbox.take(self.which());
        self.turn(taken)?;
        let patience = if self.begun.is_some() {
            // Whoever waits for a commit that was begun is not kept waiting for more work.
            Some(Duration::ZERO)
        } else {
            self.tick()?
        };
        Ok(Rest {
            patience: patience.unwrap_or(PATIENCE_MAX),
            nothing_due: patience.is_none(),
            which: self.which(),
        })
    }

    /// Does what waits in the inbox if that is little and needs no disk; `false` if it has to be left
    /// to the thread. What fails is told by the next [`Self::work`].
    pub(crate) fn work_a_little(&mut self) -> bool {
        let is_busy = self.begun.is_some() || !self.stuck.is_empty() || self.failed.is_some();
        if is_busy || self.store.pull_sequences_unsynced() > PULL_SEQUENCES_WRITTEN_MAX / 2 {
            return false;
        }
        let Some(taken) = self.inbox.take_little(!self.waits_for_disk()) else {
            return false;
        };
        if let Err(error) = self.turn(taken) {
            self.failed = Some(error);
            self.inbox.close();
        }
        true
    }

    /// Finishes what was begun, and closes the store.
    ///
    /// # Errors
    /// As [`Self::work`].
    pub(crate) fn close(mut self) -> Result<(), Error> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        self.finish()?;
        self.begin()?;
        self.finish()?;
        info!("writer closes the store");
        self.store.close()
    }

    /// Whether sends are answered only when they are on disk.
    pub(crate) fn waits_for_disk(&self) -> bool {
        self.store.waits_for_disk()
    }

    fn which(&self) -> Actions {
        if self.stuck.is_empty() {
            Actions::Take
        } else {
            Actions::Leave
        }
    }

    /// Says when it is to be called again; `None` when not before something was appended.
    fn tick(&mut self) -> Result<Option<Duration>, Error> {
        let started = Instant::now();
        let now: UnixMillis = self.clock.now();
        let next = self.store.tick(now)?;
        let took = started.elapsed();
        self.metrics.upkeep_seconds.observe(took.as_secs_f64());
        let again = (!self.stuck.is_empty()).then_some(NO_SPACE_PAUSE);
        Ok(next.into_iter().chain(again).min())
    }

    /// Appends what was taken, and commits it unless there is reason to wait with that.
    fn turn(&mut self, taken: Taken) -> Result<(), Error> {
        let Taken {
            mut sends,
            copies,
            actions,
            bytes,
        } = taken;
        if self.begun.is_none() {
            self.rested_at = Instant::now();
        }
        self.append_sends(&mut sends)?;
        let copied = self.append_copies(copies)?;
        let actions = self.append_ordered(actions)?;
        let gathered = &mut self.gathered;
        gathered.bytes += bytes;
        gathered.sends.extend(sends);
        gathered.copied.extend(copied);
        gathered.actions.extend(actions);
        if self.may_gather() {
            return Ok(());
        }
        self.finish()?;
        self.begin()
    }

    /// Whether more is taken before the next commit is begun: the disk is at the last one.
    fn may_gather(&mut self) -> bool {
        self.begun.is_some()
            && self.gathered.bytes < COMMIT_BYTES_MAX
            && self.store.pull_sequences_unsynced() <= PULL_SEQUENCES_WRITTEN_MAX
            && !self.inbox.is_idle(self.which())
            && !self.store.is_synced()
    }

    /// Begins a commit of what was gathered, if anything was, and finishes it at once unless there
    /// is more to append meanwhile.
    fn begin(&mut self) -> Result<(), Error> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        let with = std::mem::take(&mut self.gathered);
        let durable = with.actions.iter().any(must_be_durable);
        let many = self.store.pull_sequences_unsynced() > PULL_SEQUENCES_WRITTEN_MAX;
        let started = Instant::now();
        let needs = SyncNeeds {
            actions: durable || many,
            // The original is acked next: the copy must not be lost after that.
            messages: !with.copied.is_empty(),
        };
        let waits = self.store.begin_commit(needs)?;
        self.begun = Some(Begun { with, started });
        let is_rested = started.duration_since(self.rested_at) < REST_INTERVAL;
        if waits && is_rested && !self.inbox.is_idle(self.which()) {
            return self.store.start_sync();
        }
        self.finish()
    }

    /// Finishes the commit that was begun, if one was: wakes and answers.
    fn finish(&mut self) -> Result<(), Error> {
        let Some(Begun { with, started }) = self.begun.take() else {
            return Ok(());
        };
        self.published.clear();
        self.store.finish_commit(&mut self.published)?;
        let took = started.elapsed();
        self.metrics.commit_seconds.observe(took.as_secs_f64());
        self.waiting
            .wake(&self.published, |id| self.reader.name(id));
        with.sends.into_iter().for_each(SendBatch::answer);
        // Nobody listens any more when the shard is gone: nothing to do.
        for then in with.copied {
            let _ = then.send(Ok(()));
        }
        with.actions.into_iter().for_each(answer_ordered);
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
