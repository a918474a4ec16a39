//! When to try again, and what the result of an attempt means (pure).

use std::time::Duration;

use crate::error::SendErrorKind;

/// Waits that double from `first` to `max`, with jitter so that clients do not come back in step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Backoff {
    /// Wait after the first failure.
    pub first: Duration,
    /// Longest wait.
    pub max: Duration,
}

impl Backoff {
    /// Between two attempts of a send: 20 ms to 1 s. Nine waits last about 4 s, long enough for a
    /// broker to be restarted.
    pub(crate) const SEND: Self = Self {
        first: Duration::from_millis(20),
        max: Duration::from_secs(1),
    };
    /// After a failed pull, an early empty reply, a failed ack, or an `Err` of a handler.
    pub(crate) const CONSUME: Self = Self {
        first: Duration::from_millis(100),
        max: Duration::from_secs(5),
    };

    /// The wait after `failures` failures in a row (1 is the first). `random` is within `0.0..1.0`:
    /// the wait lies between half of the nominal time and all of it.
    pub(crate) fn delay(&self, failures: u32, random: f64) -> Duration {
        let doublings = failures.saturating_sub(1).min(30);
        let nominal = self.first.saturating_mul(1 << doublings).min(self.max);
        nominal.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
    }
}

/// What follows from the result of one message or of a whole request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The broker has it.
    Stored,
    /// Worth another attempt.
    Retry {
        /// What to report when no attempt is left.
        kind: SendErrorKind,
        /// Whether the broker said that it takes no writes now.
        not_writable: bool,
        /// Whether the broker may have stored it all the same.
        outcome_unknown: bool,
    },
    /// Final.
    Fail(SendErrorKind),
}

const fn retry(kind: SendErrorKind, not_writable: bool, outcome_unknown: bool) -> Verdict {
    Verdict::Retry {
        kind,
        not_writable,
        outcome_unknown,
    }
}

/// The verdict on one message that a successful reply lists with `code`.
pub(crate) const fn judge_message(code: i32) -> Verdict {
    match code {
        // 2: the broker has it from an earlier attempt.
        0 | 2 => Verdict::Stored,
        1 => Verdict::Fail(SendErrorKind::Busy),
        3 => retry(SendErrorKind::NotAssigned, false, false),
        4 => retry(SendErrorKind::ReadOnly, true, false),
        5 => Verdict::Fail(SendErrorKind::Blocked),
        // A broker that waits for its slave says 6 when the slave is late; its own copy stays.
        6 => retry(SendErrorKind::Store, false, true),
        _ => retry(SendErrorKind::Server, false, true),
    }
}

/// The verdict on every message of a request whose reply has the header code `code`, not 0.
pub(crate) const fn judge_reply(code: i16) -> Verdict {
    match code {
        52 => retry(SendErrorKind::Rejected, true, false),
        // Nobody there takes sends: nothing was stored.
        3 => retry(SendErrorKind::Server, false, false),
        // 51 may come after a part was stored.
        _ => retry(SendErrorKind::Server, false, true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest() {
        let backoff = Backoff::SEND;
        let nominal: Vec<_> = (1..=8).map(|n| backoff.delay(n, 1.0).as_millis()).collect();
        assert_eq!(nominal, [20, 40, 80, 160, 320, 640, 1000, 1000]);
        assert_eq!(backoff.delay(1, 0.0), Duration::from_millis(10));
        assert_eq!(backoff.delay(u32::MAX, 0.0), Duration::from_millis(500));
    }

    #[test]
    fn duplicates_are_stored_and_busy_is_final() {
        assert_eq!(judge_message(2), Verdict::Stored);
        assert_eq!(judge_message(1), Verdict::Fail(SendErrorKind::Busy));
        assert_eq!(judge_message(5), Verdict::Fail(SendErrorKind::Blocked));
    }

    #[test]
    fn refusals_before_the_store_are_known_outcomes() {
        for verdict in [
            judge_message(3),
            judge_message(4),
            judge_reply(52),
            judge_reply(3),
        ] {
            assert!(
                matches!(
                    verdict,
                    Verdict::Retry {
                        outcome_unknown: false,
                        ..
                    }
                ),
                "{verdict:?}"
            );
        }
        for verdict in [judge_message(6), judge_message(77), judge_reply(51)] {
            assert!(
                matches!(
                    verdict,
                    Verdict::Retry {
                        outcome_unknown: true,
                        ..
                    }
                ),
                "{verdict:?}"
            );
        }
    }
}
