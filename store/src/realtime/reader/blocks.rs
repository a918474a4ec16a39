//! Stretches of the messagelog in memory: read once, and shared by all pulls that want what is in
//! them.
//!
//! Consumers of several subjects that work off a backlog want neighbouring records at about the
//! same time, each a few of them. One read of a whole block then serves all of them, and replies
//! take slices of it.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

/// From the begin of one block of a segment to that of the next.
const BLOCK_BYTES: u64 = 256 << 10;
/// What a block holds beyond the begin of the next one, so that a record which is not longer than
/// this lies whole in the block in which it begins.
const OVERLAP_BYTES: u64 = 16 << 10;
/// Bytes of a whole block in memory.
const WHOLE_BYTES: usize = 272 << 10;
const _: () = assert!(WHOLE_BYTES as u64 == BLOCK_BYTES + OVERLAP_BYTES);
/// Blocks that are kept for others who want them.
pub(super) const KEPT_BYTES_MAX: usize = 64 << 20;
/// All blocks in memory: kept ones, and those that replies on their way still hold. When there are
/// so many, records are read one by one.
const HELD_BYTES_MAX: usize = 2 * KEPT_BYTES_MAX;
/// Memory of blocks that waits to be used again.
const SPARE_MAX: usize = 16;

/// Where a block lies in the messagelog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Records that begin here belong to the block.
    pub(super) begins: Range<u64>,
    /// End of its segment: no record goes beyond.
    segment_end: u64,
}

impl Place {
    /// The block to which a record at `offset` belongs.
    pub(super) fn of(offset: u64, segment_bytes: u64) -> Self {
        let base = offset - offset % segment_bytes;
        let segment_end = base + segment_bytes;
        let begin = offset - (offset - base) % BLOCK_BYTES;
        Self {
            begins: begin..segment_end.min(begin + BLOCK_BYTES),
            segment_end,
        }
    }

    /// Bytes of the block, when everything in front of `visible` is published. `None` as long as
    /// more would have to be added later.
    pub(super) fn bytes(&self, visible: u64) -> Option<Range<u64>> {
        let Range { start, end } = self.begins;
        let last = self.segment_end.min(end + OVERLAP_BYTES).min(visible);
        (end <= visible).then_some(start..last)
    }
}

/// A stretch of the log; published when it was read, so it never changes.
#[derive(Clone, Debug)]
pub(super) struct Block {
    begin: u64,
    pub(super) bytes: Bytes,
}

impl Block {
    /// What was read at `begin`.
    pub(super) fn new(begin: u64, memory: Memory) -> Self {
        let bytes = Bytes::from_owner(memory);
        Self { begin, bytes }
    }

    /// The bytes of a record; `None` if it ends beyond the block.
    pub(super) fn record(&self, offset: u64, len: u32) -> Option<&[u8]> {
        let from = usize::try_from(offset.checked_sub(self.begin)?).ok()?;
        self.bytes.get(from..from.checked_add(len as usize)?)
    }
}

/// The blocks of one log that were read lately. The lock is held for a look-up only, never during
/// IO.
#[derive(Debug)]
pub(super) struct Blocks {
    kept: Mutex<Kept>,
    kept_bytes_max: usize,
    memory: Arc<Pool>,
}

#[derive(Debug, Default)]
struct Kept {
    blocks: HashMap<u64, Block>,
    /// Begins of `blocks`, oldest first.
    order: VecDeque<u64>,
    bytes: usize,
}

impl Kept {
    fn shrink_to(&mut self, bytes: usize) {
        while self.bytes > bytes
            && let Some(oldest) = self.order.pop_front()
        {
            if let Some(block) = self.blocks.remove(&oldest) {
                self.bytes -= block.bytes.len();
            }
        }
    }
}

impl Blocks {
    pub(super) fn new(kept_bytes_max: usize, held_bytes_max: usize) -> Self {
        let memory = Pool {
            held: AtomicUsize::new(0),
            held_max: held_bytes_max,
            spare: Mutex::default(),
        };
        Self {
            kept: Mutex::default(),
            kept_bytes_max,
            memory: Arc::new(memory),
        }
    }

