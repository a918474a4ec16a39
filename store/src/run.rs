//! A run: the sorted index of one stretch of the messagelog, written once and never changed.
//!
//! ```text
//! file       blocks of 4096 bytes: entries from block 0 on, rows of the directory from block `d`
//!            on (what is between is never read), then the sparse directory, then the footer
//! block      127 x 32 entries or rows (zeros behind the last)   4064 16 uuid   4080 8 run
//!            4088 4 number of the block   4092 4 CRC-32C of 0..4092
//! entry      0 8 offset   8 8 time ms   16 8 tags   24 4 bytes of the record, 0: quarantined
//!            28 4 low half of the sequence
//! row        0 4 subject   4 4 count   8 8 first sequence   16 8 number of its first entry
//!            24 8 latest time
//! sparse     for each block of the directory: 4 subject, 8 first sequence of its first row
//! footer     0 4 magic   4 2 version   6 2 zero   8 16 uuid   24 8 run   32 8 begin   40 8 end
//!            48 8 entries   56 8 rows   64 4 d   68 4 blocks of the directory
//!            72 4 CRC-32C of the sparse directory   76 4 CRC-32C of 0..76
//! ```
//!
//! A row stands for consecutive sequences of one subject; a subject with a gap has several. Rows
//! and entries are sorted by subject and sequence.

pub(crate) mod block;
pub(crate) mod builder;
pub(crate) mod cache;
pub(crate) mod merge;
pub(crate) mod tiers;

use std::ops::Range;
use std::path::Path;

use qmq_model::{MessageOffset, UnixMillis};
use uuid::Uuid;

use crate::error::{Doing, Error};
use crate::format::{Fields, RUN_MAGIC, VERSION, checked, run_name, seal};
use crate::fs::{FileSystem, OpenMode};
use crate::run::block::{BLOCK_BYTES, Block, BlockFile, TRAILER_AT, rows_per_block};
use crate::tag_mask::TagMask;

/// Bytes of an entry and of a row.
pub(crate) const ROW_BYTES: usize = 32;
/// Entries or rows in a block.
pub(crate) const ROWS_PER_BLOCK: u64 = rows_per_block(ROW_BYTES);
const SPARSE_BYTES: usize = 12;
const FOOTER_BYTES: usize = 80;
const _: () = assert!(ROWS_PER_BLOCK == 127 && 127 * ROW_BYTES == TRAILER_AT);

/// What is kept per message, 32 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) offset: MessageOffset,
    pub(crate) time: UnixMillis,
    pub(crate) tags: TagMask,
    /// Bytes of the record; 0: quarantined.
    pub(crate) bytes: u32,
}

impl Entry {
    fn encode(&self, sequence: i64) -> [u8; ROW_BYTES] {
        let mut out = [0; ROW_BYTES];
        out[..8].copy_from_slice(&self.offset.0.to_be_bytes());
        out[8..16].copy_from_slice(&self.time.0.to_be_bytes());
        out[16..24].copy_from_slice(&self.tags.0.to_be_bytes());
        out[24..28].copy_from_slice(&self.bytes.to_be_bytes());
        out[28..].copy_from_slice(&sequence.to_be_bytes()[4..]);
        out
    }

    fn decode(row: &[u8], sequence: i64) -> Option<Self> {
        let mut fields = Fields(row);
        let entry = Self {
            offset: MessageOffset(fields.u64()?),
            time: UnixMillis(fields.i64()?),
            tags: TagMask(fields.u64()?),
            bytes: fields.u32()?,
        };
        (fields.rest() == &sequence.to_be_bytes()[4..]).then_some(entry)
    }
}

/// Consecutive sequences of one subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) subject: u32,
    pub(crate) count: u32,
    /// First sequence.
    pub(crate) first: i64,
    /// Number of its first entry in the run.
    pub(crate) place: u64,
    /// The latest time of its entries, which need not be that of the last one.
    pub(crate) time_max: UnixMillis,
}

impl Row {
    pub(crate) fn end(&self) -> i64 {
        self.first.saturating_add(i64::from(self.count))
    }

    fn key(&self) -> (u32, i64) {
        (self.subject, self.first)
    }

    fn encode(&self) -> [u8; ROW_BYTES] {
        let mut out = [0; ROW_BYTES];
        out[..4].copy_from_slice(&self.subject.to_be_bytes());
        out[4..8].copy_from_slice(&self.count.to_be_bytes());
        out[8..16].copy_from_slice(&self.first.to_be_bytes());
        out[16..24].copy_from_slice(&self.place.to_be_bytes());
        out[24..].copy_from_slice(&self.time_max.0.to_be_bytes());
        out
    }

