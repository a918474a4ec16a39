//! A running broker: the store, the rules, and what a shard and the writer do between them.

mod pulls;
mod upkeep;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

pub(super) use pulls::Pull;
use qmq_broker::filter::Filter;
use qmq_broker::subscription::{Patience, PullAction, Subscription};
use qmq_model::{Clock, UnixMillis};
use qmq_store::fs::faulty::FaultyFs;
use qmq_store::{
    Action, ConsumerKey as StoreKey, Error, NewMessage, Opened, PULL_SEQUENCE_JUMP, Placed,
    Progress, RealtimeStore, StoreConfig, StoreReader, StoreWriter, SyncNeeds,
};

use crate::letter::{Letter, Wish};
use crate::sabotage::Sabotage;
use crate::stream::{ConsumerKey, Names, Queue, Stream};

/// The call did not come to its end: the power was cut, or the store refuses to go on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Crashed;

/// What every broker of a world has in common.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) names: Names,
    /// By the number of the wish.
    pub(super) filters: [Option<Filter>; Wish::COUNT + 1],
    pub(super) patience: Patience,
    pub(super) retry_delay: Duration,
    pub(super) sabotage: Sabotage,
}

pub(super) struct Live {
    frame: Rc<Frame>,
    writer: StoreWriter,
    reader: StoreReader,
    queues: BTreeMap<Queue, Entry>,
    /// Actions on their way to the writer. Replies do not wait for them.
    queued: Vec<Action>,
    jobs: Vec<upkeep::Job>,
}

/// A subscription, as in a shard.
struct Entry {
    rules: Subscription,
    look_at: UnixMillis,
    /// Consumers of which messages are being copied.
    giving_back: BTreeSet<usize>,
}

impl Entry {
    fn new(rules: Subscription, frame: &Frame, now: UnixMillis) -> Self {
        Self {
            rules,
            look_at: now.plus(frame.patience.dead_after),
            giving_back: BTreeSet::new(),
        }
    }
}

impl Live {
    pub(super) fn open(
        fs: Arc<FaultyFs>,
        config: StoreConfig,
        clock: Arc<dyn Clock>,
        frame: Rc<Frame>,
    ) -> Result<Self, Error> {
        let now = clock.now();
        let opened = RealtimeStore::open(fs, Path::new("/store"), config, clock)?;
        let Opened {
            writer,
            reader,
            progress,
            ..
        } = opened;
        Ok(Self {
            queues: restore(&progress, &frame, now),
            frame,
            writer,
            reader,
            queued: Vec::new(),
            jobs: Vec::new(),
        })
    }

    /// Sends messages; returns their sequences once they are acknowledged.
    pub(super) fn send(&mut self, messages: &[NewMessage]) -> Result<Vec<i64>, Crashed> {
        let mut placed = Vec::new();
        self.writer
            .append_messages(messages, &mut placed)
            .map_err(|_| Crashed)?;
        let needs = SyncNeeds {
            messages: true,
            ..SyncNeeds::default()
        };
        self.commit(needs)?;
        let appended = placed.iter().filter_map(Placed::appended);
        Ok(appended.map(|appended| appended.sequence.0).collect())
    }

    /// Acks; returns what it confirmed: pull sequences and the messages they stand for.
    pub(super) fn ack(
        &mut self,
        who: ConsumerKey,
        pulls: &Range<i64>,
        now: UnixMillis,
    ) -> Result<Vec<(i64, i64)>, Crashed> {
        let id = self.frame.names.consumer(who.1);
        let Some(entry) = self.queues.get_mut(&who.0) else {
            return Ok(Vec::new());
        };
        let held = entry.rules.unacked(id);
        let held = held.flat_map(|run| (0..run.count).map(|i| (run.pull + i, run.message + i)));
        let confirmed: Vec<_> = held.filter(|(pull, _)| pulls.contains(pull)).collect();
        let Some(pulls) = entry.rules.ack(id, pulls, now) else {
            return Ok(Vec::new());
        };
        if let Some(due) = entry.rules.gap_due(id, &self.frame.patience) {
            entry.look_at = entry.look_at.min(due);
        }
        self.queued.push(Action::Ack {
            key: self.key(who),
            time: now,
            pulls,
        });
        self.commit(SyncNeeds::default())?;
        Ok(confirmed)
    }

