//! Which broker group gets the next request, and which brokers to leave alone for now (pure).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Failures in a row that open the breaker of a broker.
const FAILURES_MAX: u32 = 5;
/// How long a breaker stays open at first; doubles with every failed probe.
const OPEN_FIRST: Duration = Duration::from_secs(1);
/// Longest time between two probes of a broker that stays away.
const OPEN_MAX: Duration = Duration::from_secs(10);
/// How long a broker that refused writes is left alone. The reference leaves it alone until its
/// route changes, which may be never.
const NOT_WRITABLE: Duration = Duration::from_secs(10);
/// Brokers whose health is remembered; beyond that the healthy are forgotten, or all of them.
const BROKERS_MAX: usize = 1024;

/// One breaker: closed, open, or half-open once `until` has passed.
#[derive(Clone, Copy, Debug, Default)]
struct Breaker {
    failures: u32,
    open: Option<Open>,
    not_writable_until: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Open {
    until: Instant,
    period: Duration,
    is_probed: bool,
}

impl Breaker {
    fn is_available(&self, now: Instant) -> bool {
        self.open.is_none_or(|open| now >= open.until)
            && self.not_writable_until.is_none_or(|until| now >= until)
    }

    fn is_healthy(&self, now: Instant) -> bool {
        self.failures == 0 && self.open.is_none() && self.is_available(now)
    }
}

/// What is known about each broker, by its address: one breaker however many subjects it serves.
///
/// A breaker only moves a broker to the end of the queue. When nobody else is left its broker is
/// tried all the same, because refusing locally would help no one.
#[derive(Debug, Default)]
pub(crate) struct Health {
    brokers: HashMap<Arc<str>, Breaker>,
}

impl Health {
    /// Whether a request to `address` has a fair chance now.
    pub(crate) fn is_available(&self, address: &str, now: Instant) -> bool {
        self.brokers
            .get(address)
            .is_none_or(|breaker| breaker.is_available(now))
    }

    /// A request is about to leave. Half-open: it is the probe, and the next one has to wait for
    /// another period or for its success.
    pub(crate) fn on_request(&mut self, address: &str, now: Instant) {
        let Some(Breaker {
            open: Some(open), ..
        }) = self.brokers.get_mut(address)
        else {
            return;
        };
        if now >= open.until {
            open.until = now + open.period;
            open.is_probed = true;
        }
    }

    /// The broker answered, whatever the answer was.
    pub(crate) fn on_answer(&mut self, address: &str) {
        if let Some(breaker) = self.brokers.get_mut(address) {
            breaker.failures = 0;
            breaker.open = None;
        }
    }

    /// No connection, or no answer. True when the breaker opens, or stays open after a probe.
    pub(crate) fn on_failure(&mut self, address: &Arc<str>, now: Instant) -> bool {
        let breaker = self.entry(address, now);
        breaker.failures = breaker.failures.saturating_add(1);
        if breaker.failures < FAILURES_MAX {
            return false;
        }
        let period = match breaker.open {
            None => OPEN_FIRST,
            // Late failures of requests from before it opened say nothing new.
            Some(open) if !open.is_probed => return false,
            Some(open) => (open.period * 2).min(OPEN_MAX),
        };
        breaker.open = Some(Open {
            until: now + period,
            period,
            is_probed: false,
        });
        true
    }

    /// The broker said that it takes no writes. True when that is news.
    pub(crate) fn on_not_writable(&mut self, address: &Arc<str>, now: Instant) -> bool {
        let breaker = self.entry(address, now);
        let before = breaker.not_writable_until.replace(now + NOT_WRITABLE);
        before.is_none_or(|until| now >= until)
    }

    fn entry(&mut self, address: &Arc<str>, now: Instant) -> &mut Breaker {
        if self.brokers.len() >= BROKERS_MAX && !self.brokers.contains_key(address) {
            self.brokers.retain(|_, breaker| !breaker.is_healthy(now));
            if self.brokers.len() >= BROKERS_MAX {
                self.brokers.clear();
            }
        }
        self.brokers.entry(Arc::clone(address)).or_default()
    }
}

/// Round robin over the groups of one subject, from a random start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RoundRobin {
    next: usize,
}

impl RoundRobin {
    /// Starts anywhere, so that many clients do not begin with the same group.
    pub(crate) const fn starting_at(random: usize) -> Self {
        Self { next: random }
    }