    fn decode(row: &[u8]) -> Option<Self> {
        let mut fields = Fields(row);
        Some(Self {
            subject: fields.u32()?,
            count: fields.u32()?,
            first: fields.i64()?,
            place: fields.u64()?,
            time_max: UnixMillis(fields.i64()?),
        })
    }
}

/// Where blocks come from.
pub(crate) trait Blocks {
    /// Why there is none.
    type Miss: From<Error>;
    /// A block of a run; some of those behind it may be wanted next, up to `until`.
    fn block(&mut self, run: &Run, number: u32, until: u32) -> Result<Block, Self::Miss>;
}

/// What a whole run says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Footer {
    number: u64,
    range: Range<u64>,
    entries: u64,
    rows: u64,
    directory: u32,
    directory_blocks: u32,
}

impl Footer {
    fn encode(&self, store: Uuid, sparse: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(FOOTER_BYTES);
        out.extend_from_slice(&RUN_MAGIC.to_be_bytes());
        out.extend_from_slice(&VERSION.to_be_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(store.as_bytes());
        let (begin, end) = (self.range.start, self.range.end);
        for field in [self.number, begin, end, self.entries, self.rows] {
            out.extend_from_slice(&field.to_be_bytes());
        }
        let crc = crc32c::crc32c(sparse);
        for field in [self.directory, self.directory_blocks, crc] {
            out.extend_from_slice(&field.to_be_bytes());
        }
        seal(&mut out);
        out
    }

    /// The footer and the checksum of the sparse directory.
    fn decode(bytes: &[u8], store: Uuid) -> Option<(Self, u32)> {
        let mut fields = Fields(checked(bytes)?);
        let is_ours = fields.u32()? == RUN_MAGIC && fields.u16()? == VERSION;
        if !is_ours || fields.u16()? != 0 || fields.uuid()? != store {
            return None;
        }
        let number = fields.u64()?;
        let range = fields.u64()?..fields.u64()?;
        let [entries, rows] = [fields.u64()?, fields.u64()?];
        let [directory, directory_blocks, crc] = [fields.u32()?, fields.u32()?, fields.u32()?];
        let footer = Self {
            number,
            range,
            entries,
            rows,
            directory,
            directory_blocks,
        };
        let is_sound = blocks_of(rows) == u64::from(directory_blocks)
            && blocks_of(entries) <= u64::from(directory);
        is_sound.then_some((footer, crc))
    }
}

/// The row or entry with this number, in its block.
fn slot(block: &Block, number: u64) -> &[u8] {
    block.row(number % ROWS_PER_BLOCK, ROW_BYTES)
}

fn blocks_of(rows: u64) -> u64 {
    rows.div_ceil(ROWS_PER_BLOCK)
}

/// A run that is open. Only its footer and its sparse directory are in memory.
pub(crate) struct Run {
    file: BlockFile,
    footer: Footer,
    /// First key of each block of the directory.
    sparse: Vec<(u32, i64)>,
}

impl Run {
    /// Opens the run of this number, which must cover `range`.
    pub(crate) fn open(
        fs: &dyn FileSystem,
        dir: &Path,
        store: Uuid,
        number: u64,
        range: &Range<u64>,
    ) -> Result<Self, Error> {
        let path = dir.join(run_name(number));
        let file = fs.open(&path, OpenMode::Existing).doing("open", &path)?;
        let len = file.len().doing("read the length of", &path)?;
        let corrupt = |what| Error::Corrupt {
            path: path.clone(),
            what,
        };
        let footer_at = len.checked_sub(FOOTER_BYTES as u64);
        let footer_at = footer_at.ok_or_else(|| corrupt("too short for a run"))?;
        let mut footer = [0; FOOTER_BYTES];
        file.read_at(&mut footer, footer_at).doing("read", &path)?;
        let (footer, sparse_crc) = Footer::decode(&footer, store)
            .filter(|(footer, _)| footer.number == number && footer.range == *range)
            .ok_or_else(|| corrupt("not the footer of this run"))?;
        let blocks = u64::from(footer.directory) + u64::from(footer.directory_blocks);
        let sparse_at = blocks * BLOCK_BYTES as u64;
        let sparse_len = u64::from(footer.directory_blocks) * SPARSE_BYTES as u64;
        if sparse_at + sparse_len != footer_at {
            return Err(corrupt("not as long as its footer says"));
        }
        let sparse_len = usize::try_from(sparse_len).expect("part of a file that is there");
        let mut sparse = vec![0; sparse_len];
        file.read_at(&mut sparse, sparse_at).doing("read", &path)?;
        if crc32c::crc32c(&sparse) != sparse_crc {
            return Err(corrupt("sparse directory does not match its checksum"));
        }
        let keys = sparse.chunks_exact(SPARSE_BYTES).filter_map(|key| {
            let mut fields = Fields(key);
            Some((fields.u32()?, fields.i64()?))
        });
        let sparse = keys.collect();
        let file = BlockFile {
            file,
            path,
            store,
            run: number,
        };
        Ok(Self {
            file,
            footer,
            sparse,
        })
    }

