//! What one pull queue has received and not confirmed yet, and what to confirm next (pure).
//!
//! A broker numbers what it hands to one consumer id of one (subject, consumer group): the pull
//! sequence. Confirmations are ranges of these numbers, sent in order, each starting where the one
//! before ended. A confirmation that leaves numbers out makes a broker hand the left-out messages
//! out again, so finished messages wait behind an unfinished one.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::retry::Backoff;

/// Silence after which an empty ack tells the broker that this consumer is alive. A Java broker
/// gives the messages of a silent consumer to others after 3 minutes.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// A range of pull sequences to confirm, both ends included, as on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AckRange {
    /// First pull sequence.
    pub first: i64,
    /// Last pull sequence.
    pub last: i64,
}

/// When finished messages are confirmed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AckPolicy {
    /// So many finished messages in a row are confirmed at once.
    pub batch: usize,
    /// Fewer wait this long for others, unless they are all there is.
    pub linger: Duration,
    /// Silence after which an empty ack is sent.
    pub keep_alive: Duration,
}

/// What to do with the messages of a pull reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// Take them, without the first `skip`, which were received before.
    Take {
        /// How many to leave out.
        skip: usize,
    },
    /// Drop the reply and pull again from the same place: it leaves numbers out. The broker may
    /// have given those to a pull whose reply got lost, and repeats them when asked again. If the
    /// next reply starts at the same number they are void and that reply is taken.
    AskAgain,
}

/// What the sender of acks does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AckStep {
    /// Confirm this range.
    Send(AckRange),
    /// Send an empty ack.
    KeepAlive,
    /// Nothing before this time, unless a message finishes.
    WaitUntil(Instant),
}

/// Whether acks may wait for company.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Haste {
    /// Batch as the policy says.
    Normal,
    /// The consumer stops: everything that can be confirmed goes now.
    Stopping,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    sequence: i64,
    is_done: bool,
}

/// Pull sequences received and not yet confirmed, in order.
#[derive(Debug)]
pub(crate) struct AckQueue {
    policy: AckPolicy,
    entries: VecDeque<Entry>,
    /// Finished entries at the front without a hole between them.
    prefix: usize,
    /// When `prefix` last became more than 0.
    prefix_since: Option<Instant>,
    /// Highest pull sequence received since the start, -1 for none.
    last_received: i64,
    /// First number of a reply that was dropped because it left numbers out.
    asked_again_for: Option<i64>,
    /// When an ack was last sent.
    last_sent: Instant,
    failures: u32,
    not_before: Option<Instant>,
}

impl AckQueue {
    /// An empty queue, as after a start.
    pub(crate) fn new(policy: AckPolicy, now: Instant) -> Self {
        Self {
            policy,
            entries: VecDeque::new(),
            prefix: 0,
            prefix_since: None,
            last_received: -1,
            asked_again_for: None,
            last_sent: now,
            failures: 0,
            not_before: None,
        }
    }

    /// Lowest pull sequence not confirmed and highest received, for the next pull; -1 for none.
    /// After a start both are -1 and the broker repeats what this consumer id never confirmed.
    pub(crate) fn held(&self) -> (i64, i64) {
        (
            self.entries.front().map_or(-1, |entry| entry.sequence),
            self.last_received,
        )
    }

    /// Number of messages received and not confirmed.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Number of finished messages that are not confirmed yet, as far as they can be.
    pub(crate) fn confirmable(&self) -> usize {
        self.prefix
    }

    /// Decides about a reply with `count` messages numbered from `first`. Nothing is taken yet.
    pub(crate) fn admit(&mut self, first: i64, count: usize) -> Admission {
        let asked_again_for = self.asked_again_for.take();
        let expected = self.last_received.saturating_add(1);
        let leaves_out = self.last_received >= 0 && first > expected;
        if leaves_out && asked_again_for != Some(first) {
            self.asked_again_for = Some(first);
            return Admission::AskAgain;
        }
        let old = usize::try_from(expected.saturating_sub(first)).unwrap_or(0);
        Admission::Take {
            skip: old.min(count),
        }
    }

    /// Takes one message.
    ///
    /// # Panics
    /// When its number is not above every number taken before.
    pub(crate) fn push(&mut self, sequence: i64) {
        assert!(sequence > self.last_received, "pull sequences grow");
        self.entries.push_back(Entry {
            sequence,
            is_done: false,
        });
        self.last_received = sequence;
    }

    /// The application is done with a message.
    pub(crate) fn complete(&mut self, sequence: i64, now: Instant) {
        let Ok(index) = self
            .entries
            .binary_search_by_key(&sequence, |entry| entry.sequence)
        else {
            return;
        };
        self.entries[index].is_done = true;
        self.extend_prefix(now);
    }

