//! A run of delayed messages: sorted by due time, written once and never changed.
//!
//! ```text
//! file     records of the messages as in the write-ahead log, in the order of their keys; blocks
//!          (each at a multiple of 4096) of entries, of ids, and of the keys above them; footer
//! entry    0 8 due ms   8 8 accept sequence   16 8 first byte of its record   24 4 bytes of it
//!          28 4 subject
//! id       0 8 hash of subject and id   8 8 due ms   16 8 accept sequence
//! footer   0 4 magic   4 2 version   6 2 zero   8 16 uuid   24 8 run   32 8 bytes of all records
//!          40 8 earliest due   48 8 latest due   56 8 lowest sequence   64 8 highest sequence
//!          72 8 messages   80 4 first block of entries   84 4 of the keys above them
//!          88 4 first block of ids   92 4 of the keys above them    96 4 CRC-32C of 0..96
//! ```

pub(crate) mod builder;
pub(crate) mod tree;
pub(crate) mod walk;

use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;

use uuid::Uuid;

use crate::delay::entry::{AcceptSequence, DelaySubject, Key, Pending};
use crate::delay::run::tree::Tree;
use crate::delay::slots::Slot;
use crate::error::{Doing, Error};
use crate::format::{DELAY_RUN_MAGIC, Fields, VERSION, checked, run_name, seal};
use crate::fs::{FileSystem, OpenMode};
use crate::run::block::BlockFile;
use crate::run::cache::BlockCache;

/// Bytes of an entry.
pub(crate) const ENTRY_BYTES: usize = 32;
/// Bytes of a key, with which an entry begins.
pub(crate) const KEY_BYTES: usize = 16;
/// Bytes of an id.
pub(crate) const ID_BYTES: usize = 24;
const FOOTER_BYTES: usize = 100;

impl Key {
    /// As it stands in a run; sorted like the key.
    pub(crate) fn encode(self) -> [u8; KEY_BYTES] {
        let mut out = [0; KEY_BYTES];
        out[..8].copy_from_slice(&self.due.to_be_bytes());
        out[8..].copy_from_slice(&self.sequence.to_be_bytes());
        out
    }

    fn take(fields: &mut Fields<'_>) -> Option<Self> {
        let due = fields.i64()?;
        let sequence = fields.u64()?;
        Some(Self { due, sequence })
    }
}

/// Where a message stands in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) key: Key,
    /// First byte of its record.
    pub(crate) offset: u64,
    /// Bytes of its record.
    pub(crate) bytes: u32,
    pub(crate) subject: DelaySubject,
}

impl Entry {
    fn encode(&self) -> [u8; ENTRY_BYTES] {
        let mut out = [0; ENTRY_BYTES];
        out[..KEY_BYTES].copy_from_slice(&self.key.encode());
        out[16..24].copy_from_slice(&self.offset.to_be_bytes());
        out[24..28].copy_from_slice(&self.bytes.to_be_bytes());
        out[28..].copy_from_slice(&self.subject.0.to_be_bytes());
        out
    }

    fn decode(row: &[u8]) -> Option<Self> {
        let mut fields = Fields(row);
        Some(Self {
            key: Key::take(&mut fields)?,
            offset: fields.u64()?,
            bytes: fields.u32()?,
            subject: DelaySubject(fields.u32()?),
        })
    }

    pub(crate) fn pending(&self) -> Pending {
        Pending {
            due: qmq_model::UnixMillis(self.key.due),
            sequence: AcceptSequence(self.key.sequence),
            subject: self.subject,
            bytes: self.bytes,
        }
    }
}

/// The hash of an id, and whose it is.
fn id_row(hash: u64, key: Key) -> [u8; ID_BYTES] {
    let mut out = [0; ID_BYTES];
    out[..8].copy_from_slice(&hash.to_be_bytes());
    out[8..].copy_from_slice(&key.encode());
    out
}

/// Reads an id.
fn decode_id(row: &[u8]) -> Option<(u64, Key)> {
    let mut fields = Fields(row);
    Some((fields.u64()?, Key::take(&mut fields)?))
}

/// What a whole run says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Footer {
    number: u64,
    record_bytes: u64,
    due: (i64, i64),
    sequences: (u64, u64),
    messages: u64,
    /// First blocks of entries and of the keys above them, then of ids.
    blocks: [u32; 4],
}

impl Footer {
    fn encode(&self, store: Uuid) -> Vec<u8> {
        let mut out = Vec::with_capacity(FOOTER_BYTES);
        out.extend_from_slice(&DELAY_RUN_MAGIC.to_be_bytes());
        out.extend_from_slice(&VERSION.to_be_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(store.as_bytes());
        out.extend_from_slice(&self.number.to_be_bytes());
        out.extend_from_slice(&self.record_bytes.to_be_bytes());
        for field in [self.due.0, self.due.1] {
            out.extend_from_slice(&field.to_be_bytes());
        }
        for field in [self.sequences.0, self.sequences.1, self.messages] {
            out.extend_from_slice(&field.to_be_bytes());
        }
        for block in self.blocks {
            out.extend_from_slice(&block.to_be_bytes());
        }
        seal(&mut out);
        out
    }

    fn decode(bytes: &[u8], store: Uuid) -> Option<Self> {
        let mut fields = Fields(checked(bytes)?);
        let is_ours = fields.u32()? == DELAY_RUN_MAGIC && fields.u16()? == VERSION;
        if !is_ours || fields.u16()? != 0 || fields.uuid()? != store {
            return None;
        }
        Some(Self {
            number: fields.u64()?,
            record_bytes: fields.u64()?,
            due: (fields.i64()?, fields.i64()?),
            sequences: (fields.u64()?, fields.u64()?),
            messages: fields.u64()?,
            blocks: [fields.u32()?, fields.u32()?, fields.u32()?, fields.u32()?],
        })
    }
}

/// A run that is open. Only its footer is in memory.
pub(crate) struct DelayRun {
    pub(crate) file: BlockFile,
    footer: Footer,
    pub(crate) entries: Tree,
    pub(crate) ids: Tree,
    /// Bytes of the file.
    bytes: u64,
}

impl std::fmt::Debug for DelayRun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DelayRun")
            .field("number", &self.footer.number)
            .finish_non_exhaustive()
    }
}

