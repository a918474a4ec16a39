//! (subject, sequence) -> position in the messagelog, in memory for the whole store.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{PoisonError, RwLock};

use qmq_model::{MessageOffset, MessageSequence, Subject, UnixMillis};

use crate::tag_mask::TagMask;

/// Subjects are spread over this many locks.
const SHARDS: usize = 64;
/// Entries are kept in pieces of this many, so that growth never copies a long subject.
const CHUNK_ENTRIES: usize = 1024;

/// A subject of this store, numbered in the order of first appearance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubjectId(pub u32);

/// Where a message stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Located {
    /// Its subject.
    pub subject: SubjectId,
    /// Its number in the subject.
    pub sequence: MessageSequence,
    /// First byte of its record.
    pub offset: MessageOffset,
    /// Bytes of the whole record.
    pub bytes: u32,
    /// When it was appended, by the clock of the broker.
    pub time: UnixMillis,
    /// Which tags it may have.
    pub tags: TagMask,
}

/// What a look-up passed over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skipped {
    /// Sequences that are void: no message ever had them, or it is not kept.
    pub missing: u64,
    /// Sequences of messages that are damaged on disk.
    pub quarantined: u64,
    /// First sequence that was not looked at: the end of the range, or where a limit was reached.
    pub next: MessageSequence,
    /// The look-up stopped at this sequence, which is `next`, because a block of the index is not
    /// in memory: [`StoreReader::load_index`](crate::StoreReader::load_index) brings it there.
    pub cold: Option<MessageSequence>,
}

/// Names of subjects and their numbers.
#[derive(Debug, Default)]
pub(crate) struct Subjects {
    ids: HashMap<Subject, SubjectId>,
    names: Vec<Subject>,
}

impl Subjects {
    pub(crate) fn id(&self, name: &str) -> Option<SubjectId> {
        self.ids.get(name).copied()
    }

    pub(crate) fn count(&self) -> usize {
        self.names.len()
    }

    pub(crate) fn name(&self, id: SubjectId) -> Option<&Subject> {
        self.names.get(id.0 as usize)
    }

    /// The number of a subject, and whether it is new.
    pub(crate) fn intern(&mut self, name: &Subject) -> (SubjectId, bool) {
        if let Some(id) = self.ids.get(name) {
            return (*id, false);
        }
        let id = SubjectId(u32::try_from(self.names.len()).expect("fewer than 2^32 subjects"));
        self.ids.insert(name.clone(), id);
        self.names.push(name.clone());
        (id, true)
    }
}

/// What is kept per message, 32 bytes.
#[derive(Clone, Copy, Debug)]
struct IndexEntry {
    offset: MessageOffset,
    time: UnixMillis,
    tags: TagMask,
    /// Bytes of the record; 0: quarantined.
    bytes: u32,
}

#[derive(Debug)]
struct Chunk {
    first: i64,
    entries: Vec<IndexEntry>,
}

impl Chunk {
    fn end(&self) -> i64 {
        self.first + i64::try_from(self.entries.len()).expect("at most CHUNK_ENTRIES")
    }
}

/// Index of one subject: visible messages only.
#[derive(Debug, Default)]
struct SubjectIndex {
    /// Ascending; gaps between them are void sequences.
    chunks: Vec<Chunk>,
    /// Behind the last message, or higher when sequences before it are void.
    end: i64,
}

impl SubjectIndex {
    fn push(&mut self, sequence: i64, entry: IndexEntry) {
        debug_assert!(sequence >= self.end, "sequences only rise");
        self.end = sequence + 1;
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

    fn bounds(&self) -> Range<i64> {
        self.chunks.first().map_or(self.end, |chunk| chunk.first)..self.end
    }
}

/// Index of all subjects. Each lock is held for memory accesses only, never during IO.
#[derive(Debug)]
pub(crate) struct Index {
    shards: Vec<RwLock<Vec<SubjectIndex>>>,
}

impl Default for Index {
    fn default() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
        }
    }
}

/// Limits of one look-up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) count_max: usize,
    pub(crate) bytes_max: usize,
}

impl Index {
    fn place(id: SubjectId) -> (usize, usize) {
        let number = id.0 as usize;
        (number % SHARDS, number / SHARDS)
    }

