//! Checksums of durable bytes, one append-only file beside each segment.
//!
//! ```text
//! header  0 4 magic   4 2 version   6 2 zero   8 8 base   16 12 of the uuid   28 4 CRC-32C of 0..28
//! entry   0 8 offset  8 4 length   12 4 CRC-32C of the bytes   16 4 flags   20 8 zero
//!        28 4 CRC-32C of 0..28
//! ```

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

use crate::error::{Doing, Error};
use crate::format::{Fields, SUMS_MAGIC, VERSION, checked, seal, sums_name};
use crate::fs::{File, FileSystem, OpenMode};
use crate::log::segment::Segments;

/// Most bytes one entry covers.
pub(crate) const STRETCH_BYTES_MAX: u32 = 64 << 10;
/// Header and entries have the same size, so that none crosses a sector.
pub(crate) const ENTRY_BYTES: usize = 32;
const FLAG_DAMAGED: u32 = 1;

/// Some bytes of a log and their checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stretch {
    pub(crate) start: u64,
    pub(crate) length: u32,
    pub(crate) crc: u32,
    /// The bytes were known to be damaged when this was written.
    pub(crate) is_damaged: bool,
}

impl Stretch {
    pub(crate) fn end(&self) -> u64 {
        self.start + u64::from(self.length)
    }

    pub(crate) fn range(&self) -> Range<u64> {
        self.start..self.end()
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(ENTRY_BYTES);
        out.extend_from_slice(&self.start.to_be_bytes());
        out.extend_from_slice(&self.length.to_be_bytes());
        out.extend_from_slice(&self.crc.to_be_bytes());
        let flags = if self.is_damaged { FLAG_DAMAGED } else { 0 };
        out.extend_from_slice(&flags.to_be_bytes());
        out.extend_from_slice(&[0; 8]);
        seal(&mut out);
        out
    }

    /// Reads an entry; `None` when it is not valid or not within `segment`.
    fn decode(entry: &[u8], segment: &Range<u64>) -> Option<Self> {
        let mut fields = Fields(checked(entry)?);
        let start = fields.u64()?;
        let [length, crc, flags] = [fields.u32()?, fields.u32()?, fields.u32()?];
        let is_damaged = flags & FLAG_DAMAGED != 0;
        let is_inside = start >= segment.start && start.checked_add(length.into())? <= segment.end;
        (is_inside && length > 0).then_some(Self {
            start,
            length,
            crc,
            is_damaged,
        })
    }
}

fn header(base: u64, store: Uuid) -> Vec<u8> {
    let mut out = Vec::with_capacity(ENTRY_BYTES);
    out.extend_from_slice(&SUMS_MAGIC.to_be_bytes());
    out.extend_from_slice(&VERSION.to_be_bytes());
    out.extend_from_slice(&[0; 2]);
    out.extend_from_slice(&base.to_be_bytes());
    out.extend_from_slice(&store.as_bytes()[..12]);
    seal(&mut out);
    out
}

/// What one file of checksums holds.
struct Loaded {
    stretches: Vec<Stretch>,
    /// Entries that are not valid although valid ones follow them.
    broken: u64,
    /// Number of entries up to the last valid one.
    entries: u64,
}

fn decode_file(bytes: &[u8], segment: &Range<u64>) -> Loaded {
    let mut loaded = Loaded {
        stretches: Vec::new(),
        broken: 0,
        entries: 0,
    };
    // The header is for people and tools: entries say themselves where they belong, and a header
    // that a power cut tore is written again with the next entries.
    let Some((_, entries)) = bytes.split_at_checked(ENTRY_BYTES) else {
        return loaded;
    };
    let mut broken = 0;
    for (entry, number) in entries.chunks_exact(ENTRY_BYTES).zip(1..) {
        match Stretch::decode(entry, segment) {
            Some(stretch) => {
                loaded.stretches.push(stretch);
                loaded.entries = number;
                loaded.broken += std::mem::take(&mut broken);
            }
            None => broken += 1,
        }
    }
    loaded
}

fn load_file(segments: &Segments, base: u64) -> Result<Option<Loaded>, Error> {
    let path = segments.dir().join(sums_name(base));
    let bytes = crate::fs::read_file(segments.fs().as_ref(), &path)?;
    let segment = base..base + segments.segment_bytes();
    Ok(bytes.map(|bytes| decode_file(&bytes, &segment)))
}

