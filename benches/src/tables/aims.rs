//! What was aimed at, and whether it is met.

use crate::results::Results;

use super::{CEILING, ORIGINAL, OURS, met};

pub(super) const RATE: &str = "/messages_per_second";

/// A case whose result is a rate.
pub(super) struct RateCase {
    pub(super) name: &'static str,
    /// What it is.
    pub(super) text: &'static str,
    /// The least share of the ceiling.
    share_min: Option<f64>,
    /// The least times the rate of the Java broker, which never waits for the disk.
    times_min: Option<f64>,
}

const fn case(name: &'static str, text: &'static str) -> RateCase {
    RateCase {
        name,
        text,
        share_min: None,
        times_min: None,
    }
}

pub(super) const RATE_CASES: [RateCase; 8] = [
    RateCase {
        share_min: Some(0.25),
        times_min: Some(2.0),
        ..case("sync-4x512", "`sync`, 4 connections with 512 in flight")
    },
    RateCase {
        share_min: Some(0.5),
        ..case("sync-batch100", "`sync`, requests of 100 messages")
    },
    RateCase {
        times_min: Some(3.0),
        ..case("async-4x512", "`async`, 4 connections with 512 in flight")
    },
    RateCase {
        times_min: Some(3.0),
        ..case("async-batch30", "`async`, requests of 30 messages")
    },
    RateCase {
        times_min: Some(1.3),
        ..case("async-64x1", "`async`, 64 connections with one in flight")
    },
    RateCase {
        times_min: Some(1.0),
        ..case("async-1x1", "`async`, one connection with one in flight")
    },
    RateCase {
        times_min: Some(1.0),
        ..case("drain-1", "drain of a backlog, one consumer, one subject")
    },
    RateCase {
        times_min: Some(1.5),
        ..case("drain-10", "drain of a backlog, one consumer, 10 subjects")
    },
];

impl RateCase {
    /// Our rate beside what was aimed at, as far as both were measured.
    pub(super) fn judge(&self, results: &Results) -> Vec<String> {
        let rate = |contender| Some(results.spread(self.name, contender, RATE)?.median);
        let times = |other| Some(rate(OURS)? / rate(other)?);
        let share = self
            .share_min
            .zip(times(CEILING))
            .map(|(aim, share)| format!("at least {aim} of the ceiling: {}", met(share >= aim)));
        let top = rate(CEILING).zip(rate(ORIGINAL)).map(|(top, original)| {
            let times = top / original;
            format!(" (the ceiling: {times:.2} times)")
        });
        let times = self.times_min.zip(times(ORIGINAL)).map(|(aim, times)| {
            let (is_met, top) = (met(times >= aim), top.unwrap_or_default());
            format!("{times:.2} times {ORIGINAL}{top}, at least {aim}: {is_met}")
        });
        share.into_iter().chain(times).collect()
    }
}

/// Cases end to end: most of a median of the Java broker, most of its p99.9.
const DELIVERY_MAX: [f64; 2] = [1.0 / 15.0, 1.0 / 5.0];
/// Most times the bare disk that a delivery after a sync may take: median, p99.
const SYNC_TIMES_MAX: [f64; 2] = [3.0, 6.0];
/// Most p99.9 of an answer at half the largest rate, microseconds.
const HALF_P999_MAX: f64 = 10_000.0;

/// Requests in flight of the saturated cases.
pub(super) const SATURATED: [(&str, f64); 2] = [("sync-4x512", 2048.0), ("async-4x512", 2048.0)];
/// Most times `in flight / throughput` that a saturated ack p99 may be.
const SATURATED_P99_MAX: f64 = 2.5;

/// Sentences on what was aimed at for latencies, as far as it was measured.
pub(super) fn judge_latencies(results: &Results) -> Vec<String> {
    let delivery = |case: &str, contender: &str, name: &str| {
        let pointer = format!("/latency_us/delivery/{name}");
        Some(results.spread(case, contender, &pointer)?.median)
    };
    let mut aims = Vec::new();
    for case in ["e2e-async-1k", "e2e-async-10k"] {
        for (name, most) in ["p50", "p999"].into_iter().zip(DELIVERY_MAX) {
            let both = delivery(case, OURS, name).zip(delivery(case, ORIGINAL, name));
            aims.extend(both.map(|(ours, theirs)| {
                let (part, aim) = (theirs / ours, 1.0 / most);
                let is_met = met(ours <= theirs * most);
                format!(
                    "`{case}`: {name} is 1/{part:.1} of {ORIGINAL}'s (aim: 1/{aim:.0}: {is_met})"
                )
            }));
        }
    }
    for (name, most) in ["p50", "p99"].into_iter().zip(SYNC_TIMES_MAX) {
        let disk = results.spread("fsync", "disk", &format!("/{name}"));
        let both = delivery("e2e-sync-1k", OURS, name).zip(disk);
        aims.extend(both.map(|(ours, disk)| {
            let times = ours / disk.median;
            let is_met = met(times <= most);
            format!(
                "`e2e-sync-1k`: {name} is {times:.1} times the bare disk's (aim: {most}: {is_met})"
            )
        }));
    }
    let half = |contender| results.spread("sync-half", contender, "/latency_us/send/p999");
    aims.extend(half(OURS).map(|ours| {
        let (ms, aim) = (ours.median / 1000.0, HALF_P999_MAX / 1000.0);
        let is_met = met(ours.median <= HALF_P999_MAX);
        let top = half(CEILING).map(|top| format!("; the ceiling's {:.1} ms", top.median / 1000.0));
        let top = top.unwrap_or_default();
        format!("`sync-half`: p99.9 is {ms:.1} ms (aim: {aim}: {is_met}{top})")
    }));
    aims.extend(SATURATED.iter().filter_map(|(case, in_flight)| {
        // How many times longer the slowest of a hundred wait than all would if all waited alike.
        let factor = |contender| {
            let p99 = results.spread(case, contender, "/latency_us/send/p99")?;
            let rate = results.spread(case, contender, RATE)?;
            Some(p99.median / (in_flight / rate.median * 1e6))
        };
        let ours = factor(OURS)?;
        let is_met = met(ours <= SATURATED_P99_MAX);
        let top = factor(CEILING).map(|top| format!("; the ceiling's {top:.2} times"));
        let top = top.unwrap_or_default();
        Some(format!(
            "`{case}`: the p99 of an answer is {ours:.2} times in flight / throughput (aim: at \
             most {SATURATED_P99_MAX}: {is_met}{top})"
        ))
    }));
    aims
}
