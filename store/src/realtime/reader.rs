//! Reading halves of a store: cheap clones that see visible messages only.

mod blocks;
mod payloads;

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use qmq_model::{MessageSequence, Subject, UnixMillis};

use crate::duplicates::Fingerprint;
use crate::error::ReadError;
use crate::format::LogKind;
use crate::log::segment::Segments;
use crate::realtime::consumer_log::{ConsumerLog, Limits, Located, Skipped, SubjectId};
use crate::realtime::message_log::view;
use crate::realtime::reader::blocks::Blocks;

/// What one kept batch costs beside its bytes, so that tiny batches are bounded too.
const RECENT_OVERHEAD_BYTES: usize = 128;

/// Positions for which a look-up makes room beforehand.
const LOCATED_AT_ONCE: usize = 1024;

/// Positions of one log, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Positions {
    /// Handed to the kernel.
    pub written: u64,
    /// Synced.
    pub durable: u64,
    /// What consumers may see.
    pub visible: u64,
}

#[derive(Debug, Default)]
struct SharedPositions {
    written: AtomicU64,
    durable: AtomicU64,
    visible: AtomicU64,
}

/// Batches that were appended lately, oldest first.
#[derive(Debug, Default)]
struct Recent {
    batches: VecDeque<(u64, Bytes)>,
    bytes: usize,
}

/// What the writer and all readers share.
pub(crate) struct Shared {
    segments: Arc<Segments>,
    pub(crate) index: Arc<ConsumerLog>,
    recent: RwLock<Recent>,
    recent_bytes_max: usize,
    /// Older ones, as read from the disk.
    blocks: Blocks,
    positions: [SharedPositions; 2],
    /// `None` when repeats are not looked for.
    fingerprint_seed: Option<u64>,
}

impl Shared {
    pub(crate) fn new(
        segments: Arc<Segments>,
        index: Arc<ConsumerLog>,
        recent_bytes_max: usize,
        fingerprint_seed: Option<u64>,
    ) -> Self {
        let positions = Default::default();
        let recent = RwLock::default();
        Self {
            segments,
            index,
            recent,
            recent_bytes_max,
            blocks: Blocks::default(),
            positions,
            fingerprint_seed,
        }
    }

    pub(crate) fn set_positions(&self, kind: LogKind, positions: Positions) {
        let shared = &self.positions[kind.index()];
        shared.written.store(positions.written, Ordering::Relaxed);
        shared.durable.store(positions.durable, Ordering::Relaxed);
        shared.visible.store(positions.visible, Ordering::Release);
    }

    pub(crate) fn keep_recent(&self, start: u64, batch: Bytes) {
        let mut recent = self.recent.write().unwrap_or_else(PoisonError::into_inner);
        recent.bytes += batch.len() + RECENT_OVERHEAD_BYTES;
        recent.batches.push_back((start, batch));
        while recent.bytes > self.recent_bytes_max
            && let Some((_, oldest)) = recent.batches.pop_front()
        {
            recent.bytes -= oldest.len() + RECENT_OVERHEAD_BYTES;
        }
    }
}

/// Finds and reads visible messages.
#[derive(Clone)]
pub struct StoreReader {
    shared: Arc<Shared>,
}

impl StoreReader {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// The number of a subject, if it was ever stored.
    #[must_use]
    pub fn subject(&self, name: &str) -> Option<SubjectId> {
        self.shared.index.subject(name)
    }

    /// What tells a payload apart from all others of this store. `None` when repeats are not
    /// looked for, or the payload is too short to be one. Not for retry and dead-letter subjects:
    /// two consumers may put the same message there.
    #[must_use]
    pub fn fingerprint(&self, payload: &[u8]) -> Option<Fingerprint> {
        Fingerprint::of_payload(self.shared.fingerprint_seed?, payload)
    }

    /// How many subjects were ever stored.
    #[must_use]
    pub fn subject_count(&self) -> usize {
        self.shared
            .index
            .subjects
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .count()
    }

    /// The name behind a number.
    #[must_use]
    pub fn name(&self, id: SubjectId) -> Option<Subject> {
        let subjects = self
            .shared
            .index
            .subjects
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        subjects.name(id).cloned()
    }

    /// The first sequence that is kept, and the one behind the last visible message. Sequences in
    /// between may be void. Does no IO: the first may be lower than it is, 0 after a start, until
    /// a look-up from there has found out. `0..0` for an unknown subject.
    #[must_use]
    pub fn bounds(&self, id: SubjectId) -> Range<MessageSequence> {
        let bounds = self.shared.index.bounds(id);
        MessageSequence(bounds.start)..MessageSequence(bounds.end)
    }

