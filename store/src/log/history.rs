//! What the commit records found at start say about one log.

use crate::format::LogKind;
use crate::log::commit::{CommitRecord, Kind};

/// What the commit records found at start say about one log.
pub(crate) struct History<'a> {
    kind: LogKind,
    records: &'a [CommitRecord],
    /// Batches that no later cut took back, by start and serial.
    batches: Vec<&'a CommitRecord>,
}

impl<'a> History<'a> {
    /// `records` are sorted by serial.
    pub(crate) fn new(kind: LogKind, records: &'a [CommitRecord]) -> Self {
        let mut batches = Vec::new();
        // From the newest to the oldest, the lowest cut so far voids what reaches behind it.
        let mut cut_from = u64::MAX;
        for record in records.iter().rev() {
            if record.kind == Kind::Cut(kind) {
                cut_from = cut_from.min(record.start);
            } else if record.kind == Kind::Batch(kind) && record.end() <= cut_from {
                batches.push(record);
            }
        }
        batches.sort_by_key(|batch| (batch.start, batch.serial));
        Self {
            kind,
            records,
            batches,
        }
    }

    /// The highest position stated to be durable.
    pub(crate) fn durable(&self) -> u64 {
        let index = self.kind.index();
        self.records
            .iter()
            .map(|record| record.durable[index])
            .max()
            .unwrap_or(0)
    }

    /// Batches that no later cut took back, in the order of the log.
    pub(crate) fn batches(&self) -> &[&'a CommitRecord] {
        &self.batches
    }

    /// The batch that continues the log at `kept`: it begins at or before it and ends behind it.
    pub(crate) fn continuation(&self, kept: u64) -> Option<&'a CommitRecord> {
        let after = self.batches.partition_point(|batch| batch.start <= kept);
        let newest = self.batches[..after].last()?;
        (kept < newest.end()).then_some(newest)
    }

    /// Whether a batch was recorded that ends behind `kept`.
    pub(crate) fn reaches_beyond(&self, kept: u64) -> bool {
        self.batches.iter().any(|batch| batch.end() > kept)
    }

    /// The cut of this log that a crash interrupted, if its record is among the newest.
    pub(crate) fn open_cut(&self) -> Option<&'a CommitRecord> {
        let newest = self.records.iter().rev();
        let mut cuts = newest.take_while(|record| matches!(record.kind, Kind::Cut(_)));
        cuts.find(|record| record.kind == Kind::Cut(self.kind))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(serial: u64, start: u64, length: u64) -> CommitRecord {
        let kind = Kind::Batch(LogKind::Message);
        let record = CommitRecord::of(kind, 1, &(start..start + length), 9, [start, 5]);
        CommitRecord { serial, ..record }
    }

    fn cut(serial: u64, start: u64, length: u64) -> CommitRecord {
        CommitRecord {
            kind: Kind::Cut(LogKind::Message),
            ..batch(serial, start, length)
        }
    }

    fn idle(serial: u64) -> CommitRecord {
        CommitRecord {
            serial,
            ..CommitRecord::idle(1, [0; 2])
        }
    }

    #[test]
    fn a_cut_voids_older_batches_behind_it() {
        let records = [
            batch(1, 0, 10),
            batch(2, 10, 10),
            cut(3, 10, 90),
            batch(4, 10, 5),
        ];
        let history = History::new(LogKind::Message, &records);
        assert_eq!(history.continuation(0).map(|batch| batch.serial), Some(1));
        assert_eq!(history.continuation(10).map(|batch| batch.serial), Some(4));
        assert!(history.reaches_beyond(14));
        assert!(!history.reaches_beyond(15));
        assert_eq!(history.durable(), 10);
    }

    #[test]
    fn only_the_newest_cuts_are_open() {
        let open = [batch(1, 0, 10), cut(2, 10, 90)];
        assert!(History::new(LogKind::Message, &open).open_cut().is_some());
        assert!(History::new(LogKind::Action, &open).open_cut().is_none());
        let closed = [cut(2, 10, 90), idle(3)];
        assert!(History::new(LogKind::Message, &closed).open_cut().is_none());
    }
}
