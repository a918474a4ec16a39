//! Which runs to merge (pure).

use std::ops::Range;

/// Each level is this many times as large as the one below.
const FAN_IN: u64 = 4;

/// The neighbours to merge next: the lowest level first, so that many small runs never wait for
/// few large ones. `bytes` are the lengths of the runs' stretches in the order of the log; a run of
/// less than `unit` counts as one of `unit`.
///
/// What is merged is at least a level higher than its parts, so an entry is written once per
/// level. With every merge done there are at most three runs of each level between two larger
/// ones, so their number grows with the logarithm of the log.
pub(crate) fn to_merge(bytes: &[u64], unit: u64) -> Option<Range<usize>> {
    let unit = unit.max(1);
    let total: u64 = bytes.iter().map(|bytes| bytes.max(&unit)).sum();
    let mut next_level = unit * FAN_IN;
    while next_level <= total {
        if let Some(found) = first_below(bytes, unit, next_level) {
            return Some(found);
        }
        next_level = next_level.saturating_mul(FAN_IN);
    }
    None
}

/// The first neighbours that are each below `size` and together reach it.
fn first_below(bytes: &[u64], unit: u64, size: u64) -> Option<Range<usize>> {
    let (mut start, mut sum) = (0, 0);
    for (at, bytes) in bytes.iter().enumerate() {
        sum += bytes.max(&unit);
        if *bytes >= size {
            (start, sum) = (at + 1, 0);
        } else if sum >= size {
            return Some(start..at + 1);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merges_neighbours_of_a_level() {
        assert_eq!(to_merge(&[], 1), None);
        assert_eq!(to_merge(&[10, 10, 10], 10), None);
        assert_eq!(to_merge(&[10, 10, 10, 10], 10), Some(0..4));
        assert_eq!(to_merge(&[40, 40, 10, 10, 40], 10), None);
        assert_eq!(to_merge(&[160, 40, 40, 40, 40], 10), Some(1..5));
        assert_eq!(to_merge(&[1, 1, 1], 10), None);
        assert_eq!(to_merge(&[1, 1, 1, 1], 10), Some(0..4));
        assert_eq!(to_merge(&[40, 40, 40, 40, 10, 10, 10, 10], 10), Some(4..8));
    }

    #[test]
    fn the_number_of_runs_grows_with_the_logarithm() {
        let (mut runs, mut written) = (Vec::new(), 0);
        for count in 1..=5000_u64 {
            runs.push(10);
            written += 10;
            while let Some(merged) = to_merge(&runs, 10) {
                let bytes = runs[merged.clone()].iter().sum();
                written += bytes;
                runs.splice(merged, [bytes]);
            }
            assert!(runs.len() <= 3 * (1 + count.ilog(4) as usize), "{runs:?}");
            assert_eq!(runs.iter().sum::<u64>(), 10 * count);
        }
        let copies = written / 50_000;
        assert!(copies <= 7, "each entry is written {copies} times");
    }
}
