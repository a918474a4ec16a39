//! From positions to payloads: which records are read together, and whether they are what was
//! looked for.

use std::io;
use std::ops::Range;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use qmq_model::Subject;

use super::StoreReader;
use super::blocks::{Block, Place};
use crate::error::ReadError;
use crate::format::LogKind;
use crate::realtime::consumer_log::{Located, SubjectId};
use crate::realtime::message_log::view;

/// How much is read at a time outside of blocks: stays in the cache of a core until it is checked
/// and copied.
const READ_BYTES_MAX: u64 = 128 << 10;
/// Bytes between two messages that are rather read than skipped: a call costs about as much.
const GAP_BYTES_MAX: u64 = 2 << 10;
/// A whole block is read for who wants at least this part of it.
const BLOCK_SHARE_MIN: u64 = 16;
/// A block of which one pull wants at least one in so many bytes is not kept for others: its memory
/// is used again while it still is in the cache of the core.
const BLOCK_OWN_PART: u64 = 2;
/// Payloads that share what was read with others are at least this part of it: what a slow
/// consumer holds in memory is at most so many times what it was sent.
const SHARED_PART_MIN: usize = 2;

/// What a read does where the disk has to be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Disk {
    /// Waits for it.
    Wait,
    /// Fails with `WouldBlock`.
    Refuse,
}

/// The name of a subject, looked up once for all messages of it that follow each other.
#[derive(Default)]
struct Known(Option<(SubjectId, Option<Subject>)>);

impl StoreReader {
    /// Reads the payload of a message from the disk; blocks. Magic, subject, sequence and CRC are
    /// checked.
    ///
    /// # Errors
    /// When it is not visible, its segment is gone, the read fails, or the bytes are not that
    /// message.
    pub fn read(&self, at: &Located) -> Result<Bytes, ReadError> {
        let mut payloads = Vec::with_capacity(1);
        match self.read_many(std::slice::from_ref(at), &mut payloads) {
            Some(error) => Err(error),
            None => Ok(payloads.pop().expect("one was asked for")),
        }
    }

    /// Reads the payloads of messages as [`Self::read`] does, those that lie close to each other
    /// together, and adds them to `payloads`. Ends with the first one that cannot be read, and
    /// returns why.
    ///
    /// Payloads may be slices of something larger, which stays in memory as long as they are held:
    /// of what was read at once, at least half of which they are together, or of a block, of which
    /// there are only so many in memory at a time.
    pub fn read_many(&self, located: &[Located], payloads: &mut Vec<Bytes>) -> Option<ReadError> {
        self.read_all(located, Disk::Wait, payloads).err()
    }

