//! The part of the index that is in memory: entries of the messagelog's end, and what is kept of
//! each subject.

use std::ops::Range;
use std::sync::{PoisonError, RwLock};

use qmq_model::{MessageOffset, UnixMillis};

use crate::error::Error;
use crate::realtime::consumer_log::lookup::Visit;
use crate::realtime::consumer_log::{Located, SubjectId};
use crate::run::Entry;
use crate::tag_mask::TagMask;

/// Subjects are spread over this many locks.
const SHARDS: usize = 64;
/// Entries are kept in pieces of this many, so that growth never copies a long subject.
const CHUNK_ENTRIES: usize = 1024;
/// First kept sequence of a subject of which nothing is kept.
const NOTHING: i64 = i64::MAX;

#[derive(Debug)]
struct Chunk {
    first: i64,
    entries: Vec<Entry>,
}

impl Chunk {
    fn end(&self) -> i64 {
        self.first + i64::try_from(self.entries.len()).expect("at most CHUNK_ENTRIES")
    }

    /// How many of its entries stand in front of `offset` in the log.
    fn before(&self, offset: u64) -> usize {
        self.entries
            .partition_point(|entry| entry.offset.0 < offset)
    }
}

/// One subject: visible messages only.
#[derive(Debug)]
struct SubjectTail {
    /// Ascending; gaps between them are void sequences, or in runs.
    chunks: Vec<Chunk>,
    /// First kept sequence, or lower: raised when a look-up finds out.
    first: i64,
    /// Behind the last message, or higher when sequences before it are void.
    end: i64,
}

impl Default for SubjectTail {
    fn default() -> Self {
        Self {
            chunks: Vec::new(),
            first: NOTHING,
            end: 0,
        }
    }
}

impl SubjectTail {
    fn push(&mut self, sequence: i64, entry: Entry) {
        debug_assert!(sequence >= self.end, "sequences only rise");
        self.end = sequence + 1;
        self.first = self.first.min(sequence);
        if let Some(last) = self.chunks.last_mut()
            && last.end() == sequence
            && last.entries.len() < CHUNK_ENTRIES
        {
            last.entries.push(entry);
            return;
        }
        self.chunks.push(Chunk {
            first: sequence,
            entries: vec![entry],
        });
    }

    fn forget_before(&mut self, offset: u64) {
        let whole = self
            .chunks
            .partition_point(|chunk| chunk.before(offset) == chunk.entries.len());
        self.chunks.drain(..whole);
        if let Some(chunk) = self.chunks.first_mut() {
            let gone = chunk.before(offset);
            chunk.entries.drain(..gone);
            chunk.first += i64::try_from(gone).expect("at most CHUNK_ENTRIES");
        } else {
            self.chunks = Vec::new();
        }
    }
}

/// What a look-up in the tail comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Everything was looked at, or a limit was reached.
    Done,
    /// Runs come first, up to this sequence.
    Older(i64),
}

/// The tail of all subjects.
#[derive(Debug)]
pub(crate) struct Tail {
    shards: Vec<RwLock<Vec<SubjectTail>>>,
}

impl Default for Tail {
    fn default() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
        }
    }
}

impl Tail {
    fn place(id: SubjectId) -> (usize, usize) {
        let number = id.0 as usize;
        (number % SHARDS, number / SHARDS)
    }

    fn read<T>(&self, id: SubjectId, read: impl FnOnce(&SubjectTail) -> T) -> Option<T> {
        let (shard, slot) = Self::place(id);
        let shard = self.shards[shard]
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        shard.get(slot).map(read)
    }

    fn write(&self, id: SubjectId, write: impl FnOnce(&mut SubjectTail)) {
        let (shard, slot) = Self::place(id);
        let mut shard = self.shards[shard]
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if shard.len() <= slot {
            shard.resize_with(slot + 1, SubjectTail::default);
        }
        write(&mut shard[slot]);
    }

    /// Makes a message visible; sequences of a subject rise.
    pub(crate) fn push(&self, at: &Located) {
        let entry = Entry {
            offset: at.offset,
            time: at.time,
            tags: at.tags,
            bytes: at.bytes,
        };
        self.write(at.subject, |index| index.push(at.sequence.0, entry));
    }

    /// Notes that a message is there but damaged.
    pub(crate) fn push_quarantined(&self, id: SubjectId, sequence: i64, offset: MessageOffset) {
        let entry = Entry {
            offset,
            time: UnixMillis(0),
            tags: TagMask::ANY,
            bytes: 0,
        };
        self.write(id, |index| index.push(sequence, entry));
    }

    /// Lets the subject end at `end` at least: the sequences before it are void, or in runs.
    pub(crate) fn raise_end(&self, id: SubjectId, end: i64) {
        self.write(id, |index| index.end = index.end.max(end));
    }

    /// Something of the subject is kept from `first` on, in runs.
    pub(crate) fn restore_first(&self, id: SubjectId, first: i64) {
        self.write(id, |index| index.first = index.first.min(first));
    }

