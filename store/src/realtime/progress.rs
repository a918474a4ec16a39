//! Progress of consumer groups, rebuilt from a checkpoint and actions (pure).

use std::collections::HashMap;
use std::ops::Range;

use qmq_model::{ConsumerGroup, ConsumerId, MessageSequence, PullSequence, Subject};

use crate::realtime::action_log::Action;
use crate::realtime::control_log::Control;

/// State of all groups: what the actions so far add up to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    subjects: HashMap<Subject, HashMap<ConsumerGroup, GroupProgress>>,
}

/// State of one group of one subject.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupProgress {
    /// Next message sequence to hand out.
    pub next: MessageSequence,
    /// Whether pull sequences are message sequences.
    pub broadcast: bool,
    /// Its consumers.
    pub consumers: HashMap<ConsumerId, ConsumerProgress>,
}

/// State of one consumer of one group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConsumerProgress {
    /// Next pull sequence to hand out; lower ones were, or are void.
    pub next_pull: PullSequence,
    /// What it was handed and has not confirmed, ascending by pull sequence, disjoint.
    pub unacked: Vec<Unacked>,
}

/// Pull sequences `pull..pull + count` handed out messages `message..message + count`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unacked {
    /// First pull sequence.
    pub pull: i64,
    /// First message sequence.
    pub message: i64,
    /// How many; above 0.
    pub count: i64,
}

impl Progress {
    /// Takes one more action into account. Positions only rise, so that an action that was
    /// included before changes nothing, unless acks or offline marks came in between.
    pub fn apply(&mut self, action: &Action) {
        match action {
            Action::Pull {
                key,
                broadcast,
                pulls,
                messages,
                ..
            } => {
                let group = self.group_mut(&key.subject, &key.group);
                group.broadcast = *broadcast;
                group.next.0 = group.next.0.max(messages.end);
                let consumer = group.consumers.entry(key.consumer.clone()).or_default();
                consumer.pulled(pulls, messages.start);
            }
            Action::Ack { key, pulls, .. } => {
                let groups = self.subjects.get_mut(&key.subject);
                let group = groups.and_then(|groups| groups.get_mut(&key.group));
                if let Some(consumer) = group.and_then(|g| g.consumers.get_mut(&key.consumer)) {
                    consumer.acked(pulls);
                }
            }
            Action::ForeverOffline { key, .. } => {
                let groups = self.subjects.get_mut(&key.subject);
                if let Some(group) = groups.and_then(|groups| groups.get_mut(&key.group)) {
                    group.consumers.remove(&key.consumer);
                }
            }
        }
    }

    /// Takes a control entry into account.
    pub fn apply_control(&mut self, control: &Control) {
        match control {
            Control::Reset {
                subject,
                group,
                next,
                ..
            } => {
                let group = self.group_mut(subject, group);
                group.next = *next;
                if group.broadcast {
                    for consumer in group.consumers.values_mut() {
                        consumer.unacked.clear();
                        consumer.next_pull = PullSequence(next.0);
                    }
                }
            }
            Control::ForgetGroup { subject, group, .. } => {
                if let Some(groups) = self.subjects.get_mut(subject) {
                    groups.remove(group);
                    if groups.is_empty() {
                        self.subjects.remove(subject);
                    }
                }
            }
        }
    }

    /// All groups, in no order.
    pub fn groups(&self) -> impl Iterator<Item = (&Subject, &ConsumerGroup, &GroupProgress)> {
        self.subjects.iter().flat_map(|(subject, groups)| {
            groups
                .iter()
                .map(move |(group, progress)| (subject, group, progress))
        })
    }

    /// One group, if it ever did something.
    #[must_use]
    pub fn group(&self, subject: &str, group: &str) -> Option<&GroupProgress> {
        self.subjects.get(subject)?.get(group)
    }

    /// One group, created if it is new.
    pub(crate) fn group_mut(
        &mut self,
        subject: &Subject,
        group: &ConsumerGroup,
    ) -> &mut GroupProgress {
        if !self.subjects.contains_key(subject) {
            self.subjects.insert(subject.clone(), HashMap::new());
        }
        let groups = self.subjects.get_mut(subject).expect("inserted above");
        if !groups.contains_key(group) {
            groups.insert(group.clone(), GroupProgress::default());
        }
        groups.get_mut(group).expect("inserted above")
    }

    /// Breaks the promise that unacked messages come again.
    pub(crate) fn forget_first_unacked(&mut self) {
        let groups = self.subjects.values_mut().flat_map(HashMap::values_mut);
        for consumer in groups.flat_map(|group| group.consumers.values_mut()) {
            consumer.unacked.drain(..consumer.unacked.len().min(1));
        }
    }