    pub(crate) fn number(&self) -> u64 {
        self.footer.number
    }

    /// The stretch of the messagelog.
    pub(crate) fn range(&self) -> Range<u64> {
        self.footer.range.clone()
    }

    pub(crate) fn entry_count(&self) -> u64 {
        self.footer.entries
    }

    fn corrupt(&self, what: &'static str) -> Error {
        self.file.corrupt(what)
    }

    /// Reads `count` blocks at once and checks them; the first is `number`.
    pub(crate) fn read_blocks(&self, number: u32, count: u32) -> Result<Vec<Block>, Error> {
        self.file.read(number, count)
    }

    fn row<B: Blocks>(&self, number: u64, blocks: &mut B) -> Result<Row, B::Miss> {
        let block = u32::try_from(number / ROWS_PER_BLOCK).expect("rows of a sound run");
        let block = self.footer.directory + block;
        let row = Row::decode(slot(&blocks.block(self, block, block + 1)?, number));
        let is_sound = |row: &Row| {
            row.count > 0
                && row.first >= 0
                && row
                    .place
                    .checked_add(row.count.into())
                    .is_some_and(|end| end <= self.footer.entries)
        };
        let row = row.filter(is_sound);
        row.ok_or_else(|| self.corrupt("a row of the directory makes no sense").into())
    }

    /// How many rows have a key up to `key`.
    fn rows_up_to<B: Blocks>(&self, key: (u32, i64), blocks: &mut B) -> Result<u64, B::Miss> {
        let after = self.sparse.partition_point(|first| *first <= key) as u64;
        let Some(block) = after.checked_sub(1) else {
            return Ok(0);
        };
        let mut low = block * ROWS_PER_BLOCK;
        let mut high = self.footer.rows.min(low + ROWS_PER_BLOCK);
        while low < high {
            let middle = low.midpoint(high);
            if self.row(middle, blocks)?.key() <= key {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }

    /// The last row of `subject` that begins at or before `sequence`.
    pub(crate) fn row_before<B: Blocks>(
        &self,
        subject: u32,
        sequence: i64,
        blocks: &mut B,
    ) -> Result<Option<Row>, B::Miss> {
        let Some(number) = self.rows_up_to((subject, sequence), blocks)?.checked_sub(1) else {
            return Ok(None);
        };
        Ok(Some(self.row(number, blocks)?).filter(|row| row.subject == subject))
    }

    /// The first row of `subject` that ends behind `sequence`, with its number.
    pub(crate) fn row_at<B: Blocks>(
        &self,
        subject: u32,
        sequence: i64,
        blocks: &mut B,
    ) -> Result<Option<(u64, Row)>, B::Miss> {
        let after = self.rows_up_to((subject, sequence), blocks)?;
        if let Some(number) = after.checked_sub(1) {
            let row = self.row(number, blocks)?;
            if row.subject == subject && sequence < row.end() {
                return Ok(Some((number, row)));
            }
        }
        self.row_of(after, subject, blocks)
    }

    /// Row `number`, if there is one and it belongs to `subject`.
    pub(crate) fn row_of<B: Blocks>(
        &self,
        number: u64,
        subject: u32,
        blocks: &mut B,
    ) -> Result<Option<(u64, Row)>, B::Miss> {
        let is_possible = if number.is_multiple_of(ROWS_PER_BLOCK) {
            let block = usize::try_from(number / ROWS_PER_BLOCK).unwrap_or(usize::MAX);
            self.sparse.get(block).is_some_and(|key| key.0 == subject)
        } else {
            number < self.footer.rows
        };
        if !is_possible {
            return Ok(None);
        }
        let row = self.row(number, blocks)?;
        Ok((row.subject == subject).then_some((number, row)))
    }

    /// The entry of `sequence`, which `row` covers.
    pub(crate) fn entry<B: Blocks>(
        &self,
        row: &Row,
        sequence: i64,
        blocks: &mut B,
    ) -> Result<Entry, B::Miss> {
        let (block, place) = self.block_at(row, sequence, blocks)?;
        Ok(self.entry_in(&block, place, sequence)?)
    }

    /// Shows the entries of `sequences`, which `row` covers, to `see` until it says `false`; so
    /// does this then.
    pub(crate) fn each_entry<B: Blocks>(
        &self,
        row: &Row,
        sequences: Range<i64>,
        blocks: &mut B,
        mut see: impl FnMut(i64, &Entry) -> bool,
    ) -> Result<bool, B::Miss> {
        let Range { mut start, end } = sequences;
        while start < end {
            let (block, place) = self.block_at(row, start, blocks)?;
            let in_block = ROWS_PER_BLOCK - place % ROWS_PER_BLOCK;
            let block_end = end.min(start.saturating_add_unsigned(in_block));
            for (sequence, place) in (start..block_end).zip(place..) {
                if !see(sequence, &self.entry_in(&block, place, sequence)?) {
                    return Ok(false);
                }
            }
            start = block_end;
        }
        Ok(true)
    }

    /// The block with the entry of `sequence`, and the number of that entry.
    fn block_at<B: Blocks>(
        &self,
        row: &Row,
        sequence: i64,
        blocks: &mut B,
    ) -> Result<(Block, u64), B::Miss> {
        let block_of = |place: u64| u32::try_from(place / ROWS_PER_BLOCK).expect("a sound row");
        let place = row.place + row.first.abs_diff(sequence);
        let last = block_of(row.place + u64::from(row.count) - 1);
        Ok((blocks.block(self, block_of(place), last + 1)?, place))
    }

    fn entry_in(&self, block: &Block, place: u64, sequence: i64) -> Result<Entry, Error> {
        let entry = Entry::decode(slot(block, place), sequence);
        entry.ok_or_else(|| self.corrupt("an entry of another sequence"))
    }
}

/// Reads each block when it is asked for, and keeps the last one.
#[derive(Default)]
pub(crate) struct Direct(Option<(u64, u32, Block)>);

impl Blocks for Direct {
    type Miss = Error;

    fn block(&mut self, run: &Run, number: u32, _until: u32) -> Result<Block, Error> {
        if let Some((of, at, block)) = &self.0
            && (*of, *at) == (run.number(), number)
        {
            return Ok(block.clone());
        }
        let block = run.read_blocks(number, 1)?.remove(0);
        self.0 = Some((run.number(), number, block.clone()));
        Ok(block)
    }
}

/// Everything in a run, in order, read in large pieces.
pub(crate) struct Walk<'a> {
    run: &'a Run,
    rows: Ahead<'a>,
    entries: Ahead<'a>,
    next_row: u64,
    row: Option<(Row, i64)>,
}

/// Blocks that are read ahead by a walk.
const BLOCKS_AHEAD: u32 = 16;

struct Ahead<'a> {
    run: &'a Run,
    first: u32,
    /// Behind the last block of this kind.
    end: u32,
    blocks: Vec<Block>,
}

impl Blocks for Ahead<'_> {
    type Miss = Error;

