//! The one thread that writes: takes batches, writes, syncs once, tells the scheduler, answers. While
//! more is waiting, it writes the next batch during the sync of the one before, piece by piece until
//! the disk is done.
//!
//! It is the point of order: whether a message was cancelled before it left is decided here. It
//! waits for the disk and for nothing else. A full disk refuses sends and cancellations with a
//! clear result and keeps what brokers confirmed until there is room; any failed write or sync ends
//! the server, because the store then no longer knows what is on disk.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use qmq_daemon::receive::{self, Refused};
use qmq_model::{Clock, UnixMillis};
use qmq_store::{
    AcceptSequence, AppendError, CancelAnswer, DelayWriter, Error, NewDelayed, Pending,
    RescheduleAnswer,
};
use tokio::sync::oneshot;
use tracing::{error, info, warn};

use crate::dispatch::RequestId;
use crate::inbox::{COMMIT_BYTES_MAX, Inbox, NotDone, Order, SendBatch, Taken};
use crate::metrics::Metrics;
use crate::scheduler::{News, NewsBox};
use crate::window::HORIZON;

/// Longest sleep of an idle writer.
const PATIENCE_MAX: Duration = Duration::from_secs(1);
/// How soon confirmations are tried again after the disk was full.
const NO_SPACE_PAUSE: Duration = Duration::from_millis(200);
/// While batches overlap, how often the writer lets the last one end before it takes the next:
/// runs, checkpoints and seals begin when nothing is half done.
const REST_INTERVAL: Duration = Duration::from_millis(50);
/// The scheduler is told of messages due within this: more than it ever holds, since it looks at
/// the clock at another moment.
const TOLD_WITHIN: Duration = Duration::from_secs(2 * HORIZON.as_secs());

/// An order that was carried out, and whom to tell once it is durable.
enum Done {
    Noted,
    Began(RequestId, Vec<Pending>),
    Cancelled(oneshot::Sender<Result<CancelAnswer, NotDone>>, CancelAnswer),
    Rescheduled(
        oneshot::Sender<Result<RescheduleAnswer, NotDone>>,
        RescheduleAnswer,
    ),
}

/// The writing half of the server.
pub struct Writer {
    store: DelayWriter,
    inbox: Arc<Inbox>,
    news: NewsBox,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
    /// Answers are given without a slave although one was asked for.
    unreplicated: bool,
    /// Orders that are not written yet, because the disk was full. They keep their order.
    stuck: VecDeque<Order>,
    messages: Vec<NewDelayed>,
    /// What was written for the commit that is begun next.
    gathered: Gathered,
    /// What is answered when the commit that was begun is finished.
    begun: Option<Begun>,
    /// When nothing was half done.
    rested_at: Instant,
}

/// Whom to answer and what to tell when what was written for it is committed.
#[derive(Default)]
struct Gathered {
    sends: Vec<SendBatch>,
    done: Vec<Done>,
    placed: Vec<Pending>,
    /// Bytes of the send requests.
    bytes: usize,
}

impl Gathered {
    fn is_empty(&self) -> bool {
        self.sends.is_empty() && self.done.is_empty()
    }
}

/// A commit that was begun.
struct Begun {
    with: Gathered,
    started: Instant,
}

impl Writer {
    /// Takes the store's writing half. `unreplicated`: a slave should have every message before it
    /// is acknowledged, and there is none.
    #[must_use]
    pub fn new(
        store: DelayWriter,
        inbox: Arc<Inbox>,
        news: NewsBox,
        metrics: Arc<Metrics>,
        clock: Arc<dyn Clock>,
        unreplicated: bool,
    ) -> Self {
        Self {
            store,
            inbox,
            news,
            metrics,
            clock,
            unreplicated,
            stuck: VecDeque::new(),
            messages: Vec::new(),
            gathered: Gathered::default(),
            begun: None,
            rested_at: Instant::now(),
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
            let Some(taken) = self.inbox.take(wait) else {
                break;
            };
            patience = self.turn(taken).inspect_err(|error| {
                error!(%error, "store failed; the server stops so that nothing is lost");
                self.inbox.close();
            })?;
        }
        self.finish()?;
        self.begin()?;
        self.finish()?;
        info!("writer closes the store");
        self.store.close()
    }

