//! Rules of one (subject, consumer group): who is handed which message, what is still unconfirmed.
//!
//! Pure: no IO, no clock. Time, and how far the subject reaches, are arguments; what has to be
//! written to the actionlog is returned.
//!
//! The promises kept here:
//! - a message is handed to one consumer of the group; it stays that consumer's until acked;
//! - what a consumer pulled and did not ack comes again, first, as soon as its own account of what
//!   it holds (`pull_last`) lies below;
//! - pull sequences of one consumer only rise, within a reply they have no gaps, and a number that
//!   was skipped stands for nothing: acking it confirms nothing;
//! - messages of a consumer that fell silent, and those it left out when it acked later ones, are
//!   named to be copied elsewhere; they stay unacked until their copies are safe.

mod patience;

use std::collections::HashMap;
use std::ops::Range;

pub use patience::{Overdue, Patience};
use qmq_model::{ConsumerId, MessageSequence, PullSequence, UnixMillis};
use qmq_store::{GroupProgress, Unacked};

use crate::unacked::UnackedSet;

/// How far one request may raise a consumer's pull counter. A consumer that survived the loss of
/// our state knows higher numbers than we do; a liar must not exhaust them.
pub const PULL_SEQUENCE_RAISE_MAX: i64 = 1 << 20;

/// Where a group starts that was never seen before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartAt {
    /// With the next message that arrives.
    Latest,
    /// With the oldest message that is kept: retry subjects belong to one group, so everything in
    /// them is meant for it.
    Earliest,
}

/// State of one (subject, consumer group).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    next: i64,
    broadcast: bool,
    consumers: HashMap<ConsumerId, Consumer>,
    /// When any consumer was last seen.
    last_seen: UnixMillis,
}

/// State of one consumer of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Consumer {
    next_pull: i64,
    unacked: UnackedSet,
    last_seen: UnixMillis,
    gap: Option<Gap>,
}

/// A consumer acked messages behind some that it had not acked: it lost those acks, or forgot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Gap {
    /// What is unacked below this pull sequence is concerned.
    below: i64,
    since: UnixMillis,
}

/// What a consumer says about itself when it pulls.
#[derive(Clone, Copy, Debug)]
pub struct PullState<'a> {
    /// Who pulls.
    pub consumer: &'a ConsumerId,
    /// Last pull sequence it received; negative when it holds none.
    pub pull_last: i64,
    /// Most messages it takes. Positive.
    pub count: usize,
    /// It wants every message, whoever else is there.
    pub broadcast: bool,
}

/// What a pull may be given. Nothing has changed yet: see [`Subscription::hand_out`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Offer {
    /// Messages it pulled before and has neither received nor acked: (pull sequence, message
    /// sequence) runs in ascending order, at most the wanted count.
    Again(Vec<Unacked>),
    /// New messages of the group: those in `messages` that the consumer wants and the store still
    /// has, at most `count`.
    New {
        /// From the group's position to the end of what is visible.
        messages: Range<i64>,
        /// Most of them.
        count: usize,
    },
    /// Nothing: wait.
    Nothing,
}

/// The part of a pull action that the rules decide.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PullAction {
    /// Pull sequences used; empty when only a position is recorded.
    pub pulls: Range<i64>,
    /// Message sequences they stand for; empty at the group's position otherwise.
    pub messages: Range<i64>,
    /// As the group is, whatever the pull says.
    pub broadcast: bool,
}

impl Subscription {
    /// A group nobody has seen before, over a subject that holds `kept`.
    #[must_use]
    pub fn first_contact(
        start: StartAt,
        kept: &Range<i64>,
        broadcast: bool,
        now: UnixMillis,
    ) -> Self {
        let next = match start {
            StartAt::Latest => kept.end,
            StartAt::Earliest => kept.start,
        };
        Self {
            next,
            broadcast,
            consumers: HashMap::new(),
            last_seen: now,
        }
    }

    /// The group as the store remembers it. All its consumers count as seen at `now`.
    #[must_use]
    pub fn restore(progress: &GroupProgress, now: UnixMillis) -> Self {
        let consumers = progress.consumers.iter().map(|(id, consumer)| {
            let unacked = consumer.unacked.iter().cloned().collect();
            let state = Consumer {
                next_pull: consumer.next_pull.0,
                unacked,
                last_seen: now,
                gap: None,
            };
            (id.clone(), state)
        });
        Self {
            next: progress.next.0,
            broadcast: progress.broadcast,
            consumers: consumers.collect(),
            last_seen: now,
        }
    }