    /// The index of the group to use, `None` when there is none. An available group other than the
    /// `avoided` one is best, then the avoided one while it is available, then any other.
    pub(crate) fn choose(
        &mut self,
        groups: usize,
        is_available: impl Fn(usize) -> bool,
        is_avoided: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let in_turn = || (0..groups).map(|step| (self.next.wrapping_add(step)) % groups);
        let chosen = in_turn()
            .find(|&i| is_available(i) && !is_avoided(i))
            .or_else(|| in_turn().find(|&i| is_available(i)))
            .or_else(|| in_turn().find(|&i| !is_avoided(i)))
            .or_else(|| in_turn().next())?;
        self.next = chosen + 1;
        Some(chosen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(base: Instant, ms: u64) -> Instant {
        base + Duration::from_millis(ms)
    }

    fn open(health: &mut Health, address: &Arc<str>, now: Instant) {
        let opened: Vec<_> = (0..FAILURES_MAX)
            .map(|_| health.on_failure(address, now))
            .collect();
        assert_eq!(opened, [false, false, false, false, true]);
    }

    #[test]
    fn takes_turns() {
        let mut turns = RoundRobin::starting_at(1);
        let picks: Vec<_> = (0..5)
            .map(|_| turns.choose(3, |_| true, |_| false).unwrap())
            .collect();
        assert_eq!(picks, [1, 2, 0, 1, 2]);
        assert_eq!(turns.choose(0, |_| true, |_| false), None);
        assert_eq!(
            RoundRobin::starting_at(usize::MAX).choose(3, |_| true, |_| false),
            Some(0)
        );
    }

    #[test]
    fn prefers_another_group_but_never_gives_up() {
        let mut turns = RoundRobin::starting_at(0);
        assert_eq!(turns.choose(2, |_| true, |i| i == 0), Some(1));
        assert_eq!(turns.choose(2, |i| i == 0, |i| i == 0), Some(0));
        assert_eq!(turns.choose(2, |_| false, |i| i == 0), Some(1));
        assert_eq!(turns.choose(1, |_| false, |_| true), Some(0));
    }

    #[test]
    fn breaker_opens_after_five_failures_in_a_row() {
        let (mut health, base) = (Health::default(), Instant::now());
        let broker: Arc<str> = "10.0.0.1:20881".into();
        assert!((0..4).all(|_| !health.on_failure(&broker, base)));
        health.on_answer(&broker);
        assert!((0..4).all(|_| !health.on_failure(&broker, base)));
        assert!(health.is_available(&broker, base));
        assert!(health.on_failure(&broker, base));
        assert!(!health.is_available(&broker, at(base, 999)));
        assert!(health.is_available(&broker, at(base, 1000)));
    }

    #[test]
    fn half_open_lets_one_probe_through_per_period() {
        let (mut health, base) = (Health::default(), Instant::now());
        let broker: Arc<str> = "10.0.0.1:20881".into();
        open(&mut health, &broker, base);
        health.on_request(&broker, at(base, 1000));
        assert!(
            !health.is_available(&broker, at(base, 1500)),
            "the probe is under way"
        );
        assert!(
            health.is_available(&broker, at(base, 2000)),
            "a lost probe is not waited for"
        );
        health.on_answer(&broker);
        assert!(health.is_available(&broker, at(base, 1501)));
    }

    #[test]
    fn failed_probes_double_the_pause() {
        let (mut health, base) = (Health::default(), Instant::now());
        let broker: Arc<str> = "10.0.0.1:20881".into();
        open(&mut health, &broker, base);
        let mut now = base;
        for pause_ms in [1000, 2000, 4000, 8000, 10_000, 10_000] {
            assert!(!health.is_available(&broker, at(now, pause_ms - 1)));
            now = at(now, pause_ms);
            assert!(health.is_available(&broker, now));
            health.on_request(&broker, now);
            assert!(health.on_failure(&broker, now));
        }
    }

    #[test]
    fn late_failures_do_not_lengthen_the_pause() {
        let (mut health, base) = (Health::default(), Instant::now());
        let broker: Arc<str> = "10.0.0.1:20881".into();
        open(&mut health, &broker, base);
        assert!(!health.on_failure(&broker, at(base, 10)));
        assert!(health.is_available(&broker, at(base, 1000)));
    }

    #[test]
    fn refused_writes_are_forgotten_after_ten_seconds() {
        let (mut health, base) = (Health::default(), Instant::now());
        let broker: Arc<str> = "10.0.0.1:20881".into();
        assert!(health.on_not_writable(&broker, base));
        assert!(!health.on_not_writable(&broker, base));
        health.on_answer(&broker);
        assert!(!health.is_available(&broker, at(base, 9_999)));
        assert!(health.is_available(&broker, at(base, 10_000)));
    }

    #[test]
    fn memory_is_bounded_by_forgetting_the_healthy() {
        let (mut health, base) = (Health::default(), Instant::now());
        for n in 0..3 * BROKERS_MAX {
            let broker: Arc<str> = format!("10.0.0.1:{n}").into();
            assert!(!health.on_failure(&broker, base));
            health.on_answer(&broker);
        }
        assert!(health.brokers.len() <= BROKERS_MAX);
    }
}