/// The checksums of one segment, sorted by start.
pub(crate) fn stretches_of(segments: &Segments, base: u64) -> Result<Vec<Stretch>, Error> {
    let loaded = load_file(segments, base)?;
    let mut stretches = loaded.map_or_else(Vec::new, |loaded| loaded.stretches);
    stretches.sort_by_key(|stretch| stretch.start);
    Ok(stretches)
}

/// The open stretch at the end of what was added.
#[derive(Clone, Copy, Debug)]
struct Running {
    start: u64,
    length: u32,
    crc: u32,
}

/// Collects checksums of what is appended and hands them over to be written.
pub(crate) struct Sums {
    files: Arc<SumFiles>,
    running: Running,
    closed: Vec<Stretch>,
}

/// The files of checksums of one log: any thread may write them.
pub(crate) struct SumFiles {
    segments: Arc<Segments>,
    store: Uuid,
    /// Next entry of each file that was written or loaded. Held by who writes.
    next_entry: Mutex<BTreeMap<u64, u64>>,
    /// Of durable bytes only. Held for a moment.
    unwritten: Mutex<Vec<Stretch>>,
}

/// What the files of checksums say at start.
pub(crate) struct LoadedSums {
    pub(crate) sums: Sums,
    /// Sorted by start.
    pub(crate) stretches: Vec<Stretch>,
    /// Files with entries that are not valid, and how many of them.
    pub(crate) broken: Vec<(PathBuf, u64)>,
}

impl Sums {
    /// Reads the checksums of the segment that holds `from` and of those behind it.
    pub(crate) fn load(
        segments: Arc<Segments>,
        store: Uuid,
        from: u64,
    ) -> Result<LoadedSums, Error> {
        let (mut next_entry, mut stretches, mut broken) = (BTreeMap::new(), Vec::new(), Vec::new());
        let first = segments.base_of(from);
        for base in segments.bases().into_iter().filter(|base| *base >= first) {
            let path = segments.dir().join(sums_name(base));
            let Some(loaded) = load_file(&segments, base)? else {
                continue;
            };
            next_entry.insert(base, loaded.entries + 1);
            stretches.extend(loaded.stretches);
            if loaded.broken > 0 {
                broken.push((path, loaded.broken));
            }
        }
        stretches.sort_by_key(|stretch| stretch.start);
        let running = Running {
            start: 0,
            length: 0,
            crc: 0,
        };
        let sums = Self {
            files: Arc::new(SumFiles {
                segments,
                store,
                next_entry: Mutex::new(next_entry),
                unwritten: Mutex::default(),
            }),
            running,
            closed: Vec::new(),
        };
        Ok(LoadedSums {
            sums,
            stretches,
            broken,
        })
    }

    /// Starts over at `offset`: what was added and not written is forgotten.
    pub(crate) fn restart(&mut self, offset: u64) {
        self.running = Running {
            start: offset,
            length: 0,
            crc: 0,
        };
        self.closed.clear();
    }

