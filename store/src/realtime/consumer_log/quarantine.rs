//! Bytes of the messagelog that were found damaged while the store is open: look-ups pass over
//! what stands there.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock};

use crate::run::Entry;

/// Most ranges that are remembered; a record that is not fails when it is read.
const RANGES_MAX: usize = 65_536;

/// Damaged ranges of the messagelog.
#[derive(Debug, Default)]
pub(crate) struct Quarantine {
    /// Spares look-ups the lock as long as nothing is damaged.
    is_used: AtomicBool,
    /// Ascending, disjoint.
    ranges: RwLock<Vec<Range<u64>>>,
}

impl Quarantine {
    /// Adds a range.
    pub(crate) fn add(&self, new: &Range<u64>) {
        let mut ranges = self.ranges.write().unwrap_or_else(PoisonError::into_inner);
        let first = ranges.partition_point(|range| range.end < new.start);
        let after = ranges.partition_point(|range| range.start <= new.end);
        let near = ranges[first..after].iter();
        let begin = near.clone().map(|range| range.start).min();
        let end = near.map(|range| range.end).max();
        if begin.is_none() && ranges.len() >= RANGES_MAX {
            return;
        }
        let begin = begin.map_or(new.start, |begin| begin.min(new.start));
        let end = end.map_or(new.end, |end| end.max(new.end));
        ranges.splice(first..after, std::iter::once(begin..end));
        self.is_used.store(true, Ordering::Release);
    }

    /// Whether the record of an entry is damaged.
    pub(crate) fn holds(&self, entry: &Entry) -> bool {
        if !self.is_used.load(Ordering::Acquire) {
            return false;
        }
        let ranges = self.ranges.read().unwrap_or_else(PoisonError::into_inner);
        let after = ranges.partition_point(|range| range.end <= entry.offset.0);
        let end = entry.offset.0 + u64::from(entry.bytes);
        ranges.get(after).is_some_and(|range| range.start < end)
    }
}

#[cfg(test)]
mod tests {
    use qmq_model::{MessageOffset, UnixMillis};

    use super::*;
    use crate::tag_mask::TagMask;

    #[test]
    fn holds_what_overlaps() {
        let quarantine = Quarantine::default();
        let holds = |offset, bytes| {
            quarantine.holds(&Entry {
                offset: MessageOffset(offset),
                time: UnixMillis(0),
                tags: TagMask(0),
                bytes,
            })
        };
        assert!(!holds(0, u32::MAX));
        for range in [100..200, 300..400, 150..310, 500..600, 600..610] {
            quarantine.add(&range);
        }
        assert_eq!(*quarantine.ranges.read().unwrap(), [100..400, 500..610]);
        assert!(!holds(50, 50) && holds(50, 51) && holds(399, 1) && !holds(400, 100));
        assert!(holds(609, 5) && !holds(610, 5));
    }
}
