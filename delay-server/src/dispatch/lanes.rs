//! The way to one broker group: who may be sent next, and how it fares.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::Moment;
use super::limits::Limits;
use super::lines::{LaneId, Lines};
use qmq_store::{DelaySubject, Pending};

/// Messages that are begun and to be sent to the same group again.
#[derive(Clone, Debug)]
pub(super) struct Repeat {
    pub(super) entries: Arc<[Pending]>,
    /// Attempts so far.
    pub(super) attempt: u32,
}

/// One broker group.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) name: Arc<str>,
    /// Requests that are begun or under way.
    pub(super) in_flight: usize,
    pub(super) repeats: VecDeque<Repeat>,
    /// Requests in a row that failed.
    pub(super) failures: u32,
    /// Nothing is sent before.
    pub(super) resume_at: Moment,
    /// The metaserver calls it dead.
    pub(super) is_gone: bool,
    turns: VecDeque<DelaySubject>,
    in_turns: HashSet<DelaySubject>,
}

impl Lane {
    fn new(name: Arc<str>) -> Self {
        Self {
            name,
            in_flight: 0,
            repeats: VecDeque::new(),
            failures: 0,
            resume_at: Duration::ZERO,
            is_gone: false,
            turns: VecDeque::new(),
            in_turns: HashSet::new(),
        }
    }

    /// Whether it takes messages, as far as is known.
    pub(super) fn is_well(&self) -> bool {
        !self.is_gone && self.failures == 0
    }

    /// Whether one more request may leave. A group that fails gets one at a time: the others wait
    /// to see how that fares.
    pub(super) fn has_turn(&self, limits: &Limits, now: Moment) -> bool {
        let requests = if self.failures > 0 {
            1
        } else {
            limits.requests_per_group
        };
        !self.is_gone && self.in_flight < requests && now >= self.resume_at
    }

    /// Whether it waits for a time, with something to do then.
    pub(super) fn waits(&self) -> bool {
        let has_work = !self.repeats.is_empty() || !self.turns.is_empty();
        has_work && !self.is_gone && self.in_flight == 0
    }

    pub(super) fn answered(&mut self) {
        self.failures = 0;
        self.resume_at = Duration::ZERO;
    }

    /// Adds messages of unknown outcome, as few requests as possible.
    pub(super) fn repeat(&mut self, entries: &[Pending], attempt: u32, limits: &Limits) {
        let mut rest = entries;
        while !rest.is_empty() {
            let mut bytes = 0_usize;
            let fitting = rest.iter().take(limits.batch_messages).take_while(|entry| {
                bytes = bytes.saturating_add(entry.bytes as usize);
                bytes <= limits.batch_bytes
            });
            let (batch, others) = rest.split_at(fitting.count().max(1));
            self.repeats.push_back(Repeat {
                entries: batch.into(),
                attempt,
            });
            rest = others;
        }
    }

    /// The subject has messages for this group.
    pub(super) fn join(&mut self, subject: DelaySubject) {
        if self.in_turns.insert(subject) {
            self.turns.push_back(subject);
        }
    }

    /// The subjects that have messages for this group.
    pub(super) fn waiting_subjects(&self) -> Vec<DelaySubject> {
        self.turns.iter().copied().collect()
    }

    /// The messages of the next request: subjects by turns. Empty: there are none.
    pub(super) fn take(&mut self, id: LaneId, lines: &mut Lines, limits: &Limits) -> Vec<Pending> {
        let mut batch = Vec::new();
        let mut bytes = limits.batch_bytes;
        while batch.len() < limits.batch_messages {
            let Some(subject) = self.turns.front().copied() else {
                break;
            };
            let end = batch
                .len()
                .saturating_add(limits.turn())
                .min(limits.batch_messages);
            let is_mine = lines
                .get(subject)
                .is_some_and(|line| line.lanes.contains(&id));
            while is_mine
                && batch.len() < end
                && let Some(entry) = lines.pop_ready(subject, room(&batch, bytes))
            {
                bytes = bytes.saturating_sub(entry.bytes as usize);
                batch.push(entry);
            }
            let has_more = is_mine
                && lines
                    .get(subject)
                    .is_some_and(|line| !line.ready.is_empty());
            if has_more && batch.len() < end {
                // The next one does not fit: it is the first of the next request.
                break;
            }
            self.turns.pop_front();
            if has_more {
                self.turns.push_back(subject);
            } else {
                self.in_turns.remove(&subject);
                lines.forget_idle(subject);
            }
        }
        batch
    }
}

/// How large the next message may be: the first of a request may have any size.
fn room(batch: &[Pending], bytes: usize) -> usize {
    if batch.is_empty() { usize::MAX } else { bytes }
}

/// All of them. There are as many as broker groups ever heard of.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    pub(super) all: Vec<Lane>,
    by_name: HashMap<Arc<str>, LaneId>,
}

impl Lanes {
    /// The lane of a group, made when it is new.
    pub(super) fn id(&mut self, group: &Arc<str>) -> LaneId {
        if let Some(id) = self.by_name.get(group) {
            return *id;
        }
        let id = self.all.len();
        self.all.push(Lane::new(group.clone()));
        self.by_name.insert(group.clone(), id);
        id
    }

    pub(super) fn find(&self, group: &str) -> Option<LaneId> {
        self.by_name.get(group).copied()
    }

    /// Whether one of these groups takes messages, as far as is known.
    pub(super) fn any_well(&self, lanes: &[LaneId]) -> bool {
        lanes.iter().any(|id| self.all[*id].is_well())
    }

    /// Whether one of these groups is not called dead.
    pub(super) fn any_there(&self, lanes: &[LaneId]) -> bool {
        lanes.iter().any(|id| !self.all[*id].is_gone)
    }

    /// The subject has messages: its groups take them by turns.
    pub(super) fn join(&mut self, subject: DelaySubject, lanes: &[LaneId]) {
        for id in lanes {
            self.all[*id].join(subject);
        }
    }
}
