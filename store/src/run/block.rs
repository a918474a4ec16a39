//! Blocks of rows of one size: what is read, checked and cached at a time.
//!
//! ```text
//! block  rows (zeros behind the last)  4064 16 uuid  4080 8 run  4088 4 number of the block
//!        4092 4 CRC-32C of 0..4092
//! ```

use std::path::{Path, PathBuf};
use std::sync::Arc;

use uuid::Uuid;

use crate::error::{Doing, Error};
use crate::format::{Fields, checked, seal};
use crate::fs::File;

/// Bytes of a block.
pub(crate) const BLOCK_BYTES: usize = 4096;
/// Bytes of a block that hold rows.
pub(crate) const TRAILER_AT: usize = 4064;
const _: () = assert!(TRAILER_AT + 32 == BLOCK_BYTES);
/// Blocks that are collected before they are written.
const BLOCKS_PER_WRITE: usize = 16;

/// Rows of this size in a block.
pub(crate) const fn rows_per_block(row_bytes: usize) -> u64 {
    (TRAILER_AT / row_bytes) as u64
}

/// A block that was read and checked.
#[derive(Clone, Debug)]
pub(crate) struct Block(pub(super) Arc<[u8]>);

impl Block {
    /// The row with this number in the block.
    pub(crate) fn row(&self, at: u64, row_bytes: usize) -> &[u8] {
        let at = usize::try_from(at).expect("a row of a block") * row_bytes;
        &self.0[at..at + row_bytes]
    }
}

/// Finishes a block.
fn seal_block(out: &mut Vec<u8>, rows: &[u8], store: Uuid, run: u64, number: u32) {
    let mut block = Vec::with_capacity(BLOCK_BYTES);
    block.extend_from_slice(rows);
    block.resize(TRAILER_AT, 0);
    block.extend_from_slice(store.as_bytes());
    block.extend_from_slice(&run.to_be_bytes());
    block.extend_from_slice(&number.to_be_bytes());
    seal(&mut block);
    out.extend_from_slice(&block);
}

/// A run as a file of blocks.
#[derive(Clone)]
pub(crate) struct BlockFile {
    pub(crate) file: Arc<dyn File>,
    pub(crate) path: PathBuf,
    pub(crate) store: Uuid,
    /// Number of the run.
    pub(crate) run: u64,
}

impl BlockFile {
    pub(crate) fn corrupt(&self, what: &'static str) -> Error {
        Error::Corrupt {
            path: self.path.clone(),
            what,
        }
    }

    /// Reads `count` blocks at once and checks them; the first is `number`.
    pub(crate) fn read(&self, number: u32, count: u32) -> Result<Vec<Block>, Error> {
        let mut bytes = vec![0; count as usize * BLOCK_BYTES];
        let at = u64::from(number) * BLOCK_BYTES as u64;
        self.file
            .read_at(&mut bytes, at)
            .doing("read", &self.path)?;
        let mut blocks = Vec::with_capacity(count as usize);
        for (block, number) in bytes.chunks_exact(BLOCK_BYTES).zip(number..) {
            let mut trailer = Fields(checked(block).map_or(&[][..], |body| &body[TRAILER_AT..]));
            let is_right = trailer.uuid() == Some(self.store)
                && trailer.u64() == Some(self.run)
                && trailer.u32() == Some(number);
            if !is_right {
                return Err(self.corrupt("a block does not match its checksum"));
            }
            blocks.push(Block(Arc::from(block)));
        }
        Ok(blocks)
    }
}

/// Blocks of one kind in a run that is being written, one behind the other.
pub(crate) struct Region {
    pub(crate) first: u32,
    /// The block that is open.
    pub(crate) next: u32,
    /// Rows so far.
    pub(crate) count: u64,
    row_bytes: usize,
    rows: Vec<u8>,
    /// Whole blocks that are not written.
    blocks: Vec<u8>,
}

impl Region {
    /// Rows of this size, from block `first` on.
    pub(crate) fn at(first: u32, row_bytes: usize) -> Self {
        Self {
            first,
            next: first,
            count: 0,
            row_bytes,
            rows: Vec::new(),
            blocks: Vec::new(),
        }
    }

    /// Whether the next row begins a block.
    pub(crate) fn begins_block(&self) -> bool {
        self.count.is_multiple_of(rows_per_block(self.row_bytes))
    }

    pub(crate) fn push(&mut self, row: &[u8], store: Uuid, run: u64) {
        debug_assert_eq!(row.len(), self.row_bytes, "rows of one size");
        self.rows.extend_from_slice(row);
        self.count += 1;
        if self.begins_block() {
            self.seal(store, run);
        }
    }

    /// Finishes the block that is open.
    pub(crate) fn seal(&mut self, store: Uuid, run: u64) {
        if !self.rows.is_empty() {
            seal_block(&mut self.blocks, &self.rows, store, run, self.next);
            self.rows.clear();
            self.next += 1;
        }
    }

    /// Writes whole blocks if there are enough.
    pub(crate) fn write_some(&mut self, file: &dyn File, path: &Path) -> Result<(), Error> {
        if self.blocks.len() < BLOCKS_PER_WRITE * BLOCK_BYTES {
            return Ok(());
        }
        self.write(file, path)
    }

    /// Writes whole blocks.
    pub(crate) fn write(&mut self, file: &dyn File, path: &Path) -> Result<(), Error> {
        if self.blocks.is_empty() {
            return Ok(());
        }
        let begin = u64::from(self.next) * BLOCK_BYTES as u64 - self.blocks.len() as u64;
        file.write_at(&self.blocks, begin).doing("write", path)?;
        self.blocks.clear();
        Ok(())
    }
}