    /// Raises the next pull sequence of every consumer, so that none is handed out twice although
    /// actions were lost. In broadcast pull sequences are message sequences and stay.
    pub(crate) fn raise_pull_sequences(&mut self, by: i64) {
        let groups = self.subjects.values_mut().flat_map(HashMap::values_mut);
        let consumers = groups
            .filter(|group| !group.broadcast)
            .flat_map(|g| g.consumers.values_mut());
        for consumer in consumers {
            consumer.next_pull.0 = consumer.next_pull.0.saturating_add(by);
        }
    }
}

impl ConsumerProgress {
    fn pulled(&mut self, pulls: &Range<i64>, message: i64) {
        let begin = pulls.start.max(self.next_pull.0);
        self.next_pull.0 = self.next_pull.0.max(pulls.end);
        if begin >= pulls.end {
            return;
        }
        let message = message + (begin - pulls.start);
        self.push(Unacked {
            pull: begin,
            message,
            count: pulls.end - begin,
        });
    }

    /// Adds unacked messages behind all others.
    pub(crate) fn push(&mut self, new: Unacked) {
        match self.unacked.last_mut() {
            Some(last) if last.is_continued_by(&new) => last.count += new.count,
            _ => self.unacked.push(new),
        }
    }

    fn acked(&mut self, pulls: &Range<i64>) {
        let first = self
            .unacked
            .partition_point(|range| range.end() <= pulls.start);
        let after = self.unacked.partition_point(|range| range.pull < pulls.end);
        if first >= after {
            return;
        }
        let left = self.unacked[first].before(pulls.start);
        let right = self.unacked[after - 1].from(pulls.end);
        self.unacked
            .splice(first..after, left.into_iter().chain(right));
    }
}

impl Unacked {
    /// First pull sequence behind this range.
    #[must_use]
    pub const fn end(&self) -> i64 {
        self.pull + self.count
    }

    fn is_continued_by(&self, next: &Self) -> bool {
        self.end() == next.pull && self.message + self.count == next.message
    }

    fn before(&self, pull: i64) -> Option<Self> {
        let count = pull.min(self.end()) - self.pull;
        (count > 0).then_some(Self { count, ..*self })
    }

