//! When the parts of a run begin and end, and when each request is due.

use std::time::{Duration, Instant};

use qmq_model::{Clock, SystemClock};

/// Nanoseconds since the base of a [`Timeline`].
pub(crate) type Nanos = u64;

/// Nanoseconds of a second.
pub(crate) const SECOND: Nanos = 1_000_000_000;

/// How exactly the turn of a millisecond is seen.
const TICK_ERROR_MAX: Duration = Duration::from_micros(20);

/// One clock for all threads of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeline {
    base: Instant,
    base_ms: i64,
}

impl Timeline {
    /// Begins now.
    pub(crate) fn start() -> Self {
        Self {
            base: Instant::now(),
            base_ms: SystemClock.now().0,
        }
    }

    /// Begins when the wall clock turns to its next millisecond, so that whole milliseconds of the
    /// one are whole milliseconds of the other. Takes about one.
    pub(crate) fn start_at_a_tick() -> Self {
        let mut before = SystemClock.now();
        loop {
            let (base, now) = (Instant::now(), SystemClock.now());
            // Unless this thread was put aside between the two looks.
            if now != before && base.elapsed() < TICK_ERROR_MAX {
                let base_ms = now.0;
                return Self { base, base_ms };
            }
            before = now;
            std::hint::spin_loop();
        }
    }

    /// The time now.
    pub(crate) fn now(&self) -> Nanos {
        nanos(self.base.elapsed())
    }

    /// The wall-clock time at `at`, ms.
    pub(crate) fn unix_ms(&self, at: Nanos) -> i64 {
        self.base_ms
            .saturating_add(i64::try_from(at / 1_000_000).unwrap_or(i64::MAX))
    }
}

/// The whole nanoseconds of a duration; 584 years at most.
pub(crate) fn nanos(duration: Duration) -> Nanos {
    Nanos::try_from(duration.as_nanos()).unwrap_or(Nanos::MAX)
}

/// What is measured of a run: after the warm-up, before the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    /// First nanosecond that counts.
    pub(crate) begin: Nanos,
    /// First that does not count any more; nothing is sent from here on.
    pub(crate) end: Nanos,
}

impl Window {
    /// From now on: a warm-up, then `measured`.
    pub(crate) fn after(now: Nanos, warm_up: Duration, measured: Duration) -> Self {
        let begin = now + nanos(warm_up);
        let end = begin + nanos(measured);
        Self { begin, end }
    }

    /// Whether `at` is measured.
    pub(crate) const fn contains(&self, at: Nanos) -> bool {
        self.begin <= at && at < self.end
    }

    /// Its length in seconds.
    pub(crate) fn seconds(&self) -> f64 {
        (self.end - self.begin) as f64 / SECOND as f64
    }
}

/// When the requests of one lane are due. With a rate they are due at fixed times whatever became
/// of the ones before: a server that stalls is charged for every request that had to wait.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Pace {
    /// As soon as there is room.
    Free,
    /// One every `period`, the first at `first`.
    Every {
        /// Due time of request 0.
        first: Nanos,
        /// Nanoseconds between two requests.
        period: f64,
    },
}

impl Pace {
    /// The share of lane number `lane` of `lanes`, which together send `rate` messages per second
    /// in requests of `batch`. The lanes take turns.
    pub(crate) fn of_lane(
        rate: Option<f64>,
        batch: usize,
        lane: usize,
        lanes: usize,
        start: Nanos,
    ) -> Self {
        let Some(rate) = rate else {
            return Self::Free;
        };
        let between = SECOND as f64 * batch as f64 / rate;
        Self::Every {
            first: start + rounded(between * lane as f64),
            period: between * lanes as f64,
        }
    }

    /// When request number `request` is due, if not at once.
    pub(crate) fn due(&self, request: u64) -> Option<Nanos> {
        match *self {
            Self::Free => None,
            Self::Every { first, period } => Some(first + rounded(period * request as f64)),
        }
    }
}

/// Whole nanoseconds.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a cast of a float saturates, and times are neither negative nor centuries away"
)]
pub(crate) fn rounded(nanos: f64) -> Nanos {
    nanos.round() as Nanos
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_take_turns_and_keep_the_rate() {
        // 1000 messages per second in requests of 10 by 4 lanes: one request every 10 ms.
        let mut due: Vec<_> = (0..4)
            .flat_map(|lane| {
                let pace = Pace::of_lane(Some(1000.0), 10, lane, 4, 7);
                (0..25).map(move |request| pace.due(request).unwrap())
            })
            .collect();
        due.sort_unstable();
        let expected: Vec<_> = (0..100).map(|request| 7 + request * 10_000_000).collect();
        assert_eq!(due, expected);
    }

    #[test]
    fn a_fraction_of_a_nanosecond_does_not_add_up() {
        let pace = Pace::of_lane(Some(3.0), 1, 0, 1, 0);
        assert_eq!(pace.due(3_000_000), Some(1_000_000 * SECOND));
        assert_eq!(Pace::of_lane(None, 1, 0, 1, 0).due(5), None);
    }

    #[test]
    fn milliseconds_are_those_of_the_wall_clock() {
        let timeline = Timeline::start_at_a_tick();
        let before = SystemClock.now().0;
        let now = timeline.unix_ms(timeline.now());
        let after = SystemClock.now().0;
        // The base was read just before the tick was seen.
        assert!(
            (before..=after + 1).contains(&now),
            "{before} {now} {after}"
        );
    }

    #[test]
    fn a_window_is_half_open() {
        let window = Window::after(5, Duration::from_nanos(5), Duration::from_nanos(10));
        let inside: Vec<_> = (0..30).filter(|at| window.contains(*at)).collect();
        assert_eq!(inside, (10..20).collect::<Vec<_>>());
    }
}