    fn tick(&mut self) -> Result<Duration, Error> {
        let started = Instant::now();
        let next = self.store.tick(self.clock.now())?;
        self.rested_at = Instant::now();
        let took = self.rested_at.duration_since(started);
        self.metrics.upkeep_seconds.observe(took.as_secs_f64());
        let most = if self.stuck.is_empty() {
            PATIENCE_MAX
        } else {
            NO_SPACE_PAUSE
        };
        Ok(next.map_or(most, |next| next.min(most)))
    }

    /// Writes what was taken; says how long there is nothing else to do.
    fn turn(&mut self, taken: Taken) -> Result<Duration, Error> {
        let Taken { mut sends, orders } = taken;
        self.accept(&mut sends)?;
        self.stuck.extend(orders);
        let done = self.carry_out()?;
        let gathered = &mut self.gathered;
        gathered.bytes += sends.iter().map(|send| send.bytes.len()).sum::<usize>();
        gathered.sends.extend(sends);
        gathered.done.extend(done);
        if self.may_gather() {
            return Ok(Duration::ZERO);
        }
        self.finish()?;
        self.begin()?;
        if self.begun.is_some() {
            return Ok(Duration::ZERO);
        }
        self.tick()
    }

    /// Whether more is taken before the next commit is begun: the disk is at the last one.
    fn may_gather(&mut self) -> bool {
        self.begun.is_some()
            && self.gathered.bytes < COMMIT_BYTES_MAX
            && !self.inbox.is_idle()
            && !self.store.is_synced()
    }

