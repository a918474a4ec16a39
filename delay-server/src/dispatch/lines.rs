//! The queue of each subject, and what of it stays in the store for want of room.

use std::collections::{HashMap, HashSet, VecDeque};

use qmq_model::UnixMillis;

use super::limits::{Limits, PARKED_MAX, SMALL_QUEUE, STUCK_MAX, SUBJECTS_KEPT_MAX};
use super::{Moment, Timeliness};
use qmq_store::{DelaySubject, Pending};

/// Number of a lane.
pub(super) type LaneId = usize;

/// What waits of one subject, and where it may go.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// To be sent as soon as there is a request for it.
    pub(super) ready: VecDeque<Pending>,
    /// To be let through at a limited rate.
    overdue: VecDeque<Pending>,
    /// Groups that take its messages; empty before the first answer.
    pub(super) lanes: Vec<LaneId>,
    /// When the answer came.
    pub(super) asked_at: Moment,
    /// A question is under way or waits for its turn.
    pub(super) is_asking: bool,
    /// Questions in a row without an answer.
    pub(super) failed_asks: u32,
    /// Earliest message that was left in the store.
    left: Option<UnixMillis>,
}

impl Line {
    pub(super) fn is_empty(&self) -> bool {
        self.ready.is_empty() && self.overdue.is_empty()
    }

    fn len(&self) -> usize {
        self.ready.len() + self.overdue.len()
    }
}

/// All queues.
#[derive(Debug, Default)]
pub(super) struct Lines {
    all: HashMap<DelaySubject, Line>,
    /// Messages in `ready` of all lines.
    ready: usize,
    /// Messages in `overdue` of all lines.
    overdue: usize,
    /// Messages of lines without a route.
    parked: usize,
    /// Lines with overdue messages, in turns.
    overdue_turns: VecDeque<DelaySubject>,
    /// Lines of which something was left in the store.
    with_left: HashSet<DelaySubject>,
    /// Earliest message that was left in the store of other subjects.
    left: Option<UnixMillis>,
    /// Messages that were left in the store so far.
    left_count: u64,
}

impl Lines {
    pub(super) fn get(&self, subject: DelaySubject) -> Option<&Line> {
        self.all.get(&subject)
    }

    /// The line, made when there is none.
    pub(super) fn line(&mut self, subject: DelaySubject) -> &mut Line {
        self.all.entry(subject).or_default()
    }

    /// The line, if there is one.
    pub(super) fn find(&mut self, subject: DelaySubject) -> Option<&mut Line> {
        self.all.get_mut(&subject)
    }

    pub(super) fn ready_count(&self) -> usize {
        self.ready
    }

    pub(super) fn overdue_count(&self) -> usize {
        self.overdue
    }

    pub(super) fn left_count(&self) -> u64 {
        self.left_count
    }

    /// Puts a message into its queue, or leaves it in the store when there is no room. Says
    /// whether it was taken.
    pub(super) fn push(&mut self, entry: Pending, when: Timeliness, limits: &Limits) -> bool {
        if !self.has_room_for(entry.subject, when, limits) {
            self.leave(entry);
            return false;
        }
        let line = self.all.entry(entry.subject).or_default();
        if line.lanes.is_empty() {
            self.parked += 1;
        }
        match when {
            Timeliness::OnTime => {
                line.ready.push_back(entry);
                self.ready += 1;
            }
            Timeliness::Overdue => {
                if line.overdue.is_empty() {
                    self.overdue_turns.push_back(entry.subject);
                }
                line.overdue.push_back(entry);
                self.overdue += 1;
            }
        }
        true
    }

    /// Puts a message back that had been taken: it is the next one, and there is always room.
    pub(super) fn put_back(&mut self, entry: Pending) {
        let line = self.all.entry(entry.subject).or_default();
        if line.lanes.is_empty() {
            self.parked += 1;
        }
        line.ready.push_front(entry);
        self.ready += 1;
    }

    fn has_room_for(&self, subject: DelaySubject, when: Timeliness, limits: &Limits) -> bool {
        let line = self.all.get(&subject);
        let is_parked = line.is_none_or(|line| line.lanes.is_empty());
        if is_parked {
            let len = line.map_or(0, Line::len);
            return len < PARKED_MAX && self.parked < (limits.queued_max / 4).max(1);
        }
        match when {
            Timeliness::Overdue => self.overdue < limits.overdue_max,
            Timeliness::OnTime => {
                let is_small = line.is_none_or(|line| line.ready.len() < SMALL_QUEUE);
                let max = limits.queued_max;
                self.ready < if is_small { max } else { max - max / 4 }
            }
        }
    }

