//! Notices when somebody sets the clock (pure).

use std::time::Duration;

use qmq_model::UnixMillis;

/// A difference up to this between two looks is the way clocks are.
pub const STEP_MAX: Duration = Duration::from_secs(1);

/// Compares the clock that due times are read on with one that nobody sets.
#[derive(Clone, Copy, Debug)]
pub struct ClockWatch {
    wall: UnixMillis,
    moment: Duration,
}

impl ClockWatch {
    /// Both clocks as they stand now.
    #[must_use]
    pub fn new(wall: UnixMillis, moment: Duration) -> Self {
        Self { wall, moment }
    }

    /// By how many milliseconds the clock was set since the last look: forward above 0, back
    /// below. `None`: it was not, or by no more than [`STEP_MAX`].
    pub fn look(&mut self, wall: UnixMillis, moment: Duration) -> Option<i64> {
        let passed = moment.saturating_sub(self.moment).as_millis();
        let passed = i64::try_from(passed).unwrap_or(i64::MAX);
        let step = wall.0.saturating_sub(self.wall.0).saturating_sub(passed);
        *self = Self { wall, moment };
        (u128::from(step.unsigned_abs()) > STEP_MAX.as_millis()).then_some(step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_seen_once_and_drift_is_not() {
        let mut watch = ClockWatch::new(UnixMillis(1_000_000), Duration::from_secs(5));
        let looks = [
            (1_001_000, 6_000, None),
            // A machine that slept shows it on both clocks.
            (5_001_500, 4_006_000, None),
            (5_002_500, 4_006_000, None),
            (5_004_501, 4_007_000, Some(1_001)),
            (5_005_501, 4_008_000, None),
            (1_405_501, 4_009_000, Some(-3_601_000)),
            (1_406_501, 4_010_000, None),
        ];
        for (wall, moment, expected) in looks {
            let seen = watch.look(UnixMillis(wall), Duration::from_millis(moment));
            assert_eq!(seen, expected, "at {moment}");
        }
    }
}
