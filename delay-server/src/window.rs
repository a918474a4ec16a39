//! What of the store is in memory: the next minute in the wheel, and how overdue messages follow
//! in portions (pure).
//!
//! ```text
//! store:   | overdue: a pass reads it as there is room | stretch -> wheel |  not loaded      ...
//!          ^ `again`                                   ^ now              ^ `end`
//! ```
//!
//! Whoever accepts a message tells it here once the message can be read from the store; it enters
//! the wheel when it is due before `end`. `end` moves *before* the stretch up to it is read, so a
//! message is seen by the one, by the other, or by both: never by none. Seen twice does no harm,
//! the store begins a message once only.

use std::time::Duration;

use qmq_model::UnixMillis;

use crate::wheel::{SPAN_MS, Wheel};
use qmq_store::Pending;

/// How far ahead the store is read.
pub const HORIZON: Duration = Duration::from_secs(60);
/// The store is read on when this much of the horizon has passed.
const TOP_UP: Duration = Duration::from_secs(5);
/// Messages read at a time.
pub const PORTION: usize = 8192;
/// While the wheel holds as many messages, nothing is read ahead.
pub const LOADED_MAX: usize = 2 << 20;
/// When the wheel holds as many messages, it gives up those that are due last: they are read again
/// when there is room.
const HELD_MAX: usize = LOADED_MAX + LOADED_MAX / 2;
/// A message that is read later than this after its time is overdue.
const OVERDUE_AFTER: Duration = Duration::from_secs(10);
/// Pause after the store could not be read.
const FAILED_PAUSE: Duration = Duration::from_secs(1);

// A whole horizon fits into the wheel, wherever in its second that stands.
const _: () = assert!(HORIZON.as_millis() * 2 < SPAN_MS.unsigned_abs() as u128);

/// What is to be read from the store: pending messages by due time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Load<C> {
    /// From this due time on.
    pub from: UnixMillis,
    /// Up to this one, itself not included.
    pub until: UnixMillis,
    /// Where the last portion ended.
    pub resume: Option<C>,
    /// Most messages.
    pub max: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Of the horizon.
    Stretch,
    /// Over what is overdue.
    Pass,
}

#[derive(Clone, Debug)]
struct Reading<C> {
    from: UnixMillis,
    until: UnixMillis,
    resume: Option<C>,
}

/// The wheel, and what of the store went into it. `C` says where in the store a portion ended.
#[derive(Debug)]
pub struct Window<C> {
    wheel: Wheel,
    /// What is due before is in the wheel, or is being read into it.
    end: UnixMillis,
    stretch: Option<Reading<C>>,
    pass: Option<Reading<C>>,
    /// Between these due times messages were left in the store; some may not be due yet.
    again: Option<(UnixMillis, UnixMillis)>,
    under_way: Option<Kind>,
    last: Kind,
    /// Nothing is read before.
    retry_at: Option<UnixMillis>,
    /// The latest time since the last look at what to read.
    seen: UnixMillis,
    /// The latest time ever: nothing that is due later was taken from the wheel.
    latest: UnixMillis,
}

impl<C: Clone> Window<C> {
    /// Nothing has been read yet; what became due while nobody looked follows as overdue.
    #[must_use]
    pub fn new(now: UnixMillis) -> Self {
        Self {
            wheel: Wheel::new(now),
            end: now,
            stretch: None,
            pass: None,
            again: Some((UnixMillis(i64::MIN), now)),
            under_way: None,
            last: Kind::Pass,
            retry_at: None,
            seen: now,
            latest: now,
        }
    }

    /// Messages in the wheel.
    #[must_use]
    pub fn len(&self) -> usize {
        self.wheel.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.wheel.is_empty()
    }

    /// Accepted messages that are due later need not be told.
    #[must_use]
    pub fn end(&self) -> UnixMillis {
        self.end
    }

    /// These were accepted and can be read from the store.
    pub fn accepted(&mut self, entries: &[Pending]) {
        let end = self.end;
        for entry in entries.iter().filter(|entry| entry.due < end) {
            self.hold(entry);
        }
    }

    /// Messages due from `from` on, up to `now`, are in the store and not here: see
    /// [`crate::dispatch::Dispatch::take_left`].
    pub fn read_again(&mut self, from: UnixMillis, now: UnixMillis) {
        // The clock may have been set back since they were taken from the wheel.
        self.leave(from, self.latest.max(now).max(from));
    }