    /// Next message to be handed out to the group.
    #[must_use]
    pub fn next(&self) -> MessageSequence {
        MessageSequence(self.next)
    }

    /// Whether every consumer gets every message, pull sequences being message sequences.
    #[must_use]
    pub fn is_broadcast(&self) -> bool {
        self.broadcast
    }

    /// Messages handed to `consumer` and not acked.
    #[must_use]
    pub fn unacked_count(&self, consumer: &ConsumerId) -> u64 {
        self.consumers
            .get(consumer)
            .map_or(0, |consumer| consumer.unacked.count())
    }

    /// What `consumer` pulled and has not acked, ascending.
    pub fn unacked(&self, consumer: &ConsumerId) -> impl Iterator<Item = &Unacked> {
        self.consumers
            .get(consumer)
            .into_iter()
            .flat_map(|consumer| consumer.unacked.iter())
    }

    /// Consumers known to the group.
    #[must_use]
    pub fn consumer_count(&self) -> usize {
        self.consumers.len()
    }

    /// Consumers known to the group, with what is known of each.
    pub fn consumers(&self) -> impl Iterator<Item = (&ConsumerId, &Consumer)> {
        self.consumers.iter()
    }

    /// When `consumer` was last seen; `None` for one that was never seen.
    #[must_use]
    pub fn last_seen(&self, consumer: &ConsumerId) -> Option<UnixMillis> {
        let consumer = self.consumers.get(consumer)?;
        Some(consumer.last_seen)
    }

    /// Next pull sequence of `consumer`; `None` for one that was never seen.
    #[must_use]
    pub fn next_pull(&self, consumer: &ConsumerId) -> Option<PullSequence> {
        self.consumers
            .get(consumer)
            .map(|consumer| PullSequence(consumer.next_pull))
    }

    /// Notes that `consumer` is there. Returns an action when it has to be remembered before it is
    /// answered: a consumer seen for the first time, or one that knows higher pull sequences than
    /// we do.
    pub fn meet(&mut self, pull: PullState<'_>, now: UnixMillis) -> Option<PullAction> {
        if self.consumers.is_empty() {
            // A group that was moved before anybody came has no mode yet.
            self.broadcast = pull.broadcast;
        }
        let first_pull = if self.broadcast { self.next } else { 0 };
        let known = self.consumers.contains_key(pull.consumer);
        self.last_seen = self.last_seen.max(now);
        let consumer = self.consumers.entry(pull.consumer.clone()).or_default();
        consumer.last_seen = now;
        if !known {
            consumer.next_pull = first_pull;
        }
        let behind = pull
            .pull_last
            .saturating_add(1)
            .saturating_sub(consumer.next_pull);
        let raise = if self.broadcast {
            0
        } else {
            behind.clamp(0, PULL_SEQUENCE_RAISE_MAX)
        };
        consumer.next_pull += raise;
        if known && raise == 0 {
            return None;
        }
        let pulls = consumer.next_pull..consumer.next_pull;
        Some(PullAction {
            pulls,
            messages: self.next..self.next,
            broadcast: self.broadcast,
        })
    }

    /// What this pull may be given, over a subject of which `kept` is visible. A consumer that holds
    /// `unacked_max` messages or more gets no new ones.
    #[must_use]
    pub fn offer(&self, pull: PullState<'_>, kept: &Range<i64>, unacked_max: u64) -> Offer {
        let Some(consumer) = self.consumers.get(pull.consumer) else {
            return Offer::Nothing;
        };
        let again = consumer.unacked.after(pull.pull_last, pull.count);
        if !again.is_empty() {
            return Offer::Again(again);
        }
        if !self.broadcast && pull.pull_last >= consumer.next_pull {
            // It outlived what we knew of it and still knows higher numbers than one request may
            // raise ours to: those in between it was given before, for other messages.
            return Offer::Nothing;
        }
        let room = unacked_max.saturating_sub(consumer.unacked.count());
        let count = usize::try_from(room.min(pull.count as u64)).unwrap_or(usize::MAX);
        // Expired messages are stepped over. A position beyond the end waits until the subject gets
        // there: never hand out a sequence twice.
        let messages = self.next.max(kept.start)..kept.end;
        if messages.is_empty() || count == 0 {
            Offer::Nothing
        } else {
            Offer::New { messages, count }
        }
    }