    /// Adds bytes that were appended right behind those added before.
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        let segment_bytes = self.files.segments.segment_bytes();
        let mut rest = bytes;
        while !rest.is_empty() {
            let at = self.running.start + u64::from(self.running.length);
            let to_segment_end = segment_bytes - at % segment_bytes;
            let room = u64::from(STRETCH_BYTES_MAX - self.running.length).min(to_segment_end);
            let taken = usize::try_from(room)
                .expect("at most 64 KiB")
                .min(rest.len());
            let (piece, after) = rest.split_at(taken);
            self.running.crc = crc32c::crc32c_append(self.running.crc, piece);
            self.running.length += u32::try_from(taken).expect("at most 64 KiB");
            if taken as u64 == room {
                self.close();
            }
            rest = after;
        }
    }

    /// Adds a range of one segment that is known to be damaged; the next bytes follow it.
    pub(crate) fn add_damaged(&mut self, range: Range<u64>) {
        self.close();
        let mut start = range.start;
        while start < range.end {
            let left = u32::try_from(range.end - start).unwrap_or(u32::MAX);
            let length = left.min(STRETCH_BYTES_MAX);
            self.closed.push(Stretch {
                start,
                length,
                crc: 0,
                is_damaged: true,
            });
            start += u64::from(length);
        }
        self.running.start = range.end;
    }

    /// Skips to `offset`, behind bytes that have a checksum already.
    pub(crate) fn skip_to(&mut self, offset: u64) {
        self.close();
        self.running.start = offset;
    }

    /// Ends the open stretch: one ends where the log ends now.
    pub(crate) fn close(&mut self) {
        let Running { start, length, crc } = self.running;
        if length > 0 {
            self.closed.push(Stretch {
                start,
                length,
                crc,
                is_damaged: false,
            });
            self.running = Running {
                start: start + u64::from(length),
                length: 0,
                crc: 0,
            };
        }
    }

    /// Writes and syncs all that was added. Only for bytes that are durable. After an error the
    /// same entries are written again by the next call.
    pub(crate) fn write(&mut self) -> Result<(), Error> {
        self.close();
        self.hand_over(u64::MAX);
        self.files.write()
    }

    /// Hands over the stretches up to `durable`; [`SumFiles::write`] writes them.
    pub(crate) fn hand_over(&mut self, durable: u64) {
        let ready = self
            .closed
            .partition_point(|stretch| stretch.end() <= durable);
        lock(&self.files.unwritten).extend(self.closed.drain(..ready));
    }

    /// What was handed over, and the files it goes to.
    pub(crate) fn files(&self) -> &Arc<SumFiles> {
        &self.files
    }

    /// Writes the files of all segments from `base` on once more: a failed sync may have left
    /// them readable, but not on disk.
    pub(crate) fn rewrite_from(&self, base: u64) -> Result<(), Error> {
        let SumFiles { segments, .. } = self.files.as_ref();
        for (base, next) in lock(&self.files.next_entry).range(base..) {
            let path = segments.dir().join(sums_name(*base));
            let fs: &dyn FileSystem = segments.fs().as_ref();
            let file = fs.open(&path, OpenMode::Existing).doing("open", &path)?;
            let len = usize::try_from(*next)
                .unwrap_or(usize::MAX)
                .saturating_mul(ENTRY_BYTES);
            let mut bytes = vec![0; len];
            let read = file.read_at(&mut bytes, 0).doing("read", &path)?;
            file.write_at(&bytes[..read], 0).doing("write", &path)?;
            file.sync_data().doing("sync", &path)?;
        }
        Ok(())
    }
}

impl SumFiles {
    /// Writes and syncs all that was handed over; blocks, also while another thread does it. After
    /// an error the same entries are written again by the next call.
    pub(crate) fn write(&self) -> Result<(), Error> {
        let mut next_entry = lock(&self.next_entry);
        let stretches = lock(&self.unwritten).clone();
        let mut by_file: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        for stretch in &stretches {
            let base = self.segments.base_of(stretch.start);
            by_file.entry(base).or_default().extend(stretch.encode());
        }
        let mut files = Vec::with_capacity(by_file.len());
        for (base, entries) in &by_file {
            let path = self.segments.dir().join(sums_name(*base));
            let next = next_entry.get(base).copied();
            let file = self.file(*base, &path, next.is_none())?;
            let at = next.unwrap_or(1) * ENTRY_BYTES as u64;
            file.write_at(entries, at).doing("write", &path)?;
            file.sync_data().doing_for_good("sync", &path)?;
            files.push((*base, entries.len() / ENTRY_BYTES));
        }
        for (base, count) in files {
            *next_entry.entry(base).or_insert(1) += count as u64;
        }
        // More may have been handed over meanwhile.
        lock(&self.unwritten).drain(..stretches.len());
        Ok(())
    }

    fn file(&self, base: u64, path: &Path, is_new: bool) -> Result<Arc<dyn File>, Error> {
        let fs: &dyn FileSystem = self.segments.fs().as_ref();
        let file = fs.open(path, OpenMode::Create).doing("create", path)?;
        file.write_at(&header(base, self.store), 0)
            .doing("write", path)?;
        if is_new {
            fs.sync_dir(self.segments.dir())
                .doing_for_good("sync folder", self.segments.dir())?;
        }
        Ok(file)
    }
}

