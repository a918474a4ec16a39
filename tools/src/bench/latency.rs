//! Latencies: recorded in nanoseconds, told in microseconds.

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::bench::timeline::{Nanos, SECOND};

/// Longest latency that is told apart from longer ones.
const LATENCY_MAX: Nanos = 3600 * SECOND;
/// Decimal digits that are kept: an error of at most 0.1 %.
const DIGITS: u8 = 3;
/// Points of the distribution in a report, in percent.
const POINTS: [f64; 17] = [
    0.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 98.0, 99.0, 99.5, 99.8, 99.9, 99.95, 99.98, 99.99,
    99.999, 100.0,
];

/// Latencies of one kind.
#[derive(Clone, Debug)]
pub(crate) struct Latency(Histogram<u64>);

impl Latency {
    pub(crate) fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1, LATENCY_MAX, DIGITS);
        Self(histogram.expect("the bounds are constant and in order"))
    }

    /// Adds one of `nanos`.
    pub(crate) fn record(&mut self, nanos: Nanos) {
        self.0.saturating_record(nanos);
    }

    /// Adds all of `other`.
    pub(crate) fn absorb(&mut self, other: &Self) {
        let added = self.0.add(&other.0);
        added.expect("all have the same bounds");
    }

    /// What a report says; `None` when nothing was recorded.
    pub(crate) fn summary(&self) -> Option<Summary> {
        if self.0.is_empty() {
            return None;
        }
        let micros = |nanos: u64| nanos as f64 / 1_000.0;
        let at = |percentile| micros(self.0.value_at_percentile(percentile));
        Some(Summary {
            count: self.0.len(),
            mean: self.0.mean() / 1_000.0,
            min: micros(self.0.min()),
            p50: at(50.0),
            p90: at(90.0),
            p99: at(99.0),
            p999: at(99.9),
            p9999: at(99.99),
            max: micros(self.0.max()),
            points: POINTS.map(|percent| (percent, at(percent))).to_vec(),
        })
    }
}

/// Latencies of one kind in a report. Unit: microseconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Summary {
    pub(crate) count: u64,
    pub(crate) mean: f64,
    pub(crate) min: f64,
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) p9999: f64,
    pub(crate) max: f64,
    /// (percent, microseconds), for pictures.
    pub(crate) points: Vec<(f64, f64)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_up_to_four_nines() {
        let mut latency = Latency::new();
        assert_eq!(latency.summary(), None);
        (1..=100_000).for_each(|micros| latency.record(micros * 1_000));
        let summary = latency.summary().unwrap();
        let is_near = |value: f64, expected: f64| (value - expected).abs() <= expected * 0.002;
        assert!(is_near(summary.p50, 50_000.0), "{summary:?}");
        assert!(is_near(summary.p99, 99_000.0), "{summary:?}");
        assert!(is_near(summary.p9999, 99_990.0), "{summary:?}");
        assert_eq!(summary.count, 100_000);
    }

    #[test]
    fn a_latency_beyond_the_bounds_is_kept_as_the_longest() {
        let mut latency = Latency::new();
        latency.record(Nanos::MAX);
        assert!(latency.summary().unwrap().max > 3_599_000_000.0);
    }
}