    fn block(&mut self, _run: &Run, number: u32, _until: u32) -> Result<Block, Error> {
        let known = number.checked_sub(self.first);
        let known = known.and_then(|at| self.blocks.get(at as usize));
        if let Some(block) = known {
            return Ok(block.clone());
        }
        let count = BLOCKS_AHEAD.min(self.end.saturating_sub(number)).max(1);
        self.blocks = self.run.read_blocks(number, count)?;
        self.first = number;
        Ok(self.blocks[0].clone())
    }
}

impl<'a> Walk<'a> {
    pub(crate) fn new(run: &'a Run) -> Self {
        let ahead = |end| Ahead {
            run,
            first: 0,
            end,
            blocks: Vec::new(),
        };
        let entry_blocks = u32::try_from(blocks_of(run.footer.entries)).expect("a sound run");
        Self {
            run,
            rows: ahead(run.footer.directory + run.footer.directory_blocks),
            entries: ahead(entry_blocks),
            next_row: 0,
            row: None,
        }
    }

    pub(crate) fn run(&self) -> &'a Run {
        self.run
    }

    /// The next row of the directory; its entries are passed over.
    pub(crate) fn next_row(&mut self) -> Result<Option<Row>, Error> {
        if self.next_row >= self.run.footer.rows {
            return Ok(None);
        }
        let row = self.run.row(self.next_row, &mut self.rows)?;
        self.next_row += 1;
        Ok(Some(row))
    }

    /// The next entry: subject, sequence and where it stands.
    pub(crate) fn next_entry(&mut self) -> Result<Option<(u32, i64, Entry)>, Error> {
        loop {
            if let Some((row, at)) = &mut self.row
                && *at < row.end()
            {
                let entry = self.run.entry(row, *at, &mut self.entries)?;
                *at += 1;
                return Ok(Some((row.subject, *at - 1, entry)));
            }
            let Some(row) = self.next_row()? else {
                return Ok(None);
            };
            self.row = Some((row, row.first));
        }
    }
}

#[cfg(test)]
mod tests;
