//! How many may pass in a second, evenly.

use super::Moment;

/// What may pass at once after a quiet time: a share of a second's worth.
const BURST_PARTS: u128 = 10;
const NANOS: u128 = 1_000_000_000;

/// Lets `per_second` pass, in bursts of a tenth of that.
#[derive(Debug)]
pub(super) struct Rate {
    per_second: u128,
    /// In billionths of a message.
    credit: u128,
    at: Moment,
}

impl Rate {
    pub(super) fn new(per_second: u32) -> Self {
        Self {
            per_second: u128::from(per_second.max(1)),
            credit: 0,
            at: Moment::ZERO,
        }
    }

    /// Lets another number pass from now on.
    pub(super) fn set(&mut self, per_second: u32) {
        self.per_second = u128::from(per_second.max(1));
    }

    /// How many may pass now.
    pub(super) fn available(&mut self, now: Moment) -> usize {
        let passed = now.saturating_sub(self.at).as_nanos();
        self.at = self.at.max(now);
        let most = (self.per_second * NANOS / BURST_PARTS).max(NANOS);
        self.credit = (self.credit + passed * self.per_second).min(most);
        usize::try_from(self.credit / NANOS).unwrap_or(usize::MAX)
    }

    /// That many passed.
    pub(super) fn take(&mut self, count: usize) {
        self.credit = self.credit.saturating_sub(count as u128 * NANOS);
    }
}
