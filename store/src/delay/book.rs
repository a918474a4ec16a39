//! What became of messages that are not simply pending (pure).

use std::collections::{BTreeMap, HashMap};
use std::ops::RangeInclusive;
use std::sync::Arc;

use roaring::RoaringTreemap;

use crate::delay::dispatch_log::Verb;
use crate::delay::entry::{EntryState, Key};

/// Pending messages are counted by the hour they are due in.
pub(crate) const HOUR_MS: i64 = 3_600_000;

/// A message that was handed to a broker group, outcome unknown so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BegunAt {
    pub(crate) due: i64,
    pub(crate) group: Arc<str>,
}

/// What the store says about a message it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Is(EntryState),
    /// Another one, with another due time, took its place.
    Moved,
    /// It is finished and the store does not hold it any more.
    Gone,
}

/// The state of every message that is not simply pending. A message that it does not know is
/// pending, if the store holds it at all.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Book {
    /// Next accept sequence.
    pub(crate) next: u64,
    pub(crate) begun: HashMap<u64, BegunAt>,
    /// Everything that is not to be delivered any more.
    pub(crate) done: RoaringTreemap,
    /// Which of those were not delivered.
    pub(crate) cancelled: RoaringTreemap,
    pub(crate) moved: RoaringTreemap,
    pub(crate) expired: RoaringTreemap,
    /// Messages that are not done, by the hour they are due in, in hours since 1970.
    pub(crate) by_hour: BTreeMap<i64, u64>,
    /// How many messages were dropped as overdue since the store was created.
    pub(crate) expired_total: u64,
    /// Finished messages that the store does not hold any more: somebody may still have their
    /// keys. Not kept over a restart, which nobody's keys survive.
    pub(crate) buried: RoaringTreemap,
    /// The store holds nothing below this sequence.
    pub(crate) first_held: u64,
}

impl Book {
    /// The book of a new store.
    pub(crate) fn new() -> Self {
        Self {
            next: 1,
            ..Self::default()
        }
    }

    pub(crate) fn state(&self, sequence: u64) -> State {
        if self.is_buried(sequence) {
            return State::Gone;
        }
        let state = if !self.done.contains(sequence) {
            if self.begun.contains_key(&sequence) {
                EntryState::Dispatching
            } else {
                EntryState::Pending
            }
        } else if self.cancelled.contains(sequence) {
            EntryState::Cancelled
        } else if self.moved.contains(sequence) {
            return State::Moved;
        } else if self.expired.contains(sequence) {
            EntryState::Expired
        } else {
            EntryState::Delivered
        };
        State::Is(state)
    }

    /// Whether it waits and nobody is sending it.
    pub(crate) fn is_pending(&self, sequence: u64) -> bool {
        self.state(sequence) == State::Is(EntryState::Pending)
    }

    fn is_buried(&self, sequence: u64) -> bool {
        sequence < self.first_held || self.buried.contains(sequence)
    }

    /// What merges go by, once a checkpoint with it is durable: what is done, the counts, and up
    /// to which number.
    pub(crate) fn durable_part(&self) -> Self {
        Self {
            next: self.next,
            done: self.done.clone(),
            by_hour: self.by_hour.clone(),
            ..Self::default()
        }
    }

    /// Whether nothing in this range is done, or gone.
    pub(crate) fn holds_all(&self, sequences: RangeInclusive<u64>) -> bool {
        *sequences.start() >= self.first_held
            && self.done.range_cardinality(sequences.clone()) == 0
            && self.buried.range_cardinality(sequences) == 0
    }

    /// How many messages are not done.
    pub(crate) fn pending_count(&self) -> u64 {
        self.by_hour.values().sum()
    }

    /// Messages that are not done and are due in the hours from that of `from` to that of `until`,
    /// both included.
    pub(crate) fn pending_in(&self, from: i64, until: i64) -> u64 {
        let hours = from.div_euclid(HOUR_MS)..=until.div_euclid(HOUR_MS);
        self.by_hour.range(hours).map(|(_, count)| count).sum()
    }

    /// A message was accepted, in the place of another one perhaps.
    pub(crate) fn accept(&mut self, key: Key, replaces: Option<Key>) {
        self.next = self.next.max(key.sequence + 1);
        *self.by_hour.entry(key.due.div_euclid(HOUR_MS)).or_insert(0) += 1;
        if let Some(replaced) = replaces {
            // It was pending when it was replaced: what says that it is begun was void by then.
            self.begun.remove(&replaced.sequence);
            if self.finish(replaced) {
                self.moved.insert(replaced.sequence);
            }
        }
    }

    /// The same happens to all of `keys`.
    pub(crate) fn apply(&mut self, verb: Verb, group: &str, keys: &[Key]) {
        let group: Arc<str> = Arc::from(group);
        for key in keys {
            self.next = self.next.max(key.sequence + 1);
            match verb {
                Verb::Begin if !self.done.contains(key.sequence) => {
                    let (due, group) = (key.due, group.clone());
                    self.begun.insert(key.sequence, BegunAt { due, group });
                }
                Verb::Begin => {}
                Verb::Refuse => {
                    self.begun.remove(&key.sequence);
                }
                Verb::Confirm | Verb::Cancel | Verb::Expire => {
                    self.begun.remove(&key.sequence);
                    if !self.finish(*key) {
                        continue;
                    }
                    match verb {
                        Verb::Cancel => {
                            self.cancelled.insert(key.sequence);
                        }
                        Verb::Expire => {
                            self.expired.insert(key.sequence);
                            self.expired_total += 1;
                        }
                        _ => {}
                    }
                }
            }
        }
    }