    fn read<T>(&self, id: SubjectId, read: impl FnOnce(&SubjectIndex) -> T) -> Option<T> {
        let (shard, slot) = Self::place(id);
        let shard = self.shards[shard]
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        shard.get(slot).map(read)
    }

    fn write(&self, id: SubjectId, write: impl FnOnce(&mut SubjectIndex)) {
        let (shard, slot) = Self::place(id);
        let mut shard = self.shards[shard]
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if shard.len() <= slot {
            shard.resize_with(slot + 1, SubjectIndex::default);
        }
        write(&mut shard[slot]);
    }

    /// Makes a message visible; sequences of a subject rise.
    pub(crate) fn push(&self, at: &Located) {
        let entry = IndexEntry {
            offset: at.offset,
            time: at.time,
            tags: at.tags,
            bytes: at.bytes,
        };
        self.write(at.subject, |index| index.push(at.sequence.0, entry));
    }

    /// Notes that a message is there but damaged.
    pub(crate) fn push_quarantined(&self, id: SubjectId, sequence: i64, offset: MessageOffset) {
        let entry = IndexEntry {
            offset,
            time: UnixMillis(0),
            tags: TagMask::ANY,
            bytes: 0,
        };
        self.write(id, |index| index.push(sequence, entry));
    }

    /// Lets the subject end at `end` at least: the sequences before it are void.
    pub(crate) fn raise_end(&self, id: SubjectId, end: i64) {
        self.write(id, |index| index.end = index.end.max(end));
    }

    /// First kept sequence and end; 0..0 for an unknown subject.
    pub(crate) fn bounds(&self, id: SubjectId) -> Range<i64> {
        self.read(id, SubjectIndex::bounds).unwrap_or(0..0)
    }

    /// The first message that was appended at `time` or later; the end when there is none.
    pub(crate) fn first_since(&self, id: SubjectId, time: UnixMillis) -> i64 {
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

    /// Appends the positions of the messages in `range` to `out`, within `limits`.
    pub(crate) fn locate(
        &self,
        id: SubjectId,
        range: &Range<i64>,
        limits: Limits,
        out: &mut Vec<Located>,
    ) -> Skipped {
        let located = self.read(id, |index| {
            let end = range.end.min(index.end);
            Walk {
                id,
                limits,
                count: 0,
                bytes: 0,
            }
            .run(&index.chunks, range.start..end, out)
        });
        let nothing = Skipped {
            next: MessageSequence(range.start),
            ..Skipped::default()
        };
        located.unwrap_or(nothing)
    }
}

struct Walk {
    id: SubjectId,
    limits: Limits,
    count: usize,
    bytes: usize,
}

impl Walk {
    fn run(mut self, chunks: &[Chunk], range: Range<i64>, out: &mut Vec<Located>) -> Skipped {
        let mut skipped = Skipped {
            next: MessageSequence(range.start),
            ..Skipped::default()
        };
        let first = chunks.partition_point(|chunk| chunk.end() <= range.start);
        for chunk in chunks[first..]
            .iter()
            .take_while(|chunk| chunk.first < range.end)
        {
            let begin = chunk.first.max(range.start);
            skipped.pass_missing(begin);
            let from = usize::try_from(begin - chunk.first).expect("within the chunk");
            for (entry, sequence) in chunk.entries[from..].iter().zip(begin..range.end) {
                if entry.bytes == 0 {
                    skipped.quarantined += 1;
                } else if self.is_full(entry.bytes) {
                    return skipped;
                } else {
                    out.push(Located {
                        subject: self.id,
                        sequence: MessageSequence(sequence),
                        offset: entry.offset,
                        bytes: entry.bytes,
                        time: entry.time,
                        tags: entry.tags,
                    });
                }
                skipped.next = MessageSequence(sequence + 1);
            }
        }
        skipped.pass_missing(range.end);
        skipped
    }