/// A panic elsewhere leaves entries that are written again.
fn lock<T>(held: &Mutex<T>) -> MutexGuard<'_, T> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::format::LogKind;
    use crate::format::tests::unhex;
    use crate::fs::faulty::FaultyFs;

    const STORE: Uuid = Uuid::from_u128(7);
    const SEGMENT: Range<u64> = 1024..2048;

    fn file(stretches: &[Stretch]) -> Vec<u8> {
        let mut bytes = header(SEGMENT.start, STORE);
        stretches
            .iter()
            .for_each(|stretch| bytes.extend(stretch.encode()));
        bytes
    }

    fn stretches(lengths: &[u32]) -> Vec<Stretch> {
        let mut start = SEGMENT.start;
        let make = |length: &u32| {
            let stretch = Stretch {
                start,
                length: *length,
                crc: 3 + *length,
                is_damaged: length.is_multiple_of(2),
            };
            start = stretch.end();
            stretch
        };
        lengths.iter().map(make).collect()
    }

    #[test]
    fn writes_the_bytes_of_the_format_page() {
        let stretch = Stretch {
            start: 1030,
            length: 5,
            crc: 0xaabb_ccdd,
            is_damaged: true,
        };
        let expected = unhex(
            "514d5153 0001 0000 0000000000000400 000000000000000000000000 f6b446f2 \
             0000000000000406 00000005 aabbccdd 00000001 0000000000000000 db09965a",
        );
        assert_eq!(file(&[stretch]), expected);
    }

    proptest! {
        #[test]
        fn round_trips(lengths in proptest::collection::vec(1..50u32, 0..20)) {
            let stretches = stretches(&lengths);
            let loaded = decode_file(&file(&stretches), &SEGMENT);
            prop_assert_eq!(loaded.stretches, stretches);
            prop_assert_eq!(loaded.entries, lengths.len() as u64);
            prop_assert_eq!(loaded.broken, 0);
        }

        #[test]
        fn passes_over_damage(at in 0..5 * ENTRY_BYTES, mask in 1..=255u8) {
            let stretches = stretches(&[5, 6, 7, 8]);
            let mut bytes = file(&stretches);
            bytes[at] ^= mask;
            let loaded = decode_file(&bytes, &SEGMENT);
            // The last entry that is not valid is where the next one goes.
            let is_last = at >= 4 * ENTRY_BYTES;
            prop_assert_eq!(loaded.broken, u64::from(at >= ENTRY_BYTES && !is_last));
            prop_assert!(loaded.stretches.iter().all(|stretch| stretches.contains(stretch)));
            prop_assert_eq!(loaded.stretches.len(), if at < ENTRY_BYTES { 4 } else { 3 });
        }

        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert_eq!(decode_file(&bytes, &SEGMENT).stretches, vec![]);
        }
    }

    #[test]
    fn every_truncation_keeps_whole_entries() {
        let bytes = file(&stretches(&[5, 6]));
        for len in 0..bytes.len() {
            let loaded = decode_file(&bytes[..len], &SEGMENT);
            assert_eq!(
                loaded.stretches.len(),
                (len / ENTRY_BYTES).saturating_sub(1),
                "{len}"
            );
            assert_eq!(loaded.broken, 0);
        }
    }

    #[test]
    fn covers_every_byte_within_segments() {
        let fs: Arc<dyn FileSystem> = Arc::new(FaultyFs::new(1));
        let dir = PathBuf::from("/log");
        fs.create_dir(&dir).unwrap();
        let open = || Segments::open(fs.clone(), LogKind::Message, dir.clone(), 200_000).unwrap();
        let segments = Arc::new(open());
        let bytes: Vec<u8> = (0..450_000u32).map(|at| at.to_le_bytes()[0]).collect();
        segments.write(&bytes, 0, |_, _| {}).unwrap();
        let mut sums = Sums::load(segments.clone(), STORE, 0).unwrap().sums;
        sums.restart(0);
        sums.add(&bytes[..70_000]);
        sums.write().unwrap();
        sums.add(&bytes[70_000..]);
        sums.write().unwrap();

        let loaded = Sums::load(segments.clone(), STORE, 0).unwrap();
        let mut end = 0;
        for stretch in &loaded.stretches {
            assert_eq!(stretch.start, end);
            assert_eq!(stretch.start / 200_000, (stretch.end() - 1) / 200_000);
            let [from, to] = [stretch.start, stretch.end()].map(|at| usize::try_from(at).unwrap());
            assert_eq!(stretch.crc, crc32c::crc32c(&bytes[from..to]));
            end = stretch.end();
        }
        assert_eq!(end, 450_000);
        let later = Sums::load(segments.clone(), STORE, 399_999).unwrap();
        assert_eq!(later.stretches[0].start, 200_000);
        assert_eq!(stretches_of(&segments, 400_000).unwrap().len(), 1);
    }
}