    /// Marks a message as done; `false` when it was.
    fn finish(&mut self, key: Key) -> bool {
        if !self.done.insert(key.sequence) {
            return false;
        }
        let hour = key.due.div_euclid(HOUR_MS);
        if let Some(count) = self.by_hour.get_mut(&hour) {
            *count -= 1;
            if *count == 0 {
                self.by_hour.remove(&hour);
            }
        }
        true
    }

    /// Forgets finished messages below `first`: the store holds none of them any more.
    pub(crate) fn forget_below(&mut self, first: u64) {
        self.first_held = self.first_held.max(first.min(self.next));
        let below = ..self.first_held;
        for set in self.sets_mut() {
            set.remove_range(below);
        }
        self.buried.remove_range(below);
    }

    /// Forgets finished messages that the store does not hold any more.
    pub(crate) fn forget(&mut self, sequences: &RoaringTreemap) {
        for set in self.sets_mut() {
            *set -= sequences;
        }
        self.buried |= sequences;
        // Messages that are near each other are mostly finished together.
        self.buried.optimize();
    }

    pub(crate) fn sets_mut(&mut self) -> [&mut RoaringTreemap; 4] {
        [
            &mut self.done,
            &mut self.cancelled,
            &mut self.moved,
            &mut self.expired,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(sequence: u64) -> Key {
        Key {
            due: 1000,
            sequence,
        }
    }

    fn of(count: u64) -> Book {
        let mut book = Book::new();
        for sequence in 1..=count {
            book.accept(key(sequence), None);
        }
        book
    }

    fn state(book: &Book, sequence: u64) -> EntryState {
        match book.state(sequence) {
            State::Is(state) => state,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_message_goes_its_way() {
        let mut book = of(4);
        assert_eq!((book.next, book.pending_count()), (5, 4));
        book.apply(Verb::Begin, "g", &[key(1), key(2)]);
        assert_eq!(state(&book, 1), EntryState::Dispatching);
        assert!(!book.is_pending(1) && book.is_pending(3));
        book.apply(Verb::Confirm, "", &[key(1)]);
        book.apply(Verb::Refuse, "", &[key(2)]);
        book.apply(Verb::Cancel, "", &[key(3)]);
        book.apply(Verb::Expire, "", &[key(4)]);
        let states = [1, 2, 3, 4].map(|sequence| state(&book, sequence));
        assert_eq!(
            states,
            [
                EntryState::Delivered,
                EntryState::Pending,
                EntryState::Cancelled,
                EntryState::Expired,
            ]
        );
        assert_eq!((book.pending_count(), book.expired_total), (1, 1));
        assert!(book.begun.is_empty());
    }

    #[test]
    fn what_is_done_stays_done() {
        let mut book = of(2);
        book.apply(Verb::Cancel, "", &[key(1)]);
        for verb in [Verb::Begin, Verb::Confirm, Verb::Refuse, Verb::Expire] {
            book.apply(verb, "g", &[key(1)]);
        }
        assert_eq!(state(&book, 1), EntryState::Cancelled);
        assert_eq!((book.pending_count(), book.expired_total), (1, 0));
    }

    #[test]
    fn a_message_in_the_place_of_another_ends_that_one() {
        let mut book = of(1);
        // A refusal may be lost by a power cut, although the new message was kept.
        book.apply(Verb::Begin, "g", &[key(1)]);
        book.accept(key(2), Some(key(1)));
        assert_eq!(book.state(1), State::Moved);
        assert_eq!(state(&book, 2), EntryState::Pending);
        assert_eq!((book.pending_count(), book.begun.len()), (1, 0));
    }

    #[test]
    fn numbers_that_were_only_begun_are_not_given_again() {
        let mut book = of(3);
        book.apply(Verb::Begin, "g", &[key(9)]);
        assert_eq!(book.next, 10);
    }

    #[test]
    fn forgets_what_is_gone() {
        let mut book = of(4);
        book.apply(Verb::Confirm, "", &[key(1), key(3)]);
        book.apply(Verb::Cancel, "", &[key(4)]);
        book.forget_below(3);
        assert!(!book.done.contains(1) && book.done.contains(3));
        book.forget(&[4].into_iter().collect());
        assert!(book.cancelled.is_empty() && book.done.contains(3));
        assert_eq!(book.state(4), State::Gone);
        // Whoever still has its key must not take it for pending.
        assert_eq!(book.state(1), State::Gone);
        assert!(!book.is_pending(1) && !book.is_pending(4));
        // Nothing that is yet to come is gone.
        book.forget_below(u64::MAX);
        book.accept(key(5), None);
        assert!(book.is_pending(5));
    }

    #[test]
    fn counts_by_the_hour() {
        let mut book = Book::new();
        for (sequence, due) in [(1, 0), (2, HOUR_MS - 1), (3, HOUR_MS), (4, 5 * HOUR_MS)] {
            book.accept(Key { due, sequence }, None);
        }
        assert_eq!(book.pending_in(0, HOUR_MS - 1), 2);
        assert_eq!(book.pending_in(5, 4 * HOUR_MS), 3);
        assert_eq!(book.pending_in(2 * HOUR_MS, 4 * HOUR_MS), 0);
    }
}