    /// What to read from the store next; answered by [`Self::loaded`] or [`Self::load_failed`]
    /// before there is another. `overdue_room` is how many overdue messages find room.
    pub fn next_load(&mut self, now: UnixMillis, overdue_room: usize) -> Option<Load<C>> {
        if now < self.seen {
            // The clock was set back. Of what left the wheel meanwhile some may be in the store
            // only: it is read again.
            self.leave(now, self.seen);
        }
        self.seen = now;
        self.latest = self.latest.max(now);
        if self.under_way.is_some() || self.retry_at.is_some_and(|at| now < at) {
            return None;
        }
        self.retry_at = None;
        self.begin_pass(now);
        self.begin_stretch(now);
        let may_stretch = self.stretch.is_some() && self.wheel.len() < LOADED_MAX;
        let may_pass = self.pass.is_some() && overdue_room > 0;
        let kind = match (may_stretch, may_pass) {
            (true, true) if self.last == Kind::Stretch => Kind::Pass,
            (true, _) => Kind::Stretch,
            (false, true) => Kind::Pass,
            (false, false) => return None,
        };
        let (reading, max) = match kind {
            Kind::Stretch => (self.stretch.as_ref()?, PORTION),
            Kind::Pass => (self.pass.as_ref()?, PORTION.min(overdue_room)),
        };
        self.under_way = Some(kind);
        self.last = kind;
        Some(Load {
            from: reading.from,
            until: reading.until,
            resume: reading.resume.clone(),
            max,
        })
    }

    /// What was read, and where to go on; `None`: that was all. What is overdue is moved to the end
    /// of `overdue`.
    pub fn loaded(
        &mut self,
        now: UnixMillis,
        entries: &[Pending],
        next: Option<C>,
        overdue: &mut Vec<Pending>,
    ) {
        let Some(kind) = self.under_way.take() else {
            return;
        };
        for entry in entries {
            // The clock may have been set back since.
            if kind == Kind::Pass && entry.due <= now {
                overdue.push(*entry);
            } else if kind == Kind::Pass || entry.due < self.end {
                self.hold(entry);
            }
        }
        let reading = match kind {
            Kind::Stretch => &mut self.stretch,
            Kind::Pass => &mut self.pass,
        };
        match (next, reading.as_mut()) {
            (Some(next), Some(reading)) => reading.resume = Some(next),
            _ => *reading = None,
        }
    }

    /// The store could not be read; it is tried again after a pause.
    pub fn load_failed(&mut self, now: UnixMillis) {
        self.under_way = None;
        self.retry_at = Some(now.plus(FAILED_PAUSE));
    }

    /// Moves up to `max` messages that are due at `now` to the end of `out`. When it moved `max`,
    /// there may be more.
    pub fn pop_due(&mut self, now: UnixMillis, max: usize, out: &mut Vec<Pending>) {
        self.seen = self.seen.max(now);
        self.latest = self.latest.max(now);
        self.wheel.pop_due(now, max, out);
    }

    /// When something is due or to be read, if nothing happens before.
    #[must_use]
    pub fn next_wake(&self) -> Option<UnixMillis> {
        let top_up = UnixMillis(self.end.0.saturating_sub(millis(HORIZON - TOP_UP)));
        let read = match (self.under_way, self.retry_at) {
            (Some(_), _) => None,
            (None, Some(retry_at)) => Some(retry_at),
            (None, None) => Some(top_up).filter(|_| self.stretch.is_none()),
        };
        self.wheel.next_wake().into_iter().chain(read).min()
    }

    fn leave(&mut self, first: UnixMillis, last: UnixMillis) {
        self.again = Some(match self.again {
            Some((from, until)) => (from.min(first), until.max(last)),
            None => (first, last),
        });
    }

    /// Into the wheel, or it is left in the store for later.
    fn hold(&mut self, entry: &Pending) {
        if self.wheel.len() >= HELD_MAX
            && let Some(end) = self.wheel.shorten(LOADED_MAX / 2)
        {
            self.end = self.end.min(end);
            if entry.due >= end {
                return;
            }
        }
        if self.wheel.len() >= HELD_MAX || self.wheel.insert(entry).is_err() {
            self.leave(entry.due, entry.due);
        }
    }

    fn begin_stretch(&mut self, now: UnixMillis) {
        if self.stretch.is_some() {
            return;
        }
        if now.since(self.end) > OVERDUE_AFTER {
            // The clock was set forward, or the machine slept.
            self.leave(self.end, now);
            self.end = now;
        }
        // When the clock was set back, what is beyond will be read again when it is near.
        self.end = self.end.min(now.plus(HORIZON));
        self.wheel.catch_up(now);
        let horizon = now.plus(HORIZON).min(self.wheel.end());
        if horizon.since(self.end) < TOP_UP {
            return;
        }
        self.stretch = Some(Reading {
            from: self.end,
            until: horizon,
            resume: None,
        });
        self.end = horizon;
    }

