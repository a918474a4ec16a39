//! Goes through a run in order, reading ahead.

use std::sync::Arc;

use crate::delay::entry::Key;
use crate::delay::run::tree::Tree;
use crate::delay::run::{DelayRun, ENTRY_BYTES, Entry, ID_BYTES, decode_id};
use crate::error::{Doing, Error};
use crate::run::block::Block;

/// Most blocks that are read at once.
const BLOCKS_AHEAD_MAX: u32 = 16;
/// Records are read in pieces of at least this size.
const RECORDS_AHEAD: usize = 256 << 10;

/// Rows of one kind, from one of them on.
struct Rows {
    run: Arc<DelayRun>,
    tree: Tree,
    next: u64,
    /// Blocks that were read, the first of them has this number among those of its kind.
    blocks: Vec<Block>,
    first: u32,
    /// How many to read next time: more and more, as it goes on.
    ahead: u32,
}

impl Rows {
    fn new(run: Arc<DelayRun>, tree: Tree, next: u64) -> Self {
        Self {
            run,
            tree,
            next,
            blocks: Vec::new(),
            first: 0,
            ahead: 1,
        }
    }

    /// The block of the next row, and its number in there.
    fn next(&mut self) -> Result<Option<(Block, u64)>, Error> {
        if self.next >= self.tree.rows() {
            return Ok(None);
        }
        let per_block = self.tree.rows_per_block();
        let number = u32::try_from(self.next / per_block).expect("a tree that is sound");
        let known = number.checked_sub(self.first);
        let known = known.and_then(|at| self.blocks.get(at as usize)).cloned();
        let block = match known {
            Some(block) => block,
            None => self.read(number)?,
        };
        let at = self.next % per_block;
        self.next += 1;
        Ok(Some((block, at)))
    }

    fn read(&mut self, number: u32) -> Result<Block, Error> {
        let (first, count) = self.tree.leaves();
        let wanted = self.ahead.min(count - number);
        self.ahead = (self.ahead * 2).min(BLOCKS_AHEAD_MAX);
        self.blocks = match self.run.file.read(first + number, wanted) {
            // One of them is damaged, perhaps not this one.
            Err(Error::Corrupt { .. }) => self.run.file.read(first + number, 1)?,
            read => read?,
        };
        self.first = number;
        Ok(self.blocks[0].clone())
    }

    /// Goes on behind the block of the next row.
    fn skip_block(&mut self) {
        let per_block = self.tree.rows_per_block();
        self.next = (self.next / per_block + 1) * per_block;
    }
}

/// Entries of a run, from one of them on.
pub(crate) struct Entries(Rows);

impl Entries {
    pub(crate) fn new(run: &Arc<DelayRun>, first: u64) -> Self {
        Self(Rows::new(run.clone(), run.entries.clone(), first))
    }

    /// The next entry.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>, Error> {
        let Some((block, at)) = self.0.next()? else {
            return Ok(None);
        };
        let entry = Entry::decode(block.row(at, ENTRY_BYTES));
        let entry = entry.filter(|entry| {
            let end = entry.offset.checked_add(entry.bytes.into());
            end.is_some_and(|end| end <= self.0.run.record_bytes())
        });
        let entry = entry.ok_or_else(|| self.0.run.file.corrupt("an entry makes no sense"))?;
        Ok(Some(entry))
    }

    /// The next entry in a block that can be read; damage is logged and passed over, so that it
    /// does not stand in the way of what comes later.
    pub(crate) fn next_readable(&mut self) -> Result<Option<Entry>, Error> {
        loop {
            match self.next() {
                Err(error @ Error::Corrupt { .. }) => {
                    tracing::error!(%error, "messages in a damaged block are passed over");
                    self.0.skip_block();
                }
                next => return next,
            }
        }
    }
}

/// Ids of a run, in the order of their hashes.
pub(crate) struct Ids(Rows);

impl Ids {
    pub(crate) fn new(run: &Arc<DelayRun>) -> Self {
        Self(Rows::new(run.clone(), run.ids.clone(), 0))
    }

    /// The next hash with its key.
    pub(crate) fn next(&mut self) -> Result<Option<(u64, Key)>, Error> {
        let Some((block, at)) = self.0.next()? else {
            return Ok(None);
        };
        let id = decode_id(block.row(at, ID_BYTES));
        let id = id.ok_or_else(|| self.0.run.file.corrupt("an id makes no sense"))?;
        Ok(Some(id))
    }
}

/// Records of a run, asked for in order.
pub(crate) struct Records {
    run: Arc<DelayRun>,
    begin: u64,
    bytes: Vec<u8>,
}

impl Records {
    pub(crate) fn new(run: &Arc<DelayRun>) -> Self {
        Self {
            run: run.clone(),
            begin: 0,
            bytes: Vec::new(),
        }
    }

    /// The record of an entry, not checked yet.
    pub(crate) fn read(&mut self, entry: &Entry) -> Result<&[u8], Error> {
        let len = entry.bytes as usize;
        let end = self.begin + self.bytes.len() as u64;
        if entry.offset < self.begin || entry.offset + len as u64 > end {
            let left = self.run.record_bytes() - entry.offset;
            let left = usize::try_from(left).unwrap_or(usize::MAX);
            self.bytes.resize(len.max(RECORDS_AHEAD.min(left)), 0);
            self.begin = entry.offset;
            let file = &self.run.file;
            let read = file.file.read_at(&mut self.bytes, self.begin);
            read.doing("read", &file.path)?;
        }
        let at = usize::try_from(entry.offset - self.begin).expect("within what was read");
        Ok(&self.bytes[at..at + len])
    }
}
