//! Notices that the database does not answer, and lets statements fail at once until it does: who
//! waits for an answer shall not wait for a deadline each time.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Pause between two tries while the database is away.
const PAUSE: Duration = Duration::from_millis(500);
/// A try that was let through is the only one for this long.
const TRY_MAX: Duration = Duration::from_secs(2);

/// Closed while the database answers.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    /// When the next statement may be tried; `None` while the database answers.
    next_try: Mutex<Option<Instant>>,
}

impl Breaker {
    /// Whether a statement may be tried now. While the database is away one is let through now and
    /// then.
    pub(super) fn admits(&self, now: Instant) -> bool {
        let mut next_try = self.lock();
        match *next_try {
            None => true,
            Some(at) if now < at => false,
            Some(_) => {
                *next_try = Some(now + TRY_MAX);
                true
            }
        }
    }

    /// Whether the last statement was answered.
    pub(super) fn is_closed(&self) -> bool {
        self.lock().is_none()
    }

    pub(super) fn answered(&self) {
        *self.lock() = None;
    }

    pub(super) fn unanswered(&self, now: Instant) {
        *self.lock() = Some(now + PAUSE);
    }

    fn lock(&self) -> MutexGuard<'_, Option<Instant>> {
        self.next_try.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lets_one_through_at_a_time_until_it_is_answered() {
        let breaker = Breaker::default();
        let begin = Instant::now();
        assert!(breaker.is_closed() && breaker.admits(begin) && breaker.admits(begin));
        breaker.unanswered(begin);
        assert!(!breaker.is_closed() && !breaker.admits(begin));
        let later = begin + PAUSE;
        assert!(breaker.admits(later), "one tries");
        assert!(!breaker.admits(later), "others do not wait for it");
        assert!(breaker.admits(later + TRY_MAX), "it never came back");
        breaker.unanswered(later);
        assert!(!breaker.admits(later));
        breaker.answered();
        assert!(breaker.is_closed() && breaker.admits(later));
    }
}