    /// As [`Self::read_many`], without waiting for the disk: `Ok(false)` when it has to be asked
    /// for the message behind those that were added.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_many_cached(
        &self,
        located: &[Located],
        payloads: &mut Vec<Bytes>,
    ) -> Result<bool, ReadError> {
        match self.read_all(located, Disk::Refuse, payloads) {
            Ok(()) => Ok(true),
            Err(error) if would_block(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn read_all(
        &self,
        located: &[Located],
        disk: Disk,
        payloads: &mut Vec<Bytes>,
    ) -> Result<(), ReadError> {
        let segment_bytes = self.shared.segments.segment_bytes();
        let mut known = Known::default();
        let mut rest = located;
        while let Some(first) = rest.first() {
            let place = Place::of(first.offset.0, segment_bytes);
            let is_inside = |at: &&Located| place.begins.contains(&at.offset.0);
            let (now, later) = rest.split_at(rest.iter().take_while(is_inside).count());
            rest = later;
            match self.block(&place, now, disk)? {
                Some(block) => self.take_from(&block, now, disk, &mut known, payloads)?,
                None => self.read_apart(now, disk, &mut known, payloads)?,
            }
        }
        Ok(())
    }

    /// The block in which `wanted` lie, if it is in memory or worth reading.
    fn block(
        &self,
        place: &Place,
        wanted: &[Located],
        disk: Disk,
    ) -> Result<Option<Block>, ReadError> {
        let blocks = &self.shared.blocks;
        if let Some(block) = blocks.get(place) {
            return Ok(Some(block));
        }
        let wanted: u64 = wanted.iter().map(|at| u64::from(at.bytes)).sum();
        let bytes = place.bytes(self.visible());
        let is_worth = |bytes: &Range<u64>| wanted >= (bytes.end - bytes.start) / BLOCK_SHARE_MIN;
        let Some(bytes) = bytes.filter(is_worth) else {
            return Ok(None);
        };
        let len = usize::try_from(bytes.end - bytes.start).expect("a block");
        let Some(mut memory) = blocks.memory(len) else {
            return Ok(None);
        };
        match self.fill(&mut memory.bytes, bytes.start, disk) {
            Ok(()) => {
                let block = Block::new(bytes.start, memory);
                if wanted < (bytes.end - bytes.start) / BLOCK_OWN_PART {
                    blocks.keep(&block);
                }
                Ok(Some(block))
            }
            Err(error) if would_block(&error) => Err(error),
            // Alone each record gets its own answer.
            Err(_) => Ok(None),
        }
    }

    fn take_from(
        &self,
        block: &Block,
        wanted: &[Located],
        disk: Disk,
        known: &mut Known,
        payloads: &mut Vec<Bytes>,
    ) -> Result<(), ReadError> {
        for at in wanted {
            match block.record(at.offset.0, at.bytes) {
                Some(record) => {
                    let payload = self.check(record, at, known)?;
                    payloads.push(block.bytes.slice_ref(payload));
                }
                // It goes on in the next block.
                None => self.read_apart(std::slice::from_ref(at), disk, known, payloads)?,
            }
        }
        Ok(())
    }

    /// Reads records that lie close to each other together.
    fn read_apart(
        &self,
        located: &[Located],
        disk: Disk,
        known: &mut Known,
        payloads: &mut Vec<Bytes>,
    ) -> Result<(), ReadError> {
        let mut rest = located;
        while let Some(first) = rest.first() {
            let together = close_together(rest, self.shared.segments.segment_bytes());
            let (now, later) = rest.split_at(together);
            rest = later;
            let begin = first.offset.0;
            let end = now.last().map_or(begin, record_end);
            let bytes = match self.read_visible(begin..end, disk) {
                Ok(bytes) => bytes,
                // Alone each of them gets its own answer.
                Err(error) if together > 1 && !would_block(&error) => {
                    for at in now {
                        self.read_apart(std::slice::from_ref(at), disk, known, payloads)?;
                    }
                    continue;
                }
                Err(error) => return Err(error),
            };
            let wanted: usize = now.iter().map(|at| at.bytes as usize).sum();
            let is_shared = wanted >= bytes.len() / SHARED_PART_MIN;
            for at in now {
                let from = usize::try_from(at.offset.0 - begin).expect("within what was read");
                let record = &bytes[from..from + at.bytes as usize];
                let payload = self.check(record, at, known)?;
                payloads.push(if is_shared {
                    bytes.slice_ref(payload)
                } else {
                    Bytes::copy_from_slice(payload)
                });
            }
        }
        Ok(())
    }

    fn read_visible(&self, range: Range<u64>, disk: Disk) -> Result<Bytes, ReadError> {
        let offset = range.start;
        if range.end > self.visible() {
            return Err(ReadError::NotVisible { offset });
        }
        let len = usize::try_from(range.end - offset).expect("bounded by a record or a read");
        let mut bytes = vec![0; len];
        self.fill(&mut bytes, offset, disk)?;
        Ok(Bytes::from(bytes))
    }

    fn fill(&self, bytes: &mut [u8], offset: u64, disk: Disk) -> Result<(), ReadError> {
        let segments = &self.shared.segments;
        let read = match disk {
            Disk::Wait => segments.read_exact(bytes, offset),
            Disk::Refuse => segments.read_exact_cached(bytes, offset),
        };
        match read {
            None => Err(ReadError::Gone { offset }),
            Some(read) => read.map_err(|source| ReadError::Io { offset, source }),
        }
    }

    fn visible(&self) -> u64 {
        let positions = &self.shared.positions[LogKind::Message.index()];
        positions.visible.load(Ordering::Acquire)
    }

    /// The payload of a record, if it is the one that was looked for; otherwise look-ups pass over
    /// it from now on.
    fn check<'a>(
        &self,
        record: &'a [u8],
        at: &Located,
        known: &mut Known,
    ) -> Result<&'a [u8], ReadError> {
        let name = match &known.0 {
            Some((id, name)) if *id == at.subject => name,
            _ => &known.0.insert((at.subject, self.name(at.subject))).1,
        };
        checked(record, at, name.as_ref()).map_err(|what| self.quarantine(at, what))
    }
}

fn would_block(error: &ReadError) -> bool {
    matches!(error, ReadError::Io { source, .. } if source.kind() == io::ErrorKind::WouldBlock)
}

/// How many of `located`, at least the first, are read together: each follows the one before it in
/// the same segment, with little in between.
fn close_together(located: &[Located], segment_bytes: u64) -> usize {
    let begin = located[0].offset.0;
    let segment_end = (begin / segment_bytes + 1) * segment_bytes;
    let end_max = segment_end.min(begin + READ_BYTES_MAX);
    let follows = |pair: &[Located]| {
        let (end, next) = (record_end(&pair[0]), pair[1].offset.0);
        (end..=end + GAP_BYTES_MAX).contains(&next) && record_end(&pair[1]) <= end_max
    };
    1 + located.windows(2).take_while(|pair| follows(pair)).count()
}

fn record_end(at: &Located) -> u64 {
    at.offset.0 + u64::from(at.bytes)
}

/// The payload of a record, if it is the one that was looked for.
fn checked<'a>(
    record: &'a [u8],
    at: &Located,
    name: Option<&Subject>,
) -> Result<&'a [u8], &'static str> {
    let found = view(record).ok_or("not a record")?;
    if name.is_none_or(|name| name.as_str().as_bytes() != found.subject) {
        return Err("another subject");
    }
    if found.sequence != at.sequence {
        return Err("another sequence");
    }
    if crc32fast::hash(found.payload) != found.crc {
        return Err("payload does not match its CRC");
    }
    Ok(found.payload)
}
