//! Hierarchical time wheel: messages that are due soon, by the millisecond (pure).
//!
//! ```text
//! near   1024 slots of 1 ms:     the second that goes on now
//! far     128 slots of 1024 ms:  what comes after it, moved to `near` when its time comes
//! passed  a heap: due times that the wheel has already gone by, after the clock was set back
//! ```
//!
//! An entry takes [`ENTRY_BYTES`], its due time included: within a slot the rest of the due time
//! fits into the bits that the size of the message leaves free.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use qmq_model::UnixMillis;

use qmq_store::{AcceptSequence, DelaySubject, Pending};

/// Slots of one millisecond; also the milliseconds of one far slot.
const NEAR_SLOTS: usize = 1024;
/// Slots of [`NEAR_SLOTS`] ms.
const FAR_SLOTS: usize = 128;
/// What is called a second here: the milliseconds of one far slot.
const SECOND_MS: i64 = NEAR_SLOTS as i64;
/// Milliseconds from the slot that goes on now which the wheel can hold: a little more than two
/// minutes.
pub const SPAN_MS: i64 = SECOND_MS * FAR_SLOTS as i64;
/// What one entry takes in memory.
pub const ENTRY_BYTES: usize = 16;
/// Most entries that are kept together: bounds what a nearly empty slot wastes.
const CHUNK_ENTRIES_MAX: usize = 256;
/// Entries of a slot's first piece; each further one is twice as large.
const CHUNK_ENTRIES_MIN: usize = 4;
/// Sizes are kept in steps of this many bytes, rounded up: only the limits of batches use them.
const SIZE_STEP: u32 = 16;
const SIZE_BITS: u32 = 22;
const SIZE_MAX: u32 = (1 << SIZE_BITS) - 1;

const _: () = assert!(size_of::<Packed>() == ENTRY_BYTES);
const _: () = assert!(NEAR_SLOTS == 1 << (32 - SIZE_BITS));

/// Why an entry was not taken: it is due beyond what the wheel can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beyond;

/// An entry without the part of its due time that its slot implies.
#[derive(Clone, Copy, Debug)]
struct Packed {
    /// Milliseconds within the slot above, and the size.
    rest: u32,
    subject: DelaySubject,
    sequence: AcceptSequence,
}

impl Packed {
    fn new(entry: &Pending) -> Self {
        let size = entry.bytes.div_ceil(SIZE_STEP).min(SIZE_MAX);
        #[expect(clippy::cast_possible_truncation, reason = "below NEAR_SLOTS")]
        let millis = millis_of(entry.due.0) as u32;
        Self {
            rest: (millis << SIZE_BITS) | size,
            subject: entry.subject,
            sequence: entry.sequence,
        }
    }

    fn millis(self) -> usize {
        (self.rest >> SIZE_BITS) as usize
    }

    fn unpack(self, due: UnixMillis) -> Pending {
        Pending {
            due,
            sequence: self.sequence,
            subject: self.subject,
            bytes: (self.rest & SIZE_MAX).saturating_mul(SIZE_STEP),
        }
    }
}

/// The entries of one slot, in pieces, so that growing never copies.
#[derive(Debug, Default)]
struct Slot {
    chunks: Vec<Vec<Packed>>,
}

impl Slot {
    fn push(&mut self, entry: Packed) {
        let next = match self.chunks.last_mut() {
            Some(last) if last.len() < last.capacity() => {
                last.push(entry);
                return;
            }
            Some(full) => (full.capacity() * 2).min(CHUNK_ENTRIES_MAX),
            None => CHUNK_ENTRIES_MIN,
        };
        let mut chunk = Vec::with_capacity(next);
        chunk.push(entry);
        self.chunks.push(chunk);
    }

    fn pop(&mut self) -> Option<Packed> {
        let last = self.chunks.last_mut()?;
        let entry = last.pop();
        if last.is_empty() {
            self.chunks.pop();
        }
        if self.chunks.is_empty() {
            // An idle slot holds no memory.
            self.chunks = Vec::new();
        }
        entry
    }

    fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }
}

/// Behind the wheel: ordered by due time, then as accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Passed {
    due: UnixMillis,
    sequence: AcceptSequence,
    subject: DelaySubject,
    bytes: u32,
}

impl Passed {
    fn of(entry: &Pending) -> Self {
        Self {
            due: entry.due,
            sequence: entry.sequence,
            subject: entry.subject,
            bytes: entry.bytes,
        }
    }

    fn pending(&self) -> Pending {
        Pending {
            due: self.due,
            sequence: self.sequence,
            subject: self.subject,
            bytes: self.bytes,
        }
    }
}