    /// Nothing is kept below `first`.
    pub(crate) fn raise_first(&self, id: SubjectId, first: i64) {
        // Mostly it is known already, and a look-up keeps nobody from writing.
        if self.read(id, |index| index.first >= first).unwrap_or(true) {
            return;
        }
        self.write(id, |index| {
            if index.first < first {
                index.first = if first >= index.end { NOTHING } else { first };
            }
        });
    }

    /// First kept sequence and end; 0..0 for an unknown subject.
    pub(crate) fn bounds(&self, id: SubjectId) -> Range<i64> {
        let bounds = self.read(id, |index| index.first.min(index.end)..index.end);
        bounds.unwrap_or(0..0)
    }

    /// The first message here that was appended at `time` or later; the end when there is none.
    pub(super) fn first_since(&self, id: SubjectId, time: UnixMillis) -> i64 {
        let first = self.read(id, |index| {
            let mut chunks = index.chunks.iter();
            // The clock may have been set back, so times need not rise.
            chunks
                .find_map(|chunk| {
                    let at = chunk.entries.iter().position(|entry| entry.time >= time)?;
                    Some(chunk.first + i64::try_from(at).expect("within the chunk"))
                })
                .unwrap_or(index.end)
        });
        first.unwrap_or(0)
    }

    /// Goes on with `visit` up to `end`, unless something older comes first.
    pub(super) fn visit(&self, end: i64, visit: &mut Visit<'_>) -> Part {
        let part = self.read(visit.id, |index| {
            let end = end.min(index.end);
            if visit.skipped.next.0 <= index.first && visit.skipped.next.0 < end {
                visit.is_from_start = true;
                visit.pass_missing(index.first.min(end));
            }
            let here = index.chunks.first().map_or(index.end, |chunk| chunk.first);
            if visit.skipped.next.0 < here.min(end) {
                return Part::Older(here.min(end));
            }
            let next = visit.skipped.next.0;
            let first = index.chunks.partition_point(|chunk| chunk.end() <= next);
            for chunk in index.chunks[first..]
                .iter()
                .take_while(|chunk| chunk.first < end)
            {
                let begin = chunk.first.max(visit.skipped.next.0);
                visit.pass_missing(begin);
                let from = usize::try_from(begin - chunk.first).expect("within the chunk");
                for (entry, sequence) in chunk.entries[from..].iter().zip(begin..end) {
                    if !visit.take(sequence, entry) {
                        return Part::Done;
                    }
                }
            }
            visit.pass_missing(end);
            Part::Done
        });
        part.unwrap_or(Part::Done)
    }

    /// How many entries stand in front of `offset` in the log.
    pub(super) fn count_before(&self, offset: u64) -> u64 {
        let mut count = 0;
        for shard in &self.shards {
            let shard = shard.read().unwrap_or_else(PoisonError::into_inner);
            let chunks = shard.iter().flat_map(|index| &index.chunks);
            count += chunks.map(|chunk| chunk.before(offset) as u64).sum::<u64>();
        }
        count
    }

    /// Visits all entries in front of `offset`, by subject and sequence. No lock is held meanwhile.
    pub(super) fn each_before(
        &self,
        offset: u64,
        mut visit: impl FnMut(u32, i64, &Entry) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let slots = self
            .shards
            .iter()
            .map(|shard| shard.read().unwrap_or_else(PoisonError::into_inner).len());
        let ids = slots.max().unwrap_or(0) * SHARDS;
        let mut entries = Vec::new();
        for id in (0..).map(SubjectId).take(ids) {
            entries.clear();
            self.read(id, |index| {
                for chunk in &index.chunks {
                    let before = &chunk.entries[..chunk.before(offset)];
                    entries.extend((chunk.first..).zip(before.iter().copied()));
                    if before.len() < chunk.entries.len() {
                        break;
                    }
                }
            });
            for (sequence, entry) in &entries {
                visit(id.0, *sequence, entry)?;
            }
        }
        Ok(())
    }

    /// Forgets the entries in front of `offset`: a run has them.
    pub(super) fn forget_before(&self, offset: u64) {
        for (shard, number) in self.shards.iter().zip(0..) {
            let slots = shard.read().unwrap_or_else(PoisonError::into_inner).len();
            // One subject at a time: who publishes never waits for a whole shard.
            for slot in 0..slots {
                let id = u32::try_from(slot * SHARDS + number).expect("fewer than 2^32 subjects");
                let concerns = |index: &SubjectTail| {
                    let first = index.chunks.first().and_then(|chunk| chunk.entries.first());
                    first.is_some_and(|entry| entry.offset.0 < offset)
                };
                if self.read(SubjectId(id), concerns).unwrap_or(false) {
                    self.write(SubjectId(id), |index| index.forget_before(offset));
                }
            }
        }
    }
}