impl DelayRun {
    /// Opens the run of this number.
    pub(crate) fn open(
        fs: &dyn FileSystem,
        dir: &Path,
        store: Uuid,
        number: u64,
    ) -> Result<Self, Error> {
        let path = dir.join(run_name(number));
        let file = fs.open(&path, OpenMode::Existing).doing("open", &path)?;
        let bytes = file.len().doing("read the length of", &path)?;
        let corrupt = |what| Error::Corrupt {
            path: path.clone(),
            what,
        };
        let footer_at = bytes.checked_sub(FOOTER_BYTES as u64);
        let footer_at = footer_at.ok_or_else(|| corrupt("too short for a run"))?;
        let mut footer = [0; FOOTER_BYTES];
        file.read_at(&mut footer, footer_at).doing("read", &path)?;
        let footer = Footer::decode(&footer, store)
            .filter(|footer| footer.number == number && footer.messages > 0)
            .ok_or_else(|| corrupt("not the footer of this run"))?;
        let [entries, above_entries, ids, above_ids] = footer.blocks;
        let entries = Tree::new(
            footer.messages,
            (ENTRY_BYTES, KEY_BYTES),
            entries,
            above_entries,
        );
        let ids = Tree::new(footer.messages, (ID_BYTES, ID_BYTES), ids, above_ids);
        let (Some(entries), Some(ids)) = (entries, ids) else {
            return Err(corrupt("more messages than a run can hold"));
        };
        let file = BlockFile {
            file,
            path,
            store,
            run: number,
        };
        Ok(Self {
            file,
            footer,
            entries,
            ids,
            bytes,
        })
    }

    pub(crate) fn number(&self) -> u64 {
        self.footer.number
    }

    /// How many messages it holds, done ones included.
    pub(crate) fn len(&self) -> u64 {
        self.footer.messages
    }

    /// Bytes of the file.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes of all records.
    pub(crate) fn record_bytes(&self) -> u64 {
        self.footer.record_bytes
    }

    /// From the earliest to the latest due time.
    pub(crate) fn due(&self) -> RangeInclusive<i64> {
        self.footer.due.0..=self.footer.due.1
    }

    /// From the lowest to the highest sequence.
    pub(crate) fn sequences(&self) -> RangeInclusive<u64> {
        self.footer.sequences.0..=self.footer.sequences.1
    }

    fn entry_at(&self, number: u64, cache: &BlockCache) -> Result<Option<Entry>, Error> {
        let row = self.entries.row(&self.file, number, cache)?;
        let Some((block, at)) = row else {
            return Ok(None);
        };
        let entry = Entry::decode(block.row(at, ENTRY_BYTES));
        let entry = entry.filter(|entry| {
            let end = entry.offset.checked_add(entry.bytes.into());
            end.is_some_and(|end| end <= self.footer.record_bytes)
        });
        entry
            .map(Some)
            .ok_or_else(|| self.file.corrupt("an entry makes no sense"))
    }

    /// How many messages have a lower key.
    pub(crate) fn rank(&self, key: Key, cache: &BlockCache) -> Result<u64, Error> {
        self.entries.lower_bound(&self.file, &key.encode(), cache)
    }

    /// Whether a message with this key could be in the run.
    pub(crate) fn may_hold(&self, key: Key) -> bool {
        self.due().contains(&key.due) && self.sequences().contains(&key.sequence)
    }

    /// The message with this key.
    pub(crate) fn get(&self, key: Key, cache: &BlockCache) -> Result<Option<Entry>, Error> {
        if !self.may_hold(key) {
            return Ok(None);
        }
        let found = self.entry_at(self.rank(key, cache)?, cache)?;
        Ok(found.filter(|entry| entry.key == key))
    }

    /// Keys of the messages of which the id has this hash.
    pub(crate) fn with_hash(&self, hash: u64, cache: &BlockCache) -> Result<Vec<Key>, Error> {
        let low = Key {
            due: 0,
            sequence: 0,
        };
        let mut number = self
            .ids
            .lower_bound(&self.file, &id_row(hash, low), cache)?;
        let mut keys = Vec::new();
        while let Some((block, at)) = self.ids.row(&self.file, number, cache)? {
            let Some((found, key)) = decode_id(block.row(at, ID_BYTES)) else {
                break;
            };
            if found != hash {
                break;
            }
            keys.push(key);
            number += 1;
        }
        Ok(keys)
    }

    /// The record of a message, not checked yet.
    pub(crate) fn read_record(&self, entry: &Entry) -> Result<Vec<u8>, Error> {
        let mut record = vec![0; entry.bytes as usize];
        let read = self.file.file.read_at(&mut record, entry.offset);
        read.doing("read", &self.file.path)?;
        Ok(record)
    }
}

/// Live runs with their slots, in no order.
pub(crate) type Runs = Arc<Vec<(Arc<DelayRun>, Slot)>>;

#[cfg(test)]
mod tests;
