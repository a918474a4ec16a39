//! Messages that wait for another try on their own, so that they hold up no other.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use rand::rngs::SmallRng;

use super::Moment;
use super::limits::{ASIDE_MAX, REJECTED_BACKOFF, UNREADABLE_PAUSE};
use super::lines::LaneId;
use qmq_store::{AcceptSequence, Pending};

/// A message, and the lane it must go to because an attempt there has an unknown outcome.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    pub(super) entry: Pending,
    pub(super) bound_to: Option<LaneId>,
}

/// All of them, by the time of the next try.
#[derive(Debug, Default)]
pub(super) struct Aside {
    by_time: BTreeMap<(Moment, AcceptSequence), Waiting>,
    /// Tries in a row that a broker refused.
    refusals: HashMap<AcceptSequence, u32>,
    bound: usize,
}

/// Why a message waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    Refused,
    Unreadable,
}

impl Aside {
    /// Puts a message aside. `false`: there is no room; one that is bound always finds room, their
    /// number is bounded by [`Self::is_full`].
    pub(super) fn put(
        &mut self,
        waiting: Waiting,
        reason: Reason,
        now: Moment,
        rng: &mut SmallRng,
    ) -> bool {
        if waiting.bound_to.is_none() && self.by_time.len() - self.bound >= ASIDE_MAX {
            return false;
        }
        let sequence = waiting.entry.sequence;
        let pause = match reason {
            Reason::Unreadable => UNREADABLE_PAUSE,
            Reason::Refused => self.next_pause(sequence, rng),
        };
        let replaced = self.by_time.insert((now + pause, sequence), waiting);
        let bound = |waiting: &Waiting| usize::from(waiting.bound_to.is_some());
        self.bound += bound(&waiting);
        self.bound -= replaced.as_ref().map_or(0, bound);
        true
    }

    fn next_pause(&mut self, sequence: AcceptSequence, rng: &mut SmallRng) -> Duration {
        if self.refusals.len() >= 2 * ASIDE_MAX {
            // Whoever was refused long ago and left otherwise: pauses begin anew.
            self.refusals.clear();
        }
        let refusals = self.refusals.entry(sequence).or_default();
        *refusals = refusals.saturating_add(1);
        REJECTED_BACKOFF.pause(*refusals, rng)
    }

    /// The message is done: its refusals are forgotten.
    pub(super) fn done(&mut self, sequence: AcceptSequence) {
        if !self.refusals.is_empty() {
            self.refusals.remove(&sequence);
        }
    }

    /// Takes one whose time has come.
    pub(super) fn pop(&mut self, now: Moment) -> Option<Waiting> {
        let first = self.by_time.first_entry()?;
        if first.key().0 > now {
            return None;
        }
        let waiting = first.remove();
        self.bound -= usize::from(waiting.bound_to.is_some());
        Some(waiting)
    }

    /// Takes all that are bound to a lane.
    pub(super) fn take_bound(&mut self, lane: LaneId) -> Vec<Pending> {
        let is_bound =
            |_: &(Moment, AcceptSequence), waiting: &mut Waiting| waiting.bound_to == Some(lane);
        let taken = self.by_time.extract_if(.., is_bound);
        let taken: Vec<_> = taken.map(|(_, waiting)| waiting.entry).collect();
        self.bound -= taken.len();
        taken
    }

    /// Whether so many messages of unknown outcome wait that nothing new may be begun.
    pub(super) fn is_full(&self) -> bool {
        self.bound >= ASIDE_MAX
    }

    pub(super) fn len(&self) -> usize {
        self.by_time.len()
    }

    pub(super) fn next_wake(&self) -> Option<Moment> {
        self.by_time.first_key_value().map(|((at, _), _)| *at)
    }
}