    pub(super) fn get(&self, place: &Place) -> Option<Block> {
        lock(&self.kept).blocks.get(&place.begins.start).cloned()
    }

    /// Memory for a block of this length, whose content is of no meaning; `None` when all blocks
    /// together are as large as they may be.
    pub(super) fn memory(&self, len: usize) -> Option<Memory> {
        Pool::take(&self.memory, len)
    }

    /// Keeps a block for others.
    pub(super) fn keep(&self, block: &Block) {
        let begin = block.begin;
        let mut kept = lock(&self.kept);
        kept.bytes += block.bytes.len();
        // Two may have read it at the same time.
        match kept.blocks.insert(begin, block.clone()) {
            Some(other) => kept.bytes -= other.bytes.len(),
            None => kept.order.push_back(begin),
        }
        kept.shrink_to(self.kept_bytes_max);
    }
}

impl Default for Blocks {
    fn default() -> Self {
        Self::new(KEPT_BYTES_MAX, HELD_BYTES_MAX)
    }
}

/// Memory of blocks, counted as long as anybody holds a slice of it.
#[derive(Debug)]
struct Pool {
    held: AtomicUsize,
    held_max: usize,
    /// Each of [`WHOLE_BYTES`].
    spare: Mutex<Vec<Box<[u8]>>>,
}

impl Pool {
    fn take(pool: &Arc<Self>, len: usize) -> Option<Memory> {
        let held = pool.held.fetch_add(len, Ordering::Relaxed);
        if held + len > pool.held_max {
            pool.held.fetch_sub(len, Ordering::Relaxed);
            return None;
        }
        let reused = match len {
            WHOLE_BYTES => lock(&pool.spare).pop(),
            _ => None,
        };
        Some(Memory {
            bytes: reused.unwrap_or_else(|| vec![0; len].into_boxed_slice()),
            pool: Arc::clone(pool),
        })
    }
}

/// Memory of one block; goes back when the last slice of it is gone.
#[derive(Debug)]
pub(super) struct Memory {
    pub(super) bytes: Box<[u8]>,
    pool: Arc<Pool>,
}

impl AsRef<[u8]> for Memory {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        self.pool.held.fetch_sub(bytes.len(), Ordering::Relaxed);
        if bytes.len() == WHOLE_BYTES {
            let mut spare = lock(&self.pool.spare);
            if spare.len() < SPARE_MAX {
                spare.push(bytes);
            }
        }
    }
}

