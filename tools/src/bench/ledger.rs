//! What was acknowledged, what was received, and what is wrong between the two.

use serde::Serialize;

use crate::bench::content::{Fault, Seen};

/// A growing set of numbers.
#[derive(Clone, Debug, Default)]
struct Bits(Vec<u64>);

impl Bits {
    /// Adds a number; whether it was new.
    fn add(&mut self, number: u64) -> bool {
        let word = usize::try_from(number / 64).expect("numbers are bounded");
        if word >= self.0.len() {
            self.0.resize(word + 1, 0);
        }
        let bit = 1 << (number % 64);
        let is_new = self.0[word] & bit == 0;
        self.0[word] |= bit;
        is_new
    }

    fn word(&self, at: usize) -> u64 {
        self.0.get(at).copied().unwrap_or(0)
    }

    /// How many of these numbers `other` does not have.
    fn count_without(&self, other: &Self) -> u64 {
        let missing = |(at, word): (usize, &u64)| u64::from((word & !other.word(at)).count_ones());
        self.0.iter().enumerate().map(missing).sum()
    }

    /// Adds all of `other`; how many were there already.
    fn absorb(&mut self, other: &Self) -> u64 {
        self.0.resize(self.0.len().max(other.0.len()), 0);
        let both = self.0.iter_mut().zip(&other.0).map(|(word, more)| {
            let twice = (*word & more).count_ones();
            *word |= more;
            u64::from(twice)
        });
        both.sum()
    }
}

/// Messages by lane and number.
#[derive(Clone, Debug, Default)]
pub(crate) struct Messages {
    lanes: Vec<Bits>,
    count: u64,
}

impl Messages {
    /// Adds one; whether it was new.
    pub(crate) fn add(&mut self, lane: usize, number: u64) -> bool {
        if lane >= self.lanes.len() {
            self.lanes.resize_with(lane + 1, Bits::default);
        }
        let is_new = self.lanes[lane].add(number);
        self.count += u64::from(is_new);
        is_new
    }

    /// How many there are.
    pub(crate) const fn count(&self) -> u64 {
        self.count
    }

    /// Adds all of `other`; how many were there already.
    pub(crate) fn absorb(&mut self, other: &Self) -> u64 {
        let lanes = self.lanes.len().max(other.lanes.len());
        self.lanes.resize_with(lanes, Bits::default);
        let pairs = self.lanes.iter_mut().zip(&other.lanes);
        let twice = pairs.map(|(lane, more)| lane.absorb(more)).sum();
        self.count += other.count - twice;
        twice
    }

    fn count_without(&self, other: &Self) -> u64 {
        let none = Bits::default();
        let lanes = self.lanes.iter().enumerate();
        lanes
            .map(|(at, lane)| lane.count_without(other.lanes.get(at).unwrap_or(&none)))
            .sum()
    }
}

/// What one group received.
#[derive(Clone, Debug, Default)]
pub(crate) struct Received {
    messages: Messages,
    duplicated: u64,
    altered: u64,
    foreign: u64,
}

impl Received {
    /// Notes a message; whether it is a good one that was not there before.
    pub(crate) fn note(&mut self, seen: Result<Seen, Fault>) -> bool {
        match seen {
            Ok(seen) => {
                let is_new = self.messages.add(seen.lane, seen.number);
                self.duplicated += u64::from(!is_new);
                is_new
            }
            Err(Fault::Altered) => {
                self.altered += 1;
                false
            }
            Err(Fault::Foreign) => {
                self.foreign += 1;
                false
            }
        }
    }

    /// Adds what another consumer of the group received.
    pub(crate) fn absorb(&mut self, other: &Self) {
        self.duplicated += other.duplicated + self.messages.absorb(&other.messages);
        self.altered += other.altered;
        self.foreign += other.foreign;
    }

    /// Compares with what was acknowledged.
    pub(crate) fn verdict(&self, group: &str, acknowledged: &Messages) -> Verdict {
        Verdict {
            group: group.to_owned(),
            acknowledged: acknowledged.count(),
            received: self.messages.count(),
            lost: acknowledged.count_without(&self.messages),
            duplicated: self.duplicated,
            altered: self.altered,
            foreign: self.foreign,
        }
    }
}

/// Whether a group got what was acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Verdict {
    /// The consumer group.
    pub(crate) group: String,
    /// Messages the server acknowledged.
    pub(crate) acknowledged: u64,
    /// Good messages, each counted once.
    pub(crate) received: u64,
    /// Acknowledged and not received.
    pub(crate) lost: u64,
    /// Received once more.
    pub(crate) duplicated: u64,
    /// Not as they were sent.
    pub(crate) altered: u64,
    /// Not of this run.
    pub(crate) foreign: u64,
}

impl Verdict {
    /// Everything acknowledged came once and unchanged.
    pub(crate) const fn is_good(&self) -> bool {
        self.lost == 0 && self.duplicated == 0 && self.altered == 0 && self.foreign == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acknowledged() -> Messages {
        let mut messages = Messages::default();
        (0..200).for_each(|number| {
            messages.add(0, number);
            messages.add(2, number * 3);
        });
        messages
    }

    fn seen(lane: usize, number: u64) -> Result<Seen, Fault> {
        Ok(Seen {
            lane,
            number,
            due: 0,
        })
    }

    /// Two consumers that share everything.
    fn halves() -> [Received; 2] {
        let mut halves = [Received::default(), Received::default()];
        for number in 0..200 {
            let half = usize::from(number % 7 < 3);
            halves[half].note(seen(0, number));
            halves[half].note(seen(2, number * 3));
        }
        halves
    }

    fn verdict(change: impl FnOnce(&mut [Received; 2])) -> Verdict {
        let mut halves = halves();
        change(&mut halves);
        let [mut all, other] = halves;
        all.absorb(&other);
        all.verdict("g", &acknowledged())
    }

    #[test]
    fn all_of_it_once_is_good() {
        let verdict = verdict(|_| {});
        assert!(verdict.is_good(), "{verdict:?}");
        assert_eq!((verdict.acknowledged, verdict.received), (400, 400));
    }

    #[test]
    fn each_fault_is_noticed() {
        let lost = verdict(|halves| halves[1] = Received::default());
        assert!(lost.lost > 100 && !lost.is_good());
        let within = verdict(|halves| assert!(!halves[1].note(seen(0, 0))));
        let across = verdict(|halves| assert!(halves[0].note(seen(0, 0))));
        for duplicated in [within, across] {
            assert_eq!((duplicated.lost, duplicated.duplicated), (0, 1));
            assert!(!duplicated.is_good());
        }
        let altered = verdict(|halves| assert!(!halves[0].note(Err(Fault::Altered))));
        assert!(altered.altered == 1 && !altered.is_good());
        let foreign = verdict(|halves| assert!(!halves[0].note(Err(Fault::Foreign))));
        assert!(foreign.foreign == 1 && !foreign.is_good());
    }

    #[test]
    fn what_was_stored_without_an_answer_is_no_fault() {
        let verdict = verdict(|halves| assert!(halves[0].note(seen(9, 5_000))));
        assert!(verdict.is_good());
        assert_eq!(verdict.received, 401);
    }
}