    /// Appends the positions of the visible messages in `range` to `out`, ascending; a range that
    /// begins below 0 begins at 0. Void and
    /// quarantined sequences are left out and counted. Stops at `count_max`, or before the records
    /// together exceed `bytes_max` bytes; one is given even if it is larger. Does no IO: stops,
    /// and says so in [`Skipped::cold`], where a block of the index is not in memory.
    pub fn locate(
        &self,
        id: SubjectId,
        range: Range<MessageSequence>,
        count_max: usize,
        bytes_max: usize,
        out: &mut Vec<Located>,
    ) -> Skipped {
        let range = range.start.0.max(0)..range.end.0;
        let possible = usize::try_from(range.end - range.start).unwrap_or(0);
        out.reserve(possible.min(count_max).min(LOCATED_AT_ONCE));
        self.shared.index.locate(
            id,
            &range,
            Limits {
                count_max,
                bytes_max,
            },
            out,
        )
    }

    /// Brings into memory what [`Self::locate`] lacks of the index to go on at `sequence`; blocks.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn load_index(&self, id: SubjectId, sequence: MessageSequence) -> Result<(), ReadError> {
        self.shared
            .index
            .load(id, sequence.0)
            .map_err(ReadError::Index)
    }

    /// [`Self::locate`] that loads what it lacks; blocks.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn locate_blocking(
        &self,
        id: SubjectId,
        range: Range<MessageSequence>,
        count_max: usize,
        bytes_max: usize,
        out: &mut Vec<Located>,
    ) -> Result<Skipped, ReadError> {
        let mut skipped = Skipped {
            next: range.start,
            ..Skipped::default()
        };
        let begin = out.len();
        loop {
            let taken = &out[begin..];
            let (count, bytes) = (taken.len(), taken.iter().map(|at| at.bytes as usize).sum());
            let (count_left, bytes_left) = (count_max - count, bytes_max.saturating_sub(bytes));
            if count > 0 && (count_left == 0 || bytes_left == 0) {
                return Ok(skipped);
            }
            let mut more = Vec::new();
            let wanted = skipped.next..range.end;
            let found = self.locate(id, wanted, count_left, bytes_left, &mut more);
            // The first one may be too large, but only where it is the first of all.
            if count > 0
                && more
                    .first()
                    .is_some_and(|at| at.bytes as usize > bytes_left)
            {
                return Ok(skipped);
            }
            out.append(&mut more);
            skipped.missing += found.missing;
            skipped.quarantined += found.quarantined;
            skipped.next = found.next;
            let Some(cold) = found.cold else {
                return Ok(skipped);
            };
            self.load_index(id, cold)?;
        }
    }

    /// The first kept message that was appended at `time` or later by the broker's clock; the end
    /// when there is none. Blocks.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn sequence_at(
        &self,
        id: SubjectId,
        time: UnixMillis,
    ) -> Result<MessageSequence, ReadError> {
        let first = self.shared.index.first_since(id, time);
        first.map(MessageSequence).map_err(ReadError::Index)
    }

    /// The payload of a message from the recent batches, without IO; `None` when it is older.
    #[must_use]
    pub fn read_recent(&self, at: &Located) -> Option<Bytes> {
        let recent = self
            .shared
            .recent
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let after = recent
            .batches
            .partition_point(|(start, _)| *start <= at.offset.0);
        let (start, batch) = recent.batches.get(after.checked_sub(1)?)?;
        let from = usize::try_from(at.offset.0 - start).ok()?;
        let end = from.checked_add(at.bytes as usize)?;
        let record = (end <= batch.len()).then(|| batch.slice(from..end))?;
        let payload = view(&record)?.payload;
        Some(record.slice_ref(payload))
    }

    /// Lets look-ups pass over what stands in these bytes of the messagelog.
    pub(crate) fn quarantine_bytes(&self, range: &Range<u64>) {
        self.shared.index.quarantine.add(range);
    }

    /// Lets look-ups pass over a record that turned out to be damaged.
    fn quarantine(&self, at: &Located, what: &'static str) -> ReadError {
        let offset = at.offset.0;
        let record = offset..offset + u64::from(at.bytes);
        self.shared.index.quarantine.add(&record);
        ReadError::Corrupt { offset, what }
    }

    /// Positions of a log.
    #[must_use]
    pub fn positions(&self, kind: LogKind) -> Positions {
        let shared = &self.shared.positions[kind.index()];
        let visible = shared.visible.load(Ordering::Acquire);
        let durable = shared.durable.load(Ordering::Relaxed);
        Positions {
            written: shared.written.load(Ordering::Relaxed),
            durable,
            visible,
        }
    }
}