    fn extend_prefix(&mut self, now: Instant) {
        while self
            .entries
            .get(self.prefix)
            .is_some_and(|entry| entry.is_done && self.follows())
        {
            self.prefix += 1;
            self.prefix_since.get_or_insert(now);
        }
    }

    /// Whether the entry behind the prefix has the next number.
    fn follows(&self) -> bool {
        match self.prefix.checked_sub(1) {
            None => true,
            Some(last) => {
                self.entries[last].sequence.checked_add(1)
                    == self.entries.get(self.prefix).map(|entry| entry.sequence)
            }
        }
    }

    /// What to send now. One ack is under way at a time: the next call comes after
    /// [`Self::confirmed`], [`Self::kept_alive`] or [`Self::failed`].
    pub(crate) fn step(&self, now: Instant, haste: Haste) -> AckStep {
        if let Some(at) = self.not_before.filter(|&at| now < at) {
            return AckStep::WaitUntil(at);
        }
        let keep_alive_at = self.last_sent + self.policy.keep_alive;
        let Some(since) = self.prefix_since.filter(|_| self.prefix > 0) else {
            return if now >= keep_alive_at && haste == Haste::Normal {
                AckStep::KeepAlive
            } else {
                AckStep::WaitUntil(keep_alive_at.max(now))
            };
        };
        let nothing_can_join = self.prefix == self.entries.len() || !self.follows();
        let send_at = (since + self.policy.linger).min(keep_alive_at);
        if haste == Haste::Stopping
            || nothing_can_join
            || self.prefix >= self.policy.batch
            || now >= send_at
        {
            let first = self.entries[0].sequence;
            return AckStep::Send(AckRange {
                first,
                last: self.entries[self.prefix - 1].sequence,
            });
        }
        AckStep::WaitUntil(send_at)
    }

    /// The broker accepted `range`.
    pub(crate) fn confirmed(&mut self, range: AckRange, now: Instant) {
        while self
            .entries
            .front()
            .is_some_and(|entry| entry.sequence <= range.last)
        {
            let entry = self.entries.pop_front();
            assert!(
                entry.is_some_and(|e| e.is_done),
                "only finished messages are confirmed"
            );
            self.prefix = self.prefix.saturating_sub(1);
        }
        self.prefix_since = (self.prefix > 0).then_some(now);
        self.extend_prefix(now);
        self.kept_alive(now);
    }

    /// The broker answered an empty ack.
    pub(crate) fn kept_alive(&mut self, now: Instant) {
        self.last_sent = now;
        self.failures = 0;
        self.not_before = None;
    }

