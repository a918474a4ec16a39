//! What a shard does at which time.

use std::collections::BTreeMap;
use std::time::Duration;

use qmq_model::UnixMillis;

use super::SubscriptionKey;

/// Something that falls due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// A waiting pull is answered with nothing: its number.
    Deadline(SubscriptionKey, u64),
    /// A message of a retry subject may be handed out.
    Retry(SubscriptionKey),
    /// Time for a look at consumers and groups.
    Look(SubscriptionKey),
}

/// All that is due later, in order.
#[derive(Debug, Default)]
pub(super) struct Timers {
    due: BTreeMap<(UnixMillis, u64), Due>,
    serial: u64,
    deadlines: usize,
}

/// Names a timer.
pub(super) type TimerKey = (UnixMillis, u64);

impl Timers {
    pub(super) fn deadline(&mut self, at: UnixMillis, key: SubscriptionKey, pull: u64) -> TimerKey {
        self.deadlines += 1;
        self.add(at, Due::Deadline(key, pull))
    }

    pub(super) fn retry(&mut self, at: UnixMillis, key: SubscriptionKey) {
        self.add(at, Due::Retry(key));
    }

    pub(super) fn look(&mut self, at: UnixMillis, key: SubscriptionKey) {
        self.add(at, Due::Look(key));
    }

    fn add(&mut self, at: UnixMillis, due: Due) -> TimerKey {
        self.serial += 1;
        self.due.insert((at, self.serial), due);
        (at, self.serial)
    }

    /// Takes a deadline back.
    pub(super) fn cancel(&mut self, timer: TimerKey) {
        if self.due.remove(&timer).is_some() {
            self.deadlines -= 1;
        }
    }

    /// Takes the next thing that is due at `now`.
    pub(super) fn pop(&mut self, now: UnixMillis) -> Option<Due> {
        let first = self.due.first_entry()?;
        if first.key().0 > now {
            return None;
        }
        let due = first.remove();
        self.deadlines -= usize::from(matches!(due, Due::Deadline(..)));
        Some(due)
    }

    /// Takes all deadlines, due or not.
    pub(super) fn take_deadlines(&mut self) -> Vec<(SubscriptionKey, u64)> {
        self.deadlines = 0;
        let taken = self
            .due
            .extract_if(.., |_, due| matches!(due, Due::Deadline(..)));
        let pull = |(_, due)| match due {
            Due::Deadline(key, pull) => Some((key, pull)),
            Due::Retry(_) | Due::Look(_) => None,
        };
        taken.filter_map(pull).collect()
    }

    pub(super) fn has_deadlines(&self) -> bool {
        self.deadlines > 0
    }

    /// How long until the next one; `None` when nothing is due ever.
    pub(super) fn next_in(&self, now: UnixMillis) -> Option<Duration> {
        let ((at, _), _) = self.due.first_key_value()?;
        Some(at.since(now))
    }
}

#[cfg(test)]
mod tests {
    use qmq_model::{ConsumerGroup, Subject};

    use super::*;

    fn key(subject: &str) -> SubscriptionKey {
        SubscriptionKey {
            subject: Subject::new(subject).unwrap(),
            group: ConsumerGroup::new("g").unwrap(),
        }
    }

    #[test]
    fn falls_due_in_order() {
        let mut timers = Timers::default();
        timers.look(UnixMillis(30), key("a"));
        timers.retry(UnixMillis(10), key("b"));
        let cancelled = timers.deadline(UnixMillis(5), key("c"), 1);
        timers.deadline(UnixMillis(10), key("c"), 2);
        timers.cancel(cancelled);
        timers.cancel(cancelled);
        assert_eq!(
            timers.next_in(UnixMillis(4)),
            Some(Duration::from_millis(6))
        );
        assert_eq!(timers.pop(UnixMillis(9)), None);
        assert_eq!(timers.pop(UnixMillis(10)), Some(Due::Retry(key("b"))));
        assert!(timers.has_deadlines());
        assert_eq!(timers.pop(UnixMillis(10)), Some(Due::Deadline(key("c"), 2)));
        assert!(!timers.has_deadlines());
        timers.deadline(UnixMillis(99), key("d"), 3);
        assert_eq!(timers.take_deadlines(), [(key("d"), 3)]);
        assert_eq!(timers.pop(UnixMillis(99)), Some(Due::Look(key("a"))));
        assert_eq!(timers.next_in(UnixMillis(99)), None);
    }
}