/// Messages by due time, over a short horizon.
#[derive(Debug)]
pub struct Wheel {
    /// Nothing in `near` and `far` is due before; only ever rises.
    position: i64,
    near: Vec<Slot>,
    near_len: usize,
    far: Vec<Slot>,
    far_len: usize,
    passed: BinaryHeap<Reverse<Passed>>,
}

impl Wheel {
    /// An empty wheel that stands at `now`.
    #[must_use]
    pub fn new(now: UnixMillis) -> Self {
        let slots = |count| std::iter::repeat_with(Slot::default).take(count).collect();
        Self {
            position: now.0,
            near: slots(NEAR_SLOTS),
            near_len: 0,
            far: slots(FAR_SLOTS),
            far_len: 0,
            passed: BinaryHeap::new(),
        }
    }

    /// Entries in the wheel.
    #[must_use]
    pub fn len(&self) -> usize {
        self.near_len + self.far_len + self.passed.len()
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The first due time that [`Self::insert`] does not take.
    #[must_use]
    pub fn end(&self) -> UnixMillis {
        let end = second_of(self.position).saturating_add(FAR_SLOTS as i64);
        UnixMillis(end.saturating_mul(SECOND_MS))
    }

    /// Takes an entry. What is due already comes out with the next [`Self::pop_due`].
    ///
    /// # Errors
    /// When it is due at [`Self::end`] or later.
    pub fn insert(&mut self, entry: &Pending) -> Result<(), Beyond> {
        if entry.due >= self.end() {
            return Err(Beyond);
        }
        if entry.due.0 < self.position {
            self.passed.push(Reverse(Passed::of(entry)));
        } else if second_of(entry.due.0) == second_of(self.position) {
            self.near[millis_of(entry.due.0)].push(Packed::new(entry));
            self.near_len += 1;
        } else {
            self.far[far_slot(second_of(entry.due.0))].push(Packed::new(entry));
            self.far_len += 1;
        }
        Ok(())
    }

    /// Moves up to `max` entries that are due at `now` to the end of `out`, the earliest first
    /// (in any order within one millisecond). When it moved `max`, there may be more.
    pub fn pop_due(&mut self, now: UnixMillis, max: usize, out: &mut Vec<Pending>) {
        let full = out.len().saturating_add(max);
        while out.len() < full
            && let Some(Reverse(first)) = self.passed.peek()
            && first.due <= now
        {
            out.push(first.pending());
            self.passed.pop();
        }
        while self.position <= now.0 && out.len() < full {
            if self.near_len == 0 {
                self.skip(now.0);
                continue;
            }
            let slot = &mut self.near[millis_of(self.position)];
            while out.len() < full
                && let Some(entry) = slot.pop()
            {
                out.push(entry.unpack(UnixMillis(self.position)));
                self.near_len -= 1;
            }
            if slot.is_empty() {
                self.turn_to(self.position + 1);
            }
        }
    }

    /// Turns over what has passed and holds nothing, so that [`Self::end`] is as far ahead as it
    /// can be.
    pub fn catch_up(&mut self, now: UnixMillis) {
        while self.position <= now.0 {
            if self.near_len == 0 {
                self.skip(now.0);
            } else if self.near[millis_of(self.position)].is_empty() {
                self.turn_to(self.position + 1);
            } else {
                return;
            }
        }
    }

    /// Forgets the entries that are due last, whole seconds, until about `len` are left. From the
    /// answer on there are none any more; `None`: nothing could be forgotten.
    pub fn shorten(&mut self, len: usize) -> Option<UnixMillis> {
        let mut end = None;
        for ahead in (1..FAR_SLOTS as i64).rev() {
            if self.len() <= len {
                break;
            }
            let second = second_of(self.position) + ahead;
            let chunks = std::mem::take(&mut self.far[far_slot(second)].chunks);
            if !chunks.is_empty() {
                self.far_len -= chunks.iter().map(Vec::len).sum::<usize>();
                end = Some(UnixMillis(second * SECOND_MS));
            }
        }
        end
    }

    /// When to look again: nothing is due before. `None`: there is nothing.
    #[must_use]
    pub fn next_wake(&self) -> Option<UnixMillis> {
        let passed = self.passed.peek().map(|Reverse(first)| first.due);
        passed.into_iter().chain(self.next_slot()).min()
    }

    /// The first slot with an entry: of a far one the time when it becomes near.
    fn next_slot(&self) -> Option<UnixMillis> {
        let second = second_of(self.position);
        if self.near_len > 0 {
            let rest = millis_of(self.position)..NEAR_SLOTS;
            let millis = rest.into_iter().find(|slot| !self.near[*slot].is_empty())?;
            return Some(UnixMillis(second * SECOND_MS + millis as i64));
        }
        let mut later = (1..FAR_SLOTS as i64).map(|ahead| second + ahead);
        let second = later.find(|second| !self.far[far_slot(*second)].is_empty())?;
        Some(UnixMillis(second * SECOND_MS))
    }

    /// Goes over slots without entries, up to `now` and a little further.
    fn skip(&mut self, now: i64) {
        let next_second = (second_of(self.position) + 1) * SECOND_MS;
        if self.far_len == 0 {
            self.position = now + 1;
        } else {
            self.turn_to(next_second.min(now + 1));
        }
    }

    /// Moves on within this second or to the start of the next one, which becomes near.
    fn turn_to(&mut self, position: i64) {
        let has_turned = second_of(position) != second_of(self.position);
        self.position = position;
        if !has_turned {
            return;
        }
        let slot = &mut self.far[far_slot(second_of(position))];
        // Piece by piece: what was moved is freed on the way.
        for chunk in std::mem::take(&mut slot.chunks) {
            self.far_len -= chunk.len();
            self.near_len += chunk.len();
            for entry in chunk {
                self.near[entry.millis()].push(entry);
            }
        }
    }
}

/// The stretch of [`SECOND_MS`] that a time lies in.
fn second_of(millis: i64) -> i64 {
    millis.div_euclid(SECOND_MS)
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the remainder is below NEAR_SLOTS"
)]
fn millis_of(millis: i64) -> usize {
    millis.rem_euclid(SECOND_MS) as usize
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the remainder is below FAR_SLOTS"
)]
fn far_slot(second: i64) -> usize {
    second.rem_euclid(FAR_SLOTS as i64) as usize
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::{Just, Strategy, prop, prop_assert, prop_assert_eq, prop_oneof};
    use proptest::proptest;

    use super::*;

    fn entry(due: i64, sequence: u64) -> Pending {
        Pending {
            due: UnixMillis(due),
            sequence: AcceptSequence(sequence),
            subject: DelaySubject(7),
            bytes: 160,
        }
    }

    fn sequences(wheel: &mut Wheel, now: i64) -> Vec<u64> {
        let mut out = Vec::new();
        wheel.pop_due(UnixMillis(now), usize::MAX, &mut out);
        out.iter().map(|entry| entry.sequence.0).collect()
    }

    #[test]
    fn nothing_comes_out_before_its_millisecond() {
        let start = 1_700_000_000_123;
        let mut wheel = Wheel::new(UnixMillis(start));
        for (sequence, ahead) in [(1, 0), (2, 1), (3, 899), (4, 1000), (5, 100_000)] {
            wheel.insert(&entry(start + ahead, sequence)).unwrap();
        }
        let mut seen = Vec::new();
        for ahead in 0..=100_000 {
            for sequence in sequences(&mut wheel, start + ahead) {
                seen.push((sequence, ahead));
            }
        }
        assert_eq!(seen, [(1, 0), (2, 1), (3, 899), (4, 1000), (5, 100_000)]);
        assert!(wheel.is_empty());
    }

    #[test]
    fn an_entry_comes_out_as_it_went_in_its_size_rounded_up() {
        let mut wheel = Wheel::new(UnixMillis(0));
        let sizes = [
            (0, 0),
            (1, 16),
            (160, 160),
            (161, 176),
            (u32::MAX, 67_108_848),
        ];
        for (bytes, expected) in sizes {
            let sent = Pending {
                bytes,
                ..entry(50_000, 3)
            };
            wheel.insert(&sent).unwrap();
            let mut out = Vec::new();
            wheel.pop_due(UnixMillis(50_000), 1, &mut out);
            assert_eq!(
                out,
                [Pending {
                    bytes: expected,
                    ..sent
                }]
            );
            wheel = Wheel::new(UnixMillis(0));
        }
    }

    #[test]
    fn the_horizon_moves_with_the_time() {
        let mut wheel = Wheel::new(UnixMillis(500));
        assert_eq!(wheel.end(), UnixMillis(SPAN_MS));
        assert_eq!(wheel.insert(&entry(SPAN_MS, 1)), Err(Beyond));
        wheel.insert(&entry(SPAN_MS - 1, 2)).unwrap();
        assert!(sequences(&mut wheel, 2048).is_empty());
        wheel.insert(&entry(SPAN_MS + 2047, 3)).unwrap();
        assert!(sequences(&mut wheel, SPAN_MS - 2).is_empty());
        assert_eq!(sequences(&mut wheel, SPAN_MS + 2046), [2]);
        assert_eq!(sequences(&mut wheel, SPAN_MS + 2047), [3]);
    }

    #[test]
    fn a_clock_set_back_makes_nothing_early_and_forgets_nothing() {
        let mut wheel = Wheel::new(UnixMillis(0));
        wheel.insert(&entry(9000, 1)).unwrap();
        assert!(sequences(&mut wheel, 5000).is_empty());
        wheel.insert(&entry(3000, 2)).unwrap();
        assert_eq!(wheel.next_wake(), Some(UnixMillis(3000)));
        assert!(sequences(&mut wheel, 2000).is_empty());
        wheel.insert(&entry(2500, 3)).unwrap();
        assert_eq!(sequences(&mut wheel, 2999), [3]);
        assert_eq!(sequences(&mut wheel, 3000), [2]);
        assert_eq!(sequences(&mut wheel, 9000), [1]);
    }

    #[test]
    fn a_clock_set_forward_by_years_turns_at_once() {
        let mut wheel = Wheel::new(UnixMillis(0));
        wheel.insert(&entry(130_000, 1)).unwrap();
        let years = 1_000_000_000_000_000;
        assert_eq!(sequences(&mut wheel, years), [1]);
        wheel.insert(&entry(years + 1, 2)).unwrap();
        assert!(sequences(&mut wheel, years).is_empty());
        assert_eq!(sequences(&mut wheel, years + 1), [2]);
    }

    #[test]
    fn takes_no_more_than_asked_and_goes_on_where_it_stopped() {
        let mut wheel = Wheel::new(UnixMillis(0));
        for sequence in 0..1000 {
            wheel.insert(&entry(5000, sequence)).unwrap();
        }
        let mut seen = BTreeSet::new();
        for _ in 0..10 {
            let mut out = Vec::new();
            wheel.pop_due(UnixMillis(6000), 100, &mut out);
            assert_eq!(out.len(), 100);
            seen.extend(out.iter().map(|entry| entry.sequence.0));
        }
        assert_eq!(seen.len(), 1000);
        assert_eq!(wheel.next_wake(), None);
    }

    #[test]
    fn forgets_what_is_due_last() {
        let mut wheel = Wheel::new(UnixMillis(0));
        for sequence in 0..100_u64 {
            wheel
                .insert(&entry(1024 * sequence.cast_signed(), sequence))
                .unwrap();
        }
        assert_eq!(wheel.shorten(100), None);
        assert_eq!(wheel.shorten(60), Some(UnixMillis(1024 * 60)));
        assert_eq!(sequences(&mut wheel, SPAN_MS), (0..60).collect::<Vec<_>>());
        wheel.insert(&entry(SPAN_MS, 7)).unwrap();
        assert_eq!(wheel.shorten(0), None, "it may be due any moment");
    }

    #[test]
    fn an_empty_wheel_holds_no_entries_in_memory() {
        let mut wheel = Wheel::new(UnixMillis(0));
        for sequence in 0..10_000 {
            wheel.insert(&entry(1000 + sequence % 3000, 1)).unwrap();
        }
        assert_eq!(sequences(&mut wheel, 5000).len(), 10_000);
        let slots = wheel.near.iter().chain(&wheel.far);
        assert_eq!(slots.map(|slot| slot.chunks.capacity()).sum::<usize>(), 0);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert(i64),
        Pass(i64),
        Pop(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (-3000..140_000_i64).prop_map(Step::Insert),
            4 => (0..3000_i64).prop_map(Step::Insert),
            3 => (0..2500_i64).prop_map(Step::Pass),
            1 => (-5000..60_000_i64).prop_map(Step::Pass),
            3 => prop_oneof![Just(1), Just(3), Just(usize::MAX)].prop_map(Step::Pop),
        ];
        prop::collection::vec(step, 1..200)
    }

    proptest! {
        #[test]
        fn behaves_as_a_sorted_list(start in 0..5000_i64, steps in steps()) {
            let mut now = start;
            let mut wheel = Wheel::new(UnixMillis(now));
            let mut model = BTreeSet::new();
            let mut sequence = 0;
            for step in steps {
                match step {
                    Step::Insert(ahead) => {
                        let entry = entry(now + ahead, sequence);
                        let taken = wheel.insert(&entry);
                        prop_assert_eq!(taken.is_ok(), entry.due < wheel.end());
                        if taken.is_ok() {
                            model.insert((entry.due, sequence));
                        }
                        sequence += 1;
                    }
                    Step::Pass(millis) => now += millis,
                    Step::Pop(max) => {
                        let mut out = Vec::new();
                        wheel.pop_due(UnixMillis(now), max, &mut out);
                        let due = model.iter().filter(|(due, _)| due.0 <= now).count();
                        prop_assert_eq!(out.len(), due.min(max));
                        for entry in out {
                            let first = model.first().expect("counted").0;
                            prop_assert_eq!(entry.due, first);
                            prop_assert!(model.remove(&(entry.due, entry.sequence.0)));
                        }
                    }
                }
                prop_assert_eq!(wheel.len(), model.len());
                let first = model.first().map(|(due, _)| *due);
                match (wheel.next_wake(), first) {
                    (Some(wake), Some(first)) => prop_assert!(wake <= first),
                    (wake, first) => prop_assert_eq!(wake, first),
                }
            }
        }
    }
}