    /// Begins a commit of what was gathered, if anything was, and finishes it at once unless there
    /// is more to write meanwhile.
    fn begin(&mut self) -> Result<(), Error> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        let with = std::mem::take(&mut self.gathered);
        let started = Instant::now();
        let waits = self.store.begin_commit()?;
        self.begun = Some(Begun { with, started });
        let is_rested = started.duration_since(self.rested_at) < REST_INTERVAL;
        if waits && is_rested && !self.inbox.is_idle() {
            return self.store.start_sync();
        }
        self.finish()
    }

    /// Finishes the commit that was begun, if one was: tells the scheduler and answers.
    fn finish(&mut self) -> Result<(), Error> {
        let Some(Begun { with, started }) = self.begun.take() else {
            return Ok(());
        };
        self.store.finish_commit()?;
        let took = started.elapsed();
        self.metrics.commit_seconds.observe(took.as_secs_f64());
        self.tell_accepted(&with.placed);
        with.sends.into_iter().for_each(|send| self.answer(send));
        with.done.into_iter().for_each(|done| self.tell(done));
        Ok(())
    }

    fn accept(&mut self, sends: &mut [SendBatch]) -> Result<(), Error> {
        for send in &*sends {
            let messages = send.iter().map(|(subject, payload, message)| NewDelayed {
                subject: subject.clone(),
                due: message.due,
                payload: send.bytes.slice_ref(payload),
                crc: message.crc,
            });
            self.messages.extend(messages);
        }
        while !self.messages.is_empty() {
            match self.store.accept(&self.messages, &mut self.gathered.placed) {
                Ok(()) => {
                    let bytes = self.messages.iter().map(|m| m.payload.len() as u64);
                    self.metrics.stored_bytes.inc_by(bytes.sum());
                    self.metrics.stored.inc_by(self.messages.len() as u64);
                    break;
                }
                Err(AppendError::NoSpace) => {
                    let messages = self.messages.len();
                    warn!(messages, "disk is full: sends are refused");
                    for send in &mut *sends {
                        send.refuse_all(Refused::no_space);
                    }
                    break;
                }
                Err(AppendError::Unstorable { index, what }) => {
                    warn!(what, "a message cannot be stored");
                    self.messages.remove(index);
                    receive::refuse_at(sends, index, Refused::unstorable);
                }
                Err(AppendError::Poisoned) => return Err(Error::Poisoned),
                Err(AppendError::Failed(error)) => return Err(error),
            }
        }
        // They share the frames they came in: nothing of those is kept longer than needed.
        self.messages.clear();
        Ok(())
    }

    /// Carries out what was stuck before and what came, in order, until the disk is full.
    fn carry_out(&mut self) -> Result<Vec<Done>, Error> {
        let mut done = Vec::with_capacity(self.stuck.len());
        while let Some(order) = self.stuck.pop_front() {
            let is_call = matches!(order, Order::Cancel(..) | Order::Reschedule(..));
            match self.write(&order) {
                Ok(written) => done.push(Done::of(order, written)),
                Err(AppendError::NoSpace) => {
                    if let Some(order) = self.give_up(order, NotDone::DiskFull) {
                        warn!(orders = 1 + self.stuck.len(), "disk is full: outcomes wait");
                        self.stuck.push_front(order);
                        break;
                    }
                }
                Err(AppendError::Unstorable { what, .. }) => {
                    error!(what, "an order cannot be stored");
                    // An outcome that cannot be written stays unknown on disk, which it was.
                    drop(self.give_up(order, NotDone::Failed));
                }
                Err(AppendError::Poisoned) => return Err(Error::Poisoned),
                // A call reads before it writes; if it was the writing that failed, the next
                // commit says so.
                Err(AppendError::Failed(error)) if is_call => {
                    error!(%error, "a message cannot be looked up");
                    drop(self.give_up(order, NotDone::Failed));
                }
                Err(AppendError::Failed(error)) => return Err(error),
            }
        }
        Ok(done)
    }

    fn write(&mut self, order: &Order) -> Result<Written, AppendError> {
        match order {
            Order::Begin { group, entries, .. } => {
                let mut accepted = Vec::with_capacity(entries.len());
                self.store.begin(group, entries, &mut accepted)?;
                Ok(Written::Began(accepted))
            }
            Order::Confirm(entries) => {
                let confirmed = self.store.confirm(&sequences(entries));
                confirmed.map(|()| Written::Noted)
            }
            Order::Refuse(entries) => {
                let refused = self.store.refuse(&sequences(entries));
                refused.map(|()| Written::Noted)
            }
            Order::Cancel(found, _) => self.store.cancel(found).map(Written::Cancelled),
            Order::Reschedule(found, due, _) => {
                let answer = self.store.reschedule(found, *due)?;
                if let RescheduleAnswer::Rescheduled(entry) = &answer {
                    self.gathered.placed.push(*entry);
                }
                Ok(Written::Rescheduled(answer))
            }
        }
    }

    /// Tells that it was not done; gives an order back that nobody can give again.
    fn give_up(&self, order: Order, why: NotDone) -> Option<Order> {
        // Nobody listens any more when the call was given up: nothing to do.
        match order {
            Order::Begin { request, .. } => self.news.tell(News::NotBegun(request)),
            Order::Cancel(_, tell) => drop(tell.send(Err(why))),
            Order::Reschedule(_, _, tell) => drop(tell.send(Err(why))),
            Order::Confirm(_) | Order::Refuse(_) => return Some(order),
        }
        None
    }

    /// What is due soon goes to the scheduler: it can be read from the store now.
    fn tell_accepted(&self, placed: &[Pending]) {
        let until: UnixMillis = self.clock.now().plus(TOLD_WITHIN);
        let soon = placed.iter().filter(|entry| entry.due < until);
        let soon: Vec<Pending> = soon.copied().collect();
        if !soon.is_empty() {
            self.news.tell(News::Accepted(soon));
        }
    }

    fn answer(&self, send: SendBatch) {
        if self.unreplicated {
            let stored = send.messages.len() as u64;
            self.metrics.unreplicated_acks.inc_by(stored);
        }
        send.answer();
    }

    fn tell(&self, done: Done) {
        match done {
            Done::Noted => {}
            Done::Began(request, accepted) => self.news.tell(News::Began(request, accepted)),
            Done::Cancelled(tell, answer) => drop(tell.send(Ok(answer))),
            Done::Rescheduled(tell, answer) => drop(tell.send(Ok(answer))),
        }
    }
}

impl Done {
    fn of(order: Order, written: Written) -> Self {
        match (order, written) {
            (Order::Begin { request, .. }, Written::Began(accepted)) => {
                Self::Began(request, accepted)
            }
            (Order::Cancel(_, tell), Written::Cancelled(answer)) => Self::Cancelled(tell, answer),
            (Order::Reschedule(_, _, tell), Written::Rescheduled(answer)) => {
                Self::Rescheduled(tell, answer)
            }
            _ => Self::Noted,
        }
    }
}

fn sequences(entries: &[Pending]) -> Vec<AcceptSequence> {
    entries.iter().map(|entry| entry.sequence).collect()
}

/// What the store did.
enum Written {
    Noted,
    Began(Vec<Pending>),
    Cancelled(CancelAnswer),
    Rescheduled(RescheduleAnswer),
}
