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
//!   was skipped stands for nothing: acking it confirms nothing.

use std::collections::HashMap;
use std::ops::Range;

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
}

/// State of one consumer of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Consumer {
    next_pull: i64,
    unacked: UnackedSet,
    last_seen: UnixMillis,
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
}

/// What a pull may be given. Nothing has changed yet: see [`Subscription::hand_out`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Offer {
    /// Messages it pulled before and has neither received nor acked: (pull sequence, message
    /// sequence) runs in ascending order, at most the wanted count.
    Again(Vec<Unacked>),
    /// New messages of the group.
    New(Range<i64>),
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
}

impl Subscription {
    /// A group nobody has seen before, over a subject that holds `kept`.
    #[must_use]
    pub fn first_contact(start: StartAt, kept: &Range<i64>, broadcast: bool) -> Self {
        let next = match start {
            StartAt::Latest => kept.end,
            StartAt::Earliest => kept.start,
        };
        Self {
            next,
            broadcast,
            consumers: HashMap::new(),
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
            };
            (id.clone(), state)
        });
        Self {
            next: progress.next.0,
            broadcast: progress.broadcast,
            consumers: consumers.collect(),
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
        let first_pull = if self.broadcast { self.next } else { 0 };
        let known = self.consumers.contains_key(pull.consumer);
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
        let room = unacked_max.saturating_sub(consumer.unacked.count());
        let count = i64::try_from(room.min(pull.count as u64)).unwrap_or(i64::MAX);
        // Expired messages are stepped over. A position beyond the end waits until the subject gets
        // there: never hand out a sequence twice.
        let begin = self.next.max(kept.start);
        let end = kept.end.min(begin.saturating_add(count));
        if begin < end {
            Offer::New(begin..end)
        } else {
            Offer::Nothing
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
            });
        }
        (PullSequence(first), actions)
    }

    /// Gives up messages of `consumer` that can never be delivered: expired or quarantined.
    pub fn pass_over(&mut self, consumer: &ConsumerId, pulls: &Range<i64>) {
        if let Some(consumer) = self.consumers.get_mut(consumer) {
            consumer.unacked.remove(pulls);
        }
    }

    /// Confirms `pulls` of `consumer`. Returns the range to append when it confirmed anything: pull
    /// sequences that were never handed out, or were acked before, confirm nothing.
    pub fn ack(
        &mut self,
        consumer: &ConsumerId,
        pulls: &Range<i64>,
        now: UnixMillis,
    ) -> Option<Range<i64>> {
        let consumer = self.consumers.get_mut(consumer)?;
        consumer.last_seen = now;
        let pulls = pulls.start.max(0)..pulls.end.min(consumer.next_pull);
        (consumer.unacked.remove(&pulls) > 0).then_some(pulls)
    }

    /// Notes that `consumer` is alive.
    pub fn keep_alive(&mut self, consumer: &ConsumerId, now: UnixMillis) {
        if let Some(consumer) = self.consumers.get_mut(consumer) {
            consumer.last_seen = now;
        }
    }
}

#[cfg(test)]
mod tests;
