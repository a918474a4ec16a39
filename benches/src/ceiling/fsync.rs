//! The bare disk: how long a write and its fdatasync take.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::ceiling::log::Log;

/// Longest time that is told apart from longer ones: a minute, in nanoseconds.
const NANOS_MAX: u64 = 60_000_000_000;

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub struct FsyncPlan {
    /// Bytes of one write.
    pub bytes: usize,
    /// Writes per second, at fixed times.
    pub rate: f64,
    /// How long.
    pub duration: Duration,
    /// Size of the file.
    pub file_bytes: u64,
}

/// Writes and syncs at a rate; returns percentiles in microseconds, from the write on.
///
/// # Errors
/// When the disk fails.
pub fn measure_fsync(path: &Path, plan: FsyncPlan) -> Result<Value> {
    let mut log = Log::create(path, plan.file_bytes)
        .with_context(|| format!("cannot create {}", path.display()))?;
    let mut times = Histogram::<u64>::new_with_bounds(1, NANOS_MAX, 3)?;
    let record = vec![b'x'; plan.bytes];
    let begin = Instant::now();
    let mut due = Duration::ZERO;
    while due < plan.duration {
        std::thread::sleep(due.saturating_sub(begin.elapsed()));
        let written = Instant::now();
        log.append(&record)?;
        log.sync()?;
        let nanos = u64::try_from(written.elapsed().as_nanos()).unwrap_or(NANOS_MAX);
        times.saturating_record(nanos);
        due += Duration::from_secs_f64(1.0 / plan.rate);
    }
    let at = |percent: f64| times.value_at_percentile(percent) as f64 / 1_000.0;
    Ok(json!({
        "count": times.len(),
        "bytes": plan.bytes,
        "mean": times.mean() / 1_000.0,
        "p50": at(50.0),
        "p90": at(90.0),
        "p99": at(99.0),
        "p999": at(99.9),
        "p9999": at(99.99),
        "max": times.max() as f64 / 1_000.0,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_the_writes_of_its_time() {
        let folder = tempfile::tempdir().unwrap();
        let plan = FsyncPlan {
            bytes: 100,
            rate: 1_000.0,
            duration: Duration::from_millis(20),
            file_bytes: 10_000,
        };
        let times = measure_fsync(&folder.path().join("log"), plan).unwrap();
        assert_eq!(times["count"], 20);
        assert!(times["p50"].as_f64() <= times["p99"].as_f64());
        assert!(times["p50"].as_f64() > Some(0.0));
    }
}