    fn begin_pass(&mut self, now: UnixMillis) {
        let Some((from, last)) = self.again.take() else {
            return;
        };
        let until = now.plus(Duration::from_millis(1));
        if last >= until {
            // What is not due yet is read once more with what comes next.
            self.end = self.end.min(from.max(until));
        }
        if from >= until {
            return;
        }
        if self.pass.is_some() {
            self.again = Some((from, last.min(now)));
        } else {
            self.pass = Some(Reading {
                from,
                until,
                resume: None,
            });
        }
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::{Strategy, prop, prop_assert, prop_assert_eq, prop_oneof};
    use proptest::proptest;

    use super::*;
    use qmq_store::{AcceptSequence, DelaySubject};

    fn entry(due: i64, sequence: u64) -> Pending {
        Pending {
            due: UnixMillis(due),
            sequence: AcceptSequence(sequence),
            subject: DelaySubject(1),
            bytes: 16,
        }
    }

    type UnderWay = (Load<(i64, u64)>, Option<Vec<Pending>>);

    /// A store, the window on it, and what came out.
    struct Desk {
        now: i64,
        store: Vec<Pending>,
        window: Window<(i64, u64)>,
        /// Asked for, and read already or not yet.
        load: Option<UnderWay>,
        out: BTreeSet<u64>,
    }

    impl Desk {
        fn new(now: i64, store: Vec<Pending>) -> Self {
            Self {
                now,
                store,
                window: Window::new(UnixMillis(now)),
                load: None,
                out: BTreeSet::new(),
            }
        }

        fn accept(&mut self, ahead: i64) {
            let entry = entry(self.now + ahead, self.store.len() as u64);
            self.store.push(entry);
            self.window.accepted(&[entry]);
        }

        fn ask(&mut self, room: usize) {
            if self.load.is_none() {
                let load = self.window.next_load(UnixMillis(self.now), room);
                self.load = load.map(|load| (load, None));
            }
        }

        /// Reads what was asked for: what is accepted later is not in it.
        fn read(&mut self) {
            let Some((load, read @ None)) = &mut self.load else {
                return;
            };
            let range = load.from..load.until;
            let mut found = self.store.clone();
            found.retain(|entry| range.contains(&entry.due));
            found.sort_by_key(|entry| (entry.due, entry.sequence));
            found.retain(|entry| {
                load.resume
                    .is_none_or(|at| (entry.due.0, entry.sequence.0) > at)
            });
            found.truncate(load.max.min(3));
            *read = Some(found);
        }

        fn answer(&mut self) -> Vec<Pending> {
            self.read();
            let mut overdue = Vec::new();
            if let Some((_, Some(found))) = self.load.take() {
                let next = found.last().map(|last| (last.due.0, last.sequence.0));
                self.window
                    .loaded(UnixMillis(self.now), &found, next, &mut overdue);
            }
            self.out
                .extend(overdue.iter().map(|entry| entry.sequence.0));
            overdue
        }

        fn pop(&mut self) -> Vec<Pending> {
            let mut out = Vec::new();
            self.window
                .pop_due(UnixMillis(self.now), usize::MAX, &mut out);
            self.out.extend(out.iter().map(|entry| entry.sequence.0));
            out
        }

        /// Reads and pops until nothing is left to be done now.
        fn settle(&mut self) {
            loop {
                self.ask(usize::MAX);
                if self.load.is_none() {
                    break;
                }
                self.answer();
            }
            self.pop();
        }
    }

    #[test]
    fn reads_a_minute_ahead_and_goes_on_in_time() {
        let store = vec![
            entry(59_999, 0),
            entry(60_000, 1),
            entry(64_999, 2),
            entry(70_000, 3),
        ];
        let mut desk = Desk::new(0, store);
        desk.settle();
        assert_eq!(
            (desk.window.len(), desk.window.end()),
            (1, UnixMillis(60_000))
        );
        assert_eq!(desk.window.next_wake(), Some(UnixMillis(5000)));
        desk.now = 4999;
        desk.settle();
        assert_eq!(desk.window.len(), 1);
        desk.now = 5000;
        desk.settle();
        assert_eq!(
            (desk.window.len(), desk.window.end()),
            (3, UnixMillis(65_000))
        );
    }

    #[test]
    fn what_is_overdue_at_the_start_comes_in_portions_as_there_is_room() {
        let store: Vec<_> = (0..7)
            .map(|number| entry(number, number.unsigned_abs()))
            .collect();
        let mut desk = Desk::new(1000, store);
        desk.ask(0);
        assert_eq!(
            desk.load.as_ref().map(|(load, _)| load.from),
            Some(UnixMillis(1000))
        );
        desk.answer();
        desk.ask(0);
        assert!(desk.load.is_none(), "there is no room");
        let mut sizes = Vec::new();
        for room in [2, 3, 100, 100] {
            desk.ask(room);
            sizes.push(desk.answer().len());
        }
        assert_eq!(sizes, [2, 3, 2, 0]);
        desk.ask(100);
        assert!(desk.load.is_none());
    }

    #[test]
    fn a_failed_read_is_tried_again_from_where_it_was() {
        let store: Vec<_> = (0..5).map(|number| entry(100, number)).collect();
        let mut desk = Desk::new(0, store);
        desk.ask(0);
        desk.answer();
        desk.ask(0);
        let (failed, _) = desk.load.take().expect("more to read");
        desk.window.load_failed(UnixMillis(0));
        desk.ask(0);
        assert!(desk.load.is_none());
        assert_eq!(desk.window.next_wake(), Some(UnixMillis(100)));
        desk.now = 1000;
        desk.ask(0);
        assert_eq!(desk.load.as_ref().map(|(load, _)| load), Some(&failed));
    }

    #[test]
    fn a_clock_set_back_while_overdue_ones_are_read_makes_none_early() {
        let mut desk = Desk::new(10_000, vec![entry(5000, 0), entry(9000, 1)]);
        desk.ask(0);
        desk.answer();
        desk.ask(100);
        desk.now = 6000;
        assert_eq!(desk.answer(), [entry(5000, 0)]);
        assert!(desk.pop().is_empty());
        desk.now = 9000;
        assert_eq!(desk.pop(), [entry(9000, 1)]);
    }

    #[test]
    fn what_was_left_is_not_forgotten_when_the_clock_is_set_back() {
        let mut desk = Desk::new(0, vec![entry(3000, 0), entry(8000, 1)]);
        desk.settle();
        desk.now = 8000;
        assert_eq!(desk.pop().len(), 2);
        // There was no room for either, and it is said after the clock was set back.
        desk.now = 5000;
        desk.window
            .read_again(UnixMillis(3000), UnixMillis(desk.now));
        desk.out.clear();
        desk.settle();
        assert_eq!(desk.out, BTreeSet::from([0]));
        desk.now = 8000;
        desk.settle();
        assert_eq!(desk.out, BTreeSet::from([0, 1]));
    }

    #[test]
    fn a_day_set_forward_is_overdue_not_on_time() {
        let day = 24 * 3600 * 1000;
        let mut desk = Desk::new(0, vec![entry(3_600_000, 0), entry(day + 1000, 1)]);
        desk.settle();
        desk.now = day;
        let mut overdue = Vec::new();
        loop {
            desk.ask(100);
            if desk.load.is_none() {
                break;
            }
            overdue.extend(desk.answer());
        }
        assert_eq!(overdue, [entry(3_600_000, 0)]);
        assert!(desk.pop().is_empty());
        desk.now = day + 1000;
        assert_eq!(desk.pop(), [entry(day + 1000, 1)]);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Accept(i64),
        Ask(usize),
        Read,
        Answer,
        Pass(i64),
        Pop,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            5 => (-100..200_000_i64).prop_map(Step::Accept),
            3 => (0..5_000_i64).prop_map(Step::Accept),
            4 => (0..5_usize).prop_map(Step::Ask),
            3 => prop::strategy::Just(Step::Read),
            4 => prop::strategy::Just(Step::Answer),
            3 => (0..8000_i64).prop_map(Step::Pass),
            1 => (-100_000..150_000_i64).prop_map(Step::Pass),
            3 => prop::strategy::Just(Step::Pop),
        ];
        prop::collection::vec(step, 1..150)
    }