    /// Takes one more message into account, if the limits allow it.
    fn is_full(&mut self, bytes: u32) -> bool {
        let total = self.bytes.saturating_add(bytes as usize);
        let is_first = self.count == 0 && self.limits.count_max > 0;
        let is_full =
            self.count >= self.limits.count_max || (total > self.limits.bytes_max && !is_first);
        if !is_full {
            self.count += 1;
            self.bytes = total;
        }
        is_full
    }
}

impl Skipped {
    fn pass_missing(&mut self, to: i64) {
        if to > self.next.0 {
            self.missing += self.next.0.abs_diff(to);
            self.next.0 = to;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: SubjectId = SubjectId(65);
    const ALL: Limits = Limits {
        count_max: usize::MAX,
        bytes_max: usize::MAX,
    };

    fn at(sequence: i64) -> Located {
        let offset = MessageOffset((1 << 40) + 100 * u64::try_from(sequence).unwrap());
        Located {
            subject: ID,
            sequence: MessageSequence(sequence),
            offset,
            bytes: 100,
            time: UnixMillis(sequence),
            tags: TagMask(7),
        }
    }

    fn locate(index: &Index, range: Range<i64>, limits: Limits) -> (Vec<i64>, Skipped) {
        let mut out = Vec::new();
        let skipped = index.locate(ID, &range, limits, &mut out);
        assert!(out.iter().all(|found| *found == at(found.sequence.0)));
        (out.iter().map(|found| found.sequence.0).collect(), skipped)
    }

    fn skipped(missing: u64, quarantined: u64, next: i64) -> Skipped {
        Skipped {
            missing,
            quarantined,
            next: MessageSequence(next),
            cold: None,
        }
    }

    #[test]
    fn an_unknown_subject_is_empty() {
        let index = Index::default();
        assert_eq!(index.bounds(ID), 0..0);
        assert_eq!(locate(&index, 0..10, ALL), (vec![], skipped(0, 0, 0)));
    }

    #[test]
    fn finds_across_chunks() {
        let index = Index::default();
        (0..3000).for_each(|sequence| index.push(&at(sequence)));
        assert_eq!(index.bounds(ID), 0..3000);
        let (found, rest) = locate(&index, 1000..2100, ALL);
        assert_eq!(found, (1000..2100).collect::<Vec<i64>>());
        assert_eq!(rest, skipped(0, 0, 2100));
        let (found, rest) = locate(&index, 2990..4000, ALL);
        assert_eq!((found.len(), rest), (10, skipped(0, 0, 3000)));
    }

    #[test]
    fn gaps_are_missing_and_damage_is_quarantined() {
        let index = Index::default();
        index.push(&at(5));
        index.push_quarantined(ID, 6, MessageOffset(1));
        index.push(&at(9));
        index.raise_end(ID, 12);
        assert_eq!(index.bounds(ID), 5..12);
        assert_eq!(
            locate(&index, 0..20, ALL),
            (vec![5, 9], skipped(5 + 2 + 2, 1, 12))
        );
        assert_eq!(locate(&index, 7..9, ALL), (vec![], skipped(2, 0, 9)));
    }

    #[test]
    fn finds_by_time_although_the_clock_was_set_back() {
        let index = Index::default();
        let times = [10, 20, 5, 30];
        for (sequence, time) in (0..).zip(times) {
            let time = UnixMillis(time);
            index.push(&Located {
                time,
                ..at(sequence)
            });
        }
        let first = |time| index.first_since(ID, UnixMillis(time));
        assert_eq!([0, 10, 11, 21, 31].map(first), [0, 0, 1, 3, 4]);
        assert_eq!(index.first_since(SubjectId(1), UnixMillis(0)), 0);
    }

    #[test]
    fn stops_at_limits_but_gives_one() {
        let index = Index::default();
        (0..10).for_each(|sequence| index.push(&at(sequence)));
        let count = Limits {
            count_max: 3,
            ..ALL
        };
        assert_eq!(
            locate(&index, 2..10, count),
            (vec![2, 3, 4], skipped(0, 0, 5))
        );
        let bytes = Limits {
            bytes_max: 250,
            ..ALL
        };
        assert_eq!(locate(&index, 2..10, bytes), (vec![2, 3], skipped(0, 0, 4)));
        let tiny = Limits {
            bytes_max: 1,
            ..ALL
        };
        assert_eq!(locate(&index, 2..10, tiny), (vec![2], skipped(0, 0, 3)));
        let none = Limits {
            count_max: 0,
            ..ALL
        };
        assert_eq!(locate(&index, 2..10, none), (vec![], skipped(0, 0, 2)));
    }
}