    /// Hands messages to `consumer`: `runs` are the messages that can be delivered, ascending, and
    /// everything up to `until` is done with. Returns the first pull sequence and the actions to
    /// append, in order.
    ///
    /// In broadcast mode at most one run may be given.
    ///
    /// # Panics
    /// When the consumer was never met, or the runs are not ascending from the group's position:
    /// callers pass on what [`Subscription::offer`] said.
    pub fn hand_out(
        &mut self,
        consumer: &ConsumerId,
        runs: &[Range<i64>],
        until: i64,
    ) -> (PullSequence, Vec<PullAction>) {
        let state = self
            .consumers
            .get_mut(consumer)
            .expect("a consumer is met before it pulls");
        if self.broadcast {
            assert!(
                runs.len() <= 1,
                "broadcast pull sequences have no gaps within a reply"
            );
            state.next_pull = runs.first().map_or(until, |run| run.start);
        }
        let first = state.next_pull;
        let mut actions = Vec::with_capacity(runs.len() + 1);
        for run in runs {
            assert!(self.next <= run.start && run.start < run.end, "runs ascend");
            let count = run.end - run.start;
            let pulls = state.next_pull..state.next_pull + count;
            state.unacked.push(Unacked {
                pull: pulls.start,
                message: run.start,
                count,
            });
            state.next_pull = pulls.end;
            self.next = run.end;
            actions.push(PullAction {
                pulls,
                messages: run.clone(),
                broadcast: self.broadcast,
            });
        }
        if until > self.next {
            self.next = until;
            if self.broadcast {
                state.next_pull = until;
            }
            let pulls = state.next_pull..state.next_pull;
            actions.push(PullAction {
                pulls,
                messages: until..until,
                broadcast: self.broadcast,
            });
        }
        (PullSequence(first), actions)
    }

    /// Takes messages from `consumer` that it will not ack: they can never be delivered, it does
    /// not want them any more, or their copies are safe elsewhere. Returns whether it held any.
    pub fn pass_over(&mut self, consumer: &ConsumerId, pulls: &Range<i64>) -> bool {
        let held = self.consumers.get_mut(consumer);
        held.is_some_and(|consumer| consumer.unacked.remove(pulls) > 0)
    }

    /// Confirms `pulls` of `consumer`. Returns the range to append when it confirmed anything: pull
    /// sequences that were never handed out, or were acked before, confirm nothing.
    pub fn ack(
        &mut self,
        consumer: &ConsumerId,
        pulls: &Range<i64>,
        now: UnixMillis,
    ) -> Option<Range<i64>> {
        let broadcast = self.broadcast;
        self.last_seen = self.last_seen.max(now);
        let consumer = self.consumers.get_mut(consumer)?;
        consumer.last_seen = now;
        let pulls = pulls.start.max(0)..pulls.end.min(consumer.next_pull);
        if consumer.unacked.remove(&pulls) == 0 {
            return None;
        }
        let first = consumer.unacked.first_pull();
        if !broadcast && first.is_some_and(|first| first < pulls.start) {
            let (below, since) = (pulls.start, now);
            consumer.gap.get_or_insert(Gap { below, since });
        }
        Some(pulls)
    }

    /// Lets the group go on at `next`, higher or lower than before. What its consumers hold stays
    /// theirs, except in broadcast, where pull sequences are message sequences.
    pub fn reset(&mut self, next: MessageSequence) {
        self.next = next.0;
        if self.broadcast {
            for consumer in self.consumers.values_mut() {
                consumer.unacked = UnackedSet::default();
                consumer.next_pull = next.0;
            }
        }
    }

    /// Notes that `consumer` is alive.
    pub fn keep_alive(&mut self, consumer: &ConsumerId, now: UnixMillis) {
        if let Some(consumer) = self.consumers.get_mut(consumer) {
            consumer.last_seen = consumer.last_seen.max(now);
            self.last_seen = self.last_seen.max(now);
        }
    }
}

impl Consumer {
    /// Messages it holds.
    #[must_use]
    pub fn unacked_count(&self) -> u64 {
        self.unacked.count()
    }

    /// When it was last heard of; after a start, when that was.
    #[must_use]
    pub fn last_seen(&self) -> UnixMillis {
        self.last_seen
    }

    /// The next pull sequence it gets.
    #[must_use]
    pub fn next_pull(&self) -> PullSequence {
        PullSequence(self.next_pull)
    }
}

#[cfg(test)]
mod tests;
