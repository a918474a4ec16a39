//! A log: segments in order, appended to by one owner, with its written, committed and durable
//! positions.

pub(crate) mod commit;
pub(crate) mod epochs;
pub(crate) mod history;
pub(crate) mod pair;
pub(crate) mod recovery;
pub(crate) mod scan;
pub(crate) mod segment;
pub(crate) mod side;
pub(crate) mod sums;
pub(crate) mod sync;
pub(crate) mod verify;
pub(crate) mod zero_ahead;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use crate::config::Sabotage;
use crate::error::Error;
use crate::format::LogKind;
use crate::fs::File;
use crate::log::segment::Segments;
use crate::log::sums::{SumFiles, Sums};
use crate::log::zero_ahead::ZeroAhead;

/// Where a record goes that is `record` bytes long, when the log ends at `position`: how many
/// bytes of filler come first (0: none). `None`: no segment has room for it.
pub(crate) fn filler_before(
    kind: LogKind,
    segment_bytes: u64,
    position: u64,
    record: u64,
) -> Option<u64> {
    let fits = |free: u64| record == free || record + kind.filler_bytes() <= free;
    let free = segment_bytes - position % segment_bytes;
    if fits(free) {
        Some(0)
    } else if fits(segment_bytes) {
        Some(free)
    } else {
        None
    }
}

/// Bytes that were appended to one log between two commits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Batch {
    pub(crate) range: Range<u64>,
    /// CRC-32C of the bytes.
    pub(crate) crc: u32,
}

/// One log, opened and recovered.
pub(crate) struct Log {
    segments: Arc<Segments>,
    zeros: ZeroAhead,
    sums: Sums,
    /// Where a checksum ends, at or before the written position.
    summed: u64,
    written: u64,
    /// End of the last batch; a commit record says so.
    committed: u64,
    durable: u64,
    batch_crc: u32,
    /// Files with bytes that were not synced.
    dirty: BTreeMap<u64, Arc<dyn File>>,
    /// Up to where the sync reaches that is under way.
    syncing: Option<u64>,
    /// A batch that was rolled back may have left bytes between the written position and here.
    soiled: u64,
    sabotage: Sabotage,
    held_back: Option<(u64, Vec<u8>)>,
}

impl Log {
    /// A recovered log: everything up to `end` is durable, and `sums` cover it.
    pub(crate) fn new(
        segments: Arc<Segments>,
        mut zeros: ZeroAhead,
        mut sums: Sums,
        end: u64,
        sabotage: Sabotage,
    ) -> Result<Self, Error> {
        sums.restart(end);
        zeros.reserve(end)?;
        Ok(Self {
            segments,
            zeros,
            sums,
            summed: end,
            written: end,
            committed: end,
            durable: end,
            batch_crc: 0,
            dirty: BTreeMap::new(),
            syncing: None,
            soiled: 0,
            sabotage,
            held_back: None,
        })
    }

    pub(crate) fn kind(&self) -> LogKind {
        self.segments.kind()
    }

    pub(crate) fn segments(&self) -> &Arc<Segments> {
        &self.segments
    }

    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    pub(crate) fn durable(&self) -> u64 {
        self.durable
    }

    pub(crate) fn segment_bytes(&self) -> u64 {
        self.segments.segment_bytes()
    }

    /// Whether there are bytes that no sync has covered.
    pub(crate) fn is_dirty(&self) -> bool {
        self.durable < self.written
    }

    /// Whether there are bytes that no commit record covers.
    pub(crate) fn has_batch(&self) -> bool {
        self.committed < self.written
    }

