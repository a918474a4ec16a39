//! What time does to a subscription: who is dead, which acks were lost, what may be forgotten.

use std::time::Duration;

use qmq_model::{ConsumerId, UnixMillis};
use qmq_store::Unacked;

use super::{Consumer, Subscription};

/// Shortest time between two looks at one subscription.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// How long the broker waits for whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// A consumer silent for so long is dead: its messages go to the retry subject.
    pub dead_after: Duration,
    /// Messages below acked ones go to the retry subject when they are still unacked so much later.
    pub lost_ack_after: Duration,
    /// A consumer silent for so long that holds nothing is forgotten.
    pub forever_after: Duration,
    /// A group that nobody belongs to any more, and a silent broadcast consumer, are forgotten.
    pub group_after: Duration,
    /// Messages of one consumer that are copied per second.
    pub copies_per_second: usize,
}

/// Messages of one consumer that have to be copied to the retry subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overdue {
    /// Whose they are.
    pub consumer: ConsumerId,
    /// Which, ascending; not empty.
    pub runs: Vec<Unacked>,
}

impl Subscription {
    /// Consumers that hold messages and were not seen for `patience.dead_after`.
    pub fn silent(
        &self,
        now: UnixMillis,
        patience: &Patience,
    ) -> impl Iterator<Item = &ConsumerId> {
        let is_silent = move |consumer: &Consumer| {
            consumer.unacked.count() > 0 && consumer.is_silent(now, patience.dead_after)
        };
        let consumers = self.consumers.iter().filter(|_| !self.broadcast);
        consumers.filter_map(move |(id, consumer)| is_silent(consumer).then_some(id))
    }

    /// What has to be copied to the retry subject at `now`.
    #[must_use]
    pub fn overdue(&self, now: UnixMillis, patience: &Patience) -> Vec<Overdue> {
        if self.broadcast {
            return Vec::new();
        }
        let overdue = |(id, consumer): (&ConsumerId, &Consumer)| {
            let below = if consumer.is_silent(now, patience.dead_after) {
                i64::MAX
            } else {
                let gap = consumer.gap?;
                (now.since(gap.since) >= patience.lost_ack_after).then_some(gap.below)?
            };
            let runs = consumer.unacked.below(below, patience.copies_per_second);
            let consumer = id.clone();
            (!runs.is_empty()).then_some(Overdue { consumer, runs })
        };
        self.consumers.iter().filter_map(overdue).collect()
    }

    /// Forgets consumers that hold nothing and were silent for very long; returns them. Acks that
    /// were lost and have been dealt with are forgotten, too.
    pub fn forget(&mut self, now: UnixMillis, patience: &Patience) -> Vec<ConsumerId> {
        for consumer in self.consumers.values_mut() {
            let first = consumer.unacked.first_pull().unwrap_or(i64::MAX);
            consumer.gap = consumer.gap.filter(|gap| first < gap.below);
        }
        if self.broadcast {
            return Vec::new();
        }
        let is_gone = |consumer: &Consumer| {
            consumer.unacked.count() == 0 && consumer.is_silent(now, patience.forever_after)
        };
        let gone = self.consumers.extract_if(|_, consumer| is_gone(consumer));
        gone.map(|(id, _)| id).collect()
    }

    /// Whether nobody is interested any more: the group has no consumers, or only silent ones of a
    /// broadcast, and was not heard of for `patience.group_after`.
    #[must_use]
    pub fn is_abandoned(&self, now: UnixMillis, patience: &Patience) -> bool {
        let is_empty = self.consumers.is_empty() || self.broadcast;
        is_empty && now.since(self.last_seen) >= patience.group_after
    }

    /// When to look at this subscription again. While it has consumers that is soon enough for any
    /// of them to be handed messages right after this look, and to die.
    #[must_use]
    pub fn look_again(&self, now: UnixMillis, patience: &Patience) -> UnixMillis {
        let soonest = now.plus(LOOK_AGAIN);
        let of_consumer = |consumer: &Consumer| {
            if consumer.unacked.count() == 0 {
                return now.plus(patience.dead_after.min(patience.forever_after));
            }
            let dead = consumer.last_seen.plus(patience.dead_after);
            let gap = consumer
                .gap
                .map(|gap| gap.since.plus(patience.lost_ack_after));
            gap.map_or(dead, |gap| gap.min(dead))
        };
        let group = self.last_seen.plus(patience.group_after);
        let consumers = self.consumers.values().filter(|_| !self.broadcast);
        let next = consumers.map(of_consumer).chain([group]).min();
        next.unwrap_or(group).max(soonest)
    }

    /// When messages that `consumer` left out of its acks are overdue, if it did leave some out.
    #[must_use]
    pub fn gap_due(&self, consumer: &ConsumerId, patience: &Patience) -> Option<UnixMillis> {
        let gap = self.consumers.get(consumer)?.gap?;
        Some(gap.since.plus(patience.lost_ack_after))
    }
}

impl Consumer {
    fn is_silent(&self, now: UnixMillis, patience: Duration) -> bool {
        now.since(self.last_seen) >= patience
    }
}
