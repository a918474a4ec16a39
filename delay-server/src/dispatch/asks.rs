//! Questions for routes: few at a time, and again when there was no answer.

use std::collections::{BTreeSet, HashSet};

use super::Moment;
use super::limits::ROUTE_ASKS_MAX;
use super::lines::Line;
use qmq_store::DelaySubject;

/// What is asked and what is to be asked.
#[derive(Debug, Default)]
pub(super) struct Asks {
    queue: BTreeSet<(Moment, DelaySubject)>,
    outstanding: HashSet<DelaySubject>,
}

impl Asks {
    /// Asks at `at`, unless a question is under way already.
    pub(super) fn want(&mut self, subject: DelaySubject, line: &mut Line, at: Moment) {
        if !line.is_asking {
            line.is_asking = true;
            self.queue.insert((at, subject));
        }
    }

    /// The next question to be put now.
    pub(super) fn pop(&mut self, now: Moment) -> Option<DelaySubject> {
        let (at, subject) = *self.queue.first()?;
        if at > now || self.outstanding.len() >= ROUTE_ASKS_MAX {
            return None;
        }
        self.queue.pop_first();
        self.outstanding.insert(subject);
        Some(subject)
    }

    /// There was an answer, or there will be none. Says whether one was expected.
    pub(super) fn answered(&mut self, subject: DelaySubject) -> bool {
        self.outstanding.remove(&subject)
    }

    pub(super) fn next_wake(&self) -> Option<Moment> {
        let has_room = self.outstanding.len() < ROUTE_ASKS_MAX;
        self.queue.first().filter(|_| has_room).map(|(at, _)| *at)
    }
}
