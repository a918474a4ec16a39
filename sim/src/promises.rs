//! What users were promised, as plainly as it can be written down.

use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Names a subscription in the simulation: subject and group by number.
pub type GroupId = (usize, usize);
/// Names a consumer: group and consumer by number.
pub type ConsumerKey = (GroupId, usize);

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("promise broken: {0}")]
pub struct Broken(pub String);

/// Fails with a description unless the condition holds.
macro_rules! promise {
    ($holds:expr, $($words:tt)+) => {
        if !$holds {
            return Err(Broken(format!($($words)+)));
        }
    };
}

/// One message on its way to a consumer.
#[derive(Clone, Copy, Debug)]
pub struct Delivered {
    /// Its message sequence.
    pub sequence: i64,
    /// The pull sequence it was given.
    pub pull: i64,
    /// What its body says.
    pub content: u64,
}

/// The record of everything that was promised.
#[derive(Debug, Default)]
pub struct Promises {
    /// Acknowledged messages: content by subject and sequence.
    stored: BTreeMap<(usize, i64), u64>,
    /// Content of every message ever handed to a consumer.
    seen: BTreeMap<(usize, i64), u64>,
    groups: HashMap<GroupId, GroupPromise>,
    /// What each pull sequence stood for, over all crashes.
    pulls: HashMap<(ConsumerKey, i64), i64>,
    /// Counts crashes: a message may come again to somebody else after one.
    life: u64,
}

#[derive(Debug, Default)]
struct GroupPromise {
    start: Option<i64>,
    /// Who was handed a message last, and in which life.
    holder: HashMap<i64, (usize, u64)>,
    confirmed: BTreeSet<i64>,
    /// In an ack whose outcome is unknown: it may count or not.
    asked: BTreeSet<i64>,
    /// Confirmed in this life, so nobody may see them again before a crash.
    done_now: BTreeSet<i64>,
}

impl Promises {
    /// The broker acknowledged a message.
    ///
    /// # Errors
    /// When its sequence was given to another acknowledged or delivered message.
    pub fn acknowledged(
        &mut self,
        subject: usize,
        sequence: i64,
        content: u64,
    ) -> Result<(), Broken> {
        let key = (subject, sequence);
        let before = self
            .stored
            .insert(key, content)
            .or_else(|| self.seen.get(&key).copied());
        promise!(
            before.is_none_or(|before| before == content),
            "sequence {sequence} of subject {subject} was handed out twice"
        );
        Ok(())
    }

    /// A group's first contact was answered: it is owed everything from `start` on.
    pub fn joined(&mut self, group: GroupId, start: i64) {
        self.groups
            .entry(group)
            .or_default()
            .start
            .get_or_insert(start);
    }

    /// A message reached a consumer.
    ///
    /// # Errors
    /// When it is not what was stored, belongs to somebody else, was confirmed, or its pull
    /// sequence stood for another message.
    pub fn delivered(&mut self, to: ConsumerKey, message: Delivered) -> Result<(), Broken> {
        let Delivered {
            sequence,
            pull,
            content,
        } = message;
        let (group_id, consumer) = to;
        let key = (group_id.0, sequence);
        for known in [self.stored.get(&key), self.seen.get(&key)]
            .into_iter()
            .flatten()
        {
            promise!(
                *known == content,
                "{key:?} holds {content} instead of {known}"
            );
        }
        self.seen.insert(key, content);
        let earlier = *self.pulls.entry((to, pull)).or_insert(sequence);
        promise!(
            earlier == sequence,
            "pull sequence {pull} of {to:?} stands for {earlier} and for {sequence}"
        );
        let life = self.life;
        let group = self.groups.entry(group_id).or_default();
        promise!(
            !group.done_now.contains(&sequence),
            "{sequence} came to {to:?} again although it was confirmed"
        );
        let holder = group.holder.insert(sequence, (consumer, life));
        promise!(
            holder.is_none_or(|(who, when)| who == consumer || when != life),
            "{sequence} came to {to:?} while {holder:?} held it"
        );
        Ok(())
    }

    /// The broker confirmed an ack of these messages.
    pub fn confirmed(&mut self, group: GroupId, sequences: impl IntoIterator<Item = i64>) {
        let group = self.groups.entry(group).or_default();
        for sequence in sequences {
            group.confirmed.insert(sequence);
            group.done_now.insert(sequence);
        }
    }

    /// A consumer acked these messages and the broker died before it answered.
    pub fn perhaps_confirmed(&mut self, group: GroupId, sequences: impl IntoIterator<Item = i64>) {
        self.groups
            .entry(group)
            .or_default()
            .asked
            .extend(sequences);
    }

    /// The broker lost what was not synced: acks may be forgotten, messages may change hands.
    pub fn power_cut(&mut self) {
        self.life += 1;
        self.groups
            .values_mut()
            .for_each(|group| group.done_now.clear());
    }

    /// The process died and the machine did not: confirmed stays confirmed.
    pub fn killed(&mut self) {
        self.life += 1;
    }

    /// Everything was pulled and acked until nothing came any more.
    ///
    /// # Errors
    /// When a group did not get an acknowledged message that it was owed.
    pub fn settle(&self) -> Result<(), Broken> {
        for (id, group) in &self.groups {
            let Some(start) = group.start else { continue };
            let owed = self.stored.range((id.0, start)..(id.0 + 1, i64::MIN));
            for ((_, sequence), content) in owed {
                promise!(
                    group.confirmed.contains(sequence) || group.asked.contains(sequence),
                    "group {id:?} never got {sequence} (content {content}), it started at {start}"
                );
            }
        }
        Ok(())
    }

    /// How many messages were acknowledged.
    #[must_use]
    pub fn acknowledged_count(&self) -> usize {
        self.stored.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: GroupId = (0, 0);

    fn message(sequence: i64, pull: i64) -> Delivered {
        Delivered {
            sequence,
            pull,
            content: 7,
        }
    }

    #[test]
    fn notices_each_broken_promise() {
        let mut promises = Promises::default();
        promises.acknowledged(0, 0, 7).unwrap();
        assert!(promises.acknowledged(0, 0, 8).is_err());

        let mut promises = Promises::default();
        promises.delivered((GROUP, 0), message(0, 0)).unwrap();
        assert!(
            promises.delivered((GROUP, 0), message(1, 0)).is_err(),
            "pull sequence twice"
        );
        assert!(
            promises.delivered((GROUP, 1), message(0, 0)).is_err(),
            "held by another"
        );
        promises.confirmed(GROUP, [0]);
        assert!(
            promises.delivered((GROUP, 0), message(0, 0)).is_err(),
            "confirmed"
        );
        promises.power_cut();
        assert!(promises.delivered((GROUP, 1), message(0, 0)).is_ok());

        let mut promises = Promises::default();
        promises.acknowledged(0, 3, 7).unwrap();
        promises.joined(GROUP, 3);
        assert!(promises.settle().is_err(), "never delivered");
        promises.confirmed(GROUP, [3]);
        assert!(promises.settle().is_ok());
    }
}