/// What is behind these locks is whole between any two statements.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT: u64 = 1 << 20;

    fn keep(blocks: &Blocks, begin: u64, len: usize) -> Option<Block> {
        let mut memory = blocks.memory(len)?;
        memory
            .bytes
            .fill(u8::try_from(begin / BLOCK_BYTES).unwrap());
        let block = Block::new(begin, memory);
        blocks.keep(&block);
        Some(block)
    }

    fn place(number: u64) -> Place {
        Place::of(number * BLOCK_BYTES, 1 << 30)
    }

    #[test]
    fn a_block_ends_with_its_segment_and_waits_for_all_its_bytes() {
        let second = Place::of(SEGMENT + BLOCK_BYTES + 7, SEGMENT);
        let begin = SEGMENT + BLOCK_BYTES;
        assert_eq!(second.begins, begin..begin + BLOCK_BYTES);
        assert_eq!(second.bytes(begin + BLOCK_BYTES - 1), None);
        let end = begin + BLOCK_BYTES;
        assert_eq!(second.bytes(end), Some(begin..end));
        assert_eq!(second.bytes(end + 9), Some(begin..end + 9));
        assert_eq!(second.bytes(u64::MAX), Some(begin..end + OVERLAP_BYTES));
        let last = Place::of(SEGMENT - 1, SEGMENT);
        assert_eq!(last.bytes(u64::MAX), Some(SEGMENT - BLOCK_BYTES..SEGMENT));
        let small = Place::of(70_001, 1000);
        assert_eq!(small.begins, 70_000..71_000);
        assert_eq!(small.bytes(u64::MAX), Some(70_000..71_000));
    }

    #[test]
    fn a_record_is_whole_or_not_there() {
        let blocks = Blocks::default();
        let block = keep(&blocks, BLOCK_BYTES, 1000).unwrap();
        assert_eq!(block.record(BLOCK_BYTES, 1000), Some(&[1; 1000][..]));
        assert_eq!(block.record(BLOCK_BYTES + 990, 10), Some(&[1; 10][..]));
        assert_eq!(block.record(BLOCK_BYTES + 990, 11), None);
        assert_eq!(block.record(BLOCK_BYTES - 1, 1), None);
        assert_eq!(block.record(BLOCK_BYTES + 2000, 1), None);
        assert_eq!(block.record(u64::MAX, u32::MAX), None);
    }

    #[test]
    fn keeps_the_newest_within_its_budget() {
        let blocks = Blocks::new(4 * WHOLE_BYTES, 100 * WHOLE_BYTES);
        for number in 0..50 {
            assert!(keep(&blocks, number * BLOCK_BYTES, WHOLE_BYTES).is_some());
            assert!(lock(&blocks.kept).bytes <= 4 * WHOLE_BYTES);
        }
        let is_kept = |number: &u64| blocks.get(&place(*number)).is_some();
        assert_eq!(
            (0..50).filter(is_kept).collect::<Vec<_>>(),
            [46, 47, 48, 49]
        );
        let block = blocks.get(&place(47)).unwrap();
        assert!(block.bytes.iter().all(|byte| *byte == 47));
        assert_eq!(lock(&blocks.kept).order.len(), 4);
    }

    #[test]
    fn one_that_is_read_twice_counts_once() {
        let blocks = Blocks::new(4 * WHOLE_BYTES, 100 * WHOLE_BYTES);
        for _ in 0..9 {
            assert!(keep(&blocks, 0, WHOLE_BYTES).is_some());
        }
        let kept = lock(&blocks.kept);
        assert_eq!((kept.order.len(), kept.bytes), (1, WHOLE_BYTES));
    }

    #[test]
    fn what_replies_hold_counts_until_they_let_go() {
        let blocks = Blocks::new(2 * WHOLE_BYTES, 4 * WHOLE_BYTES);
        let held: Vec<_> = (0..4)
            .map(|number| keep(&blocks, number * BLOCK_BYTES, WHOLE_BYTES).unwrap())
            .map(|block| block.bytes.slice(5..6))
            .collect();
        assert!(keep(&blocks, 9 * BLOCK_BYTES, WHOLE_BYTES).is_none());
        assert_eq!(
            held.iter().map(|byte| byte[0]).collect::<Vec<_>>(),
            [0, 1, 2, 3]
        );
        drop(held);
        let again = keep(&blocks, 9 * BLOCK_BYTES, WHOLE_BYTES).unwrap();
        assert!(again.bytes.iter().all(|byte| *byte == 9));
        drop(again);
        // Kept: the last two. The others wait to be used again.
        assert_eq!(blocks.memory.held.load(Ordering::Relaxed), 2 * WHOLE_BYTES);
        assert!(!lock(&blocks.memory.spare).is_empty());
    }

    #[test]
    fn spare_memory_is_bounded() {
        let blocks = Blocks::new(0, usize::MAX);
        let held: Vec<_> = (0..2 * SPARE_MAX as u64)
            .map(|number| keep(&blocks, number * BLOCK_BYTES, WHOLE_BYTES).unwrap())
            .collect();
        drop(held);
        assert_eq!(lock(&blocks.memory.spare).len(), SPARE_MAX);
        assert_eq!(blocks.memory.held.load(Ordering::Relaxed), 0);
    }
}