    /// Writes `bytes` at the end, all or nothing. After an [`Error::NoSpace`] it may be tried
    /// again; any other error ends the use of this log.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let end = self.written + bytes.len() as u64;
        self.clean()?;
        self.zeros.reserve(end)?;
        if let Err(error) = self.write(bytes) {
            self.soiled = end;
            // When even this fails it is tried again before the next append.
            if matches!(error, Error::NoSpace { .. }) && self.clean().is_err() {
                tracing::warn!(log = %self.kind(), "bytes of a refused batch are not zeroed yet");
            }
            return Err(error);
        }
        self.batch_crc = crc32c::crc32c_append(self.batch_crc, bytes);
        self.sums.add(bytes);
        self.written = end;
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let mut at = self.written;
        let mut bytes = bytes;
        let held_back;
        if self.sabotage == Sabotage::AnswerBeforeWrite {
            let Some(earlier) = self.held_back.replace((at, bytes.to_vec())) else {
                return Ok(());
            };
            held_back = earlier;
            (at, bytes) = (held_back.0, &held_back.1);
        }
        let dirty = &mut self.dirty;
        self.segments.write(bytes, at, |base, file| {
            dirty.entry(base).or_insert_with(|| file.clone());
        })
    }

    /// Zeroes what a batch that was rolled back has left.
    fn clean(&mut self) -> Result<(), Error> {
        if self.soiled > self.written {
            let dirty = &mut self.dirty;
            // Only what is there is overwritten, so this needs no room of its own.
            let end = self.soiled.min(self.segments.end_on_disk()?);
            self.segments
                .write_zeros(self.written..end.max(self.written), |base, file| {
                    dirty.entry(base).or_insert_with(|| file.clone());
                })?;
        }
        self.soiled = 0;
        Ok(())
    }

    /// What was appended since the last call; the caller writes its commit record.
    pub(crate) fn take_batch(&mut self) -> Option<Batch> {
        if !self.has_batch() {
            return None;
        }
        let batch = Batch {
            range: self.committed..self.written,
            crc: self.batch_crc,
        };
        self.committed = self.written;
        self.batch_crc = 0;
        Some(batch)
    }

    /// Whether there are bytes that no sync has covered, nor the one under way does.
    pub(crate) fn wants_sync(&self) -> bool {
        self.syncing.unwrap_or(self.durable) < self.written
    }

    /// Begins a sync of all that is committed: the files that it must cover.
    pub(crate) fn begin_sync(&mut self) -> impl Iterator<Item = Arc<dyn File>> {
        debug_assert_eq!(self.syncing, None, "one sync at a time");
        self.syncing = Some(self.committed);
        std::mem::take(&mut self.dirty).into_values()
    }

    /// The sync that was begun, if one was, is done, and so is that of the commit record.
    pub(crate) fn end_sync(&mut self) {
        if let Some(end) = self.syncing.take() {
            self.durable = match self.sabotage {
                Sabotage::ClaimUnsynced => self.written,
                _ => end,
            };
        }
    }

    /// Writes the checksums of everything appended; all of it must be durable.
    pub(crate) fn write_sums(&mut self) -> Result<(), Error> {
        assert!(!self.is_dirty(), "checksums are for durable bytes");
        self.sums.write()
    }

    /// Lets a checksum end where the log ends now.
    pub(crate) fn close_sums(&mut self) {
        self.sums.close();
        self.summed = self.written;
    }

    /// Hands over the checksums of what is durable, for another thread to write. Says up to where
    /// there are some.
    pub(crate) fn hand_over_sums(&mut self) -> (u64, Arc<SumFiles>) {
        if !self.is_dirty() {
            self.close_sums();
        }
        self.sums.hand_over(self.durable);
        (self.summed.min(self.durable), self.sums.files().clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fits_as_the_java_broker_does() {
        let segment = 1000;
        let at_140_free = |record| filler_before(LogKind::Message, segment, 860, record);
        assert_eq!(at_140_free(127), Some(0));
        assert_eq!(at_140_free(140), Some(0));
        for record in 128..140 {
            assert_eq!(at_140_free(record), Some(140), "{record}");
        }
        assert_eq!(at_140_free(141), Some(140));
        assert_eq!(filler_before(LogKind::Action, segment, 860, 135), Some(0));
        assert_eq!(filler_before(LogKind::Action, segment, 860, 136), Some(140));
    }

    #[test]
    fn a_record_that_no_segment_holds_is_refused() {
        let place = |record| filler_before(LogKind::Message, 1000, 2000, record);
        assert_eq!(place(1000), Some(0));
        assert_eq!(place(987), Some(0));
        for record in [988, 999, 1001] {
            assert_eq!(place(record), None, "{record}");
        }
    }
}
