//! How long to wait after a failure: twice as long each time, never all at the same moment.

use std::time::Duration;

use rand::Rng;
use rand::rngs::SmallRng;

/// Bounds of a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The longest pause after the first failure.
    pub first: Duration,
    /// No pause is longer.
    pub longest: Duration,
}

impl Backoff {
    /// The pause after the `failures`-th failure in a row (counted from 1): between half of what
    /// is due and all of it.
    pub(super) fn pause(self, failures: u32, rng: &mut SmallRng) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        let full = self.first.saturating_mul(1 << doublings).min(self.longest);
        full.mul_f64(rng.random_range(0.5..=1.0))
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn pauses_grow_to_the_longest_and_differ() {
        let backoff = Backoff {
            first: Duration::from_millis(100),
            longest: Duration::from_secs(10),
        };
        let mut rng = SmallRng::seed_from_u64(1);
        for (failures, full) in [
            (1, 100),
            (2, 200),
            (4, 800),
            (8, 10_000),
            (u32::MAX, 10_000),
        ] {
            let full = Duration::from_millis(full);
            let pauses: Vec<_> = (0..50).map(|_| backoff.pause(failures, &mut rng)).collect();
            assert!(pauses.iter().all(|pause| (full / 2..=full).contains(pause)));
            assert!(pauses.iter().any(|pause| *pause != pauses[0]));
        }
    }
}