    /// A sign of life: it confirms nothing.
    pub(super) fn keep_alive(&mut self, who: ConsumerKey, now: UnixMillis) {
        if let Some(entry) = self.queues.get_mut(&who.0) {
            let id = self.frame.names.consumer(who.1);
            entry.rules.keep_alive(id, now);
        }
    }

    pub(super) fn next_pull(&self, who: ConsumerKey) -> i64 {
        self.known(who).unwrap_or(0)
    }

    /// Whether the consumer ever pulled, as far as is known.
    pub(super) fn knows(&self, who: ConsumerKey) -> bool {
        self.known(who).is_some()
    }

    fn known(&self, who: ConsumerKey) -> Option<i64> {
        let id = self.frame.names.consumer(who.1);
        let next = self.queues.get(&who.0)?.rules.next_pull(id)?;
        Some(next.0)
    }

    /// Messages that consumers of groups hold, those of broadcasts apart.
    pub(super) fn unacked_count(&self) -> u64 {
        let rules = self.queues.values().map(|entry| &entry.rules);
        let shared = rules.filter(|rules| !rules.is_broadcast());
        let consumers = shared.flat_map(Subscription::consumers);
        consumers
            .map(|(_, consumer)| consumer.unacked_count())
            .sum()
    }

    /// Everything that stands in a stream.
    pub(super) fn letters(&self, stream: Stream) -> BTreeMap<i64, Letter> {
        let subject = self.frame.names.subject(stream);
        let Some(id) = self.reader.subject(subject.as_str()) else {
            return BTreeMap::new();
        };
        let (mut found, mut all) = (Vec::new(), self.reader.bounds(id));
        while !all.is_empty() {
            let skipped = self
                .reader
                .locate(id, all.clone(), usize::MAX, usize::MAX, &mut found);
            all.start = skipped.next;
            if let Some(cold) = skipped.cold
                && self.reader.load_index(id, cold).is_err()
            {
                break;
            }
        }
        let read = |at: &qmq_store::Located| {
            let payload = self.reader.read(at).ok()?;
            Some((at.sequence.0, Letter::read(&payload)?))
        };
        found.iter().filter_map(read).collect()
    }

    /// The writer gets to its queue.
    pub(super) fn flush(&mut self) -> Result<(), Crashed> {
        self.commit(SyncNeeds::default())
    }

    pub(super) fn tick(&mut self, now: UnixMillis) -> Result<(), Crashed> {
        self.writer.tick(now).map(drop).map_err(|_| Crashed)
    }

    pub(super) fn close(mut self) -> Result<(), Crashed> {
        self.commit(SyncNeeds::default())?;
        self.writer.close().map_err(|_| Crashed)
    }

    fn queue_pull(&mut self, pull: &Pull, action: PullAction) {
        let PullAction {
            pulls,
            messages,
            broadcast,
        } = action;
        self.queued.push(Action::Pull {
            key: self.key(pull.asked.who),
            time: pull.asked.now,
            broadcast,
            pulls,
            messages,
        });
    }

    fn append_queued(&mut self) -> Result<(), Crashed> {
        if !self.queued.is_empty() {
            self.writer
                .append_actions(&self.queued)
                .map_err(|_| Crashed)?;
            self.queued.clear();
        }
        Ok(())
    }

    fn commit(&mut self, needs: SyncNeeds) -> Result<(), Crashed> {
        self.append_queued()?;
        self.writer
            .commit(needs, &mut Vec::new())
            .map_err(|_| Crashed)
    }

    fn key(&self, who: ConsumerKey) -> StoreKey {
        let names = &self.frame.names;
        StoreKey {
            subject: names.subject(who.0.stream()).clone(),
            group: names.group(who.0.group).clone(),
            consumer: names.consumer(who.1).clone(),
        }
    }
}

fn restore(progress: &Progress, frame: &Frame, now: UnixMillis) -> BTreeMap<Queue, Entry> {
    let mut queues = BTreeMap::new();
    for (subject, group, state) in progress.groups() {
        let Some(queue) = frame.names.queue(subject, group) else {
            continue;
        };
        let mut state = state.clone();
        if frame.sabotage == Sabotage::ReusePullSequences {
            let consumers = state.consumers.values_mut();
            for consumer in consumers.filter(|c| c.next_pull.0 >= PULL_SEQUENCE_JUMP) {
                consumer.next_pull.0 -= PULL_SEQUENCE_JUMP;
            }
        }
        let rules = Subscription::restore(&state, now);
        queues.insert(queue, Entry::new(rules, frame, now));
    }
    queues
}