    /// An ack was not answered, or refused: the range stays and is sent again after a pause.
    pub(crate) fn failed(&mut self, now: Instant, random: f64) {
        self.failures = self.failures.saturating_add(1);
        self.not_before = Some(now + Backoff::CONSUME.delay(self.failures, random));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    const POLICY: AckPolicy = AckPolicy {
        batch: 50,
        linger: Duration::from_millis(100),
        keep_alive: KEEP_ALIVE,
    };

    fn queue(sequences: impl IntoIterator<Item = i64>, now: Instant) -> AckQueue {
        let mut queue = AckQueue::new(POLICY, now);
        sequences
            .into_iter()
            .for_each(|sequence| queue.push(sequence));
        queue
    }

    fn range(first: i64, last: i64) -> AckStep {
        AckStep::Send(AckRange { first, last })
    }

    #[test]
    fn finished_messages_wait_behind_an_unfinished_one() {
        let now = Instant::now();
        let mut queue = queue(0..4, now);
        queue.complete(1, now);
        queue.complete(3, now);
        let later = now + Duration::from_secs(1);
        assert_eq!(
            queue.step(later, Haste::Stopping),
            AckStep::WaitUntil(now + KEEP_ALIVE)
        );
        queue.complete(0, now);
        assert_eq!(queue.step(later, Haste::Normal), range(0, 1));
        queue.confirmed(AckRange { first: 0, last: 1 }, later);
        queue.complete(2, later);
        assert_eq!(queue.step(later, Haste::Normal), range(2, 3));
    }

    #[test]
    fn waits_for_company_but_not_for_long() {
        let now = Instant::now();
        let mut queue = queue(0..100, now);
        queue.complete(0, now);
        let send_at = now + POLICY.linger;
        assert_eq!(queue.step(now, Haste::Normal), AckStep::WaitUntil(send_at));
        assert_eq!(queue.step(send_at, Haste::Normal), range(0, 0));
        assert_eq!(queue.step(now, Haste::Stopping), range(0, 0));
        (1..50).for_each(|sequence| queue.complete(sequence, now));
        assert_eq!(
            queue.step(now, Haste::Normal),
            range(0, 49),
            "a batch is full"
        );
    }

    #[test]
    fn ranges_end_at_holes() {
        let now = Instant::now();
        let mut queue = queue([3, 4, 9], now);
        [3, 4, 9]
            .into_iter()
            .for_each(|sequence| queue.complete(sequence, now));
        assert_eq!(queue.step(now, Haste::Normal), range(3, 4));
        queue.confirmed(AckRange { first: 3, last: 4 }, now);
        assert_eq!(queue.step(now, Haste::Normal), range(9, 9));
        queue.confirmed(AckRange { first: 9, last: 9 }, now);
        assert_eq!(queue.held(), (-1, 9), "the highest number received is kept");
        assert_eq!(queue.len(), 0);
    }

    #[test]
    fn says_that_it_is_alive_when_nothing_can_be_confirmed() {
        let now = Instant::now();
        let mut queue = queue(0..2, now);
        assert_eq!(
            queue.step(now, Haste::Normal),
            AckStep::WaitUntil(now + KEEP_ALIVE)
        );
        assert_eq!(
            queue.step(now + KEEP_ALIVE, Haste::Normal),
            AckStep::KeepAlive
        );
        queue.kept_alive(now + KEEP_ALIVE);
        assert_eq!(
            queue.step(now + KEEP_ALIVE, Haste::Normal),
            AckStep::WaitUntil(now + KEEP_ALIVE * 2)
        );
    }

    #[test]
    fn a_failed_ack_is_sent_again_after_a_pause() {
        let now = Instant::now();
        let mut queue = queue(0..1, now);
        queue.complete(0, now);
        queue.failed(now, 1.0);
        let again = now + Duration::from_millis(100);
        assert_eq!(queue.step(now, Haste::Stopping), AckStep::WaitUntil(again));
        assert_eq!(queue.step(again, Haste::Normal), range(0, 0));
    }

    #[test]
    fn skips_what_it_has_and_asks_again_once_for_what_is_left_out() {
        let mut queue = queue(0..5, Instant::now());
        assert_eq!(queue.admit(3, 4), Admission::Take { skip: 2 });
        assert_eq!(queue.admit(0, 3), Admission::Take { skip: 3 });
        assert_eq!(queue.admit(5, 1), Admission::Take { skip: 0 });
        assert_eq!(queue.admit(9, 2), Admission::AskAgain);
        assert_eq!(
            queue.admit(5, 6),
            Admission::Take { skip: 0 },
            "the lost ones came again"
        );
        assert_eq!(queue.admit(9, 2), Admission::AskAgain);
        assert_eq!(
            queue.admit(9, 2),
            Admission::Take { skip: 0 },
            "5..=8 are void"
        );
        let mut fresh = AckQueue::new(POLICY, Instant::now());
        assert_eq!(fresh.admit(1000, 1), Admission::Take { skip: 0 });
    }

    /// Everything received is confirmed once, in order, by ranges without holes, never before it
    /// is finished, however the application and the network behave.
    #[test]
    fn confirms_in_order_whatever_happens() {
        for seed in 0..200 {
            let mut random = SmallRng::seed_from_u64(seed);
            let mut now = Instant::now();
            let mut queue = AckQueue::new(POLICY, now);
            let (mut next, mut received, mut open) = (0_i64, BTreeSet::new(), Vec::new());
            let (mut done, mut confirmed) = (BTreeSet::new(), Vec::new());
            for step in 0..600 {
                now += Duration::from_millis(random.random_range(0..60));
                let is_draining = step >= 400;
                match random.random_range(0..3) {
                    0 if !is_draining => {
                        next += i64::from(random.random_bool(0.05)) * random.random_range(1..5);
                        for _ in 0..random.random_range(0..8) {
                            queue.push(next);
                            received.insert(next);
                            open.push(next);
                            next += 1;
                        }
                    }
                    1 if !open.is_empty() => {
                        let sequence = open.swap_remove(random.random_range(0..open.len()));
                        queue.complete(sequence, now);
                        done.insert(sequence);
                    }
                    _ => {
                        let AckStep::Send(range) = queue.step(now, Haste::Normal) else {
                            continue;
                        };
                        assert!(
                            (range.first..=range.last).all(|s| done.contains(&s)),
                            "seed {seed}"
                        );
                        assert_eq!(queue.held().0, range.first, "seed {seed}");
                        if random.random_bool(0.3) {
                            queue.failed(now, random.random());
                            continue;
                        }
                        confirmed.extend(range.first..=range.last);
                        queue.confirmed(range, now);
                    }
                }
            }
            for sequence in open {
                queue.complete(sequence, now);
            }
            now += Duration::from_secs(10);
            while let AckStep::Send(range) = queue.step(now, Haste::Stopping) {
                confirmed.extend(range.first..=range.last);
                queue.confirmed(range, now);
            }
            assert_eq!(
                confirmed,
                received.into_iter().collect::<Vec<_>>(),
                "seed {seed}"
            );
            assert_eq!(queue.len(), 0, "seed {seed}");
        }
    }
}