    pub(super) fn leave(&mut self, entry: Pending) {
        self.left_count += 1;
        let earliest = |left: &mut Option<UnixMillis>| {
            *left = Some(left.map_or(entry.due, |left| left.min(entry.due)));
        };
        match self.all.get_mut(&entry.subject) {
            Some(line) => {
                earliest(&mut line.left);
                self.with_left.insert(entry.subject);
            }
            None => earliest(&mut self.left),
        }
    }

    /// From when on the store has messages that were left there and find room now. They are
    /// forgotten here.
    pub(super) fn take_left(
        &mut self,
        limits: &Limits,
        is_open: impl Fn(&Line) -> bool,
    ) -> Option<UnixMillis> {
        let mut from = None;
        if self.ready + self.overdue < limits.queued_max / 2 && self.parked < limits.queued_max / 8
        {
            from = self.left.take();
        }
        let all = &mut self.all;
        self.with_left.retain(|subject| {
            let Some(line) = all.get_mut(subject) else {
                return false;
            };
            if !is_open(line) || line.len() >= SMALL_QUEUE {
                return true;
            }
            from = from.into_iter().chain(line.left.take()).min();
            false
        });
        from
    }

    /// The subject has a route from now on.
    pub(super) fn set_lanes(&mut self, subject: DelaySubject, lanes: Vec<LaneId>) {
        let line = self.line(subject);
        let was_parked = line.lanes.is_empty();
        let len = line.len();
        line.lanes = lanes;
        if was_parked {
            self.parked -= len;
        }
    }

    /// Takes the next message if it is not larger than `bytes`.
    pub(super) fn pop_ready(&mut self, subject: DelaySubject, bytes: usize) -> Option<Pending> {
        let line = self.all.get_mut(&subject)?;
        let next = line.ready.front()?;
        if next.bytes as usize > bytes {
            return None;
        }
        let entry = line.ready.pop_front()?;
        self.ready -= 1;
        if line.lanes.is_empty() {
            self.parked -= 1;
        }
        Some(entry)
    }

    /// Lets an overdue message of the next subject through, if that is `open` and has few others
    /// waiting. `None`: it has to wait for its next turn.
    pub(super) fn release(
        &mut self,
        limits: &Limits,
        is_open: impl Fn(&Line) -> bool,
    ) -> Option<DelaySubject> {
        let subject = self.overdue_turns.pop_front()?;
        let line = self.all.get_mut(&subject)?;
        let mut released = None;
        if line.ready.len() < limits.batch_messages
            && is_open(line)
            && let Some(entry) = line.overdue.pop_front()
        {
            line.ready.push_back(entry);
            self.overdue -= 1;
            self.ready += 1;
            released = Some(subject);
        }
        if !line.overdue.is_empty() {
            self.overdue_turns.push_back(subject);
        }
        released
    }

    /// Subjects that take turns with overdue messages.
    pub(super) fn overdue_turns(&self) -> usize {
        self.overdue_turns.len()
    }

    /// When memory gets short: leaves in the store what cannot go anywhere.
    pub(super) fn trim(&mut self, limits: &Limits, is_open: impl Fn(&Line) -> bool) {
        let is_short = self.ready >= limits.queued_max - limits.queued_max / 4
            || self.overdue >= limits.overdue_max;
        if !is_short {
            return;
        }
        let stuck = self
            .all
            .iter()
            .filter(|(_, line)| !line.is_empty() && !is_open(line));
        let stuck: Vec<_> = stuck.map(|(subject, _)| *subject).collect();
        for subject in stuck {
            self.trim_line(subject);
        }
        let all = &self.all;
        self.overdue_turns.retain(|subject| {
            all.get(subject)
                .is_some_and(|line| !line.overdue.is_empty())
        });
    }

    fn trim_line(&mut self, subject: DelaySubject) {
        let line = self.line(subject);
        let is_parked = line.lanes.is_empty();
        let ready = line.ready.len().min(STUCK_MAX);
        let overdue = line.overdue.len().min(STUCK_MAX);
        let mut left = Vec::from(line.ready.split_off(ready));
        line.ready.shrink_to_fit();
        self.ready -= left.len();
        let line = self.line(subject);
        let overdue_left = line.overdue.split_off(overdue);
        line.overdue.shrink_to_fit();
        self.overdue -= overdue_left.len();
        left.extend(overdue_left);
        if is_parked {
            self.parked -= left.len();
        }
        for entry in left {
            self.leave(entry);
        }
    }

    /// Forgets a line that holds nothing when there are many.
    pub(super) fn forget_idle(&mut self, subject: DelaySubject) {
        let is_idle = |line: &Line| line.is_empty() && !line.is_asking && line.left.is_none();
        if self.all.len() > SUBJECTS_KEPT_MAX && self.all.get(&subject).is_some_and(is_idle) {
            self.all.remove(&subject);
        }
    }
}
