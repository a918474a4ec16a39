//! Sorted rows in blocks with the first keys of the blocks above them, level by level, so that a
//! look-up reads one block of each level and nothing has to stay in memory.

use crate::error::Error;
use crate::run::block::{Block, BlockFile, Region, rows_per_block};
use crate::run::cache::BlockCache;

/// Where the rows of one kind stand in a run, and how to find one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tree {
    rows: u64,
    row_bytes: usize,
    /// A row begins with its key.
    key_bytes: usize,
    /// First block and number of blocks of each level; the rows are the lowest. A row of a higher
    /// level is the first key of a block of the one below.
    levels: Vec<(u32, u32)>,
}

impl Tree {
    /// `None` when there are more rows than blocks can be numbered.
    pub(crate) fn new(
        rows: u64,
        (row_bytes, key_bytes): (usize, usize),
        first: u32,
        above: u32,
    ) -> Option<Self> {
        let mut count = u32::try_from(rows.div_ceil(rows_per_block(row_bytes))).ok()?;
        let mut levels = vec![(first, count)];
        let mut next = above;
        while count > 1 {
            count = u32::try_from(u64::from(count).div_ceil(rows_per_block(key_bytes))).ok()?;
            levels.push((next, count));
            next = next.checked_add(count)?;
        }
        Some(Self {
            rows,
            row_bytes,
            key_bytes,
            levels,
        })
    }

    /// First block and number of blocks of the rows.
    pub(crate) fn leaves(&self) -> (u32, u32) {
        self.levels[0]
    }

    pub(crate) fn rows(&self) -> u64 {
        self.rows
    }

    pub(crate) fn rows_per_block(&self) -> u64 {
        rows_per_block(self.row_bytes)
    }

    /// How many rows have a lower key.
    pub(crate) fn lower_bound(
        &self,
        file: &BlockFile,
        key: &[u8],
        cache: &BlockCache,
    ) -> Result<u64, Error> {
        let mut at = 0_u64;
        for level in (1..self.levels.len()).rev() {
            let (first, _) = self.levels[level];
            let per_block = rows_per_block(self.key_bytes);
            let below = u64::from(self.levels[level - 1].1);
            let rows = per_block.min(below - at * per_block);
            let block = read(file, first, at, cache)?;
            let after = partition_point(rows, |row| block.row(row, self.key_bytes) <= key);
            at = at * per_block + after.saturating_sub(1);
        }
        let per_block = self.rows_per_block();
        let rows = per_block.min(self.rows - at * per_block);
        let block = read(file, self.levels[0].0, at, cache)?;
        let below = partition_point(rows, |row| {
            &block.row(row, self.row_bytes)[..self.key_bytes] < key
        });
        Ok(at * per_block + below)
    }

    /// The block of a row, and its number in there; `None` behind the last one.
    pub(crate) fn row(
        &self,
        file: &BlockFile,
        number: u64,
        cache: &BlockCache,
    ) -> Result<Option<(Block, u64)>, Error> {
        if number >= self.rows {
            return Ok(None);
        }
        let per_block = self.rows_per_block();
        let block = read(file, self.levels[0].0, number / per_block, cache)?;
        Ok(Some((block, number % per_block)))
    }
}

fn partition_point(count: u64, mut is_before: impl FnMut(u64) -> bool) -> u64 {
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = low.midpoint(high);
        if is_before(middle) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

fn read(file: &BlockFile, first: u32, at: u64, cache: &BlockCache) -> Result<Block, Error> {
    let at = u32::try_from(at).expect("a block of a tree that is sound");
    let number = first + at;
    if let Some(block) = cache.get(file.run, number) {
        return Ok(block);
    }
    let block = file.read(number, 1)?.remove(0);
    cache.insert(file.run, number, block.clone());
    Ok(block)
}

/// Writes the rows of one kind and the keys above them.
pub(crate) struct TreeBuilder {
    leaves: Region,
    key_bytes: usize,
    /// First key of each block.
    firsts: Vec<u8>,
}

impl TreeBuilder {
    /// Rows go into blocks from `first` on.
    pub(crate) fn new((row_bytes, key_bytes): (usize, usize), first: u32) -> Self {
        Self {
            leaves: Region::at(first, row_bytes),
            key_bytes,
            firsts: Vec::new(),
        }
    }

    pub(crate) fn first(&self) -> u32 {
        self.leaves.first
    }

    pub(crate) fn rows(&self) -> u64 {
        self.leaves.count
    }

    /// Adds a row; keys rise.
    pub(crate) fn push(&mut self, row: &[u8], file: &BlockFile) -> Result<(), Error> {
        if self.leaves.begins_block() {
            self.firsts.extend_from_slice(&row[..self.key_bytes]);
        }
        self.leaves.push(row, file.store, file.run);
        self.leaves.write_some(&*file.file, &file.path)
    }

    /// Writes the rest of the rows, and the keys above them from block `above` on. Returns the
    /// block behind.
    pub(crate) fn finish(&mut self, above: u32, file: &BlockFile) -> Result<u32, Error> {
        finish(&mut self.leaves, file)?;
        let mut firsts = std::mem::take(&mut self.firsts);
        let mut next = above;
        while firsts.len() > self.key_bytes {
            let mut level = Region::at(next, self.key_bytes);
            let mut higher = Vec::new();
            for key in firsts.chunks_exact(self.key_bytes) {
                if level.begins_block() {
                    higher.extend_from_slice(key);
                }
                level.push(key, file.store, file.run);
                level.write_some(&*file.file, &file.path)?;
            }
            finish(&mut level, file)?;
            next = level.next;
            firsts = higher;
        }
        Ok(next)
    }
}

fn finish(region: &mut Region, file: &BlockFile) -> Result<(), Error> {
    region.seal(file.store, file.run);
    region.write(&*file.file, &file.path)
}
