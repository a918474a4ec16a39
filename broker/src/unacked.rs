//! What a consumer pulled and has not acked: disjoint runs in ascending order (pure).

use std::collections::VecDeque;
use std::ops::Range;

use qmq_store::Unacked;

/// Runs of pull sequences with the messages they stand for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnackedSet {
    runs: VecDeque<Unacked>,
    count: u64,
}

impl UnackedSet {
    /// Number of messages.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Adds a run behind all others; joins it to the last one where both numbers continue.
    ///
    /// # Panics
    /// When it does not lie behind all others.
    pub fn push(&mut self, run: Unacked) {
        self.count += run.count.unsigned_abs();
        let Some(last) = self.runs.back_mut() else {
            self.runs.push_back(run);
            return;
        };
        assert!(
            last.pull + last.count <= run.pull,
            "runs are added in ascending order"
        );
        let pull_continues = last.pull + last.count == run.pull;
        if pull_continues && last.message + last.count == run.message {
            last.count += run.count;
        } else {
            self.runs.push_back(run);
        }
    }

    /// The first `count_max` messages with a pull sequence above `pull_last`, as far as their pull
    /// sequences have no gap.
    #[must_use]
    pub fn after(&self, pull_last: i64, count_max: usize) -> Vec<Unacked> {
        let begin = pull_last.saturating_add(1);
        let first = self
            .runs
            .partition_point(|run| run.pull + run.count <= begin);
        let mut left = i64::try_from(count_max).unwrap_or(i64::MAX);
        let mut found: Vec<Unacked> = Vec::new();
        for run in self.runs.range(first..) {
            let run = cut(run, begin..i64::MAX);
            let continues = found
                .last()
                .is_none_or(|last| last.pull + last.count == run.pull);
            if left == 0 || !continues {
                break;
            }
            let count = run.count.min(left);
            left -= count;
            found.push(Unacked { count, ..run });
        }
        found
    }

    /// The lowest pull sequence in it.
    #[must_use]
    pub fn first_pull(&self) -> Option<i64> {
        self.runs.front().map(|run| run.pull)
    }

    /// The first `count_max` messages with a pull sequence below `end`, gaps or not.
    #[must_use]
    pub fn below(&self, end: i64, count_max: usize) -> Vec<Unacked> {
        let mut left = i64::try_from(count_max).unwrap_or(i64::MAX);
        let mut found = Vec::new();
        for run in &self.runs {
            let mut run = cut(run, i64::MIN..end);
            run.count = run.count.min(left);
            if run.count <= 0 {
                break;
            }
            left -= run.count;
            found.push(run);
        }
        found
    }

    /// Takes `pulls` out. Returns how many messages that were.
    pub fn remove(&mut self, pulls: &Range<i64>) -> u64 {
        if pulls.start >= pulls.end {
            return 0;
        }
        let first = self
            .runs
            .partition_point(|run| run.pull + run.count <= pulls.start);
        let last = self.runs.partition_point(|run| run.pull < pulls.end);
        if first >= last {
            return 0;
        }
        let hit: Vec<Unacked> = self.runs.drain(first..last).collect();
        let before: i64 = hit.iter().map(|run| run.count).sum();
        let head = hit.first().map(|run| cut(run, i64::MIN..pulls.start));
        let tail = hit.last().map(|run| cut(run, pulls.end..i64::MAX));
        let kept: Vec<Unacked> = head
            .into_iter()
            .chain(tail)
            .filter(|run| run.count > 0)
            .collect();
        let after: i64 = kept.iter().map(|run| run.count).sum();
        for run in kept.into_iter().rev() {
            self.runs.insert(first, run);
        }
        let removed = (before - after).unsigned_abs();
        self.count -= removed;
        removed
    }

    /// The runs in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = &Unacked> {
        self.runs.iter()
    }
}

impl FromIterator<Unacked> for UnackedSet {
    fn from_iter<I: IntoIterator<Item = Unacked>>(runs: I) -> Self {
        let mut set = Self::default();
        runs.into_iter().for_each(|run| set.push(run));
        set
    }
}

/// The part of `run` within `pulls`; its count is zero when there is none.
fn cut(run: &Unacked, pulls: Range<i64>) -> Unacked {
    let begin = run.pull.max(pulls.start);
    let end = (run.pull + run.count).min(pulls.end);
    Unacked {
        pull: begin,
        message: run.message + (begin - run.pull),
        count: (end - begin).max(0),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    fn run(pull: i64, message: i64, count: i64) -> Unacked {
        Unacked {
            pull,
            message,
            count,
        }
    }

    #[test]
    fn joins_runs_that_continue() {
        let set: UnackedSet = [run(0, 10, 5), run(5, 15, 2), run(7, 20, 1)]
            .into_iter()
            .collect();
        assert_eq!(
            set.iter().cloned().collect::<Vec<_>>(),
            [run(0, 10, 7), run(7, 20, 1)]
        );
        assert_eq!(set.count(), 8);
    }

    #[test]
    fn a_reply_stops_at_a_gap_in_pull_sequences() {
        let mut set: UnackedSet = [run(0, 0, 10)].into_iter().collect();
        assert_eq!(set.remove(&(3..5)), 2);
        assert_eq!(set.after(-1, 100), [run(0, 0, 3)]);
        assert_eq!(set.after(2, 100), [run(5, 5, 5)]);
        assert_eq!(set.after(6, 2), [run(7, 7, 2)]);
        assert_eq!(set.after(9, 2), []);
    }

    #[test]
    fn the_oldest_are_named_whatever_gaps_there_are() {
        let set: UnackedSet = [run(0, 10, 5), run(8, 20, 4)].into_iter().collect();
        assert_eq!(set.first_pull(), Some(0));
        assert_eq!(set.below(9, 100), [run(0, 10, 5), run(8, 20, 1)]);
        assert_eq!(set.below(i64::MAX, 6), [run(0, 10, 5), run(8, 20, 1)]);
        assert_eq!(set.below(0, 6), []);
    }

    #[test]
    fn agrees_with_a_plain_map() {
        let seed = rand::random::<u64>();
        println!("seed {seed}");
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut set = UnackedSet::default();
        let mut model = BTreeMap::new();
        let (mut pull, mut message) = (0, 0);
        for _ in 0..5_000 {
            if rng.random_bool(0.5) {
                let count = rng.random_range(1..20);
                set.push(run(pull, message, count));
                model.extend((0..count).map(|i| (pull + i, message + i)));
                pull += count + if rng.random_bool(0.2) { 3 } else { 0 };
                message += count + if rng.random_bool(0.2) { 2 } else { 0 };
            } else {
                let begin = rng.random_range(0..=pull);
                let end = begin + rng.random_range(-2..60);
                let removed = set.remove(&(begin..end));
                let before = model.len();
                model.retain(|pull, _| !(begin..end).contains(pull));
                assert_eq!(removed, (before - model.len()) as u64);
            }
            assert_eq!(set.count(), model.len() as u64);
            let flat = set
                .iter()
                .flat_map(|r| (0..r.count).map(|i| (r.pull + i, r.message + i)));
            assert!(flat.eq(model.iter().map(|(p, m)| (*p, *m))));
        }
    }
}