    proptest! {
        #[test]
        fn every_message_comes_out_and_none_early(
            old in prop::collection::vec(-50_000..300_000_i64, 0..30),
            steps in steps(),
        ) {
            let store = old.iter().zip(0..).map(|(due, sequence)| entry(1_000_000 + due, sequence));
            let mut desk = Desk::new(1_000_000, store.collect());
            for step in steps {
                let out = match step {
                    Step::Accept(ahead) => { desk.accept(ahead); vec![] }
                    Step::Ask(room) => { desk.ask(room); vec![] }
                    Step::Read => { desk.read(); vec![] }
                    Step::Answer => desk.answer(),
                    Step::Pass(millis) => { desk.now += millis; vec![] }
                    Step::Pop => desk.pop(),
                };
                prop_assert!(out.iter().all(|entry| entry.due.0 <= desk.now), "early at {}", desk.now);
            }
            // From here on time passes as it should, and nothing is left behind.
            let last = desk.store.iter().map(|entry| entry.due.0).max().unwrap_or(0);
            desk.settle();
            while desk.now < last {
                let wake = desk.window.next_wake().expect("something is to be read");
                desk.now = wake.0.clamp(desk.now + 1, desk.now + 30_000);
                desk.settle();
            }
            desk.settle();
            prop_assert_eq!(desk.out.len(), desk.store.len());
        }
    }
}