    fn from(&self, pull: i64) -> Option<Self> {
        let skipped = (pull - self.pull).max(0);
        let left = self.count - skipped;
        let (pull, message) = (self.pull + skipped, self.message + skipped);
        (left > 0).then_some(Self {
            pull,
            message,
            count: left,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use qmq_model::UnixMillis;

    use super::*;
    use crate::realtime::action_log::ConsumerKey;

    fn key() -> ConsumerKey {
        ConsumerKey {
            subject: Subject::new("s").unwrap(),
            group: ConsumerGroup::new("g").unwrap(),
            consumer: ConsumerId::new("c").unwrap(),
        }
    }

    fn pull(pulls: Range<i64>, messages: Range<i64>) -> Action {
        Action::Pull {
            key: key(),
            time: UnixMillis(1),
            broadcast: false,
            pulls,
            messages,
        }
    }

    fn ack(pulls: Range<i64>) -> Action {
        Action::Ack {
            key: key(),
            time: UnixMillis(1),
            pulls,
        }
    }

    fn consumer(actions: &[Action]) -> ConsumerProgress {
        let mut progress = Progress::default();
        actions.iter().for_each(|action| progress.apply(action));
        progress.group("s", "g").unwrap().consumers["c"].clone()
    }

    #[test]
    fn pulls_become_unacked_and_merge() {
        let consumer = consumer(&[pull(0..3, 0..3), pull(3..5, 3..5), pull(5..6, 9..10)]);
        assert_eq!(consumer.next_pull, PullSequence(6));
        let first = Unacked {
            pull: 0,
            message: 0,
            count: 5,
        };
        assert_eq!(
            consumer.unacked,
            [
                first,
                Unacked {
                    pull: 5,
                    message: 9,
                    count: 1
                }
            ]
        );
    }

    #[test]
    fn an_ack_implies_nothing_below() {
        let consumer = consumer(&[pull(0..10, 20..30), ack(4..6)]);
        let below = Unacked {
            pull: 0,
            message: 20,
            count: 4,
        };
        assert_eq!(
            consumer.unacked,
            [
                below,
                Unacked {
                    pull: 6,
                    message: 26,
                    count: 4
                }
            ]
        );
    }

    #[test]
    fn a_repeated_pull_changes_nothing() {
        let once = consumer(&[pull(0..3, 0..3)]);
        assert_eq!(
            consumer(&[pull(0..3, 0..3), pull(0..3, 0..3), pull(1..2, 1..2)]),
            once
        );
    }

    #[test]
    fn empty_pulls_carry_positions() {
        let mut progress = Progress::default();
        progress.apply(&pull(4..4, 17..17));
        let group = progress.group("s", "g").unwrap();
        assert_eq!(group.next, MessageSequence(17));
        assert_eq!(group.consumers["c"].next_pull, PullSequence(4));
        assert_eq!(group.consumers["c"].unacked, []);
    }

    #[test]
    fn acks_of_the_unknown_leave_no_trace() {
        let mut progress = Progress::default();
        progress.apply(&ack(0..10));
        assert_eq!(progress, Progress::default());
    }

    #[test]
    fn forever_offline_forgets_the_consumer_only() {
        let mut progress = Progress::default();
        progress.apply(&pull(0..3, 0..3));
        progress.apply(&Action::ForeverOffline {
            key: key(),
            time: UnixMillis(1),
        });
        let group = progress.group("s", "g").unwrap();
        assert_eq!((group.next.0, group.consumers.len()), (3, 0));
    }

    #[test]
    fn broadcast_pull_sequences_are_not_raised() {
        let mut progress = Progress::default();
        progress.apply(&pull(0..3, 0..3));
        progress.raise_pull_sequences(100);
        assert_eq!(
            progress.group("s", "g").unwrap().consumers["c"].next_pull.0,
            103
        );
        progress.group_mut(&key().subject, &key().group).broadcast = true;
        progress.raise_pull_sequences(100);
        assert_eq!(
            progress.group("s", "g").unwrap().consumers["c"].next_pull.0,
            103
        );
    }

    proptest! {
        /// Against a plain map from pull sequence to message sequence.
        #[test]
        fn agrees_with_a_map(steps in proptest::collection::vec((0..3u8, 0..60i64, 0..20i64), 0..60)) {
            let mut progress = Progress::default();
            progress.apply(&pull(0..0, 0..0));
            let (mut model, mut next_pull, mut next) = (BTreeMap::new(), 0, 0);
            for (kind, a, b) in steps {
                if kind == 0 {
                    progress.apply(&ack(a..a + b));
                    model.retain(|pull, _| !(a..a + b).contains(pull));
                } else {
                    // A gap before the messages is what a filter leaves.
                    let from = next + a % 3;
                    progress.apply(&pull(next_pull..next_pull + b, from..from + b));
                    model.extend((0..b).map(|i| (next_pull + i, from + i)));
                    (next_pull, next) = (next_pull + b, from + b);
                }
            }
            let group = progress.group("s", "g").unwrap();
            let unacked = &group.consumers["c"].unacked;
            prop_assert!(unacked.iter().all(|range| range.count > 0));
            prop_assert!(unacked.is_sorted_by(|a, b| a.end() <= b.pull));
            let flat = unacked.iter();
            let flat = flat.flat_map(|r| (0..r.count).map(move |i| (r.pull + i, r.message + i)));
            prop_assert!(flat.eq(model));
            prop_assert_eq!(group.next.0, next);
            prop_assert_eq!(group.consumers["c"].next_pull.0, next_pull);
        }
    }

    fn reset(next: i64) -> Control {
        Control::Reset {
            subject: Subject::new("s").unwrap(),
            group: ConsumerGroup::new("g").unwrap(),
            next: MessageSequence(next),
            time: UnixMillis(1),
        }
    }

    #[test]
    fn a_reset_moves_the_group_and_keeps_what_is_unacked() {
        let mut progress = Progress::default();
        progress.apply(&pull(0..4, 10..14));
        progress.apply_control(&reset(2));
        let group = progress.group("s", "g").unwrap();
        assert_eq!(group.next.0, 2);
        let consumer = group.consumers.values().next().unwrap();
        assert_eq!((consumer.next_pull.0, consumer.unacked.len()), (4, 1));
        progress.apply(&pull(4..6, 2..4));
        assert_eq!(progress.group("s", "g").unwrap().next.0, 4);
        progress.apply_control(&reset(100));
        assert_eq!(progress.group("s", "g").unwrap().next.0, 100);
    }

    #[test]
    fn a_reset_in_broadcast_starts_over() {
        let broadcast = |messages: Range<i64>| Action::Pull {
            key: key(),
            time: UnixMillis(1),
            broadcast: true,
            pulls: messages.clone(),
            messages,
        };
        let mut progress = Progress::default();
        progress.apply(&broadcast(0..8));
        progress.apply_control(&reset(3));
        let consumer = |progress: &Progress| {
            let group = progress.group("s", "g").unwrap();
            group.consumers.values().next().unwrap().clone()
        };
        let wanted = ConsumerProgress {
            next_pull: PullSequence(3),
            unacked: vec![],
        };
        assert_eq!(consumer(&progress), wanted);
        progress.apply(&broadcast(3..5));
        assert_eq!(consumer(&progress).unacked.len(), 1);
    }

    #[test]
    fn a_forgotten_group_is_gone() {
        let mut progress = Progress::default();
        progress.apply(&pull(0..4, 10..14));
        let forget = |group| Control::ForgetGroup {
            subject: Subject::new("s").unwrap(),
            group: ConsumerGroup::new(group).unwrap(),
            time: UnixMillis(1),
        };
        progress.apply_control(&forget("other"));
        assert_eq!(progress.groups().count(), 1);
        progress.apply_control(&forget("g"));
        assert_eq!(progress, Progress::default());
    }
}
